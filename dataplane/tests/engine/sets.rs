//! Rules and services that ask for sets of prefixes.

use weir_dataplane::engine::Owner;
use weir_layout::control::SetTest;
use weir_layout::control::{BUCKETS, Name, PortForward, Prefix, Rule, RuleAction};
use weir_layout::counters::Counter;
use weir_layout::prefix_sets::Ranges;
use weir_wire::tcp::flag::SYN;

use crate::gateway::*;
use crate::packets6;
use crate::services::{enter, service};

/// The range of this address alone is in these sets.
fn only(gateway: &mut Gateway, address: [u8; 4], sets: u64) {
    let first = u32::from_be_bytes(address);
    let ranges = Ranges { firsts4: &[first, first + 1], masks4: &[sets, 0], ..Ranges::default() };
    gateway.writer.enter_sets(&ranges);
}

/// Publishes these rules, with the server's address in these sets and no other in any.
fn publish(gateway: &mut Gateway, rules: &[Rule], server: u64) {
    only(gateway, SERVER, server);
    gateway.half.rules[..rules.len()].copy_from_slice(rules);
    gateway.half.rule_count = rules.len() as u32;
    gateway.publish(BUCKETS / 2);
}

fn to(number: u8, negated: bool, action: RuleAction) -> Rule {
    let name = Name::new("rule");
    let destination_set = SetTest::new(number, negated);
    Rule { name, destination_set, action: action as u8, ..Rule::any(1) }
}

#[test]
fn a_rule_with_a_set_is_about_what_the_set_holds_and_a_negated_one_about_the_rest() {
    let mut gateway = Gateway::new();
    for (number, negated, server, steered) in [
        (3, false, 1 << 3, true),
        (3, false, !(1 << 3), false),
        (3, true, 1 << 3, false),
        (3, true, 0, true),
        (63, false, 1 << 63, true),
    ] {
        publish(&mut gateway, &[to(number, negated, RuleAction::Policy)], server);
        let (device, _) = one(gateway.send(LAN, &udp_out(40_000 + u16::from(number), 53)));
        // By policy 1 everything leaves by uplink 2.
        assert_eq!(device == 3, steered, "{number} {negated} {server:x}");
        gateway.now += 400_000;
        age(&mut gateway);
    }
    gateway.assert_conserved();
}

#[test]
fn source_and_destination_are_each_asked_for_their_own_set() {
    let mut gateway = Gateway::new();
    let rule = Rule { source_set: SetTest::new(0, false), ..to(1, true, RuleAction::Drop) };
    gateway.half.rules[0] = rule;
    gateway.half.rule_count = 1;
    only(&mut gateway, HOST, 0b1);
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(LAN, &udp_out(40_000, 53)).is_empty());
    only(&mut gateway, SERVER, 0b1);
    gateway.publish(BUCKETS / 2);
    one(gateway.send(LAN, &udp_out(40_000, 53)));
}

#[test]
fn a_set_of_one_family_leaves_the_other_alone() {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    // What is not in the set, of IPv4.
    let ipv4 = Prefix::v4([0; 4], 0);
    let rule = Rule { destination: ipv4, ..to(0, true, RuleAction::Drop) };
    publish(&mut gateway, &[rule], 0);
    assert!(gateway.send(LAN, &udp_out(40_000, 53)).is_empty());
    one(gateway.send(LAN, &packets6::out(UDP)));
    publish(&mut gateway, &[Rule { destination: Prefix::ANY, ..rule }], 0);
    assert!(gateway.send(LAN, &packets6::out(TCP)).is_empty());
}

#[test]
fn flows_that_a_changed_set_denies_end_and_others_stay() {
    let mut gateway = Gateway::new();
    let rules = [to(0, false, RuleAction::Drop)];
    publish(&mut gateway, &rules, 0);
    connection(&mut gateway, 40_000);
    exchange(&mut gateway, 40_001);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(flows(&gateway), 2);
    publish(&mut gateway, &rules, 0b10);
    assert!(sweep(&mut gateway).is_empty(), "another set holds it");
    assert_eq!(flows(&gateway), 2);
    publish(&mut gateway, &rules, 0b1);
    assert_eq!(sweep(&mut gateway).len(), 2, "a reset for either end");
    assert_eq!(flows(&gateway), 0);
    gateway.assert_conserved();
}

const CLIENT: [u8; 4] = [203, 0, 113, 200];

#[test]
fn a_service_is_open_to_what_its_sets_hold_and_closed_to_what_its_barred_ones_do() {
    let mut gateway = Gateway::new();
    let forward = |allowed_sets, barred_sets, allowed_count| {
        let mut forward = service(TCP, [443; 2], 443, 0b1);
        (forward.allowed_sets, forward.barred_sets) = (allowed_sets, barred_sets);
        PortForward { allowed_count, ..forward }
    };
    gateway.half.allowed[0] = Prefix::v4(CLIENT, 32);
    gateway.half.allowed_count = 1;
    for (port, (forward, client, open)) in (5000..).zip([
        (forward(0b10, 0, 0), 0b10, true),
        (forward(0b10, 0, 0), 0b01, false),
        (forward(0b10, 0, 1), 0, true),
        (forward(0, 0b10, 0), 0, true),
        (forward(0, 0b10, 0), 0b10, false),
        (forward(0, 0b10, 1), 0b10, false),
        (forward(0b01, 0b10, 0), 0b11, false),
        (forward(0b01, 0b10, 0), 0b01, true),
    ]) {
        only(&mut gateway, CLIENT, client);
        gateway.half.port_forward_count = 0;
        enter(&mut gateway, forward);
        gateway.settle(Owner::At(HOST_MAC));
        let ask = tcp(next_hop_mac(0), device_mac(1), (CLIENT, port), (external(0), 443), SYN);
        assert_eq!(gateway.send(1, &ask).len(), usize::from(open), "{forward:?} {client}");
    }
    assert_eq!(gateway.count(Counter::DropPublishSource), 4);
    gateway.assert_conserved();
}

#[test]
fn clients_that_a_changed_set_bars_lose_their_flows() {
    let mut gateway = Gateway::new();
    let mut forward = service(TCP, [443; 2], 443, 0b1);
    forward.barred_sets = 1;
    only(&mut gateway, CLIENT, 0);
    enter(&mut gateway, forward);
    gateway.settle(Owner::At(HOST_MAC));
    let ask = tcp(next_hop_mac(0), device_mac(1), (CLIENT, 5000), (external(0), 443), SYN);
    one(gateway.send(1, &ask));
    assert!(sweep(&mut gateway).is_empty());
    only(&mut gateway, CLIENT, 1);
    gateway.publish(BUCKETS / 2);
    assert_eq!((sweep(&mut gateway).len(), flows(&gateway)), (2, 0));
}
