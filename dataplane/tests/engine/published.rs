//! Published services: flows that begin outside.

use weir_dataplane::engine::{Engine, Owner};
use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, Name, PathId, PortForward, Prefix, path_state};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};

use super::gateway::*;
use super::services::*;

const CLIENT: [u8; 4] = SERVER;
fn web() -> Gateway {
    publishing(&[service(TCP, [PORTS[0]; 2], PORTS[1], 0b11)])
}

/// What a client sends to an uplink's address.
fn ask(uplink: u8, sport: u16, flags: u8) -> Vec<u8> {
    ask_at(uplink, sport, (external(uplink), PORTS[0]), flags)
}

fn ask_at(uplink: u8, sport: u16, to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    tcp(next_hop_mac(uplink), device_mac(uplink + 1), (CLIENT, sport), to, flags)
}

fn datagram(uplink: u8, sport: u16, dport: u16) -> Vec<u8> {
    let to = (external(uplink), dport);
    udp(next_hop_mac(uplink), device_mac(uplink + 1), (CLIENT, sport), to)
}

/// What the host answers.
fn answer(sport: u16, flags: u8) -> Vec<u8> {
    tcp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, sport), flags)
}

/// The segment with these numbers: its own, and the one that it acknowledges.
fn with_numbers(mut frame: Vec<u8>, seq: u32, ack: u32) -> Vec<u8> {
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame
}

/// With the checksum of its header made anew.
fn rehashed(mut frame: Vec<u8>) -> Vec<u8> {
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..34]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

/// The same, with this sequence number.
fn answer_from(sport: u16, seq: u32, flags: u8) -> Vec<u8> {
    with_numbers(answer(sport, flags), seq, 0)
}

/// A client's segment by the first uplink that acknowledges this.
fn acks(sport: u16, ack: u32) -> Vec<u8> {
    with_numbers(ask(0, sport, ACK), 1001, ack)
}

/// A connection with its handshake done.
fn connect(gateway: &mut Gateway, uplink: u8, sport: u16) {
    one(gateway.send(uplink + 1, &ask(uplink, sport, SYN)));
    one(gateway.send(LAN, &answer(sport, SYN | ACK)));
    one(gateway.send(uplink + 1, &ask(uplink, sport, ACK)));
}

#[test]
fn a_question_reaches_the_host_and_its_answer_leaves_by_the_uplink_that_was_asked() {
    let mut gateway = web();
    for uplink in [0, 1] {
        let sport = 5000 + u16::from(uplink);
        let (device, question) = one(gateway.send(uplink + 1, &ask(uplink, sport, SYN)));
        let seen = see(&question);
        assert_eq!((device, question[..6].try_into().unwrap()), (LAN, HOST_MAC));
        assert_eq!((seen.src, seen.sport), (CLIENT, sport), "the host sees its client");
        assert_eq!((seen.dst, seen.dport), (HOST, PORTS[1]));
        // By its buckets it would leave by the other.
        gateway.publish(if uplink == 0 { 0 } else { BUCKETS });
        let (device, answer) = one(gateway.send(LAN, &answer(sport, SYN | ACK)));
        let seen = see(&answer);
        assert_eq!((device, seen.src, seen.sport), (uplink + 1, external(uplink), PORTS[0]));
        assert_eq!((seen.dst, seen.dport), (CLIENT, sport));
    }
    assert_eq!(gateway.regions.counters.forwarded(0), 2);
    gateway.assert_conserved();
}

#[test]
fn what_is_not_published_is_not_reached() {
    let mut gateway = publishing(&[service(TCP, [PORTS[0]; 2], PORTS[1], 0b1)]);
    let refused = [
        ("another port", 0, ask_at(0, 5000, (external(0), 444), SYN)),
        ("another address", 0, ask_at(0, 5000, (external(1), PORTS[0]), SYN)),
        ("the host's own address", 0, ask_at(0, 5000, (HOST, PORTS[1]), SYN)),
        ("another uplink", 1, ask(1, 5000, SYN)),
        ("another protocol", 0, datagram(0, 5000, PORTS[0])),
    ];
    for (what, uplink, frame) in refused {
        assert!(gateway.send(uplink + 1, &frame).is_empty(), "{what}");
    }
    assert_eq!(gateway.count(Counter::DropNoFlow), 5);
    assert_eq!(flows(&gateway), 0);
    gateway.assert_conserved();
}

#[test]
fn a_service_is_open_to_the_sources_it_names_and_no_others() {
    let mut gateway = Gateway::new();
    gateway.half.allowed[..2]
        .copy_from_slice(&[Prefix::v4([192, 0, 2, 0], 25), Prefix::v4([198, 51, 100, 0], 24)]);
    gateway.half.allowed_count = 2;
    let open = service(TCP, [PORTS[0]; 2], PORTS[1], 0b1);
    let to_first = PortForward { allowed_count: 1, ..open };
    enter(&mut gateway, to_first);
    gateway.settle(Owner::At(HOST_MAC));
    assert!(gateway.send(1, &ask(0, 5000, SYN)).is_empty());
    assert_eq!((gateway.count(Counter::DropPublishSource), flows(&gateway)), (1, 0));
    gateway.half.port_forwards[0] = PortForward { allowed_first: 1, ..to_first };
    gateway.publish(BUCKETS / 2);
    one(gateway.send(1, &ask(0, 5000, SYN)));
}

#[test]
fn a_range_of_ports_leads_to_as_many() {
    let mut gateway = publishing(&[service(UDP, [8000, 8010], 9000, 0b11)]);
    for (port, inside) in [(8000, 9000), (8005, 9005), (8010, 9010)] {
        let (_, sent) = one(gateway.send(1, &datagram(0, 5000, port)));
        assert_eq!(see(&sent).dport, inside);
        let answer = udp(HOST_MAC, device_mac(LAN), (HOST, inside), (CLIENT, 5000));
        let (device, answer) = one(gateway.send(LAN, &answer));
        assert_eq!((device, see(&answer).sport), (1, port));
    }
    assert!(gateway.send(1, &datagram(0, 5000, 8011)).is_empty());
}

#[test]
fn a_published_port_is_given_to_no_flow_of_that_uplink() {
    let mut gateway = publishing(&[service(UDP, [30_000, 30_000], 53, 0b1)]);
    let outside = |gateway: &mut Gateway, sport| {
        let (device, sent) = one(gateway.send(LAN, &udp_out(sport, 53)));
        (device, see(&sent).sport)
    };
    gateway.publish(BUCKETS);
    let (device, port) = outside(&mut gateway, 30_000);
    assert!(device == 1 && port != 30_000);
    gateway.publish(0);
    gateway.now += 1000;
    let other = udp(HOST_MAC, device_mac(LAN), ([10, 77, 0, 9], 30_000), (SERVER, 53));
    let (device, sent) = one(gateway.send(LAN, &other));
    assert_eq!((device, see(&sent).sport), (2, 30_000), "it is not published there");
}

#[test]
fn an_endpoint_whose_port_is_published_gets_another() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let (_, sent) = one(gateway.send(LAN, &udp_out(30_000, 53)));
    assert_eq!(see(&sent).sport, 30_000);
    enter(&mut gateway, service(UDP, [30_000, 30_000], 53, 0b1));
    gateway.publish(BUCKETS);
    let (_, sent) = one(gateway.send(LAN, &udp_out(30_000, 54)));
    assert_ne!(see(&sent).sport, 30_000);
    let (_, sent) = one(gateway.send(LAN, &udp_out(30_000, 53)));
    assert_eq!(see(&sent).sport, 30_000, "the flow that has it keeps it");
}

#[test]
fn a_flow_stays_on_its_uplink_whatever_is_published_and_however_long() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5000);
    gateway.set_state(0, path_state::USABLE | path_state::DRAINING);
    gateway.publish(0);
    gateway.now += 100_000;
    assert!(age(&mut gateway).is_empty() && sweep(&mut gateway).is_empty());
    let (device, _) = one(gateway.send(LAN, &answer(5000, ACK)));
    assert_eq!((device, gateway.count(Counter::FlowsMoved)), (1, 0));
}

#[test]
fn connections_end_at_both_ends_with_the_uplink_that_they_came_by_and_no_others() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5000);
    connect(&mut gateway, 1, 5001);
    gateway.set_state(0, 0);
    let sent = sweep(&mut gateway);
    assert_eq!(sent.len(), 2);
    let to_host = see(&sent[0].1);
    assert_eq!((sent[0].0, to_host.src, to_host.sport), (LAN, CLIENT, 5000));
    assert_eq!((to_host.dst, to_host.dport), (HOST, PORTS[1]));
    let to_client = see(&sent[1].1);
    assert_eq!((sent[1].0, to_client.src, to_client.sport), (1, external(0), PORTS[0]));
    assert_eq!((to_client.dst, to_client.dport), (CLIENT, 5000));
    assert!(sent.iter().all(|(_, frame)| frame[47] == RST | ACK));
    let (device, _) = one(gateway.send(LAN, &answer(5001, ACK)));
    assert_eq!(device, 2);
    gateway.assert_conserved();
}

#[test]
fn connections_of_the_only_uplink_wait_for_another() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5000);
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    assert!(sweep(&mut gateway).is_empty());
    gateway.set_state(1, path_state::USABLE);
    gateway.publish(0);
    assert_eq!(sweep(&mut gateway).len(), 2);
}

#[test]
fn flows_end_with_the_address_that_they_asked_for() {
    let mut gateway = publishing(&[
        service(TCP, [PORTS[0]; 2], PORTS[1], 0b11),
        service(UDP, [PORTS[0]; 2], PORTS[1], 0b11),
    ]);
    sweep(&mut gateway);
    connect(&mut gateway, 0, 5000);
    one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
    gateway.path(0).pool[0] = Address::v4([203, 0, 113, 99]);
    gateway.publish(BUCKETS / 2);
    let (device, _) = one(sweep(&mut gateway));
    assert_eq!(device, LAN, "its host is told; to the client the address would be another's");
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn a_client_that_asks_by_two_uplinks_from_one_port_is_answered_by_each() {
    for proto in [TCP, UDP] {
        let mut gateway = publishing(&[service(proto, [PORTS[0]; 2], PORTS[1], 0b11)]);
        let question = |uplink| match proto {
            TCP => ask(uplink, 5000, SYN),
            _ => datagram(uplink, 5000, PORTS[0]),
        };
        let [first, second] = [0, 1].map(|uplink| {
            let (_, sent) = one(gateway.send(uplink + 1, &question(uplink)));
            let seen = see(&sent);
            assert_eq!((seen.src, seen.dst, seen.dport), (CLIENT, HOST, PORTS[1]));
            seen.sport
        });
        assert!(first == 5000 && second != 5000 && second >= 1024, "{first} {second}");
        for (uplink, port) in [(0, first), (1, second)] {
            let answer = match proto {
                TCP => answer(port, SYN | ACK),
                _ => udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, port)),
            };
            let (device, answer) = one(gateway.send(LAN, &answer));
            let seen = see(&answer);
            assert_eq!((device, seen.src, seen.sport), (uplink + 1, external(uplink), PORTS[0]));
            assert_eq!((seen.dst, seen.dport), (CLIENT, 5000));
        }
        assert_eq!(flows(&gateway), 2);
        gateway.assert_conserved();
    }
}

#[test]
fn a_host_that_spoke_to_its_client_first_is_asked_by_it_all_the_same() {
    let mut gateway = publishing(&[service(UDP, [4500; 2], 4500, 0b11)]);
    let first = udp(HOST_MAC, device_mac(LAN), (HOST, 4500), (CLIENT, 4500));
    // By another uplink than its client.
    gateway.publish(0);
    assert_eq!(one(gateway.send(LAN, &first)).0, 2);
    let (_, sent) = one(gateway.send(1, &datagram(0, 4500, 4500)));
    let port = see(&sent).sport;
    assert_ne!(port, 4500);
    let answer = udp(HOST_MAC, device_mac(LAN), (HOST, 4500), (CLIENT, port));
    let (device, answer) = one(gateway.send(LAN, &answer));
    let seen = see(&answer);
    assert_eq!((device, seen.sport, seen.dport), (1, 4500, 4500));
    assert_eq!(flows(&gateway), 2, "both are there");
}

#[test]
fn a_connection_begins_with_a_syn_and_no_other_segment() {
    let mut gateway = web();
    for flags in [ACK, SYN | ACK, RST, RST | ACK, FIN, FIN | ACK, SYN | FIN, SYN | RST, 0] {
        assert!(gateway.send(1, &ask(0, 5000, flags)).is_empty(), "{flags:#x}");
    }
    assert_eq!((gateway.count(Counter::DropNotSyn), flows(&gateway)), (9, 0));
    gateway.assert_conserved();
}

#[test]
fn a_host_whose_connection_is_not_known_any_more_is_told_that_it_is_over() {
    let mut gateway = web();
    one(gateway.send(LAN, &udp_out(4000, 53)));
    // It would leave by any uplink and from any port.
    let (device, reset) = one(gateway.send(LAN, &answer(5000, ACK)));
    let seen = see(&reset);
    assert_eq!((device, seen.src, seen.sport, reset[47] & RST), (LAN, CLIENT, 5000, RST));
    assert_eq!((seen.dst, seen.dport), (HOST, PORTS[1]));
    assert_eq!((gateway.count(Counter::DropNotSyn), flows(&gateway)), (1, 1));
    // What it begins itself from that port is not it.
    one(gateway.send(LAN, &answer(5000, SYN)));
    gateway.assert_conserved();
}

#[test]
fn an_uplink_that_is_down_or_drained_takes_no_new_flows() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5000);
    for state in [0, path_state::USABLE | path_state::DRAINING] {
        gateway.set_state(0, state);
        assert!(gateway.send(1, &ask(0, 5001, SYN)).is_empty());
        one(gateway.send(2, &ask(1, 5002, SYN)));
        one(gateway.send(1, &ask(0, 5000, ACK)));
    }
    assert_eq!((gateway.count(Counter::DropUplinkDown), flows(&gateway)), (2, 2));
    gateway.set_state(0, path_state::USABLE);
    one(gateway.send(1, &ask(0, 5001, SYN)));
}

#[test]
fn who_does_not_see_the_answer_makes_no_connection_that_lasts() {
    const SECOND: u32 = 1000;
    let mut gateway = web();
    // In another's name: the number that it acknowledges is made up.
    one(gateway.send(1, &ask(0, 5000, SYN)));
    one(gateway.send(LAN, &answer_from(5000, 7_000_000, SYN | ACK)));
    one(gateway.send(1, &acks(5000, 999)));
    // So is that of its end, or it acknowledges nothing and the host says again what it said.
    one(gateway.send(1, &ask(0, 5004, SYN)));
    one(gateway.send(LAN, &answer_from(5004, 7_000_000, SYN | ACK)));
    one(gateway.send(1, &with_numbers(ask(0, 5004, FIN | ACK), 1008, 6_500_000)));
    one(gateway.send(1, &ask(0, 5005, SYN)));
    one(gateway.send(LAN, &answer_from(5005, 7_000_000, SYN | ACK)));
    one(gateway.send(1, &with_numbers(ask(0, 5005, SYN), 500_000_000, 0)));
    let mut bare = with_numbers(answer(5005, ACK), 7_000_008, 1008);
    // Without data.
    bare[17] -= 7;
    bare.truncate(54);
    one(gateway.send(LAN, &rehashed(bare)));
    // Who sees it.
    one(gateway.send(1, &ask(0, 5001, SYN)));
    one(gateway.send(LAN, &answer_from(5001, 7_000_000, SYN | ACK)));
    one(gateway.send(1, &acks(5001, 7_000_001)));
    // Whom nobody answers, and whose question is refused.
    one(gateway.send(1, &ask(0, 5002, SYN)));
    one(gateway.send(1, &ask(0, 5003, SYN)));
    one(gateway.send(LAN, &answer(5003, RST | ACK)));
    assert_eq!(flows(&gateway), 6);
    gateway.now += 29 * SECOND;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 6);
    gateway.now += 2 * SECOND;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1, "the one that is proven");
    one(gateway.send(LAN, &answer(5001, ACK)));
}

#[test]
fn clients_of_datagrams_that_do_not_go_on_after_the_answer_leave_no_flow_for_long() {
    let mut gateway = publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], 0b11)]);
    let answer = |port| udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, port));
    // Not answered; answered; and one that goes on.
    (5000..5003).for_each(|port| _ = one(gateway.send(1, &datagram(0, port, PORTS[0]))));
    (5001..5003).for_each(|port| _ = one(gateway.send(LAN, &answer(port))));
    one(gateway.send(1, &datagram(0, 5002, PORTS[0])));
    gateway.now += 31_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    assert_eq!(one(gateway.send(LAN, &answer(5002))).0, 1);
}

#[test]
fn a_client_that_nobody_answers_keeps_its_flow_while_it_sends() {
    let mut gateway = publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], 0b11)]);
    for _ in 0..6 {
        one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
        gateway.now += 20_000;
        age(&mut gateway);
    }
    assert_eq!((flows(&gateway), gateway.regions.counters.forwarded(0)), (1, 1));
}

#[test]
fn a_flow_finds_its_host_at_another_hardware_address() {
    let mut gateway = publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], 0b11)]);
    one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
    let moved = [2, 0, 0, 0, 0, 0x11];
    gateway.now += 1000;
    gateway.settle(Owner::At(moved));
    age(&mut gateway);
    assert_eq!(one(gateway.send(1, &datagram(0, 5000, PORTS[0]))).1[..6], moved);
    let answer = udp(moved, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, 5000));
    assert_eq!((one(gateway.send(LAN, &answer)).0, flows(&gateway)), (1, 1));
    gateway.assert_conserved();
}

#[test]
fn what_comes_by_uplinks_leaves_as_much_of_the_table_as_it_takes() {
    let mut gateway = web();
    let mut made = 0;
    while let [_] = gateway.send(1 + (made % 2) as u8, &ask((made % 2) as u8, 2000 + made, SYN))[..]
    {
        made += 1;
    }
    let room = u16::try_from(SLOTS / 2).unwrap();
    assert!(gateway.count(Counter::DropTableFull) == 1 && made.abs_diff(room / 2) <= 1, "{made}");
    one(gateway.send(LAN, &udp_out(4000, 53)));
    gateway.assert_conserved();
}

#[test]
fn who_begins_in_anothers_name_again_changes_none_of_the_numbers() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5001);
    one(gateway.send(1, &ask(0, 5000, SYN)));
    one(gateway.send(LAN, &answer(5000, SYN | ACK)));
    one(gateway.send(1, &with_numbers(ask(0, 5000, SYN), 3_000_000_000, 0)));
    one(gateway.send(1, &ask(0, 5000, ACK)));
    // Its own end counts still.
    one(gateway.send(1, &ask(0, 5000, RST | ACK)));
    gateway.now += 31_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1, "it has ended, and the other has not");
}

#[test]
fn flows_of_what_is_published_no_more_end() {
    let (tcp, udp_service) =
        (service(TCP, [PORTS[0]; 2], PORTS[1], 0b11), service(UDP, [PORTS[0]; 2], PORTS[1], 0b11));
    let elsewhere = PortForward { inside: Address::v4([10, 77, 0, 99]), ..tcp };
    let other_port = PortForward { inside_port: 1, ..tcp };
    let other_uplink = PortForward { uplinks: 0b10, ..tcp };
    for changed in [Some(elsewhere), Some(other_port), Some(other_uplink), None] {
        let mut gateway = publishing(&[tcp, udp_service]);
        sweep(&mut gateway);
        connect(&mut gateway, 0, 5000);
        one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
        gateway.half.port_forwards[0] = udp_service;
        gateway.half.port_forward_count = 1;
        changed.into_iter().for_each(|service| {
            gateway.half.port_forwards[1] = service;
            gateway.half.port_forward_count = 2;
        });
        gateway.publish(BUCKETS / 2);
        assert_eq!(sweep(&mut gateway).len(), 2, "a reset for each end: {changed:?}");
        assert_eq!(flows(&gateway), 1, "the other's is still there");
    }
}

#[test]
fn clients_that_a_service_is_closed_to_lose_their_flows() {
    let mut gateway = web();
    sweep(&mut gateway);
    connect(&mut gateway, 0, 5000);
    gateway.half.allowed[0] = Prefix::v4(CLIENT, 32);
    gateway.half.allowed_count = 1;
    gateway.half.port_forwards[0].allowed_count = 1;
    gateway.publish(BUCKETS / 2);
    assert!(sweep(&mut gateway).is_empty());
    gateway.half.allowed[0] = Prefix::v4([192, 0, 2, 1], 32);
    gateway.publish(BUCKETS / 2);
    assert_eq!((sweep(&mut gateway).len(), flows(&gateway)), (2, 0));
}

#[test]
fn what_services_have_counted_goes_with_their_names() {
    let mail = PortForward { name: Name::new("mail"), ..service(TCP, [25; 2], 25, 0b11) };
    let mut gateway = publishing(&[service(TCP, [PORTS[0]; 2], PORTS[1], 0b11), mail]);
    one(gateway.send(1, &ask(0, 5000, SYN)));
    one(gateway.send(1, &ask(0, 5001, SYN)));
    one(gateway.send(1, &ask_at(0, 5002, (external(0), 25), SYN)));
    gateway.half.port_forwards[0] = mail;
    gateway.half.port_forward_count = 1;
    gateway.publish(BUCKETS / 2);
    gateway.engines[0].refresh();
    let counted = |gateway: &Gateway, number| gateway.regions.counters.forwarded(number);
    assert_eq!([0, 1].map(|number| counted(&gateway, number)), [1, 0]);
}

#[test]
fn where_services_say_to_whom_they_are_open_nonsense_opens_none() {
    let mut gateway = web();
    gateway.half.port_forwards[0].allowed_first = 9;
    gateway.half.port_forwards[0].allowed_count = 1;
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(1, &ask(0, 5000, SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishSource), 1);
}

#[test]
fn another_connection_may_begin_where_one_has_ended() {
    let mut gateway = web();
    connect(&mut gateway, 0, 5000);
    one(gateway.send(1, &ask(0, 5000, FIN | ACK)));
    one(gateway.send(LAN, &answer(5000, FIN | ACK)));
    one(gateway.send(1, &ask(0, 5000, SYN)));
    one(gateway.send(LAN, &answer(5000, SYN | ACK)));
    assert_eq!((gateway.regions.counters.forwarded(0), flows(&gateway)), (2, 1));
    // And by the other uplink.
    one(gateway.send(LAN, &answer(5000, FIN | ACK)));
    one(gateway.send(1, &ask(0, 5000, FIN | ACK)));
    let port = see(&one(gateway.send(2, &ask(1, 5000, SYN))).1).sport;
    assert_eq!(one(gateway.send(LAN, &answer(port, SYN | ACK))).0, 2);
}

#[test]
fn a_connection_that_a_client_begins_may_be_opened_by_both_at_once_and_closed_by_one() {
    let mut gateway = web();
    // A SYN again, one that crosses it, the answers to both: RFC 9293 figure 7.
    for (device, segment) in [
        (1, ask(0, 5000, SYN)),
        (1, ask(0, 5000, SYN)),
        (LAN, answer(5000, SYN)),
        (LAN, answer(5000, SYN | ACK)),
        (1, ask(0, 5000, SYN | ACK)),
        (1, acks(5000, 1001)),
        (LAN, answer(5000, ACK)),
        (1, ask(0, 5000, FIN | ACK)),
    ] {
        assert_eq!(one(gateway.send(device, &segment)).0, if device == LAN { 1 } else { LAN });
    }
    // The host goes on alone, for longer than what closes is kept.
    for _ in 0..3 {
        gateway.now += 200_000;
        assert_eq!(one(gateway.send(LAN, &answer(5000, ACK))).0, 1);
        age(&mut gateway);
    }
    assert_eq!((flows(&gateway), gateway.count(Counter::FlowsCreated)), (1, 1));
    gateway.assert_conserved();
}

#[test]
fn a_host_is_looked_for_before_it_is_asked_for_and_while_it_is_not_there() {
    let mut gateway = Gateway::new();
    enter(&mut gateway, service(TCP, [PORTS[0]; 2], PORTS[1], 0b11));
    assert!(gateway.send(1, &ask(0, 5000, SYN)).is_empty());
    assert_eq!(gateway.count(Counter::DropPublishHost), 1);
    assert_eq!([gateway.settle(Owner::Nobody), gateway.settle(Owner::Nobody)], [1, 0]);
    assert!(gateway.send(1, &ask(0, 5000, SYN)).is_empty());
    gateway.settle(Owner::At(HOST_MAC));
    one(gateway.send(1, &ask(0, 5000, SYN)));
    // Once a second; what it does not know for sure is no news.
    assert_eq!(gateway.settle(Owner::Nobody), 0);
    gateway.now += 1000;
    one(gateway.send(1, &ask(0, 5001, SYN)));
    assert_eq!(gateway.settle(Owner::Asked), 1);
    let moved = [2, 0, 0, 0, 0, 0x11];
    gateway.now += 1000;
    one(gateway.send(1, &ask(0, 5003, SYN)));
    gateway.settle(Owner::At(moved));
    assert_eq!(one(gateway.send(1, &ask(0, 5002, SYN))).1[..6], moved);
}

#[test]
fn who_was_found_is_known_under_another_number_too() {
    let mut gateway = web();
    gateway.half.port_forwards[1] = gateway.half.port_forwards[0];
    gateway.half.port_forwards[0] = service(TCP, [1, 1], 1, 0b11);
    gateway.half.port_forwards[0].inside = Address::v4([10, 77, 0, 99]);
    gateway.half.port_forward_count = 2;
    gateway.publish(BUCKETS / 2);
    one(gateway.send(1, &ask(0, 5000, SYN)));
}

#[test]
fn a_flow_to_an_own_address_follows_its_client_to_another_uplink() {
    let mut gateway = Gateway::new();
    gateway.path(1).translate = 0;
    let own = PortForward { inside: Address::v4(OWN), ..service(TCP, [22, 22], 22, 0b110) };
    enter(&mut gateway, own);
    gateway.settle(Owner::At(HOST_MAC));
    let question = |uplink, flags| ask_at(uplink, 5000, (OWN, 22), flags);
    let answer = tcp(HOST_MAC, device_mac(LAN), (OWN, 22), (CLIENT, 5000), SYN | ACK);
    let (_, sent) = one(gateway.send(3, &question(2, SYN)));
    assert_eq!((see(&sent).dst, see(&sent).dport), (OWN, 22));
    assert_eq!(one(gateway.send(LAN, &answer)).0, 3);
    one(gateway.send(2, &question(1, ACK)));
    assert_eq!(one(gateway.send(LAN, &answer)).0, 3, "its uplink is well");
    gateway.set_state(2, 0);
    assert!(sweep(&mut gateway).is_empty());
    one(gateway.send(2, &question(1, ACK)));
    assert_eq!((one(gateway.send(LAN, &answer)).0, flows(&gateway)), (2, 1));
}

#[test]
fn a_new_process_goes_on_with_the_flows_it_finds() {
    let mut gateway = publishing(&[
        service(TCP, [PORTS[0]; 2], PORTS[1], 0b11),
        service(UDP, [30_000, 30_000], PORTS[1], 0b11),
    ]);
    connect(&mut gateway, 0, 5000);
    one(gateway.send(2, &datagram(1, 5000, 30_000)));
    let half = gateway.half.clone();
    gateway.regions.prepare(&half);
    gateway.engines = vec![Engine::new(0, 1, &gateway.regions, [7, 8])];
    assert_eq!((gateway.engines[0].adopt(), gateway.engines[0].mappings()), (2, 0));
    assert_eq!(one(gateway.send(LAN, &answer(5000, ACK))).0, 1);
    let answer = udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, 5000));
    assert_eq!(one(gateway.send(LAN, &answer)).0, 2);
}

#[test]
fn workers_that_have_flows_with_the_same_ends_inside_keep_them_apart() {
    let mut gateway = Gateway::with(2, SLOTS);
    enter(&mut gateway, service(UDP, [PORTS[0]; 2], PORTS[1], 0b11));
    gateway.engines.iter_mut().for_each(|engine| {
        engine.settle_claims(|_, _| Owner::At(HOST_MAC));
    });
    one(gateway.send_to(0, 1, &datagram(0, 5000, PORTS[0])));
    let (_, second) = one(gateway.send_to(1, 2, &datagram(1, 5000, PORTS[0])));
    assert_eq!([0, 1].map(|worker: usize| gateway.engines[worker].flows()), [1, 1]);
    for (port, device) in [(5000, 1), (see(&second).sport, 2)] {
        let answer = udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, port));
        assert_eq!(one(gateway.send_to(1, LAN, &answer)).0, device);
    }
    gateway.assert_conserved();
}

#[test]
fn a_service_of_ipv6_is_reached_at_its_own_address() {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    let mut host = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 5];
    let client = [0x26, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    let v6 = PortForward {
        inside: Address(host),
        family: Family::V6.index() as u8,
        ..service(TCP, [PORTS[0]; 2], PORTS[1], 0b11)
    };
    enter(&mut gateway, v6);
    gateway.settle(Owner::At(HOST_MAC));
    let frame = |(from, to), src, dst, (sport, dport), flags: u8| {
        let builder = etherparse::PacketBuilder::ethernet2(from, to).ipv6(src, dst, 64);
        let mut header = etherparse::TcpHeader::new(sport, dport, 1000, 4096);
        (header.syn, header.ack) = (flags & SYN != 0, flags & ACK != 0);
        let mut frame = Vec::new();
        builder.tcp_header(header).write(&mut frame, b"").unwrap();
        frame
    };
    let in_by = (next_hop_mac(1), device_mac(2));
    let (device, sent) = one(gateway.send(2, &frame(in_by, client, host, (5000, PORTS[0]), SYN)));
    let p = weir_wire::parse::parse6(&sent).unwrap();
    assert_eq!((device, p.src, p.dst), (LAN, client, host));
    assert_eq!(u16::from_be_bytes(p.dport), PORTS[1]);
    let out = (HOST_MAC, device_mac(LAN));
    let (device, sent) =
        one(gateway.send(LAN, &frame(out, host, client, (PORTS[1], 5000), SYN | ACK)));
    let p = weir_wire::parse::parse6(&sent).unwrap();
    assert_eq!((device, u16::from_be_bytes(p.sport)), (2, PORTS[0]));
    host[15] = 6;
    let other = frame(in_by, client, host, (5001, PORTS[0]), SYN);
    assert!(gateway.send(2, &other).is_empty(), "another host");
    let path = PathId::new(1, Family::V6);
    gateway.writer.set_path_state(path, 0);
    assert!(sweep(&mut gateway).is_empty(), "its client may come by another");
}

/// Port unreachable, about a packet.
#[test]
fn an_error_names_the_port_by_which_the_host_knows_its_client() {
    let mut gateway = publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], 0b11)]);
    one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
    let (_, question) = one(gateway.send(2, &datagram(1, 5000, PORTS[0])));
    let known = see(&question).sport;
    assert_ne!(known, 5000, "the other flow has that");
    let answer = udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, known));
    let (_, answer) = one(gateway.send(LAN, &answer));
    // From the client, about what it was answered, and from the host, about the question.
    let link = (next_hop_mac(1), device_mac(2));
    let error = unreachable(link, (CLIENT, external(1)), &answer[14..42]);
    let (device, told) = one(gateway.send(2, &error));
    assert_eq!((device, &told[64..66]), (LAN, &known.to_be_bytes()[..]));
    let error = unreachable((HOST_MAC, device_mac(LAN)), (HOST, CLIENT), &question[14..42]);
    let (device, told) = one(gateway.send(LAN, &error));
    assert_eq!((device, &told[62..64]), (2, &5000u16.to_be_bytes()[..]));
    gateway.assert_conserved();
}

#[test]
fn errors_about_a_flow_that_began_outside_are_translated_both_ways() {
    let mut gateway = publishing(&[service(UDP, [PORTS[0]; 2], PORTS[1], 0b11)]);
    let (_, question) = one(gateway.send(1, &datagram(0, 5000, PORTS[0])));
    let answer = udp(HOST_MAC, device_mac(LAN), (HOST, PORTS[1]), (CLIENT, 5000));
    let (_, answer) = one(gateway.send(LAN, &answer));
    // From the client, about what it was answered: with the address and port that it knows.
    let link = (next_hop_mac(0), device_mac(1));
    let error = unreachable(link, (CLIENT, external(0)), &answer[14..42]);
    let (device, told) = one(gateway.send(1, &error));
    assert_eq!((device, &told[26..34]), (LAN, &[CLIENT, HOST].concat()[..]));
    assert_eq!((&told[54..58], &told[62..64]), (&HOST[..], &PORTS[1].to_be_bytes()[..]));
    // From the host, about the question.
    let link = (HOST_MAC, device_mac(LAN));
    let error = unreachable(link, (HOST, CLIENT), &question[14..42]);
    let (device, told) = one(gateway.send(LAN, &error));
    assert_eq!((device, &told[26..34]), (1, &[external(0), CLIENT].concat()[..]));
    assert_eq!((&told[58..62], &told[64..66]), (&external(0)[..], &PORTS[0].to_be_bytes()[..]));
    gateway.assert_conserved();
}
