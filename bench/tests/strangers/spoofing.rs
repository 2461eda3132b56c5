//! Frames that are not from whom they say, among real flows.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, PacketBuilder,
    PacketBuilderStep,
};
use weir_kit::plan::{self, Lan, Plan, Port};
use weir_kit::server::{self, ECHO_PORT, Server};
use weir_kit::station::Station;
use weir_kit::topology::{Host, TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, wait};
use weir_layout::counters::Counter;
use weir_wire::tcp;

use crate::{ECHO, SERVER, mac, written};

const ROUNDS: u64 = 40;
/// A datagram in a namespace is answered within a millisecond, where nothing else is to be done.
const PATIENCE: Duration = Duration::from_secs(3);

fn site(lan: Lan) -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan { lan, ..Plan::new(2, 2) }).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1, 1])).unwrap();
    (topology, server, weir)
}

/// A socket of a host that talks to the echo server.
fn talker(host: &Host, address: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = host.netns.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
    socket.connect(ECHO).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a number and waits for it to come back.
fn echoes(socket: &UdpSocket, number: u64) -> bool {
    let mut answer = [0; 8];
    socket.send(&number.to_be_bytes()).unwrap();
    std::iter::from_fn(|| socket.recv(&mut answer).ok().map(|_| u64::from_be_bytes(answer)))
        .any(|answer| answer == number)
}

/// A datagram of the socket's flow, as host 1 sends it by LAN port `port`.
fn in_the_name_of(socket: &UdpSocket, port: usize) -> Vec<u8> {
    let std::net::SocketAddr::V4(from) = socket.local_addr().unwrap() else { panic!("IPv4") };
    let builder = PacketBuilder::ethernet2(mac(Port::Host(1)), mac(Port::GatewayLan(port)))
        .ipv4(from.ip().octets(), SERVER.octets(), 64)
        .udp(from.port(), ECHO_PORT);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"not mine").unwrap();
    frame
}

/// Host 0 talks while host 1, by `port`, sends the same; how many of its words came back.
fn answered_while_another_sends(topology: &Topology, port: usize) -> u64 {
    let host = &topology.hosts[0];
    let socket = talker(host, host.address, 40_000);
    assert!(echoes(&socket, 0));
    let mut other = Station::on(&topology.hosts[1].netns, "eth0").unwrap();
    let frame = in_the_name_of(&socket, port);
    let round = |number| {
        other.send(&frame).unwrap();
        u64::from(echoes(&socket, number))
    };
    (1..=ROUNDS).map(round).sum()
}

#[test]
fn a_guest_on_another_port_takes_no_answers_and_begins_no_flow() {
    let (topology, _server, weir) = site(Lan::Direct);
    let dropped = || weir.counters().unwrap().sum(Counter::DropSource);
    let before = dropped();
    assert_eq!(answered_while_another_sends(&topology, 1), ROUNDS);
    // The other tier may be behind with the last ones.
    wait::until("all to be dropped", wait::BOUND, || {
        Ok((dropped() >= before + ROUNDS).then_some(()))
    })
    .unwrap();
    assert_eq!(dropped() - before, ROUNDS);
    let made = || weir.counters().unwrap().sum(Counter::FlowsCreated);
    let flows = made();
    let host = &topology.hosts[0];
    let frame = in_the_name_of(&talker(host, host.address, 40_001), 1);
    Station::on(&topology.hosts[1].netns, "eth0").unwrap().send(&frame).unwrap();
    wait::until("the frame to be dropped", wait::BOUND, || {
        Ok((dropped() > before + ROUNDS).then_some(()))
    })
    .unwrap();
    assert_eq!(made(), flows);
    weir.check_conservation().unwrap();
}

#[test]
fn another_station_of_the_lan_takes_no_answers() {
    let (topology, _server, weir) = site(Lan::Switched);
    assert_eq!(answered_while_another_sends(&topology, 0), ROUNDS);
    weir.check_conservation().unwrap();
}

#[test]
fn an_address_that_moves_to_another_host_and_says_so_takes_its_flows_along() {
    let (topology, _server, weir) = site(Lan::Switched);
    let [old, new] = &topology.hosts[..] else { panic!("two hosts") };
    let address = old.address;
    let socket = talker(old, address, 40_000);
    assert!((0..3).all(|number| echoes(&socket, number)));
    drop(socket);
    old.netns.ip(&format!("addr del {address}/16 dev eth0\n")).unwrap();
    new.netns.ip(&format!("addr add {address}/16 dev eth0\n")).unwrap();
    Station::on(&new.netns, "eth0").unwrap().send(&announcement(address)).unwrap();
    let socket = talker(new, address, 40_000);
    let mut number = 3;
    wait::until("answers at the other host", wait::BOUND, || {
        number += 1;
        Ok(echoes(&socket, number).then_some(()))
    })
    .unwrap();
    assert!((100..100 + ROUNDS).all(|number| echoes(&socket, number)));
    weir.check_conservation().unwrap();
}

/// A site with one uplink, so that it is known what flows look like outside: they keep their ports.
fn one_uplink(change: impl FnOnce(&Topology)) -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    change(&topology);
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1])).unwrap();
    (topology, server, weir)
}

/// Somebody on the provider's link, who sends as its router.
fn on_the_link(topology: &Topology) -> Station {
    Station::on(&topology.providers[0].netns, TOWARDS_GATEWAY).unwrap()
}

fn from_outside() -> PacketBuilderStep<Ethernet2Header> {
    PacketBuilder::ethernet2(mac(Port::RouterCustomer(0)), mac(Port::GatewayWan(0)))
}

#[test]
fn a_redirect_and_an_error_in_the_name_of_the_lan_stop_at_the_gateway() {
    let (topology, _server, weir) = one_uplink(|_| ());
    let socket = talker(&topology.hosts[0], topology.hosts[0].address, 40_000);
    assert!((0..3).all(|number| echoes(&socket, number)));
    let ours = plan::uplink_address(0, 0).octets();
    let quoted = PacketBuilder::ipv4(ours, SERVER.octets(), 60).udp(40_000, ECHO_PORT);
    let quoted = written(|to| quoted.write(to, &[0; 8]));
    let error = |source: Ipv4Addr, kind, code| {
        let step = from_outside().ipv4(source.octets(), ours, 60).icmpv4_raw(kind, code, [0; 4]);
        written(|to| step.write(to, &quoted))
    };
    let lan = plan::lan_gateway(0);
    let mut outside = on_the_link(&topology);
    let count = |counter| weir.counters().unwrap().sum(counter);
    let router = topology.providers[0].next_hop;
    let counters = [Counter::XdpDropRedirect, Counter::XdpDropMartian];
    let before = counters.map(count);
    for (source, kind, code) in [
        (router, 5, 1),
        (router, 4, 0),
        (lan, 5, 1),
        (lan, 4, 0),
        (lan, 3, 1),
        (topology.hosts[0].address, 3, 1),
    ] {
        outside.send(&error(source, kind, code)).unwrap();
    }
    wait::until("the errors to be dropped", wait::BOUND, || {
        Ok((counters.map(count) == [before[0] + 4, before[1] + 2]).then_some(()))
    })
    .unwrap();
    assert!((3..20).all(|number| echoes(&socket, number)));
    weir.check_conservation().unwrap();
}

#[test]
fn a_frame_to_everybody_brings_a_service_nothing_in_the_name_of_a_host() {
    const PORT: u16 = 9999;
    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
    let (topology, _server, weir) = one_uplink(|_| ());
    let (ours, lan) = (plan::uplink_address(0, 0), plan::lan_gateway(0));
    let service = topology.gateway.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).unwrap();
        socket.join_multicast_v4(&GROUP, &ours).unwrap();
        socket
    });
    let service = service.unwrap();
    service.set_read_timeout(Some(wait::BOUND)).unwrap();
    let (host, router) = (topology.hosts[0].address, topology.providers[0].next_hop);
    let to_everybody = |source: Ipv4Addr, destination: Ipv4Addr| {
        let step = PacketBuilder::ethernet2(mac(Port::RouterCustomer(0)), [0xff; 6])
            .ipv4(source.octets(), destination.octets(), 64)
            .udp(PORT, PORT);
        written(|to| step.write(to, &source.octets()))
    };
    let mut outside = on_the_link(&topology);
    let martians = || weir.counters().unwrap().sum(Counter::XdpDropMartian);
    let before = martians();
    for (source, destination) in
        [(host, lan), (router, lan), (host, ours), (router, ours), (host, GROUP), (lan, GROUP)]
    {
        outside.send(&to_everybody(source, destination)).unwrap();
    }
    outside.send(&to_everybody(router, GROUP)).unwrap();
    let mut heard = [0; 4];
    let (_, from) = service.recv_from(&mut heard).unwrap();
    assert_eq!((from.ip(), heard), (router.into(), router.octets()));
    assert_eq!(martians() - before, 6);
    weir.check_conservation().unwrap();
}

/// A connection of the host to the echo server, and its address and port.
fn connection(host: &Host) -> (TcpStream, SocketAddrV4) {
    let stream = host.netns.run(|| TcpStream::connect(ECHO)).unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(wait::BOUND)).unwrap();
    let source = SocketAddrV4::new(host.address, stream.local_addr().unwrap().port());
    (stream, source)
}

fn rounds(stream: &mut TcpStream, count: usize) {
    for _ in 0..count {
        let mut answer = [0; 100];
        stream.write_all(&[7; 100]).unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
}

#[test]
fn guessed_resets_and_fins_leave_a_connection_where_it_was() {
    let (topology, _server, weir) = one_uplink(|_| ());
    let (mut stream, source) = connection(&topology.hosts[0]);
    rounds(&mut stream, 10);
    let [_, back] = weir.flow(source).unwrap();
    let mut outside = on_the_link(&topology);
    let ours = plan::uplink_address(0, 0).octets();
    // All over the numbers, but for those of the connection.
    for ahead in (0..8u32).map(|n| (1 << 28) + (n << 29)) {
        let seq = back.next_seq.wrapping_add(ahead);
        let port = source.port();
        let segment =
            || from_outside().ipv4(SERVER.octets(), ours, 60).tcp(ECHO_PORT, port, seq, 1000);
        for step in [segment().rst(), segment().fin().ack(seq)] {
            outside.send(&written(|to| step.write(to, &[]))).unwrap();
        }
    }
    goes_on_as_before(&mut stream, &weir);
}

/// A connection that is as good as ever: where there is a kernel tier, that forwards it.
fn goes_on_as_before(stream: &mut TcpStream, weir: &Weir) {
    rounds(stream, 10);
    // What was sent before has been through.
    weir.check_conservation().unwrap();
    let before = weir.counters().unwrap().sum(Counter::UserRx);
    rounds(stream, 100);
    let by_user = weir.counters().unwrap().sum(Counter::UserRx) - before;
    match weir_kit::weir::tier().as_str() {
        "user" => assert!(by_user >= 200),
        _ => assert!(by_user < 20, "{by_user} packets in the user tier"),
    }
    weir.check_conservation().unwrap();
}

#[test]
fn segments_all_over_the_numbers_and_a_reset_behind_them_leave_a_connection_where_it_was() {
    let (topology, _server, weir) = one_uplink(|_| ());
    let (mut stream, source) = connection(&topology.hosts[0]);
    rounds(&mut stream, 10);
    let mut outside = on_the_link(&topology);
    let ours = plan::uplink_address(0, 0).octets();
    let segment = |seq| {
        from_outside().ipv4(SERVER.octets(), ours, 60).tcp(ECHO_PORT, source.port(), seq, 1000)
    };
    let [forward, back] = weir.flow(source).unwrap();
    // Each within reach of the one before, and together of any number; what they acknowledge is
    // a guess.
    const STEP: u32 = tcp::REACH - 1000;
    let ack = forward.next_seq.wrapping_add(1 << 30);
    let mut seq = back.next_seq.wrapping_add(1 << 31);
    for _ in 0..u32::MAX / STEP + 2 {
        seq = seq.wrapping_add(STEP);
        for step in [segment(seq).ack(ack), segment(seq)] {
            outside.send(&written(|to| step.write(to, b"x"))).unwrap();
        }
    }
    let reset = segment(seq.wrapping_add(1)).rst();
    outside.send(&written(|to| reset.write(to, &[]))).unwrap();
    goes_on_as_before(&mut stream, &weir);
}

#[test]
fn a_segment_far_ahead_makes_no_others_count_as_sent_again() {
    let (topology, _server, weir) = one_uplink(|_| ());
    let host = &topology.hosts[0];
    let (mut stream, source) = connection(host);
    rounds(&mut stream, 10);
    let [forward, _] = weir.flow(source).unwrap();
    let mut station = Station::on(&host.netns, "eth0").unwrap();
    for ahead in [1 << 28, 1 << 30, 1 << 31, 3 << 30] {
        let (port, seq) = (source.port(), forward.next_seq.wrapping_add(ahead));
        let step = PacketBuilder::ethernet2(mac(Port::Host(0)), mac(Port::GatewayLan(0)))
            .ipv4(host.address.octets(), SERVER.octets(), 64)
            .tcp(port, ECHO_PORT, seq, 1000)
            .ack(0);
        station.send(&written(|to| step.write(to, b"x"))).unwrap();
    }
    rounds(&mut stream, 200);
    let uplink = weir.uplinks().unwrap()[0];
    assert!(uplink.segments >= 400, "{uplink:?}");
    assert!(uplink.retransmitted < 20, "{uplink:?}");
    weir.check_conservation().unwrap();
}

#[test]
fn a_server_is_told_the_mtu_of_the_lan() {
    let (topology, _server, weir) = one_uplink(|topology| {
        topology.gateway.ip("link set lan0 mtu 1400\n").unwrap();
    });
    const BYTES: usize = 1_000_000;
    let download = clients::curl(&topology.hosts[0].netns, &server::content_url(SERVER, BYTES));
    assert_eq!(download.unwrap().bytes, BYTES);
    let ours = plan::uplink_address(0, 0).to_string();
    let output =
        topology.internet.output(Command::new("ip").args(["route", "get", &ours])).unwrap();
    let route = String::from_utf8(output.stdout).unwrap();
    assert!(route.contains("mtu 1400"), "{route}");
    assert!(weir.counters().unwrap().sum(Counter::DropTooBig) > 0);
    weir.check_conservation().unwrap();
}

/// Host 1 says that it has an address (RFC 5227 §3).
fn announcement(address: Ipv4Addr) -> Vec<u8> {
    let (mac, address) = (mac(Port::Host(1)), address.octets());
    let arp = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &mac,
        &address,
        &[0; 6],
        &address,
    )
    .unwrap();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac, [0xff; 6]).arp(arp).write(&mut frame).unwrap();
    frame
}
