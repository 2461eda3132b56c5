//! How soon a change is obeyed: an uplink taken out, or its cable cut, under traffic of established
//! flows, and a weight under new ones; on an idle machine, or with a busy loop on every CPU.
//!
//! All times count from the request, or from the kernel's event about the carrier, in microseconds of
//! `CLOCK_MONOTONIC`, which is also what the far side's programs read when a frame arrives. A thread
//! watches the control page for what is published.

mod busy;
mod field;
mod report;
mod trial;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use self::busy::Busy;
use self::field::Field;
use crate::compare::GATEWAY_CPU;
use crate::machine;
use crate::section::Section;

/// Most trials with the command, which takes as long as a process to start.
const COMMANDS: u32 = 3;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000)]
    pub flows: u32,
    /// Changes of each kind; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// With a busy loop on every CPU.
    #[arg(long)]
    pub busy: bool,
}

/// One change, microseconds after its request, or after the event about the carrier.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Trial {
    /// The control page had it: the state word, or the epoch.
    pub published_us: f64,
    /// The request was answered, or the command had ended.
    pub answered_us: f64,
    /// The first frame by the uplink that takes over.
    pub first_us: f64,
    /// The last frame by the one that is taken out.
    pub last_us: f64,
    /// Frames that did not arrive.
    pub lost: f64,
}

/// The trials of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Prefix of its keys.
    pub key: &'static str,
    /// What is done.
    pub what: &'static str,
    /// Whether it is asked for, and answered.
    pub asked: bool,
    /// Whether the old uplink falls silent.
    pub ends: bool,
    /// The trials.
    pub trials: Vec<Trial>,
    /// How many had too little traffic left, and were made again.
    pub again: u32,
}

impl Line {
    fn of(&self, figure: fn(&Trial) -> f64) -> Vec<f64> {
        self.trials.iter().map(figure).collect()
    }
}

/// Measures what the options say.
///
/// # Errors
/// When weir does not work, or a change is not obeyed.
pub fn run(options: &Options) -> Result<Section> {
    Ok(report::section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<[Line; 4]> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    // Whatever is started from here on leaves the generator alone.
    machine::pin(Some(GATEWAY_CPU))?;
    let rounds = u32::try_from(options.rounds)?;
    let mut field = Field::prepare(options.flows, rounds)?;
    field.busy = options.busy.then(Busy::start).transpose()?;
    let mut line = |key, what, [asked, ends]: [bool; 2], rounds, trial: Attempt| {
        let (trials, again) = repeat(rounds, || trial(&mut field)).context(what)?;
        eprintln!("{what}: {} of {rounds}", trials.len());
        anyhow::Ok(Line { key, what, asked, ends, trials, again })
    };
    let commands = rounds.min(COMMANDS);
    Ok([
        line("flip", "uplink down, by the API", [true, true], rounds, |f| f.flip(false))?,
        line("flip_command", "uplink down, by the command", [true, true], commands, |f| {
            f.flip(true)
        })?,
        line("cut", "cable cut", [false, true], rounds, Field::cut)?,
        line("weight", "weight, by the API", [true, false], rounds, Field::weigh)?,
    ])
}

/// One trial of a kind; none: it measured nothing.
type Attempt = fn(&mut Field) -> Result<Option<Trial>>;

/// Trials of a kind that may have to be made again.
fn spare(rounds: u32) -> u32 {
    rounds / 10 + 2
}

/// So many trials that measured something, and how many did not. On a busy machine there may be
/// fewer, but half as many at least.
fn repeat(
    rounds: u32,
    mut trial: impl FnMut() -> Result<Option<Trial>>,
) -> Result<(Vec<Trial>, u32)> {
    let (mut trials, mut again) = (Vec::new(), 0);
    while trials.len() < rounds as usize {
        match trial()? {
            Some(trial) => trials.push(trial),
            None => again += 1,
        }
        if again > spare(rounds) {
            let enough = trials.len() * 2 >= rounds as usize;
            ensure!(enough, "the traffic was over before the change too often");
            break;
        }
    }
    Ok((trials, again))
}
