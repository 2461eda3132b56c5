//! One task for each target, kept while its definition is.
//!
//! Probes by TCP, HTTP and DNS have sockets of their own, of which each uplink has a share: the
//! silent targets of one take no descriptor from another, nor from the rest of the process. What
//! exceeds it waits, and says so.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use weir_health::pace::{Pace, Random};
use weir_health::{ProbeError, Signal};
use weir_layout::MAX_UPLINKS;
use weir_site::health::{Health, Probe, Target, Url};

use super::bind::Binding;
use super::http::{Expect, Trust};
use super::icmp::Pinger;
use super::sniffer::Sniffer;
use super::{dns, http, tcp};

/// Descriptors that probes leave to the rest of the process: netlink, maps, API, hooks, and pingers.
const RESERVE: u64 = 320;
/// Most sockets of an uplink's probes: of 16 targets, 16 each.
const SOCKETS_MAX: u64 = 256;
/// Fewest, however low the limit.
const SOCKETS_MIN: u64 = 4;

/// What happened to a probe.
#[derive(Clone, Debug)]
pub struct Event {
    /// The uplink's name.
    pub uplink: Arc<str>,
    /// The target's name.
    pub target: Arc<str>,
    /// The probe's number.
    pub seq: u32,
    /// What happened.
    pub finding: Finding,
    /// When.
    pub at: Instant,
}

/// What happens to probes. That one is not answered is told by silence; one that could not leave has
/// a failure alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It left.
    Sent,
    /// It was answered: round-trip time, microseconds. For TCP that is the time to connect, for
    /// HTTP the time to the answer that was expected.
    Reply(u32),
    /// It failed.
    Failed(ProbeError),
}

impl Event {
    /// The signal for an uplink of these settings; none when the target is no longer in them.
    pub fn signal(&self, health: &Health) -> Option<Signal> {
        let target = health.targets.iter().position(|t| *t.name == *self.target)?;
        let seq = self.seq;
        Some(match self.finding {
            Finding::Sent => Signal::Sent { target, seq },
            Finding::Reply(rtt_us) => Signal::Reply { target, seq, rtt_us },
            Finding::Failed(why) => Signal::Failed { target, seq, why },
        })
    }
}

/// An uplink to probe.
#[derive(Clone, Debug)]
pub struct ProbedUplink<'a> {
    /// Its name.
    pub name: &'a str,
    /// How its sockets are bound.
    pub binding: Binding,
    /// What is probed, and when.
    pub health: &'a Health,
    /// No target answers: it is to be told whether this machine drops the answers.
    pub silent: bool,
}

impl ProbedUplink<'_> {
    fn interval(&self) -> Duration {
        Duration::from_millis(self.health.interval_ms.into())
    }

    fn timeout(&self) -> Duration {
        Duration::from_millis(self.health.timeout_ms())
    }
}

/// The probers of all uplinks. They end when this is dropped.
pub struct Probers {
    events: mpsc::Sender<Event>,
    trust: Trust,
    sniffer: Arc<Sniffer>,
    random: Random,
    /// What the times of all probes are counted from.
    start: Instant,
    running: Vec<Prober>,
    pingers: Vec<Arc<Pinger>>,
    /// By uplink, the sockets that its probes may yet open.
    sockets: HashMap<String, Arc<Semaphore>>,
}

struct Prober {
    definition: Arc<Definition>,
    task: JoinHandle<()>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All that a prober depends on.
struct Definition {
    uplink: Arc<str>,
    name: Arc<str>,
    target: Target,
    binding: Binding,
    interval: Duration,
    timeout: Duration,
}

impl Probers {
    /// No probers yet. `seed` spreads their times; `trust` is for `https`.
    pub fn new(events: mpsc::Sender<Event>, trust: Trust, seed: u64) -> Self {
        let random = Random::new(seed);
        let (running, pingers, sockets) = (Vec::new(), Vec::new(), HashMap::new());
        let sniffer = Arc::default();
        let start = Instant::now();
        Self { events, trust, sniffer, random, start, running, pingers, sockets }
    }

    /// Probes these uplinks and no others from now on. A prober whose definition (uplink, binding,
    /// interval, timeout, target) is unchanged goes on as if nothing had happened.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn set(&mut self, uplinks: &[ProbedUplink<'_>]) {
        self.sniffer.listen(uplinks.iter().any(|uplink| uplink.silent));
        let mut old = VecDeque::from(std::mem::take(&mut self.running));
        self.sockets.retain(|name, _| uplinks.iter().any(|uplink| uplink.name == name));
        // A prober has its own.
        self.pingers.retain(|pinger| Arc::strong_count(pinger) > 1);
        for uplink in uplinks {
            let targets = &uplink.health.targets;
            for (index, target) in targets.iter().enumerate() {
                // As a rule the first of them: they are in the order of the uplinks.
                let known = old.iter().position(|old| old.definition.is_of(uplink, target));
                let prober = match known.and_then(|at| old.remove(at)) {
                    Some(running) => running,
                    None => self.start(Definition::new(uplink, target), index, targets.len()),
                };
                self.running.push(prober);
            }
        }
    }

    fn start(&mut self, definition: Definition, index: usize, targets: usize) -> Prober {
        let definition = Arc::new(definition);
        let interval = definition.interval.as_micros() as u64;
        let means = Means {
            pinger: self.pinger(&definition.binding),
            trust: self.trust.clone(),
            sniffer: Arc::clone(&self.sniffer),
        };
        let begin = self.start.elapsed().as_micros() as u64;
        let schedule = Schedule {
            start: self.start,
            pace: Pace::new(interval, begin, index, targets, self.random.draw()),
            random: Random::new(self.random.draw()),
            events: self.events.clone(),
            sockets: self.sockets(&definition.uplink),
            means,
        };
        let task = tokio::spawn(schedule.run(definition.clone()));
        Prober { definition, task }
    }

    fn sockets(&mut self, uplink: &str) -> Arc<Semaphore> {
        let sockets = self.sockets.entry(uplink.to_owned());
        sockets.or_insert_with(|| Arc::new(Semaphore::new(share()))).clone()
    }

    fn pinger(&mut self, binding: &Binding) -> Arc<Pinger> {
        let known = self.pingers.iter().find(|pinger| pinger.binding() == binding);
        let pinger = known.cloned().unwrap_or_else(|| Arc::new(Pinger::new(binding.clone())));
        if known.is_none() {
            self.pingers.push(pinger.clone());
        }
        pinger
    }
}

/// How many sockets the probes of one uplink may have open.
fn share() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = limit.saturating_sub(RESERVE) / MAX_UPLINKS as u64;
    share.clamp(SOCKETS_MIN, SOCKETS_MAX) as usize
}

struct Schedule {
    /// What the times of the pace are counted from.
    start: Instant,
    pace: Pace,
    random: Random,
    events: mpsc::Sender<Event>,
    sockets: Arc<Semaphore>,
    means: Means,
}

/// What probes of an uplink use together.
#[derive(Clone)]
pub(super) struct Means {
    pub pinger: Arc<Pinger>,
    pub trust: Trust,
    pub sniffer: Arc<Sniffer>,
}

impl Schedule {
    /// Probes until the receiver of events is gone. A probe is under way until its timeout while
    /// the next ones leave on time.
    async fn run(mut self, definition: Arc<Definition>) {
        let start = self.start;
        let mut probes = JoinSet::new();
        // Numbers of a prober that was here before may still be under way.
        let mut seq = self.random.draw() as u32;
        while !self.events.is_closed() {
            sleep_until(start + Duration::from_micros(self.pace.advance())).await;
            while probes.try_join_next().is_some() {}
            let token = self.random.draw();
            let (events, means) = (self.events.clone(), self.means.clone());
            let socket = self.socket(&definition, seq).await;
            probes.spawn(one(definition.clone(), events, means, seq, token, socket));
            seq = seq.wrapping_add(1);
            self.pace.skip_to(start.elapsed().as_micros() as u64);
        }
    }

    /// Leave to open a socket, for a probe that needs its own.
    async fn socket(&self, definition: &Definition, seq: u32) -> Option<OwnedSemaphorePermit> {
        if matches!(definition.target.kind, Probe::Icmp { .. }) {
            return None;
        }
        if let Ok(permit) = self.sockets.clone().try_acquire_owned() {
            return Some(permit);
        }
        // Without a receiver there is nobody to tell; the semaphore is never closed.
        let waits = definition.event(seq, Finding::Failed(ProbeError::Crowded), Instant::now());
        let _ = self.events.send(waits).await;
        self.sockets.clone().acquire_owned().await.ok()
    }
}

impl Definition {
    fn new(uplink: &ProbedUplink<'_>, target: &Target) -> Self {
        Self {
            uplink: uplink.name.into(),
            name: target.name.as_str().into(),
            target: target.clone(),
            binding: uplink.binding.clone(),
            interval: uplink.interval(),
            timeout: uplink.timeout(),
        }
    }

    fn is_of(&self, uplink: &ProbedUplink<'_>, target: &Target) -> bool {
        *self.uplink == *uplink.name
            && self.target == *target
            && self.binding.is_as(&uplink.binding, target.kind.host())
            && (self.interval, self.timeout) == (uplink.interval(), uplink.timeout())
    }

    fn event(&self, seq: u32, finding: Finding, at: Instant) -> Event {
        Event { uplink: self.uplink.clone(), target: self.name.clone(), seq, finding, at }
    }
}

/// One probe, with leave to open a socket until it is over.
async fn one(
    definition: Arc<Definition>,
    events: mpsc::Sender<Event>,
    means: Means,
    seq: u32,
    token: u64,
    _socket: Option<OwnedSemaphorePermit>,
) {
    let begin = Instant::now();
    let launched = launch(&definition.target.kind, &definition.binding, &means, token).await;
    // What has not left is no probe.
    let left = !launched.as_ref().is_err_and(|why| why.is_local());
    if left && events.send(definition.event(seq, Finding::Sent, begin)).await.is_err() {
        return;
    }
    let result = match launched {
        Ok(answer) => match timeout_at(begin + definition.timeout, answer).await {
            Ok(result) => result,
            Err(_) => return,
        },
        Err(why) => Err(why),
    };
    let finding = match result {
        Ok(()) => Finding::Reply(begin.elapsed().as_micros().min(u32::MAX.into()) as u32),
        // The kernel's own timeout is no news.
        Err(ProbeError::Timeout) => return,
        Err(why) => Finding::Failed(why),
    };
    // Without a receiver there is nobody to tell.
    let _ = events.send(definition.event(seq, finding, Instant::now())).await;
}

/// Ready when the answer has come.
type Answer = Pin<Box<dyn Future<Output = Result<(), ProbeError>> + Send>>;

/// Sends a probe.
pub(super) async fn launch(
    kind: &Probe,
    binding: &Binding,
    means: &Means,
    token: u64,
) -> Result<Answer, ProbeError> {
    let sniffer = Arc::clone(&means.sniffer);
    Ok(match kind {
        Probe::Icmp { address } => Box::pin(means.pinger.ask(*address, token, sniffer).await?),
        Probe::Tcp { address } => {
            let connection = tcp::connect(binding, *address, sniffer)?;
            Box::pin(async move { connection.await.map(drop) })
        }
        Probe::Dns { server, name, kind } => {
            Box::pin(dns::query(binding, *server, name, *kind, token as u16, sniffer).await?)
        }
        Probe::Http { url, address, expect_status, expect_body } => {
            let url = Url::parse(url).map_err(|_| ProbeError::Malformed)?;
            let host = address.or(url.host.parse().ok()).ok_or(ProbeError::Malformed)?;
            let expect = Expect { status: *expect_status, body: expect_body.clone() };
            let address = SocketAddr::new(host, url.port);
            Box::pin(http::get(binding, &means.trust, url, address, expect, sniffer)?)
        }
    })
}
