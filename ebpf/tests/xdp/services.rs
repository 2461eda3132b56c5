//! Published services: the user tier's, and nothing beside them.

use etherparse::PacketBuilder;
use weir_layout::Family;
use weir_layout::control::{
    Address, ControlHalf, OnDataplaneLoss, PortForward, PortRole, Translate, host_class,
};
use weir_layout::counters::Counter;
use weir_shm::allowances::Allowances;
use weir_shm::hosts::Hosts4;
use weir_wire::key::FlowKey4;
use zerocopy::FromZeros;

use crate::fixture::*;

/// The user tier's, and none is attached.
pub const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
pub const LOCAL: (u32, Counter) = (PASS, Counter::XdpPassLocal);
pub const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);
const WEB: u16 = 443;
const TCP: u8 = 6;
pub const UDP: u8 = 17;

fn tcp(dst: [u8; 4], dport: u16) -> Vec<u8> {
    tcp_from(SITE, dst, dport)
}

pub fn tcp_from(src: [u8; 4], dst: [u8; 4], dport: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(src, dst, 64);
    let mut frame = Vec::new();
    builder.tcp(5000, dport, 1, 4096).syn().write(&mut frame, b"").unwrap();
    frame
}

/// A later fragment of a frame, or with `offset` 0 its first.
pub fn fragment(mut frame: Vec<u8>, ident: u8, offset: u8) -> Vec<u8> {
    frame[19] = ident;
    // More of them, or the last.
    (frame[20], frame[21]) = if offset == 0 { (0x20, 0) } else { (0, offset) };
    let header = etherparse::Ipv4HeaderSlice::from_slice(&frame[14..34]).unwrap().to_header();
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    frame
}

/// Enters a service of a host.
pub fn enter(half: &mut ControlHalf, inside: [u8; 4], protocol: u8, ports: [u16; 2], uplinks: u64) {
    half.port_blocks.enter(ports);
    half.port_forwards[half.port_forward_count as usize] = PortForward {
        to_gateway: u8::from(inside == [0; 4]),
        uplinks,
        inside: Address::v4(inside),
        ports,
        inside_port: 8443,
        protocol,
        ..PortForward::new_zeroed()
    };
    half.port_forward_count += 1;
    let count = half.port_forward_count as usize;
    half.open_ports.fill(&half.port_forwards[..count]);
}

fn published(test: &str, change: impl FnOnce(&mut ControlHalf)) -> Fixture {
    Fixture::with(test, PortRole::Uplink, OnDataplaneLoss::Drop, change)
}

#[test]
fn what_asks_for_a_published_port_is_the_user_tiers_and_all_else_stays_what_it_was() {
    let mut f = published("publish", |half| {
        enter(half, HOST, TCP, [WEB; 2], 1);
        enter(half, HOST, UDP, [8000, 8010], 1);
        enter(half, HOST, TCP, [444; 2], 0b10);
        enter(half, [0; 4], TCP, [22; 2], 1);
    });
    assert_eq!(f.run(&tcp(WAN_ADDRESS, WEB)), TRANSIT);
    for port in [8000, 8010] {
        assert_eq!(f.run(&udp(SITE, 5000, WAN_ADDRESS, port)), TRANSIT);
    }
    for (what, frame, becomes) in [
        ("another protocol", udp(SITE, 5000, WAN_ADDRESS, WEB), LOCAL),
        ("a port beyond the range", udp(SITE, 5000, WAN_ADDRESS, 8011), LOCAL),
        ("a port of another uplink", tcp(WAN_ADDRESS, 444), LOCAL),
        ("the gateway's own service", tcp(WAN_ADDRESS, 22), LOCAL),
        ("an address in the LAN", tcp(LAN_ADDRESS, WEB), LOCAL),
        ("an address of another pool", tcp(POOL, WEB), UNASKED),
        ("the host's own address", tcp(HOST, WEB), UNASKED),
    ] {
        assert_eq!(f.run(&frame), becomes, "{what}");
    }
}

#[test]
fn as_many_services_as_there_may_be_are_looked_through() {
    let last = weir_layout::control::MAX_PORT_FORWARDS as u16 - 1;
    let mut f = published("publish-all", |half| {
        (0..=last).for_each(|number| enter(half, HOST, TCP, [1000 + number; 2], u64::MAX));
    });
    for number in [0, 1, last / 2, last] {
        assert_eq!(f.run(&tcp(WAN_ADDRESS, 1000 + number)), TRANSIT, "{number}");
    }
    assert_eq!(f.run(&tcp(WAN_ADDRESS, 1001 + last)), LOCAL);
}

#[test]
fn a_segment_that_begins_no_connection_is_the_kernels_as_ever() {
    let mut f = published("publish-segments", |half| enter(half, HOST, TCP, [WEB; 2], 1));
    // ACK; SYN and ACK, which the gateway's own connections are answered by; RST; FIN.
    for flags in [0x10, 0x12, 0x04, 0x11] {
        let mut frame = tcp(WAN_ADDRESS, WEB);
        frame[47] = flags;
        assert_eq!(f.run(&frame), LOCAL, "{flags:#x}");
    }
}

#[test]
fn whom_the_kernel_has_a_way_of_its_own_to_asks_the_kernel() {
    let mut f = published("publish-vpn", |half| enter(half, HOST, TCP, [WEB; 2], 1));
    assert_eq!(f.run(&tcp_from(VPN, WAN_ADDRESS, WEB)), LOCAL);
    assert_eq!(f.run(&tcp_from(SITE, WAN_ADDRESS, WEB)), TRANSIT);
}

#[test]
fn by_an_own_prefix_the_hosts_own_address_is_asked_for() {
    let mut f = published("publish-own", |half| {
        half.uplinks[0].path_mut(Family::V4).translate = Translate::None as u8;
        enter(half, OWN, TCP, [WEB; 2], 1);
    });
    assert_eq!(f.run(&tcp(OWN, WEB)), TRANSIT);
    assert_eq!(f.run(&tcp(OWN, WEB + 1)), UNASKED);
    assert_eq!(f.run(&tcp(WAN_ADDRESS, WEB)), LOCAL);
    assert_eq!(f.run(&tcp(VPN, WEB)), (PASS, Counter::XdpPassKernelRoute));
}

#[test]
fn fragments_of_a_question_go_where_its_first_goes() {
    let mut f = published("publish-fragments", |half| enter(half, HOST, UDP, [53; 2], 1));
    let fragment =
        |port, ident, offset| fragment(udp(SITE, 5000, WAN_ADDRESS, port), ident, offset);
    assert_eq!(f.run(&fragment(53, 1, 0)), TRANSIT);
    assert_eq!(f.run(&fragment(53, 1, 2)), TRANSIT);
    assert_eq!(f.run(&fragment(54, 2, 0)), LOCAL);
    assert_eq!(f.run(&fragment(54, 2, 2)), LOCAL);
}

#[test]
fn an_answer_to_a_network_of_a_providers_link_is_the_flows() {
    let mut f = Fixture::lan("publish-near");
    let mut hosts = Hosts4::open(&f.pins).unwrap();
    hosts.sync(&[((SITE, 32), host_class::NEAR), ((HOST, 32), host_class::LAN)].into()).unwrap();
    let answer = udp(HOST, 53, SITE, 5000);
    assert_eq!(f.run(&answer), (PASS, Counter::XdpPassKernelRoute));
    let (sport, dport) = (53u16.to_be_bytes(), 5000u16.to_be_bytes());
    f.add_flow(FlowKey4::new(HOST, SITE, sport, dport, UDP));
    assert_eq!(f.run(&answer), TRANSIT);
    // And all the rest of it, and what is told of the question.
    let told = unreachable(SITE, &udp(SITE, 5000, HOST, 53)[14..]);
    assert_eq!(f.run(&told), TRANSIT);
    assert_eq!(f.run(&fragment(answer.clone(), 1, 0)), TRANSIT);
    assert_eq!(f.run(&fragment(answer, 1, 2)), TRANSIT);
    let other = udp(HOST, 54, SITE, 5000);
    assert_eq!(f.run(&fragment(other.clone(), 2, 0)), (PASS, Counter::XdpPassKernelRoute));
    assert_eq!(f.run(&fragment(other, 2, 2)), (PASS, Counter::XdpPassKernelRoute));
}

#[test]
fn what_asks_by_an_uplink_has_one_allowance_whatever_its_source() {
    let mut f = published("publish-crowd", |half| enter(half, HOST, UDP, [53; 2], 1));
    let _socket = f.can_receive();
    Allowances::open(&f.pins).unwrap().set(0, 0, 1);
    let counted = |f: &Fixture, counter| f.counters.sum(counter);
    for source in 0..1000u16 {
        let [high, low] = source.to_be_bytes();
        f.run(&udp([193, 5, high, low], 5000, WAN_ADDRESS, 53));
    }
    let (up, crowded) = (Counter::XdpToUser, Counter::XdpDropCrowded);
    assert_eq!(counted(&f, up) + counted(&f, crowded), 1000);
    // A tick is some milliseconds, in which hundreds of runs fit.
    assert!(counted(&f, crowded) > 500, "{}", counted(&f, crowded));
    // What is of a flow is outside it.
    let port = |port: u16| port.to_be_bytes();
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, port(5000), port(53), UDP));
    let before = counted(&f, up);
    (0..100).for_each(|_| _ = f.run(&udp(SITE, 5000, WAN_ADDRESS, 53)));
    assert_eq!(counted(&f, up), before + 100);
}
