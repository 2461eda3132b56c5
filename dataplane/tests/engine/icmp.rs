//! ICMP errors: those that the gateway sends, and those that it translates.

use super::gateway::*;
use etherparse::PacketBuilder;
use weir_dataplane::engine::Owner;
use weir_layout::control::BUCKETS;
use weir_layout::counters::Counter;

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
    assert_eq!(answer[15], 6 << 5, "of the precedence of internetwork control");
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
fn a_host_of_which_no_flow_begins_is_known_by_what_it_is_told() {
    let mut gateway = Gateway::new();
    assert_eq!(told(&mut gateway, (HOST_MAC, HOST), 1, 8), Some(11));
    assert_eq!(gateway.acquaint(Owner::At(HOST_MAC)), 1);
    for n in 0..4000u16 {
        let [high, low] = n.to_be_bytes();
        told(&mut gateway, ([6, 0, 0, 0, high, low], [10, 77, 1 + high, low]), 1, 8);
    }
    let host = (0..100).filter(|_| told(&mut gateway, (HOST_MAC, HOST), 1, 8) == Some(11)).count();
    assert_eq!((host, gateway.count(Counter::FlowsCreated)), (100, 0));
    gateway.assert_conserved();
}

#[test]
fn a_host_that_has_flows_is_asked_about_however_many_without_are_told_errors() {
    let mut gateway = Gateway::new();
    one(gateway.send(LAN, &udp_out(40_000, 53)));
    gateway.acquaint(Owner::Nobody);
    for n in 0..1000u16 {
        let [high, low] = n.to_be_bytes();
        told(&mut gateway, ([6, 0, 0, 0, high, low], [10, 77, 1 + high, low]), 1, 8);
    }
    told(&mut gateway, (HOST_MAC, HOST), 1, 8);
    let asked = gateway.asked_about();
    assert!(asked.contains(&HOST.into()) && asked.len() == 4, "{asked:?}");
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
