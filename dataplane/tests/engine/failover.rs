//! What becomes of flows whose uplink goes down, empties or is not their home.

use weir_dataplane::engine::Owner;
use weir_layout::control::{
    Address, BUCKETS, ComeHome, OnUplinkDown, PathId, Policy, Port, Prefix, Rule, Translate,
    path_state,
};
use weir_layout::counters::{Counter, place};
use weir_layout::flow::flag;
use weir_layout::observations::{INTERVAL_MS, Interval, JUDGED_AFTER_MS};
use weir_layout::{Family, NONE};
use weir_shm::observations::Observations;
use weir_wire::tcp::{self, flag::ACK, flag::FIN, flag::RST, flag::SYN};
use weir_wire::{checksum, ipv4};

use crate::gateway::*;

const SLOTS: u32 = 4096;

/// A connection with its handshake done; the device it leaves by.
fn connection(gateway: &mut Gateway, sport: u16) -> u8 {
    let (device, syn) = gateway.send(LAN, &tcp_out(sport, 443, SYN)).remove(0);
    gateway.send(device, &answer_to(device, &syn));
    gateway.send(LAN, &tcp_out(sport, 443, ACK));
    device
}

/// A UDP flow seen in both directions; the device it leaves by.
fn exchange(gateway: &mut Gateway, sport: u16) -> u8 {
    let (device, out) = gateway.send(LAN, &udp_out(sport, 53)).remove(0);
    gateway.send(device, &answer_to(device, &out));
    device
}

/// Lets the engine sweep to the end; what left.
fn sweep(gateway: &mut Gateway) -> Vec<(u8, Vec<u8>)> {
    gateway.engines[0].refresh();
    while gateway.engines[0].sweep(&mut gateway.wire) {}
    std::mem::take(&mut gateway.wire.sent)
}

/// Lets the engine look at its whole table; what left.
fn age(gateway: &mut Gateway) -> Vec<(u8, Vec<u8>)> {
    gateway.engines[0].refresh();
    gateway.engines[0].age(SLOTS, gateway.now, &mut gateway.wire);
    std::mem::take(&mut gateway.wire.sent)
}

fn flows(gateway: &Gateway) -> u64 {
    gateway.engines[0].flows()
}

/// Gives every policy what `change` does, and publishes.
fn policies(gateway: &mut Gateway, change: impl Fn(&mut Policy)) {
    gateway.half.policies.iter_mut().for_each(change);
    gateway.publish(BUCKETS / 2);
}

/// Uplink 1 is a backup, and flows are there because 0 was down.
fn away(gateway: &mut Gateway, come_home: ComeHome) {
    gateway.half.policies[0].members[1].tier = 2;
    policies(gateway, |policy| {
        let steering = policy.steering_mut(Family::V4);
        (steering.active_tier, steering.come_home) = (1, come_home as u8);
        (policy.idle_s, policy.home_per_second) = (30, 1000);
    });
    gateway.publish(BUCKETS);
}

fn header(frame: &[u8]) -> tcp::Packet<&[u8]> {
    tcp::Packet::new_checked(&frame[34..54]).unwrap()
}

#[test]
fn the_last_resort_of_one_policy_is_down_for_the_flows_of_another() {
    const TIME: u16 = 123;
    let mut gateway = Gateway::new();
    // What goes to this port has uplink 0 alone, all else 1 as well.
    gateway.half.policies[1].members[0].uplink = 0;
    let rule = Rule { destination_ports: [TIME, TIME], ..Rule::any(1) };
    (gateway.half.rules[0], gateway.half.rule_count) = (rule, 1);
    let publish = |gateway: &mut Gateway, other: u8| {
        let tables = [&[other; BUCKETS], &[0; BUCKETS]];
        gateway.writer.publish(&mut gateway.half, [&tables, &[]]);
    };
    publish(&mut gateway, 0);
    let talk = |gateway: &mut Gateway, sport, dport| {
        let mut sent = gateway.send(LAN, &udp_out(sport, dport));
        let (device, out) = sent.remove(0);
        gateway.send(device, &answer_to(device, &out));
        (device, out)
    };
    let (old, alone) = talk(&mut gateway, 2000, TIME);
    assert_eq!((old, talk(&mut gateway, 2001, 53).0), (1, 1));
    assert_eq!(connection(&mut gateway, 4000), 1);
    gateway.set_state(0, path_state::SPARED | path_state::LAST_RESORT);
    publish(&mut gateway, 1);
    assert_eq!(sweep(&mut gateway).len(), 2, "the connection is reset at both ends");
    assert_eq!(talk(&mut gateway, 2000, TIME), (1, alone), "it stays as it is");
    assert_eq!(talk(&mut gateway, 2000, TIME).0, 1);
    assert_eq!(talk(&mut gateway, 2001, 53).0, 2, "it has another");
    assert_eq!(talk(&mut gateway, 2002, TIME).0, 1, "a new one has no other");
    assert_eq!(talk(&mut gateway, 2003, 53).0, 2);
    gateway.assert_conserved();
}

#[test]
fn a_flow_whose_policy_a_code_point_decides_is_not_taken_for_one_that_is_away() {
    let mut gateway = Gateway::new();
    gateway.set_state(0, 0);
    connection(&mut gateway, 40_000);
    gateway.set_state(0, path_state::USABLE);
    // Voice may be where the default policy would not be any more.
    let rule = Rule { dscp: 46, ..Rule::any(1) };
    (gateway.half.rules[0], gateway.half.rule_count) = (rule, 1);
    away(&mut gateway, ComeHome::All);
    assert!(age(&mut gateway).is_empty());
    gateway.half.rule_count = 0;
    gateway.publish(BUCKETS);
    assert_eq!(age(&mut gateway).len(), 2);
}

#[test]
fn connections_of_an_uplink_that_went_down_are_reset_at_both_ends_at_once() {
    let mut gateway = Gateway::new();
    let ports = 40_000..40_020u16;
    let on: Vec<u8> = ports.clone().map(|port| connection(&mut gateway, port)).collect();
    assert!(sweep(&mut gateway).is_empty());
    gateway.set_state(0, 0);
    let sent = sweep(&mut gateway);
    let dead = on.iter().filter(|device| **device == 1).count();
    assert!(0 < dead && dead < on.len() && sent.len() == 2 * dead);
    for (device, frame) in &sent {
        let (seen, reset) = (see(frame), header(frame));
        assert_eq!(reset.flags(), RST | ACK);
        // Each direction has sent seven bytes behind its SYN.
        assert_eq!((reset.seq(), reset.ack()), (1008, 1008));
        if *device == LAN {
            assert_eq!((seen.src, seen.dst, seen.sport), (SERVER, HOST, 443));
            assert_eq!(frame[..6], HOST_MAC);
            assert_eq!(on[usize::from(seen.dport - ports.start)], 1);
        } else {
            assert_eq!((*device, seen.src, seen.dst), (1, external(0), SERVER));
        }
    }
    assert_eq!(gateway.count(Counter::FlowsReset), dead as u64);
    assert!(sweep(&mut gateway).is_empty());
    gateway.assert_conserved();
}

#[test]
fn a_connection_without_another_uplink_is_reset_once_there_is_one() {
    let mut gateway = Gateway::new();
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(0, 0);
    gateway.set_state(1, 0);
    assert!(sweep(&mut gateway).is_empty());
    gateway.set_state(2 - device, path_state::USABLE);
    gateway.publish(BUCKETS / 2);
    assert_eq!(sweep(&mut gateway).len(), 2);
}

#[test]
fn what_a_host_says_to_an_inexact_reset_is_answered_with_an_exact_one() {
    let mut gateway = Gateway::new();
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(device - 1, 0);
    sweep(&mut gateway);
    let challenge = tcp_out(40_000, 443, ACK);
    let (back, reset) = gateway.send(LAN, &challenge).remove(0);
    assert_eq!((back, header(&reset).seq()), (LAN, header(&challenge).ack()));
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn a_new_connection_with_the_ports_of_a_dead_one_is_made() {
    let mut gateway = Gateway::new();
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(device - 1, 0);
    sweep(&mut gateway);
    let (other, _) = gateway.send(LAN, &tcp_out(40_000, 443, SYN)).remove(0);
    assert_eq!((other, flows(&gateway)), (3 - device, 1));
}

#[test]
fn a_connection_with_the_ports_of_a_closed_one_numbers_its_segments_anew() {
    let mut gateway = Gateway::new();
    let data = |seq: u32| {
        let mut frame = tcp_out(40_000, 443, ACK);
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        frame
    };
    connection(&mut gateway, 40_000);
    gateway.send(LAN, &data(1 << 25));
    let mut reset = tcp_out(40_000, 443, RST);
    reset[38..42].copy_from_slice(&((1u32 << 25) + 7).to_be_bytes());
    gateway.send(LAN, &reset);
    let retransmitted =
        |gateway: &Gateway| [0, 1].map(|n| gateway.regions.counters.uplink(n).retransmitted);
    let before = retransmitted(&gateway);
    let (device, syn) = gateway.send(LAN, &tcp_out(40_000, 443, SYN)).remove(0);
    gateway.send(device, &answer_to(device, &syn));
    // Seven bytes came with the SYN.
    gateway.send(LAN, &data(1008));
    assert_eq!((retransmitted(&gateway), flows(&gateway)), (before, 1));
    gateway.assert_conserved();
}

#[test]
fn a_connection_with_the_ports_of_a_closed_one_is_placed_anew() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    assert_eq!(connection(&mut gateway, 40_000), 2);
    away(&mut gateway, ComeHome::All);
    assert_eq!(age(&mut gateway).len(), 2);
    assert_eq!(connection(&mut gateway, 40_000), 1);
    sweep(&mut gateway);
    let address = [203, 0, 113, 77];
    gateway.path(0).pool[0] = Address::v4(address);
    gateway.publish(BUCKETS);
    assert_eq!(sweep(&mut gateway).len(), 2);
    let (device, syn) = gateway.send(LAN, &tcp_out(40_000, 443, SYN)).remove(0);
    assert_eq!((device, see(&syn).src, flows(&gateway)), (1, address, 1));
    gateway.assert_conserved();
}

#[test]
fn a_routed_connection_moves_with_the_packet_that_ends_it() {
    for end in [FIN | ACK, RST] {
        let mut gateway = Gateway::new();
        for uplink in &mut gateway.half.uplinks {
            uplink.path_mut(Family::V4).translate = Translate::None as u8;
        }
        gateway.publish(BUCKETS / 2);
        let device = connection(&mut gateway, 40_000);
        gateway.set_state(device - 1, 0);
        let sent = gateway.send(LAN, &tcp_out(40_000, 443, end));
        assert_eq!(sent.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [3 - device]);
        assert_eq!((flows(&gateway), gateway.count(Counter::FlowsMoved)), (1, 1));
        gateway.assert_conserved();
    }
}

#[test]
fn kept_connections_stay_where_they_are() {
    let mut gateway = Gateway::new();
    policies(&mut gateway, |policy| policy.on_uplink_down = OnUplinkDown::Keep as u8);
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(device - 1, 0);
    assert!(sweep(&mut gateway).is_empty());
    let sent = gateway.send(LAN, &tcp_out(40_000, 443, ACK));
    assert_eq!(sent.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [device]);
}

#[test]
fn dropped_connections_end_in_silence() {
    let mut gateway = Gateway::new();
    policies(&mut gateway, |policy| policy.on_uplink_down = OnUplinkDown::Drop as u8);
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(device - 1, 0);
    assert!(sweep(&mut gateway).is_empty());
    assert!(gateway.send(LAN, &tcp_out(40_000, 443, ACK)).is_empty());
    assert_eq!(gateway.count(Counter::DropUplinkDown), 1);
    gateway.assert_conserved();
}

#[test]
fn a_full_ring_delays_resets_and_loses_none() {
    let mut gateway = Gateway::new();
    let device = connection(&mut gateway, 40_000);
    gateway.set_state(device - 1, 0);
    gateway.wire.full = true;
    assert!(gateway.engines[0].sweep(&mut gateway.wire));
    gateway.wire.full = false;
    assert_eq!(sweep(&mut gateway).len(), 2);
    gateway.assert_conserved();
}

#[test]
fn a_ring_that_stays_full_holds_up_only_the_hosts_behind_it() {
    const OTHER_LAN: u8 = 4;
    let mut gateway = Gateway::new();
    let (devices, ports) = (&mut gateway.half.devices, &mut gateway.half.ports);
    (devices[4].ifindex, devices[4].queues, devices[4].mtu) = (104, 1, 1500);
    ports[4] = Port { device: OTHER_LAN, ifindex: 104, ..ports[0] };
    assert!(gateway.half.insert_port_slot(104, 0, 4));
    gateway.half.lan_prefixes[2] = Prefix::v4([10, 88, 0, 0], 16);
    (gateway.half.lan_prefix_ports[2], gateway.half.lan_prefix_count) = (OTHER_LAN, 3);
    gateway.publish(BUCKETS);
    for sport in 40_000..40_020 {
        connection(&mut gateway, sport);
        let from = ([10, 88, 1, 2], sport);
        let (_, out) = gateway
            .send(OTHER_LAN, &tcp(HOST_MAC, device_mac(LAN), from, (SERVER, 443), SYN))
            .remove(0);
        assert_eq!(gateway.send(1, &answer_to(1, &out))[0].0, OTHER_LAN);
    }
    gateway.set_state(0, 0);
    gateway.publish(0);
    gateway.engines[0].refresh();
    gateway.wire.stuck = Some(OTHER_LAN);
    let hosts = |gateway: &mut Gateway| {
        for _ in 0..100 {
            gateway.engines[0].sweep(&mut gateway.wire);
            gateway.engines[0].age(1, gateway.now, &mut gateway.wire);
        }
        let sent = std::mem::take(&mut gateway.wire.sent);
        [LAN, OTHER_LAN].map(|lan| sent.iter().filter(|(device, _)| *device == lan).count())
    };
    assert_eq!(hosts(&mut gateway), [20, 0]);
    let sleeps = (0..100).any(|_| !gateway.engines[0].sweep(&mut gateway.wire));
    assert!(sleeps);
    gateway.wire.stuck = None;
    assert_eq!(hosts(&mut gateway), [0, 20]);
    gateway.assert_conserved();
}

#[test]
fn idle_flows_leave_a_draining_uplink_and_the_others_stay() {
    let mut gateway = Gateway::new();
    policies(&mut gateway, |policy| policy.idle_s = 30);
    let device = exchange(&mut gateway, 5000);
    let connected = (40_000..).find(|port| connection(&mut gateway, *port) == device).unwrap();
    let before = flows(&gateway);
    let draining = path_state::USABLE | path_state::DRAINING;
    gateway.set_state(device - 1, draining);
    let other = if device == 1 { 0 } else { BUCKETS };
    gateway.publish(other);
    gateway.now += 29_999;
    age(&mut gateway);
    assert_eq!(flows(&gateway), before);
    gateway.now += 1;
    age(&mut gateway);
    assert_eq!((flows(&gateway), gateway.count(Counter::FlowsMoved)), (before - 1, 1));
    assert_eq!(exchange(&mut gateway, 5000), 3 - device);
    let sent = gateway.send(LAN, &tcp_out(connected, 443, ACK));
    assert_eq!(sent[0].0, device);
}

#[test]
fn idle_flows_of_a_worse_tier_come_home() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    assert_eq!(exchange(&mut gateway, 5000), 2);
    connection(&mut gateway, 40_000);
    away(&mut gateway, ComeHome::Idle);
    gateway.now += 29_999;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 2);
    gateway.now += 1;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    assert_eq!(exchange(&mut gateway, 5000), 1);
}

#[test]
fn flows_stay_on_a_worse_tier_unless_the_policy_says_otherwise() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    exchange(&mut gateway, 5000);
    away(&mut gateway, ComeHome::Stay);
    gateway.now += 60_000;
    assert!(age(&mut gateway).is_empty());
    assert_eq!(exchange(&mut gateway, 5000), 2);
}

#[test]
fn all_flows_come_home_when_asked_connections_by_a_reset() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    exchange(&mut gateway, 5000);
    connection(&mut gateway, 40_000);
    away(&mut gateway, ComeHome::All);
    let sent = age(&mut gateway);
    assert_eq!(sent.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [LAN, 2]);
    assert_eq!(exchange(&mut gateway, 5000), 1);
    assert!(age(&mut gateway).is_empty());
    gateway.assert_conserved();
}

#[test]
fn an_endpoint_whose_flows_come_home_one_by_one_has_one_mapping_there() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    let both = [53, 54].map(|dport| udp_out(30_000, dport));
    let send = |gateway: &mut Gateway| {
        both.each_ref().map(|frame| {
            let (device, out) = gateway.send(LAN, frame).remove(0);
            (device, see(&out).sport)
        })
    };
    send(&mut gateway);
    away(&mut gateway, ComeHome::All);
    gateway.engines[0].refresh();
    while flows(&gateway) == 2 {
        gateway.engines[0].age(1, gateway.now, &mut gateway.wire);
    }
    let mut devices = send(&mut gateway).map(|(device, _)| device);
    devices.sort_unstable();
    assert_eq!(devices, [1, 2]);
    age(&mut gateway);
    assert_eq!(send(&mut gateway), [(1, 30_000); 2]);
}

#[test]
fn flows_come_home_no_faster_than_the_policy_says() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    for port in 5000..5100 {
        exchange(&mut gateway, port);
    }
    away(&mut gateway, ComeHome::All);
    policies(&mut gateway, |policy| policy.home_per_second = 10);
    gateway.publish(BUCKETS);
    gateway.now += 1000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 90);
    age(&mut gateway);
    assert_eq!(flows(&gateway), 90);
    gateway.now += 500;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 85);
}

#[test]
fn a_flow_that_promises_to_be_heavy_goes_where_there_is_most_room() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    policies(&mut gateway, |policy| policy.steering_mut(Family::V4).heavy = 0);
    gateway.publish(0);
    assert_eq!(connection(&mut gateway, 40_000), 2);
    let heavy = gateway.regions.flows.clone();
    let slot = (0..SLOTS).find(|index| heavy.slot(*index).is_valid()).unwrap();
    heavy.slot(slot).count(weir_dataplane::heavy::HEAVY_BYTES, gateway.now);
    assert_eq!(connection(&mut gateway, 40_001), 2);
    age(&mut gateway);
    assert_eq!(connection(&mut gateway, 40_002), 1);
    gateway.set_state(0, 0);
    assert_eq!(connection(&mut gateway, 40_003), 2);
}

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

/// The frame with other numbers.
fn numbered(mut frame: Vec<u8>, seq: u32) -> Vec<u8> {
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame
}

#[test]
fn a_segment_that_is_not_the_connections_changes_nothing() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    connection(&mut gateway, 40_000);
    let segments = |gateway: &Gateway| {
        let uplink = gateway.regions.counters.uplink(0);
        (uplink.segments, uplink.retransmitted)
    };
    let (before, again) = segments(&gateway);
    let strange = [tcp_out(40_000, 443, ACK), tcp_out(40_000, 443, SYN), tcp_out(40_000, 443, FIN)];
    for frame in strange {
        assert_eq!(gateway.send(LAN, &numbered(frame, 1 << 30)).len(), 1, "its receiver judges");
    }
    for n in 0..10 {
        gateway.send(LAN, &numbered(tcp_out(40_000, 443, ACK), 1008 + n * 7));
    }
    assert_eq!(segments(&gateway), (before + 10, again));
    gateway.assert_conserved();
}

#[test]
fn what_is_sent_again_counts_for_its_user_and_its_remote_in_both_directions() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    connection(&mut gateway, 40_000);
    let before = gateway.regions.counters.resent(0);
    let (device, out) = gateway.send(LAN, &tcp_out(40_000, 443, ACK)).remove(0);
    let mut answer = answer_to(device, &out);
    answer[47] = ACK;
    gateway.send(device, &answer);
    let after = gateway.regions.counters.resent(0);
    let of = |address| place(u32::from_ne_bytes(address));
    assert_eq!(after.users[of(HOST)] - before.users[of(HOST)], 2);
    assert_eq!(after.remotes[of(SERVER)] - before.remotes[of(SERVER)], 2);
}

#[test]
fn flows_leave_an_address_that_their_uplink_no_longer_has() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    exchange(&mut gateway, 5000);
    connection(&mut gateway, 40_000);
    assert!(sweep(&mut gateway).is_empty());
    let address = [203, 0, 113, 77];
    gateway.path(0).pool[0] = Address::v4(address);
    gateway.publish(BUCKETS);
    let resets = sweep(&mut gateway);
    assert_eq!(resets.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [LAN, 1]);
    let (device, out) = gateway.send(LAN, &udp_out(5000, 53)).remove(0);
    assert_eq!((device, see(&out).src), (1, address));
    assert!(sweep(&mut gateway).is_empty());
    gateway.assert_conserved();
}

#[test]
fn flows_outlive_an_address_that_is_away_for_a_moment() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    connection(&mut gateway, 40_000);
    sweep(&mut gateway);
    for pool_len in [0, 1] {
        gateway.path(0).pool_len = pool_len;
        gateway.publish(BUCKETS);
        assert!(sweep(&mut gateway).is_empty());
    }
}

/// When its flow last took the direction in which it began.
fn last_seen(gateway: &Gateway) -> u32 {
    let table = &gateway.regions.flows;
    let mut entries = (0..table.capacity()).filter_map(|slot| table.slot(slot).read());
    entries.find(|entry| entry.flags & flag::INITIATED != 0).unwrap().last_seen
}

#[test]
fn a_flow_lives_on_while_the_interface_of_its_only_uplink_is_missing() {
    let mut gateway = Gateway::new();
    gateway.set_state(1, 0);
    gateway.publish(BUCKETS);
    assert_eq!(one(gateway.send(LAN, &udp_out(2000, 53))).0, 1);
    gateway.half.uplinks[0].port = NONE;
    gateway.set_state(0, path_state::NO_CARRIER);
    gateway.publish(BUCKETS);
    gateway.now += 5000;
    assert!(gateway.send(LAN, &udp_out(2000, 53)).is_empty());
    assert_eq!(gateway.count(Counter::DropUplinkDown), 1);
    assert_eq!(last_seen(&gateway), gateway.now);
    gateway.assert_conserved();
}

#[test]
fn nobody_outside_is_told_the_mtu_of_a_lan_that_is_gone() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(2000, 53)));
    (gateway.half.ports[usize::from(LAN)].role, gateway.half.ports[usize::from(LAN)].mtu) = (0, 0);
    gateway.publish(BUCKETS);
    assert!(gateway.send(device, &answer_to(device, &out)).is_empty());
    gateway.assert_conserved();
}
