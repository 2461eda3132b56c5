//! What is learned of a link, and what is not.

use super::sim::{Kind, Link, Sim};
use super::*;

const CABLE: Link =
    Link { capacity: [100e6, 20e6], base_ms: 15.0, buffer_ms: 150.0, noise_ms: 5, wobble: 10 };

/// Flows that together ask for `part` of what the link can carry in a direction.
fn demand(link: Link, direction: Direction, part: f64) -> Kind {
    let bits = link.capacity[direction as usize] * part / 100.0;
    Kind { direction, bits, ms: 20_000, per_minute: 600 }
}

fn alone(link: Link, seed: u64) -> Sim {
    Sim::new(&[("", link)], "", seed)
}

#[test]
fn a_full_link_shows_its_capacity_within_fifteen_percent() {
    let links = [
        CABLE,
        Link { capacity: [1e9, 100e6], base_ms: 3.0, buffer_ms: 30.0, noise_ms: 1, wobble: 5 },
        Link { capacity: [10e6, 2e6], base_ms: 60.0, buffer_ms: 500.0, noise_ms: 30, wobble: 20 },
        Link { capacity: [40e6, 8e6], base_ms: 600.0, buffer_ms: 800.0, noise_ms: 40, wobble: 20 },
    ];
    for (seed, link) in (0..).zip(links) {
        for direction in Direction::BOTH {
            let mut sim = alone(link, seed);
            sim.run(60, &[demand(link, direction, 0.3)]);
            sim.run(120, &[demand(link, direction, 1.6)]);
            let error = sim.error(0, direction);
            assert!(error.is_some_and(|e| e.abs() <= 15.0), "{seed} {direction}: {error:?}");
            let other = Direction::BOTH[1 - direction as usize];
            assert_eq!(sim.error(0, other), None, "{seed}: acknowledgements teach nothing");
        }
    }
}

#[test]
fn an_idle_or_half_full_noisy_link_teaches_nothing() {
    let noisy = Link { noise_ms: 100, ..CABLE };
    for (seed, part) in [(1, 0.0), (2, 0.05), (3, 0.3), (4, 0.5)] {
        let mut sim = alone(noisy, seed);
        let both = Direction::BOTH.map(|d| demand(noisy, d, part));
        sim.run(900, if part > 0.0 { &both } else { &[] });
        assert_eq!(Direction::BOTH.map(|d| sim.error(0, d)), [None; 2], "{part}");
    }
}

#[test]
fn a_longer_path_is_no_full_link() {
    // A camera that sends without a pause; and nothing at all.
    for camera in [4e6, 0.0] {
        let mut sim = alone(CABLE, 5);
        sim.add(0, Direction::Up, camera);
        sim.run(300, &[]);
        sim.links[0].base_ms = 80.0;
        sim.run(100, &[]);
        let base = sim.load.view(0).unwrap().base_rtt_ms.unwrap();
        assert!(camera > 0.0 || base > 70.0, "at rest the new path is the base: {base}");
        sim.run(7200, &[]);
        assert_eq!(Direction::BOTH.map(|d| sim.error(0, d)), [None; 2], "{camera}");
    }
}

#[test]
fn a_load_that_varies_is_not_clamped_by_the_link() {
    let bursts = Kind { direction: Direction::Down, bits: 4e6, ms: 3000, per_minute: 120 };
    let mut sim = alone(CABLE, 12);
    sim.run(60, &[]);
    sim.links[0].base_ms = 80.0;
    sim.run(300, &[bursts]);
    assert_eq!(sim.error(0, Direction::Down), None);
}

#[test]
fn the_end_of_a_load_teaches_nothing_while_the_round_trip_time_comes_down() {
    let slow = Link { capacity: [20e6, 20e6], buffer_ms: 400.0, ..CABLE };
    let mut sim = alone(slow, 6);
    sim.run(60, &[]);
    sim.run(120, &[demand(slow, Direction::Down, 1.6)]);
    sim.add(0, Direction::Down, 8e6);
    let before = sim.error(0, Direction::Down).unwrap();
    sim.run(300, &[]);
    let after = sim.error(0, Direction::Down).unwrap();
    assert!(before.abs() < 15.0 && (before - after).abs() < 3.0, "{before} {after}");
}

#[test]
fn what_was_learned_grows_with_the_link_and_falls_slowly() {
    let mut sim = alone(CABLE, 7);
    let load = demand(CABLE, Direction::Down, 3.0);
    sim.run(120, &[load]);
    assert!(sim.error(0, Direction::Down).unwrap().abs() < 15.0);
    sim.links[0].capacity[0] = 160e6;
    sim.run(30, &[load]);
    assert!(sim.error(0, Direction::Down).unwrap().abs() < 15.0, "grown at once");
    sim.links[0].capacity[0] = 80e6;
    sim.run(20, &[load]);
    assert!(sim.error(0, Direction::Down).unwrap() > 50.0, "a bad minute is not believed");
    sim.run(300, &[load]);
    assert!(sim.error(0, Direction::Down).unwrap().abs() < 15.0, "but bad times are");
}

#[test]
fn without_confirmation_for_a_day_it_is_forgotten() {
    let mut sim = alone(CABLE, 8);
    sim.run(120, &[demand(CABLE, Direction::Down, 1.6)]);
    assert!(sim.error(0, Direction::Down).is_some());
    sim.now += 86_400_000;
    sim.run(1, &[]);
    assert_eq!(sim.error(0, Direction::Down), None);
}

#[test]
fn what_is_configured_is_not_learned_but_tells_which_direction_is_full() {
    let up = "capacity = { up = \"20M\" }";
    let mut sim = Sim::new(&[(up, CABLE)], "", 9);
    sim.add(0, Direction::Down, 30e6);
    sim.run(120, &[demand(CABLE, Direction::Up, 1.6)]);
    let view = sim.load.view(0).unwrap();
    assert_eq!(
        (view.up.capacity, view.up.capacity_from),
        (Some(20_000_000), CapacityFrom::Configured)
    );
    assert_eq!(view.down.capacity, None, "the upload queues, not the download");
}

#[test]
fn two_full_directions_of_an_unknown_link_are_ambiguous() {
    let mut sim = alone(CABLE, 10);
    sim.add(0, Direction::Down, 30e6);
    sim.run(120, &[demand(CABLE, Direction::Up, 1.6)]);
    assert_eq!(sim.error(0, Direction::Down), None);
}

#[test]
fn without_probes_nothing_is_learned() {
    let mut load = alone(CABLE, 11).load;
    let mut counts = Counts::default();
    for now in (0..600_000).step_by(100) {
        counts.bytes += 1_250_000;
        counts.packets += 1000;
        load.step(&[Reading { counts: [counts; 2], rtt: None }], now);
    }
    assert_eq!(load.view(0).unwrap().down.capacity, None);
}
