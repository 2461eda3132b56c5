//! Spillover, tiers and balance at a simulated site.

use super::sim::{Kind, Link, Sim};
use super::*;

const FIBER: Link =
    Link { capacity: [100e6, 100e6], base_ms: 10.0, buffer_ms: 100.0, noise_ms: 2, wobble: 10 };
const HUNDRED: &str = "capacity = { down = \"100M\", up = \"100M\" }";

/// Downloads of 1 Mbit/s for 10 s on average, which together make `megabits` per second.
fn downloads(megabits: u64) -> Kind {
    Kind { direction: Direction::Down, bits: 1e6, ms: 20_000, per_minute: megabits * 6 }
}

#[test]
fn an_uplink_that_fills_spills_to_the_other_and_takes_flows_again() {
    let nine = format!("weight = 9\n{HUNDRED}");
    let mut sim = Sim::new(&[(&nine, FIBER), (HUNDRED, FIBER)], "", 1);
    sim.run(120, &[downloads(130)]);
    let first = sim.changes.first().expect("nine tenths of 130 M do not fit").1;
    assert_eq!((first.uplink, first.saturated), (0, true));
    // By weight it would carry 117 % of what it can.
    let busy: Vec<f64> = (0..60)
        .map(|_| {
            sim.run(5, &[downloads(130)]);
            sim.percent(0)
        })
        .collect();
    let mean = busy.iter().sum::<f64>() / busy.len() as f64;
    assert!((55.0..85.0).contains(&mean), "{mean} {busy:?}");
    assert!(busy.iter().all(|percent| *percent < 95.0), "{busy:?}");
    assert!(sim.percent(1) > 40.0, "{}", sim.percent(1));
    sim.run(60, &[downloads(50)]);
    assert!(!sim.load.saturated(0));
    assert!((sim.share(0) - 90.0).abs() < 0.1, "{}", sim.share(0));
}

#[test]
fn while_it_is_full_it_gets_no_new_flow() {
    let nine = format!("weight = 9\n{HUNDRED}");
    let mut sim = Sim::new(&[(&nine, FIBER), (HUNDRED, FIBER)], "", 2);
    while !sim.load.saturated(0) {
        sim.run(1, &[downloads(130)]);
        assert!(sim.now < 120_000, "it never fills");
    }
    let before = sim.placed[0];
    assert_eq!(sim.share(0), 0.0);
    sim.run(1, &[downloads(130)]);
    assert_eq!(sim.placed[0], before);
}

#[test]
fn no_state_is_shorter_than_its_least_time() {
    let mut sim = Sim::new(&[(HUNDRED, FIBER), (HUNDRED, FIBER)], "", 3);
    let short = Kind { ms: 500, per_minute: 60_000, ..downloads(0) };
    sim.run(600, &[short, downloads(60)]);
    for uplink in [0, 1] {
        let times: Vec<u64> =
            sim.changes.iter().filter(|(_, c)| c.uplink == uplink).map(|(at, _)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= spill::LEAST_MS), "{times:?}");
    }
}

#[test]
fn when_all_are_full_nobody_is_spared() {
    let mut sim = Sim::new(&[(HUNDRED, FIBER), (HUNDRED, FIBER)], "", 4);
    sim.run(120, &[downloads(400)]);
    assert!(sim.load.saturated(0) && sim.load.saturated(1));
    assert_eq!(sim.placement.takers, 0b11);
    assert!((sim.share(0) - 50.0).abs() < 0.1);
}

#[test]
fn the_next_tier_takes_over_and_gives_back() {
    let tiers = "members = [{ uplink = \"u0\" }, { uplink = \"u1\", tier = 2 }]";
    let mut sim = Sim::new(&[(HUNDRED, FIBER), (HUNDRED, FIBER)], tiers, 5);
    sim.run(60, &[downloads(40)]);
    assert_eq!(sim.placed[1], 0, "the primary has room");
    sim.run(300, &[downloads(140)]);
    assert!(sim.placed[1] > 500, "{:?}", sim.placed);
    sim.run(30, &[downloads(30)]);
    let spilled = sim.placed[1];
    sim.run(300, &[downloads(30)]);
    assert_eq!(sim.placed[1], spilled, "the primary has room again");
    assert_eq!(sim.share(0), 100.0);
}

#[test]
fn a_policy_that_does_not_spill_keeps_off_the_backup() {
    let tiers = "spillover = false\nmembers = [{ uplink = \"u0\" }, { uplink = \"u1\", tier = 2 }]";
    let mut sim = Sim::new(&[(HUNDRED, FIBER), (HUNDRED, FIBER)], tiers, 6);
    sim.run(120, &[downloads(140)]);
    assert!(sim.load.saturated(0), "that it is full is told all the same");
    assert_eq!(sim.placed[1], 0);
}

#[test]
fn least_loaded_levels_unlike_links_without_going_to_and_fro() {
    let lte = Link { capacity: [50e6, 20e6], base_ms: 40.0, ..FIBER };
    let fifty = "capacity = { down = \"50M\", up = \"20M\" }";
    let links = [(HUNDRED, FIBER), (fifty, lte), (HUNDRED, FIBER)];
    let mut sim = Sim::new(&links, "balance = \"least-loaded\"", 7);
    // Many, lest chance alone fills a link.
    let small = Kind { bits: 2e5, ..downloads(5 * 140) };
    sim.run(120, &[small]);
    // Evenly shared, the second would be at 93 %.
    sim.moved = 0;
    sim.changes.clear();
    for _ in 0..60 {
        sim.run(5, &[small]);
        for uplink in 0..3 {
            assert!(
                (35.0..78.0).contains(&sim.percent(uplink)),
                "{uplink}: {}",
                sim.percent(uplink)
            );
        }
    }
    assert_eq!(sim.changes, []);
    assert!((10.0..30.0).contains(&sim.share(1)), "{}", sim.share(1));
    // Five minutes move less than all buckets six times.
    assert!(sim.moved < 6 * 65_536, "{}", sim.moved);
}

#[test]
fn least_loaded_turns_away_from_an_uplink_that_others_fill() {
    let mut sim = Sim::new(&[(HUNDRED, FIBER), (HUNDRED, FIBER)], "balance = \"least-loaded\"", 8);
    sim.run(60, &[downloads(20)]);
    let before = sim.share(0);
    // What was placed by another policy.
    sim.well = 0b01;
    sim.run(60, &[downloads(70)]);
    sim.well = 0b11;
    sim.run(1, &[]);
    assert!(sim.share(0) < before - 15.0, "{} {}", before, sim.share(0));
}

#[test]
fn lowest_latency_uses_the_near_link_until_it_queues() {
    let far = Link { base_ms: 60.0, ..FIBER };
    let probed = format!(
        "{HUNDRED}\nhealth = {{ targets = [{{ name = \"t\", probe = \"icmp\", address = \
         \"192.0.2.1\" }}] }}"
    );
    let mut sim = Sim::new(&[(&probed, FIBER), (&probed, far)], "balance = \"lowest-latency\"", 9);
    sim.run(10, &[]);
    let before = sim.placed[1];
    sim.run(300, &[downloads(50)]);
    assert_eq!(sim.placed[1], before, "the far one");
    sim.run(300, &[downloads(150)]);
    assert!(sim.placed[1] > before + 500, "{:?}", sim.placed);
}
