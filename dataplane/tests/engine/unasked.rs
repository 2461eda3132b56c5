//! Packets that begin no flow: what is refused before anything is made, and what answers a packet
//! that came in without a flow.

use etherparse::PacketBuilder;
use weir_layout::control::BUCKETS;
use weir_layout::counters::Counter;
use weir_wire::checksum::Delta;
use weir_wire::parse::{Kind, parse};

use super::gateway::*;
use super::icmp::with_ttl;
use super::incomplete::begun;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Behind the uplink without translation.
const OWN_UPLINK: u8 = 3;

/// The first fragment of the frame's packet, or, with an offset in units of 8 bytes, a later one.
pub fn fragment(mut frame: Vec<u8>, offset: u8) -> Vec<u8> {
    let (old, new) = ([frame[20], frame[21]], [0x20, offset]);
    let sum = Delta::of(old, new).apply([frame[24], frame[25]]);
    frame[20..22].copy_from_slice(&new);
    frame[24..26].copy_from_slice(&sum);
    frame
}

/// A gateway whose flows all go by the uplink without translation.
fn router() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.route_only();
    gateway
}

#[test]
fn a_fragment_of_an_icmp_message_other_than_echo_is_not_taken_for_one() {
    let mut gateway = Gateway::new();
    let mut frame = fragment(ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 7, true), 0);
    assert_eq!(parse(&frame).unwrap().kind, Kind::Fragment { first: true });
    frame[34] = 13;
    assert!(gateway.send(LAN, &frame).is_empty());
    assert_eq!(gateway.count(Counter::DropProtocol), 1);
    assert_eq!(gateway.count(Counter::FlowsCreated), 0);
}

#[test]
fn what_goes_no_further_begins_no_flow_and_is_answered() {
    for (ttl, len, kind) in [(1, 8, [11, 0]), (64, 1400, [3, 4])] {
        let mut gateway = Gateway::new();
        gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
        gateway.publish(BUCKETS / 2);
        let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, ttl);
        let mut frame = Vec::new();
        builder.udp(40_000, 53).write(&mut frame, &vec![0; len]).unwrap();
        let (device, answer) = one(gateway.send(LAN, &frame));
        assert_eq!((device, answer[34], answer[35]), (LAN, kind[0], kind[1]));
        assert_eq!(gateway.count(Counter::FlowsCreated), 0);
        assert_eq!((gateway.engines[0].mappings(), gateway.engines[0].flows()), (0, 0));
        gateway.assert_conserved();
    }
}

#[test]
fn a_flow_leaves_its_mapping_alone_for_a_packet_that_its_new_uplink_does_not_carry() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let (device, _) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    gateway.half.ports[2].mtu = 1280;
    gateway.publish(0);
    gateway.set_state(device - 1, 0);
    let builder =
        PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64).udp(40_000, 54);
    let mut frame = Vec::new();
    builder.write(&mut frame, &[0; 1400]).unwrap();
    let (device, answer) = one(gateway.send(LAN, &frame));
    assert_eq!((device, answer[34], answer[35]), (LAN, 3, 4));
    assert_eq!(gateway.engines[0].flows(), 1);
    assert_eq!(gateway.engines[0].mappings(), 1);
}

/// A connection that was closed by both ends, and a SYN from its remote one.
fn syn_to_closed(gateway: &mut Gateway, out: &[u8], uplink: u8) -> bool {
    let back = |flags| {
        let seen = see(out);
        let (src, dst) = ((SERVER, 443), (seen.src, seen.sport));
        tcp(next_hop_mac(uplink - 1), device_mac(uplink), src, dst, flags)
    };
    one(gateway.send(uplink, &back(SYN | ACK)));
    one(gateway.send(LAN, &tcp_out(40_000, 443, FIN | ACK)));
    one(gateway.send(uplink, &back(FIN | ACK)));
    !gateway.send(uplink, &back(SYN)).is_empty()
}

#[test]
fn a_syn_from_outside_opens_no_closed_connection_again_unless_any_may_come_in() {
    for (route, inbound) in [(false, false), (true, false), (true, true)] {
        let mut gateway = if route { router() } else { Gateway::new() };
        gateway.path(OWN_UPLINK - 1).inbound = inbound.into();
        gateway.publish(BUCKETS / 2);
        let (uplink, out) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
        assert_eq!(syn_to_closed(&mut gateway, &out, uplink), inbound);
        assert_eq!(gateway.count(Counter::DropNoFlow), u64::from(!inbound));
    }
}

#[test]
fn a_syn_from_outside_keeps_no_closed_connection() {
    let mut gateway = Gateway::new();
    let (uplink, out) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    assert!(!syn_to_closed(&mut gateway, &out, uplink));
    let seen = see(&out);
    let syn = tcp(
        next_hop_mac(uplink - 1),
        device_mac(uplink),
        (SERVER, 443),
        (seen.src, seen.sport),
        SYN,
    );
    for _ in 0..10 {
        gateway.now += 30_000;
        assert!(gateway.send(uplink, &syn).is_empty());
        gateway.engines[0].age(4096, gateway.now, &mut gateway.wire);
    }
    assert_eq!(gateway.engines[0].flows(), 0);
}

/// What hosts of an own prefix say to packets that came in without a flow.
pub fn answers() -> [Vec<u8>; 3] {
    let error = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN))
        .ipv4(HOST, SERVER, 64)
        .icmpv4_raw(3, 3, [0; 4]);
    let asked = udp(HOST_MAC, device_mac(LAN), (SERVER, 5000), (HOST, 161));
    let mut unreachable = Vec::new();
    error.write(&mut unreachable, &asked[14..]).unwrap();
    [
        ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 7, false),
        tcp_out(22, 40_000, RST | ACK),
        unreachable,
    ]
}

#[test]
fn answers_of_an_own_prefix_leave_as_by_a_router_and_begin_no_flow() {
    let mut gateway = router();
    for frame in answers() {
        let (device, out) = one(gateway.send(LAN, &frame));
        assert_eq!(device, OWN_UPLINK);
        assert_eq!(out[..6], next_hop_mac(OWN_UPLINK - 1));
        assert_eq!(parse(&out).unwrap().ttl, 63);
        assert_eq!((&out[26..34], &out[34..]), (&frame[26..34], &frame[34..]));
    }
    assert_eq!(gateway.count(Counter::FlowsCreated), 0);
    gateway.assert_conserved();
}

#[test]
fn a_reset_whose_checksum_its_sender_left_to_the_device_leaves_complete() {
    let mut gateway = router();
    let reset = begun(tcp_out(22, 40_000, RST | ACK));
    // Verifies both checksums.
    see(&one(gateway.send(LAN, &reset)).1);
}

#[test]
fn nobody_is_answered_by_an_uplink_that_translates() {
    let mut gateway = Gateway::new();
    for frame in answers() {
        assert!(gateway.send(LAN, &frame).is_empty());
    }
    gateway.assert_conserved();
}

#[test]
fn nobody_answers_in_the_name_of_others() {
    let mut gateway = router();
    for mut frame in answers() {
        let (old, new) = ([frame[26], frame[27]], [172, 16]);
        let sum = Delta::of(old, new).apply([frame[24], frame[25]]);
        frame[24..26].copy_from_slice(&sum);
        frame[26..28].copy_from_slice(&new);
        assert!(gateway.send(LAN, &frame).is_empty());
    }
    // From within, but about what was sent to somebody else.
    let [.., mut error] = answers();
    error[42 + 16..42 + 20].copy_from_slice(&SERVER);
    let inner =
        Delta::of(HOST_WORDS[0], SERVER_WORDS[0]) + Delta::of(HOST_WORDS[1], SERVER_WORDS[1]);
    let sum = inner.apply([error[42 + 10], error[42 + 11]]);
    error[42 + 10..42 + 12].copy_from_slice(&sum);
    assert!(gateway.send(LAN, &error).is_empty());
    gateway.assert_conserved();
}

const HOST_WORDS: [[u8; 2]; 2] = [[HOST[0], HOST[1]], [HOST[2], HOST[3]]];
const SERVER_WORDS: [[u8; 2]; 2] = [[SERVER[0], SERVER[1]], [SERVER[2], SERVER[3]]];

#[test]
fn an_answer_in_fragments_leaves_in_fragments() {
    let mut gateway = router();
    let reply = ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 7, false);
    for offset in [0, 1, 2] {
        let (device, out) = one(gateway.send(LAN, &fragment(reply.clone(), offset)));
        assert_eq!((device, parse(&out).unwrap().ttl), (OWN_UPLINK, 63));
    }
    assert_eq!(gateway.count(Counter::FlowsCreated), 0);
    gateway.assert_conserved();
}

#[test]
fn an_answer_whose_time_ends_here_is_answered() {
    let mut gateway = router();
    let [reply, ..] = answers();
    let (device, error) = one(gateway.send(LAN, &with_ttl(reply, 1)));
    assert_eq!((device, error[34], error[35]), (LAN, 11, 0));
}

#[test]
fn a_port_that_a_socket_of_the_gateway_has_is_given_to_no_flow() {
    use weir_layout::control::PORT_WORDS;
    use weir_shm::control::BoundPorts;
    let mut gateway = Gateway::new();
    let mut ports = [0; PORT_WORDS];
    ports[40_000 / 64] = 1 << (40_000 % 64);
    BoundPorts::new(gateway.regions.control.clone()).set(&ports);
    let outside = |gateway: &mut Gateway, frame: &[u8]| see(&one(gateway.send(LAN, frame)).1).sport;
    assert_ne!(outside(&mut gateway, &udp_out(40_000, 53)), 40_000);
    assert_ne!(outside(&mut gateway, &tcp_out(40_000, 443, SYN)), 40_000);
    assert_eq!(outside(&mut gateway, &udp_out(40_001, 53)), 40_001);
    let identifier = ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 40_000, true);
    assert_eq!(outside(&mut gateway, &identifier), 40_000, "an identifier is no port");
    // A flow that has its port already keeps it.
    ports[40_001 / 64] |= 1 << (40_001 % 64);
    BoundPorts::new(gateway.regions.control.clone()).set(&ports);
    assert_eq!(outside(&mut gateway, &udp_out(40_001, 53)), 40_001);
}
