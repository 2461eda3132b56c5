//! Endpoints of TCP that have one address and port outside, by uplinks that say so (RFC 5382 REQ-1,
//! REQ-7).

use std::collections::HashSet;

use super::gateway::*;
use weir_dataplane::engine::Engine;
use weir_layout::control::{BUCKETS, ComeHome, path_state};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::{ACK, RST, SYN};

/// Where a packet leaves, and as whom.
type Place = (u8, [u8; 4], u16);

fn place((device, frame): &(u8, Vec<u8>)) -> Place {
    let seen = see(frame);
    (*device, seen.src, seen.sport)
}

/// A host begins a connection from a port, at a worker; the frame that leaves.
fn begin(gateway: &mut Gateway, worker: u8, host: u8, port: u16, to: u16) -> (u8, Vec<u8>) {
    let (mac, from) = ([2, 0, 0, 0, 0, host], ([10, 77, 0, host], port));
    one(gateway.send_to(worker, LAN, &tcp(mac, device_mac(LAN), from, (SERVER, to), SYN)))
}

fn mappings(gateway: &Gateway) -> usize {
    gateway.engines.iter().map(|engine| engine.mappings()).sum()
}

#[test]
fn an_endpoint_of_tcp_has_one_address_and_port_whatever_it_talks_to_and_whichever_worker_meets_it()
{
    for workers in [1, 4] {
        let mut gateway = Gateway::with(workers, 4096);
        gateway.map_tcp(&[0, 1]);
        let mut devices = HashSet::new();
        for port in 30_000..30_020 {
            let places = (0..8u8)
                .map(|n| place(&begin(&mut gateway, n % workers, 2, port, 100 + u16::from(n))));
            let places: HashSet<_> = places.collect();
            assert_eq!(places.len(), 1, "{places:?}");
            devices.extend(places.iter().map(|place| place.0));
        }
        assert_eq!(devices.len(), 2, "endpoints are spread over the uplinks");
        gateway.assert_conserved();
    }
}

#[test]
fn two_endpoints_of_tcp_never_share_a_port() {
    let mut gateway = Gateway::with(2, 1 << 14);
    gateway.map_tcp(&[0, 1]);
    let mut seen = HashSet::new();
    for host in 2..250u8 {
        let place = place(&begin(&mut gateway, host % 2, host, 40_000, u16::from(host)));
        assert!(seen.insert(place), "{place:?} twice");
    }
    gateway.assert_conserved();
}

#[test]
fn answers_reach_the_endpoint_and_no_other_stranger_does() {
    let mut gateway = Gateway::new();
    gateway.map_tcp(&[0, 1]);
    let out = begin(&mut gateway, 0, 2, 40_000, 443);
    let (device, answer) = one(gateway.send(out.0, &answer_to(out.0, &out.1)));
    assert_eq!((device, see(&answer).dst, see(&answer).dport), (LAN, HOST, 40_000));
    let (_, address, port) = place(&out);
    let from = next_hop_mac(out.0 - 1);
    let stranger = tcp(from, device_mac(out.0), (SERVER, 444), (address, port), SYN);
    assert!(gateway.send(out.0, &stranger).is_empty());
}

#[test]
fn the_port_goes_with_the_last_connection_and_is_another_endpoints_then() {
    let mut gateway = Gateway::new();
    gateway.map_tcp(&[0, 1]);
    gateway.publish(BUCKETS);
    begin(&mut gateway, 0, 2, 40_000, 443);
    gateway.now += 200_000;
    begin(&mut gateway, 0, 2, 40_000, 444);
    gateway.now += 100_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), mappings(&gateway)), (1, 1), "one was idle for too long");
    assert_ne!(place(&begin(&mut gateway, 0, 3, 40_000, 443)).2, 40_000);
    gateway.now += 240_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), mappings(&gateway)), (0, 0));
    assert_eq!(place(&begin(&mut gateway, 0, 3, 40_000, 443)).2, 40_000);
}

#[test]
fn a_host_alone_gets_five_sixths_of_the_ports_and_who_finds_none_is_told() {
    let mut gateway = Gateway::new();
    for uplink in 0..2 {
        let path = gateway.path(uplink);
        (path.nat_lo, path.nat_hi) = (50_000, 50_009);
    }
    gateway.half.policies[0].member_count = 1;
    gateway.map_tcp(&[0]);
    gateway.publish(BUCKETS);
    let left = (0..20).filter(|n| begin(&mut gateway, 0, 9, 30_000 + n, 53).0 == 1).count();
    assert_eq!((left, gateway.count(Counter::DropNoPort)), (9, 11), "the last is for others");
    assert_eq!(begin(&mut gateway, 0, 10, 30_000, 53).0, 1);
    assert_eq!(begin(&mut gateway, 0, 10, 30_000, 54).0, 1, "an endpoint's own costs no port");
    gateway.assert_conserved();
}

#[test]
fn where_one_of_two_uplinks_maps_endpoints_the_other_shares_ports_as_before() {
    let mut gateway = Gateway::new();
    gateway.map_tcp(&[1]);
    let mut shared = [0; 3];
    for port in 30_000..30_040 {
        let [a, b] = [(2, 80), (3, 81)].map(|(host, to)| begin(&mut gateway, 0, host, port, to));
        if a.0 == b.0 && see(&a.1).sport == see(&b.1).sport {
            shared[usize::from(a.0)] += 1;
        }
        let again = begin(&mut gateway, 0, 2, port, 82);
        if a.0 == 2 {
            assert_eq!(place(&again), place(&a));
        } else {
            assert_eq!(again.0, a.0, "it keeps its uplink too");
        }
    }
    assert!(shared[1] > 0 && shared[2] == 0, "{shared:?}");
}

#[test]
fn connections_go_on_when_the_file_begins_and_ceases_to_map_endpoints() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let early = begin(&mut gateway, 0, 2, 40_000, 443);
    gateway.map_tcp(&[0, 1]);
    let mapped = begin(&mut gateway, 0, 2, 40_000, 444);
    assert_eq!(mappings(&gateway), 1);
    gateway.map_tcp(&[]);
    let late = begin(&mut gateway, 0, 2, 40_000, 445);
    for out in [&early, &mapped, &late] {
        let (device, answer) = one(gateway.send(out.0, &answer_to(out.0, &out.1)));
        assert_eq!((device, see(&answer).dst, see(&answer).dport), (LAN, HOST, 40_000));
    }
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), mappings(&gateway)), (0, 0));
    gateway.assert_conserved();
}

#[test]
fn the_mapping_outlives_the_process_and_connections_another_number_of_workers() {
    let mut gateway = Gateway::with(2, 4096);
    gateway.map_tcp(&[0, 1]);
    let before: Vec<_> = (0..40).map(|n| begin(&mut gateway, 0, 2, 30_000 + n, 443)).collect();
    restart(&mut gateway, 2, BUCKETS / 2);
    assert_eq!(mappings(&gateway), 40);
    for (n, out) in (0..).zip(&before) {
        assert_eq!(place(&begin(&mut gateway, 1, 2, 30_000 + n, 444)), place(out));
    }
    restart(&mut gateway, 3, BUCKETS / 2);
    for out in &before {
        let (device, answer) = one(gateway.send_to(2, out.0, &answer_to(out.0, &out.1)));
        assert_eq!((device, see(&answer).dst), (LAN, HOST), "whoever has the port now");
    }
    // Those that went on without a mapping get one as they begin anew.
    gateway.now += 1000;
    for (n, out) in (0..).zip(&before) {
        let reset = tcp(HOST_MAC, device_mac(LAN), (HOST, 30_000 + n), (SERVER, 443), RST | ACK);
        gateway.send_to(0, LAN, &reset);
        let places: HashSet<_> = [443, 450, 451]
            .into_iter()
            .zip(0..3)
            .map(|(to, worker)| place(&begin(&mut gateway, worker, 2, 30_000 + n, to)))
            .collect();
        assert!(places.len() <= 2, "{places:?} after {out:?}");
    }
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!(mappings(&gateway), 0);
    gateway.assert_conserved();
}

#[test]
fn a_connection_from_before_the_mappings_keeps_no_endpoint_from_its_destination() {
    let mut gateway = Gateway::new();
    gateway.half.policies[0].member_count = 1;
    gateway.publish(BUCKETS);
    let early = begin(&mut gateway, 0, 2, 40_000, 443);
    gateway.map_tcp(&[0]);
    gateway.publish(BUCKETS);
    let mapped = begin(&mut gateway, 0, 3, 40_000, 444);
    assert_eq!(place(&mapped), place(&early), "which has no mapping");
    let moved = begin(&mut gateway, 0, 3, 40_000, 443);
    assert_eq!(moved.0, early.0);
    assert_ne!(place(&moved), place(&early));
    assert_eq!(place(&begin(&mut gateway, 0, 3, 40_000, 445)), place(&moved), "it stays there");
    for (out, host) in [(&early, 2), (&mapped, 3), (&moved, 3)] {
        let (device, answer) = one(gateway.send(out.0, &answer_to(out.0, &out.1)));
        assert_eq!(
            (device, see(&answer).dst, see(&answer).dport),
            (LAN, [10, 77, 0, host], 40_000)
        );
    }
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), mappings(&gateway)), (0, 0));
    gateway.assert_conserved();
}

#[test]
fn mappings_that_the_file_has_just_ceased_to_make_are_adopted_and_end_with_their_connections() {
    let mut gateway = Gateway::new();
    gateway.map_tcp(&[0, 1]);
    for port in 40_000..40_010 {
        begin(&mut gateway, 0, 2, port, 443);
    }
    gateway.regions.prepare(&gateway.half);
    gateway.map_tcp(&[]);
    gateway.engines = vec![Engine::new(0, 1, &gateway.regions, [7, 1])];
    gateway.engines[0].adopt();
    assert_eq!((flows(&gateway), mappings(&gateway)), (10, 10));
    gateway.map_tcp(&[0, 1]);
    gateway.engines[0].refresh();
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), mappings(&gateway)), (0, 0));
    gateway.assert_conserved();
}

#[test]
fn an_endpoint_whose_uplink_is_down_begins_by_another_and_stays_there() {
    let mut gateway = Gateway::new();
    gateway.map_tcp(&[0, 1]);
    gateway.publish(BUCKETS);
    assert_eq!(begin(&mut gateway, 0, 2, 40_000, 443).0, 1);
    gateway.set_state(0, path_state::NO_CARRIER);
    let other = begin(&mut gateway, 0, 2, 40_000, 444);
    assert_eq!(other.0, 2);
    gateway.set_state(0, path_state::USABLE);
    assert_eq!(place(&begin(&mut gateway, 0, 2, 40_000, 445)), place(&other));
}

#[test]
fn an_endpoint_that_is_called_home_begins_there() {
    let mut gateway = Gateway::new();
    away(&mut gateway, ComeHome::All);
    gateway.map_tcp(&[0, 1]);
    gateway.publish(BUCKETS);
    gateway.set_state(0, path_state::NO_CARRIER);
    for to in [443, 444] {
        let (device, syn) = begin(&mut gateway, 0, 2, 40_000, to);
        assert_eq!(device, 2);
        gateway.send(device, &answer_to(device, &syn));
    }
    gateway.set_state(0, path_state::USABLE);
    age(&mut gateway);
    assert_eq!(begin(&mut gateway, 0, 2, 40_000, 445).0, 1);
}
