//! What a service's host sends from the service's port leaves from the one outside.

use weir_dataplane::engine::Owner;
use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, PortForward};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::SYN;

use super::gateway::*;
use super::packets6::{HOST6, ROUTER6, SERVER6, packet, see6};
use super::services::*;
use super::{nat66, nat66::external6};

/// Of the host's endpoint.
const INSIDE: u16 = 40_000;

/// The host's endpoint sends to a port of the server; where that leaves, and as whom.
fn out(gateway: &mut Gateway, worker: u8, protocol: u8, dport: u16) -> (u8, [u8; 4], u16) {
    let frame = match protocol {
        UDP => udp_out(INSIDE, dport),
        _ => tcp_out(INSIDE, dport, SYN),
    };
    let (device, sent) = one(gateway.send_to(worker, LAN, &frame));
    let seen = see(&sent);
    let (back, answer) = one(gateway.send_to(worker, device, &answer_to(device, &sent)));
    let answer = see(&answer);
    assert_eq!((back, answer.dst, answer.dport), (LAN, HOST, INSIDE));
    (device, seen.src, seen.sport)
}

/// The service ends.
fn unpublish(gateway: &mut Gateway) {
    gateway.half.port_forward_count = 0;
    gateway.publish(BUCKETS / 2);
    gateway.engines.iter_mut().for_each(|engine| _ = engine.refresh());
    sweep(gateway);
}

fn with_workers(workers: u8, forwards: &[PortForward]) -> Gateway {
    let mut gateway = Gateway::with(workers, 4096);
    forwards.iter().for_each(|forward| enter(&mut gateway, *forward));
    gateway.settle(Owner::At(HOST_MAC));
    gateway
}

#[test]
fn what_the_host_sends_leaves_from_the_port_outside_whomever_it_is_for() {
    // In nat_ports, and below.
    for port in [30_000, 443] {
        for (protocol, maps_tcp) in [(UDP, false), (TCP, false), (TCP, true)] {
            let mut gateway = publishing(&[service(protocol, [port; 2], INSIDE, 0b11)]);
            if maps_tcp {
                gateway.map_tcp(&[0, 1]);
            }
            let mut devices = [false; 2];
            for dport in 100..130 {
                let (device, address, sport) = out(&mut gateway, 0, protocol, dport);
                assert_eq!((address, sport), (external(device - 1), port));
                devices[usize::from(device - 1)] = true;
            }
            let is_mapped = protocol == UDP || maps_tcp;
            assert_ne!(devices[0] && devices[1], is_mapped, "a mapping keeps its uplink");
            assert_eq!(gateway.engines[0].mappings(), usize::from(is_mapped));
            gateway.now += 24 * 3_600_000;
            age(&mut gateway);
            assert_eq!((flows(&gateway), gateway.engines[0].mappings()), (0, 0));
            gateway.assert_conserved();
        }
    }
}

#[test]
fn other_ports_and_other_hosts_have_ports_of_their_own() {
    let mut gateway = publishing(&[service(UDP, [30_000, 30_010], INSIDE, 0b1)]);
    gateway.publish(BUCKETS);
    for (host, sport, expected) in
        [(2, INSIDE + 3, true), (2, INSIDE + 11, false), (9, INSIDE, false)]
    {
        let mac = [2, 0, 0, 0, 0, host];
        let from = ([10, 77, 0, host], sport);
        let (_, sent) = one(gateway.send(LAN, &udp(mac, device_mac(LAN), from, (SERVER, 53))));
        let outside = see(&sent).sport;
        assert_eq!(outside == 30_003, expected && from.0 == HOST, "{from:?} is {outside}");
    }
    gateway.publish(0);
    let (device, _, port) = out(&mut gateway, 0, UDP, 100);
    assert_eq!((device, port), (2, INSIDE), "by an uplink where it is not published");
}

#[test]
fn the_port_may_be_in_another_workers_part() {
    for port in [20_000, 60_000] {
        let mut gateway = with_workers(3, &[service(UDP, [port; 2], INSIDE, 0b11)]);
        for dport in 100..112 {
            let (device, address, sport) = out(&mut gateway, (dport % 3) as u8, UDP, dport);
            assert_eq!((address, sport), (external(device - 1), port));
        }
        assert_eq!(gateway.engines.iter().map(|engine| engine.mappings()).sum::<usize>(), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn the_port_and_its_flows_outlive_the_process() {
    for (port, workers) in [(443, [1, 1]), (60_000, [1, 3]), (20_000, [3, 2])] {
        let mut gateway = with_workers(workers[0], &[service(UDP, [port; 2], INSIDE, 0b11)]);
        let before = out(&mut gateway, 0, UDP, 100);
        restart(&mut gateway, workers[1], BUCKETS / 2);
        assert_eq!(out(&mut gateway, 0, UDP, 100), before);
        assert_eq!(out(&mut gateway, 0, UDP, 101), before);
        assert_eq!(gateway.count(Counter::FlowsCreated), 2);
    }
}

#[test]
fn flows_keep_the_port_after_the_service_and_new_ones_get_another() {
    for protocol in [UDP, TCP] {
        let mut gateway = publishing(&[service(protocol, [443; 2], INSIDE, 0b11)]);
        gateway.publish(BUCKETS);
        let before = out(&mut gateway, 0, protocol, 100);
        assert_eq!(before.2, 443);
        unpublish(&mut gateway);
        assert_eq!(out(&mut gateway, 0, protocol, 100), before);
        assert_ne!(out(&mut gateway, 0, protocol, 101).2, 443);
        enter(&mut gateway, service(protocol, [443; 2], INSIDE, 0b11));
        assert_eq!(out(&mut gateway, 0, protocol, 102).2, 443);
        gateway.now += 24 * 3_600_000;
        age(&mut gateway);
        assert_eq!((flows(&gateway), gateway.engines[0].mappings()), (0, 0));
    }
}

#[test]
fn who_had_the_port_before_keeps_it_and_its_owner_has_another_until_then() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let other = udp([2, 0, 0, 0, 0, 9], device_mac(LAN), ([10, 77, 0, 9], 30_000), (SERVER, 100));
    let (device, sent) = one(gateway.send(LAN, &other));
    assert_eq!(see(&sent).sport, 30_000);
    enter(&mut gateway, service(UDP, [30_000; 2], INSIDE, 0b11));
    gateway.publish(BUCKETS);
    let ports = [100, 101].map(|dport| out(&mut gateway, 0, UDP, dport).2);
    assert!(ports[0] == ports[1] && ports[0] != 30_000, "{ports:?}");
    let (_, answer) = one(gateway.send(device, &answer_to(device, &sent)));
    assert_eq!(see(&answer).dst, [10, 77, 0, 9]);
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!(out(&mut gateway, 0, UDP, 100).2, 30_000);
}

#[test]
fn a_host_that_asks_its_own_service_from_the_services_port_is_answered() {
    let mut gateway = publishing(&[service(UDP, [30_000; 2], INSIDE, 0b11)]);
    let before = out(&mut gateway, 0, UDP, 100);
    let asks = udp(HOST_MAC, device_mac(LAN), (HOST, INSIDE), (before.1, 30_000));
    let (device, asked) = one(gateway.send(LAN, &asks));
    let seen = see(&asked);
    assert_eq!((device, seen.dst, seen.dport), (LAN, HOST, INSIDE));
    assert_ne!(seen.sport, 30_000, "else question and answer look the same");
    let answers = udp(HOST_MAC, device_mac(LAN), (HOST, INSIDE), (seen.src, seen.sport));
    let (device, answer) = one(gateway.send(LAN, &answers));
    let seen = see(&answer);
    assert_eq!((device, seen.src, seen.sport), (LAN, before.1, 30_000));
    assert_eq!((seen.dst, seen.dport), (HOST, INSIDE));
    assert_eq!(out(&mut gateway, 0, UDP, 101), before, "the world sees it as before");
    gateway.assert_conserved();
}

#[test]
fn a_client_and_its_host_have_one_flow_whoever_begins() {
    let mut gateway = publishing(&[service(UDP, [30_000; 2], INSIDE, 0b11)]);
    gateway.publish(BUCKETS);
    let asks = udp(next_hop_mac(0), device_mac(1), (SERVER, 100), (external(0), 30_000));
    one(gateway.send(1, &asks));
    assert_eq!(out(&mut gateway, 0, UDP, 100), (1, external(0), 30_000));
    assert_eq!(flows(&gateway), 1);
    out(&mut gateway, 0, UDP, 101);
    let asks = udp(next_hop_mac(0), device_mac(1), (SERVER, 101), (external(0), 30_000));
    let (device, asked) = one(gateway.send(1, &asks));
    assert_eq!((device, see(&asked).dport, flows(&gateway)), (LAN, INSIDE, 2));
}

#[test]
fn what_is_sent_by_ipv6_leaves_from_the_port_outside_where_an_uplink_translates() {
    let mut gateway = nat66::gateway();
    let of_host = PortForward {
        family: Family::V6.index() as u8,
        inside: Address(HOST6),
        ..service(UDP, [443; 2], INSIDE, 0b11)
    };
    enter(&mut gateway, of_host);
    for server in [SERVER6, ROUTER6] {
        let macs = [HOST_MAC, device_mac(LAN)];
        let (device, sent) =
            one(gateway.send(LAN, &packet(macs, [HOST6, server], (UDP, false), 64, 8)));
        let seen = see6(&sent);
        assert_eq!((seen.src, seen.sport), (external6(device - 1), 443u16.to_be_bytes()));
    }
}
