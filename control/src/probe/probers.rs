//! One task for each target, kept while its definition is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::bind::Binding;
use super::http::{Expect, Trust};
use super::pace::{Pace, Random};
use super::{dns, http, icmp, tcp};
use crate::health::{Health, Probe, ProbeError, Signal, Target, Url};

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

/// What happens to probes. That one is not answered is told by silence.
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
pub struct Plan<'a> {
    /// Its name.
    pub uplink: &'a str,
    /// How its sockets are bound.
    pub binding: Binding,
    /// What is probed, and when.
    pub health: &'a Health,
}

/// The probers of all uplinks. They end when this is dropped.
pub struct Probers {
    events: mpsc::Sender<Event>,
    trust: Trust,
    random: Random,
    running: Vec<Prober>,
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
#[derive(PartialEq, Eq)]
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
        Self { events, trust, random: Random::new(seed), running: Vec::new() }
    }

    /// Probes these uplinks and no others from now on. A prober whose definition (uplink, binding,
    /// interval, timeout, target) is unchanged goes on as if nothing had happened.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn set(&mut self, plans: &[Plan<'_>]) {
        let mut old = std::mem::take(&mut self.running);
        for plan in plans {
            let targets = &plan.health.targets;
            for (index, target) in targets.iter().enumerate() {
                let definition = Definition {
                    uplink: plan.uplink.into(),
                    name: target.name.as_str().into(),
                    target: target.clone(),
                    binding: plan.binding.clone(),
                    interval: Duration::from_millis(plan.health.interval_ms.into()),
                    timeout: Duration::from_millis(plan.health.timeout_ms()),
                };
                let prober = match old.iter().position(|p| *p.definition == definition) {
                    Some(running) => old.swap_remove(running),
                    None => self.start(definition, index, targets.len()),
                };
                self.running.push(prober);
            }
        }
    }

    fn start(&mut self, definition: Definition, index: usize, targets: usize) -> Prober {
        let definition = Arc::new(definition);
        let interval = definition.interval.as_micros() as u64;
        let schedule = Schedule {
            pace: Pace::new(interval, index, targets, self.random.draw()),
            random: Random::new(self.random.draw()),
            events: self.events.clone(),
            trust: self.trust.clone(),
        };
        let task = tokio::spawn(schedule.run(definition.clone()));
        Prober { definition, task }
    }
}

struct Schedule {
    pace: Pace,
    random: Random,
    events: mpsc::Sender<Event>,
    trust: Trust,
}

impl Schedule {
    /// Probes until the receiver of events is gone. A probe is under way until its timeout while
    /// the next ones leave on time.
    async fn run(mut self, definition: Arc<Definition>) {
        let start = Instant::now();
        let mut probes = JoinSet::new();
        // Numbers of a prober that was here before may still be under way.
        let mut seq = self.random.draw() as u32;
        while !self.events.is_closed() {
            self.pace.skip_to(start.elapsed().as_micros() as u64);
            sleep_until(start + Duration::from_micros(self.pace.advance())).await;
            while probes.try_join_next().is_some() {}
            let token = self.random.draw();
            let (events, trust) = (self.events.clone(), self.trust.clone());
            probes.spawn(one(definition.clone(), events, trust, seq, token));
            seq = seq.wrapping_add(1);
        }
    }
}

async fn one(
    definition: Arc<Definition>,
    events: mpsc::Sender<Event>,
    trust: Trust,
    seq: u32,
    token: u64,
) {
    let event = |finding| Event {
        uplink: definition.uplink.clone(),
        target: definition.name.clone(),
        seq,
        finding,
        at: Instant::now(),
    };
    if events.send(event(Finding::Sent)).await.is_err() {
        return;
    }
    let begin = Instant::now();
    let probe = probe(&definition.target.kind, &definition.binding, &trust, token);
    let Ok(result) = timeout(definition.timeout, probe).await else { return };
    let finding = match result {
        Ok(()) => Finding::Reply(begin.elapsed().as_micros().min(u32::MAX.into()) as u32),
        // The kernel's own timeout is no news.
        Err(ProbeError::Timeout) => return,
        Err(why) => Finding::Failed(why),
    };
    // Without a receiver there is nobody to tell.
    let _ = events.send(event(finding)).await;
}

pub(super) async fn probe(
    kind: &Probe,
    binding: &Binding,
    trust: &Trust,
    token: u64,
) -> Result<(), ProbeError> {
    match kind {
        Probe::Icmp { address } => icmp::echo(binding, *address, token).await,
        Probe::Tcp { address } => tcp::connect(binding, *address).await.map(drop),
        Probe::Dns { server, name, kind } => {
            dns::query(binding, *server, name, *kind, token as u16).await
        }
        Probe::Http { url, address, expect_status, expect_body } => {
            let url = Url::parse(url).map_err(|_| ProbeError::Malformed)?;
            let host = address.or(url.host.parse().ok()).ok_or(ProbeError::Malformed)?;
            let expect = Expect { status: *expect_status, body: expect_body.as_deref() };
            http::get(binding, trust, &url, SocketAddr::new(host, url.port), expect).await
        }
    }
}
