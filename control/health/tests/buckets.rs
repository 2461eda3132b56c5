//! The laws of the bucket tables.

use proptest::prelude::*;
use weir_health::buckets::{Buckets, bound, moved, quotas};
use weir_layout::NONE;
use weir_layout::control::{BUCKETS, BucketTable, Member};

const ALL: u64 = u64::MAX;

fn members(weights: &[u16]) -> Vec<Member> {
    tier(1, 0, weights)
}

fn tier(tier: u8, first: u8, weights: &[u16]) -> Vec<Member> {
    (first..)
        .zip(weights)
        .map(|(uplink, weight)| Member { uplink, tier, weight: *weight })
        .collect()
}

fn table(weights: &[u16]) -> Buckets {
    let mut buckets = Buckets::default();
    buckets.update(&members(weights), ALL);
    buckets
}

fn count(table: &BucketTable, uplink: u8) -> usize {
    table.iter().filter(|u| **u == uplink).count()
}

/// 2–64 weights, not all zero.
fn weights() -> impl Strategy<Value = Vec<u16>> {
    let weight = prop_oneof![0u16..=10, 0u16..=1000, 0u16..=0x7fff];
    prop::collection::vec(weight, 2..=64).prop_filter("a weight", |w| w.iter().any(|w| *w > 0))
}

/// Two weight vectors of one length.
fn two_weights() -> impl Strategy<Value = (Vec<u16>, Vec<u16>)> {
    weights().prop_flat_map(|old| {
        let new = prop::collection::vec(0u16..=0x7fff, old.len())
            .prop_filter("a weight", |w| w.iter().any(|w| *w > 0));
        (Just(old), new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_member_is_within_one_bucket_of_its_share(weights in weights()) {
        let buckets = table(&weights);
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        for (uplink, weight) in weights.iter().enumerate() {
            let due = u64::from(*weight) as f64 * BUCKETS as f64 / total as f64;
            let has = count(buckets.live(), uplink as u8) as f64;
            prop_assert!((has - due).abs() < 1.0, "uplink {uplink}: {has} buckets, {due} due");
        }
    }

    #[test]
    fn a_weight_change_moves_the_fewest_buckets((old, new) in two_weights()) {
        let before = table(&old);
        let mut after = before.clone();
        after.update(&members(&new), ALL);
        let change: u32 =
            quotas(&old).iter().zip(quotas(&new)).map(|(old, new)| old.abs_diff(new)).sum();
        prop_assert_eq!(moved(before.live(), after.live()), change as usize / 2);
        prop_assert_eq!(bound(&old, &new), change as usize / 2);
    }

    #[test]
    fn a_death_moves_only_the_dead_uplinks_buckets(
        weights in weights(), usable in any::<u64>(), dead in 0u8..64,
    ) {
        let mut before = table(&weights);
        before.update(&members(&weights), usable | 1 << dead);
        let mut after = before.clone();
        after.update(&members(&weights), usable & !(1 << dead));
        if after.active_tier().is_some() {
            for (old, new) in before.live().iter().zip(after.live()) {
                prop_assert!(old == new || *old == dead);
            }
        }
    }

    #[test]
    fn a_return_restores_the_table_whatever_died_and_returned_before(
        weights in weights(), usable in any::<u64>(), others in prop::collection::vec(any::<u64>(), 1..4),
    ) {
        let mut buckets = table(&weights);
        buckets.update(&members(&weights), usable);
        let before = buckets.clone();
        for other in others {
            buckets.update(&members(&weights), other);
        }
        buckets.update(&members(&weights), usable);
        prop_assert!(buckets == before);
    }

    #[test]
    fn lent_buckets_follow_the_weights(weights in prop::collection::vec(1u16..=20, 3..=8)) {
        let mut buckets = table(&weights);
        buckets.update(&members(&weights), ALL & !1);
        let total: u32 = weights[1..].iter().map(|w| u32::from(*w)).sum();
        for (uplink, weight) in weights.iter().enumerate().skip(1) {
            let share = f64::from(*weight) / f64::from(total);
            let due = share * BUCKETS as f64;
            let has = count(buckets.live(), uplink as u8) as f64;
            // Six standard deviations of as many independent draws as there are buckets.
            let bound = 6.0 * (due * (1.0 - share)).sqrt() + 1.0;
            prop_assert!((has - due).abs() < bound, "uplink {uplink}: {has} buckets, {due} due");
        }
    }

    #[test]
    fn a_tier_change_and_back_restores_the_table(
        best in weights(), backup in prop::collection::vec(1u16..=100, 1..=4),
    ) {
        let best = &best[..best.len().min(60)];
        prop_assume!(best.iter().any(|w| *w > 0));
        let first_backup = best.len() as u8;
        let members = [tier(1, 0, best), tier(2, first_backup, &backup)].concat();
        let mut buckets = Buckets::default();
        buckets.update(&members, ALL);
        let before = buckets.clone();
        buckets.update(&members, ALL << first_backup);
        prop_assert_eq!(buckets.active_tier(), Some(2));
        prop_assert!(buckets.live().iter().all(|u| *u >= first_backup && *u != NONE));
        let on_backup = *buckets.live();
        buckets.update(&members, ALL);
        prop_assert_eq!(buckets.active_tier(), Some(1));
        prop_assert!(buckets.live() == before.live());
        buckets.update(&members, ALL << first_backup);
        prop_assert!(*buckets.live() == on_backup);
    }

    #[test]
    fn equal_inputs_give_equal_tables((old, new) in two_weights(), usable in any::<u64>()) {
        let make = || {
            let mut buckets = table(&old);
            buckets.update(&members(&new), usable);
            buckets
        };
        prop_assert!(make() == make());
    }
}

#[test]
fn moved_buckets_are_spread_over_the_table() {
    let before = table(&[1, 1]);
    let mut after = before.clone();
    after.update(&members(&[1, 3]), ALL);
    // A quarter of the buckets moves; each sixteenth of the table gives its part.
    for (old, new) in before.live().chunks(4096).zip(after.live().chunks(4096)) {
        let moved = old.iter().zip(new).filter(|(old, new)| old != new).count();
        assert!((512..=1536).contains(&moved), "{moved} of 4096");
    }
}

#[test]
fn without_a_usable_member_no_bucket_has_an_uplink_and_home_is_kept() {
    let mut buckets = table(&[2, 1]);
    let before = buckets.clone();
    buckets.update(&members(&[2, 1]), 0);
    assert_eq!(buckets.active_tier(), None);
    assert!(buckets.live().iter().all(|u| *u == NONE));
    buckets.update(&members(&[2, 1]), ALL);
    assert!(buckets == before);
}

#[test]
fn a_member_of_weight_zero_does_not_hold_its_tier() {
    let members = [tier(1, 0, &[0, 5]), tier(2, 2, &[1])].concat();
    let mut buckets = Buckets::default();
    buckets.update(&members, 0b101);
    assert_eq!(buckets.active_tier(), Some(2));
    assert_eq!(count(buckets.live(), 2), BUCKETS);
}

#[test]
fn an_adopted_home_table_moves_nothing() {
    let before = table(&[3, 5, 1]);
    let mut after = Buckets::adopt(1, Box::new(*before.home().unwrap()));
    after.update(&members(&[3, 5, 1]), ALL);
    assert!(after == before);
}

#[test]
fn an_adopted_table_with_foreign_entries_is_repaired() {
    let mut after = Buckets::adopt(1, Box::new([77; BUCKETS]));
    after.update(&members(&[1, 1]), ALL);
    assert_eq!((count(after.live(), 0), count(after.live(), 1)), (BUCKETS / 2, BUCKETS / 2));
}

#[test]
fn a_removed_member_gives_its_buckets_to_the_others() {
    let mut buckets = table(&[1, 1, 2]);
    buckets.update(&members(&[1, 1]), ALL);
    assert_eq!(count(buckets.live(), 2), 0);
    assert_eq!(bound(&[1, 1, 2], &[1, 1]), BUCKETS / 2);
}

#[test]
fn tables_are_made_anew_only_for_other_members_weights_or_usable_uplinks() {
    let mut buckets = table(&[1, 2, 3]);
    assert!(buckets.is_made_for(&members(&[1, 2, 3]), ALL));
    assert!(!buckets.is_made_for(&members(&[1, 2, 4]), ALL), "another weight");
    assert!(!buckets.is_made_for(&members(&[1, 2, 3]), 0b011), "another uplink is down");
    assert!(!buckets.update(&members(&[1, 2, 3]), ALL));
    assert!(buckets.update(&members(&[1, 2, 3]), 0b011));
    assert!(buckets.is_made_for(&members(&[1, 2, 3]), 0b011));
}

#[test]
fn tables_of_an_earlier_process_are_made_once_for_what_it_left() {
    let home = Box::new(*table(&[1, 2]).home().unwrap());
    let buckets = Buckets::adopt(1, home);
    assert!(!buckets.is_made_for(&members(&[1, 2]), ALL));
}
