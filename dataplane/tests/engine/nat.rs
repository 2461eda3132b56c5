//! Translation: endpoints, mappings and ports.

use super::gateway::*;
use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, PathId, path_state};
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

/// A gateway whose uplinks have ten ports each. All buckets are uplink 0's; its policy has uplink 1
/// too.
fn with_ten_ports() -> Gateway {
    let mut gateway = Gateway::new();
    for uplink in &mut gateway.half.uplinks {
        let path = uplink.path_mut(Family::V4);
        (path.nat_lo, path.nat_hi) = (50_000, 50_009);
    }
    gateway.publish(BUCKETS);
    gateway
}

/// What becomes of a packet of this host from this port.
fn sent(gateway: &mut Gateway, host: u8, port: u16, to: u16, syn: bool) -> (u8, Vec<u8>) {
    let (mac, from) = ([2, 0, 0, 0, 0, host], ([10, 77, 0, host], port));
    let frame = match syn {
        true => tcp(mac, device_mac(LAN), from, (SERVER, to), SYN),
        false => udp(mac, device_mac(LAN), from, (SERVER, to)),
    };
    one(gateway.send(LAN, &frame))
}

#[test]
fn a_host_alone_gets_five_sixths_of_the_ports_of_all_addresses() {
    let mut gateway = Gateway::new();
    let path = gateway.path(0);
    (path.nat_lo, path.nat_hi, path.pool_len) = (20_000, 20_063, 12);
    for (last, address) in (100..).zip(&mut path.pool[..12]) {
        *address = Address::v4([203, 0, 113, last]);
    }
    gateway.half.policies[0].member_count = 1;
    gateway.publish(BUCKETS);
    let left = (20_000..21_000).filter(|port| {
        let sent = gateway.send(LAN, &udp_out(*port, 53));
        sent.iter().any(|(device, _)| *device == 1)
    });
    assert_eq!(left.count(), 640, "of 768");
    let other = udp([2; 6], device_mac(LAN), ([10, 77, 0, 99], 5000), (SERVER, 53));
    assert_eq!(one(gateway.send(LAN, &other)).0, 1, "the rest is others'");
}

#[test]
fn what_flows_have_of_an_address_that_no_new_one_gets_leaves_the_others_whole() {
    let mut gateway = Gateway::new();
    let path = gateway.path(0);
    (path.nat_lo, path.nat_hi) = (20_000, 20_063);
    gateway.half.policies[0].member_count = 1;
    gateway.publish(BUCKETS);
    let begin = |gateway: &mut Gateway, ports: std::ops::Range<u16>| {
        let leaves = |port: &u16| {
            let sent = gateway.send(LAN, &udp_out(*port, 53));
            sent.iter().any(|(device, _)| *device == 1)
        };
        ports.filter(leaves).count()
    };
    assert_eq!(begin(&mut gateway, 20_000..21_000), 54);
    let path = gateway.path(0);
    path.pool[1] = path.pool[0];
    path.pool[0] = Address::v4([203, 0, 113, 99]);
    path.retired = 1;
    gateway.publish(BUCKETS);
    gateway.engines[0].refresh();
    let other = |n| udp([2; 6], device_mac(LAN), ([10, 77, 0, 99], n), (SERVER, 53));
    let left = (5000..5050).filter(|n| one(gateway.send(LAN, &other(*n))).0 == 1);
    assert_eq!(left.count(), 50);
}

#[test]
fn an_exhausted_port_range_refuses_and_says_so() {
    let mut gateway = with_ten_ports();
    gateway.half.policies[0].member_count = 1;
    gateway.publish(BUCKETS);
    let sent = |gateway: &mut Gateway, host, n| sent(gateway, host, 30_000 + n, 53, false);
    let left = (0..20u16).filter(|n| sent(&mut gateway, 9, *n).0 == 1).count();
    assert_eq!(left, 9, "the last is for others");
    assert_eq!(gateway.count(Counter::DropNoPort), 11);
    assert_eq!(sent(&mut gateway, 10, 0).0, 1);
    let (device, error) = sent(&mut gateway, 11, 0);
    assert_eq!((device, &error[34..36]), (LAN, &[3, 1][..]), "a soft error");
    gateway.assert_conserved();
}

#[test]
fn a_flow_for_which_an_uplink_has_no_port_takes_another_of_its_policy() {
    let mut gateway = with_ten_ports();
    let hosts = 1..=22u8;
    let sent: Vec<_> =
        hosts.map(|host| sent(&mut gateway, host, 30_000 + u16::from(host), 53, false)).collect();
    let ports = |uplink| {
        let left = sent.iter().filter(|(device, _)| *device == uplink + 1);
        let seen: Vec<_> = left.map(|(_, frame)| see(frame)).collect();
        assert!(seen.iter().all(|seen| seen.src == external(uplink)), "{seen:?}");
        seen.iter().map(|seen| seen.sport).collect::<std::collections::BTreeSet<_>>()
    };
    let all: std::collections::BTreeSet<u16> = (50_000..=50_009).collect();
    assert_eq!((ports(0), ports(1)), (all.clone(), all));
    assert!(ports(2).is_empty(), "it is not in the policy");
    assert!(sent[20..].iter().all(|(device, _)| *device == LAN), "the last two are refused");
    assert_eq!(gateway.count(Counter::DropNoPort), 2);
    gateway.assert_conserved();
}

#[test]
fn an_endpoint_that_took_another_uplink_for_want_of_a_port_stays_there() {
    let mut gateway = with_ten_ports();
    (1..=10).for_each(|host| _ = sent(&mut gateway, host, 30_000, 53, false));
    let (device, first) = sent(&mut gateway, 11, 30_000, 53, false);
    assert_eq!(device, 2);
    let seen = see(&first);
    let answer = udp(next_hop_mac(1), device_mac(2), (SERVER, 53), (seen.src, seen.sport));
    let (device, answer) = one(gateway.send(2, &answer));
    assert_eq!((device, see(&answer).dst, see(&answer).dport), (LAN, [10, 77, 0, 11], 30_000));
    for to in 54..60 {
        let (device, next) = sent(&mut gateway, 11, 30_000, to, false);
        assert_eq!((device, see(&next).src, see(&next).sport), (2, seen.src, seen.sport));
    }
}

#[test]
fn a_connection_takes_another_uplink_only_where_no_port_is_left_to_its_server() {
    let mut gateway = with_ten_ports();
    let devices = |gateway: &mut Gateway, to| {
        let syns = (1..=12u8).map(|host| sent(gateway, host, 30_000, to, true).0);
        syns.fold([0; 3], |mut sum, device| {
            sum[usize::from(device)] += 1;
            sum
        })
    };
    assert_eq!(devices(&mut gateway, 80), [0, 10, 2]);
    assert_eq!(devices(&mut gateway, 443), [0, 10, 2], "ports are used again to another server");
}

#[test]
fn what_finds_no_port_takes_neither_a_worse_tier_nor_an_uplink_that_is_down_or_drains() {
    let mut gateway = with_ten_ports();
    let sent = |gateway: &mut Gateway, host| sent(gateway, host, 30_000, 53, false).0;
    assert!((1..=10).all(|host| sent(&mut gateway, host) == 1));
    gateway.half.policies[0].members[1].tier = 2;
    gateway.half.policies[0].steering_mut(Family::V4).active_tier = 1;
    gateway.publish(BUCKETS);
    assert_eq!(sent(&mut gateway, 11), LAN, "it would be away from home there");
    gateway.half.policies[0].members[1].tier = 1;
    gateway.publish(BUCKETS);
    gateway.set_state(1, path_state::NO_CARRIER);
    assert_eq!(sent(&mut gateway, 11), LAN, "it is down");
    gateway.set_state(1, path_state::USABLE | path_state::DRAINING);
    assert_eq!(sent(&mut gateway, 11), LAN, "it is being emptied");
    gateway.set_state(1, path_state::USABLE);
    assert_eq!(sent(&mut gateway, 11), 2);
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
fn an_endpoint_keeps_its_port_when_a_new_flow_finds_none_elsewhere() {
    let mut gateway = with_ten_ports();
    let (device, before) = sent(&mut gateway, 11, 30_000, 53, false);
    assert_eq!(device, 1);
    gateway.set_state(0, path_state::NO_CARRIER);
    assert!((1..=10).all(|host| sent(&mut gateway, host, 30_000, 53, false).0 == 2));
    assert_eq!(sent(&mut gateway, 11, 30_000, 54, false).0, LAN, "its sender is told");
    gateway.set_state(0, path_state::USABLE);
    let (device, after) = sent(&mut gateway, 11, 30_000, 55, false);
    assert_eq!((device, see(&after).sport), (1, see(&before).sport));
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
