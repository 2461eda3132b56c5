//! What becomes of flows whose uplink goes down, or loses its address.

use weir_layout::control::{
    Address, BUCKETS, ComeHome, OnUplinkDown, PathId, Port, Prefix, Rule, Translate, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::{Family, NONE};
use weir_wire::tcp::{self, flag::ACK, flag::FIN, flag::RST, flag::SYN};

use crate::gateway::*;

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
    let retransmitted = |gateway: &Gateway| {
        [0, 1].map(|n| gateway.regions.counters.path(PathId::v4(n)).retransmitted)
    };
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
    assert_eq!(one(sweep(&mut gateway)).0, LAN);
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
        let uplink = gateway.regions.counters.path(PathId::v4(0));
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
fn a_connection_ends_with_the_address_of_the_only_uplink_though_that_is_down() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    connection(&mut gateway, 40_000);
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    assert!(sweep(&mut gateway).is_empty(), "it waits");
    let address = [203, 0, 113, 77];
    gateway.path(0).pool[0] = Address::v4(address);
    gateway.publish(BUCKETS);
    assert_eq!(one(sweep(&mut gateway)).0, LAN);
    gateway.set_state(0, path_state::USABLE);
    let (device, syn) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    assert_eq!((device, see(&syn).src), (1, address));
    gateway.assert_conserved();
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
    let (device, reset) = one(sweep(&mut gateway));
    assert_eq!((device, reset[47] & RST), (LAN, RST), "at the far end it would be another's");
    let (device, out) = gateway.send(LAN, &udp_out(5000, 53)).remove(0);
    assert_eq!((device, see(&out).src), (1, address));
    assert!(sweep(&mut gateway).is_empty());
    gateway.assert_conserved();
}

#[test]
fn flows_with_a_host_outside_end_when_the_gateway_is_given_its_address() {
    for (is_pool, other) in [(true, true), (false, true), (false, false)] {
        let mut gateway = Gateway::new();
        gateway.publish(BUCKETS);
        exchange(&mut gateway, 5000);
        connection(&mut gateway, 40_000);
        assert!(sweep(&mut gateway).is_empty());
        let address = Address::v4(if other { SERVER } else { [198, 51, 100, 99] });
        match is_pool {
            true => (gateway.path(1).pool[0], gateway.path(1).pool_len) = (address, 1),
            false => gateway.half.addresses[2][Family::V4.index()] = address,
        }
        gateway.publish(BUCKETS);
        let sent = sweep(&mut gateway);
        if other {
            let (device, reset) = one(sent);
            assert_eq!((device, reset[47] & RST), (LAN, RST), "the far end is the gateway itself");
        } else {
            assert!(sent.is_empty());
        }
        assert_eq!(flows(&gateway), if other { 0 } else { 2 });
        gateway.assert_conserved();
    }
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
