//! Published services of protocols without ports.

use weir_dataplane::engine::{Engine, Owner};
use weir_layout::Family;
use weir_layout::control::{
    Address, BUCKETS, Name, OwnPeer, PortForward, Prefix, Rule, RuleAction, RuleFrom,
};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_wire::protocol::{AH, DCCP, ESP, GRE, IPIP, SCTP, UDP_LITE};

use super::gateway::*;
use super::protocols::{back, ends, from_host};
use super::services::*;

const OTHER: ([u8; 6], [u8; 4]) = ([2, 0, 0, 0, 0, 0x11], [10, 77, 0, 3]);

/// By both uplinks that translate, to [`HOST`].
fn of(protocol: u8) -> PortForward {
    service(protocol, [0; 2], 0, 0b11)
}

fn answer(protocol: u8) -> Vec<u8> {
    from_host((HOST_MAC, HOST), SERVER, protocol)
}

fn ask(uplink: u8, protocol: u8) -> Vec<u8> {
    back(uplink + 1, external(uplink), protocol)
}

#[test]
fn what_nobody_asked_for_reaches_the_host_and_its_answer_leaves_by_the_uplink_that_was_asked() {
    for protocol in [GRE, ESP, SCTP, IPIP, 253] {
        for uplink in [0, 1] {
            let mut gateway = publishing(&[of(protocol)]);
            for _ in 0..3 {
                let asked = ask(uplink, protocol);
                let (to, got) = one(gateway.send(uplink + 1, &asked));
                assert_eq!((to, ends(&got), &got[..6]), (LAN, [SERVER, HOST], &HOST_MAC[..]));
                assert_eq!(got[34..], asked[34..]);
                let (device, sent) = one(gateway.send(LAN, &answer(protocol)));
                assert_eq!((device, ends(&sent)), (uplink + 1, [external(uplink), SERVER]));
            }
            assert_eq!(gateway.count(Counter::FlowsCreated), 1);
            assert!(gateway.send(uplink + 1, &ask(uplink, 254)).is_empty(), "another protocol");
            assert_eq!(gateway.count(Counter::DropNoFlow), 1);
            let table = &gateway.regions.flows;
            let entries = (0..table.capacity()).filter_map(|at| table.slot(at).read());
            assert!(entries.into_iter().all(|entry| entry.flags & flag::OFFLOAD == 0));
            gateway.assert_conserved();
        }
    }
}

#[test]
fn what_a_flow_of_another_host_waits_for_is_that_hosts() {
    let mut gateway = publishing(&[of(GRE)]);
    gateway.publish(BUCKETS);
    one(gateway.send(LAN, &from_host(OTHER, SERVER, GRE)));
    let (_, got) = one(gateway.send(1, &ask(0, GRE)));
    assert_eq!(ends(&got), [SERVER, OTHER.1]);
    let (_, got) = one(gateway.send(2, &ask(1, GRE)));
    assert_eq!(ends(&got), [SERVER, HOST], "by the other uplink nobody waits for it");
    gateway.assert_conserved();
}

#[test]
fn who_asks_by_a_second_uplink_waits_for_the_first_to_end_or_go_down() {
    let mut gateway = publishing(&[of(GRE)]);
    one(gateway.send(1, &ask(0, GRE)));
    one(gateway.send(LAN, &answer(GRE)));
    assert!(gateway.send(2, &ask(1, GRE)).is_empty(), "the host could not tell which it answers");
    assert_eq!(gateway.count(Counter::DropNoPort), 1);
    gateway.set_state(0, 0);
    one(gateway.send(2, &ask(1, GRE)));
    let (device, sent) = one(gateway.send(LAN, &answer(GRE)));
    assert_eq!((device, ends(&sent)), (2, [external(1), SERVER]));
    assert_eq!(flows(&gateway), 1);
    gateway.assert_conserved();
}

#[test]
fn who_asks_in_a_clients_name_keeps_it_out_no_longer_than_the_host_says_nothing() {
    let mut gateway = publishing(&[of(GRE)]);
    one(gateway.send(1, &ask(0, GRE)));
    let (to, got) = one(gateway.send(2, &ask(1, GRE)));
    assert_eq!((to, ends(&got)), (LAN, [SERVER, HOST]));
    assert_eq!(flows(&gateway), 1);
    let (device, sent) = one(gateway.send(LAN, &answer(GRE)));
    assert_eq!((device, ends(&sent)), (2, [external(1), SERVER]));
    assert!(gateway.send(1, &ask(0, GRE)).is_empty(), "it has answered");
    assert_eq!(gateway.count(Counter::DropNoPort), 1);
    gateway.assert_conserved();
}

#[test]
fn what_the_gateway_itself_is_told_no_service_takes() {
    let mut gateway = publishing(&[of(GRE)]);
    one(gateway.send(1, &ask(0, GRE)));
    let (local, remote) = (Address::v4(external(0)), Address::v4(SERVER));
    let family = Family::V4.index() as u8;
    gateway.half.own_peers[0] = OwnPeer { local, remote, protocol: GRE, family, reserved: [0; 6] };
    gateway.half.own_peer_count = 1;
    gateway.publish(BUCKETS);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 0);
    assert!(gateway.send(1, &ask(0, GRE)).is_empty());
    one(gateway.send(2, &ask(1, GRE)));
    gateway.assert_conserved();
}

#[test]
fn a_service_is_open_to_whom_it_says_and_rules_deny_it() {
    let mut gateway = Gateway::new();
    let Address(address) = Address::v4([198, 51, 100, 200]);
    gateway.half.allowed[0] = Prefix { address, family: 4, length: 32, ..Prefix::ANY };
    gateway.half.allowed_count = 1;
    enter(&mut gateway, PortForward { allowed_count: 1, ..of(GRE) });
    enter(&mut gateway, of(ESP));
    gateway.settle(Owner::At(HOST_MAC));
    assert!(gateway.send(1, &ask(0, GRE)).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishSource), 1);
    one(gateway.send(1, &ask(0, ESP)));
    let mut rule = Rule { protocol: ESP, ..Rule::any(0) };
    (rule.name, rule.action) = (Name::new("no-esp"), RuleAction::Drop as u8);
    (rule.from, rule.in_ports) = (RuleFrom::Uplink as u8, u64::MAX);
    gateway.half.rules[0] = rule;
    gateway.half.rule_count = 1;
    gateway.publish(BUCKETS / 2);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 0, "that it denies now");
    assert!(gateway.send(1, &ask(0, ESP)).is_empty());
    assert_eq!(gateway.count(Counter::DropRule), 1);
    gateway.assert_conserved();
}

#[test]
fn what_covers_its_addresses_comes_in_where_they_do_not_change_alone() {
    for protocol in [AH, DCCP, UDP_LITE] {
        let mut gateway = publishing(&[of(protocol)]);
        assert!(gateway.send(1, &ask(0, protocol)).is_empty());
        assert_eq!(gateway.count(Counter::DropProtocol), 1);
        let own = PortForward { inside: Address::v4(OWN), uplinks: 0b100, ..of(protocol) };
        let mut gateway = publishing(&[own]);
        let (to, got) = one(gateway.send(3, &back(3, OWN, protocol)));
        assert_eq!((to, ends(&got)), (LAN, [SERVER, OWN]));
        gateway.assert_conserved();
    }
}

#[test]
fn from_a_lan_the_host_is_not_asked_by_an_address_outside() {
    let mut gateway = publishing(&[of(GRE)]);
    assert!(gateway.send(LAN, &from_host(OTHER, external(0), GRE)).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 1);
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn who_never_hears_the_host_leaves_no_flow_for_long_and_a_flow_of_both_lasts() {
    let mut gateway = publishing(&[of(GRE)]);
    one(gateway.send(1, &ask(0, GRE)));
    gateway.now += 31_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 0);
    for _ in 0..2 {
        one(gateway.send(1, &ask(0, GRE)));
        one(gateway.send(LAN, &answer(GRE)));
    }
    gateway.now += 599_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    gateway.now += 2_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn one_worker_decides_about_a_remote_whoever_begins() {
    let mut gateway = Gateway::with(4, 1 << 12);
    enter(&mut gateway, of(GRE));
    for engine in &mut gateway.engines {
        engine.settle_claims(|_, _| Owner::At(HOST_MAC));
    }
    for worker in 0..4 {
        one(gateway.send_to(worker, 1, &ask(0, GRE)));
        one(gateway.send_to(3 - worker, LAN, &answer(GRE)));
    }
    assert_eq!(gateway.count(Counter::FlowsCreated), 1);
    assert!(gateway.send_to(2, 2, &ask(1, GRE)).is_empty(), "by the other uplink");
    restart(&mut gateway, 3, BUCKETS);
    for worker in 0..3 {
        one(gateway.send_to(worker, 1, &ask(0, GRE)));
    }
    assert_eq!(gateway.engines.iter().map(Engine::flows).sum::<u64>(), 1);
    gateway.assert_conserved();
}
