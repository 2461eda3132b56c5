//! Who comes in by a mapping of UDP (RFC 4787 REQ-8).

use weir_layout::control::{BUCKETS, Filtering, Rule, RuleAction};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::SYN;

use super::gateway::*;

const STRANGER: [u8; 4] = [198, 51, 100, 77];

/// A gateway of one uplink that lets in so much, and a mapping of the host's on it.
fn mapped(workers: u8, filtering: Filtering) -> (Gateway, Seen) {
    let mut gateway = Gateway::with(workers, SLOTS);
    gateway.half.uplinks[0].filtering = filtering as u8;
    gateway.publish(BUCKETS);
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    assert_eq!(device, 1);
    let seen = see(&out);
    (gateway, seen)
}

/// What comes of a datagram from out there to the mapping.
fn asked_by(gateway: &mut Gateway, mapping: &Seen, from: ([u8; 4], u16)) -> Option<Seen> {
    let frame = udp(next_hop_mac(0), device_mac(1), from, (mapping.src, mapping.sport));
    let mut sent = gateway.send(1, &frame);
    assert!(sent.iter().all(|(device, _)| *device == LAN), "and no answer of the gateway's");
    sent.pop().map(|(_, frame)| see(&frame))
}

#[test]
fn each_filtering_lets_in_whom_it_says_and_the_host_answers_by_its_mapping() {
    for (filtering, other_port, stranger) in [
        (Filtering::AddressAndPort, false, false),
        (Filtering::Address, true, false),
        (Filtering::Endpoint, true, true),
    ] {
        let (mut gateway, mapping) = mapped(1, filtering);
        assert!(asked_by(&mut gateway, &mapping, (SERVER, 53)).is_some());
        for (from, comes_in) in [((SERVER, 54), other_port), ((STRANGER, 99), stranger)] {
            let seen = asked_by(&mut gateway, &mapping, from);
            assert_eq!(seen.is_some(), comes_in, "{filtering:?} {from:?}");
            let Some(seen) = seen else { continue };
            assert_eq!(((seen.src, seen.sport), (seen.dst, seen.dport)), (from, (HOST, 40_000)));
            let answer = udp(HOST_MAC, device_mac(LAN), (HOST, 40_000), from);
            let (device, out) = one(gateway.send(LAN, &answer));
            let seen = see(&out);
            assert_eq!((device, seen.src, seen.sport), (1, mapping.src, mapping.sport));
        }
        gateway.assert_conserved();
    }
}

#[test]
fn nobody_comes_in_but_by_a_mapping_of_udp() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    let other = Seen { sport: mapping.sport + 1, ..mapping };
    assert_eq!(asked_by(&mut gateway, &other, (STRANGER, 99)), None);
    let syn =
        tcp(next_hop_mac(0), device_mac(1), (STRANGER, 99), (mapping.src, mapping.sport), SYN);
    assert!(gateway.send(1, &syn).is_empty());
    // The other uplink's mappings are its own.
    let by_other = udp(next_hop_mac(1), device_mac(2), (STRANGER, 99), (external(1), 40_000));
    assert!(gateway.send(2, &by_other).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 3);
    gateway.assert_conserved();
}

#[test]
fn strangers_keep_no_mapping_alive() {
    for filtering in [Filtering::Endpoint, Filtering::AddressAndPort] {
        let (mut gateway, mapping) = mapped(1, filtering);
        for second in (0..700).step_by(10) {
            gateway.now += 10_000;
            age(&mut gateway);
            asked_by(&mut gateway, &mapping, (STRANGER, 99));
            asked_by(&mut gateway, &mapping, (STRANGER, 100 + second / 10));
        }
        age(&mut gateway);
        assert_eq!((flows(&gateway), gateway.engines[0].mappings()), (0, 0), "{filtering:?}");
        gateway.assert_conserved();
    }
}

#[test]
fn a_stranger_whom_nobody_answers_is_soon_forgotten() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    for stranger in [99, 100] {
        assert!(asked_by(&mut gateway, &mapping, (STRANGER, stranger)).is_some());
    }
    let answer = udp(HOST_MAC, device_mac(LAN), (HOST, 40_000), (STRANGER, 100));
    one(gateway.send(LAN, &answer));
    assert_eq!(flows(&gateway), 3);
    for _ in 0..4 {
        gateway.now += 10_000;
        asked_by(&mut gateway, &mapping, (STRANGER, 99));
        age(&mut gateway);
    }
    assert_eq!(flows(&gateway), 3, "the unanswered one began anew");
    gateway.now += 31_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 2);
}

#[test]
fn strangers_of_all_hosts_leave_as_much_of_the_table_as_they_take() {
    let (mut gateway, first) = mapped(1, Filtering::Endpoint);
    let other = udp([2, 0, 0, 0, 0, 0x66], device_mac(LAN), ([10, 77, 0, 9], 40_001), (SERVER, 53));
    let second = see(&one(gateway.send(LAN, &other)).1);
    let came = (1..=SLOTS as u16)
        .filter(|port| {
            let mapping = if port % 2 == 0 { &first } else { &second };
            asked_by(&mut gateway, mapping, (STRANGER, *port)).is_some()
        })
        .count();
    assert!(came.abs_diff(SLOTS as usize / 4) <= 2, "{came} of {SLOTS}");
    one(gateway.send(LAN, &udp_out(40_001, 53)));
    one(gateway.send(LAN, &tcp_out(40_001, 443, SYN)));
    // Those that are answered are their host's.
    for port in (2..20).step_by(2) {
        let answer = udp(HOST_MAC, device_mac(LAN), (HOST, 40_000), (STRANGER, port));
        one(gateway.send(LAN, &answer));
    }
    assert!(asked_by(&mut gateway, &first, (STRANGER, 60_000)).is_some());
    gateway.assert_conserved();
}

#[test]
fn strangers_leave_a_host_half_of_the_flows_that_it_may_have() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    gateway.half.flows_per_host = 20;
    gateway.publish(BUCKETS);
    let came =
        (1..100).filter(|port| asked_by(&mut gateway, &mapping, (STRANGER, *port)).is_some());
    assert_eq!(came.count(), 9, "beside the host's own");
    let begun = (0..20).filter(|n| one(gateway.send(LAN, &udp_out(41_000 + n, 53))).0 == 1);
    assert_eq!(begun.count(), 10);
    gateway.assert_conserved();
}

#[test]
fn whom_rules_deny_to_the_host_does_not_come_in() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    let rule = Rule { destination_ports: [99, 99], action: RuleAction::Drop as u8, ..Rule::any(0) };
    gateway.half.rules[0] = rule;
    gateway.half.rule_count = 1;
    gateway.publish(BUCKETS);
    assert_eq!(asked_by(&mut gateway, &mapping, (STRANGER, 99)), None);
    assert!(asked_by(&mut gateway, &mapping, (STRANGER, 98)).is_some());
}

#[test]
fn a_mapping_lets_in_after_a_restart_and_as_long_as_its_host_uses_it() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    gateway.engines[0] = weir_dataplane::engine::Engine::new(0, 1, &gateway.regions, [7, 8]);
    assert_eq!(gateway.engines[0].adopt(), 1);
    assert!(asked_by(&mut gateway, &mapping, (STRANGER, 99)).is_some());
    for _ in 0..60 {
        gateway.now += 10_000;
        one(gateway.send(LAN, &udp_out(40_000, 53)));
        age(&mut gateway);
    }
    assert!(asked_by(&mut gateway, &mapping, (STRANGER, 100)).is_some());
}

#[test]
fn a_datagram_that_a_mapping_lets_in_reaches_the_mappings_worker() {
    for host in 0..8u16 {
        let mut gateway = Gateway::with(4, SLOTS);
        gateway.half.uplinks[0].filtering = Filtering::Endpoint as u8;
        gateway.publish(BUCKETS);
        let (_, out) = one(gateway.send(LAN, &udp_out(30_000 + host, 53)));
        let seen = see(&out);
        for worker in 0..4 {
            let from = (STRANGER, 99 + u16::from(worker));
            let to = (seen.src, seen.sport);
            let frame = udp(next_hop_mac(0), device_mac(1), from, to);
            assert_eq!(one(gateway.send_to(worker, 1, &frame)).0, LAN);
        }
        gateway.assert_conserved();
    }
}

#[test]
fn who_gets_a_port_anew_lets_in_nobody_that_its_former_user_sent_to() {
    let (mut gateway, mapping) = mapped(1, Filtering::Address);
    for _ in 0..31 {
        gateway.now += 10_000;
        age(&mut gateway);
    }
    assert_eq!(flows(&gateway), 0);
    let other = ([10, 77, 0, 9], 40_000);
    let frame = udp([2, 9, 9, 9, 9, 9], device_mac(LAN), other, (STRANGER, 53));
    let seen = see(&one(gateway.send(LAN, &frame)).1);
    assert_eq!((seen.src, seen.sport), (mapping.src, mapping.sport));
    assert_eq!(asked_by(&mut gateway, &mapping, (SERVER, 54)), None);
    let seen = asked_by(&mut gateway, &mapping, (STRANGER, 54)).unwrap();
    assert_eq!((seen.dst, seen.dport), other);
}

#[test]
fn another_host_that_sends_as_the_endpoint_hears_none_of_its_strangers() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    let other = [2, 0, 0, 0, 0, 0x66];
    let forged = udp(other, device_mac(LAN), (HOST, 40_000), (SERVER, 54));
    one(gateway.send(LAN, &forged));
    age(&mut gateway);
    let frame = udp(next_hop_mac(0), device_mac(1), (STRANGER, 99), (mapping.src, mapping.sport));
    assert_eq!(one(gateway.send(1, &frame)).1[..6], HOST_MAC);
}

#[test]
fn an_uplink_that_takes_no_new_flows_lets_nobody_in() {
    use weir_layout::control::path_state::{DRAINING, USABLE};
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    for (port, state, comes_in) in
        [(97, 0, false), (98, USABLE | DRAINING, false), (99, USABLE, true)]
    {
        gateway.set_state(0, state);
        assert_eq!(
            asked_by(&mut gateway, &mapping, (STRANGER, port)).is_some(),
            comes_in,
            "{port}"
        );
    }
}

#[test]
fn a_rule_for_a_code_point_keeps_nobody_in_and_nobody_out() {
    let (mut gateway, mapping) = mapped(1, Filtering::Endpoint);
    let denies =
        Rule { destination_ports: [99, 99], action: RuleAction::Drop as u8, ..Rule::any(0) };
    gateway.half.rules[..2].copy_from_slice(&[Rule { dscp: 46, ..Rule::any(0) }, denies]);
    gateway.half.rule_count = 2;
    gateway.publish(BUCKETS);
    assert!(asked_by(&mut gateway, &mapping, (STRANGER, 99)).is_none());
    assert!(asked_by(&mut gateway, &mapping, (STRANGER, 100)).is_some());
}
