//! How soon a change is obeyed: an uplink taken out under traffic of established flows, and a
//! weight under new ones.
//!
//! All times count from the request, in microseconds of `CLOCK_MONOTONIC`, which is also what the
//! far side's programs read when a frame arrives. A thread watches the control page for what is
//! published.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Map, Value, json};
use weir_control::api::Request;
use weir_ebpf::traffic::{Arrivals, MODE_WATCH, PORTS, Plan as Load};
use weir_shm::control::ControlRegion;

use crate::compare::site::{MAX_ENDPOINTS, Site};
use crate::compare::weir::{Tier, establish, start};
use crate::compare::{GATEWAY_CPU, Size, Traffic};
use crate::moments::{WATCH, now_ns, when_changed};
use crate::section::{Section, figure, median, range, table};
use crate::weir::{UPLINKS, Weir};
use crate::{machine, plot, process};

/// Time between frames: what the user tier keeps up with when every one of them is new to it.
const PACE: Duration = Duration::from_micros(5);
/// Traffic before a change.
const BEFORE: Duration = Duration::from_millis(100);
/// Frames of a trial: the set-up of the call, the time before, and as long after.
const FRAMES: u32 = 40_000;
/// Most trials with the command, which takes as long as a process to start.
const COMMANDS: u32 = 3;
/// The uplink that established flows leave by until it is taken out, and the other.
const OLD: usize = 0;
const NEW: usize = 1;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000)]
    pub flows: u32,
    /// Changes of each kind; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { flows: 1_000_000, rounds: 5 }
    }
}

/// One change, microseconds after its request.
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
    /// Whether the old uplink falls silent.
    pub ends: bool,
    /// The trials.
    pub trials: Vec<Trial>,
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
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<[Line; 3]> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    // Whatever is started from here on leaves the generator alone.
    machine::pin(Some(GATEWAY_CPU))?;
    let rounds = u32::try_from(options.rounds)?;
    let commands = rounds.min(COMMANDS);
    let mut field = Field::prepare(options.flows, rounds + commands, rounds * FRAMES)?;
    let mut flips = [false, true].map(|_| Vec::new());
    for (trials, by_command) in flips.iter_mut().zip([false, true]) {
        for _ in 0..if by_command { commands } else { rounds } {
            trials.push(field.flip(by_command).context("taking an uplink out")?);
        }
    }
    let weights = (0..rounds).map(|_| field.weigh()).collect::<Result<_>>();
    let [flip, command] = flips;
    let line = |key, what, ends, trials| Line { key, what, ends, trials };
    Ok([
        line("flip", "uplink down, by the API", true, flip),
        line("flip_command", "uplink down, by the command", true, command),
        line("weight", "weight, by the API", false, weights.context("setting a weight")?),
    ])
}

/// Weir with established flows, all by one of two uplinks.
struct Field {
    weir: Weir,
    site: Site,
    /// The established flows, and the next of them: none has moved.
    established: Load,
    next: u32,
    /// New flows, and the next of them: none was sent before.
    new: Load,
    next_new: u32,
}

impl Field {
    fn prepare(flows: u32, trials: u32, new: u32) -> Result<Self> {
        let least = trials * FRAMES;
        ensure!(flows >= least, "the flows must be {least} or more: a trial moves {FRAMES}");
        let mut site = Site::build(flows)?;
        site.pair_flows();
        let room = flows.checked_add(new).context("too many flows")?;
        let weir = start(&mut site, Tier::Kernel, room)?;
        weir.weight(UPLINKS[NEW], 0)?;
        establish(&mut site, &weir)?;
        weir.weight(UPLINKS[NEW], 1)?;
        let established = watched(site.load(Size::Fixed(64)));
        // An endpoint with a mapping stays with its uplink (RFC 4787 REQ-1): these have none.
        let used = established.endpoints.div_ceil(PORTS);
        let most = MAX_ENDPOINTS - used * PORTS;
        ensure!(new <= most, "fewer flows or rounds: there are {most} endpoints for new flows");
        let new = Load {
            source: established.source + used,
            flows: new,
            endpoints: new,
            stride: 1,
            ..established
        };
        Ok(Self { weir, site, established, next: 0, new, next_new: 0 })
    }

    /// Takes out an uplink under traffic of flows that leave by it; then it returns.
    fn flip(&mut self, by_command: bool) -> Result<Trial> {
        self.site.traffic.set_plan_from(&self.established, self.next)?;
        let walked = u64::from(FRAMES) * u64::from(self.established.stride);
        self.next = ((u64::from(self.next) + walked) % u64::from(self.established.flows)) as u32;
        let name = UPLINKS[OLD];
        let change = |weir: &Weir| match by_command {
            true => process::output(&mut weir.cli(&["down", name])?).map(drop),
            false => weir.request(&Request::Down { uplink: name.into() }).map(drop),
        };
        let state = |control: &ControlRegion| u64::from(control.uplink_state(OLD as u8));
        let trial = trial(&self.weir, &mut self.site, change, state)?;
        self.weir.request(&Request::Up { uplink: name.into() })?;
        Ok(trial)
    }

    /// Gives an uplink without one a weight, while new flows arrive.
    fn weigh(&mut self) -> Result<Trial> {
        self.weir.weight(UPLINKS[NEW], 0)?;
        self.site.traffic.set_plan_from(&self.new, self.next_new)?;
        self.next_new += FRAMES;
        let change = |weir: &Weir| weir.weight(UPLINKS[NEW], 1).map(drop);
        trial(&self.weir, &mut self.site, change, ControlRegion::epoch)
    }
}

fn watched(load: Load) -> Load {
    Load { mode: MODE_WATCH, interval_ns: PACE.as_nanos() as u64, ..load }
}

/// Makes the change under traffic, which is set up.
fn trial(
    weir: &Weir,
    site: &mut Site,
    change: impl Fn(&Weir) -> Result<()>,
    word: impl Fn(&ControlRegion) -> u64 + Sync,
) -> Result<Trial> {
    let control = weir.control()?;
    site.traffic.forget_arrivals()?;
    let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
    let before = far(&site.traffic)?;
    let (traffic, done) = (&mut site.traffic, AtomicBool::new(false));
    let (asked, answered, published) = std::thread::scope(|scope| -> Result<_> {
        // One by one: a frame's time is not that of the batch it waits for.
        let sender = scope.spawn(|| traffic.send(FRAMES, 1));
        let watcher = scope.spawn(|| when_changed(|| word(&control), &done));
        std::thread::sleep(BEFORE);
        let asked = now_ns();
        let changed = change(weir);
        let answered = now_ns();
        let sent = sender.join().map_err(|_| anyhow::anyhow!("the generator panicked"))?;
        done.store(true, Ordering::Relaxed);
        let published = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
        changed.and(sent.map(drop))?;
        Ok((asked, answered, published))
    })?;
    let arrived = site.settle(far)? - before;
    let arrivals = site.traffic.arrivals()?;
    let (old, new): (Arrivals, Arrivals) = (arrivals[OLD], arrivals[NEW]);
    ensure!(old.packets > 0 && old.first_ns < asked, "no traffic before the change");
    ensure!(new.packets > 0, "the change was not obeyed");
    ensure!(new.first_ns > asked, "traffic left by the other uplink before the change");
    let us = |ns: u64| (ns as f64 - asked as f64) / 1e3;
    let seen = published.context("nothing was published")?;
    Ok(Trial {
        published_us: us(seen.min(answered).min(new.first_ns)),
        answered_us: us(answered),
        first_us: us(new.first_ns),
        last_us: us(old.last_ns),
        lost: f64::from(FRAMES) - arrived as f64,
    })
}

fn section(lines: &[Line; 3], options: &Options) -> Section {
    let headings = [
        "change",
        "published µs",
        "first packet µs",
        "range",
        "after publishing µs",
        "last by the \
         old µs",
        "answered µs",
        "lost",
    ];
    let mut table = table(1, &headings);
    let mut json = Map::from_iter([
        ("flows".into(), json!(options.flows)),
        ("rounds".into(), json!(options.rounds)),
        ("frames".into(), json!(FRAMES)),
        ("lines".into(), json!(lines)),
    ]);
    for line in lines {
        let mut put = |name: &str, values: Vec<f64>| {
            json.insert(format!("{}_{name}", line.key), json!(median(&values)));
            json.insert(format!("{}_{name}_range", line.key), json!(range(&values)));
            (median(&values), range(&values))
        };
        let (published, _) = put("published_us", line.of(|t| t.published_us));
        let (first, [low, high]) = put("first_us", line.of(|t| t.first_us));
        let (after, _) = put("published_to_first_us", line.of(|t| t.first_us - t.published_us));
        let (answered, _) = put("answered_us", line.of(|t| t.answered_us));
        let (lost, _) = put("lost", line.of(|t| t.lost));
        let last = line.ends.then(|| put("last_us", line.of(|t| t.last_us)).0);
        table.add_row([
            line.what.to_owned(),
            figure(published),
            figure(first),
            format!("{}–{}", figure(low), figure(high)),
            figure(after),
            last.map_or("–".into(), figure),
            figure(answered),
            lost.to_string(),
        ]);
    }
    Section {
        name: "update",
        title: format!("How soon a change is obeyed, {} established flows", options.flows),
        notes: vec![
            format!(
                "Microseconds after the request, medians of {} changes ({COMMANDS} by the command), under {} packets a second. \
                 All established flows (UDP, NAT44) leave by one of two uplinks, and {FRAMES} of \
                 them send a packet each while it is taken out: the first by the other uplink is \
                 the first flow that has moved. For \
                 the weight, every packet is the first of a flow, and an uplink of weight 0 is \
                 given one.",
                options.rounds,
                1_000_000_000 / PACE.as_nanos()
            ),
            format!(
                "Published is when another thread, which looks every {} µs or when the scheduler \
                 lets it, saw the state word or the epoch change; if it was late, it is when the \
                 first packet or the answer showed it. Times of packets are taken at the far side and include the way \
                 there. The control process, the worker, this watcher and the requester share one \
                 CPU; the generator has the other. Lost packets are those of {FRAMES}.",
                WATCH.as_micros()
            ),
        ],
        json: Value::Object(json),
        table,
        plots: vec![plot::Plot {
            title: "From the request to the first packet that obeys".into(),
            x: String::new(),
            y: "µs".into(),
            data: plot::Data::Bars(
                lines.iter().map(|line| line.what.to_owned()).collect(),
                vec![
                    (
                        "published".into(),
                        lines.iter().map(|l| median(&l.of(|t| t.published_us))).collect(),
                    ),
                    (
                        "first packet".into(),
                        lines.iter().map(|l| median(&l.of(|t| t.first_us))).collect(),
                    ),
                ],
            ),
        }],
    }
}
