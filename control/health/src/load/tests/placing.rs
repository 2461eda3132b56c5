//! Which members take new flows.

use super::*;
use crate::load::place::{Known, Placer, REVIEW_MS};
use crate::load::weigh;

/// Places flows once, for a policy that is new.
fn place(
    balance: Balance,
    members: &[Member],
    takers: u64,
    known: &dyn Fn(u8) -> Known,
) -> Placement {
    Placer::new(balance, true).place(members, takers, known, 0)
}

fn full(uplinks: u64) -> impl Fn(u8) -> Known {
    move |uplink| Known { saturated: uplinks >> uplink & 1 == 1, ..Known::default() }
}

fn room(rooms: &[f64]) -> impl Fn(u8) -> Known {
    let rooms = rooms.to_vec();
    move |uplink| Known { room: rooms.get(usize::from(uplink)).copied(), ..Known::default() }
}

fn rtt(rtts: &[f64]) -> impl Fn(u8) -> Known {
    let rtts = rtts.to_vec();
    move |uplink| {
        let rtt_ms = rtts.get(usize::from(uplink)).copied().filter(|ms| *ms > 0.0);
        Known { rtt_ms, ..Known::default() }
    }
}

#[test]
fn full_uplinks_take_nothing_while_another_has_room() {
    let tiers = [member(0, 1, 5), member(1, 1, 5), member(2, 2, 5)];
    let idle = [member(0, 1, 5), member(1, 1, 0)];
    for (members, takers, saturated, wanted) in [
        (&tiers[..], 0b111, 0b000, 0b111),
        (&tiers, 0b111, 0b001, 0b110),
        (&tiers, 0b111, 0b011, 0b100),
        (&tiers, 0b111, 0b111, 0b111),
        // The others are not healthy: it takes what comes.
        (&tiers, 0b001, 0b001, 0b001),
        (&tiers, 0b011, 0b011, 0b011),
        // The other has no weight, so it takes nothing.
        (&idle, 0b011, 0b001, 0b011),
    ] {
        let placed = place(Balance::Hash, members, takers, &full(saturated)).takers;
        assert_eq!(placed, wanted, "{takers:b} {saturated:b}");
    }
}

#[test]
fn a_policy_that_does_not_spill_stays_where_it_is() {
    let members = [member(0, 1, 5), member(1, 2, 5)];
    let placed = Placer::new(Balance::Hash, false).place(&members, 0b11, &full(0b01), 0);
    assert_eq!(placed.takers, 0b11);
}

#[test]
fn the_weights_are_the_configured_ones_unless_all_room_is_known() {
    let members = [member(0, 1, 7), member(1, 1, 3)];
    let rooms = room(&[100e6, 50e6]);
    assert_eq!(place(Balance::Hash, &members, 0b11, &rooms).weights, [7, 3]);
    assert_eq!(place(Balance::LeastLoaded, &members, 0b11, &room(&[100e6])).weights, [7, 3]);
    assert_eq!(place(Balance::LeastLoaded, &members, 0b11, &rooms).weights, [10_000, 5_000]);
}

#[test]
fn room_counts_in_the_active_tier_alone_and_weight_zero_stays_zero() {
    let members = [member(0, 1, 7), member(1, 1, 3), member(2, 2, 4), member(3, 1, 0)];
    let placed = place(Balance::LeastLoaded, &members, 0b1111, &room(&[50e6, 100e6]));
    assert_eq!(placed.weights, [5_000, 10_000, 4, 0]);
}

#[test]
fn weights_are_reviewed_once_a_second_and_move_by_more_than_the_dead_band() {
    let members = [member(0, 1, 1), member(1, 1, 1)];
    let mut placer = Placer::new(Balance::LeastLoaded, true);
    let mut at = |rooms: [f64; 2], now| placer.place(&members, 0b11, &room(&rooms), now).weights;
    let even = vec![10_000, 10_000];
    assert_eq!(at([100e6, 100e6], 0), even);
    assert_eq!(at([100e6, 20e6], REVIEW_MS - 1), even, "too early");
    assert_eq!(at([100e6, 90e6], REVIEW_MS), even, "about the same");
    assert_eq!(at([100e6, 20e6], 2 * REVIEW_MS), [10_000, 2_000]);
}

#[test]
fn a_full_uplink_keeps_a_little_weight_by_which_to_be_seen_again() {
    assert_eq!(weigh::by_room(&[100e6, 0.0], &[]), Some(vec![10_000, 100]));
    assert_eq!(weigh::by_room(&[0.0, 0.0], &[]), Some(vec![10_000, 10_000]));
}

#[test]
fn the_nearest_take_flows_and_those_about_as_near() {
    let members = [member(0, 1, 1), member(1, 1, 1), member(2, 1, 1), member(3, 2, 1)];
    for (rtts, wanted) in [
        ([20.0, 29.0, 31.0, 1.0], 0b1011),
        ([200.0, 249.0, 251.0, 1.0], 0b1011),
        // Of those without a round-trip time nothing is known.
        ([0.0, 29.0, 0.0, 0.0], 0b1010),
        ([0.0, 0.0, 0.0, 0.0], 0b1111),
    ] {
        let placed = place(Balance::LowestLatency, &members, 0b1111, &rtt(&rtts));
        assert_eq!(placed.takers, wanted, "{rtts:?}");
        assert_eq!(placed.weights, [1, 1, 1, 1]);
    }
}

#[test]
fn who_is_near_stays_so_up_to_twice_as_far() {
    let far = |ms| weigh::nearest(&[(0, Some(20.0)), (1, Some(ms))], 0b01);
    let near = |ms| weigh::nearest(&[(0, Some(20.0)), (1, Some(ms))], 0b11);
    assert_eq!([far(30.0), far(31.0), near(40.0), near(41.0)], [0b11, 0b01, 0b11, 0b01]);
}

#[test]
fn when_the_nearest_dies_the_next_take_over_at_once() {
    let members = [member(0, 1, 1), member(1, 1, 1)];
    let mut placer = Placer::new(Balance::LowestLatency, true);
    let known = rtt(&[20.0, 80.0]);
    assert_eq!(placer.place(&members, 0b11, &known, 0).takers, 0b01);
    assert_eq!(placer.place(&members, 0b10, &known, 1).takers, 0b10);
}

#[test]
fn heavy_flows_go_where_most_room_is() {
    let members = [member(0, 1, 1), member(1, 1, 9), member(2, 2, 1)];
    let heavy = |takers, rooms: &[f64]| place(Balance::Hash, &members, takers, &room(rooms)).heavy;
    assert_eq!(heavy(0b111, &[90e6, 50e6, 500e6]), Some(0), "of the active tier");
    assert_eq!(heavy(0b110, &[90e6, 50e6, 500e6]), Some(1), "of those that take flows");
    assert_eq!(heavy(0b111, &[90e6]), None, "unknown");
    assert_eq!(heavy(0b000, &[90e6, 50e6]), None, "nobody");
}

#[test]
fn the_place_for_heavy_flows_changes_only_for_much_more_room() {
    let pick = |a, b| weigh::roomiest(&[(0, Some(a)), (1, Some(b))], Some(0));
    assert_eq!(pick(100.0, 124.0), Some(0));
    assert_eq!(pick(100.0, 125.0), Some(1));
    assert_eq!(weigh::roomiest(&[(1, Some(1.0)), (2, Some(2.0))], Some(0)), Some(2), "it is gone");
}

#[test]
fn heavy_flows_of_lowest_latency_stay_near() {
    let members = [member(0, 1, 1), member(1, 1, 1)];
    let known = |uplink: u8| Known {
        room: Some([10e6, 90e6][usize::from(uplink)]),
        rtt_ms: Some([10.0, 90.0][usize::from(uplink)]),
        saturated: false,
    };
    assert_eq!(place(Balance::LowestLatency, &members, 0b11, &known).heavy, Some(0));
}
