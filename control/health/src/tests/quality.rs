//! Loss, delay and jitter, and the limits to them.

use super::steps::Step::{At, Probes};
use super::steps::{lossy, run};
use super::*;

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
