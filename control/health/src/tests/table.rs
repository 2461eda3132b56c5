//! Sequences of events and the transitions that they make.

use super::steps::Step::{At, Probes, Until};
use super::steps::{Step, lossy, run};
use super::*;

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

#[test]
fn what_was_asked_before_a_pause_counts_as_no_loss_of_a_link_that_is_dead() {
    let health = Health { interval_ms: 100, timeout_ms: Some(1000), window: 20, ..health(1) };
    let mut path = Path::adopt(health, 0);
    let seen = run(
        &mut path,
        vec![
            Probes { from: 0, count: 20, answered: true },
            Probes { from: 2000, count: 6, answered: false },
            Probes { from: 2900, count: 20, answered: false },
            Until(5000),
        ],
    );
    assert_eq!(seen.iter().map(|(_, to, _)| *to).collect::<Vec<_>>(), ["down"], "{seen:?}");
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
        let part = Part::Uplink("fiber".into());
        history.push(Event::State { part, transition }, time);
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
