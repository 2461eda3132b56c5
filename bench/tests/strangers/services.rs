//! Strangers with a question to the gateway itself, on ports that translation uses too.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use weir_kit::capture::Capture;
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{listeners, udp_flows, wait};
use weir_layout::counters::Counter;

use crate::{ECHO, SERVER, network_behind, site};

const UDP: u8 = 17;

/// Answers datagrams to an address of the gateway's, which leave by its uplink.
fn answer_on(topology: &Topology, address: SocketAddrV4) {
    let serve = move || {
        let socket = UdpSocket::bind(address).unwrap();
        let mut datagram = [0; 8192];
        while let Ok((len, peer)) = socket.recv_from(&mut datagram) {
            let _ = socket.send_to(&datagram[..len], peer);
        }
    };
    drop(topology.gateway.thread("answers", serve).unwrap());
    listeners::wait_for_udp(&topology.gateway, address.port()).unwrap();
}

/// A stranger asks with so many bytes; what it was answered.
fn ask(topology: &Topology, to: SocketAddrV4, len: usize) -> std::io::Result<(usize, SocketAddr)> {
    let asked = topology.internet.run(|| {
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(&vec![7; len], to).unwrap();
        socket.recv_from(&mut [0; 8192])
    });
    asked.unwrap()
}

#[test]
fn a_service_of_the_gateway_is_reached_on_a_port_that_translation_uses_too() {
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let weir = Weir::start(&topology, &configuration).unwrap();
    // Without DF, so that a provider's router cuts what is too long for the link.
    topology.internet.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    for provider in &topology.providers {
        let to = SocketAddrV4::new(provider.addresses[0], 51_820 + provider.index as u16);
        answer_on(&topology, to);
        // The longer one in fragments.
        for len in [100, 4000] {
            let answered = ask(&topology, to, len);
            assert!(answered.is_ok(), "{len} bytes to {to}: {answered:?}");
            assert_eq!(answered.unwrap(), (len, SocketAddr::V4(to)));
        }
    }
    assert_eq!(weir.counters().unwrap().sum(Counter::DropNoFlow), 0);
    weir.check_conservation().unwrap();
}

#[test]
fn a_connection_to_a_service_of_the_gateway_is_the_kernels() {
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let weir = Weir::start(&topology, &configuration).unwrap();
    for provider in &topology.providers {
        let to = SocketAddrV4::new(provider.addresses[0], 32_400);
        let listener = topology.gateway.run(|| TcpListener::bind(to)).unwrap().unwrap();
        let serve = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 5];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        });
        let connect = || TcpStream::connect_timeout(&to.into(), Duration::from_secs(10));
        let mut stream = topology.internet.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        serve.join().unwrap();
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_port_that_a_service_binds_is_given_to_no_flow_from_then_on() {
    const PORT: u16 = 51_820;
    const FLOWS: usize = 10_000;
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let weir = Weir::start(&topology, &configuration).unwrap();
    let services: Vec<_> =
        topology.providers.iter().map(|p| SocketAddrV4::new(p.addresses[0], PORT)).collect();
    services.iter().for_each(|to| answer_on(&topology, *to));
    let control = weir.control().unwrap();
    wait::until("the port to be kept", wait::BOUND, || Ok(control.is_bound(PORT).then_some(())))
        .unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    // Hosts' own ports are kept where they are free, so one of these asks for it.
    let first = PORT - FLOWS as u16 / 2;
    let report = udp_flows::run_from(&topology.hosts, ECHO, FLOWS, first).unwrap();
    assert_eq!((report.sent, report.answered), (FLOWS, FLOWS));
    let mut flows = 0;
    for capture in captures {
        let tally = capture.stop().unwrap();
        assert_eq!(tally.faulty, 0);
        let seen = tally.flows_to(SERVER, UDP);
        assert!(seen.iter().all(|flow| flow.source_port != PORT));
        flows += seen.len();
    }
    assert_eq!(flows, FLOWS);
    for to in services {
        assert_eq!(ask(&topology, to, 100).unwrap(), (100, SocketAddr::V4(to)));
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_container_that_the_kernel_translates_is_answered_on_a_port_of_translation() {
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let container = network_behind(&topology, "docker0", Ipv4Addr::new(172, 17, 0, 1), ADDRESS);
    topology
        .gateway
        .nft(
            "table ip containers {\n\
             chain postrouting { type nat hook postrouting priority srcnat\n\
             ip saddr 172.17.0.0/16 masquerade\n}\n}\n",
        )
        .unwrap();
    let weir = Weir::start(&topology, &configuration).unwrap();
    let answered = container.run(|| {
        let socket = UdpSocket::bind((ADDRESS, 33_000)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (0..3u8)
            .filter(|number| {
                socket.send_to(&[*number], ECHO).unwrap();
                socket.recv(&mut [0; 8]).is_ok()
            })
            .count()
    });
    assert_eq!(answered.unwrap(), 3);
    let stream =
        container.run(|| TcpStream::connect_timeout(&ECHO.into(), Duration::from_secs(10)));
    stream.unwrap().unwrap();
    weir.check_conservation().unwrap();
}

#[test]
fn a_service_on_an_address_of_a_lan_is_reached_from_an_uplink_only_if_it_is_published() {
    const PORT: u16 = 5300;
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let (provider, host) = (&topology.providers[0], &topology.hosts[0]);
    let (address, to) = (provider.addresses[0], SocketAddrV4::new(plan::lan_gateway(0), PORT));
    let service = topology.gateway.run(|| UdpSocket::bind(to).unwrap()).unwrap();
    service.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let route = format!("route add {}/32 via {address}\n", to.ip());
    provider.netns.ip(&route).unwrap();
    let ask = |netns: &Netns| {
        netns.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", to).unwrap()).unwrap()
    };
    let asked_by = || service.recv_from(&mut [0; 8]).unwrap().1.ip();
    ask(&provider.netns);
    assert_eq!(asked_by(), provider.next_hop, "without weir");
    topology
        .gateway
        .nft(&format!(
            "table ip operator {{\nchain prerouting {{\n\
             type nat hook prerouting priority dstnat\n\
             ip daddr {address} udp dport {PORT} dnat to {to}\n}}\n}}\n"
        ))
        .unwrap();
    let weir = Weir::start(&topology, &configuration).unwrap();
    for provider in &topology.providers {
        ask(&provider.netns);
    }
    ask(&host.netns);
    assert_eq!(asked_by(), host.address);
    let stranger = topology.internet.run(|| {
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.send_to(b"?", (address, PORT)).unwrap();
        socket
    });
    let (len, peer) = service.recv_from(&mut [0; 8]).unwrap();
    assert_eq!(peer.ip(), SERVER, "by the address that is published");
    service.send_to(&vec![1; len], peer).unwrap();
    let answer = stranger.unwrap().recv_from(&mut [0; 8]).unwrap();
    assert_eq!(answer, (len, SocketAddr::from((address, PORT))));
    weir.check_conservation().unwrap();
}
