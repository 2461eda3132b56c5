//! Every fault of a link against the decision that is due, with the false alarms beside it.

use super::sim::{noisy, run};
use super::*;
use crate::pace::Random;
use crate::passive::NewFlows;

/// When faults begin.
const FAULT: u64 = 100_000;
const MINUTE: u64 = 60_000;

/// All that can be judged is.
fn watchful(targets: usize) -> Health {
    Health {
        rtt_ms: Some(Limits { fail: 300, recover: 200 }),
        jitter_ms: Some(Limits { fail: 100, recover: 60 }),
        ..health(targets)
    }
}

#[test]
fn thirty_minutes_of_healthy_noise_are_no_transition() {
    for seed in 0..200 {
        for targets in [2, 3] {
            let seen = run(&watchful(targets), seed, 30 * MINUTE, vec![], &mut noisy);
            assert_eq!(seen, [], "seed {seed}, {targets} targets");
        }
    }
}

#[test]
fn thirty_minutes_of_healthy_noise_are_no_transition_at_the_shortest_interval() {
    let fast = Health { interval_ms: 100, timeout_ms: Some(250), window: 100, ..watchful(3) };
    for seed in 0..20 {
        assert_eq!(run(&fast, seed, 30 * MINUTE, vec![], &mut noisy), [], "seed {seed}");
    }
}

#[test]
fn a_blackhole_at_any_time_is_down_within_three_intervals_and_a_quarter() {
    for interval_ms in [100, 1000, 5000] {
        for seed in 0..300 {
            let health = Health { interval_ms, ..health(1 + seed as usize % 3) };
            let interval = u64::from(interval_ms);
            let begin = interval * 20 + Random::new(seed).below(interval * 10);
            let usual = 5 + Random::new(!seed).below(interval / 2);
            // A reply that is under way when the link dies is lost, too.
            let mut link = |now: u64, random: &mut Random| {
                let rtt = usual + random.below(interval / 10);
                (now + rtt < begin).then_some(rtt)
            };
            let seen = run(&health, seed, begin + 10 * interval, vec![], &mut link);
            let [Transition { to: State::Down, reason, at, .. }] = seen[..] else {
                panic!("seed {seed}, {interval} ms: {seen:?}");
            };
            assert!(matches!(reason, Reason::TargetsFailed { .. }), "{reason:?}");
            let took = at - begin;
            assert!(took <= interval * 13 / 4, "seed {seed}: {took} of {interval} ms");
        }
    }
}

#[test]
fn a_blackhole_of_a_link_with_much_jitter_is_down_when_its_probes_time_out() {
    for seed in 0..300 {
        let health = health(1 + seed as usize % 3);
        let begin = 20_000 + Random::new(seed).below(10_000);
        let mut link = |now: u64, random: &mut Random| {
            let rtt = 5 + random.below(500);
            (now + rtt < begin).then_some(rtt)
        };
        let seen = run(&health, seed, begin + 10_000, vec![], &mut link);
        let [Transition { to: State::Down, at, .. }] = seen[..] else {
            panic!("seed {seed}: {seen:?}");
        };
        let took = at - begin;
        // Three intervals, the timeout of one, and a tenth of one between the times of probes.
        assert!(took <= 4101, "seed {seed}: {took} ms");
    }
}

/// A fault: what it does to the link, and what is to be decided within how long.
struct Fault {
    name: &'static str,
    signals: Vec<(u64, Signal)>,
    link: fn(u64, &mut Random) -> Option<u64>,
    due: fn(&Reason) -> bool,
    state: fn(State) -> bool,
    within: u64,
}

fn users(percent: u32) -> Vec<(u64, Signal)> {
    let counts = |second: u64| {
        let mut random = Random::new(second);
        let mut tcp = NewFlows { flows: 20, ..NewFlows::default() };
        for _ in 0..tcp.flows {
            let host = random.draw();
            let user = random.draw();
            tcp.remotes.add(host);
            tcp.users.add(user);
            if random.below(100) < u64::from(percent) {
                tcp.unanswered += 1;
                tcp.silent.add(host);
                tcp.askers.add(user);
            }
        }
        Signal::Passive(Box::new(PassiveCounts { tcp, ..PassiveCounts::default() }))
    };
    (0..30).map(|second| (FAULT + second * 1000, counts(second))).collect()
}

fn flapping() -> Vec<(u64, Signal)> {
    (0..1000).map(|flap| (FAULT + flap * 60, Signal::Carrier(flap % 2 == 1))).collect()
}

fn faults() -> Vec<Fault> {
    let degraded = |state| state == State::Degraded;
    let down = |state| state == State::Down;
    vec![
        Fault {
            name: "cut",
            signals: vec![(FAULT, Signal::Carrier(false))],
            link: |_, _| None,
            due: |r| *r == Reason::Carrier,
            state: down,
            within: 0,
        },
        Fault {
            name: "renumbered",
            signals: vec![(FAULT, Signal::Address(false)), (FAULT + 50, Signal::Address(true))],
            link: noisy,
            due: |r| *r == Reason::Address,
            state: down,
            within: 0,
        },
        Fault {
            name: "next hop gone",
            signals: vec![(FAULT, Signal::NextHop(false))],
            link: |_, _| None,
            due: |r| *r == Reason::NextHop,
            state: down,
            within: 0,
        },
        Fault {
            name: "blackholed beyond the first hop",
            signals: vec![],
            link: |_, _| None,
            due: |r| matches!(r, Reason::TargetsFailed { failed: 3, of: 3, quorum: 1 }),
            state: down,
            within: 3370,
        },
        Fault {
            name: "half open: nothing comes back",
            signals: users(100),
            link: |_, _| None,
            due: |r| matches!(r, Reason::PassiveSyn { .. } | Reason::TargetsFailed { .. }),
            state: |_| true,
            within: 3370,
        },
        Fault {
            name: "half open: probes answer, users' connections die",
            signals: users(80),
            link: noisy,
            due: |r| matches!(r, Reason::PassiveSyn { .. }),
            state: degraded,
            within: 3000,
        },
        Fault {
            name: "lossy",
            signals: vec![],
            link: |_, random| (random.below(100) >= 40).then_some(40),
            due: |r| matches!(r, Reason::Loss { .. } | Reason::TargetsFailed { .. }),
            state: |_| true,
            within: MINUTE,
        },
        Fault {
            name: "slow",
            signals: vec![],
            link: |_, random| Some(600 + random.below(50)),
            due: |r| matches!(r, Reason::Rtt { .. }),
            state: degraded,
            within: MINUTE,
        },
        Fault {
            name: "jittery",
            signals: vec![],
            link: |_, random| Some(20 + random.below(2) * 400),
            due: |r| matches!(r, Reason::Jitter { .. }),
            state: degraded,
            within: MINUTE,
        },
        Fault {
            name: "flapping",
            signals: flapping(),
            link: noisy,
            due: |r| *r == Reason::Carrier,
            state: down,
            within: 0,
        },
    ]
}

#[test]
fn every_fault_has_its_decision_and_none_comes_before() {
    for fault in faults() {
        for seed in 0..50 {
            let mut link = |now: u64, random: &mut Random| {
                if now < FAULT { noisy(now, random) } else { (fault.link)(now, random) }
            };
            let seen =
                run(&watchful(3), seed, FAULT + 2 * MINUTE, fault.signals.clone(), &mut link);
            let name = fault.name;
            assert!(
                seen.iter().all(|t| t.at >= FAULT),
                "{name}, seed {seed}: false alarm {seen:?}"
            );
            let due = |t: &&Transition| (fault.due)(&t.reason) && (fault.state)(t.to);
            let Some(first) = seen.iter().find(due) else {
                panic!("{name}, seed {seed}: {seen:?}")
            };
            let took = first.at - FAULT;
            assert!(took <= fault.within, "{name}, seed {seed}: {took} ms");
        }
    }
}

#[test]
fn a_busy_link_is_no_fault() {
    let mut busy =
        |_: u64, random: &mut Random| (random.below(100) >= 5).then(|| 120 + random.below(100));
    for seed in 0..50 {
        assert_eq!(run(&watchful(3), seed, 5 * MINUTE, users(5), &mut busy), [], "seed {seed}");
    }
}

#[test]
fn a_thousand_flaps_a_minute_are_one_outage_with_the_longest_hold_down() {
    let seen = run(&watchful(3), 1, FAULT + 5 * MINUTE, flapping(), &mut noisy);
    let end = FAULT + 999 * 60;
    let [down, recovering, up] = seen[..] else { panic!("{seen:?}") };
    assert_eq!((down.to, down.reason, down.at), (State::Down, Reason::Carrier, FAULT));
    assert!(matches!(recovering.reason, Reason::Holding { hold_ms: 64_000, .. }));
    assert_eq!(up.to, State::Up);
    assert!(up.at > end + 64_000, "{up:?}");
}

#[test]
fn flaps_are_forgiven_one_by_one() {
    let health = health(0);
    let mut flaps = flaps::Flaps::default();
    (0..1000).for_each(|now| flaps.add(&health, now));
    assert_eq!(flaps.hold_ms(&health), 64_000);
    let holds: Vec<_> = [1, 2, 3, 4]
        .map(|memories| {
            let mut later = flaps;
            later.add(&health, 999 + memories * 100_000);
            later.hold_ms(&health)
        })
        .into();
    assert_eq!(holds, [64_000, 32_000, 16_000, 8000]);
}

#[test]
fn all_links_of_a_site_survive_the_death_of_what_is_probed() {
    let seen = run(&watchful(2), 3, 10 * MINUTE, vec![], &mut |_, _| None);
    assert_eq!(seen.len(), 1);
    let choice = choose([(0, Standing::Silent), (1, Standing::Silent), (2, Standing::NoCarrier)]);
    assert_eq!((choice.take, choice.last_resort), (0b11, true));
}
