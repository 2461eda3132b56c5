//! Address and port translation of IPv6: as NAT44.

use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, PathId, Translate};
use weir_layout::counters::Counter;
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::Parsed6;

use super::gateway::*;
use super::packets6::{HOST6, ROUTER6, SERVER6, assert_only_replies_return, packet, see6};

/// The address that an uplink has.
pub fn external6(uplink: u8) -> [u8; 16] {
    [0x20, 1, 0, 2, 0, 0, 0xa0, uplink, 0, 0, 0, 0, 0, 0, 0, 2]
}

/// Uplinks 0 and 1 translate IPv6 to an address of theirs.
pub fn gateway() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    for uplink in 0..2 {
        let path = gateway.half.uplinks[usize::from(uplink)].path_mut(Family::V6);
        path.translate = Translate::Napt as u8;
        (path.nat_lo, path.nat_hi) = (20_000, 60_000);
        (path.pool_len, path.pool[0]) = (1, Address(external6(uplink)));
    }
    gateway.publish(BUCKETS / 2);
    gateway
}

fn out(proto: u8) -> Vec<u8> {
    packet([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], (proto, false), 64, 8)
}

/// The answer to a frame that left by a device.
fn answer(device: u8, proto: u8, sent: &Parsed6) -> Vec<u8> {
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    let mut frame = packet(macs, [sent.dst, sent.src], (proto, true), 64, 8);
    // Its port, or identifier, is the one that the flow has outside.
    let at = if proto == V6::ICMP { 58 } else { 56 };
    let old = [frame[at], frame[at + 1]];
    frame[at..at + 2].copy_from_slice(&sent.sport);
    let sum = match proto {
        TCP => 70,
        UDP => 60,
        _ => 56,
    };
    let delta = weir_wire::checksum::Delta::of(old, sent.sport);
    let field = delta.apply([frame[sum], frame[sum + 1]]);
    frame[sum..sum + 2].copy_from_slice(&field);
    frame
}

#[test]
fn the_flows_of_both_families_count_against_a_hosts_limit() {
    let mut gateway = gateway();
    gateway.half.flows_per_host = 3;
    gateway.publish(BUCKETS / 2);
    assert_ne!(one(gateway.send(LAN, &udp_out(40_000, 53))).0, LAN);
    assert_ne!(one(gateway.send(LAN, &out(UDP))).0, LAN);
    assert_ne!(one(gateway.send(LAN, &out(TCP))).0, LAN);
    let (device, told) = one(gateway.send(LAN, &out(V6::ICMP)));
    assert_eq!((device, &told[54..56]), (LAN, &[1, 3][..]));
    assert_eq!(one(gateway.send(LAN, &udp_out(40_001, 53))).0, LAN);
    assert_eq!(gateway.count(Counter::DropHostLimit), 2);
}

#[test]
fn a_flow_leaves_from_the_uplinks_address_and_its_answers_come_back() {
    for proto in [UDP, TCP, V6::ICMP] {
        let mut gateway = gateway();
        let (device, frame) = one(gateway.send(LAN, &out(proto)));
        let sent = see6(&frame);
        assert_eq!((sent.src, sent.dst), (external6(device - 1), SERVER6));
        assert!((20_000..=60_000).contains(&u16::from_be_bytes(sent.sport)));
        let (back, frame) = one(gateway.send(device, &answer(device, proto, &sent)));
        let p = see6(&frame);
        assert_eq!((back, p.src, p.dst), (LAN, SERVER6, HOST6));
        let port = if proto == V6::ICMP { p.sport } else { p.dport };
        assert_eq!(u16::from_be_bytes(port), 40_000, "protocol {proto}");
        gateway.assert_conserved();
    }
}

#[test]
fn a_ping_from_outside_is_of_no_flow_though_a_host_pings_with_its_identifier() {
    assert_only_replies_return(gateway, HOST6);
}

#[test]
fn an_endpoint_keeps_its_mapping_whomever_it_talks_to_and_tcp_has_none() {
    let mut gateway = gateway();
    let macs = [HOST_MAC, device_mac(LAN)];
    let mut to = |server, proto| {
        let (_, frame) =
            one(gateway.send(LAN, &packet(macs, [HOST6, server], (proto, false), 64, 8)));
        let p = see6(&frame);
        (p.src, p.sport)
    };
    assert_eq!(to(SERVER6, UDP), to(ROUTER6, UDP));
    to(SERVER6, TCP);
    assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (3, 1));
}

#[test]
fn two_hosts_with_the_same_port_get_two() {
    let mut gateway = gateway();
    gateway.publish(BUCKETS);
    let mut other = HOST6;
    other[15] = 3;
    let macs = [HOST_MAC, device_mac(LAN)];
    let mut from = |source| {
        let frame = packet(macs, [source, SERVER6], (UDP, false), 64, 8);
        see6(&one(gateway.send(LAN, &frame)).1).sport
    };
    assert_ne!(from(HOST6), from(other));
}

#[test]
fn a_datagram_flow_goes_on_from_another_uplinks_address() {
    let mut gateway = gateway();
    let (first, _) = one(gateway.send(LAN, &out(UDP)));
    gateway.writer.set_path_state(PathId::new(first - 1, Family::V6), 0);
    let (second, frame) = one(gateway.send(LAN, &out(UDP)));
    assert_eq!((second, see6(&frame).src), (3 - first, external6(2 - first)));
    assert_eq!((gateway.count(Counter::FlowsMoved), gateway.engines[0].mappings()), (1, 1));
    gateway.assert_conserved();
}
