//! Rules that let no flow begin.

use weir_layout::MAX_RULES;
use weir_layout::control::{BUCKETS, Name, Rule, RuleAction};
use weir_layout::counters::Counter;
use weir_wire::checksum::Delta;
use weir_wire::tcp::flag::{ACK, RST, SYN};

use crate::gateway::*;
use crate::{packets6, services, unasked};

/// A rule about a destination port, called by its number.
fn about(port: u16, action: RuleAction) -> Rule {
    let name = Name::new(&format!("port-{port}"));
    Rule { name, destination_ports: [port, port], action: action as u8, ..Rule::any(0) }
}

/// Publishes these rules.
fn rules(gateway: &mut Gateway, rules: &[Rule]) {
    gateway.half.rules[..rules.len()].copy_from_slice(rules);
    gateway.half.rule_count = rules.len() as u32;
    gateway.publish(BUCKETS / 2);
}

fn with(given: &[Rule]) -> Gateway {
    let mut gateway = Gateway::new();
    rules(&mut gateway, given);
    gateway
}

fn hits(gateway: &Gateway, rules: usize) -> Vec<u64> {
    gateway.regions.counters.rule_hits(rules, 1)
}

#[test]
fn what_a_rule_drops_begins_no_flow_and_is_told_nothing() {
    let mut gateway = with(&[about(25, RuleAction::Drop)]);
    for frame in [tcp_out(40_000, 25, SYN), tcp_out(40_000, 25, ACK), udp_out(40_000, 25)] {
        assert!(gateway.send(LAN, &frame).is_empty());
    }
    one(gateway.send(LAN, &udp_out(40_000, 53)));
    assert_eq!(gateway.count(Counter::FlowsCreated), 1);
    assert_eq!((gateway.count(Counter::DropRule), hits(&gateway, 1)), (3, vec![3]));
    assert_eq!(gateway.engines[0].flows(), 1);
    gateway.assert_conserved();
}

#[test]
fn what_a_rule_rejects_is_told_by_a_reset_or_by_icmp() {
    let mut gateway = with(&[about(25, RuleAction::Reject)]);
    let (device, reset) = one(gateway.send(LAN, &tcp_out(40_000, 25, SYN)));
    let seen = see(&reset);
    assert_eq!((device, seen.src, seen.sport, seen.dst), (LAN, SERVER, 25, HOST));
    assert_eq!(reset[47], RST | ACK);
    let (device, error) = one(gateway.send(LAN, &udp_out(40_000, 25)));
    assert_eq!((device, error[34], error[35]), (LAN, 3, 13));
    assert!(gateway.send(LAN, &tcp_out(40_000, 25, RST)).is_empty(), "nobody answers a reset");
    assert_eq!(gateway.engines[0].flows(), 0);
    gateway.assert_conserved();
}

#[test]
fn ipv6_is_told_that_it_is_prohibited() {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    rules(&mut gateway, &[Rule { action: RuleAction::Reject as u8, ..Rule::any(0) }]);
    let (device, error) = one(gateway.send(LAN, &packets6::out(UDP)));
    assert_eq!((device, error[54], error[55]), (LAN, 1, 1));
    gateway.assert_conserved();
}

#[test]
fn no_more_is_answered_than_the_limits_allow() {
    let mut gateway = with(&[about(25, RuleAction::Reject)]);
    let syns = (0..500).map(|n| tcp_out(40_000 + n, 25, SYN));
    let answers: usize = syns.map(|syn| gateway.send(LAN, &syn).len()).sum();
    assert_eq!(answers, 100);
    assert_eq!(hits(&gateway, 1), [500]);
    gateway.assert_conserved();
}

#[test]
fn the_first_rule_that_matches_decides_whatever_its_action() {
    let mut gateway = with(&[about(25, RuleAction::Policy), about(25, RuleAction::Drop)]);
    one(gateway.send(LAN, &udp_out(40_000, 25)));
    assert_eq!(hits(&gateway, 2), [1, 0]);
}

#[test]
fn a_rule_counts_the_flows_that_it_lets_begin_and_not_their_packets() {
    let mut gateway = with(&[about(53, RuleAction::Policy)]);
    for _ in 0..3 {
        let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
        one(gateway.send(device, &answer_to(device, &out)));
    }
    assert_eq!(hits(&gateway, 1), [1]);
    one(gateway.send(LAN, &udp_out(40_001, 53)));
    assert_eq!(hits(&gateway, 1), [2]);
}

#[test]
fn hits_stay_with_a_rules_name_when_the_file_changes() {
    let [smtp, dns] = [about(25, RuleAction::Drop), about(53, RuleAction::Drop)];
    let mut gateway = with(&[smtp, dns]);
    for (port, times) in [(25, 2), (53, 3)] {
        (0..times).for_each(|_| assert!(gateway.send(LAN, &udp_out(40_000, port)).is_empty()));
    }
    rules(&mut gateway, &[about(80, RuleAction::Drop), dns, smtp]);
    gateway.engines[0].refresh();
    assert_eq!(hits(&gateway, 3), [0, 3, 2]);
    rules(&mut gateway, &[smtp]);
    gateway.engines[0].refresh();
    assert_eq!(hits(&gateway, MAX_RULES)[..3], [2, 0, 0]);
}

#[test]
fn flows_that_new_rules_deny_end_and_others_stay() {
    for action in [RuleAction::Drop, RuleAction::Reject] {
        let mut gateway = Gateway::new();
        let kept = connection(&mut gateway, 40_000);
        let (device, out) = one(gateway.send(LAN, &udp_out(40_001, 53)));
        one(gateway.send(device, &answer_to(device, &out)));
        assert_eq!(gateway.engines[0].flows(), 2);
        rules(&mut gateway, &[about(53, action)]);
        assert!(sweep(&mut gateway).is_empty(), "a datagram's sender is told with its next");
        assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (1, 0));
        assert!(gateway.send(device, &answer_to(device, &out)).is_empty());
        rules(&mut gateway, &[about(443, action)]);
        let ends = sweep(&mut gateway);
        let devices: Vec<_> = ends.iter().map(|(device, _)| *device).collect();
        assert_eq!(devices, [LAN, kept], "a reset for either end");
        assert!(ends.iter().all(|(_, reset)| reset[47] & RST != 0));
        // Who goes on regardless gets no further.
        let told = gateway.send(LAN, &tcp_out(40_000, 443, ACK));
        assert_eq!(told.len(), usize::from(action == RuleAction::Reject));
        assert_eq!(gateway.engines[0].flows(), 0);
        gateway.assert_conserved();
    }
}

#[test]
fn a_flow_is_not_ended_for_a_code_point_that_nobody_knows_of_it() {
    let mut gateway = Gateway::new();
    connection(&mut gateway, 40_000);
    let voice = Rule { dscp: 46, ..about(443, RuleAction::Drop) };
    rules(&mut gateway, &[voice]);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(gateway.engines[0].flows(), 1);
}

#[test]
fn a_full_ring_holds_up_the_end_of_a_connection_and_nothing_else() {
    let mut gateway = Gateway::new();
    connection(&mut gateway, 40_000);
    rules(&mut gateway, &[about(443, RuleAction::Drop)]);
    gateway.wire.stuck = Some(LAN);
    gateway.engines[0].refresh();
    gateway.engines[0].sweep(&mut gateway.wire);
    assert_eq!(gateway.engines[0].flows(), 1);
    gateway.wire.stuck = None;
    assert_eq!(sweep(&mut gateway).len(), 2);
    assert_eq!(gateway.engines[0].flows(), 0);
}

#[test]
fn what_leaves_without_a_flow_is_denied_too_and_no_error_or_reset_is_answered() {
    for (action, told) in [(RuleAction::Drop, 0), (RuleAction::Reject, 1)] {
        let mut gateway = Gateway::new();
        gateway.route_only();
        rules(&mut gateway, &[Rule { action: action as u8, ..Rule::any(0) }]);
        let answers = unasked::answers();
        let heard: Vec<_> = answers.iter().flat_map(|answer| gateway.send(LAN, answer)).collect();
        assert_eq!(heard.len(), told, "to the echo reply alone");
        assert!(heard.iter().all(|(device, _)| *device == LAN));
        assert_eq!((hits(&gateway, 1), gateway.count(Counter::DropRule)), (vec![3], 3));
        gateway.assert_conserved();
    }
}

#[test]
fn later_fragments_of_what_is_denied_go_nowhere() {
    let mut gateway = with(&[about(53, RuleAction::Drop)]);
    let fragment = |offset| {
        let mut frame = udp_out(40_000, 53);
        let new = [0x20, offset];
        let sum = Delta::of([frame[20], frame[21]], new).apply([frame[24], frame[25]]);
        frame[20..22].copy_from_slice(&new);
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    for offset in [0, 2] {
        assert!(gateway.send(LAN, &fragment(offset)).is_empty());
    }
    assert_eq!((gateway.count(Counter::DropRule), gateway.count(Counter::DropFragment)), (1, 1));
}

/// Turns of the walk that follows what is published.
fn turns(gateway: &mut Gateway) -> usize {
    gateway.publish(BUCKETS);
    let Gateway { engines, wire, .. } = gateway;
    engines[0].refresh();
    let mut turns = 1;
    while engines[0].sweep(wire) {
        turns += 1;
    }
    turns
}

#[test]
fn flows_are_judged_by_other_rules_a_few_in_a_turn_and_by_other_services_only_if_these_let_them() {
    const FLOWS: u16 = 1000;
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    for flow in 0..FLOWS {
        exchange(&mut gateway, 5000 + flow);
    }
    sweep(&mut gateway);
    let denied = Rule { protocol: UDP, destination_ports: [9; 2], ..Rule::any(0) };
    gateway.half.rules[0] = Rule { action: RuleAction::Drop as u8, ..denied };
    gateway.half.rule_count = 1;
    assert!(turns(&mut gateway) >= usize::from(FLOWS / 256), "packets wait meanwhile");
    services::enter(&mut gateway, services::service(TCP, [8080; 2], 80, 1));
    assert_eq!(turns(&mut gateway), 1, "none of them is looked at");
    assert_eq!(flows(&gateway), FLOWS.into());
}
