//! What is told to who would begin a flow while no uplink may carry it.

use etherparse::PacketBuilder;
use weir_layout::Family;
use weir_layout::control::{BUCKETS, PathId, path_state};
use weir_layout::counters::Counter;
use weir_wire::family::{Family as _, V4, V6};
use weir_wire::parse::{Kind, parse6};

use super::gateway::*;
use super::packets6::{HOST6, SERVER6};

/// A gateway of both families whose uplinks all went down.
fn cut_off() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    for family in Family::ALL {
        (0..3).for_each(|uplink| gateway.writer.set_path_state(PathId::new(uplink, family), 0));
    }
    gateway
}

#[test]
fn who_begins_a_flow_that_no_uplink_takes_is_told_that_there_is_no_route() {
    let mut gateway = cut_off();
    for frame in [udp_out(40_000, 53), tcp_out(40_000, 443, weir_wire::tcp::flag::SYN)] {
        let (device, error) = one(gateway.send(LAN, &frame));
        assert_eq!((device, &error[..6]), (LAN, &HOST_MAC[..]));
        assert_eq!((see(&error).src, see(&error).dst), (GATEWAY, HOST));
        assert_eq!(error[34..36], V4::NO_ROUTE);
        assert_eq!(error[42..], frame[14..]);
    }
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv6(HOST6, SERVER6, 64);
    builder.udp(40_000, 53).write(&mut frame, b"payload").unwrap();
    let (device, error) = one(gateway.send(LAN, &frame));
    let p = parse6(&error).unwrap();
    assert_eq!((device, p.dst, p.kind), (LAN, HOST6, Kind::IcmpError));
    assert_eq!(error[p.l4.into()..][..2], V6::NO_ROUTE);
    assert_eq!((gateway.count(Counter::DropNoUplink), gateway.engines[0].flows()), (3, 0));
    gateway.assert_conserved();
}

#[test]
fn nobody_is_told_while_another_uplink_is_about_to_take_over() {
    let mut gateway = cut_off();
    gateway.half.policies[0].steering_mut(V4::FAMILY).active_tier = 1;
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(LAN, &udp_out(40_000, 53)).is_empty(), "the published state has one");
    gateway.set_state(1, path_state::USABLE);
    assert_eq!(one(gateway.send(LAN, &udp_out(40_001, 53))).0, 2);
    gateway.assert_conserved();
}

#[test]
fn errors_about_unreachable_destinations_leave_those_about_sizes() {
    let mut gateway = cut_off();
    let told = |gateway: &mut Gateway| gateway.send(LAN, &udp_out(40_000, 53)).len();
    assert_eq!((0..500).map(|_| told(&mut gateway)).sum::<usize>(), 100);
    gateway.set_state(0, path_state::USABLE);
    gateway.half.ports[1].mtu = 1280;
    gateway.publish(BUCKETS);
    let builder =
        PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64).udp(40_000, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 1400]).unwrap();
    assert_eq!(one(gateway.send(LAN, &frame)).1[34..36], V4::TOO_BIG);
    gateway.assert_conserved();
}

#[test]
fn an_error_that_no_uplink_takes_is_answered_by_none() {
    let mut gateway = cut_off();
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN))
        .ipv4(HOST, SERVER, 64)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::Port,
        ));
    let mut frame = Vec::new();
    builder.write(&mut frame, &udp_out(40_000, 53)[14..]).unwrap();
    assert!(gateway.send(LAN, &frame).is_empty());
    gateway.assert_conserved();
}
