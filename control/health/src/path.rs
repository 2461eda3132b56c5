//! One path, an uplink in one address family: signals in, state and transitions out.
//!
//! ```text
//!            first answer                    carrier, address, next hop, targets, admin
//!   Down ───────────────────────────► Up ◄──────────────────────┐
//!    ▲ │                              │ ▲                       │
//!    │ │ well for 1/8 hold-down       │ │ under the recover     │ hold-down over,
//!    │ ▼                              ▼ │ limits for hold-down  │ under the recover limits
//!   Recovering ─────────────────────► Degraded ◄── over a fail limit, users' connections die
//!        hold-down over, not under the recover limits
//! ```
//! From everywhere a hard fault leads to Down. While the operator wants the uplink empty, Draining
//! stands for Up and Degraded. These three are usable.

use weir_site::health::{Health, Limits};

use super::choice::Standing;
use super::flaps::Flaps;
use super::passive::Recent;
use super::signal::{Reason, Signal, State, Transition, Wish};
use super::target::{ProbeError, Status, Watched};
use super::window::{Figure, Figures};

/// Fewest probes in a window before it can fail a limit.
const SAMPLES: u32 = 10;

/// One path.
///
/// After every signal, and whenever [`deadline`](Self::deadline) has come, the caller acts on the
/// transition that is returned. Signals that wait are to be given before [`tick`](Self::tick), so
/// that answers which arrived while the process was busy count.
#[derive(Clone, Debug)]
pub struct Path {
    health: Health,
    targets: Vec<Watched>,
    wish: Wish,
    device: bool,
    carrier: bool,
    address: bool,
    next_hop: bool,
    recent: Recent,
    flaps: Flaps,
    state: State,
    reason: Reason,
    /// The latest time there was: what comes late comes now.
    now: u64,
    /// Was usable before; until then nothing is held down.
    started: bool,
    /// Was usable when the operator took it out of use.
    set_aside: bool,
    /// The trouble that it is in has been counted as a flap.
    counted: bool,
    /// What breaks now somebody here has changed: it is no flap.
    excused: bool,
    /// Since when nothing is wrong that would make it Down.
    sound: Option<u64>,
    /// Since when all figures are under their recover limits.
    well: Option<u64>,
    /// See [`deadline`](Self::deadline), which is asked far more often than anything changes.
    deadline: Option<u64>,
}

impl Path {
    /// A path of which nothing is known: Down until carrier, address and a quorum of targets
    /// have shown themselves, and then Up at once.
    pub fn new(health: Health, now: u64) -> Self {
        let watch = |t: &_| Watched::new(Clone::clone(t), health.window, Status::Untested);
        Self {
            targets: health.targets.iter().map(watch).collect(),
            health,
            wish: Wish::Use,
            device: true,
            carrier: false,
            address: false,
            next_hop: true,
            recent: Recent::default(),
            flaps: Flaps::default(),
            state: State::Down,
            reason: Reason::Starting,
            now,
            started: false,
            set_aside: false,
            counted: false,
            excused: false,
            sound: None,
            well: None,
            deadline: None,
        }
    }

    /// A path that forwards already, for a control process which starts beside a dataplane that
    /// runs: Up until it is shown not to be.
    pub fn adopt(health: Health, now: u64) -> Self {
        let mut path = Self::new(health, now);
        path.carrier = true;
        path.address = true;
        path.state = State::Up;
        path.reason = Reason::Adopted;
        path.started = true;
        path.sound = Some(now);
        path.well = Some(now);
        path
    }

    /// As [`adopt`](Self::adopt), for one that was degraded: it is so until it is well for the
    /// hold-down.
    pub fn adopt_degraded(health: Health, now: u64) -> Self {
        let mut path = Self::adopt(health, now);
        path.state = State::Degraded;
        path.flaps.add(&path.health, now);
        path.counted = true;
        path.deadline = path.next_deadline();
        path
    }

    /// As [`adopt`](Self::adopt), for one that was not in use: the hold-down that it has served is
    /// not known, so that it serves one from the beginning.
    pub fn adopt_down(health: Health, now: u64) -> Self {
        let mut path = Self::new(health, now);
        path.started = true;
        path.flaps.add(&path.health, now);
        path
    }

    /// Takes new settings. Targets whose definition is unchanged keep all that is known of them,
    /// wherever they are in the list now; new ones are evidence of nothing yet.
    pub fn reconfigure(&mut self, health: Health, now: u64) -> Option<Transition> {
        let mut old = std::mem::take(&mut self.targets);
        for definition in &health.targets {
            let kept = old.iter().position(|t| t.definition() == definition);
            let mut target = match kept {
                Some(index) => old.swap_remove(index),
                None => Watched::new(definition.clone(), health.window, Status::Untested),
            };
            if health.window != self.health.window {
                target.resize(health.window);
            }
            self.targets.push(target);
        }
        self.health = health;
        self.tick(now)
    }

    /// From now on what breaks is the doing of somebody here, or not any more.
    pub const fn excuse(&mut self, excused: bool) {
        self.excused = excused;
    }

    /// Takes a signal that came at `now`.
    pub fn signal(&mut self, signal: Signal, now: u64) -> Option<Transition> {
        let now = now.max(self.now);
        let health = &self.health;
        match signal {
            Signal::Carrier(carrier) => {
                if self.carrier && !carrier && self.started {
                    self.flaps.add(health, now);
                }
                self.carrier = carrier;
            }
            Signal::Device(device) => self.device = device,
            Signal::Address(address) => self.address = address,
            Signal::NextHop(next_hop) => self.next_hop = next_hop,
            Signal::Wish(wish) => {
                self.wish = wish;
                self.set_aside |= self.aside().is_some() && self.state.usable();
            }
            Signal::Sent { target, seq } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.sent(health, seq, now);
                }
            }
            Signal::Reply { target, seq, rtt_us } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.reply(health, seq, rtt_us, now);
                }
            }
            Signal::Failed { target, seq, why } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.failed(health, seq, why, now);
                }
            }
            Signal::Passive(counts) => self.recent.push(&health.passive, &counts, now),
        }
        self.tick(now)
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: u64) -> Option<Transition> {
        let now = now.max(self.now);
        self.now = now;
        for target in &mut self.targets {
            target.expire(&self.health, now);
        }
        self.recent.expire(&self.health.passive, now);
        let transition = self.judge(now);
        self.deadline = self.next_deadline();
        transition
    }

    /// When [`tick`](Self::tick) has something to do if no signal comes before.
    pub const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    fn next_deadline(&self) -> Option<u64> {
        let targets = self.targets.iter().filter_map(|t| t.deadline(&self.health)).min();
        let hold = self.hold_ms();
        let held = match self.state {
            State::Up | State::Draining => None,
            State::Degraded => self.well.map(|well| well + hold + 1),
            State::Recovering { .. } => self.sound.map(|sound| sound + hold + 1),
            State::Down => self.sound.map(|sound| sound + hold / 8 + 1),
        };
        let recent = self.recent.deadline(&self.health.passive);
        [targets, held, recent].into_iter().flatten().min()
    }

    /// Its settings.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it is in that state. While it stays Down the reason is the one that holds now.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Its targets, in the order of the settings.
    pub fn targets(&self) -> &[Watched] {
        &self.targets
    }

    /// How long it must be well before it is used again, milliseconds.
    pub fn hold_ms(&self) -> u64 {
        self.flaps.hold_ms(&self.health)
    }

    /// Whether all its targets that are asked were quiet of late: it may be about to go down.
    pub fn is_quiet(&self) -> bool {
        let mut asked = self.targets.iter().filter(|target| !target.is_blocked()).peekable();
        !self.health.implied
            && asked.peek().is_some()
            && asked.all(|target| target.is_quiet(&self.health, self.now))
    }

    /// Whether no target answers any more, so that its next hop is to be asked for anew.
    pub fn is_silent(&self) -> bool {
        let failed = |target: &Watched| target.status() == Status::Failed;
        self.standing() == Standing::Silent
            || self.health.implied && self.targets.iter().any(failed)
    }

    /// Whether silent targets do answer, and this machine drops what they say.
    pub fn drops_answers(&self) -> bool {
        let dropped = |target: &Watched| {
            let why = target.error().map(|(why, _)| why);
            target.status() == Status::Failed && why == Some(ProbeError::Dropped)
        };
        self.is_silent() && self.targets.iter().any(dropped)
    }

    /// How good a choice it is.
    pub fn standing(&self) -> Standing {
        match (self.state, self.reason) {
            (State::Up, _) => Standing::Up,
            (State::Degraded, _) => Standing::Degraded,
            (State::Draining, _) => Standing::Draining,
            (State::Recovering { .. }, _) => Standing::Recovering,
            (State::Down, Reason::Admin | Reason::Drained) => Standing::Admin,
            (State::Down, Reason::Carrier | Reason::Device) => Standing::NoCarrier,
            (State::Down, Reason::Address) => Standing::NoAddress,
            (State::Down, Reason::NextHop) => Standing::NoNextHop,
            (State::Down, Reason::TargetsFailed { .. }) => Standing::Silent,
            (State::Down, _) => Standing::Unproven,
        }
    }

    /// Probes under way at the target with most, and counts kept.
    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.targets.iter().map(Watched::pending).max().unwrap_or(0), self.recent.len())
    }

    fn judge(&mut self, now: u64) -> Option<Transition> {
        let broken = self.fault();
        // What breaks while the operator has it out of use is held down like anything else.
        self.set_aside &= broken.is_none();
        if let Some(fault) = self.aside().or(broken) {
            // What was degraded from Up is one trouble with what follows, and counted.
            let counted = self.state == State::Degraded && self.counted;
            let relapse = self.sound.take().is_some() && !counted && !self.excused;
            self.well = None;
            match fault {
                Reason::Device | Reason::Carrier | Reason::Address | Reason::NextHop => {
                    self.targets.iter_mut().for_each(Watched::lapse);
                }
                _ => {}
            }
            // Every loss of carrier is counted where it is told, also while the path is Down.
            if relapse
                && self.started
                && !matches!(fault, Reason::Admin | Reason::Drained | Reason::Carrier)
            {
                self.flaps.add(&self.health, now);
            }
            return self.enter(State::Down, fault, now);
        }
        let unwell = self.unwell();
        self.well = if unwell.is_some() { None } else { self.well.or(Some(now)) };
        match self.state {
            State::Up | State::Degraded if self.wish == Wish::Drain => {
                self.enter(State::Draining, Reason::Draining, now)
            }
            State::Draining if self.wish == Wish::Drain => None,
            State::Draining => self.enter(State::Up, Reason::Released, now),
            State::Up => {
                let failing = self.failing()?;
                self.flaps.add(&self.health, now);
                self.counted = true;
                self.well = None;
                self.enter(State::Degraded, failing, now)
            }
            State::Degraded => {
                let held_ms = now - self.well?;
                let over = held_ms > self.hold_ms();
                over.then(|| self.enter(State::Up, Reason::Recovered { held_ms }, now))?
            }
            State::Down | State::Recovering { .. } => self.recover(unwell, now),
        }
    }

    fn recover(&mut self, unwell: Option<Reason>, now: u64) -> Option<Transition> {
        if let Some(unproven) = self.unproven() {
            self.sound = None;
            return self.enter(State::Down, unproven, now);
        }
        let held_ms = now - *self.sound.get_or_insert(now);
        let hold_ms = self.hold_ms();
        if !self.started {
            return self.enter(State::Up, Reason::Started, now);
        }
        if self.set_aside {
            return self.enter(State::Up, Reason::Released, now);
        }
        if held_ms > hold_ms {
            return match unwell {
                None => self.enter(State::Up, Reason::Recovered { held_ms }, now),
                Some(unwell) => self.enter(State::Degraded, unwell, now),
            };
        }
        if self.state == State::Down {
            let flaps = self.flaps.count(&self.health, now);
            self.reason = Reason::Holding { hold_ms, flaps };
            if held_ms > hold_ms / 8 {
                let until = now + hold_ms - held_ms;
                return self.enter(State::Recovering { until }, self.reason, now);
            }
        }
        None
    }

    fn enter(&mut self, to: State, reason: Reason, now: u64) -> Option<Transition> {
        let (to, reason) = match self.wish {
            Wish::Drain if to.usable() => (State::Draining, Reason::Draining),
            _ => (to, reason),
        };
        self.reason = reason;
        if self.state == to {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        self.counted &= from.usable();
        if to.usable() {
            self.started = true;
            self.set_aside = false;
        }
        Some(Transition { from, to, reason, at: now })
    }

    /// Why the operator has it out of use.
    fn aside(&self) -> Option<Reason> {
        match self.wish {
            Wish::Use | Wish::Drain => None,
            Wish::Down => Some(Reason::Admin),
            Wish::Drained => Some(Reason::Drained),
        }
    }

    /// What makes the path Down, by evidence: targets of which nothing is known are none.
    fn fault(&self) -> Option<Reason> {
        let failed = self.count(Status::Failed);
        let of = self.targets.len() as u32;
        let quorum = self.quorum();
        match () {
            _ if !self.device => Some(Reason::Device),
            _ if !self.carrier => Some(Reason::Carrier),
            _ if !self.address => Some(Reason::Address),
            _ if !self.next_hop => Some(Reason::NextHop),
            _ if of - failed < quorum => Some(Reason::TargetsFailed { failed, of, quorum }),
            _ => None,
        }
    }

    fn unproven(&self) -> Option<Reason> {
        let answering = self.count(Status::Answering);
        let excused = self.targets.iter().filter(|target| target.is_excused()).count() as u32;
        let of = self.targets.len() as u32;
        let quorum = self.quorum();
        (answering + excused < quorum).then_some(Reason::Unproven { answering, of, quorum })
    }

    /// The next hop need not answer.
    fn quorum(&self) -> u32 {
        if self.health.implied {
            return 0;
        }
        self.health.quorum.min(self.targets.len() as u32)
    }

    fn count(&self, status: Status) -> u32 {
        self.targets.iter().filter(|t| t.status() == status).count() as u32
    }

    /// What is over a fail limit.
    fn failing(&self) -> Option<Reason> {
        let enough = |figures: &Figures| figures.probes >= SAMPLES.min(self.health.window);
        self.figure(|figures, figure, limits| enough(figures) && figure.over(limits), |l| l.fail)
            .or_else(|| self.recent.failing(&self.health.passive))
    }

    /// What is not under a recover limit.
    fn unwell(&self) -> Option<Reason> {
        self.figure(|_, figure, limits| !figure.under(limits), |l| l.recover)
            .or_else(|| self.recent.unwell(&self.health.passive))
    }

    /// The first figure that is `bad` at more than half of the targets that answer: one far or
    /// failing target of several is never a reason.
    fn figure(
        &self,
        bad: impl Fn(&Figures, Figure, Limits) -> bool,
        limit: impl Fn(Limits) -> u32,
    ) -> Option<Reason> {
        let health = &self.health;
        if health.implied {
            // Routers take their time with what is for themselves.
            return None;
        }
        let answering = self.targets.iter().filter(|t| t.status() == Status::Answering);
        let all: Vec<Figures> = answering.map(Watched::figures).collect();
        // The largest figure that more than half of the targets reach.
        let most = |limits: Option<Limits>, of: fn(&Figures) -> Figure| {
            let limits = limits?;
            let figures = all.iter().filter(|f| bad(f, of(f), limits));
            let mut bad: Vec<f64> = figures.map(|f| of(f).window).collect();
            bad.sort_by(f64::total_cmp);
            let majority = bad.len() * 2 > all.len();
            majority.then(|| (bad[bad.len() - all.len() / 2 - 1].round() as u32, limit(limits)))
        };
        if let Some((percent, threshold)) = most(health.loss_percent, |f| f.loss_percent) {
            return Some(Reason::Loss { percent, threshold });
        }
        if let Some((ms, threshold)) = most(health.rtt_ms, |f| f.rtt_ms) {
            return Some(Reason::Rtt { ms, threshold });
        }
        let (ms, threshold) = most(health.jitter_ms, |f| f.jitter_ms)?;
        Some(Reason::Jitter { ms, threshold })
    }
}
