//! The health of all uplinks together: fed by the kernel's view, the operator and the probers, it
//! says which uplinks flows may use and which take new ones.

mod verdict;

use weir_layout::control::path_state;
use weir_site::Site;

use crate::history::Part;
use crate::load::{Change, Rtt};
use crate::signal::{Reason, Signal, Transition, Wish};
use crate::target::Status;
use crate::uplink::Uplink;
use crate::window::Figures;

pub use verdict::Verdict;

/// The uplinks' state machines.
#[derive(Clone, Debug)]
pub struct Monitor {
    uplinks: Vec<Watched>,
    /// Those that were not taken yet.
    transitions: Vec<(Part, Transition)>,
}

#[derive(Clone, Debug)]
struct Watched {
    name: String,
    machine: Uplink,
    /// State bits as last told.
    problems: Option<u32>,
}

impl Monitor {
    /// Uplinks of which nothing is known, but for the first: these are their state words by an
    /// earlier control process.
    pub fn new(site: &Site, earlier: &[u32], now: u64) -> Self {
        let machine = |index: usize| {
            let health = site.uplinks[index].health.clone();
            let Some(word) = earlier.get(index) else { return Uplink::new(health, now) };
            let was = |bit| word & bit != 0;
            match () {
                _ if was(path_state::USABLE) && was(path_state::DEGRADED) => {
                    Uplink::adopt_degraded(health, now)
                }
                _ if was(path_state::USABLE) && !was(path_state::HELD_DOWN) => {
                    Uplink::adopt(health, now)
                }
                // What the operator sets down serves no hold-down when it is put back.
                _ if was(path_state::ADMIN_DOWN) => Uplink::new(health, now),
                _ => Uplink::adopt_down(health, now),
            }
        };
        let uplinks = site.uplinks.iter().enumerate().map(|(index, uplink)| Watched {
            name: uplink.name.clone(),
            machine: machine(index),
            problems: None,
        });
        Self { uplinks: uplinks.collect(), transitions: Vec::new() }
    }

    /// Takes a changed site, which has the same uplinks and perhaps more behind them.
    pub fn reconfigure(&mut self, site: &Site, now: u64) {
        for (index, uplink) in site.uplinks.iter().enumerate() {
            let health = uplink.health.clone();
            match self.uplinks.get_mut(index) {
                Some(known) => {
                    let changed = known.machine.reconfigure(health, now);
                    self.note(index, changed);
                }
                None => self.uplinks.push(Watched {
                    name: uplink.name.clone(),
                    machine: Uplink::new(health, now),
                    problems: None,
                }),
            }
        }
        self.uplinks.truncate(site.uplinks.len());
    }

    /// Takes what the kernel and the operator say: bits of the uplinks' state words.
    pub fn observe(&mut self, problems: &[u32], now: u64) {
        type Bit = (u32, fn(bool) -> Signal);
        // What is lost, the carrier first: the rest goes with it, and one cut is one fault. What
        // is back, the carrier last: a link is up at once when all is well, and what is wrong with
        // it must be known by then.
        const BITS: [Bit; 4] = [
            (path_state::NO_DEVICE, Signal::Device),
            (path_state::NO_CARRIER, Signal::Carrier),
            (path_state::NO_ADDRESS, Signal::Address),
            (path_state::NO_NEXT_HOP, Signal::NextHop),
        ];
        for (index, problems) in problems.iter().enumerate().take(self.uplinks.len()) {
            let known = self.uplinks[index].problems.replace(*problems);
            let wish = wish(*problems);
            if known.map_or(Wish::Use, self::wish) != wish {
                self.signal(index, Signal::Wish(wish), now);
            }
            let changed = |(bit, _): &&Bit| known.is_none_or(|known| (known ^ problems) & bit != 0);
            let (lost, back): (Vec<_>, Vec<_>) =
                BITS.iter().filter(changed).partition(|(bit, _)| problems & bit != 0);
            for (_, signal) in &lost {
                self.signal(index, signal(false), now);
            }
            for (_, signal) in back.iter().rev() {
                self.signal(index, signal(true), now);
            }
        }
    }

    /// Takes a signal; says whether the uplink's state changed.
    pub fn signal(&mut self, uplink: usize, signal: Signal, now: u64) -> bool {
        let Some(watched) = self.uplinks.get_mut(uplink) else { return false };
        let changed = watched.machine.signal(signal, now);
        self.note(uplink, changed)
    }

    /// Lets time pass; says whether a state changed.
    pub fn tick(&mut self, now: u64) -> bool {
        (0..self.uplinks.len()).fold(false, |any, index| {
            let changed = self.uplinks[index].machine.tick(now);
            self.note(index, changed) || any
        })
    }

    /// When [`Self::tick`] has something to do if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        self.uplinks.iter().filter_map(|uplink| uplink.machine.deadline()).min()
    }

    /// Takes note that an uplink became too full for new flows, or has room again.
    pub fn note_load(&mut self, change: &Change, now: u64) {
        let uplink = usize::from(change.uplink);
        let Some(watched) = self.uplinks.get(uplink) else { return };
        let reason = match (change.tighter, change.saturated) {
            (None, _) => Reason::Unmeasured,
            (Some((direction, percent, capacity)), true) => {
                Reason::Saturated { direction, percent, capacity }
            }
            (Some((direction, percent, capacity)), false) => {
                Reason::Roomy { direction, percent, capacity }
            }
        };
        let state = watched.machine.state();
        self.note(uplink, Some(Transition { from: state, to: state, reason, at: now }));
    }

    /// What an uplink's probes say: the medians of the targets that answer.
    pub fn rtt(&self, uplink: usize) -> Option<Rtt> {
        let machine = &self.uplinks.get(uplink)?.machine;
        // A next hop does not show the time that the link takes.
        let targets = machine.targets().iter().filter(|_| !machine.health().implied);
        let answering = targets.filter(|t| t.status() == Status::Answering);
        let figures: Vec<Figures> = answering.map(|t| t.figures()).collect();
        let median = |of: fn(&Figures) -> f64| {
            let mut all: Vec<f64> = figures.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            // Of an even number the lower: one far target is not what the link takes.
            all.get(all.len().saturating_sub(1) / 2).copied()
        };
        let ms = median(|f| f.rtt_ms.weighted)?;
        Some(Rtt { ms, jitter_ms: median(|f| f.jitter_ms.weighted)? })
    }

    fn note(&mut self, uplink: usize, changed: Option<Transition>) -> bool {
        let name = &self.uplinks[uplink].name;
        self.transitions.extend(changed.map(|change| (Part::Uplink(name.clone()), change)));
        changed.is_some()
    }

    /// The transitions since this was last asked, in their order.
    pub fn take_transitions(&mut self) -> Vec<(Part, Transition)> {
        std::mem::take(&mut self.transitions)
    }

    /// The uplinks, in the order of the file.
    pub fn uplinks(&self) -> impl ExactSizeIterator<Item = &Uplink> {
        self.uplinks.iter().map(|watched| &watched.machine)
    }

    /// The uplinks whose targets are silent, and those that are quiet, a bit for each.
    pub fn silent(&self) -> [u64; 2] {
        let set = |of: fn(&Uplink) -> bool| {
            let of_them = (0..).zip(&self.uplinks).filter(|(_, uplink)| of(&uplink.machine));
            of_them.fold(0, |set, (index, _)| set | 1u64 << index)
        };
        [set(Uplink::is_silent), set(Uplink::is_quiet)]
    }

    /// Whether an uplink's targets are silent.
    pub fn is_silent(&self, uplink: usize) -> bool {
        self.uplinks.get(uplink).is_some_and(|watched| watched.machine.is_silent())
    }

    /// Whether an uplink's silent targets do answer, and this machine drops what they say.
    pub fn drops_answers(&self, uplink: usize) -> bool {
        self.uplinks.get(uplink).is_some_and(|watched| watched.machine.drops_answers())
    }
}

/// What the operator wants, from the bits of a state word.
fn wish(problems: u32) -> Wish {
    let is = |bit| problems & bit != 0;
    match (is(path_state::ADMIN_DOWN), is(path_state::DRAINING)) {
        (false, false) => Wish::Use,
        (false, true) => Wish::Drain,
        (true, false) => Wish::Down,
        (true, true) => Wish::Drained,
    }
}

#[cfg(test)]
mod tests;
