//! PPTP and IPsec: a host goes on by GRE or ESP as it has agreed by TCP 1723 or UDP 500.

use weir_layout::control::{Address, BUCKETS, Selection};
use weir_layout::counters::Counter;
use weir_wire::protocol::{ESP, GRE, SCTP};
use weir_wire::tcp::flag::SYN;

use super::gateway::*;
use super::protocols::{back, ends, from_host};

const PPTP: u16 = 1723;
const IKE: u16 = 500;
const OTHER: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 0x11], [10, 77, 0, 3]);

/// What a host sends to agree on a protocol.
fn agree((mac, host): ([u8; 6], [u8; 4]), server: [u8; 4], protocol: u8) -> Vec<u8> {
    let to = device_mac(LAN);
    match protocol {
        GRE => tcp(mac, to, (host, 40_000), (server, PPTP), SYN),
        _ => udp(mac, to, (host, IKE), (server, IKE)),
    }
}

#[test]
fn what_was_agreed_on_leaves_by_the_uplink_and_address_of_the_agreement() {
    for protocol in [GRE, ESP] {
        let mut gateway = Gateway::with(3, 1 << 14);
        policies(&mut gateway, |policy| policy.selection = Selection::Flow as u8);
        let mut uplinks = [0; 2];
        for n in 0..100 {
            let server = [198, 18, 0, n];
            let agreement = agree((HOST_MAC, HOST), server, protocol);
            let (device, sent) = one(gateway.send_to(n % 3, LAN, &agreement));
            let (went, tunnel) = one(gateway.send_to(
                (n + 1) % 3,
                LAN,
                &from_host((HOST_MAC, HOST), server, protocol),
            ));
            assert_eq!((went, ends(&tunnel)[0]), (device, ends(&sent)[0]));
            uplinks[usize::from(device - 1)] += 1;
        }
        // IKE has one mapping for all servers.
        let spreads = uplinks.iter().all(|flows| *flows > 20);
        assert!(spreads || protocol == ESP, "{uplinks:?}");
        gateway.assert_conserved();
    }
}

#[test]
fn where_that_place_is_anothers_it_is_refused_and_takes_no_other() {
    for protocol in [GRE, ESP] {
        let mut gateway = Gateway::new();
        let second = [203, 0, 113, 77];
        (gateway.path(0).pool_len, gateway.path(0).pool[1]) = (2, Address::v4(second));
        gateway.publish(BUCKETS);
        for host in [(HOST_MAC, HOST), OTHER] {
            one(gateway.send(LAN, &agree(host, SERVER, protocol)));
        }
        let (device, first) =
            one(gateway.send(LAN, &from_host((HOST_MAC, HOST), SERVER, protocol)));
        let other = from_host(OTHER, SERVER, protocol);
        let at = |gateway: &mut Gateway| {
            let (device, frame) = one(gateway.send(LAN, &agree(OTHER, SERVER, protocol)));
            (device, ends(&frame)[0])
        };
        let agreed = at(&mut gateway);
        let (went, frame) = one(gateway.send(LAN, &other));
        if agreed == (device, ends(&first)[0]) {
            assert_eq!((went, &frame[34..36]), (LAN, &[3, 1][..]), "it is told");
            assert_eq!(gateway.count(Counter::DropNoPort), 1);
        } else {
            assert_eq!((went, ends(&frame)[0]), agreed);
        }
        gateway.assert_conserved();
    }
}

#[test]
fn one_address_that_a_host_has_keeps_others_that_agreed_by_it_out_of_all_uplinks() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    for host in [(HOST_MAC, HOST), OTHER] {
        one(gateway.send(LAN, &agree(host, SERVER, GRE)));
    }
    one(gateway.send(LAN, &from_host((HOST_MAC, HOST), SERVER, GRE)));
    let (device, frame) = one(gateway.send(LAN, &from_host(OTHER, SERVER, GRE)));
    assert_eq!((device, &frame[34..36]), (LAN, &[3, 1][..]), "not by the other uplink");
    // Nobody has agreed on this: it goes by the other.
    one(gateway.send(LAN, &from_host((HOST_MAC, HOST), SERVER, SCTP)));
    assert_eq!(one(gateway.send(LAN, &from_host(OTHER, SERVER, SCTP))).0, 2);
    let (_, got) = one(gateway.send(1, &back(1, external(0), GRE)));
    assert_eq!(ends(&got)[1], HOST);
    gateway.assert_conserved();
}

#[test]
fn an_agreement_ends_with_its_flow_and_its_uplink_and_with_another_policy() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), SERVER, ESP)));
    gateway.publish(0);
    let tunnel = from_host((HOST_MAC, HOST), SERVER, ESP);
    assert_eq!(one(gateway.send(LAN, &tunnel)).0, 1, "not by the buckets");
    gateway.set_state(0, 0);
    assert_eq!(one(gateway.send(LAN, &tunnel)).0, 2);
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), SERVER, ESP)));
    gateway.publish(0);
    gateway.now += 601_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 0);
    assert_eq!(one(gateway.send(LAN, &tunnel)).0, 2, "it has ended");
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), SERVER, ESP)));
    gateway.route_only();
    assert_eq!(one(gateway.send(LAN, &tunnel)).0, 3, "whose policy has not that uplink");
}

#[test]
fn a_new_process_knows_what_was_agreed() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), SERVER, GRE)));
    restart(&mut gateway, 1, 0);
    assert_eq!(one(gateway.send(LAN, &from_host((HOST_MAC, HOST), SERVER, GRE))).0, 1);
}

#[test]
fn who_asks_thousands_of_servers_takes_nothing_from_one_that_was_answered() {
    const SERVERS: u32 = 10_000;
    let mut gateway = Gateway::with(1, 1 << 15);
    gateway.publish(BUCKETS);
    let ask = |gateway: &mut Gateway, server| {
        let (device, frame) = one(gateway.send(LAN, &agree((HOST_MAC, HOST), server, ESP)));
        one(gateway.send(device, &answer_to(device, &frame)));
        device
    };
    assert_eq!(ask(&mut gateway, SERVER), 1);
    for n in 0..SERVERS {
        let [.., b, c] = n.to_be_bytes();
        gateway.send(LAN, &agree(OTHER, [198, 18, b, c], ESP));
    }
    let later = [198, 51, 100, 2];
    assert_eq!(ask(&mut gateway, later), 1, "places of those without an answer are free");
    gateway.publish(0);
    for server in [SERVER, later] {
        let tunnel = from_host((HOST_MAC, HOST), server, ESP);
        assert_eq!(one(gateway.send(LAN, &tunnel)).0, 1, "not by the buckets: {server:?}");
    }
    gateway.assert_conserved();
}

#[test]
fn agreements_on_one_protocol_leave_those_on_another() {
    // 29 is what the numbers of the protocols differ by.
    let [a, b, c, d] = SERVER;
    let beside = [a, b, c, d ^ (GRE ^ ESP)];
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), SERVER, GRE)));
    one(gateway.send(LAN, &agree((HOST_MAC, HOST), beside, ESP)));
    gateway.publish(0);
    for (server, protocol) in [(SERVER, GRE), (beside, ESP)] {
        let tunnel = from_host((HOST_MAC, HOST), server, protocol);
        assert_eq!(one(gateway.send(LAN, &tunnel)).0, 1, "not by the buckets: {protocol}");
    }
}
