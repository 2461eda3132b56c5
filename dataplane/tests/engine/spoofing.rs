//! Packets that are not from whom they say, and what becomes of the flows they are in.

use etherparse::PacketBuilder;
use weir_dataplane::engine::{Owner, SILENT_MS};
use weir_layout::adjacency::Adjacency;
use weir_layout::control::{BUCKETS, PortRole, Prefix, path_state};
use weir_layout::counters::Counter;

use super::gateway::*;

const SYN: u8 = 0x02;
const GUESTS: u8 = 3;
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// A gateway whose port 3 is a LAN of guests; a packet of a host of the first LAN, the device that
/// its flow leaves by, and the answer.
fn flow_beside_guests(frame: &[u8]) -> (Gateway, u8, Vec<u8>) {
    let mut gateway = Gateway::new();
    gateway.half.ports[usize::from(GUESTS)].role = PortRole::Lan as u8;
    gateway.half.lan_prefixes[2] = Prefix::v4([10, 88, 0, 0], 16);
    gateway.half.lan_prefix_ports[2] = GUESTS;
    gateway.half.lan_prefix_count = 3;
    gateway.publish(BUCKETS / 2);
    let (device, out) = one(gateway.send(LAN, frame));
    let answer = answer_to(device, &out);
    one(gateway.send(device, &answer));
    (gateway, device, answer)
}

/// The frame as another station sends it by a LAN port.
fn from(port: u8, frame: &[u8]) -> Vec<u8> {
    let mut other = frame.to_vec();
    other[..6].copy_from_slice(&device_mac(port));
    other[6..12].copy_from_slice(&OTHER_MAC);
    other
}

fn receiver(sent: Vec<(u8, Vec<u8>)>) -> (u8, [u8; 6]) {
    let (device, frame) = one(sent);
    (device, *frame.first_chunk().unwrap())
}

/// The first packets of a flow of each protocol.
fn flows() -> [Vec<u8>; 3] {
    [
        udp_out(40_000, 53),
        tcp_out(40_000, 443, SYN),
        ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 30_000, true),
    ]
}

#[test]
fn a_host_that_the_kernel_knows_begins_flows_where_made_up_addresses_fill_the_table() {
    let mut gateway = Gateway::new();
    for n in 0..200_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        gateway.regions.adjacencies.learn(Adjacency { mac: [6, 0, 0, a, b, c], port: LAN });
    }
    let attempt = udp_out(40_000, 53);
    for (owner, answers) in
        [(Owner::Nobody, false), (Owner::At(OTHER_MAC), false), (Owner::At(HOST_MAC), true)]
    {
        assert!(gateway.send(LAN, &attempt).is_empty());
        assert_eq!(gateway.settle(owner), 1);
        assert_eq!(gateway.send(LAN, &attempt).len(), usize::from(answers), "{owner:?}");
    }
    assert_eq!(gateway.count(Counter::DropNeighbourFull), 5);
    gateway.assert_conserved();
}

#[test]
fn a_source_of_another_lan_port_begins_no_flow_and_takes_part_in_none() {
    for frame in flows() {
        let (mut gateway, device, answer) = flow_beside_guests(&frame);
        assert!(gateway.send(GUESTS, &from(GUESTS, &frame)).is_empty());
        let [first, later] = super::fragments::fragments();
        one(gateway.send(LAN, &first));
        assert!(gateway.send(GUESTS, &from(GUESTS, &later)).is_empty());
        let new = udp(OTHER_MAC, device_mac(GUESTS), (HOST, 50_000), (SERVER, 53));
        assert!(gateway.send(GUESTS, &new).is_empty());
        assert_eq!(gateway.count(Counter::DropSource), 3);
        assert_eq!(gateway.settle(Owner::At(OTHER_MAC)), 0);
        assert_eq!(receiver(gateway.send(device, &answer)), (LAN, HOST_MAC));
        gateway.assert_conserved();
    }
}

#[test]
fn a_source_of_another_lan_port_moves_no_flow_off_a_dead_uplink() {
    let frame = udp_out(40_000, 53);
    let (mut gateway, device, answer) = flow_beside_guests(&frame);
    gateway.set_state(device - 1, 0);
    assert!(gateway.send(GUESTS, &from(GUESTS, &frame)).is_empty());
    gateway.set_state(device - 1, path_state::USABLE);
    assert_eq!(receiver(gateway.send(device, &answer)), (LAN, HOST_MAC));
}

#[test]
fn a_flow_follows_its_prefix_to_another_port() {
    let frame = udp_out(40_000, 53);
    let (mut gateway, device, answer) = flow_beside_guests(&frame);
    gateway.half.lan_prefix_ports[..2].fill(GUESTS);
    gateway.publish(BUCKETS / 2);
    one(gateway.send(GUESTS, &from(GUESTS, &frame)));
    assert_eq!(receiver(gateway.send(device, &answer)), (GUESTS, OTHER_MAC));
}

#[test]
fn answers_stay_with_their_host_while_the_kernel_finds_it_there() {
    for frame in flows() {
        let (mut gateway, device, answer) = flow_beside_guests(&frame);
        gateway.now += SILENT_MS;
        for owner in [Owner::At(HOST_MAC), Owner::Asked, Owner::Unknown] {
            one(gateway.send(LAN, &from(LAN, &frame)));
            assert_eq!(gateway.settle(owner), 1);
            assert_eq!(receiver(gateway.send(device, &answer)), (LAN, HOST_MAC));
        }
        gateway.assert_conserved();
    }
}

#[test]
fn answers_follow_a_host_that_the_kernel_finds_at_another_hardware_address() {
    for frame in flows() {
        let (mut gateway, device, answer) = flow_beside_guests(&frame);
        one(gateway.send(LAN, &from(LAN, &frame)));
        assert_eq!(gateway.settle(Owner::At(OTHER_MAC)), 1);
        assert_eq!(receiver(gateway.send(device, &answer)), (LAN, OTHER_MAC));
        one(gateway.send(LAN, &from(LAN, &frame)));
        assert_eq!(gateway.settle(Owner::Nobody), 0, "it is the flow's host");
        gateway.assert_conserved();
    }
}

#[test]
fn of_a_host_that_nobody_is_known_to_be_answers_follow_only_when_the_old_one_was_silent() {
    let frame = udp_out(40_000, 53);
    let (mut gateway, device, answer) = flow_beside_guests(&frame);
    for (wait, to) in [(SILENT_MS - 1, HOST_MAC), (1, OTHER_MAC)] {
        gateway.now += wait;
        one(gateway.send(LAN, &from(LAN, &frame)));
        gateway.settle(Owner::Nobody);
        assert_eq!(receiver(gateway.send(device, &answer)), (LAN, to));
    }
}

#[test]
fn a_flood_in_anothers_name_asks_one_question_a_tick() {
    let frame = udp_out(40_000, 53);
    let (mut gateway, _, _) = flow_beside_guests(&frame);
    for _ in 0..1000 {
        one(gateway.send(LAN, &from(LAN, &frame)));
    }
    assert_eq!(gateway.settle(Owner::At(HOST_MAC)), 1);
    assert_eq!(gateway.settle(Owner::At(HOST_MAC)), 0);
}

/// An ICMP error about the packet that `quoted` holds.
fn error(
    link: ([u8; 6], [u8; 6]),
    ends: ([u8; 4], [u8; 4]),
    kind: [u8; 2],
    quoted: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(link.0, link.1)
        .ipv4(ends.0, ends.1, 60)
        .icmpv4_raw(kind[0], kind[1], [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &quoted[14..42]).unwrap();
    frame
}

#[test]
fn redirects_and_source_quenches_pass_in_no_direction() {
    let (mut gateway, device, answer) = flow_beside_guests(&udp_out(40_000, 53));
    let (_, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let (_, delivered) = one(gateway.send(device, &answer));
    let outside = (next_hop_mac(device - 1), device_mac(device));
    for kind in [[4, 0], [5, 0], [5, 1]] {
        let to_host = error(outside, (SERVER, external(device - 1)), kind, &out);
        assert!(gateway.send(device, &to_host).is_empty());
        let to_server = error((HOST_MAC, device_mac(LAN)), (HOST, SERVER), kind, &delivered);
        assert!(gateway.send(LAN, &to_server).is_empty());
    }
    assert_eq!(gateway.count(Counter::DropIcmpRedirect), 6);
    gateway.assert_conserved();
}

#[test]
fn an_error_from_outside_does_not_come_from_inside() {
    let (mut gateway, device, _) = flow_beside_guests(&udp_out(40_000, 53));
    let (_, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let outside = (next_hop_mac(device - 1), device_mac(device));
    let from = |source| error(outside, (source, external(device - 1)), [3, 1], &out);
    let inside = [HOST, [10, 88, 0, 9], OWN, GATEWAY, external(0), external(1)];
    let nobodys = [[0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]];
    for source in inside.into_iter().chain(nobodys) {
        assert!(gateway.send(device, &from(source)).is_empty(), "{source:?}");
    }
    assert_eq!(gateway.count(Counter::DropSource), 11);
    one(gateway.send(device, &from([100, 64, 0, 1])));
    one(gateway.send(device, &from([192, 168, 7, 1])));
    gateway.assert_conserved();
}

#[test]
fn an_error_from_the_lan_comes_from_where_its_flow_does() {
    let (mut gateway, device, answer) = flow_beside_guests(&udp_out(40_000, 53));
    let (_, delivered) = one(gateway.send(device, &answer));
    let from =
        |mac, port, source| error((mac, device_mac(port)), (source, SERVER), [3, 3], &delivered);
    for (mac, port) in [(OTHER_MAC, LAN), (HOST_MAC, GUESTS), (OTHER_MAC, GUESTS)] {
        assert!(gateway.send(port, &from(mac, port, HOST)).is_empty());
    }
    assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 3);
    // The host's router sends on what one behind it reports.
    for source in [HOST, [172, 16, 5, 1]] {
        let (_, told) = one(gateway.send(LAN, &from(HOST_MAC, LAN, source)));
        assert_eq!(see_error(&told), (external(device - 1), SERVER));
    }
    gateway.assert_conserved();
}

fn see_error(frame: &[u8]) -> ([u8; 4], [u8; 4]) {
    let parsed = weir_wire::parse::parse(frame).unwrap();
    (parsed.src, parsed.dst)
}
