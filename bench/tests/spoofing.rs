//! Frames that are not from whom they say, among real flows.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use weir_bench::plan::{Lan, Plan, Port};
use weir_bench::server::{ECHO_PORT, Server};
use weir_bench::station::Station;
use weir_bench::topology::{Host, Topology};
use weir_bench::wait;
use weir_bench::weir::Weir;
use weir_wire::layout::counters::Counter;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const ROUNDS: u64 = 40;
/// A datagram in a namespace is answered within a millisecond.
const PATIENCE: Duration = Duration::from_secs(1);

fn site(lan: Lan) -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan { lan, ..Plan::new(2, 2) }).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1, 1])).unwrap();
    (topology, server, weir)
}

fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
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
    assert_eq!(dropped() - before, ROUNDS);
    let created = |weir: &Weir| weir.counters().unwrap().sum(Counter::FlowsCreated);
    let before = created(&weir);
    let host = &topology.hosts[0];
    let frame = in_the_name_of(&talker(host, host.address, 40_001), 1);
    Station::on(&topology.hosts[1].netns, "eth0").unwrap().send(&frame).unwrap();
    wait::until("the frame to be dropped", wait::BOUND, || Ok((dropped() > ROUNDS).then_some(())))
        .unwrap();
    assert_eq!(created(&weir), before);
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
