//! Packets that nobody asked for, of all kinds, from a neighbour on a provider's link: none reaches
//! a host of a LAN or another provider, whatever the kernel would do. It forwards here, believes
//! source routes, has no filter but weir's table, for one round not even that, and knows each
//! host's hardware address.
//!
//! | module | what |
//! |---|---|
//! | `v4`, `v6` | the tables of kinds |
//! | `packet` | how they are made |
//! | `pings` | pings with the identifier of a host's own |

mod packet;
mod pings;
mod v4;
mod v6;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use weir_kit::capture::Capture;
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan, Port};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, wait};
use weir_layout::Family;

use packet::{Ip4, Token, checked, number, token, udp};

/// Frames of one kind.
pub struct Attempt {
    name: String,
    frames: Vec<Vec<u8>>,
}

/// Attempts, each with a token of its own: its place, from 1 on. 0 is that of what a host asks for.
#[derive(Default)]
pub struct Table {
    attempts: Vec<Attempt>,
}

impl Table {
    fn row(&mut self, name: &str, frames: impl FnOnce(Token) -> Vec<Vec<u8>>) {
        let number = u8::try_from(self.attempts.len() + 1).unwrap();
        self.attempts.push(Attempt { name: name.into(), frames: frames(token(number)) });
    }
}

/// The bytes of a port's hardware address.
fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A datagram to the first host's address of IPv4, as a tunnel may bring it.
fn to_a_host4(token: Token) -> Vec<u8> {
    let ip = Ip4::new(plan::server_address(0), plan::host_address(0, 0), 17);
    ip.packet(&checked(udp(token), 6, ip.pseudo(16)))
}

/// A kernel that would forward whatever it may.
fn trust(topology: &Topology) {
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/accept_source_route", "1"),
        ("net/ipv4/conf/wan0/accept_source_route", "1"),
        ("net/ipv4/conf/all/bc_forwarding", "1"),
        ("net/ipv4/conf/lan0/bc_forwarding", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/all/accept_source_route", "1"),
        ("net/ipv6/conf/wan0/accept_source_route", "1"),
        ("net/ipv6/conf/all/seg6_enabled", "1"),
        ("net/ipv6/conf/wan0/seg6_enabled", "1"),
    ];
    topology.gateway.sysctl(&settings).unwrap();
}

/// A datagram with token 0 that a host sends to the Internet, and its answer.
fn ask(host: &Netns, from: IpAddr, server: IpAddr) {
    let socket = host.run(|| UdpSocket::bind((from, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(wait::BOUND)).unwrap();
    socket.send_to(&token(0), SocketAddr::new(server, ECHO_PORT)).unwrap();
    socket.recv(&mut [0; 64]).unwrap();
}

/// The numbers of the attempts of which a leg saw a frame, or a quote of one, but for what the gateway
/// itself answers by an uplink whose address it was asked by, and errors about that.
fn seen(capture: Capture, answers: &[IpAddr]) -> BTreeSet<u8> {
    let kept = capture.stop().unwrap().kept;
    let is_answer =
        |frame: &[u8]| ends(frame).is_some_and(|of| of.iter().any(|it| answers.contains(it)));
    let others = kept.iter().filter(|frame| number(frame) == Some(0) || !is_answer(frame));
    others.filter_map(|frame| number(frame)).collect()
}

/// Source and destination of an untagged frame's packet.
fn ends(frame: &[u8]) -> Option<[IpAddr; 2]> {
    let v4 = |at: usize| Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into());
    let v6 = |at: usize| Some(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into());
    match frame.get(12..14)? {
        [0x08, 0x00] => Some([v4(26)?, v4(30)?]),
        [0x86, 0xdd] => Some([v6(22)?, v6(38)?]),
        _ => None,
    }
}

/// The gateway's own addresses on a provider's link.
fn own(provider: usize) -> [IpAddr; 2] {
    [plan::uplink_address(provider, 0).into(), ipv6::link(provider, 2).into()]
}

/// Sends all while a host asks, and looks at every leg. `works`: the dataplane does, so that the host
/// is answered and what it sent is seen.
fn try_all(topology: &Topology, attempts: &[Attempt], works: Option<(IpAddr, IpAddr)>, when: &str) {
    let legs = topology.hosts.iter().map(|host| (&host.netns, "eth0"));
    let legs = legs.chain(topology.providers.iter().map(|p| (&p.netns, TOWARDS_GATEWAY)));
    let start =
        |(netns, device)| Capture::keeping(netns, device, |frame| number(frame).is_some()).unwrap();
    let captures: Vec<_> = legs.map(start).collect();
    let mut stranger = Station::on(&topology.providers[0].netns, TOWARDS_GATEWAY).unwrap();
    for frame in attempts.iter().flat_map(|attempt| &attempt.frames) {
        stranger.send(frame).unwrap();
    }
    let host = &topology.hosts[0].netns;
    match works {
        Some((from, server)) => (0..3).for_each(|_| ask(host, from, server)),
        // What the kernel forwards takes no longer than its own answer.
        None => _ = clients::ping(host, plan::lan_gateway(0), 3).unwrap(),
    }
    let mut captures = captures.into_iter();
    let hosts = captures.by_ref().take(topology.hosts.len()).map(|it| seen(it, &[]));
    let hosts: Vec<_> = hosts.collect();
    let of_provider = |(provider, capture)| match provider {
        // All was sent here, also in the gateway's name.
        0 => seen(capture, &[]),
        _ => seen(capture, &own(provider)),
    };
    let providers: Vec<_> = captures.enumerate().map(of_provider).collect();
    let name = |number: &u8| attempts[usize::from(*number) - 1].name.as_str();
    let first = &providers[0];
    assert!((1..=attempts.len()).all(|number| first.contains(&(number as u8))), "{when}: all sent");
    if works.is_some() {
        assert!(hosts[0].contains(&0), "{when}: what the host asked is seen on its leg");
        assert!(providers.iter().any(|leg| leg.contains(&0)), "{when}: and on a provider's");
    }
    for leg in hosts.iter().chain(&providers[1..]) {
        let leaked: Vec<_> = leg.iter().filter(|number| **number != 0).map(name).collect();
        assert!(leaked.is_empty(), "{when}: {leaked:?}");
    }
}

/// At every moment of the gateway's life that leaves something in the kernel's hands.
fn through_the_gateways_life(
    topology: &Topology,
    mut weir: Weir,
    attempts: &[Attempt],
    (from, server): (IpAddr, IpAddr),
) {
    assert!(attempts.len() >= 40);
    trust(topology);
    for host in &topology.hosts {
        clients::ping(&host.netns, plan::lan_gateway(0), 1).unwrap();
    }
    ask(&topology.hosts[0].netns, from, server);
    for round in 0..2 {
        try_all(topology, attempts, Some((from, server)), &format!("round {round}"));
    }
    weir.check_conservation().unwrap();
    // The program alone, with no rule of anybody's beside it. That a kernel does not do as source
    // routes say is its own default.
    weir.kill_control();
    topology.gateway.nft("flush ruleset\n").unwrap();
    topology.gateway.sysctl(&[("net/ipv4/conf/wan0/accept_source_route", "0")]).unwrap();
    try_all(topology, attempts, Some((from, server)), "without a rule of nftables");
    topology.gateway.sysctl(&[("net/ipv4/conf/wan0/accept_source_route", "1")]).unwrap();
    weir.start_control().unwrap();
    weir.kill_dataplane();
    try_all(topology, attempts, None, "without a dataplane");
    weir.take_program_off().unwrap();
    try_all(topology, attempts, None, "without the XDP program");
}

fn through_the_life_of_ipv4(owned: bool) {
    let topology = Topology::build(Plan { owned_prefix: owned, ..Plan::new(2, 2) }).unwrap();
    let server = topology.servers[0];
    let _server = Server::start(&topology.internet, server).unwrap();
    let configuration = match owned {
        true => {
            let path = |_| "translate = \"none\"\n".to_owned();
            Weir::configuration_with(&topology, &[1, 1], &plan::owned_line(), path)
        }
        false => Weir::configuration(&topology, &[1, 1]),
    };
    let weir = Weir::start(&topology, &configuration).unwrap();
    let address = |index: usize| -> Ipv4Addr {
        let host = &topology.hosts[index];
        host.owned.unwrap_or(host.address)
    };
    let attempts = v4::attempts(&v4::Aim::new(address(0), address(1)));
    through_the_gateways_life(&topology, weir, &attempts, (address(0).into(), server.into()));
}

#[test]
fn nobody_reaches_hosts_behind_translation() {
    through_the_life_of_ipv4(false);
}

#[test]
fn nobody_reaches_hosts_of_an_own_prefix() {
    through_the_life_of_ipv4(true);
}

/// `host`: the address that strangers try.
fn through_the_life_of_ipv6(mode: Mode, hosts: impl IntoIterator<Item = std::net::Ipv6Addr>) {
    for host in hosts {
        let (topology, weir) = mode.start(Plan::new(2, 2), &[1, 1], "").unwrap();
        let _server = Server::start(&topology.internet, ipv6::SERVER).unwrap();
        weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
        let attempts = v6::attempts(&v6::Aim::new(host));
        let ends = (mode.host(0).into(), ipv6::SERVER.into());
        through_the_gateways_life(&topology, weir, &attempts, ends);
    }
}

#[test]
fn nobody_reaches_hosts_of_an_own_prefix_of_ipv6() {
    through_the_life_of_ipv6(Mode::None, [ipv6::host(0)]);
}

#[test]
fn nobody_reaches_hosts_of_providers_prefixes_by_either_provider() {
    through_the_life_of_ipv6(Mode::Source, Mode::Source.hosts(0, 2));
}

#[test]
fn nobody_reaches_hosts_behind_prefix_translation_by_either_address() {
    let outside = ipv6::by(0, ipv6::host(0));
    through_the_life_of_ipv6(Mode::Npt66, [Mode::Npt66.host(0), outside]);
}

#[test]
fn nobody_reaches_hosts_behind_nat66_by_either_address() {
    let pool = ipv6::by(0, std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 1));
    through_the_life_of_ipv6(Mode::Nat66, [Mode::Nat66.host(0), pool]);
}
