//! Rates from counters.

use super::*;
use crate::load::rate::Rate;
use crate::load::window::Extreme;

/// Counters at a steady `bits` per second, every 100 ms from `begin` for `ms`.
fn feed(rate: &mut Rate, counts: &mut Counts, bits: u64, begin: u64, ms: u64) {
    for now in (begin..begin + ms).step_by(100) {
        counts.bytes += bits / 80;
        counts.packets += bits / 80 / 1000;
        rate.sample(*counts, now);
    }
}

#[test]
fn a_steady_load_is_its_rate_in_both_views() {
    let (mut rate, mut counts) = (Rate::default(), Counts { bytes: 1 << 40, packets: 1 << 30 });
    feed(&mut rate, &mut counts, 80_000_000, 0, 10_000);
    let Figure { weighted, window } = rate.figure();
    assert!((weighted - 80e6).abs() < 1e3 && (window - 80e6).abs() < 1e3, "{weighted} {window}");
    assert_eq!(rate.packet_size(), 1000.0);
}

#[test]
fn the_last_second_forgets_what_the_weighted_view_remembers() {
    let (mut rate, mut counts) = (Rate::default(), Counts::default());
    feed(&mut rate, &mut counts, 80_000_000, 0, 10_000);
    feed(&mut rate, &mut counts, 0, 10_000, 1500);
    assert_eq!(rate.figure().window, 0.0);
    assert!((20e6..60e6).contains(&rate.figure().weighted), "{:?}", rate.figure());
}

#[test]
fn a_counter_at_rest_that_is_passed_over_gives_the_same_rate_afterwards() {
    let quiet = |passed_over: bool| {
        let (mut rate, mut counts) = (Rate::default(), Counts::default());
        feed(&mut rate, &mut counts, 80_000_000, 0, 1000);
        assert!(!rate.is_at_rest(counts), "there is a load");
        feed(&mut rate, &mut counts, 0, 1000, 60_000);
        assert!(rate.is_at_rest(counts));
        match passed_over {
            true => (61_000..62_000).step_by(100).for_each(|now| rate.rest(now)),
            false => feed(&mut rate, &mut counts, 0, 61_000, 1000),
        }
        feed(&mut rate, &mut counts, 8_000_000, 62_000, 300);
        assert!(!rate.is_at_rest(counts));
        rate.figure()
    };
    assert_eq!(quiet(true), quiet(false));
}

#[test]
fn a_counter_that_begins_anew_or_jumps_leaves_the_rate_as_it_was() {
    for jump in [0, 1 << 50] {
        let (mut rate, mut counts) = (Rate::default(), Counts { bytes: 1 << 40, packets: 1 << 30 });
        feed(&mut rate, &mut counts, 80_000_000, 0, 10_000);
        counts = Counts { bytes: jump, packets: jump };
        feed(&mut rate, &mut counts, 80_000_000, 10_000, 1000);
        let Figure { weighted, window } = rate.figure();
        assert!((weighted - 80e6).abs() < 1e6 && (window - 80e6).abs() < 1e6, "{jump}: {window}");
    }
}

#[test]
fn a_pause_of_the_reader_is_averaged_over() {
    let (mut rate, mut counts) = (Rate::default(), Counts::default());
    feed(&mut rate, &mut counts, 80_000_000, 0, 1000);
    counts.bytes += 10_000_000 * 30;
    rate.sample(counts, 900 + 30_000);
    assert!((rate.figure().window - 80e6).abs() < 1e5, "{:?}", rate.figure());
}

#[test]
fn memory_is_bounded_however_often_one_samples() {
    let mut rate = Rate::default();
    let mut least = Extreme::least(1000);
    for now in 0..100_000 {
        rate.sample(Counts { bytes: now * 100, packets: now }, now);
        least.push(now as f64, now);
    }
    assert!(rate.len() <= 51, "{}", rate.len());
    assert!(least.len() <= 13, "{}", least.len());
}

#[test]
fn an_extreme_is_of_late_only() {
    let mut least = Extreme::least(12_000);
    least.push(5.0, 0);
    for now in (1000..12_000).step_by(1000) {
        least.push(20.0, now);
        assert_eq!(least.get(), Some(5.0), "at {now}");
    }
    least.push(20.0, 12_000);
    assert_eq!(least.get(), Some(20.0));
}
