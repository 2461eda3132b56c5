//! Rules about what uplinks bring.

use weir_dataplane::engine::{Engine, Owner};
use weir_layout::NONE;
use weir_layout::control::{
    BUCKETS, Filtering, Name, PortForward, Prefix, Rule, RuleAction, RuleFrom, Translate, inbound,
    path_state,
};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};

use crate::gateway::*;
use crate::services::{PORTS, enter, service};

const CLIENT: [u8; 4] = SERVER;
/// The uplink that leaves hosts of the own prefix their addresses.
const OPEN: u8 = 2;
const SSH: u16 = 22;

/// A rule about what these uplinks bring for a port inside, called by its number; 0: for any.
fn about(port: u16, uplinks: &[u8], action: RuleAction) -> Rule {
    let ports = if port == 0 { [0, u16::MAX] } else { [port; 2] };
    Rule {
        name: Name::new(&format!("port-{port}")),
        from: RuleFrom::Uplink as u8,
        in_ports: uplinks.iter().fold(0, |ports, uplink| ports | 1 << (uplink + 1)),
        destination_ports: ports,
        action: action as u8,
        ..Rule::any(0)
    }
}

/// Publishes these rules, and that paths which leave hosts their ports have some.
fn rules(gateway: &mut Gateway, rules: &[Rule]) {
    gateway.half.rules[..rules.len()].copy_from_slice(rules);
    gateway.half.rule_count = rules.len() as u32;
    for path in gateway.half.uplinks.iter_mut().flat_map(|uplink| &mut uplink.paths) {
        let is_ruled = !rules.is_empty() && path.translation() != Translate::Napt;
        path.inbound &= !inbound::RULED;
        path.inbound |= if is_ruled { inbound::RULED } else { 0 };
    }
    gateway.publish(BUCKETS / 2);
}

fn with(given: &[Rule]) -> Gateway {
    let mut gateway = Gateway::new();
    rules(&mut gateway, given);
    gateway
}

fn accepting(port: u16) -> Gateway {
    with(&[about(port, &[OPEN], RuleAction::Accept)])
}

fn hits(gateway: &Gateway, rules: usize) -> Vec<u64> {
    gateway.regions.counters.rule_hits(rules, 1)
}

fn flows(gateway: &Gateway) -> u64 {
    gateway.engines[0].flows()
}

/// What a client sends by an uplink.
fn ask(uplink: u8, to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    tcp(next_hop_mac(uplink), device_mac(uplink + 1), (CLIENT, 5000), to, flags)
}

fn datagram(uplink: u8, to: ([u8; 4], u16)) -> Vec<u8> {
    udp(next_hop_mac(uplink), device_mac(uplink + 1), (CLIENT, 5000), to)
}

/// What its host answers.
fn answer(sport: u16, flags: u8) -> Vec<u8> {
    tcp(HOST_MAC, device_mac(LAN), (OWN, sport), (CLIENT, 5000), flags)
}

/// Sends a packet whose host is not known, and lets the kernel say that it is there.
fn resolve(gateway: &mut Gateway, uplink: u8, frame: &[u8]) {
    assert!(gateway.send(uplink + 1, frame).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishHost), 1);
    assert_eq!(gateway.acquaint(Owner::At(HOST_MAC)), 1);
}

/// A connection with its handshake done.
fn connect(gateway: &mut Gateway, port: u16) {
    resolve(gateway, OPEN, &ask(OPEN, (OWN, port), SYN));
    one(gateway.send(OPEN + 1, &ask(OPEN, (OWN, port), SYN)));
    one(gateway.send(LAN, &answer(port, SYN | ACK)));
    one(gateway.send(OPEN + 1, &ask(OPEN, (OWN, port), ACK)));
}

#[test]
fn what_a_rule_accepts_reaches_its_host_and_is_answered_by_the_uplink_that_it_came_by() {
    let mut gateway = accepting(SSH);
    let question = ask(OPEN, (OWN, SSH), SYN);
    resolve(&mut gateway, OPEN, &question);
    let (device, sent) = one(gateway.send(OPEN + 1, &question));
    assert_eq!((device, &sent[..6]), (LAN, &HOST_MAC[..]));
    let seen = see(&sent);
    assert_eq!((seen.src, seen.dst, seen.dport), (CLIENT, OWN, SSH));
    // By its policy it would leave by another.
    let (device, _) = one(gateway.send(LAN, &answer(SSH, SYN | ACK)));
    assert_eq!(device, OPEN + 1);
    assert_eq!((hits(&gateway, 1), flows(&gateway)), (vec![1], 1));
    gateway.assert_conserved();
}

#[test]
fn what_no_rule_accepts_reaches_nobody() {
    let mut gateway = accepting(SSH);
    let refused = [
        ("another port", OPEN, ask(OPEN, (OWN, 23), SYN)),
        ("no host of a LAN", OPEN, ask(OPEN, ([192, 0, 2, 1], SSH), SYN)),
        ("by another uplink", 0, ask(0, (OWN, SSH), SYN)),
        ("an address of the gateway", 0, ask(0, (external(0), SSH), SYN)),
    ];
    for (what, uplink, frame) in &refused {
        assert!(gateway.send(uplink + 1, frame).is_empty(), "{what}");
    }
    assert_eq!(gateway.count(Counter::DropNoFlow), 4);
    for flags in [ACK, SYN | ACK, RST, FIN | ACK, 0] {
        assert!(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), flags)).is_empty(), "{flags:#x}");
    }
    assert_eq!(gateway.count(Counter::DropNotSyn), 5);
    assert_eq!((gateway.acquaint(Owner::At(HOST_MAC)), flows(&gateway)), (0, 0));
    gateway.assert_conserved();
}

#[test]
fn a_ping_and_a_datagram_are_accepted_too() {
    let mut gateway = accepting(0);
    let link = [next_hop_mac(OPEN), device_mac(OPEN + 1)];
    let request = ping(link[0], link[1], CLIENT, OWN, 7, true);
    assert!(gateway.send(OPEN + 1, &ping(link[0], link[1], CLIENT, OWN, 7, false)).is_empty());
    resolve(&mut gateway, OPEN, &request);
    let (device, sent) = one(gateway.send(OPEN + 1, &request));
    assert_eq!((device, see(&sent).sport), (LAN, 7));
    let reply = ping(HOST_MAC, device_mac(LAN), OWN, CLIENT, 7, false);
    assert_eq!(one(gateway.send(LAN, &reply)).0, OPEN + 1);
    one(gateway.send(OPEN + 1, &datagram(OPEN, (OWN, 53))));
    assert_eq!((flows(&gateway), hits(&gateway, 1)), (2, vec![2]));
    gateway.assert_conserved();
}

#[test]
fn what_a_rule_rejects_is_told_by_whom_it_asked() {
    let mut gateway = with(&[about(SSH, &[OPEN], RuleAction::Reject)]);
    let (device, reset) = one(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), SYN)));
    let seen = see(&reset);
    assert_eq!((device, seen.src, seen.sport, reset[47] & RST), (OPEN + 1, OWN, SSH, RST));
    assert_eq!((seen.dst, seen.dport), (CLIENT, 5000));
    let (device, error) = one(gateway.send(OPEN + 1, &datagram(OPEN, (OWN, SSH))));
    assert_eq!((device, &error[26..30], &error[34..36]), (OPEN + 1, &OWN[..], &[3, 13][..]));
    // What leads to nobody here is not judged.
    assert!(gateway.send(OPEN + 1, &ask(OPEN, ([192, 0, 2, 1], SSH), SYN)).is_empty());
    assert_eq!((hits(&gateway, 1), gateway.count(Counter::DropRule)), (vec![2], 2));
    gateway.assert_conserved();
}

#[test]
fn no_more_is_rejected_aloud_than_the_limits_allow() {
    let mut gateway = with(&[about(0, &[OPEN], RuleAction::Reject)]);
    let answers: usize =
        (1..500).map(|port| gateway.send(OPEN + 1, &ask(OPEN, (OWN, port), SYN)).len()).sum();
    assert_eq!((answers, hits(&gateway, 1)), (100, vec![499]));
}

#[test]
fn the_first_rule_that_matches_decides_and_those_of_lans_are_not_asked() {
    let deny_lans = Rule { action: RuleAction::Drop as u8, ..Rule::any(0) };
    let mut gateway = with(&[
        deny_lans,
        about(SSH, &[OPEN], RuleAction::Drop),
        about(0, &[OPEN], RuleAction::Accept),
    ]);
    assert!(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), SYN)).is_empty());
    let other = ask(OPEN, (OWN, 23), SYN);
    resolve(&mut gateway, OPEN, &other);
    one(gateway.send(OPEN + 1, &other));
    one(gateway.send(LAN, &answer(23, SYN | ACK)));
    assert_eq!(hits(&gateway, 3), [0, 1, 1]);
    // And these are not asked about what a LAN begins.
    assert!(gateway.send(LAN, &udp_out(40_000, 53)).is_empty());
    assert_eq!(hits(&gateway, 3), [1, 1, 1]);
}

/// A gateway with a service at the uplinks that translate ports, and these rules.
fn publishing(given: &[Rule], forward: PortForward) -> Gateway {
    let mut gateway = with(given);
    enter(&mut gateway, forward);
    gateway.settle(Owner::At(HOST_MAC));
    gateway
}

#[test]
fn rules_are_asked_before_a_service_about_the_port_of_its_host() {
    let web = service(TCP, [PORTS[0]; 2], PORTS[1], 0b11);
    let outside = (external(0), PORTS[0]);
    for (port, action, answers, hit) in [
        (PORTS[1], RuleAction::Drop, 0, 1),
        (PORTS[1], RuleAction::Reject, 1, 1),
        (PORTS[1], RuleAction::Accept, 1, 1),
        (PORTS[0], RuleAction::Drop, 1, 0),
    ] {
        let mut gateway = publishing(&[about(port, &[0, 1], action)], web);
        let sent = gateway.send(1, &ask(0, outside, SYN));
        assert_eq!((sent.len(), hits(&gateway, 1)), (answers, vec![hit]), "{action:?} {port}");
        let begins = u64::from(!action.denies() || hit == 0);
        assert_eq!((flows(&gateway), gateway.regions.counters.forwarded(0)), (begins, begins));
        if action == RuleAction::Reject {
            let seen = see(&sent[0].1);
            assert_eq!((seen.src, seen.sport), outside, "by the address and port that it asked");
        }
        gateway.assert_conserved();
    }
}

#[test]
fn a_rule_accepts_nobody_to_whom_a_service_is_not_open_and_opens_no_port_that_is_translated() {
    let accept = about(0, &[0, 1], RuleAction::Accept);
    let web = service(TCP, [PORTS[0]; 2], PORTS[1], 0b11);
    let mut gateway = publishing(&[accept], PortForward { allowed_count: 1, ..web });
    gateway.half.allowed[0] = Prefix::v4([192, 0, 2, 0], 25);
    gateway.half.allowed_count = 1;
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(1, &ask(0, (external(0), PORTS[0]), SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishSource), 1);
    assert!(gateway.send(1, &ask(0, (external(0), SSH), SYN)).is_empty());
    assert!(gateway.send(1, &ask(0, (HOST, SSH), SYN)).is_empty());
    assert_eq!((flows(&gateway), hits(&gateway, 1)), (0, vec![0]));
}

#[test]
fn rules_are_asked_about_what_a_mapping_lets_in() {
    for (action, told) in [(RuleAction::Drop, 0), (RuleAction::Reject, 1), (RuleAction::Accept, 1)]
    {
        let mut gateway = with(&[about(40_000, &[0], action)]);
        gateway.half.uplinks[0].filtering = Filtering::Endpoint as u8;
        gateway.publish(BUCKETS);
        let (_, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
        let mapped = see(&out).sport;
        let stranger = ([198, 51, 100, 9], 99);
        let unasked = udp(next_hop_mac(0), device_mac(1), stranger, (external(0), mapped));
        let sent = gateway.send(1, &unasked);
        assert_eq!((sent.len(), hits(&gateway, 1)), (told, vec![1]), "{action:?}");
        if let Some((device, _)) = sent.first() {
            assert_eq!(*device == LAN, action == RuleAction::Accept);
        }
        gateway.assert_conserved();
    }
}

#[test]
fn where_an_uplink_lets_in_all_rules_deny_some_of_it() {
    let mut gateway = Gateway::new();
    gateway.path(OPEN).inbound = inbound::OPEN;
    rules(&mut gateway, &[about(SSH, &[OPEN], RuleAction::Drop)]);
    assert!(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), SYN)).is_empty());
    let other = ask(OPEN, (OWN, 23), SYN);
    resolve(&mut gateway, OPEN, &other);
    one(gateway.send(OPEN + 1, &other));
    assert_eq!((hits(&gateway, 1), flows(&gateway)), (vec![1], 1));
    // Without rules again it comes in by the kernel, and what is there goes on.
    rules(&mut gateway, &[]);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(flows(&gateway), 1);
}

#[test]
fn flows_that_rules_accept_no_more_end_and_so_do_those_that_they_deny() {
    let accept = about(SSH, &[OPEN], RuleAction::Accept);
    for after in [vec![], vec![about(SSH, &[OPEN], RuleAction::Drop), accept]] {
        let mut gateway = accepting(SSH);
        sweep(&mut gateway);
        connect(&mut gateway, SSH);
        rules(&mut gateway, &[about(23, &[OPEN], RuleAction::Drop), accept]);
        assert!(sweep(&mut gateway).is_empty(), "it is accepted all the same");
        rules(&mut gateway, &after);
        let ends = sweep(&mut gateway);
        let devices: Vec<_> = ends.iter().map(|(device, _)| *device).collect();
        assert_eq!((devices, flows(&gateway)), (vec![LAN, OPEN + 1], 0), "{}", after.len());
        gateway.assert_conserved();
    }
}

#[test]
fn flows_that_a_rule_accepted_outlive_an_interface_that_is_gone_for_a_moment() {
    let mut gateway = accepting(SSH);
    sweep(&mut gateway);
    connect(&mut gateway, SSH);
    let port = std::mem::replace(&mut gateway.half.uplinks[usize::from(OPEN)].port, NONE);
    rules(&mut gateway, &[about(SSH, &[], RuleAction::Accept)]);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    gateway.half.uplinks[usize::from(OPEN)].port = port;
    rules(&mut gateway, &[about(SSH, &[OPEN], RuleAction::Accept)]);
    sweep(&mut gateway);
    assert_eq!(one(gateway.send(LAN, &answer(SSH, ACK))).0, OPEN + 1);
}

#[test]
fn a_services_flows_end_that_new_rules_deny() {
    let web = service(UDP, [PORTS[0]; 2], PORTS[1], 0b11);
    let mut gateway = publishing(&[], web);
    sweep(&mut gateway);
    one(gateway.send(1, &datagram(0, (external(0), PORTS[0]))));
    rules(&mut gateway, &[about(23, &[0, 1], RuleAction::Drop)]);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    rules(&mut gateway, &[about(PORTS[1], &[1], RuleAction::Drop)]);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 1, "it came by another uplink");
    rules(&mut gateway, &[about(PORTS[1], &[0], RuleAction::Drop)]);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn a_flow_follows_its_sender_to_another_uplink_that_accepts_it() {
    for (second, follows) in [(&[1, OPEN][..], true), (&[OPEN], false)] {
        let mut gateway = Gateway::new();
        gateway.path(1).translate = Translate::None as u8;
        rules(&mut gateway, &[about(SSH, second, RuleAction::Accept)]);
        sweep(&mut gateway);
        connect(&mut gateway, SSH);
        gateway.set_state(OPEN, 0);
        assert!(sweep(&mut gateway).is_empty());
        one(gateway.send(2, &ask(1, (OWN, SSH), ACK)));
        let sent = gateway.send(LAN, &answer(SSH, ACK));
        let by = if follows { 2 } else { OPEN + 1 };
        assert_eq!((one(sent).0, flows(&gateway)), (by, 1));
    }
}

#[test]
fn a_connection_that_is_over_begins_again_as_rules_say() {
    let mut gateway = accepting(SSH);
    connect(&mut gateway, SSH);
    let mut reset = answer(SSH, RST);
    // Behind what it has said.
    reset[38..42].copy_from_slice(&1008u32.to_be_bytes());
    one(gateway.send(LAN, &reset));
    rules(&mut gateway, &[about(SSH, &[OPEN], RuleAction::Reject)]);
    let (device, reset) = one(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), SYN)));
    assert_eq!((device, reset[47] & RST), (OPEN + 1, RST));
    rules(&mut gateway, &[about(SSH, &[OPEN], RuleAction::Accept)]);
    assert_eq!(one(gateway.send(OPEN + 1, &ask(OPEN, (OWN, SSH), SYN))).0, LAN);
    assert_eq!(flows(&gateway), 1);
}

#[test]
fn an_uplink_that_is_down_or_drained_accepts_no_new_flows() {
    let mut gateway = accepting(SSH);
    connect(&mut gateway, SSH);
    for state in [0, path_state::USABLE | path_state::DRAINING] {
        gateway.set_state(OPEN, state);
        let other = udp(next_hop_mac(OPEN), device_mac(OPEN + 1), (CLIENT, 6000), (OWN, SSH));
        assert!(gateway.send(OPEN + 1, &other).is_empty());
    }
    assert_eq!((gateway.count(Counter::DropUplinkDown), flows(&gateway)), (2, 1));
}

#[test]
fn a_new_process_goes_on_with_what_rules_accepted() {
    let mut gateway = accepting(SSH);
    connect(&mut gateway, SSH);
    let half = gateway.half.clone();
    gateway.regions.prepare(&half);
    gateway.engines = vec![Engine::new(0, 1, &gateway.regions, [7, 8])];
    assert_eq!(gateway.engines[0].adopt(), 1);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(one(gateway.send(LAN, &answer(SSH, ACK))).0, OPEN + 1);
}

#[test]
fn a_host_that_the_kernel_does_not_know_is_looked_for() {
    let mut gateway = accepting(SSH);
    let question = ask(OPEN, (OWN, SSH), SYN);
    assert!(gateway.send(OPEN + 1, &question).is_empty());
    assert_eq!(gateway.settle(Owner::Asked), 0);
    assert_eq!(gateway.acquaint(Owner::Asked), 1);
    assert_eq!((gateway.settle(Owner::Asked), gateway.settle(Owner::At(HOST_MAC))), (1, 1));
    assert_eq!(gateway.settle(Owner::At(HOST_MAC)), 0, "it is found");
    one(gateway.send(OPEN + 1, &question));
}

#[test]
fn addresses_that_nobody_has_are_looked_for_a_few_at_a_time_and_hosts_stay_known() {
    let mut gateway = accepting(SSH);
    let question = ask(OPEN, (OWN, SSH), SYN);
    resolve(&mut gateway, OPEN, &question);
    let (mut known, mut searched) = (0, 0);
    for _ in 0..20 {
        for low in 130..=250 {
            let flood =
                udp(next_hop_mac(OPEN), device_mac(OPEN + 1), (CLIENT, 9), ([192, 0, 2, low], SSH));
            assert!(gateway.send(OPEN + 1, &flood).is_empty());
        }
        known = known.max(gateway.acquaint(Owner::Asked));
        searched = searched.max(gateway.settle(Owner::Asked));
        gateway.now += 20;
    }
    assert_eq!((known, searched, flows(&gateway)), (16, 4, 0));
    one(gateway.send(OPEN + 1, &question));
    // One that moved is found, whatever else is asked for, and one that is gone forgotten.
    gateway.now += 1000;
    for low in 130..=250 {
        let flood =
            udp(next_hop_mac(OPEN), device_mac(OPEN + 1), (CLIENT, 9), ([192, 0, 2, low], SSH));
        assert!(gateway.send(OPEN + 1, &flood).is_empty());
    }
    one(gateway.send(OPEN + 1, &datagram(OPEN, (OWN, SSH))));
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
    gateway.settle(Owner::At(OTHER));
    age(&mut gateway);
    let (_, moved) = one(gateway.send(OPEN + 1, &datagram(OPEN, (OWN, SSH))));
    assert_eq!(&moved[..6], &OTHER);
    gateway.now += 1000;
    age(&mut gateway);
    gateway.settle(Owner::Nobody);
    let before = gateway.count(Counter::DropPublishHost);
    let other = udp(next_hop_mac(OPEN), device_mac(OPEN + 1), (CLIENT, 6000), (OWN, SSH));
    assert!(gateway.send(OPEN + 1, &other).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishHost), before + 1);
}

#[test]
fn all_that_uplinks_bring_gets_no_more_of_the_table_than_it_leaves() {
    let mut gateway = Gateway::with(1, 64);
    rules(&mut gateway, &[about(0, &[OPEN], RuleAction::Accept)]);
    resolve(&mut gateway, OPEN, &datagram(OPEN, (OWN, 1)));
    for port in 1..200 {
        gateway.send(OPEN + 1, &datagram(OPEN, (OWN, port)));
    }
    assert!(flows(&gateway) <= 16, "{}", flows(&gateway));
    assert!(gateway.count(Counter::DropTableFull) > 100);
    one(gateway.send(LAN, &udp_out(40_000, 53)));
}

#[test]
fn a_code_point_decides_about_what_begins_and_ends_nothing() {
    let voice = Rule { dscp: 46, ..about(SSH, &[OPEN], RuleAction::Drop) };
    let mut gateway = with(&[voice, about(SSH, &[OPEN], RuleAction::Accept)]);
    sweep(&mut gateway);
    connect(&mut gateway, SSH);
    rules(&mut gateway, &[voice]);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(flows(&gateway), 1);
}
