//! When an uplink is too full.

use super::*;
use crate::load::spill::{LEAST_MS, Part, Spiller};

const SPILL: Option<Spill> = Some(Spill { above: 80, below: 60 });

fn parts(down: Figure, up: Figure) -> [Part; 2] {
    [
        Part { direction: Direction::Down, percent: down, capacity: 200_000_000 },
        Part { direction: Direction::Up, percent: up, capacity: 20_000_000 },
    ]
}

/// A spiller that is too full since 0.
fn full() -> Spiller {
    let mut spiller = Spiller::default();
    assert!(spiller.step(SPILL, &parts(steady(90.0), steady(5.0)), 0).is_some());
    spiller
}

#[test]
fn either_direction_fills_an_uplink_and_the_tighter_is_told() {
    for (down, up, wanted) in [
        (79.0, 79.0, None),
        (80.0, 10.0, Some((Direction::Down, 80, 200_000_000))),
        (10.0, 95.4, Some((Direction::Up, 95, 20_000_000))),
        (85.0, 95.4, Some((Direction::Up, 95, 20_000_000))),
    ] {
        let mut spiller = Spiller::default();
        let changed = spiller.step(SPILL, &parts(steady(down), steady(up)), 0);
        assert_eq!(changed, wanted.map(Some), "{down} {up}");
        assert_eq!(spiller.saturated(), wanted.is_some());
    }
}

#[test]
fn a_burst_fills_nothing_and_a_lull_empties_nothing() {
    let burst = Figure { weighted: 50.0, window: 100.0 };
    let lull = Figure { weighted: 75.0, window: 10.0 };
    assert_eq!(Spiller::default().step(SPILL, &parts(burst, steady(0.0)), 0), None);
    assert_eq!(full().step(SPILL, &parts(lull, steady(0.0)), LEAST_MS), None);
}

#[test]
fn both_directions_must_be_down_to_the_lower_threshold() {
    for (down, up, over) in [(61.0, 0.0, false), (0.0, 61.0, false), (60.0, 60.0, true)] {
        let changed = full().step(SPILL, &parts(steady(down), steady(up)), LEAST_MS);
        assert_eq!(changed.is_some(), over, "{down} {up}");
    }
}

#[test]
fn a_state_lasts_its_least_time() {
    let mut spiller = full();
    let empty = parts(steady(0.0), steady(0.0));
    assert_eq!(spiller.step(SPILL, &empty, LEAST_MS - 1), None);
    assert!(spiller.step(SPILL, &empty, LEAST_MS).is_some());
    let full = parts(steady(99.0), steady(0.0));
    assert_eq!(spiller.step(SPILL, &full, 2 * LEAST_MS - 1), None);
    assert!(spiller.step(SPILL, &full, 2 * LEAST_MS).is_some());
}

#[test]
fn without_threshold_or_capacity_nothing_is_too_full_from_now_on() {
    for (spill, parts) in [(None, &parts(steady(99.0), steady(0.0))[..]), (SPILL, &[][..])] {
        let mut spiller = full();
        assert_eq!(spiller.step(spill, parts, 1), Some(None));
        assert!(!spiller.saturated());
        assert_eq!(spiller.step(spill, parts, 2), None);
    }
}
