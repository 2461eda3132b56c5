//! How soon a change is obeyed: an uplink taken out, or its cable cut, under traffic of established
//! flows, and a weight under new ones; on an idle machine, or with a busy loop on every CPU.
//!
//! All times count from the request, or from the kernel's event about the carrier, in microseconds of
//! `CLOCK_MONOTONIC`, which is also what the far side's programs read when a frame arrives. A thread
//! watches the control page for what is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::setpriority_process;
use serde::Serialize;
use serde_json::{Map, Value, json};
use weir_api::Request;
use weir_kit::moments::{Notice, WATCH, now_ns, when_changed};
use weir_kit::traffic::{Size, Traffic};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{process, wait};
use weir_layout::control::{PathId, path_state};
use weir_shm::control::ControlRegion;
use weir_traffic::{Arrivals, MODE_WATCH, PORTS, Stream};

use crate::compare::GATEWAY_CPU;
use crate::compare::site::{MAX_ENDPOINTS, Site};
use crate::compare::weir::{Tier, establish, start_with};
use crate::section::{Section, figure, median, percentile, range, table};
use crate::{machine, plot};

/// How long frames are sent in a trial: the set-up of the call, the time before, and what a program
/// takes to start and to make the change on a busy CPU.
const TRAFFIC: Duration = Duration::from_millis(400);
/// Traffic before a change, from the first frame that arrives.
const BEFORE: Duration = Duration::from_millis(50);
/// Most frames of a trial: what the user tier keeps up with when every one of them is new to it.
const MOST_FRAMES: u32 = 40_000;
/// Traffic after an event that is measured, nanoseconds.
const ENOUGH: u64 = 50_000_000;
/// Fewest: a first packet is seen to 200 µs.
const LEAST_FRAMES: u32 = 2000;
/// How long a cut uplink must be well before it is used again, milliseconds.
const HOLD_DOWN_MS: u32 = 100;
/// Most trials with the command, which takes as long as a process to start.
const COMMANDS: u32 = 3;
/// Of fewer changes the 99th percentile is the worst, and not told.
const HUNDRED: usize = 100;
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
    Ok(section(&measure(options)?, options))
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

/// How a thread that measures shares the gateway's CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Priority {
    /// It waits for its turn. Who watches for what weir's main loop does must: it would keep that from
    /// it.
    Ordinary,
    /// Nothing else that the CPU does keeps it waiting.
    RealTime,
}

impl Priority {
    fn take(self) {
        if self == Self::RealTime {
            machine::real_time();
        }
    }
}

/// Who asks for a change, and who watches for it.
#[derive(Clone, Copy)]
struct Threads {
    requester: Priority,
    watcher: Priority,
}

/// Weir with established flows, all by one of two uplinks.
struct Field {
    weir: Weir,
    site: Site,
    busy: Option<Busy>,
    /// Frames of a trial.
    frames: u32,
    /// The established flows, and the next of them: none has moved.
    established: Stream,
    next: u32,
    /// New flows, and the next of them: none was sent before.
    new: Stream,
    next_new: u32,
}

impl Field {
    fn prepare(flows: u32, rounds: u32) -> Result<Self> {
        let commands = rounds.min(COMMANDS);
        let trials = 2 * (rounds + spare(rounds)) + commands + spare(commands);
        let frames = (flows / trials).min(MOST_FRAMES);
        let least = trials * LEAST_FRAMES;
        ensure!(frames >= LEAST_FRAMES, "{trials} trials need {least} flows or more");
        let new = (rounds + spare(rounds)) * frames;
        let mut site = Site::build(flows)?;
        site.pair_flows();
        let room = flows.checked_add(new).context("too many flows")?;
        let weir = start_with(&mut site, Tier::Kernel, room, HOLD_DOWN_MS)?;
        weir.weight(UPLINKS[NEW], 0)?;
        establish(&mut site, &weir)?;
        weir.weight(UPLINKS[NEW], 1)?;
        let established = watched(site.load(Size::Fixed(64)), frames);
        // An endpoint with a mapping stays with its uplink (RFC 4787 REQ-1): these have none.
        let used = established.endpoints.div_ceil(PORTS);
        let most = MAX_ENDPOINTS - used * PORTS;
        ensure!(new <= most, "fewer flows or rounds: there are {most} endpoints for new flows");
        let new = Stream {
            source: established.source + used,
            flows: new,
            endpoints: new,
            stride: 1,
            ..established
        };
        Ok(Self { weir, site, busy: None, frames, established, next: 0, new, next_new: 0 })
    }

    /// Has flows sent that leave by the old uplink.
    fn send_established(&mut self) -> Result<()> {
        self.site.traffic.set_stream_from(&self.established, self.next)?;
        let walked = u64::from(self.frames) * u64::from(self.established.stride);
        self.next = ((u64::from(self.next) + walked) % u64::from(self.established.flows)) as u32;
        Ok(())
    }

    /// Takes out an uplink under traffic of flows that leave by it; then it returns.
    fn flip(&mut self, by_command: bool) -> Result<Option<Trial>> {
        self.send_established()?;
        let name = UPLINKS[OLD];
        let change = |weir: &Weir| match by_command {
            true => process::output(&mut weir.cli(&["down", name])?).map(drop),
            false => weir.request(&Request::Down { uplink: name.into() }).map(drop),
        };
        let both = if by_command { Priority::Ordinary } else { Priority::RealTime };
        let threads = Threads { requester: both, watcher: both };
        let trial = self.trial(change, state, threads, None)?;
        self.weir.request(&Request::Up { uplink: name.into() })?;
        Ok(trial)
    }

    /// Cuts its cable; then it is joined again.
    fn cut(&mut self) -> Result<Option<Trial>> {
        self.send_established()?;
        let provider = self.site.topology.providers[OLD].clone();
        let notice = Notice::of_carrier_loss(&self.site.topology.gateway, &provider.interface())?;
        let cut = provider.cutter()?;
        let threads = Threads { requester: Priority::Ordinary, watcher: Priority::RealTime };
        let trial = self.trial(|_| cut(), state, threads, Some(&notice))?;
        provider.set_carrier(true)?;
        wait::until("the uplink to be well again", wait::BOUND, || {
            Ok((self.weir.states()?[OLD] == path_state::USABLE).then_some(()))
        })?;
        Ok(trial)
    }

    /// Gives an uplink without one a weight, while new flows arrive.
    fn weigh(&mut self) -> Result<Option<Trial>> {
        self.weir.weight(UPLINKS[NEW], 0)?;
        self.site.traffic.set_stream_from(&self.new, self.next_new)?;
        self.next_new += self.frames;
        let change = |weir: &Weir| weir.weight(UPLINKS[NEW], 1).map(drop);
        let threads = Threads { requester: Priority::RealTime, watcher: Priority::Ordinary };
        self.trial(change, ControlRegion::epoch, threads, None)
    }

    /// Makes the change under traffic, which is set up. Times count from the notice, if there is
    /// one, else from the request. None if the traffic was over too soon after it: the generator makes
    /// good what it was late with, and the kernel takes its time to set a link down.
    fn trial(
        &mut self,
        change: impl FnOnce(&Weir) -> Result<()> + Send,
        word: impl Fn(&ControlRegion) -> u64 + Sync,
        threads: Threads,
        notice: Option<&Notice>,
    ) -> Result<Option<Trial>> {
        let (weir, site) = (&self.weir, &mut self.site);
        let (frames, busy) = (self.frames, self.busy.is_some());
        let control = weir.control()?;
        site.traffic.forget_arrivals()?;
        let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
        let before = far(&site.traffic)?;
        let arriving = site.traffic.arriving()?;
        let (traffic, done) = (&mut site.traffic, AtomicBool::new(false));
        let (asked, answered, published, last_sent) = std::thread::scope(|scope| -> Result<_> {
            // One by one: a frame's time is not that of the batch it waits for.
            let sender = scope.spawn(|| {
                if busy {
                    // Not real-time: what the kernel does for its frames shares its CPU.
                    let _ = setpriority_process(None, -20);
                }
                traffic.send(frames, 1).map(|_| now_ns())
            });
            let watcher = scope.spawn(|| {
                threads.watcher.take();
                when_changed(|| word(&control), &done)
            });
            while arriving.by(OLD)? == 0 && !sender.is_finished() {
                std::thread::sleep(WATCH);
            }
            std::thread::sleep(BEFORE);
            let request = scope.spawn(move || {
                threads.requester.take();
                let asked = now_ns();
                let changed = change(weir);
                (asked, now_ns(), changed)
            });
            let request = request.join();
            let (asked, answered, changed) =
                request.map_err(|_| anyhow::anyhow!("the requester panicked"))?;
            let sent = sender.join().map_err(|_| anyhow::anyhow!("the generator panicked"))?;
            done.store(true, Ordering::Relaxed);
            let published = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?;
            changed?;
            Ok((asked, answered, published, sent?))
        })?;
        let begin = match notice {
            Some(notice) => notice.moment()?.context("nobody told of the change")?,
            None => asked,
        };
        let arrived = site.settle(far)? - before;
        if last_sent < begin + ENOUGH {
            return Ok(None);
        }
        let arrivals = site.traffic.arrivals()?;
        let (old, new): (Arrivals, Arrivals) = (arrivals[OLD], arrivals[NEW]);
        let ms = |ns: u64| (ns as f64 - asked as f64) / 1e6;
        ensure!(
            old.packets > 0 && old.first_ns < asked,
            "no traffic before the change: of {frames} frames {} came by the old uplink, the first \
             {} ms after it was asked for, and {} by the other, the first after {} ms",
            old.packets,
            ms(old.first_ns),
            new.packets,
            ms(new.first_ns)
        );
        ensure!(
            new.packets > 0,
            "no packet left by the other uplink: the change was published {:?} ms after it was \
             asked for, and done after {} ms; the traffic lasted until {} ms after",
            published.map(ms),
            ms(answered),
            ms(old.last_ns)
        );
        ensure!(new.first_ns > asked, "traffic left by the other uplink before the change");
        let us = |ns: u64| (ns as f64 - begin as f64) / 1e3;
        let seen = published.context("nothing was published")?.min(new.first_ns);
        Ok(Some(Trial {
            published_us: us(if notice.is_some() { seen } else { seen.min(answered) }),
            answered_us: us(answered),
            first_us: us(new.first_ns),
            last_us: us(old.last_ns),
            lost: f64::from(frames) - arrived as f64,
        }))
    }
}

/// The word of the uplink that is taken out.
fn state(control: &ControlRegion) -> u64 {
    u64::from(control.path_state(PathId::v4(OLD as u8)))
}

fn watched(load: Stream, frames: u32) -> Stream {
    let pace = TRAFFIC / frames;
    Stream { mode: MODE_WATCH, interval_ns: pace.as_nanos() as u64, ..load }
}

/// A busy loop on every CPU; they end when this is dropped.
struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    fn start() -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        for cpu in 0..machine::cores() {
            let stop = Arc::clone(&stop);
            let spin = move || {
                let pinned = machine::pin(Some(cpu));
                while pinned.is_ok() && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            std::thread::Builder::new().name("busy".into()).spawn(spin)?;
        }
        Ok(Self { stop })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn section(lines: &[Line; 4], options: &Options) -> Section {
    let headings = [
        "change",
        "times",
        "published µs",
        "99 %",
        "worst",
        "first packet µs",
        "99 %",
        "worst",
        "last by the old µs",
        "answered µs",
        "lost",
    ];
    let mut table = table(1, &headings);
    let mut json = Map::from_iter([
        ("flows".into(), json!(options.flows)),
        ("rounds".into(), json!(options.rounds)),
        ("busy".into(), json!(options.busy)),
        ("lines".into(), json!(lines)),
    ]);
    for line in lines {
        json.insert(format!("{}_changes", line.key), json!(line.trials.len()));
        let mut put = |name: &str, values: Vec<f64>| {
            let (median, [_, worst]) = (median(&values), range(&values));
            let most = (values.len() >= HUNDRED).then(|| percentile(&values, 99.0));
            let figures = [("", Some(median)), ("_p99", most), ("_worst", Some(worst))];
            for (figure, value) in figures {
                json.extend(value.map(|v| (format!("{}_{name}{figure}", line.key), json!(v))));
            }
            figures.map(|(_, value)| value.map_or_else(|| "–".into(), figure))
        };
        let published = put("published_us", line.of(|t| t.published_us));
        let first = put("first_us", line.of(|t| t.first_us));
        let lost = put("lost", line.of(|t| t.lost));
        let optional = |shown: bool, [median, ..]: [String; 3]| match shown {
            true => median,
            false => "–".into(),
        };
        let last = optional(line.ends, put("last_us", line.of(|t| t.last_us)));
        let answered = optional(line.asked, put("answered_us", line.of(|t| t.answered_us)));
        let [what, lost] = [line.what.to_owned(), lost[0].clone()];
        let figures = published.into_iter().chain(first).chain([last, answered, lost]);
        table.add_row([what, line.trials.len().to_string()].into_iter().chain(figures));
    }
    Section {
        name: "update",
        title: format!(
            "How soon a change is obeyed, {} established flows, {}",
            options.flows,
            if options.busy { "a busy loop on every CPU" } else { "an idle machine" }
        ),
        notes: vec![
            "Microseconds after the request, or after the kernel's event about the carrier as it \
             hands it to a socket: medians, the 99th percentile of a hundred changes or more, and \
             the worst, under traffic of established flows (UDP, NAT44) that all leave by one of \
             two uplinks, each of another flow. The first packet by the other uplink is the first \
             flow that has moved. For the weight, every packet is the first of a flow, and an \
             uplink of weight 0 is given one."
                .into(),
            format!(
                "Published is when another thread, which looks every {} µs, saw the state word or \
                 the epoch change; if it was late, it is when the first packet or the answer \
                 showed it. It has real-time priority where the API or a cut changes a state word, \
                 who asks by the API always, and the generator nice -20 beside busy loops. Times of \
                 packets are taken at the far side and include the way there. The control process, \
                 the worker, this watcher and the requester share one CPU; the generator has the \
                 other. Busy loops are of ordinary priority. A \
                 trial with less than {} ms of traffic left after the change is made again: {} were. \
                 What the first packet shows is no finer than the time between two frames, which is \
                 {} ms shared out among those of a trial.",
                WATCH.as_micros(),
                ENOUGH / 1_000_000,
                lines.iter().map(|line| line.again).sum::<u32>(),
                TRAFFIC.as_millis()
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
