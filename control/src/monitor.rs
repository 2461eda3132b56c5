//! The health of all uplinks together: fed by the kernel's view, the operator and the probers, it
//! says which uplinks flows may use and which take new ones.

use weir_api::{TargetView, UplinkView};
use weir_health::load::{Change, Rtt};
use weir_health::target::Status;
use weir_health::window::Figures;
use weir_health::{Entry, History, Part, Reason, Signal, State, Transition, Uplink, Wish, choose};
use weir_layout::control::path_state;
use weir_site::{Member, Site};

/// Transitions kept for `weir history`.
const HISTORY: usize = 1000;

/// The uplinks' state machines.
pub struct Monitor {
    uplinks: Vec<Watched>,
    history: History,
}

struct Watched {
    name: String,
    machine: Uplink,
    /// State bits as last told.
    problems: Option<u32>,
}

/// What follows from the health of all uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state word of each uplink.
    pub states: Vec<u32>,
    /// By policy, the uplinks that may take new flows, a bit for each.
    pub takers: Vec<u64>,
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
        Self { uplinks: uplinks.collect(), history: History::new(HISTORY) }
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

    /// Writes down that an uplink became too full for new flows, or has room again.
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
        let Some(transition) = changed else { return false };
        let name = &self.uplinks[uplink].name;
        let (from, to, reason) = (transition.from, transition.to, transition.reason);
        if matches!(to, State::Down | State::Degraded) && from != to {
            tracing::warn!(uplink = name, %from, %to, %reason, "worse");
        } else {
            tracing::info!(uplink = name, %from, %to, %reason, "uplink");
        }
        self.history.push(Part::Uplink(name.clone()), transition, now_ms());
        true
    }

    /// Writes down that a LAN went out of use, or is back.
    pub fn note_lan(&mut self, interface: String, transition: Transition) {
        let Transition { from, to, reason, .. } = transition;
        match to {
            State::Up => tracing::info!(lan = interface, %from, %to, %reason, "LAN"),
            _ => tracing::warn!(lan = interface, %from, %to, %reason, "worse"),
        }
        self.history.push(Part::Lan(interface), transition, now_ms());
    }

    /// What follows, given the bits last observed. An uplink is in use if its health says so, or if
    /// it is the last resort of every policy that it is a member of; if of some only, it is spared
    /// for them. `weighty` gives the members of a policy that have a weight, a bit for each: one
    /// without takes no flows, so that it spares no worse one from taking them.
    pub fn verdict(&self, site: &Site, weighty: impl Fn(usize) -> u64) -> Verdict {
        let standing =
            |index: usize| Some((index as u8, self.uplinks.get(index)?.machine.standing()));
        let well = self.uplinks.iter().enumerate().filter(|(_, u)| u.machine.state().usable());
        let well = well.fold(0u64, |set, (index, _)| set | 1 << index);
        let (mut kept, mut left) = (0, 0);
        let mut takers = Vec::new();
        let mut last_resort = 0;
        for (index, policy) in site.policies.iter().enumerate() {
            let weighty = weighty(index);
            let members = policy.members.iter().filter(|m| weighty >> (m.uplink & 63) & 1 == 1);
            let all = members.clone().fold(0, |set, member| set | 1u64 << (member.uplink & 63));
            let choice = choose(members.filter_map(|m| standing(usize::from(m.uplink))));
            takers.push(choice.take);
            let keep = choice.keep | self.undecided(&policy.members, choice.take);
            (kept, left) = (kept | keep, left | (all & !keep));
            last_resort |= if choice.last_resort { choice.take } else { 0 };
        }
        let in_use = well | (kept & !left);
        let states = self.uplinks.iter().enumerate().map(|(index, uplink)| {
            let problems = uplink.problems.map(|problems| problems & !path_state::DRAINING);
            let bit = |set: u64, state: u32| if set >> index & 1 == 1 { state } else { 0 };
            let health = match uplink.machine.state() {
                State::Up => 0,
                State::Degraded => path_state::DEGRADED,
                State::Recovering { .. } => path_state::HELD_DOWN,
                // What the kernel or the operator says is said already.
                State::Down if problems != Some(0) => 0,
                State::Down => path_state::UNHEALTHY,
                State::Draining => path_state::DRAINING,
            };
            problems.unwrap_or(0)
                | health
                | bit(in_use, path_state::USABLE)
                | bit(last_resort, path_state::LAST_RESORT)
                | bit(kept & !in_use, path_state::SPARED)
        });
        Verdict { states: states.collect(), takers }
    }

    /// The silent members that nothing better is known for. What silences all uplinks silences one
    /// after another: until one that takes flows has answered since, silence is no reason to cut.
    fn undecided(&self, members: &[Member], take: u64) -> u64 {
        let members = || members.iter().map(|member| usize::from(member.uplink));
        let quiet = |index: usize| self.uplinks.get(index).is_none_or(|u| u.machine.is_quiet());
        if members().any(|index| take >> index & 1 == 1 && !quiet(index)) {
            return 0;
        }
        members().filter(|index| self.is_silent(*index)).fold(0, |set, index| set | 1 << index)
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

    /// The transitions from `number` on.
    pub fn history(&self, number: u64) -> Vec<Entry> {
        self.history.since(number).cloned().collect()
    }

    /// How the uplinks are.
    pub fn view(&self, now: u64) -> Vec<UplinkView> {
        let view = |watched: &Watched| {
            let machine = &watched.machine;
            let target = |t: &weir_health::target::Watched| TargetView {
                target: t.definition().name.clone(),
                status: t.status(),
                figures: t.figures(),
                error: t.error().map(|(error, _)| error),
                error_ago_ms: t.error().map(|(_, at)| now.saturating_sub(at)),
                judged: !machine.health().implied,
            };
            UplinkView {
                uplink: watched.name.clone(),
                state: machine.state(),
                reason: machine.reason(),
                for_ms: now.saturating_sub(machine.since()),
                hold_down_ms: machine.hold_ms(),
                targets: machine.targets().iter().map(target).collect(),
                load: None,
            }
        };
        self.uplinks.iter().map(view).collect()
    }
}

/// The time of day, for people: milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map_or(0, |time| time.as_millis() as u64)
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
mod tests {
    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
        [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n\
        [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n\
        [[policy]]\nname = \"all\"\n\
        [[policy]]\nname = \"fiber-only\"\nmembers = [{ uplink = \"fiber\" }]\n";

    fn site() -> Site {
        weir_site::parse("weir.toml", SITE).unwrap()
    }

    fn told(problems: [u32; 2]) -> Verdict {
        let mut monitor = Monitor::new(&site(), &[], 0);
        monitor.observe(&problems, 0);
        monitor.verdict(&site(), |_| u64::MAX)
    }

    #[test]
    fn uplinks_without_a_problem_are_in_use() {
        let wanted = Verdict { states: vec![path_state::USABLE; 2], takers: vec![0b11, 0b01] };
        assert_eq!(told([0, 0]), wanted);
    }

    #[test]
    fn a_next_hop_that_is_not_known_yet_at_the_start_is_no_flap() {
        let mut monitor = Monitor::new(&site(), &[], 0);
        monitor.observe(&[path_state::NO_NEXT_HOP, 0], 0);
        monitor.observe(&[0, 0], 20);
        assert_eq!(monitor.verdict(&site(), |_| u64::MAX).states, [path_state::USABLE; 2]);
        let held = monitor
            .history(0)
            .into_iter()
            .any(|e| matches!(e.transition.to, State::Recovering { .. }));
        assert!(!held);
    }

    /// Whatever goes with the carrier: address and next hop.
    #[test]
    fn a_cut_is_one_flap_for_want_of_carrier() {
        let mut monitor = Monitor::new(&site(), &[], 0);
        monitor.observe(&[0, 0], 0);
        let gone = path_state::NO_CARRIER | path_state::NO_ADDRESS | path_state::NO_NEXT_HOP;
        monitor.observe(&[gone, 0], 10);
        monitor.observe(&[path_state::NO_NEXT_HOP, 0], 20);
        monitor.observe(&[0, 0], 30);
        let held = monitor.history(0).last().map(|entry| entry.transition.reason);
        assert_eq!(held, Some(Reason::Carrier), "{:?}", monitor.history(0));
        let hold_ms = site().uplinks[0].health.hold_down_ms;
        assert_eq!(monitor.view(40)[0].hold_down_ms, u64::from(hold_ms), "not doubled");
    }

    #[test]
    fn the_only_member_of_a_policy_is_its_last_resort_and_no_others() {
        let verdict = told([path_state::NO_NEXT_HOP, 0]);
        // Down for the policy that has another, whose flows leave.
        let state = path_state::NO_NEXT_HOP | path_state::SPARED | path_state::LAST_RESORT;
        assert_eq!(verdict.states, [state, path_state::USABLE]);
        assert_eq!(verdict.takers, [0b10, 0b01]);
    }

    #[test]
    fn a_last_resort_that_no_policy_would_leave_is_in_use() {
        let down = path_state::NO_NEXT_HOP;
        let verdict = told([down, down]);
        let state = down | path_state::USABLE | path_state::LAST_RESORT;
        assert_eq!(verdict.states, [state; 2]);
    }

    #[test]
    fn a_draining_uplink_takes_new_flows_only_when_no_other_member_can() {
        let usable = path_state::USABLE;
        let verdict = told([0, path_state::DRAINING]);
        assert_eq!(verdict.states, [usable, usable | path_state::DRAINING]);
        assert_eq!(verdict.takers, [0b01, 0b01]);
        // Alone in `fiber-only`.
        let verdict = told([path_state::DRAINING, 0]);
        assert_eq!(verdict.states, [usable | path_state::DRAINING, usable]);
        assert_eq!(verdict.takers, [0b10, 0b01]);
    }

    #[test]
    fn a_drained_uplink_is_down_as_by_hand() {
        let verdict = told([0, path_state::DRAINING | path_state::ADMIN_DOWN]);
        assert_eq!(verdict.states, [path_state::USABLE, path_state::ADMIN_DOWN]);
    }

    #[test]
    fn a_member_without_weight_spares_no_other() {
        let mut monitor = Monitor::new(&site(), &[], 0);
        monitor.observe(&[path_state::NO_NEXT_HOP, 0], 0);
        assert_eq!(monitor.verdict(&site(), |_| 0b01).takers, [0b01, 0b01]);
        assert_eq!(monitor.verdict(&site(), |_| u64::MAX).takers, [0b10, 0b01]);
    }

    #[test]
    fn a_link_without_carrier_is_nobodys_resort() {
        let verdict = told([path_state::NO_CARRIER, path_state::ADMIN_DOWN]);
        assert_eq!(verdict.states, [path_state::NO_CARRIER, path_state::ADMIN_DOWN]);
        assert_eq!(verdict.takers, [0, 0]);
    }

    /// Probes both uplinks every 100 ms, half an interval apart; those for which `answers` says so
    /// are answered at once. The state words every 10 ms.
    fn probed(answers: impl Fn(usize, u64) -> bool) -> Vec<(u64, Vec<u32>)> {
        let health = "health = { interval_ms = 100, targets = \
            [{ name = \"a\", probe = \"icmp\", address = \"192.0.2.1\" }] }";
        let text = SITE[..SITE.find("[[policy]]").unwrap()]
            .replace("interface = \"wan0\"", &format!("interface = \"wan0\"\n{health}"))
            .replace("interface = \"wan1\"", &format!("interface = \"wan1\"\n{health}"));
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let mut monitor = Monitor::new(&site, &[], 0);
        let states = (0..300u64).map(|step| {
            let now = step * 10;
            monitor.observe(&[0, 0], now);
            for uplink in 0..2 {
                if step % 10 == uplink as u64 * 5 {
                    let (target, seq) = (0, step as u32);
                    monitor.signal(uplink, Signal::Sent { target, seq }, now);
                    if answers(uplink, now) {
                        monitor.signal(uplink, Signal::Reply { target, seq, rtt_us: 1 }, now);
                    }
                }
            }
            monitor.tick(now);
            (now, monitor.verdict(&site, |_| u64::MAX).states)
        });
        states.collect()
    }

    #[test]
    fn what_silences_all_uplinks_takes_none_out_of_use() {
        let states = probed(|_, now| now < 1000);
        let usable = |states: &[u32]| states.iter().all(|s| s & path_state::USABLE != 0);
        let bad = states.iter().find(|(now, states)| *now > 100 && !usable(states));
        assert_eq!(bad, None);
        let resort = path_state::UNHEALTHY | path_state::USABLE | path_state::LAST_RESORT;
        assert_eq!(states.last().unwrap().1, [resort; 2]);
        let one = states.iter().any(|(_, s)| s[0] & !s[1] & path_state::UNHEALTHY != 0);
        assert!(one, "they do not fall at the same moment");
    }

    #[test]
    fn one_silent_uplink_is_out_of_use_at_once_beside_one_that_answers() {
        let states = probed(|uplink, now| uplink == 1 || now < 1000);
        let down = states.iter().find(|(_, states)| states[0] & path_state::UNHEALTHY != 0);
        assert_eq!(down.unwrap().1, [path_state::UNHEALTHY, path_state::USABLE]);
    }

    #[test]
    fn a_silent_uplink_is_out_of_use_when_another_is_found_to_answer() {
        // The other misses what it is asked while the first goes down.
        let states =
            probed(|uplink, now| now < 1000 || uplink == 1 && !(1000..1200).contains(&now));
        let down = states.iter().find(|(_, states)| states[0] & path_state::UNHEALTHY != 0);
        assert_eq!(down.unwrap().1[0], path_state::UNHEALTHY | path_state::USABLE);
        assert_eq!(states.last().unwrap().1, [path_state::UNHEALTHY, path_state::USABLE]);
    }

    #[test]
    fn an_uplink_in_use_stays_so_when_the_control_process_starts_again() {
        let earlier = [path_state::USABLE, path_state::ADMIN_DOWN];
        let mut monitor = Monitor::new(&site(), &earlier, 0);
        monitor.observe(&[0, path_state::ADMIN_DOWN], 0);
        assert_eq!(
            monitor.verdict(&site(), |_| u64::MAX).states,
            [path_state::USABLE, path_state::ADMIN_DOWN]
        );
        assert!(monitor.history(0).iter().all(|entry| entry.part.uplink() != Some("fiber")));
    }

    /// The states at the end, when the kernel says for so long that all is well.
    fn well_for(ms: u64, earlier: [u32; 2]) -> Vec<State> {
        let mut monitor = Monitor::new(&site(), &earlier, 0);
        monitor.observe(&[0, 0], 0);
        (0..=ms).for_each(|now| _ = monitor.tick(now));
        monitor.view(ms).iter().map(|uplink| uplink.state).collect()
    }

    #[test]
    fn a_hold_down_is_served_when_the_control_process_starts_again() {
        let hold_ms = u64::from(site().uplinks[0].health.hold_down_ms);
        let earlier = [path_state::HELD_DOWN, path_state::NO_CARRIER];
        let held = well_for(hold_ms, earlier);
        assert!(held.iter().all(|state| matches!(state, State::Recovering { .. })), "{held:?}");
        assert_eq!(well_for(hold_ms + 1, earlier), [State::Up; 2]);
        let by_hand = [path_state::ADMIN_DOWN, path_state::USABLE];
        assert_eq!(well_for(0, by_hand), [State::Up; 2], "put back by the operator");
    }

    #[test]
    fn a_degraded_uplink_stays_so_when_the_control_process_starts_again() {
        let hold_ms = u64::from(site().uplinks[0].health.hold_down_ms);
        let degraded = path_state::USABLE | path_state::DEGRADED;
        let earlier = [degraded, path_state::USABLE];
        assert_eq!(well_for(hold_ms, earlier), [State::Degraded, State::Up]);
        assert_eq!(well_for(hold_ms + 1, earlier), [State::Up; 2]);
    }

    #[test]
    fn an_uplink_that_fills_is_in_the_history_with_load_and_capacity() {
        let mut monitor = Monitor::new(&site(), &[path_state::USABLE; 2], 0);
        let tighter = Some((weir_site::load::Direction::Up, 91, 20_000_000));
        monitor.note_load(&Change { uplink: 1, saturated: true, tighter }, 5);
        monitor.note_load(&Change { uplink: 1, saturated: false, tighter: None }, 6);
        let told: Vec<_> = monitor
            .history(0)
            .iter()
            .map(|e| (e.part.to_string(), e.transition.to, e.transition.reason.to_string()))
            .collect();
        let full = "91 % of 20Mbit/s up: too full for new flows".to_owned();
        let unmeasured =
            "takes new flows again: no capacity or threshold to judge it by".to_owned();
        let lte = || "lte".to_owned();
        assert_eq!(told, [(lte(), State::Up, full), (lte(), State::Up, unmeasured)]);
    }

    #[test]
    fn the_round_trip_time_is_the_median_of_the_targets_that_answer() {
        let target =
            |n: u8| format!("{{ name = \"t{n}\", probe = \"icmp\", address = \"192.0.2.{n}\" }}");
        let targets: Vec<_> = (1..=4).map(target).collect();
        let probed =
            format!("interface = \"wan0\"\nhealth = {{ targets = [{}] }}", targets.join(", "));
        let text = SITE.replace("interface = \"wan0\"", &probed);
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let mut monitor = Monitor::new(&site, &[path_state::USABLE; 2], 0);
        assert_eq!(monitor.rtt(0), None);
        for (target, rtt_us) in [(0, 30_000), (1, 900_000), (2, 20_000)] {
            monitor.signal(0, Signal::Sent { target, seq: 1 }, 1000);
            monitor.signal(0, Signal::Reply { target, seq: 1, rtt_us }, 1000);
        }
        assert_eq!(monitor.rtt(0).map(|rtt| rtt.ms), Some(30.0));
        assert_eq!(monitor.rtt(1), None, "it has no targets");
    }
}
