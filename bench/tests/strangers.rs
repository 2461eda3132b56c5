//! What others may do to a gateway and the hosts behind it: a provider's neighbour, another
//! provider, a stranger from the Internet, each by real packets, at every moment of the gateway's
//! life, with captures on the legs where nothing may show.
//!
//! The provider's router plays the stranger on the link: it routes to the gateway what no provider
//! should, by the gateway's hardware address.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use weir_bench::capture::{Capture, Tally};
use weir_bench::plan::{self, Plan, Port};
use weir_bench::server::{self, ECHO_PORT, Server};
use weir_bench::topology::{TOWARDS_GATEWAY, Topology};
use weir_bench::weir::Weir;
use weir_bench::{clients, udp_flows};
use weir_wire::layout::counters::Counter;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);

/// The provider whose router is the stranger, and the other one.
const NEAR: usize = 0;
const FAR: usize = 1;

fn site() -> (Topology, Server, String) {
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &[1, 1]);
    let (host, far) = (topology.hosts[0].address, topology.providers[FAR].next_hop);
    let gateway = topology.providers[NEAR].addresses[0];
    // Not by way of the Internet, as everybody else.
    topology.providers[NEAR]
        .netns
        .ip(&format!("route add {host} via {gateway}\nroute add {far} via {gateway}\n"))
        .unwrap();
    (topology, server, configuration)
}

/// A stranger tries to reach a host and another provider, by every protocol; nobody may answer.
fn try_to_get_in(topology: &Topology) {
    let stranger = &topology.providers[NEAR].netns;
    for target in [topology.hosts[0].address, topology.providers[FAR].next_hop] {
        assert_eq!(clients::ping(stranger, target, 3).unwrap().received, 0, "{target}");
        let to = SocketAddr::from((target, 22));
        let tcp = |_: ()| std::net::TcpStream::connect_timeout(&to, Duration::from_millis(300));
        assert!(stranger.run(|| tcp(())).unwrap().is_err(), "{target}");
        stranger.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", to)).unwrap().unwrap();
    }
}

/// What happens meanwhile shows nothing of the stranger in the LAN or at the other provider, and
/// nothing of the LAN at any.
fn while_nothing_goes_astray(topology: &Topology, what: impl FnOnce()) {
    let lan = Capture::start(&topology.hosts[0].netns, "eth0").unwrap();
    let links = topology.providers.iter();
    let links = links.map(|p| Capture::start(&p.netns, TOWARDS_GATEWAY).unwrap());
    let links: Vec<_> = links.collect();
    what();
    let (host, stranger) = (topology.hosts[0].address, topology.providers[NEAR].next_hop);
    let lan = lan.stop().unwrap();
    let links: Vec<Tally> = links.into_iter().map(|link| link.stop().unwrap()).collect();
    let of = |tally: &Tally, address| tally.flows.keys().any(|flow| flow.source == address);
    assert!(!of(&lan, stranger), "{:?}", lan.flows);
    assert!(!of(&links[FAR], stranger), "{:?}", links[FAR].flows);
    assert!(links.iter().all(|link| !of(link, host)), "{links:?}");
    assert!(links.iter().chain([&lan]).all(|tally| tally.lost == 0));
}

#[test]
fn nothing_comes_in_or_leaks_out_at_any_moment_of_the_gateways_life() {
    let (topology, _server, configuration) = site();
    let host = &topology.hosts[0].netns;
    let clients_work = || udp_flows::run(&topology.hosts, ECHO, 50).unwrap().answered == 50;
    let mut weir = Weir::prepare(&topology, &configuration).unwrap();
    weir.start_control().unwrap();
    while_nothing_goes_astray(&topology, || {
        try_to_get_in(&topology);
        assert_eq!(clients::ping(host, SERVER, 3).unwrap().received, 0, "without a dataplane");
    });
    weir.start_dataplane().unwrap();
    weir.wait_until_usable(2).unwrap();
    while_nothing_goes_astray(&topology, || {
        assert!(clients_work());
        try_to_get_in(&topology);
        assert!(clients_work());
    });
    assert!(weir.counters().unwrap().sum(Counter::XdpDropNoFlow) > 0);
    assert!(weir.counters().unwrap().sum(Counter::XdpDropForeign) > 0);
    weir.check_conservation().unwrap();
    while_nothing_goes_astray(&topology, || {
        weir.kill_control();
        try_to_get_in(&topology);
        assert!(clients_work());
        weir.start_control().unwrap();
        weir.kill_dataplane();
        try_to_get_in(&topology);
        clients::ping(host, SERVER, 3).unwrap();
        weir.start_dataplane().unwrap();
        try_to_get_in(&topology);
        assert!(clients_work());
    });
    while_nothing_goes_astray(&topology, || {
        weir.stop().unwrap();
        try_to_get_in(&topology);
        clients::ping(host, SERVER, 3).unwrap();
        // As by an operator, or a new device in an old one's place.
        for port in ["lan0", "wan0", "wan1"] {
            topology.gateway.ip(&format!("link set {port} xdp off\n")).ok();
        }
        try_to_get_in(&topology);
        clients::ping(host, SERVER, 3).unwrap();
    });
}

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
    weir_bench::listeners::wait_for_udp(&topology.gateway, address.port()).unwrap();
}

#[test]
fn a_service_of_the_gateway_is_reached_on_a_port_that_translation_uses_too() {
    let (topology, _server, configuration) = site();
    let weir = Weir::start(&topology, &configuration).unwrap();
    // Without DF, so that a provider's router cuts what is too long for the link.
    topology.internet.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    for provider in &topology.providers {
        let to = SocketAddrV4::new(provider.addresses[0], 51_820 + provider.index as u16);
        answer_on(&topology, to);
        // The longer one in fragments.
        for len in [100, 4000] {
            let answered = topology.internet.run(|| {
                let socket = UdpSocket::bind((SERVER, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.send_to(&vec![7; len], to).unwrap();
                socket.recv_from(&mut [0; 8192])
            });
            let answered = answered.unwrap();
            assert!(answered.is_ok(), "{len} bytes to {to}: {answered:?}");
            assert_eq!(answered.unwrap(), (len, SocketAddr::V4(to)));
        }
    }
    assert_eq!(weir.counters().unwrap().sum(Counter::DropNoFlow), 0);
    weir.check_conservation().unwrap();
}

#[test]
fn an_address_of_a_pool_that_the_gateway_does_not_hold_is_not_routed_back() {
    let (topology, _server, configuration) = site();
    let pooled = plan::uplink_address(NEAR, 9);
    let configuration = configuration.replacen(
        "weight = 1\n",
        &format!("weight = 1\naddresses = [\"{pooled}\"]\n"),
        1,
    );
    let weir = Weir::start(&topology, &configuration).unwrap();
    let stranger = &topology.providers[NEAR].netns;
    let mac = Port::GatewayWan(NEAR).mac();
    stranger.ip(&format!("neigh replace {pooled} lladdr {mac} dev {TOWARDS_GATEWAY}\n")).unwrap();
    let capture = Capture::start(stranger, TOWARDS_GATEWAY).unwrap();
    assert_eq!(clients::ping(stranger, pooled, 3).unwrap().received, 0);
    let tally = capture.stop().unwrap();
    assert_eq!(tally.sources_to(pooled).values().sum::<u64>(), 3, "each crosses the link once");
    weir.check_conservation().unwrap();
    let url = server::content_url(SERVER, 10_000);
    assert_eq!(clients::curl(&topology.hosts[0].netns, &url).unwrap().bytes, 10_000);
}
