//! Translation: endpoints, mappings and ports.

use super::gateway::*;
use weir_layout::Family;
use weir_layout::control::{BUCKETS, PathId, path_state};
use weir_layout::counters::Counter;

const SYN: u8 = 0x02;

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
fn a_port_that_is_taken_gives_way_to_one_of_its_parity() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    for port in 40_000..40_100 {
        one(gateway.send(LAN, &udp_out(port, 53)));
        let other = udp(HOST_MAC, device_mac(LAN), ([10, 77, 0, 3], port), (SERVER, 53));
        let changed = see(&one(gateway.send(LAN, &other)).1).sport;
        assert!(changed != port && changed % 2 == port % 2, "{changed} for {port}");
    }
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
    let sent = |gateway: &mut Gateway, host: u8, n| {
        let mac = [2, 0, 0, 0, 0, host];
        let frame = udp(mac, device_mac(LAN), ([10, 77, 0, host], 30_000 + n), (SERVER, 53));
        one(gateway.send(LAN, &frame))
    };
    let left = (0..20u16).filter(|n| sent(&mut gateway, 9, *n).0 == 1).count();
    assert_eq!(left, 9, "the last is for others");
    assert_eq!(gateway.count(Counter::DropNoPort), 11);
    assert_eq!(sent(&mut gateway, 10, 0).0, 1);
    let (device, error) = sent(&mut gateway, 11, 0);
    assert_eq!((device, &error[34..36]), (LAN, &[3, 1][..]), "a soft error");
    gateway.assert_conserved();
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
fn an_endpoint_keeps_its_port_when_a_new_flow_has_nowhere_to_go() {
    let mut gateway = Gateway::new();
    let before = see(&one(gateway.send(LAN, &udp_out(40_000, 53))).1).sport;
    let states = |gateway: &mut Gateway, state| {
        (0..3).for_each(|uplink| gateway.set_state(uplink, state));
    };
    states(&mut gateway, path_state::NO_CARRIER);
    assert_eq!(one(gateway.send(LAN, &udp_out(40_000, 54))).0, LAN, "its sender is told");
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
    assert_eq!(gateway.regions.counters.path(PathId::v4(0)).flows_active, 0);
    let other = udp(HOST_MAC, device_mac(LAN), ([10, 77, 0, 9], 40_000), (SERVER, 54));
    assert_eq!(see(&one(gateway.send(LAN, &other)).1).sport, 40_000);
}
