//! Hosts of LANs that ask for a published service by the address that it has outside.

use std::collections::HashSet;

use weir_dataplane::engine::{Engine, Owner};
use weir_layout::control::{Address, BUCKETS, Member, PathId, Prefix, RuleAction, path_state};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::{Family, NONE};
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};

use super::gateway::*;
use super::services::*;

const ASKER: [u8; 4] = [10, 77, 0, 9];
const ASKER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x19];
const BOTH: u64 = 0b11;

fn web() -> Gateway {
    publishing(&[service(TCP, [PORTS[0]; 2], PORTS[1], BOTH)])
}

fn dns() -> Gateway {
    publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], BOTH)])
}

/// Asks for the service by an uplink's address.
fn ask(uplink: u8, sport: u16, flags: u8) -> Vec<u8> {
    let to = (external(uplink), PORTS[0]);
    tcp(ASKER_MAC, device_mac(LAN), (ASKER, sport), to, flags)
}

fn datagram(uplink: u8, sport: u16) -> Vec<u8> {
    udp(ASKER_MAC, device_mac(LAN), (ASKER, sport), (external(uplink), PORTS[0]))
}

/// [`dns`] and another service of its host at the next port, while no uplink is usable.
fn cut_off() -> Gateway {
    let mut gateway = dns();
    enter(&mut gateway, service(UDP, [PORTS[0] + 1; 2], PORTS[1] + 1, BOTH));
    gateway.settle(Owner::At(HOST_MAC));
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    gateway
}

/// Who the other service sees that asks from port 5000.
fn seen_by_another(gateway: &mut Gateway) -> ([u8; 4], u16) {
    let to = (external(1), PORTS[0] + 1);
    let asks = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), to);
    let seen = see(&one(gateway.send(LAN, &asks)).1);
    (seen.src, seen.sport)
}

/// What the service's host answers to what it got.
fn answer(question: &[u8]) -> Vec<u8> {
    let seen = see(question);
    let ends = ((HOST, PORTS[1]), (seen.src, seen.sport));
    match question[23] {
        TCP => tcp(HOST_MAC, device_mac(LAN), ends.0, ends.1, SYN | ACK),
        _ => udp(HOST_MAC, device_mac(LAN), ends.0, ends.1),
    }
}

/// Who a frame is from and to: hardware addresses.
fn link(frame: &[u8]) -> [[u8; 6]; 2] {
    [frame[6..12].try_into().unwrap(), frame[..6].try_into().unwrap()]
}

/// The client as the service's host saw it, of a question that reached it, and whose answer came back.
fn served(gateway: &mut Gateway, question: &[u8]) -> ([u8; 4], u16) {
    let asked = see(question);
    let (device, got) = one(gateway.send(LAN, question));
    let seen = see(&got);
    assert_eq!((device, link(&got)), (LAN, [device_mac(LAN), HOST_MAC]));
    assert_eq!((seen.dst, seen.dport, seen.ttl), (HOST, PORTS[1], asked.ttl - 1));
    let (device, answered) = one(gateway.send(LAN, &answer(&got)));
    let back = see(&answered);
    assert_eq!((device, link(&answered)[1]), (LAN, link(question)[0]));
    assert_eq!((back.src, back.sport), (asked.dst, asked.dport), "from whom it asked");
    assert_eq!((back.dst, back.dport), (asked.src, asked.sport));
    (seen.src, seen.sport)
}

#[test]
fn a_host_that_asks_by_the_address_outside_is_answered_from_there_and_seen_by_one_outside() {
    let mut gateway = web();
    for uplink in [0, 1] {
        let (seen, _) = served(&mut gateway, &ask(uplink, 5000, SYN));
        assert!((0..2).map(external).any(|of| of == seen), "{seen:?}");
        // The service's own host.
        let to = (external(uplink), PORTS[0]);
        let own = tcp(HOST_MAC, device_mac(LAN), (HOST, 5001), to, SYN);
        assert_ne!(served(&mut gateway, &own).0, HOST);
    }
    assert_eq!((flows(&gateway), gateway.regions.counters.forwarded(0)), (4, 4));
    gateway.assert_conserved();
}

#[test]
fn it_is_served_while_no_uplink_is_usable() {
    let mut gateway = dns();
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    assert_eq!(served(&mut gateway, &datagram(1, 5000)).0, external(1));
    gateway.assert_conserved();
}

#[test]
fn an_endpoint_looks_the_same_to_all_services_while_no_uplink_is_usable() {
    let mut gateway = cut_off();
    let seen = served(&mut gateway, &datagram(1, 5000));
    assert_eq!(seen_by_another(&mut gateway), seen);
}

#[test]
fn both_directions_are_offered_to_the_kernel_tier() {
    for mut gateway in [dns(), web()] {
        let is_tcp = gateway.half.port_forwards[0].protocol == TCP;
        let question = if is_tcp { ask(0, 5000, SYN) } else { datagram(0, 5000) };
        let seen = served(&mut gateway, &question);
        if is_tcp {
            one(gateway.send(LAN, &ask(0, 5000, ACK)));
            let answer = tcp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), seen, ACK);
            one(gateway.send(LAN, &answer));
        }
        let table = &gateway.regions.flows;
        let entries = (0..table.capacity()).filter_map(|at| table.slot(at).read());
        let offered: Vec<_> = entries.map(|entry| entry.flags & flag::OFFLOAD != 0).collect();
        assert_eq!(offered, [true; 2], "{is_tcp}");
    }
}

#[test]
fn who_was_asked_asks_nobody_by_a_connection_that_is_over() {
    let mut gateway = web();
    let seen = served(&mut gateway, &ask(0, 5000, SYN));
    one(gateway.send(LAN, &ask(0, 5000, ACK)));
    one(gateway.send(LAN, &ask(0, 5000, RST | ACK)));
    let back = |flags| tcp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), seen, flags);
    assert!(gateway.send(LAN, &back(SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 1);
    assert_eq!(served(&mut gateway, &ask(0, 5000, SYN)).0, seen.0, "its client may, anew");
}

#[test]
fn a_client_is_refused_rather_than_seen_by_its_own_address() {
    let mut gateway = web();
    // A port for one, and an uplink that leaves hosts theirs.
    for uplink in 0..2 {
        let path = gateway.path(uplink);
        (path.nat_lo, path.nat_hi) = (20_000, 20_000);
    }
    gateway.half.policies[0].members[2] = Member { uplink: 2, tier: 1, weight: 1 };
    gateway.half.policies[0].member_count = 3;
    gateway.publish(BUCKETS / 2);
    let mut refused = 0;
    for sport in 5000..5010 {
        for (device, frame) in gateway.send(LAN, &ask(0, sport, SYN)) {
            let is_told = frame[23] == 1;
            assert!(device == LAN && (is_told || see(&frame).src != ASKER));
            refused += usize::from(is_told);
        }
    }
    assert!(refused >= 8, "{refused}");
}

#[test]
fn all_workers_count_what_stays_inside_where_there_is_no_room() {
    let mut gateway = Gateway::with(2, 1024);
    enter(&mut gateway, service(TCP, [PORTS[0]; 2], PORTS[1], BOTH));
    for engine in &mut gateway.engines {
        engine.settle_claims(|_, _| Owner::At(HOST_MAC));
    }
    // Half the table's places, by hosts of all kinds, at both workers.
    let mut begun = 0;
    for n in 0..1024u16 {
        let [high, low] = n.to_be_bytes();
        let host = ([10, 77, 100 + high, low], 5000);
        let mac = [2, 0, 0, 1, high, low];
        let frame = tcp(mac, device_mac(LAN), host, (external(0), PORTS[0]), SYN);
        begun += usize::from(
            gateway.send_to(n as u8 % 2, LAN, &frame).iter().any(|(_, frame)| frame[23] == TCP),
        );
        age(&mut gateway);
    }
    assert!(begun <= 512, "{begun}");
    let flows: u64 = gateway.engines.iter().map(Engine::flows).sum();
    assert_eq!(gateway.regions.counters.flows(Family::V4, 3, 2), flows);
}

#[test]
fn what_stays_inside_counts_on_no_uplink() {
    let mut gateway = dns();
    served(&mut gateway, &datagram(0, 5000));
    for uplink in 0..2 {
        let path = gateway.regions.counters.path(PathId::v4(uplink));
        let sums = [path.tx_packets, path.rx_packets, path.flows_created, path.flows_active];
        assert_eq!(sums, [0; 4]);
    }
}

#[test]
fn an_endpoint_looks_the_same_to_the_service_as_to_the_world() {
    let mut gateway = dns();
    gateway.publish(0);
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (SERVER, 53));
    let (_, out) = one(gateway.send(LAN, &world));
    let known = (see(&out).src, see(&out).sport);
    assert_eq!(known.0, external(1));
    assert_eq!(served(&mut gateway, &datagram(0, 5000)), known, "across uplinks");
    // And the other way round.
    let seen = served(&mut gateway, &datagram(0, 6000));
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 6000), (SERVER, 53));
    let (_, out) = one(gateway.send(LAN, &world));
    assert_eq!((see(&out).src, see(&out).sport), seen);
    assert_eq!(gateway.engines[0].mappings(), 2);
}

#[test]
fn where_its_policy_leaves_a_client_its_address_it_gets_one_here_and_keeps_its_own_elsewhere() {
    let mut gateway = dns();
    gateway.route_only();
    assert_eq!(served(&mut gateway, &datagram(1, 5000)).0, external(1));
    assert_eq!(gateway.engines[0].mappings(), 0, "none that others of its would follow");
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (SERVER, 53));
    let (device, out) = one(gateway.send(LAN, &world));
    assert_eq!((device, see(&out).src), (3, ASKER));
}

#[test]
fn clients_that_would_look_alike_get_different_ports() {
    let mut gateway = web();
    gateway.publish(BUCKETS);
    let others = [10, 77, 0, 10];
    let first = served(&mut gateway, &ask(0, 30_000, SYN));
    let to = (external(0), PORTS[0]);
    let other = tcp(HOST_MAC, device_mac(LAN), (others, 30_000), to, SYN);
    let second = served(&mut gateway, &other);
    assert_eq!((first.0, first.1, second.0), (external(0), 30_000, external(0)));
    assert_ne!(first.1, second.1);
    // One endpoint that asks the same service by two addresses.
    let mut gateway = dns();
    let seen = [0, 1].map(|uplink| served(&mut gateway, &datagram(uplink, 5000)));
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn what_is_not_published_there_ends_here() {
    let mut gateway = publishing(&[service(TCP, [PORTS[0]; 2], PORTS[1], 0b1)]);
    let to = |address, port| tcp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (address, port), SYN);
    let echo = |request| ping(ASKER_MAC, device_mac(LAN), ASKER, external(0), 7, request);
    for (what, frame, reason) in [
        ("another port", to(external(0), 444), Counter::DropNoFlow),
        ("another uplink", ask(1, 5000, SYN), Counter::DropNoFlow),
        ("another protocol", datagram(0, 5000), Counter::DropNoFlow),
        ("a ping", echo(true), Counter::DropNoFlow),
        ("its reply", echo(false), Counter::DropNoFlow),
        ("no connection", ask(0, 5000, ACK), Counter::DropNotSyn),
        ("the end of none", ask(0, 5000, RST), Counter::DropNotSyn),
        ("a close of none", ask(0, 5000, FIN | ACK), Counter::DropNotSyn),
    ] {
        let before = gateway.count(reason);
        assert!(gateway.send(LAN, &frame).is_empty(), "{what}");
        assert_eq!(gateway.count(reason), before + 1, "{what}");
    }
    assert_eq!(flows(&gateway), 0);
    gateway.assert_conserved();
}

#[test]
fn a_service_that_is_open_to_some_is_open_to_no_other_host_inside() {
    let mut forward = service(TCP, [PORTS[0]; 2], PORTS[1], BOTH);
    (forward.allowed_first, forward.allowed_count) = (0, 1);
    let mut gateway = publishing(&[forward]);
    gateway.half.allowed_count = 1;
    let allow = |gateway: &mut Gateway, prefix| {
        gateway.half.allowed[0] = prefix;
        gateway.publish(BUCKETS / 2);
    };
    allow(&mut gateway, Prefix::v4(SERVER, 32));
    assert!(gateway.send(LAN, &ask(0, 5000, SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishSource), 1);
    allow(&mut gateway, Prefix::v4(ASKER, 32));
    served(&mut gateway, &ask(0, 5000, SYN));
}

#[test]
fn rules_hold_for_it_too() {
    let mut gateway = web();
    served(&mut gateway, &ask(0, 5000, SYN));
    let rule = &mut gateway.half.rules[0];
    rule.in_ports = u64::MAX;
    (rule.protocol, rule.dscp) = (TCP, 0xff);
    (rule.source_ports, rule.destination_ports) = ([0, u16::MAX], [0, u16::MAX]);
    (rule.source, rule.destination) = (Prefix::v4(ASKER, 32), Prefix::ANY);
    rule.action = RuleAction::Drop as u8;
    gateway.half.rule_count = 1;
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(LAN, &ask(0, 5001, SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropRule), 1);
    // Those that it let begin end.
    let resets = sweep(&mut gateway);
    let told: HashSet<_> = resets.iter().map(|(device, frame)| (*device, see(frame).dst)).collect();
    assert_eq!((told, flows(&gateway)), (HashSet::from([(LAN, ASKER), (LAN, HOST)]), 0));
}

#[test]
fn errors_about_it_reach_either_end_in_its_own_terms() {
    let mut gateway = dns();
    let (_, question) = one(gateway.send(LAN, &datagram(0, 5000)));
    let seen = see(&question);
    let (_, answered) = one(gateway.send(LAN, &answer(&question)));
    let error = unreachable((HOST_MAC, device_mac(LAN)), (HOST, seen.src), &question[14..42]);
    let (device, told) = one(gateway.send(LAN, &error));
    assert_eq!((device, link(&told)[1]), (LAN, ASKER_MAC));
    assert_eq!(told[26..34], [external(0), ASKER].concat());
    assert_eq!(told[54..62], [ASKER, external(0)].concat());
    assert_eq!(told[62..66], [5000u16.to_be_bytes(), PORTS[0].to_be_bytes()].concat());
    let error = unreachable((ASKER_MAC, device_mac(LAN)), (ASKER, external(0)), &answered[14..42]);
    let (device, told) = one(gateway.send(LAN, &error));
    assert_eq!((device, link(&told)[1]), (LAN, HOST_MAC));
    assert_eq!(told[26..34], [seen.src, HOST].concat());
    assert_eq!(told[54..62], [HOST, seen.src].concat());
    assert_eq!(told[62..66], [PORTS[1].to_be_bytes(), seen.sport.to_be_bytes()].concat());
    gateway.assert_conserved();
}

#[test]
fn it_ends_at_both_ends_when_its_service_is_published_no_more() {
    let mut gateway = web();
    served(&mut gateway, &ask(0, 5000, SYN));
    assert_eq!(sweep(&mut gateway), []);
    gateway.half.port_forward_count = 0;
    gateway.publish(BUCKETS / 2);
    let told: Vec<_> = sweep(&mut gateway).iter().map(|(_, frame)| see(frame).dst).collect();
    assert_eq!(told, [ASKER, HOST]);
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn it_ends_when_either_of_its_addresses_outside_is_the_uplinks_no_more() {
    for (asked, looks) in [(0, 1), (1, 0)] {
        let mut gateway = web();
        gateway.publish(if looks == 0 { BUCKETS } else { 0 });
        assert_eq!(served(&mut gateway, &ask(asked, 5000, SYN)).0, external(looks));
        sweep(&mut gateway);
        gateway.path(0).pool[0] = Address::v4([203, 0, 113, 99]);
        gateway.publish(BUCKETS);
        let told: Vec<_> = sweep(&mut gateway).iter().map(|(_, frame)| see(frame).dst).collect();
        assert_eq!(told, [ASKER, HOST]);
        assert_eq!(flows(&gateway), 0);
    }
}

#[test]
fn its_client_keeps_its_mapping_when_the_address_that_it_asked_is_gone() {
    let mut gateway = dns();
    gateway.publish(0);
    let seen = served(&mut gateway, &datagram(0, 5000));
    sweep(&mut gateway);
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (SERVER, 53));
    one(gateway.send(LAN, &world));
    gateway.path(0).pool[0] = Address::v4([203, 0, 113, 99]);
    gateway.publish(0);
    sweep(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (SERVER, 54));
    let (_, out) = one(gateway.send(LAN, &world));
    assert_eq!((see(&out).src, see(&out).sport), seen);
}

#[test]
fn it_goes_on_whatever_becomes_of_uplinks() {
    let mut gateway = web();
    let question = ask(0, 5000, SYN);
    let seen = served(&mut gateway, &question);
    for state in [0, path_state::USABLE | path_state::DRAINING, path_state::USABLE] {
        (0..3).for_each(|uplink| gateway.set_state(uplink, state));
        assert_eq!(sweep(&mut gateway), []);
        gateway.now += 40_000;
        let (_, got) = one(gateway.send(LAN, &ask(0, 5000, ACK)));
        assert_eq!((see(&got).src, see(&got).sport), seen);
        assert_eq!(age(&mut gateway), []);
    }
    gateway.assert_conserved();
}

#[test]
fn a_host_that_moves_is_followed_before_it_says_anything() {
    let mut gateway = dns();
    served(&mut gateway, &datagram(0, 5000));
    let moved = [2, 0, 0, 0, 0, 0x77];
    gateway.now += 2000;
    gateway.settle(Owner::At(moved));
    age(&mut gateway);
    let (_, got) = one(gateway.send(LAN, &datagram(0, 5000)));
    assert_eq!(link(&got)[1], moved);
}

#[test]
fn later_fragments_follow_their_first() {
    let mut gateway = dns();
    let [mut first, mut later] = super::fragments::fragments();
    for frame in [&mut first, &mut later] {
        frame[6..12].copy_from_slice(&ASKER_MAC);
        frame[26..30].copy_from_slice(&ASKER);
        frame[30..34].copy_from_slice(&external(0));
        weir_wire::ipv4::Packet::new_unchecked(&mut frame[14..34]).fill_checksum();
    }
    first[36..38].copy_from_slice(&PORTS[0].to_be_bytes());
    let addresses = |frame: &[u8]| (frame[..6].to_vec(), frame[26..34].to_vec());
    let (device, led) = one(gateway.send(LAN, &first));
    let (_, followed) = one(gateway.send(LAN, &later));
    assert_eq!((device, addresses(&led)), (LAN, addresses(&followed)));
    assert_eq!(followed[30..34], HOST);
}

#[test]
fn a_start_takes_it_over_with_its_port() {
    let mut gateway = dns();
    gateway.publish(BUCKETS);
    let ports = 5000..5040;
    let seen: Vec<_> = ports.clone().map(|port| served(&mut gateway, &datagram(0, port))).collect();
    restart(&mut gateway, 1, BUCKETS);
    assert_eq!(flows(&gateway), 40);
    gateway.settle(Owner::At(HOST_MAC));
    for (port, seen) in ports.zip(&seen) {
        assert_eq!(served(&mut gateway, &datagram(0, port)), *seen);
    }
    // To the world it looks as before, and nobody else gets one of these.
    let world = udp(ASKER_MAC, device_mac(LAN), (ASKER, 5000), (SERVER, 53));
    let (_, out) = one(gateway.send(LAN, &world));
    assert_eq!((see(&out).src, see(&out).sport), seen[0]);
    for port in 30_000..30_400 {
        let (_, out) = one(gateway.send(LAN, &udp_out(port, 53)));
        assert!(!seen.contains(&(see(&out).src, see(&out).sport)));
    }
    gateway.now += 400_000;
    age(&mut gateway);
    assert_eq!((flows(&gateway), gateway.engines[0].mappings()), (0, 0));
}

#[test]
fn an_endpoint_looks_as_before_after_a_start_while_no_uplink_is_usable() {
    let mut gateway = cut_off();
    let seen = served(&mut gateway, &datagram(1, 5000));
    restart(&mut gateway, 1, BUCKETS);
    gateway.settle(Owner::At(HOST_MAC));
    gateway.settle(Owner::At(HOST_MAC));
    assert_eq!(seen_by_another(&mut gateway), seen);
}

#[test]
fn a_start_without_the_address_of_its_client_ends_it() {
    let mut gateway = dns();
    gateway.publish(BUCKETS);
    let seen = served(&mut gateway, &datagram(0, 5000));
    gateway.path(0).pool_len = 0;
    restart(&mut gateway, 1, BUCKETS);
    assert_eq!(flows(&gateway), 0);
    gateway.path(0).pool_len = 1;
    restart(&mut gateway, 1, BUCKETS);
    gateway.settle(Owner::At(HOST_MAC));
    assert_eq!(served(&mut gateway, &datagram(0, 5000)).0, seen.0);
    assert_eq!(gateway.engines[0].mappings(), 1);
}

#[test]
fn with_other_workers_a_flow_is_kept_by_the_one_whose_its_port_is_or_ends() {
    let mut gateway = Gateway::with(2, 4096);
    enter(&mut gateway, service(UDP, [PORTS[0]; 2], PORTS[1], BOTH));
    gateway.publish(BUCKETS);
    let settle = |gateway: &mut Gateway| {
        for engine in &mut gateway.engines {
            engine.settle_claims(|_, _| Owner::At(HOST_MAC));
        }
    };
    settle(&mut gateway);
    for port in 5000..5100 {
        served(&mut gateway, &datagram(0, port));
    }
    restart(&mut gateway, 3, BUCKETS);
    settle(&mut gateway);
    let kept: u64 = gateway.engines.iter().map(Engine::flows).sum();
    assert!(kept < 100, "{kept}");
    let mut all = HashSet::new();
    for port in 5000..5100 {
        assert!(all.insert(served(&mut gateway, &datagram(0, port))), "each its own");
    }
}

#[test]
fn a_flow_of_no_uplink_whose_ends_are_not_both_inside_is_not_taken_over() {
    let mut gateway = dns();
    served(&mut gateway, &datagram(0, 5000));
    let table = &gateway.regions.flows;
    let mut entries = (0..table.capacity()).filter_map(|at| Some((at, table.slot(at).read()?)));
    let (back, entry) = entries.rfind(|(_, entry)| entry.flags & flag::INITIATED == 0).unwrap();
    assert_eq!(entry.uplink, NONE);
    table.slot(back).set_meta(entry.flags & !flag::INSIDE, entry.state_owner.state());
    restart(&mut gateway, 1, BUCKETS);
    assert_eq!(flows(&gateway), 0);
}
