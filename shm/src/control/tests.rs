//! What is written is what is read.

use weir_layout::NONE;
use weir_layout::adjacency::{self, Adjacency, NEXT_HOPS};
use weir_layout::control::{Mac, Name, PORT_WORDS, PortRole};
use weir_layout::prefix_sets::{self, Ranges, offset};

use super::write::{common, links};
use super::*;
use crate::adjacencies::{Adjacencies, NextHops};

fn writer() -> (ControlWriter, Box<ControlHalf>) {
    let next_hops = NextHops::anonymous().unwrap();
    let writer = ControlWriter::new(ControlRegion::anonymous().unwrap(), next_hops);
    let mut half = empty_half();
    half.policies[0].name = Name::new("balanced");
    half.policies[0].member_count = 1;
    (writer, half)
}

/// Has uplink 0 leave by port 2, which is this interface, to a hardware address.
fn leave_by(half: &mut ControlHalf, ifindex: u32, mac: [u8; 6]) {
    (half.uplinks[0].name, half.uplinks[0].port) = (Name::new("fiber"), 2);
    half.uplinks[0].path_mut(Family::V4).next_hop_mac = Mac::new(mac);
    (half.ports[2].ifindex, half.ports[2].role) = (ifindex, PortRole::Uplink as u8);
}

#[test]
fn next_hops_are_those_of_the_state_that_was_published() {
    let table = Adjacencies::anonymous([3, 5]).unwrap();
    let region = ControlRegion::anonymous().unwrap();
    let mut writer = ControlWriter::new(region.clone(), table.next_hops());
    let mut half = empty_half();
    let by = adjacency::next_hop(PathId::v4(0));
    for (ifindex, mac) in [(7, [2; 6]), (7, [4; 6]), (8, [6; 6]), (0, [0; 6])] {
        leave_by(&mut half, ifindex, mac);
        writer.publish(&mut half, [&[], &[]]);
        assert_eq!(table.get(by), Some(Adjacency { mac, port: 2 }));
    }
    half.uplinks[0].port = NONE;
    writer.publish(&mut half, [&[], &[]]);
    assert_eq!(table.get(by), None);
    leave_by(&mut half, 7, [2; 6]);
    writer.publish(&mut half, [&[], &[]]);
    table.next_hops().set(&[None; NEXT_HOPS]);
    ControlWriter::new(region, table.next_hops());
    assert_eq!(table.get(by), Some(Adjacency { mac: [2; 6], port: 2 }), "it ended in between");
}

#[test]
fn while_two_states_are_read_no_next_hop_is_behind_a_port_of_two_interfaces() {
    let mut half = empty_half();
    leave_by(&mut half, 8, [2; 6]);
    let next_hops = adjacency::next_hops(&half);
    let (after, role) = (links(&half), half.ports[2].role);
    for (role, was, stays) in [(role, 8, true), (role, 0, false), (role, 7, false), (0, 0, true)] {
        (half.ports[2].role, half.ports[2].ifindex) = (role, was);
        let common = common(&next_hops, &links(&half), &after);
        assert_eq!(common, if stays { next_hops } else { [None; NEXT_HOPS] });
    }
}

#[test]
fn nothing_published_is_no_snapshot() {
    assert!(ControlRegion::anonymous().unwrap().snapshot().is_none());
}

#[test]
fn a_snapshot_is_what_was_published() {
    let (mut writer, mut half) = writer();
    for round in 1..=3 {
        half.policies[0].members[0].weight = round;
        let epoch = writer.publish(&mut half, [&[&[round as u8; BUCKETS]], &[]]);
        let snapshot = writer.region().snapshot().unwrap();
        assert_eq!(snapshot.half.epoch, epoch);
        assert_eq!(snapshot.half.policies[0].members[0].weight, round);
        assert_eq!(*snapshot.table(Family::V4, 0).unwrap(), [round as u8; BUCKETS]);
    }
}

#[test]
fn corrupt_memory_is_refused() {
    let (mut writer, mut half) = writer();
    let epoch = writer.publish(&mut half, [&[&[0; BUCKETS]], &[]]);
    let words = writer.region().page.view::<AtomicU64>(ControlRegion::half_offset(epoch));
    words[100].fetch_xor(1 << 17, Ordering::Relaxed);
    assert!(writer.region().snapshot().is_none());
    words[100].fetch_xor(1 << 17, Ordering::Relaxed);
    assert!(writer.region().snapshot().is_some());
    let table = writer.region().buckets.view::<AtomicU64>(ControlRegion::table_offset(
        epoch as usize & 1,
        Family::V4,
        0,
    ));
    table[5].store(7, Ordering::Relaxed);
    assert!(writer.region().snapshot().is_none());
}

#[test]
fn a_worker_keeps_the_state_it_has_until_there_is_a_sound_one() {
    let (mut writer, mut half) = writer();
    writer.publish(&mut half, [&[&[1; BUCKETS]], &[]]);
    let mut current = Current::default();
    assert!(current.refresh(writer.region()));
    half.policies[0].name = Name::new("other");
    let epoch = writer.publish(&mut half, [&[&[2; BUCKETS]], &[]]);
    let words = writer.region().page.view::<AtomicU64>(ControlRegion::half_offset(epoch));
    words[100].fetch_xor(1 << 17, Ordering::Relaxed);
    assert!(!current.refresh(writer.region()));
    let held = |current: &Current| (current.half.epoch, current.half.policies[0].name);
    assert_eq!(held(&current), (epoch - 1, Name::new("balanced")));
    words[100].fetch_xor(1 << 17, Ordering::Relaxed);
    assert!(current.refresh(writer.region()));
    assert_eq!(held(&current), (epoch, Name::new("other")));
}

#[test]
fn a_bucket_is_that_of_the_epoch_for_as_long_as_its_room_is_not_taken() {
    let (mut writer, mut half) = writer();
    let mut table = [1; BUCKETS];
    table[4711] = 5;
    let first = writer.publish(&mut half, [&[&table], &[]]);
    let region = writer.region().clone();
    let bucket = |epoch, number| region.bucket(epoch, Family::V4, 0, number);
    assert_eq!([4710, 4711, 4712].map(|n| bucket(first, n)), [Some(1), Some(5), Some(1)]);
    let second = writer.publish(&mut half, [&[&[2; BUCKETS]], &[]]);
    assert_eq!([bucket(first, 4711), bucket(second, 4711)], [Some(5), Some(2)]);
    writer.publish(&mut half, [&[&[3; BUCKETS]], &[]]);
    assert_eq!([bucket(first, 4711), bucket(second, 4711)], [None, Some(2)]);
}

#[test]
fn a_bound_port_is_told_from_its_neighbours() {
    let region = ControlRegion::anonymous().unwrap();
    let mut ports = [0; PORT_WORDS];
    ports[51_820 / 64] = 1 << (51_820 % 64);
    BoundPorts::new(region.clone()).set(&ports);
    let bound: Vec<u16> = (0..=u16::MAX).filter(|port| region.is_bound(*port)).collect();
    assert_eq!(bound, [51_820]);
    BoundPorts::new(region.clone()).set(&[0; PORT_WORDS]);
    assert!(!region.is_bound(51_820));
}

#[test]
fn state_words_are_per_path() {
    let (writer, _) = writer();
    writer.set_path_state(PathId::v4(3), 1);
    assert_eq!(writer.region().path_state(PathId::v4(3)), 1);
    assert_eq!(writer.region().path_state(PathId::v4(2)), 0);
    assert_eq!(writer.region().path_state(PathId::new(3, Family::V6)), 0);
    assert_eq!(writer.region().path_state(PathId::v4(255)), 0);
}

#[test]
fn tables_are_per_family_and_a_family_without_any_has_none() {
    let (mut writer, mut half) = writer();
    let mut publish = |v6: &[&BucketTable]| {
        writer.publish(&mut half, [&[&[1; BUCKETS]], v6]);
        let snapshot = writer.region().snapshot().unwrap();
        Family::ALL.map(|family| snapshot.table(family, 0).map(|table| table[0]))
    };
    assert_eq!(publish(&[]), [Some(1), None]);
    assert_eq!(publish(&[&[2; BUCKETS]]), [Some(1), Some(2)]);
    assert_eq!(publish(&[]), [Some(1), None]);
}

/// 10.0.0.0/8 in set 0, but for 10.1.0.0/16, which is in set 1, as is 2001:db8::/32.
const SETS: Ranges<'_> = Ranges {
    firsts4: &[0x0a00_0000, 0x0a01_0000, 0x0a02_0000, 0x0b00_0000],
    masks4: &[1, 2, 1, 0],
    firsts6: &[[0x2001_0db8 << 32, 0], [0x2001_0db9 << 32, 0]],
    masks6: &[2, 0],
};

#[test]
fn an_address_is_in_the_sets_of_its_range() {
    let (mut writer, mut half) = writer();
    writer.enter_sets(&SETS);
    writer.publish(&mut half, [&[], &[]]);
    let region = writer.region().clone();
    let v4 = |address: [u8; 4]| region.sets_of(&half.sets, address);
    let ends =
        [[9, 255, 255, 255], [10, 0, 0, 0], [10, 1, 0, 0], [10, 2, 0, 0], [10, 255, 255, 255]];
    assert_eq!(ends.map(v4), [Some(0), Some(1), Some(2), Some(1), Some(1)]);
    assert_eq!([[11, 0, 0, 0], [255; 4], [0; 4]].map(v4), [Some(0); 3]);
    let v6 = |first: u32| {
        let mut address = [0xff; 16];
        address[..4].copy_from_slice(&first.to_be_bytes());
        region.sets_of(&half.sets, address)
    };
    assert_eq!([0x2001_0db7, 0x2001_0db8, 0x2001_0db9].map(v6), [Some(0), Some(2), Some(0)]);
    assert!(region.has_sound_sets(&half.sets));
}

#[test]
fn sets_that_have_not_changed_are_not_written_again_by_another_process_either() {
    let (mut writer, mut half) = writer();
    for sets in [&SETS, &SETS] {
        writer.enter_sets(sets);
        writer.publish(&mut half, [&[], &[]]);
        assert_eq!(half.sets.generation, 1);
    }
    let mut next = ControlWriter::new(writer.region().clone(), NextHops::anonymous().unwrap());
    next.enter_sets(&SETS);
    next.publish(&mut half, [&[], &[]]);
    assert_eq!((half.sets.generation, half.sets.checksum), (1, SETS.checksum()));
    next.enter_sets(&Ranges::default());
    next.publish(&mut half, [&[], &[]]);
    assert_eq!((half.sets.generation, half.sets.checksum, half.sets.ranges), (2, 0, [0, 0]));
}

#[test]
fn sets_are_those_of_the_state_for_as_long_as_their_room_is_not_taken() {
    let (mut writer, mut half) = writer();
    let region = writer.region().clone();
    let mut publish = |sets: &Ranges<'_>| {
        writer.enter_sets(sets);
        writer.publish(&mut half, [&[], &[]]);
        half.sets
    };
    let found = |sets| region.sets_of(sets, [10, 0, 0, 1]);
    let all = Ranges { firsts4: &[0], masks4: &[4], ..Ranges::default() };
    let first = publish(&SETS);
    let second = publish(&all);
    assert_eq!([&first, &second].map(found), [Some(1), Some(4)]);
    let third = publish(&SETS);
    assert_eq!([&first, &second, &third].map(found), [None, Some(4), Some(1)]);
    assert!(!region.has_sound_sets(&first) && region.has_sound_sets(&third));
}

#[test]
fn a_process_that_ended_while_it_wrote_sets_leaves_those_that_are_in_force() {
    let (mut writer, mut half) = writer();
    writer.enter_sets(&SETS);
    writer.publish(&mut half, [&[], &[]]);
    let region = writer.region().clone();
    region.store_sets(half.sets.generation + 1, &Ranges { firsts4: &[7], ..Ranges::default() });
    let in_force = half.sets;
    let mut next = ControlWriter::new(region.clone(), NextHops::anonymous().unwrap());
    let found = || region.sets_of(&in_force, [10, 0, 0, 1]);
    assert_eq!(found(), Some(1));
    next.enter_sets(&Ranges { firsts4: &[0], masks4: &[8], ..Ranges::default() });
    assert_eq!(found(), Some(1), "until the half is published, and for one more");
    next.publish(&mut half, [&[], &[]]);
    assert_eq!(region.sets_of(&half.sets, [10, 0, 0, 1]), Some(8));
}

#[test]
fn sets_in_foreign_memory_are_refused_and_written_anew() {
    let (mut writer, mut half) = writer();
    writer.enter_sets(&SETS);
    writer.publish(&mut half, [&[], &[]]);
    let region = writer.region().clone();
    let at = prefix_sets::bank(half.sets.generation) + offset::MASKS4;
    region.sets.view::<AtomicU64>(at)[0].store(1 << 63, Ordering::Relaxed);
    assert!(!region.has_sound_sets(&half.sets));
    let mut next = ControlWriter::new(region.clone(), NextHops::anonymous().unwrap());
    next.enter_sets(&SETS);
    next.publish(&mut half, [&[], &[]]);
    assert!(region.has_sound_sets(&half.sets));
    // More than there can be is no more than there is.
    half.sets.ranges = [u32::MAX; 2];
    assert!(region.sets_of(&half.sets, [255; 4]).is_some());
    assert!(region.sets_of(&half.sets, [255; 16]).is_some());
    // A map that was made anew has begun nothing.
    half.sets.generation += 5;
    assert_eq!(region.sets_of(&half.sets, [10, 0, 0, 1]), None);
}
