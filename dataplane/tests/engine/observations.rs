//! What is published of new flows: which were answered, whose they were, and what was sent again.

use weir_dataplane::engine::Owner;
use weir_layout::control::{BUCKETS, PathId};
use weir_layout::counters::place;
use weir_layout::observations::{INTERVAL_MS, Interval, JUDGED_AFTER_MS};
use weir_shm::observations::Observations;
use weir_wire::tcp::flag::{ACK, SYN};
use weir_wire::{checksum, ipv4};

use crate::gateway::*;

/// What a worker told of uplink 1 when it had judged what it saw.
fn judged(gateway: &mut Gateway) -> Interval {
    let at = (u64::from(gateway.now) + u64::from(JUDGED_AFTER_MS)).next_multiple_of(INTERVAL_MS);
    for at in [at, at + INTERVAL_MS] {
        gateway.engines[0].judge(at);
    }
    gateway.now = at as u32;
    let observations = &gateway.regions.observations;
    observations.read(0, PathId::v4(1), Observations::number(at)).unwrap_or_default()
}

fn ones(set: [u64; 4]) -> u32 {
    set.iter().map(|word| word.count_ones()).sum()
}

#[test]
fn new_flows_without_an_answer_are_told_by_uplink() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    gateway.introduce(HOST_MAC);
    connection(&mut gateway, 40_000);
    gateway.send(LAN, &tcp_out(40_001, 443, SYN));
    exchange(&mut gateway, 5000);
    gateway.send(LAN, &udp_out(5001, 53));
    let seen = judged(&mut gateway);
    assert_eq!((seen.tcp.flows, seen.tcp.unanswered), (2, 1));
    let sets = [seen.tcp.remotes, seen.tcp.silent, seen.tcp.users, seen.tcp.askers];
    assert_eq!(sets.map(ones), [1; 4]);
    assert_eq!((seen.udp.flows, seen.udp.unanswered), (2, 1));
    let number = Observations::number(u64::from(gateway.now));
    assert_eq!(gateway.regions.observations.read(0, PathId::v4(0), number), None);
}

#[test]
fn what_never_answered_says_nothing_of_an_uplink() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    gateway.introduce(HOST_MAC);
    gateway.send(LAN, &tcp_out(40_001, 443, SYN));
    gateway.send(LAN, &udp_out(5001, 53));
    assert_eq!(judged(&mut gateway), Interval::default());
    // Another port of a host that answers is another service.
    connection(&mut gateway, 40_000);
    gateway.send(LAN, &tcp_out(40_002, 6881, SYN));
    let seen = judged(&mut gateway);
    assert_eq!((seen.tcp.flows, seen.tcp.unanswered), (1, 0));
}

#[test]
fn a_host_with_many_addresses_is_one_user() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    gateway.introduce(HOST_MAC);
    connection(&mut gateway, 40_000);
    for last in 10..30 {
        let source = ([HOST[0], HOST[1], HOST[2], last], 40_001);
        gateway.send(LAN, &tcp(HOST_MAC, device_mac(LAN), source, (SERVER, 443), SYN));
    }
    let seen = judged(&mut gateway);
    assert_eq!((seen.tcp.flows, seen.tcp.unanswered, ones(seen.tcp.askers)), (21, 20, 1));
}

#[test]
fn a_scanners_flows_leave_room_among_those_that_are_judged() {
    let mut gateway = Gateway::with(1, 65_536);
    gateway.publish(0);
    let other = [2, 0, 0, 0, 0, 0x20];
    [HOST_MAC, other].into_iter().for_each(|mac| gateway.introduce(mac));
    let open = |gateway: &mut Gateway, mac, address, dport| {
        let syn = tcp(mac, device_mac(LAN), (address, 40_000), (SERVER, dport), SYN);
        let (device, out) = one(gateway.send(LAN, &syn));
        one(gateway.send(device, &answer_to(device, &out)));
    };
    for dport in 1..=8000 {
        let [high, low] = u16::to_be_bytes(dport);
        open(&mut gateway, HOST_MAC, [10, 77, high, low], dport);
    }
    for dport in 1..=100 {
        open(&mut gateway, other, [10, 77, 255, 9], dport);
    }
    assert_eq!(judged(&mut gateway).tcp.flows, 256 + 100);
}

#[test]
fn a_host_that_the_kernel_does_not_know_is_no_user() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    let silent = |gateway: &mut Gateway, sport| {
        gateway.send(LAN, &tcp_out(sport, 443, SYN));
    };
    for (sport, owner) in
        [(1, Owner::Nobody), (2, Owner::At([2, 0, 0, 0, 0, 0x20])), (3, Owner::Asked)]
    {
        connection(&mut gateway, 40_000 + sport);
        silent(&mut gateway, 40_010 + sport);
        assert_eq!(gateway.acquaint(owner), 1);
        assert_eq!(judged(&mut gateway), Interval::default(), "{owner:?}");
    }
    gateway.introduce(HOST_MAC);
    connection(&mut gateway, 40_020);
    silent(&mut gateway, 40_021);
    assert_eq!(gateway.acquaint(Owner::Nobody), 0, "it is known");
    let seen = judged(&mut gateway);
    assert_eq!((seen.tcp.flows, seen.tcp.unanswered, ones(seen.tcp.askers)), (2, 1, 1));
}

#[test]
fn a_first_packet_that_no_server_answers_is_no_evidence() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    gateway.introduce(HOST_MAC);
    connection(&mut gateway, 40_000);
    exchange(&mut gateway, 5000);
    let wrong = |mut frame: Vec<u8>, at: usize| {
        frame[at] ^= 1;
        frame
    };
    gateway.send(LAN, &wrong(tcp_out(40_001, 443, SYN), 50));
    gateway.send(LAN, &wrong(udp_out(5001, 53), 40));
    let mut near = tcp_out(40_002, 443, SYN);
    near[22] = 3;
    near[24..26].fill(0);
    ipv4::Packet::new_unchecked(&mut near[14..34]).fill_checksum();
    gateway.send(LAN, &near);
    let seen = judged(&mut gateway);
    assert_eq!([seen.tcp, seen.udp].map(|of| (of.flows, of.unanswered)), [(1, 0), (1, 0)]);
    // What its sender's device was to complete, a worker completes.
    let mut begun = tcp_out(40_003, 443, SYN);
    let sum = checksum::pseudo4(HOST, SERVER, 6, (begun.len() - 34) as u16);
    begun[50..52].copy_from_slice(&sum.to_be_bytes());
    gateway.send(LAN, &begun);
    let mut without = udp_out(5002, 53);
    without[40..42].fill(0);
    gateway.send(LAN, &without);
    let seen = judged(&mut gateway);
    assert_eq!([seen.tcp, seen.udp].map(|of| (of.flows, of.unanswered)), [(1, 1), (1, 1)]);
}

#[test]
fn what_is_sent_again_counts_for_its_user_and_its_remote_in_both_directions() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    connection(&mut gateway, 40_000);
    let before = gateway.regions.counters.resent(PathId::v4(0));
    let (device, out) = gateway.send(LAN, &tcp_out(40_000, 443, ACK)).remove(0);
    let mut answer = answer_to(device, &out);
    answer[47] = ACK;
    gateway.send(device, &answer);
    let after = gateway.regions.counters.resent(PathId::v4(0));
    let of = |address| place(u32::from_ne_bytes(address));
    assert_eq!(after.users[of(HOST)] - before.users[of(HOST)], 2);
    assert_eq!(after.remotes[of(SERVER)] - before.remotes[of(SERVER)], 2);
}
