//! The engine as a gateway: what goes in on one side and what comes out on the other.

use super::gateway::*;
use etherparse::{IpFragOffset, PacketBuilder};
use weir_layout::Family;
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
fn a_udp_endpoint_has_one_mapping_for_all_destinations() {
    let mut gateway = Gateway::new();
    let first = one(gateway.send(LAN, &udp_out(40_000, 1)));
    let source = |frame: &[u8]| (see(frame).src, see(frame).sport);
    for dport in 2..50 {
        let next = one(gateway.send(LAN, &udp_out(40_000, dport)));
        assert_eq!((next.0, source(&next.1)), (first.0, source(&first.1)));
    }
}

#[test]
fn two_endpoints_never_share_an_external_port_of_udp() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let other = ([10, 77, 0, 3], 40_000);
    let a = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let b = one(gateway.send(LAN, &udp(HOST_MAC, device_mac(LAN), other, (SERVER, 54))));
    assert_eq!((a.0, b.0), (1, 1));
    assert_ne!(see(&a.1).sport, see(&b.1).sport);
}

#[test]
fn tcp_reuses_a_port_for_another_destination_and_not_for_the_same() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let syn = |host: u8, dport| {
        tcp(HOST_MAC, device_mac(LAN), ([10, 77, 0, host], 40_000), (SERVER, dport), SYN)
    };
    let first = see(&one(gateway.send(LAN, &syn(2, 80))).1);
    let elsewhere = see(&one(gateway.send(LAN, &syn(3, 81))).1);
    let same = see(&one(gateway.send(LAN, &syn(4, 80))).1);
    assert_eq!((first.sport, elsewhere.sport), (40_000, 40_000));
    assert_ne!(same.sport, 40_000);
}

#[test]
fn a_port_outside_the_range_is_replaced_by_one_inside() {
    let mut gateway = Gateway::new();
    let seen = see(&one(gateway.send(LAN, &udp_out(1024, 53))).1);
    assert!((20_000..=60_000).contains(&seen.sport));
}

#[test]
fn an_exhausted_port_range_refuses_and_says_so() {
    let mut gateway = Gateway::new();
    for uplink in &mut gateway.half.uplinks {
        let path = uplink.path_mut(Family::V4);
        (path.nat_lo, path.nat_hi) = (50_000, 50_009);
    }
    gateway.publish(BUCKETS);
    let left = (0..20).filter(|n| !gateway.send(LAN, &udp_out(30_000 + n, 53)).is_empty()).count();
    assert_eq!(left, 10);
    assert_eq!(gateway.count(Counter::DropNoPort), 10);
    gateway.assert_conserved();
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let mut gateway = Gateway::with(1, 64);
    let left: Vec<u16> =
        (0..200).filter(|n| !gateway.send(LAN, &udp_out(30_000 + n, 53)).is_empty()).collect();
    assert!(left.len() >= 16 && left.len() <= 32, "{}", left.len());
    assert_eq!(gateway.count(Counter::DropTableFull), 200 - left.len() as u64);
    for n in left {
        assert_eq!(gateway.send(LAN, &udp_out(30_000 + n, 53)).len(), 1);
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
fn another_remote_port_does_not_come_in_by_a_mapping() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &udp_out(40_000, 53)));
    let other = udp(next_hop_mac(0), device_mac(1), (SERVER, 54), (external(0), 40_000));
    assert!(gateway.send(1, &other).is_empty());
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
fn an_expired_ttl_is_answered_to_the_host() {
    let mut gateway = Gateway::new();
    let mut frame = udp_out(40_000, 33_434);
    frame[22] = 1;
    let sum = weir_wire::checksum::Delta::of([64, 17], [1, 17]).apply([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&sum);
    let (device, answer) = one(gateway.send(LAN, &frame));
    assert_eq!(device, LAN);
    assert_eq!((see(&answer).src, see(&answer).dst), (GATEWAY, HOST));
    assert_eq!((answer[34], answer[35]), (11, 0));
    assert_eq!(gateway.count(Counter::DropTtl), 1);
    assert_eq!(gateway.count(Counter::FlowsCreated), 0, "no flow begins for it");
    gateway.assert_conserved();
}

/// The frame with another TTL, and its checksum.
pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    let old = frame[22];
    frame[22] = ttl;
    let sum = weir_wire::checksum::Delta::of([old, frame[23]], [ttl, frame[23]]);
    let sum = sum.apply([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// What a host says: about a packet of this type of error.
fn told(gateway: &mut Gateway, from: ([u8; 6], [u8; 4]), ttl: u8, len: usize) -> Option<u8> {
    let builder =
        PacketBuilder::ethernet2(from.0, device_mac(LAN)).ipv4(from.1, SERVER, ttl).udp(40_000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, &vec![0; len]).unwrap();
    let mut sent = gateway.send(LAN, &frame);
    sent.pop().map(|(device, answer)| {
        assert_eq!(device, LAN);
        answer[34]
    })
}

#[test]
fn errors_to_one_host_leave_those_to_others_and_those_of_other_types() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
    gateway.publish(BUCKETS / 2);
    let (host, other) = ((HOST_MAC, HOST), ([2, 0, 0, 0, 0, 0x20], [10, 77, 0, 9]));
    let exceeded = (0..5000).filter(|_| told(&mut gateway, host, 1, 8) == Some(11)).count();
    assert_eq!(exceeded, 100);
    assert_eq!(told(&mut gateway, host, 64, 1400), Some(3));
    assert_eq!(told(&mut gateway, other, 1, 8), Some(11));
    assert_eq!(told(&mut gateway, other, 64, 1400), Some(3));
    gateway.now += 100;
    assert_eq!(told(&mut gateway, host, 1, 8), Some(11), "ten are earned again");
    gateway.assert_conserved();
}

#[test]
fn errors_to_made_up_hardware_addresses_leave_those_to_a_host_that_the_kernel_knows() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
    gateway.publish(BUCKETS / 2);
    gateway.introduce(HOST_MAC);
    let made_up = |n: u16| {
        let [high, low] = n.to_be_bytes();
        ([6, 0, 0, 0, high, low], [10, 77, 1 + high, low])
    };
    let told_of = |gateway: &mut Gateway, host| told(gateway, host, 64, 1400) == Some(3);
    let others = (0..4000).filter(|n| told_of(&mut gateway, made_up(*n))).count();
    assert_eq!(others, 1000);
    let host = (0..100).filter(|_| told_of(&mut gateway, (HOST_MAC, HOST))).count();
    assert_eq!(host, 100);
    gateway.assert_conserved();
}

#[test]
fn a_host_with_many_addresses_has_the_limits_of_one() {
    let mut gateway = Gateway::new();
    let answered = (0..500u16).filter(|n| {
        let [high, low] = n.to_be_bytes();
        told(&mut gateway, (HOST_MAC, [10, 77, 1 + high, low]), 1, 8).is_some()
    });
    assert_eq!(answered.count(), 100);
}

#[test]
fn what_is_too_big_for_the_lan_or_expires_here_is_answered_outside_by_the_address_known_there() {
    let mut gateway = Gateway::new();
    gateway.half.ports[usize::from(LAN)].mtu = 1400;
    gateway.publish(BUCKETS / 2);
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let asked = see(&out);
    let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
        .ipv4(SERVER, asked.src, 60)
        .udp(asked.dport, asked.sport);
    let mut large = Vec::new();
    builder.write(&mut large, &[0; 1400]).unwrap();
    let expired = with_ttl(answer_to(device, &out), 1);
    for (frame, kind, mtu) in [(&large, [3, 4], 1400u16), (&expired, [11, 0], 0)] {
        let (back, answer) = one(gateway.send(device, frame));
        assert_eq!((back, &answer[..6]), (device, &next_hop_mac(device - 1)[..]));
        let parsed = weir_wire::parse::parse(&answer).unwrap();
        assert_eq!((parsed.src, parsed.dst), (asked.src, SERVER));
        assert_eq!(answer[34..36], kind);
        assert_eq!(answer[40..42], mtu.to_be_bytes());
        let quoted = &answer[42..];
        assert_eq!(quoted, &frame[14..14 + quoted.len()], "as its sender knows it");
    }
    assert_eq!((gateway.count(Counter::DropTooBig), gateway.count(Counter::DropTtl)), (1, 1));
    gateway.assert_conserved();
}

#[test]
fn a_packet_too_big_for_its_uplink_is_answered_with_the_mtu() {
    let mut gateway = Gateway::new();
    for port in &mut gateway.half.ports[1..4] {
        port.mtu = 1280;
    }
    gateway.publish(BUCKETS);
    let builder =
        PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64).udp(40_000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 1400]).unwrap();
    let (device, answer) = one(gateway.send(LAN, &frame));
    assert_eq!((device, answer[34], answer[35]), (LAN, 3, 4));
    assert_eq!(&answer[40..42], &1280u16.to_be_bytes());
    gateway.assert_conserved();
}

#[test]
fn an_icmp_error_from_outside_reaches_the_host_in_its_own_terms() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 33_434)));
    let router = [100, 64, 0, 1];
    let quote = &out[14..14 + 28];
    let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
        .ipv4(router, external(device - 1), 60)
        .icmpv4_raw(3, 4, [0, 0, 5, 0x14]);
    let mut error = Vec::new();
    builder.write(&mut error, quote).unwrap();
    let (back, told) = one(gateway.send(device, &error));
    assert_eq!(back, LAN);
    let outer = weir_wire::parse::parse(&told).unwrap();
    assert_eq!((outer.src, outer.dst), (router, HOST));
    let message = weir_wire::icmp::Packet::new_checked(&told[34..]).unwrap();
    assert!(message.verify_checksum());
    assert_eq!((message.kind(), message.code(), told[41]), (3, 4, 0x14));
    let inner = weir_wire::ipv4::Packet::new_header(message.payload()).unwrap();
    assert!(inner.verify_checksum());
    assert_eq!((inner.src(), inner.dst()), (HOST, SERVER));
    assert_eq!(&message.payload()[20..24], &[0x9c, 0x40, 0x82, 0x9a]);
    gateway.assert_conserved();
}

#[test]
fn an_icmp_error_from_the_host_leaves_in_the_uplinks_terms() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(30_000, 53)));
    let (_, delivered) = one(gateway.send(device, &answer_to(device, &out)));
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN))
        .ipv4(HOST, SERVER, 64)
        .icmpv4_raw(3, 3, [0; 4]);
    let mut error = Vec::new();
    builder.write(&mut error, &delivered[14..42]).unwrap();
    let (left, told) = one(gateway.send(LAN, &error));
    assert_eq!(left, device);
    let outer = weir_wire::parse::parse(&told).unwrap();
    assert_eq!((outer.src, outer.dst), (external(device - 1), SERVER));
    let message = weir_wire::icmp::Packet::new_checked(&told[34..]).unwrap();
    let inner = weir_wire::ipv4::Packet::new_header(message.payload()).unwrap();
    assert!(message.verify_checksum() && inner.verify_checksum());
    assert_eq!((inner.src(), inner.dst()), (SERVER, external(device - 1)));
}

#[test]
fn an_icmp_error_about_nobodys_packet_goes_nowhere() {
    let mut gateway = Gateway::new();
    let stray = udp([0; 6], [0; 6], (external(0), 40_000), (SERVER, 53));
    let builder = PacketBuilder::ethernet2(next_hop_mac(0), device_mac(1))
        .ipv4(SERVER, external(0), 60)
        .icmpv4_raw(3, 3, [0; 4]);
    let mut error = Vec::new();
    builder.write(&mut error, &stray[14..]).unwrap();
    assert!(gateway.send(1, &error).is_empty());
    assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 1);
}

/// A datagram from the host in two.
pub fn fragments() -> [Vec<u8>; 2] {
    let whole = udp(HOST_MAC, device_mac(LAN), (HOST, 40_000), (SERVER, 53));
    let split = |payload: &[u8], offset: u16, more: bool| {
        let mut ip =
            etherparse::Ipv4Header::new(payload.len() as u16, 64, 17.into(), HOST, SERVER).unwrap();
        ip.identification = 77;
        (ip.dont_fragment, ip.more_fragments) = (false, more);
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = whole[..14].to_vec();
        ip.write(&mut frame).unwrap();
        frame.extend_from_slice(payload);
        frame
    };
    [split(&whole[34..42], 0, true), split(&whole[42..], 1, false)]
}

#[test]
fn fragments_follow_their_first() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    let (device, a) = one(gateway.send(LAN, &first));
    let (other, b) = one(gateway.send(LAN, &second));
    assert_eq!(device, other);
    let mut datagram = a[14..].to_vec();
    datagram.extend_from_slice(&b[34..]);
    let pseudo = weir_wire::checksum::pseudo4(external(device - 1), SERVER, 17, 15);
    let sum = weir_wire::checksum::add(pseudo, weir_wire::checksum::sum(&datagram[20..]));
    assert!(weir_wire::checksum::is_valid(sum), "the datagram's checksum covers both fragments");
    assert_eq!(&b[26..30], &external(device - 1));
    gateway.assert_conserved();
}

#[test]
fn a_fragment_before_its_first_is_dropped() {
    let mut gateway = Gateway::new();
    let [_, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    assert_eq!(gateway.count(Counter::DropFragment), 1);
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
    assert!(gateway.send(LAN, &udp_out(1, 2)).is_empty());
    assert_eq!(gateway.count(Counter::DropNoUplink), 1);
}

#[test]
fn an_endpoint_keeps_its_port_when_a_new_flow_has_nowhere_to_go() {
    let mut gateway = Gateway::new();
    let before = see(&one(gateway.send(LAN, &udp_out(40_000, 53))).1).sport;
    let states = |gateway: &mut Gateway, state| {
        (0..3).for_each(|uplink| gateway.set_state(uplink, state));
    };
    states(&mut gateway, path_state::NO_CARRIER);
    assert!(gateway.send(LAN, &udp_out(40_000, 54)).is_empty());
    states(&mut gateway, path_state::USABLE);
    assert_eq!(see(&one(gateway.send(LAN, &udp_out(40_000, 55))).1).sport, before);
}

#[test]
fn an_idle_flow_ends_and_frees_its_port() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &udp_out(40_000, 53)));
    assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (1, 1));
    gateway.engines[0].age(4096, gateway.now + 299_999, &mut gateway.wire);
    assert_eq!(gateway.engines[0].flows(), 1);
    gateway.engines[0].age(4096, gateway.now + 300_000, &mut gateway.wire);
    assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (0, 0));
    assert_eq!(gateway.regions.counters.uplink(0).flows_active, 0);
    let other = udp(HOST_MAC, device_mac(LAN), ([10, 77, 0, 9], 40_000), (SERVER, 54));
    assert_eq!(see(&one(gateway.send(LAN, &other)).1).sport, 40_000);
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
