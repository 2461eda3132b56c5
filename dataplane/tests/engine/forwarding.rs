//! The engine as a gateway: what goes in on one side and what comes out on the other.

use super::gateway::*;
use weir_layout::control::{BUCKETS, Rule, path_state};
use weir_layout::counters::Counter;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

#[test]
fn a_flow_leaves_with_the_uplinks_source_and_next_hop() {
    let mut gateway = Gateway::new();
    let (device, frame) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let uplink = device - 1;
    assert_eq!(&frame[..6], &next_hop_mac(uplink));
    assert_eq!(&frame[6..12], &device_mac(device));
    let seen = see(&frame);
    assert_eq!((seen.src, seen.dst, seen.dport), (external(uplink), SERVER, 53));
    assert_eq!((seen.sport, seen.ttl), (40_000, 63), "the port is free, so it is kept");
    gateway.assert_conserved();
}

#[test]
fn an_answer_returns_to_the_host_that_asked() {
    for frame in [
        udp_out(40_000, 53),
        tcp_out(40_000, 443, SYN),
        ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 30_000, true),
    ] {
        let mut gateway = Gateway::new();
        let (device, out) = one(gateway.send(LAN, &frame));
        let (back, answer) = one(gateway.send(device, &answer_to(device, &out)));
        let (seen, asked) = (see(&answer), see(&frame));
        assert_eq!(back, LAN);
        assert_eq!((&answer[..6], &answer[6..12]), (&HOST_MAC[..], &device_mac(LAN)[..]));
        assert_eq!((seen.src, seen.sport), (asked.dst, asked.dport));
        assert_eq!((seen.dst, seen.dport), (asked.src, asked.sport));
        gateway.assert_conserved();
    }
}

#[test]
fn a_flow_keeps_its_uplink_when_weights_change() {
    let mut gateway = Gateway::new();
    let before: Vec<_> =
        (0..200).map(|n| one(gateway.send(LAN, &udp_out(30_000 + n, 53))).0).collect();
    gateway.publish(BUCKETS);
    let after: Vec<_> =
        (0..200).map(|n| one(gateway.send(LAN, &udp_out(30_000 + n, 53))).0).collect();
    assert_eq!(before, after);
    assert!(before.contains(&1) && before.contains(&2));
    for n in 200..400 {
        assert_eq!(one(gateway.send(LAN, &udp_out(30_000 + n, 53))).0, 1, "new flows obey");
    }
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut gateway = Gateway::with(1, 64);
    let leaves = |gateway: &mut Gateway, n: u16| {
        let sent = gateway.send(LAN, &udp_out(30_000 + n, 53));
        sent.iter().any(|(device, _)| *device != LAN)
    };
    let left: Vec<u16> = (0..200).filter(|n| leaves(&mut gateway, *n)).collect();
    assert!(left.len() >= 16 && left.len() <= 32, "{}", left.len());
    assert_eq!(gateway.count(Counter::DropTableFull), 200 - left.len() as u64);
    for n in left {
        assert!(leaves(&mut gateway, n));
    }
    gateway.assert_conserved();
}

#[test]
fn without_translation_the_source_is_untouched() {
    let mut gateway = Gateway::new();
    gateway.route_only();
    let frame = udp(HOST_MAC, device_mac(LAN), (OWN, 5000), (SERVER, 53));
    let (device, out) = one(gateway.send(LAN, &frame));
    assert_eq!(device, 3);
    let seen = see(&out);
    assert_eq!((seen.src, seen.sport, seen.ttl), (OWN, 5000, 63));
}

#[test]
fn without_translation_any_uplink_may_carry_the_return() {
    let mut gateway = Gateway::new();
    gateway.route_only();
    let frame = udp(HOST_MAC, device_mac(LAN), (OWN, 5000), (SERVER, 53));
    one(gateway.send(LAN, &frame));
    let back = udp(next_hop_mac(0), device_mac(1), (SERVER, 53), (OWN, 5000));
    let (device, answer) = one(gateway.send(1, &back));
    assert_eq!((device, see(&answer).dst), (LAN, OWN));
}

#[test]
fn a_rule_sends_its_traffic_by_its_policy() {
    let mut gateway = Gateway::new();
    gateway.half.rules[0] = Rule { destination_ports: [443, 443], protocol: TCP, ..Rule::any(1) };
    gateway.half.rule_count = 1;
    gateway.publish(BUCKETS);
    assert_eq!(one(gateway.send(LAN, &tcp_out(40_000, 443, SYN))).0, 3);
    assert_eq!(one(gateway.send(LAN, &tcp_out(40_000, 80, SYN))).0, 1);
}

#[test]
fn what_no_flow_asked_for_does_not_come_in() {
    let mut gateway = Gateway::new();
    let stray = udp(next_hop_mac(0), device_mac(1), (SERVER, 53), (external(0), 40_000));
    assert!(gateway.send(1, &stray).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 1);
}

#[test]
fn packets_of_a_flow_come_from_its_own_side_alone() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let answer = answer_to(device, &out);
    // Before the flow is offered to the kernel tier, and after.
    for _ in 0..2 {
        assert!(gateway.send(device, &udp_out(40_000, 53)).is_empty());
        assert!(gateway.send(LAN, &answer).is_empty());
        one(gateway.send(device, &answer));
    }
    assert_eq!((gateway.count(Counter::DropNoFlow), gateway.count(Counter::DropSource)), (2, 2));
    gateway.set_state(device - 1, 0);
    assert!(gateway.send(device, &udp_out(40_000, 53)).is_empty());
    assert_eq!(gateway.engines[0].flows(), 1);
    gateway.assert_conserved();
}

#[test]
fn a_source_that_is_not_the_lans_makes_no_flow() {
    let mut gateway = Gateway::new();
    let spoofed = udp(HOST_MAC, device_mac(LAN), ([172, 16, 0, 1], 1), (SERVER, 2));
    assert!(gateway.send(LAN, &spoofed).is_empty());
    assert_eq!(gateway.count(Counter::DropSource), 1);
}

#[test]
fn a_reset_without_a_connection_makes_no_flow() {
    let mut gateway = Gateway::new();
    assert!(gateway.send(LAN, &tcp_out(40_000, 443, RST)).is_empty());
    assert_eq!(gateway.count(Counter::DropNotSyn), 1);
}

#[test]
fn a_udp_flow_leaves_an_uplink_that_went_down() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    gateway.set_state(device - 1, 0);
    let (other, moved) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    assert_eq!(other, 3 - device);
    assert_eq!(see(&moved).src, external(other - 1));
    assert_ne!(see(&out).src, see(&moved).src);
    let (back, _) = one(gateway.send(other, &answer_to(other, &moved)));
    assert_eq!((back, gateway.count(Counter::FlowsMoved)), (LAN, 1));
    gateway.assert_conserved();
}

#[test]
fn a_translated_connection_on_a_dead_uplink_is_reset_to_its_host() {
    let mut gateway = Gateway::new();
    let (device, _) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    gateway.set_state(device - 1, 0);
    let (back, reset) = one(gateway.send(LAN, &tcp_out(40_000, 443, ACK)));
    assert_eq!((back, reset[47] & RST), (LAN, RST));
    assert_eq!((see(&reset).src, see(&reset).dst), (SERVER, HOST));
    let (again, _) = one(gateway.send(LAN, &tcp_out(40_001, 443, SYN)));
    assert_eq!(again, 3 - device);
    gateway.assert_conserved();
}

#[test]
fn nothing_moves_when_there_is_nowhere_to_go() {
    let mut gateway = Gateway::new();
    let (device, _) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    for uplink in 0..3 {
        gateway.set_state(uplink, path_state::ADMIN_DOWN);
    }
    assert_eq!(one(gateway.send(LAN, &tcp_out(40_000, 443, ACK))).0, device);
    assert_eq!(one(gateway.send(LAN, &udp_out(1, 2))).0, LAN, "its sender is told");
    assert_eq!(gateway.count(Counter::DropNoUplink), 1);
}

#[test]
fn a_new_process_adopts_the_flows_it_finds() {
    let mut gateway = Gateway::new();
    let outs: Vec<_> = (0..50).map(|n| one(gateway.send(LAN, &udp_out(30_000 + n, 53)))).collect();
    gateway.engines[0] = weir_dataplane::engine::Engine::new(0, 1, &gateway.regions, [7, 8]);
    assert_eq!(gateway.engines[0].adopt(), 50);
    for (n, (device, out)) in outs.iter().enumerate() {
        assert_eq!(
            &one(gateway.send(LAN, &udp_out(30_000 + n as u16, 53))),
            &(*device, out.clone())
        );
        assert_eq!(one(gateway.send(*device, &answer_to(*device, out))).0, LAN);
        let fresh = one(gateway.send(LAN, &udp_out(30_000 + n as u16, 54)));
        assert_eq!((fresh.0, see(&fresh.1).sport), (*device, see(out).sport), "its mapping too");
    }
}

#[test]
fn frames_of_an_unknown_device_or_vlan_are_dropped() {
    let mut gateway = Gateway::new();
    assert!(gateway.send(9, &udp_out(1, 2)).is_empty());
    let mut tagged = udp_out(1, 2);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert!(gateway.send(LAN, &tagged).is_empty());
    assert_eq!(gateway.count(Counter::DropPort), 2);
}

#[test]
fn a_tagged_lan_meets_an_untagged_uplink_and_back() {
    let mut gateway = Gateway::new();
    gateway.half.ports[0].vlan = 5;
    for slot in &mut gateway.half.port_slots {
        if slot.ifindex == 100 {
            slot.ifindex = 0;
        }
    }
    assert!(gateway.half.insert_port_slot(100, 5, 0));
    gateway.publish(BUCKETS / 2);
    let mut tagged = udp_out(40_000, 53);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let (device, out) = one(gateway.send(LAN, &tagged));
    assert_eq!(&out[12..14], &[8, 0]);
    let (_, back) = one(gateway.send(device, &answer_to(device, &out)));
    assert_eq!(&back[12..18], &[0x81, 0, 0, 5, 8, 0]);
    assert_eq!(see(&back).dst, HOST);
}

#[test]
fn a_full_transmit_ring_is_a_counted_drop() {
    let mut gateway = Gateway::new();
    gateway.wire.full = true;
    assert!(gateway.send(LAN, &udp_out(1, 2)).is_empty());
    assert_eq!(gateway.count(Counter::DropTxFull), 1);
    gateway.assert_conserved();
}

#[test]
fn nothing_is_forwarded_before_anything_is_published() {
    let regions = weir_dataplane::engine::Regions::anonymous(64, KEY).unwrap();
    let mut engine = weir_dataplane::engine::Engine::new(0, 1, &regions, [1, 2]);
    let frame = weir_dataplane::packet::HeapFrame::new(&udp_out(1, 2));
    let mut wire = Wire::default();
    let mut batch = vec![weir_dataplane::packet::Received { frame, device: 0 }];
    engine.process(&mut batch, 1, &mut wire);
    assert!(wire.sent.is_empty());
    assert_eq!(regions.counters.sum(Counter::DropPort), 1);
}
