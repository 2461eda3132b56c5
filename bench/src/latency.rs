//! One-way latency of gateways at parts of the rate that each forwards without loss.
//!
//! The terms are those of RFC 8219 §7: throughput is the greatest rate without loss, found by
//! binary search; latency is measured at rates relative to it. Frames leave one by one, stamped
//! with their time of departure, and the far side counts delays by range.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::traffic::{Call, Size, Traffic};
use weir_traffic::{DELAY_BUCKETS, MAX_INTERVAL_NS, delay_of};

use crate::compare::site::Kind;
use crate::compare::{Prepared, System};
use crate::plot::{Data, Plot};
use crate::section::{Section, figure, median, range, rows};

/// Loads, percent of the throughput.
pub const LOADS: [u32; 3] = [10, 50, 90];
/// Percentiles, per mille.
const PER_MILLE: [u64; 3] = [500, 990, 999];
/// Length of one try of a rate.
const TRY: Duration = Duration::from_millis(150);
/// Tries of a rate before what it loses is the gateway's doing.
const TRIES: usize = 2;
/// The search ends when the bounds are so close, relative to the upper one.
const PRECISION: f64 = 0.03;
/// Share of frames that must have waited for their time: with fewer, a frame takes longer than the
/// interval, and the rate is not reached. One way or the other it is nearly all or nearly none.
const WAITED: f64 = 0.5;
const WARM_UP: u32 = 4096;
/// Frames at the highest rate that is looked for, which is as fast as they leave one by one.
const FASTEST: u32 = 1 << 17;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Systems, interleaved.
    #[arg(
        long = "system",
        value_delimiter = ',',
        value_enum,
        default_value = "none,linux_nat,weir_user,weir_kernel"
    )]
    pub systems: Vec<System>,
    /// Number of flows.
    #[arg(long, default_value_t = 1024)]
    pub flows: u32,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Length of each run.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

/// A system's latency at one load.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The system.
    pub system: System,
    /// The greatest rate without loss, million packets per second.
    pub throughput_mpps: f64,
    /// Load, percent of the throughput.
    pub load_percent: u32,
    /// The same, million packets per second.
    pub mpps: f64,
    /// Median delay, nanoseconds: median over the rounds.
    pub p50_ns: f64,
    /// Its range over the rounds.
    pub p50_range_ns: [f64; 2],
    /// 99th percentile of delays.
    pub p99_ns: f64,
    /// Its range.
    pub p99_range_ns: [f64; 2],
    /// 99.9th percentile.
    pub p999_ns: f64,
    /// Its range.
    pub p999_range_ns: [f64; 2],
    /// Share of frames that did not arrive, all rounds.
    pub loss: f64,
}

/// Measures what the options say.
///
/// # Errors
/// When a system does not work.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<Vec<Line>> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    let run = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    let mut entrants = Vec::new();
    for system in &options.systems {
        let name = system.name();
        let entrant = Entrant::new(*system, options.flows).context(name)?;
        eprintln!("{name}: {:.3} Mpps without loss", entrant.throughput / 1e6);
        entrants.push(entrant);
    }
    for _ in 0..options.rounds {
        for entrant in &mut entrants {
            entrant.round(run).context(entrant.system.name())?;
        }
    }
    Ok(entrants.iter().flat_map(Entrant::lines).collect())
}

struct Entrant {
    system: System,
    prepared: Prepared,
    /// Packets per second.
    throughput: f64,
    /// By load.
    rounds: [Vec<Round>; LOADS.len()],
}

struct Round {
    percentiles: [f64; PER_MILLE.len()],
    sent: u64,
    arrived: u64,
}

impl Entrant {
    fn new(system: System, flows: u32) -> Result<Self> {
        let prepared = system.prepare(Kind::V4, flows)?;
        let mut entrant = Self { system, prepared, throughput: 0.0, rounds: Default::default() };
        entrant.throughput = entrant.search()?;
        entrant.prepared.gateway.idle()?;
        Ok(entrant)
    }

    /// The greatest rate without loss.
    fn search(&mut self) -> Result<f64> {
        let site = &mut self.prepared.site;
        let no_frames = site.call()?;
        site.aim(Size::Fixed(64), 0)?;
        let time = site.traffic.send(FASTEST, 1)?.sending(no_frames);
        site.settle(|traffic| Ok(traffic.far()?.packets))?;
        let (mut low, mut high) = (0.0, 1.1 * f64::from(FASTEST) / time.as_secs_f64());
        while high - low > PRECISION * high {
            let rate = f64::midpoint(low, high);
            let least = 1e9 / MAX_INTERVAL_NS as f64;
            ensure!(rate > least, "packets are lost even at {least:.0} packets per second");
            if self.takes(rate)? { low = rate } else { high = rate }
        }
        Ok(low)
    }

    /// Does the chain take this rate without loss, and the generator reach it?
    fn takes(&mut self, rate: f64) -> Result<bool> {
        let frames = (rate * TRY.as_secs_f64()) as u32;
        for _ in 0..TRIES {
            let (call, arrived) = self.offer(rate, frames)?;
            let reached = call.waited as f64 > WAITED * call.sent as f64;
            if arrived == call.sent && reached {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn offer(&mut self, rate: f64, frames: u32) -> Result<(Call, u64)> {
        let site = &mut self.prepared.site;
        site.aim(Size::Fixed(64), (1e9 / rate).round() as u64)?;
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        let before = far(&site.traffic)?;
        let call = site.traffic.send(frames.max(1), 1)?;
        Ok((call, site.settle(far)? - before))
    }

    fn round(&mut self, run: Duration) -> Result<()> {
        self.prepared.gateway.wake()?;
        for (load, percent) in LOADS.into_iter().enumerate() {
            // No slower than the generator can wait.
            let least = 1e9 / MAX_INTERVAL_NS as f64;
            let rate = (self.throughput * f64::from(percent) / 100.0).max(least);
            self.offer(rate, WARM_UP)?;
            let before = self.prepared.site.traffic.delays()?;
            let (call, arrived) = self.offer(rate, (rate * run.as_secs_f64()) as u32)?;
            let mut delays = self.prepared.site.traffic.delays()?;
            delays.iter_mut().zip(before).for_each(|(now, before)| *now -= before);
            ensure!(delays.iter().sum::<u64>() > 0, "nothing arrived");
            let percentiles = PER_MILLE.map(|part| percentile(&delays, part));
            self.rounds[load].push(Round { percentiles, sent: call.sent, arrived });
        }
        self.prepared.gateway.idle()
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        LOADS.iter().zip(&self.rounds).map(|(percent, rounds)| {
            let of = |which: usize| rounds.iter().map(|r| r.percentiles[which]).collect::<Vec<_>>();
            let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>() as f64;
            Line {
                system: self.system,
                throughput_mpps: self.throughput / 1e6,
                load_percent: *percent,
                mpps: self.throughput * f64::from(*percent) / 1e8,
                p50_ns: median(&of(0)),
                p50_range_ns: range(&of(0)),
                p99_ns: median(&of(1)),
                p99_range_ns: range(&of(1)),
                p999_ns: median(&of(2)),
                p999_range_ns: range(&of(2)),
                loss: 1.0 - sum(|r| r.arrived) / sum(|r| r.sent),
            }
        })
    }
}

/// The middle of the range that holds this percentile.
fn percentile(delays: &[u64], per_mille: u64) -> f64 {
    let rank = (delays.iter().sum::<u64>() * per_mille).div_ceil(1000);
    let mut seen = 0;
    let bucket = delays.iter().position(|count| {
        seen += count;
        seen >= rank
    });
    let bucket = bucket.map_or(DELAY_BUCKETS - 1, |bucket| bucket as u32);
    f64::midpoint(delay_of(bucket) as f64, delay_of(bucket + 1) as f64)
}

fn us(ns: f64) -> String {
    figure(ns / 1e3)
}

fn both([low, high]: [f64; 2]) -> String {
    format!("{}–{}", us(low), us(high))
}

fn section(lines: &[Line], options: &Options) -> Section {
    let table = rows(
        1,
        lines,
        &[
            ("", |line| line.system.name().to_owned()),
            ("load", |line| format!("{} %", line.load_percent)),
            ("Mpps", |line| format!("{:.3}", line.mpps)),
            ("p50 µs", |line| us(line.p50_ns)),
            ("range", |line| both(line.p50_range_ns)),
            ("p99 µs", |line| us(line.p99_ns)),
            ("range", |line| both(line.p99_range_ns)),
            ("p99.9 µs", |line| us(line.p999_ns)),
            ("range", |line| both(line.p999_range_ns)),
            ("loss", |line| format!("{:.4} %", 100.0 * line.loss)),
        ],
    );
    let Options { flows, rounds, seconds, .. } = options;
    Section {
        name: "latency",
        title: format!("One-way latency, {flows} flows, frames of 64 bytes"),
        notes: vec![
            format!(
                "From the generator's stamp to the far side's clock, one frame at a time, evenly \
                 spaced. The load is a part of the throughput of RFC 8219 §7.1: the greatest rate \
                 without loss, by binary search with tries of {} ms, each repeated once when it \
                 loses. Medians of {rounds} interleaved rounds of {seconds} s each; RFC 8219 §7.2 \
                 asks for 120 s and 20 repetitions. Delays are counted in ranges 6 % wide.",
                TRY.as_millis()
            ),
            "What it does not say: there is no wire and no NIC, so no interrupt moderation and no \
             DMA. All but weir_user forward on the generator's CPU, at once and in the same softirq \
             that the frame left by, so there is no queue in front of them; their throughput is \
             what generator and gateway reach together, and the generator spins between frames, \
             so that CPU never sleeps. weir_user's worker, on a CPU of its own, sleeps when idle: \
             its delay at low load is that of being woken. `none` is the chain without a gateway."
                .into(),
        ],
        json: json!({ "flows": flows, "rounds": rounds, "seconds": seconds, "lines": lines }),
        table,
        plots: vec![plot(lines)],
    }
}

fn plot(lines: &[Line]) -> Plot {
    let mut systems: Vec<System> = lines.iter().map(|line| line.system).collect();
    systems.dedup();
    let of = |system| lines.iter().filter(move |line| line.system == system);
    let p99 = |system: System| of(system).map(|line| line.p99_ns / 1e3).collect();
    Plot {
        title: "One-way latency, 99th percentile".into(),
        x: "load, percent of the throughput without loss".into(),
        y: "µs".into(),
        data: Data::Bars(
            LOADS.iter().map(|load| format!("{load} %")).collect(),
            systems.iter().map(|system| (system.name().to_owned(), p99(*system))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use weir_traffic::delay_bucket;

    use super::*;

    #[test]
    fn percentiles_are_those_of_the_delays() {
        let mut delays = vec![0; DELAY_BUCKETS as usize];
        for ns in 1..=10_000 {
            delays[delay_bucket(ns) as usize] += 1;
        }
        for (per_mille, ns) in [(500, 5_000.0), (990, 9_900.0), (999, 9_990.0)] {
            let found = percentile(&delays, per_mille);
            assert!((found / ns - 1.0).abs() < 0.0625, "{per_mille}: {found}");
        }
    }
}
