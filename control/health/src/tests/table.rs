//! Sequences of events and the transitions that they make.

use super::*;
use crate::passive::ByHost;

/// One line of a sequence.
enum Step {
    /// A signal at a time.
    At(u64, Signal),
    /// All targets, from a time on, so often at the interval: answered after 20 ms, or not at all.
    Probes { from: u64, count: u32, answered: bool },
    /// Time passes.
    Until(u64),
}
use Step::{At, Probes, Until};

/// The transitions of a sequence, the path ticked whenever it asks for it.
fn run(path: &mut Path, steps: Vec<Step>) -> Vec<(u64, &'static str, Reason)> {
    let mut signals: Vec<(u64, Option<Signal>)> = Vec::new();
    let mut seq = 0;
    for step in steps {
        match step {
            At(at, signal) => signals.push((at, Some(signal))),
            Until(at) => signals.push((at, None)),
            Probes { from, count, answered } => {
                for probe in 0..u64::from(count) {
                    for target in 0..path.targets().len() {
                        let at = from + probe * u64::from(path.health().interval_ms);
                        signals.push((at, Some(Signal::Sent { target, seq })));
                        if answered {
                            let reply = Signal::Reply { target, seq, rtt_us: 20_000 };
                            signals.push((at + 20, Some(reply)));
                        }
                        seq += 1;
                    }
                }
            }
        }
    }
    signals.sort_by_key(|(at, _)| *at);
    let mut seen = Vec::new();
    let mut note = |transition: Option<Transition>| {
        if let Some(Transition { from, to, reason, at }) = transition {
            assert_ne!(std::mem::discriminant(&from), std::mem::discriminant(&to));
            seen.push((at, to.name(), reason));
        }
    };
    for (at, signal) in signals {
        while let Some(deadline) = path.deadline().filter(|d| *d < at) {
            note(path.tick(deadline));
            assert!(path.deadline().is_none_or(|d| d > deadline), "time stands still");
        }
        note(match signal {
            Some(signal) => path.signal(signal, at),
            None => path.tick(at),
        });
    }
    seen
}

const HELD: Reason = Reason::Holding { hold_ms: 8000, flaps: 1 };

#[test]
fn it_is_down_until_targets_answer_and_up_with_the_first() {
    let mut path = connected(health(2));
    let reason = Reason::Unproven { answering: 0, of: 2, quorum: 1 };
    assert_eq!((path.state(), path.reason()), (State::Down, reason));
    let seen = run(&mut path, vec![Probes { from: 100, count: 1, answered: true }]);
    assert_eq!(seen, [(120, "up", Reason::Started)]);
}

#[test]
fn before_the_first_signal_it_is_starting() {
    assert_eq!(Path::new(health(0), 0).reason(), Reason::Starting);
}

#[test]
fn without_targets_carrier_and_address_are_enough() {
    let path = connected(health(0));
    assert_eq!((path.state(), path.reason()), (State::Up, Reason::Started));
}

#[test]
fn an_uplink_without_carrier_never_shows_up() {
    let mut path = Path::new(health(0), 0);
    path.signal(Signal::Address(true), 0);
    assert_eq!((path.state(), path.reason()), (State::Down, Reason::Carrier));
}

#[test]
fn an_adopted_uplink_is_up_until_its_targets_fail() {
    let mut path = Path::adopt(health(1), 0);
    assert_eq!((path.state(), path.reason()), (State::Up, Reason::Adopted));
    let seen = run(&mut path, vec![Probes { from: 0, count: 4, answered: false }, Until(3500)]);
    let reason = Reason::TargetsFailed { failed: 1, of: 1, quorum: 1 };
    assert_eq!(seen, [(3001, "down", reason)]);
}

#[test]
fn links_faults_are_instant_and_come_back_after_the_hold_down() {
    for (off, reason) in [
        (Signal::Device(false), Reason::Device),
        (Signal::Carrier(false), Reason::Carrier),
        (Signal::Address(false), Reason::Address),
        (Signal::NextHop(false), Reason::NextHop),
    ] {
        let on = match off {
            Signal::Device(_) => Signal::Device(true),
            Signal::Carrier(_) => Signal::Carrier(true),
            Signal::Address(_) => Signal::Address(true),
            _ => Signal::NextHop(true),
        };
        let mut path = connected(health(0));
        let seen = run(&mut path, vec![At(500, off), At(2000, on), Until(20_000)]);
        assert_eq!(
            seen,
            [
                (500, "down", reason),
                (3001, "recovering", HELD),
                (10_001, "up", Reason::Recovered { held_ms: 8001 }),
            ]
        );
    }
}

#[test]
fn after_a_cut_targets_must_answer_up_times_in_a_row() {
    let mut path = connected(health(1));
    let seen = run(
        &mut path,
        vec![
            Probes { from: 0, count: 3, answered: true },
            At(2500, Signal::Carrier(false)),
            At(2600, Signal::Carrier(true)),
            Probes { from: 3000, count: 16, answered: true },
        ],
    );
    let up = Reason::Recovered { held_ms: 8001 };
    assert_eq!(
        seen[1..],
        [
            (2500, "down", Reason::Carrier),
            (7020 + 1001, "recovering", HELD),
            (7020 + 8001, "up", up)
        ]
    );
}

#[test]
fn while_it_waits_for_answers_it_says_so() {
    let mut path = Path::adopt(health(2), 0);
    path.signal(Signal::Carrier(false), 10);
    path.signal(Signal::Carrier(true), 20);
    assert_eq!(path.reason(), Reason::Unproven { answering: 0, of: 2, quorum: 1 });
}

#[test]
fn a_blackhole_is_down_by_the_silence_of_its_targets() {
    let mut path = connected(health(2));
    let seen = run(
        &mut path,
        vec![
            Probes { from: 0, count: 5, answered: true },
            Probes { from: 5000, count: 5, answered: false },
        ],
    );
    // Last heard of at 4 020.
    let reason = Reason::TargetsFailed { failed: 2, of: 2, quorum: 1 };
    assert_eq!(seen[1..], [(4020 + 3200 + 1, "down", reason)]);
}

#[test]
fn one_failed_target_of_three_is_no_reason() {
    let mut path = connected(health(3));
    let mut steps = Vec::new();
    for probe in 0..100 {
        for target in 0..3 {
            let seq = probe * 3 + target as u32;
            let at = u64::from(probe) * 1000;
            steps.push(At(at, Signal::Sent { target, seq }));
            steps.push(match target {
                1 => At(at + 5, Signal::Failed { target, seq, why: ProbeError::Refused }),
                _ => At(at + 20, Signal::Reply { target, seq, rtt_us: 20_000 }),
            });
        }
    }
    assert_eq!(run(&mut path, steps), [(20, "up", Reason::Started)]);
    assert_eq!(path.targets()[1].status(), Status::Failed);
    assert_eq!(path.targets()[1].error().map(|(why, _)| why), Some(ProbeError::Refused));
}

#[test]
fn a_quorum_of_two_wants_two() {
    let mut path = Path::adopt(Health { quorum: 2, ..health(3) }, 0);
    let mut fail = |target: usize| {
        (0..3).find_map(|seq| {
            let at = u64::from(seq) * 1000;
            path.signal(Signal::Sent { target, seq }, at);
            path.signal(Signal::Failed { target, seq, why: ProbeError::Unreachable }, at)
        })
    };
    assert_eq!(fail(0), None);
    let reason = Reason::TargetsFailed { failed: 2, of: 3, quorum: 2 };
    assert_eq!(fail(1).map(|t| t.reason), Some(reason));
}

#[test]
fn the_figures_of_an_outage_do_not_outlast_it() {
    let mut path = Path::adopt(health(1), 0);
    let seen = run(
        &mut path,
        vec![
            Probes { from: 0, count: 10, answered: true },
            Probes { from: 10_000, count: 60, answered: false },
            Probes { from: 70_000, count: 20, answered: true },
        ],
    );
    // Five answers from 70 020 on, and the hold-down.
    let up = (74_020 + 8001, "up", Reason::Recovered { held_ms: 8001 });
    assert_eq!(seen.last(), Some(&up));
}

#[test]
fn a_lost_probe_or_two_are_loss_even_where_they_make_the_target_failed() {
    for lost in [1, 2] {
        let mut path = Path::adopt(Health { down: lost, ..health(1) }, 0);
        let cycle = |from: u64| {
            let answered = 4 - lost;
            let then = from + u64::from(answered) * 1000;
            [
                Probes { from, count: answered, answered: true },
                Probes { from: then, count: lost, answered: false },
            ]
        };
        let mut steps: Vec<_> = (0..10).flat_map(|number| cycle(number * 4000)).collect();
        steps.push(Probes { from: 40_000, count: 1, answered: true });
        run(&mut path, steps);
        let loss = path.targets()[0].figures().loss_percent;
        assert!(loss.window > 20.0 * f64::from(lost), "{lost}: {loss:?}");
    }
}

#[test]
fn on_a_link_with_much_jitter_an_answer_as_late_as_usual_ends_a_silence() {
    let mut path = Path::adopt(health(1), 0);
    let probe = |seq: u32, rtt: Option<u64>| {
        let at = u64::from(seq) * 1000;
        let reply = rtt.map(|rtt| {
            let rtt_us = rtt as u32 * 1000;
            At(at + rtt, Signal::Reply { target: 0, seq, rtt_us })
        });
        [Some(At(at, Signal::Sent { target: 0, seq })), reply].into_iter().flatten()
    };
    let varied = (0..=20).flat_map(|seq| probe(seq, Some(if seq % 2 == 0 { 30 } else { 250 })));
    let lost = (21..23).flat_map(|seq| probe(seq, None));
    let steps = varied.chain(lost).chain(probe(23, Some(250))).chain([Until(23_999)]);
    assert_eq!(run(&mut path, steps.collect()), []);
}

#[test]
fn an_answer_after_the_timeout_is_none() {
    let mut path = Path::adopt(Health { timeout_ms: Some(500), down: 1, ..health(1) }, 0);
    path.signal(Signal::Sent { target: 0, seq: 0 }, 0);
    let late = Signal::Reply { target: 0, seq: 0, rtt_us: 500_001 };
    let transition = path.signal(late, 501);
    assert_eq!(transition.map(|t| t.to), Some(State::Down));
}

#[test]
fn an_answer_in_time_that_the_process_reads_late_counts() {
    let mut path = Path::adopt(Health { down: 1, ..health(1) }, 0);
    path.signal(Signal::Sent { target: 0, seq: 0 }, 0);
    let reply = Signal::Reply { target: 0, seq: 0, rtt_us: 20_000 };
    assert_eq!(path.signal(reply, 60_000), None);
}

#[test]
fn a_step_of_the_round_trip_time_within_the_timeout_is_no_silence() {
    let mut path = Path::adopt(health(1), 0);
    let mut signals = Vec::new();
    for seq in 0..50u32 {
        let rtt = if seq < 20 { 20 } else { 990 };
        let at = u64::from(seq) * 1000;
        signals.push(At(at, Signal::Sent { target: 0, seq }));
        let reply = Signal::Reply { target: 0, seq, rtt_us: rtt as u32 * 1000 };
        signals.push(At(at + rtt, reply));
    }
    assert_eq!(run(&mut path, signals), []);
}

#[test]
fn a_prober_that_pauses_is_no_silence() {
    let mut path = Path::adopt(health(1), 0);
    let seen = run(
        &mut path,
        vec![
            Probes { from: 0, count: 3, answered: true },
            Probes { from: 3000, count: 2, answered: false },
            Probes { from: 90_000, count: 3, answered: true },
        ],
    );
    assert_eq!(seen, []);
}

/// `count` probes a second of one target from `from` on: every `lose`th is lost.
fn lossy(from: u64, count: u32, lose: u32, rtt_us: impl Fn(u32) -> u32) -> Vec<Step> {
    let mut steps = Vec::new();
    for probe in 0..count {
        let (at, seq) = (from + u64::from(probe) * 1000, from as u32 + probe);
        steps.push(At(at, Signal::Sent { target: 0, seq }));
        if probe % lose != lose - 1 {
            let rtt_us = rtt_us(probe);
            let reply = Signal::Reply { target: 0, seq, rtt_us };
            steps.push(At(at + u64::from(rtt_us / 1000), reply));
        }
    }
    steps
}

#[test]
fn loss_degrades_and_its_end_heals_after_the_hold_down() {
    let mut path = Path::adopt(health(1), 0);
    let mut steps = lossy(0, 60, 3, |_| 20_000);
    steps.extend(lossy(60_000, 100, u32::MAX, |_| 20_000));
    let seen = run(&mut path, steps);
    let [(_, "degraded", Reason::Loss { percent, threshold: 20 }), (at, "up", reason)] = seen[..]
    else {
        panic!("{seen:?}");
    };
    assert!((20..40).contains(&percent), "{percent}");
    assert!(at > 60_000 + 20_000 + 8000, "{at}: before the window forgot and the hold-down");
    assert_eq!(reason, Reason::Recovered { held_ms: 8001 });
}

#[test]
fn a_slow_link_is_degraded_by_its_round_trip_time() {
    let slow = Health { rtt_ms: Some(Limits { fail: 300, recover: 200 }), ..health(1) };
    let mut path = Path::adopt(slow, 0);
    let mut steps = lossy(0, 30, u32::MAX, |_| 100_000);
    steps.extend(lossy(30_000, 60, u32::MAX, |_| 400_000));
    steps.extend(lossy(90_000, 60, u32::MAX, |_| 250_000));
    steps.extend(lossy(150_000, 90, u32::MAX, |_| 100_000));
    let seen = run(&mut path, steps);
    let [(down, "degraded", Reason::Rtt { ms, threshold: 300 }), (up, "up", _)] = seen[..] else {
        panic!("{seen:?}");
    };
    assert!((300..=400).contains(&ms) && down > 40_000 && up > 150_000, "{seen:?}");
}

#[test]
fn a_jittery_link_is_degraded_by_its_jitter() {
    let jittery = Health { jitter_ms: Some(Limits { fail: 80, recover: 40 }), ..health(1) };
    let mut path = Path::adopt(jittery, 0);
    let steps = lossy(0, 60, u32::MAX, |probe| 20_000 + probe % 2 * 100_000);
    let seen = run(&mut path, steps);
    let [(_, "degraded", Reason::Jitter { ms: 80..=100, threshold: 80 })] = seen[..] else {
        panic!("{seen:?}");
    };
}

#[test]
fn after_an_outage_a_link_over_a_limit_is_degraded_rather_than_down() {
    let slow = Health { rtt_ms: Some(Limits { fail: 300, recover: 200 }), ..health(1) };
    let mut path = Path::adopt(slow, 0);
    let mut steps = vec![At(0, Signal::Carrier(false)), At(1000, Signal::Carrier(true))];
    steps.extend(lossy(2000, 30, u32::MAX, |_| 500_000));
    let seen = run(&mut path, steps);
    let states: Vec<_> = seen.iter().map(|(_, state, _)| *state).collect();
    assert_eq!(states, ["down", "recovering", "degraded"]);
    assert_eq!(seen[2].2, Reason::Rtt { ms: 500, threshold: 200 });
}

#[test]
fn one_slow_target_of_two_is_no_reason() {
    let slow = Health { rtt_ms: Some(Limits { fail: 300, recover: 200 }), ..health(2) };
    let mut path = Path::adopt(slow, 0);
    let mut steps = Vec::new();
    for seq in 0..60u32 {
        for (target, rtt_us) in [(0, 20_000), (1, 600_000)] {
            let at = u64::from(seq) * 1000;
            steps.push(At(at, Signal::Sent { target, seq }));
            let reply = Signal::Reply { target, seq, rtt_us };
            steps.push(At(at + u64::from(rtt_us) / 1000, reply));
        }
    }
    assert_eq!(run(&mut path, steps), []);
}

fn flows(flows: u32, unanswered: u32, hosts: u64, silent: u64) -> passive::NewFlows {
    let set = |count: u64| {
        let mut remotes = Remotes::default();
        (0..count).for_each(|host| remotes.add(host * 37));
        remotes
    };
    let (remotes, silent) = (set(hosts), set(silent));
    let (users, elsewhere) = (set(2), passive::Share::default());
    passive::NewFlows { flows, unanswered, remotes, silent, users, askers: users, elsewhere }
}

fn tcp(flows: passive::NewFlows) -> Signal {
    Signal::Passive(Box::new(PassiveCounts { tcp: flows, ..PassiveCounts::default() }))
}

#[test]
fn dying_connections_degrade_a_link_whose_probes_answer() {
    let mut path = Path::adopt(health(1), 0);
    let mut steps = vec![Probes { from: 0, count: 30, answered: true }];
    for second in 1..=4 {
        steps.push(At(second * 1000, tcp(flows(10, 9, 8, 7))));
    }
    let seen = run(&mut path, steps);
    let reason = Reason::PassiveSyn { unanswered: 18, of: 20 };
    // Spared, it has no connections to show; the counts age out and the hold-down runs.
    let up = (4000 + 5001 + 8001, "up", Reason::Recovered { held_ms: 8001 });
    let [degraded, (at, "up", _)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(degraded, (2000, "degraded", reason));
    assert!(at <= up.0, "{at}");
}

#[test]
fn udp_without_reply_degrades() {
    let mut path = Path::adopt(health(0), 0);
    let udp = flows(40, 38, 20, 19);
    let counts = PassiveCounts { udp, ..PassiveCounts::default() };
    let seen = run(&mut path, vec![At(1000, Signal::Passive(Box::new(counts)))]);
    assert_eq!(seen, [(1000, "degraded", Reason::PassiveUdp { unanswered: 38, of: 40 })]);
}

#[test]
fn data_sent_again_degrades() {
    let mut path = Path::adopt(health(0), 0);
    let counts = PassiveCounts { segments: 2000, retransmitted: 500, ..PassiveCounts::default() };
    let seen = run(&mut path, vec![At(1000, Signal::Passive(Box::new(counts)))]);
    let reason = Reason::PassiveRetransmits { retransmitted: 500, of: 2000 };
    assert_eq!(seen, [(1000, "degraded", reason)]);
}

#[test]
fn what_one_user_or_one_remote_sends_again_condemns_no_link() {
    let spread: ByHost = std::array::from_fn(|_| 50);
    let mut one = ByHost::default();
    (one[3], one[7]) = (700, 100);
    for (by_user, by_remote) in [(one, spread), (spread, one), (one, one)] {
        let counts = PassiveCounts {
            segments: 2000,
            retransmitted: 800,
            by_user,
            by_remote,
            ..PassiveCounts::default()
        };
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(Signal::Passive(Box::new(counts)), 1000), None);
        let all = PassiveCounts { by_user: spread, by_remote: spread, ..counts };
        assert!(path.signal(Signal::Passive(Box::new(all)), 1001).is_some());
    }
}

#[test]
fn neither_few_connections_nor_one_dead_server_condemn_a_link() {
    for innocent in [
        flows(19, 19, 19, 19),
        flows(1000, 900, 30, 1),
        flows(1000, 900, 4, 3),
        flows(1000, 900, 100, 10),
        flows(1000, 490, 100, 60),
    ] {
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(tcp(innocent), 1000), None, "{innocent:?}");
    }
}

#[test]
fn a_few_users_of_many_condemn_no_link() {
    let mut path = Path::adopt(health(0), 0);
    let dead = flows(1000, 990, 400, 400);
    let many = passive::NewFlows { users: Remotes::from([0x1f, 0, 0, 0]), ..dead };
    assert_eq!(path.signal(tcp(many), 1000), None);
}

#[test]
fn what_fails_by_other_uplinks_alike_condemns_no_link() {
    for (flows_elsewhere, unanswered, condemned) in [
        (1000, 900, false),
        (1000, 1000, false),
        (1000, 790, true),
        // Too few to tell.
        (19, 19, true),
    ] {
        let mut dying = flows(1000, 900, 400, 400);
        dying.elsewhere = passive::Share { flows: flows_elsewhere, unanswered };
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(tcp(dying), 1000).is_some(), condemned, "{dying:?}");
    }
    let mut all_dead = flows(1000, 1000, 400, 400);
    all_dead.elsewhere = passive::Share { flows: 1000, unanswered: 1000 };
    assert_eq!(Path::adopt(health(0), 0).signal(tcp(all_dead), 1000), None);
}

#[test]
fn users_connections_that_are_no_signal_condemn_no_link() {
    let passive = Passive { enabled: Some(false), ..Passive::default() };
    let mut path = Path::adopt(Health { passive, ..health(0) }, 0);
    assert_eq!(path.signal(tcp(flows(1000, 990, 400, 400)), 1000), None);
    let passive = Passive { enabled: Some(true), ..Passive::default() };
    assert!(path.reconfigure(Health { passive, ..health(0) }, 1001).is_some());
}

#[test]
fn one_user_who_scans_the_net_condemns_no_link() {
    let mut scan = flows(1000, 990, 400, 400);
    scan.askers = Remotes::from([1, 0, 0, 0]);
    let mut path = Path::adopt(health(0), 0);
    assert_eq!(path.signal(tcp(scan), 1000), None);
    // Two who get no answer do; where there is but one, the setting says so.
    let mut path = Path::adopt(health(0), 0);
    assert!(path.signal(tcp(flows(1000, 990, 400, 400)), 1000).is_some());
    let passive = Passive { min_users: 1, ..Passive::default() };
    let mut path = Path::adopt(Health { passive, ..health(0) }, 0);
    assert!(path.signal(tcp(scan), 1000).is_some());
}

#[test]
fn the_operator_is_obeyed_at_once_both_ways() {
    let mut path = connected(health(0));
    let seen =
        run(&mut path, vec![At(1, Signal::Wish(Wish::Down)), At(2, Signal::Wish(Wish::Use))]);
    assert_eq!(seen, [(1, "down", Reason::Admin), (2, "up", Reason::Released)]);
}

#[test]
fn a_draining_uplink_is_usable_until_it_is_drained() {
    let mut path = connected(health(0));
    let seen = run(&mut path, vec![At(1, Signal::Wish(Wish::Drain)), Until(1000)]);
    assert_eq!(seen, [(1, "draining", Reason::Draining)]);
    assert!(path.state().usable());
    let steps =
        vec![At(1001, Signal::Wish(Wish::Drained)), At(1002, Signal::Wish(Wish::Use)), Until(2000)];
    let seen = run(&mut path, steps);
    assert_eq!(seen, [(1001, "down", Reason::Drained), (1002, "up", Reason::Released)]);
}

#[test]
fn the_operator_ends_a_drain_at_once() {
    let mut path = connected(health(0));
    let steps = vec![At(1, Signal::Wish(Wish::Drain)), At(2, Signal::Wish(Wish::Use))];
    let seen = run(&mut path, steps);
    assert_eq!(seen, [(1, "draining", Reason::Draining), (2, "up", Reason::Released)]);
}

#[test]
fn a_draining_uplink_that_breaks_is_down_and_drains_on_when_it_is_well_again() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Wish(Wish::Drain)),
        At(2, Signal::Carrier(false)),
        At(3, Signal::Carrier(true)),
        Until(20_000),
    ];
    let states: Vec<_> = run(&mut path, steps).iter().map(|(_, state, _)| *state).collect();
    assert_eq!(states, ["draining", "down", "recovering", "draining"]);
}

#[test]
fn what_breaks_while_it_is_out_of_use_is_held_down() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Wish(Wish::Down)),
        At(2, Signal::NextHop(false)),
        At(3, Signal::NextHop(true)),
        At(4, Signal::Wish(Wish::Use)),
        Until(20_000),
    ];
    let states: Vec<_> = run(&mut path, steps).iter().map(|(_, state, _)| *state).collect();
    assert_eq!(states, ["down", "recovering", "up"]);
}

#[test]
fn the_operator_does_not_cut_a_hold_down_short() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Carrier(false)),
        At(2, Signal::Wish(Wish::Down)),
        At(3, Signal::Carrier(true)),
        At(4, Signal::Wish(Wish::Use)),
        Until(20_000),
    ];
    let seen = run(&mut path, steps);
    assert_eq!(seen.last(), Some(&(8005, "up", Reason::Recovered { held_ms: 8001 })));
}

#[test]
fn a_relapse_while_it_recovers_starts_again_and_doubles() {
    let mut path = connected(health(0));
    let steps = vec![
        At(0, Signal::NextHop(false)),
        At(100, Signal::NextHop(true)),
        At(5000, Signal::NextHop(false)),
        At(5100, Signal::NextHop(true)),
        Until(30_000),
    ];
    let seen = run(&mut path, steps);
    let again = Reason::Holding { hold_ms: 16_000, flaps: 2 };
    assert_eq!(
        seen,
        [
            (0, "down", Reason::NextHop),
            (1101, "recovering", HELD),
            (5000, "down", Reason::NextHop),
            (7101, "recovering", again),
            (21_101, "up", Reason::Recovered { held_ms: 16_001 }),
        ]
    );
}

#[test]
fn while_it_settles_the_fault_that_is_over_is_not_the_reason() {
    let mut path = connected(health(0));
    path.signal(Signal::NextHop(false), 10);
    path.signal(Signal::NextHop(true), 20);
    assert_eq!((path.state(), path.reason()), (State::Down, HELD));
}

#[test]
fn a_timeout_that_is_told_with_a_later_answer_comes_before_it() {
    for answer_first in [true, false] {
        let mut path = Path::adopt(Health { up: 2, ..health(1) }, 0);
        path.signal(Signal::Carrier(false), 0);
        path.signal(Signal::Carrier(true), 0);
        for (seq, at) in [(0, 0), (1, 1000), (2, 2000)] {
            path.signal(Signal::Sent { target: 0, seq }, at);
        }
        path.signal(Signal::Reply { target: 0, seq: 1, rtt_us: 50_000 }, 1050);
        if !answer_first {
            path.tick(2050);
        }
        path.signal(Signal::Reply { target: 0, seq: 2, rtt_us: 50_000 }, 2050);
        assert_eq!(path.targets()[0].status(), Status::Answering);
    }
}

#[test]
fn what_comes_late_comes_now() {
    let mut path = connected(health(0));
    path.signal(Signal::NextHop(false), 10_000);
    path.signal(Signal::NextHop(true), 10_000);
    let cut = path.signal(Signal::Carrier(false), 4000);
    assert_eq!((cut, path.reason()), (None, Reason::Carrier));
    path.signal(Signal::Carrier(true), 3000);
    assert_eq!(path.tick(10_000), None);
    assert_eq!(path.tick(12_001).map(|t| t.at), Some(12_001));
}

#[test]
fn reloading_changes_nothing_where_nothing_changed() {
    let mut path = connected(health(2));
    run(&mut path, vec![Probes { from: 0, count: 20, answered: true }]);
    path.tick(20_000);
    let before = format!("{path:?}");
    assert_eq!(path.reconfigure(health(2), 20_000), None);
    assert_eq!(format!("{path:?}"), before);
}

#[test]
fn reloading_with_a_new_target_and_the_old_in_another_place_is_no_evidence() {
    let mut path = connected(health(2));
    run(&mut path, vec![Probes { from: 0, count: 20, answered: true }]);
    let moved = Health { targets: vec![target(7), target(1), target(0)], quorum: 3, ..health(0) };
    assert_eq!(path.reconfigure(moved, 20_000), None);
    let probes: Vec<_> = path.targets().iter().map(|t| t.figures().probes).collect();
    assert_eq!(probes, [0, 20, 20]);
}

#[test]
fn the_last_resort_is_the_least_bad_with_carrier() {
    use Standing::*;
    let masks = |standings: &[Standing]| {
        let choice = choose((0..).zip(standings.iter().copied()));
        (choice.take, choice.keep, choice.last_resort)
    };
    assert_eq!(masks(&[Up, Degraded, Silent]), (0b001, 0b011, false));
    assert_eq!(masks(&[Silent, Degraded, Recovering]), (0b010, 0b010, false));
    assert_eq!(masks(&[Up, Draining]), (0b01, 0b11, false));
    assert_eq!(masks(&[Silent, Draining, Recovering]), (0b010, 0b010, false));
    assert_eq!(masks(&[Silent, Recovering, NoCarrier]), (0b010, 0b010, true));
    assert_eq!(masks(&[Silent, Silent, NoCarrier]), (0b011, 0b011, true));
    assert_eq!(masks(&[NoAddress, NoNextHop, Admin]), (0b010, 0b010, true));
    assert_eq!(masks(&[NoAddress, Admin]), (0b001, 0b001, true));
    assert_eq!(masks(&[NoCarrier, Admin]), (0, 0, false));
}

#[test]
fn a_standing_follows_the_state() {
    let mut path = connected(health(1));
    assert_eq!(path.standing(), Standing::Unproven);
    for (signal, standing) in
        [(Signal::Carrier(false), Standing::NoCarrier), (Signal::Wish(Wish::Down), Standing::Admin)]
    {
        path.signal(signal, 10);
        assert_eq!(path.standing(), standing);
    }
    assert_eq!(Path::adopt(health(1), 0).standing(), Standing::Up);
}

#[test]
fn history_keeps_the_newest_and_numbers_all() {
    let transition =
        Transition { from: State::Up, to: State::Down, reason: Reason::Carrier, at: 5 };
    let mut history = History::new(3);
    for time in 0..5 {
        history.push(Part::Uplink("fiber".into()), transition, time);
    }
    let numbers: Vec<_> = history.since(0).map(|e| (e.number, e.time_ms)).collect();
    assert_eq!(numbers, [(2, 2), (3, 3), (4, 4)]);
    assert_eq!(history.since(4).count(), 1);
    let json = serde_json::to_string(history.since(4).next().unwrap()).unwrap();
    assert_eq!(
        json,
        r#"{"number":4,"time_ms":4,"uplink":"fiber","from":"up","to":"down","reason":{"kind":"carrier"},"at":5}"#
    );
}

#[test]
fn the_losses_of_a_short_outage_degrade_nothing_after_it() {
    let quick = || Health { interval_ms: 100, up: 3, hold_down_ms: 500, window: 20, ..health(2) };
    for lost in 3..8 {
        let mut path = connected(quick());
        // A little early, so that the last one lost has some time left when this is answered.
        let from = 2000 + u64::from(lost) * 100 - 30;
        let seen = run(
            &mut path,
            vec![
                Probes { from: 0, count: 20, answered: true },
                Probes { from: 2000, count: lost, answered: false },
                Probes { from, count: 20, answered: true },
            ],
        );
        let states: Vec<_> = seen.iter().map(|(_, state, _)| *state).collect();
        assert_eq!(states, ["up", "down", "recovering", "up"], "{lost} lost: {seen:?}");
    }
}

/// What this machine says instead of sending, at the interval.
fn not_sent(from: u64, count: u64) -> impl Iterator<Item = Step> {
    let why = ProbeError::Local(1);
    (0..count).map(move |probe| At(from + probe * 1000, Signal::Failed { target: 0, seq: 0, why }))
}

#[test]
fn probes_that_this_machine_does_not_send_are_no_evidence() {
    let mut path = Path::adopt(health(1), 0);
    let mut steps = vec![Probes { from: 0, count: 10, answered: true }];
    steps.extend(not_sent(10_000, 60));
    assert_eq!(run(&mut path, steps), []);
    let target = &path.targets()[0];
    assert_eq!(target.error(), Some((ProbeError::Local(1), 69_000)));
    assert_eq!((target.is_blocked(), target.figures().loss_percent.window), (true, 0.0));
    assert!(!path.is_quiet(), "nobody was asked");
    // Those that are sent again are waited for from then on.
    let seen = run(&mut path, vec![Probes { from: 70_000, count: 10, answered: false }]);
    let [(at, "down", Reason::TargetsFailed { .. })] = seen[..] else { panic!("{seen:?}") };
    assert!((73_000..=73_300).contains(&at), "{at}");
}

#[test]
fn an_uplink_whose_probes_cannot_leave_is_judged_by_the_rest() {
    let mut path = connected(health(1));
    let mut steps: Vec<Step> = not_sent(1000, 5).collect();
    steps.push(At(6000, Signal::Carrier(false)));
    steps.push(At(7000, Signal::Carrier(true)));
    steps.extend(not_sent(7000, 20));
    let seen: Vec<_> = run(&mut path, steps).iter().map(|(at, to, _)| (*at, *to)).collect();
    assert_eq!(seen, [(1000, "up"), (6000, "down"), (8001, "recovering"), (15_001, "up")]);
}

#[test]
fn a_silent_next_hop_that_is_probed_for_want_of_targets_is_only_doubted() {
    let mut path = Path::adopt(Health { implied: true, ..health(1) }, 0);
    let answered = Probes { from: 0, count: 10, answered: true };
    assert_eq!(run(&mut path, vec![answered]), []);
    assert!(!path.is_silent());
    let lost = lossy(10_000, 60, 2, |_| 900_000);
    assert_eq!(run(&mut path, lost), [], "its figures are not the link's");
    assert_eq!(run(&mut path, vec![Probes { from: 70_000, count: 10, answered: false }]), []);
    assert!(path.is_silent());
}

#[test]
fn an_uplink_that_comes_back_degraded_and_goes_down_again_flaps() {
    let slow = Health { rtt_ms: Some(Limits { fail: 300, recover: 200 }), up: 1, ..health(1) };
    let mut path = Path::adopt(slow, 0);
    let mut holds = Vec::new();
    for round in 0..4 {
        let from = round * 60_000;
        run(&mut path, lossy(from, 40, u32::MAX, |_| 600_000));
        assert_eq!(path.state(), State::Degraded, "round {round}");
        run(&mut path, lossy(from + 40_000, 20, 1, |_| 0));
        assert_eq!(path.state(), State::Down, "round {round}");
        holds.push(path.hold_ms());
    }
    assert_eq!(holds, [8000, 16_000, 32_000, 64_000]);
}

#[test]
fn errors_are_told_with_what_to_do() {
    for (error, told) in [
        (ProbeError::Local(1), "not sent: EPERM, a firewall of this machine drops it: see its"),
        (ProbeError::Local(24), "not sent: EMFILE, no free descriptor: raise LimitNOFILE"),
        (ProbeError::Local(99), "not sent: EADDRNOTAVAIL, no such address here"),
        (ProbeError::Tls(TlsFault::Expired), "TLS: the certificate has expired (or the clock"),
        (ProbeError::HttpStatus(502), "HTTP status 502"),
        (ProbeError::Dropped, "answered, but this machine drops the answer: see its firewall's"),
    ] {
        assert!(error.to_string().starts_with(told), "{error}");
    }
}
