//! The health of all paths of one family together: fed by the kernel's view, the operator and the
//! probers, it says which uplinks flows may use and which take new ones.

mod verdict;

use weir_layout::Family;
use weir_layout::control::path_state;
use weir_site::{Site, UplinkConfig};

use crate::choice::Standing;
use crate::history::Part;
use crate::load::{Change, Rtt};
use crate::path::Path;
use crate::signal::{Reason, Signal, State, Transition, Wish};
use crate::target::Status;
use crate::window::Figures;

pub use verdict::Verdict;

/// The state machines of the paths of one family.
#[derive(Clone, Debug)]
pub struct Monitor {
    family: Family,
    /// By uplink.
    paths: Vec<Watched>,
    /// Those that were not taken yet.
    transitions: Vec<(Part, Transition)>,
    /// What is observed next follows from a change that somebody here has made.
    changed: bool,
}

#[derive(Clone, Debug)]
struct Watched {
    /// The uplink's name.
    name: String,
    /// None: the uplink has no path in the family.
    machine: Option<Path>,
    /// State bits as last told.
    problems: Option<u32>,
    /// How the uplink's other path stands; none: they are not joint.
    other: Option<Standing>,
    /// Since when it is in the state that was told last.
    since: u64,
}

impl Watched {
    /// Is the path, however it is itself, out of use with the other one?
    fn is_out(&self) -> bool {
        self.other.is_some_and(|other| !other.usable())
    }

    /// What a state of the path's own comes to with the other path.
    fn with_other(&self, own: State) -> State {
        if self.is_out() && own.usable() { State::Down } else { own }
    }
}

impl Monitor {
    /// Paths of which nothing is known, but for the first: these are their state words by an
    /// earlier control process.
    pub fn new(family: Family, site: &Site, earlier: &[u32], now: u64) -> Self {
        let machine = |index: usize| {
            let health = site.uplinks[index].path_health(family)?;
            let Some(word) = earlier.get(index) else { return Some(Path::new(health, now)) };
            let was = |bit| word & bit != 0;
            Some(match () {
                _ if was(path_state::NOT_CONFIGURED) => Path::new(health, now),
                _ if was(path_state::USABLE) && was(path_state::DEGRADED) => {
                    Path::adopt_degraded(health, now)
                }
                _ if was(path_state::USABLE) && !was(path_state::HELD_DOWN) => {
                    Path::adopt(health, now)
                }
                // What the operator sets down serves no hold-down when it is put back.
                _ if was(path_state::ADMIN_DOWN) => Path::new(health, now),
                _ => Path::adopt_down(health, now),
            })
        };
        let paths = site.uplinks.iter().enumerate().map(|(index, uplink)| Watched {
            name: uplink.name.clone(),
            machine: machine(index),
            problems: None,
            other: None,
            since: now,
        });
        Self { family, paths: paths.collect(), transitions: Vec::new(), changed: false }
    }

    /// Takes a changed site, which has the same uplinks and perhaps more behind them.
    pub fn reconfigure(&mut self, site: &Site, now: u64) {
        for (index, uplink) in site.uplinks.iter().enumerate() {
            if index == self.paths.len() {
                let name = uplink.name.clone();
                let (machine, problems, other) = (None, None, None);
                self.paths.push(Watched { name, machine, problems, other, since: now });
            }
            let path = &mut self.paths[index];
            let health = uplink.path_health(self.family);
            match (&mut path.machine, health) {
                (Some(machine), Some(health)) => {
                    let changed = machine.reconfigure(health, now);
                    self.note(index, changed);
                }
                (machine, health) => {
                    // What was told of it, it has not heard.
                    path.problems = None;
                    path.since = now;
                    *machine = health.map(|health| Path::new(health, now));
                }
            }
        }
        self.paths.truncate(site.uplinks.len());
    }

    /// Somebody here has changed the site, or said that a prefix is another: what paths lose by
    /// that is no flap of their providers'.
    pub const fn expect_change(&mut self) {
        self.changed = true;
    }

    /// Takes what the kernel and the operator say: bits of the paths' state words.
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
        let changed = std::mem::take(&mut self.changed);
        self.excuse(changed);
        for (index, problems) in problems.iter().enumerate().take(self.paths.len()) {
            let known = self.paths[index].problems.replace(*problems);
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
        self.excuse(false);
    }

    fn excuse(&mut self, excused: bool) {
        let machines = self.paths.iter_mut().filter_map(|path| path.machine.as_mut());
        machines.for_each(|machine| machine.excuse(excused));
    }

    /// By uplink, how its path stands by itself, where the uplink's paths are joint.
    pub fn joint(&self, site: &Site) -> Vec<Option<Standing>> {
        let standing = |(index, uplink): (usize, &UplinkConfig)| {
            let path = self.path(index).filter(|_| uplink.is_joint())?;
            Some(path.standing())
        };
        site.uplinks.iter().enumerate().map(standing).collect()
    }

    /// Takes how the joint paths of the other family stand, as it tells by [`joint`](Self::joint):
    /// none of this one is better.
    pub fn join(&mut self, others: &[Option<Standing>], now: u64) {
        for index in 0..self.paths.len() {
            let path = &mut self.paths[index];
            let Some(own) = path.machine.as_ref().map(Path::state) else { continue };
            let from = path.with_other(own);
            path.other = others.get(index).copied().flatten();
            let to = path.with_other(own);
            let out = path.is_out();
            let reason = if out { Reason::OtherFamilyDown } else { Reason::OtherFamilyBack };
            if from != to {
                path.since = now;
                self.tell(index, Transition { from, to, reason, at: now });
            }
        }
    }

    /// Takes a signal; says whether the path's state changed.
    pub fn signal(&mut self, uplink: usize, signal: Signal, now: u64) -> bool {
        let watched = self.paths.get_mut(uplink).and_then(|path| path.machine.as_mut());
        let Some(machine) = watched else { return false };
        let changed = machine.signal(signal, now);
        self.note(uplink, changed)
    }

    /// Lets time pass; says whether a state changed.
    pub fn tick(&mut self, now: u64) -> bool {
        (0..self.paths.len()).fold(false, |any, index| {
            let changed = self.paths[index].machine.as_mut().and_then(|machine| machine.tick(now));
            self.note(index, changed) || any
        })
    }

    /// When [`Self::tick`] has something to do if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        self.machines().filter_map(|(_, machine)| machine.deadline()).min()
    }

    /// Takes note that an uplink became too full for new flows, or has room again.
    pub fn note_load(&mut self, change: &Change, now: u64) {
        let uplink = usize::from(change.uplink);
        let Some(machine) = self.path(uplink) else { return };
        let reason = match (change.tighter, change.saturated) {
            (None, _) => Reason::Unmeasured,
            (Some((direction, percent, capacity)), true) => {
                Reason::Saturated { direction, percent, capacity }
            }
            (Some((direction, percent, capacity)), false) => {
                Reason::Roomy { direction, percent, capacity }
            }
        };
        let state = self.paths[uplink].with_other(machine.state());
        self.tell(uplink, Transition { from: state, to: state, reason, at: now });
    }

    /// What a path's probes say: the medians of the targets that answer.
    pub fn rtt(&self, uplink: usize) -> Option<Rtt> {
        let machine = self.path(uplink)?;
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

    /// Takes note of what a path's own state did; says whether it changed. Told is what that comes
    /// to with the other path.
    fn note(&mut self, uplink: usize, changed: Option<Transition>) -> bool {
        let Some(change) = changed else { return false };
        let path = &mut self.paths[uplink];
        let (from, to) = (path.with_other(change.from), path.with_other(change.to));
        if from != to {
            path.since = change.at;
            let reason = if to == change.to { change.reason } else { Reason::OtherFamilyDown };
            self.tell(uplink, Transition { from, to, reason, ..change });
        }
        true
    }

    fn tell(&mut self, uplink: usize, change: Transition) {
        let name = self.paths[uplink].name.clone();
        self.transitions.push((Part::path(name, self.family), change));
    }

    /// The state of an uplink's path, why, and since when: with the other path where they are
    /// joint.
    pub fn state(&self, uplink: usize) -> Option<(State, Reason, u64)> {
        let path = self.paths.get(uplink)?;
        let machine = path.machine.as_ref()?;
        let state = path.with_other(machine.state());
        let is_own = state == machine.state();
        let reason = if is_own { machine.reason() } else { Reason::OtherFamilyDown };
        Some((state, reason, path.since))
    }

    /// The transitions since this was last asked, in their order.
    pub fn take_transitions(&mut self) -> Vec<(Part, Transition)> {
        std::mem::take(&mut self.transitions)
    }

    /// An uplink's path; `None`: it has none in the family.
    pub fn path(&self, uplink: usize) -> Option<&Path> {
        self.paths.get(uplink)?.machine.as_ref()
    }

    /// How an uplink's path stands, with the other one where they are joint.
    fn standing(&self, uplink: usize) -> Option<Standing> {
        let own = self.path(uplink)?.standing();
        Some(self.paths[uplink].other.map_or(own, |other| own.max(other)))
    }

    /// Has any uplink a path in the family?
    pub fn has_paths(&self) -> bool {
        self.machines().next().is_some()
    }

    /// The paths that there are, with the index of their uplink.
    fn machines(&self) -> impl Iterator<Item = (usize, &Path)> {
        let paths = self.paths.iter().enumerate();
        paths.filter_map(|(index, path)| Some((index, path.machine.as_ref()?)))
    }

    /// The uplinks whose path's targets are silent, and those whose are quiet, a bit for each.
    pub fn silent(&self) -> [u64; 2] {
        let set = |of: fn(&Path) -> bool| {
            let of_them = self.machines().filter(|(_, machine)| of(machine));
            of_them.fold(0, |set, (index, _)| set | 1u64 << index)
        };
        [set(Path::is_silent), set(Path::is_quiet)]
    }

    /// Whether the targets of an uplink's path are silent.
    pub fn is_silent(&self, uplink: usize) -> bool {
        self.path(uplink).is_some_and(Path::is_silent)
    }

    /// Whether silent targets of an uplink's path do answer, and this machine drops what they say.
    pub fn drops_answers(&self, uplink: usize) -> bool {
        self.path(uplink).is_some_and(Path::drops_answers)
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
