//! Rules that deny, by real sockets and with captures on every provider's leg.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_kit::capture::Capture;
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{Plan, Port};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, process, wait};
use weir_layout::Family;

const REFUSED: u16 = 2525;
const SILENT: u16 = 2626;

/// How long to wait for who listens at a port: nobody answers for one alone.
fn patience(port: u16) -> Duration {
    if port == SILENT { Duration::from_millis(500) } else { wait::BOUND }
}

/// Rules about two ports, and what else is in the file.
fn with_rules(file: &str) -> String {
    format!(
        "{file}\n[[rule]]\nname = \"refused\"\ndestination_ports = \"{REFUSED}\"\n\
         action = \"reject\"\n\
         [[rule]]\nname = \"silent\"\ndestination_ports = \"{SILENT}\"\naction = \"drop\"\n"
    )
}

/// A site, its file, and who talks there in a family: a host's address, and a server's.
struct Site {
    topology: Topology,
    weir: Weir,
    file: String,
    host: IpAddr,
    server: IpAddr,
}

impl Site {
    fn of(family: Family) -> Self {
        let (topology, weir, file, host, server): (_, _, _, IpAddr, IpAddr) = match family {
            Family::V4 => {
                let topology = Topology::build(Plan::new(2, 1)).unwrap();
                let file = Weir::configuration(&topology, &[1, 1]);
                let weir = Weir::start(&topology, &file).unwrap();
                let (host, server) = (topology.hosts[0].address, topology.servers[0]);
                (topology, weir, file, host.into(), server.into())
            }
            Family::V6 => Self::of_ipv6(Mode::Npt66),
        };
        Self { topology, weir, file, host, server }
    }

    fn of_ipv6(mode: Mode) -> (Topology, Weir, String, IpAddr, IpAddr) {
        let (topology, weir) = mode.start(Plan::new(2, 1), &[1, 1], "").unwrap();
        let file = mode.configuration(&topology, &[1, 1]);
        (topology, weir, file, mode.host(0).into(), ipv6::SERVER.into())
    }

    fn netns(&self) -> &Netns {
        &self.topology.hosts[0].netns
    }

    /// Has weir read the rules, and waits until the dataplane has them.
    fn deny(&self) {
        self.weir.reload(&with_rules(&self.file)).unwrap();
        wait::until("the rules", wait::BOUND, || {
            Ok((self.weir.snapshot()?.half.rules().len() == 2).then_some(()))
        })
        .unwrap();
    }

    fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(self.server, port);
        self.netns().run(|| TcpStream::connect_timeout(&to, patience(port))).unwrap()
    }

    /// What a datagram's sender hears.
    fn ask(&self, port: u16) -> std::io::Result<usize> {
        let asked = self.netns().run(|| {
            let socket = UdpSocket::bind((self.host, 0)).unwrap();
            socket.set_read_timeout(Some(patience(port))).unwrap();
            socket.connect((self.server, port)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 16])
        });
        asked.unwrap()
    }

    /// By name, the hits of rules.
    fn hits(&self, name: &str) -> u64 {
        let output = process::output(&mut self.weir.cli(&["rules", "--json"]).unwrap()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rules = value["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["name"] == name).unwrap()["hits"].as_u64().unwrap()
    }
}

fn what_rules_deny_leaves_by_no_uplink(family: Family) {
    let site = Site::of(family);
    let _server = Server::start(&site.topology.internet, site.server).unwrap();
    site.deny();
    let ports_at = if family == Family::V4 { 34 } else { 54 };
    let is_denied = |frame: &&Vec<u8>| {
        let to = frame.get(ports_at + 2..ports_at + 4);
        [REFUSED, SILENT].iter().any(|port| to == Some(&port.to_be_bytes()[..]))
    };
    let start = |p: &weir_kit::topology::Provider| {
        Capture::keeping(&p.netns, TOWARDS_GATEWAY, |frame| frame.get(12..14) != Some(&[8, 6]))
    };
    let captures: Vec<_> = site.topology.providers.iter().map(|p| start(p).unwrap()).collect();
    let prohibited = match family {
        Family::V4 => ErrorKind::HostUnreachable,
        Family::V6 => ErrorKind::PermissionDenied,
    };
    assert_eq!(site.connect(REFUSED).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(site.ask(REFUSED).unwrap_err().kind(), prohibited);
    assert_eq!(site.connect(SILENT).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(site.ask(SILENT).unwrap_err().kind(), ErrorKind::WouldBlock);
    // Others are served, and not counted.
    drop(site.connect(ECHO_PORT).unwrap());
    assert_eq!(site.ask(ECHO_PORT).unwrap(), 1);
    assert_eq!(site.hits("refused"), 2);
    assert!(site.hits("silent") >= 2);
    for capture in captures {
        let kept = capture.stop().unwrap().kept;
        assert_eq!(kept.iter().filter(is_denied).count(), 0);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn what_rules_deny_leaves_by_no_uplink_and_is_refused_or_dropped() {
    what_rules_deny_leaves_by_no_uplink(Family::V4);
}

#[test]
fn what_rules_deny_leaves_by_no_uplink_and_is_refused_or_dropped_in_ipv6() {
    what_rules_deny_leaves_by_no_uplink(Family::V6);
}

/// A connection through the gateway, and both its ends.
fn connection(site: &Site, port: u16) -> [TcpStream; 2] {
    let listen = || TcpListener::bind((site.server, port)).unwrap();
    let listener = site.topology.internet.run(listen).unwrap();
    let mut near = site.connect(port).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(wait::BOUND)).unwrap();
    }
    (0..3).for_each(|_| talk(&mut near, &mut far));
    [near, far]
}

/// A question and its answer.
fn talk(near: &mut TcpStream, far: &mut TcpStream) {
    near.write_all(b"question").unwrap();
    far.read_exact(&mut [0; 8]).unwrap();
    far.write_all(b"answered").unwrap();
    near.read_exact(&mut [0; 8]).unwrap();
}

fn flows_that_a_reload_denies_end(family: Family) {
    let site = Site::of(family);
    let mut denied = connection(&site, REFUSED);
    let [mut near, mut far] = connection(&site, 2000);
    site.deny();
    for end in &mut denied {
        let error = end.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    talk(&mut near, &mut far);
    site.weir.check_conservation().unwrap();
}

#[test]
fn connections_that_a_reload_denies_are_reset_at_both_ends_and_others_stay() {
    flows_that_a_reload_denies_end(Family::V4);
}

#[test]
fn connections_that_a_reload_denies_are_reset_at_both_ends_and_others_stay_in_ipv6() {
    flows_that_a_reload_denies_end(Family::V6);
}

#[test]
fn where_packets_need_no_flows_a_rule_that_denies_gives_them_some() {
    let (topology, weir, file, host, server) = Site::of_ipv6(Mode::Stateless);
    let site = Site { topology, weir, file, host, server };
    let stateless = || site.weir.snapshot().unwrap().half.stateless(Family::V6).is_some();
    let _server = Server::start(&site.topology.internet, site.server).unwrap();
    assert!(stateless());
    // The server's kernel bounds how often it says so.
    wait::until("a closed port's answer", wait::BOUND, || {
        let heard = site.ask(REFUSED).unwrap_err().kind();
        Ok((heard == ErrorKind::ConnectionRefused).then_some(()))
    })
    .unwrap();
    site.deny();
    assert!(!stateless());
    assert_eq!(site.connect(REFUSED).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(site.ask(REFUSED).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert_eq!(site.ask(SILENT).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(site.ask(ECHO_PORT).unwrap(), 1);
    assert_eq!(clients::ping(site.netns(), ipv6::SERVER, 3).unwrap().received, 3);
    site.weir.check_conservation().unwrap();
}

const NUMBER: [u8; 6] = [0x5c, 0xa1, 0xab, 0x1e, 0xf0, 0x0d];

/// The type of an ICMPv6 message that the frame is, if it is one of this test's.
fn type_of(frame: &[u8]) -> Option<u8> {
    frame.windows(7).find_map(|at| at.strip_prefix(&NUMBER)?.first().copied())
}

/// Sends a message of every type between these hardware addresses, and has those that reach these
/// legs, by their types.
fn passing(
    topology: &Topology,
    (netns, device): (&Netns, &str),
    [source, destination]: [[u8; 6]; 2],
    [src, dst]: [Ipv6Addr; 2],
    legs: &[(&Netns, &str)],
) -> BTreeSet<u8> {
    let start = |(netns, device): &(&Netns, &str)| {
        Capture::keeping(netns, device, |frame| type_of(frame).is_some()).unwrap()
    };
    let captures: Vec<_> = legs.iter().map(start).collect();
    let mut station = Station::on(netns, device).unwrap();
    for kind in 0..=255u8 {
        let token = [&NUMBER[..], &[kind, 0]].concat();
        // An error quotes what the other end never sent.
        let mut quoted = Vec::new();
        PacketBuilder::ipv6(dst.octets(), src.octets(), 64)
            .udp(7, 7)
            .write(&mut quoted, &token)
            .unwrap();
        let body = if kind < 128 { quoted } else { token };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(source, destination)
            .ipv6(src.octets(), dst.octets(), 255)
            .icmpv6_raw(kind, 0, [0, 0, 5, 0])
            .write(&mut frame, &body)
            .unwrap();
        station.send(&frame).unwrap();
    }
    // By the same worker, behind all of them.
    let host = &topology.hosts[0].netns;
    assert_eq!(clients::ping(host, ipv6::SERVER, 3).unwrap().received, 3);
    let seen = captures.into_iter().flat_map(|capture| capture.stop().unwrap().kept);
    let seen: Vec<Vec<u8>> = seen.collect();
    seen.iter().filter_map(|frame| type_of(frame)).collect()
}

fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn icmpv6_passes_by_its_type() {
    let (topology, weir) = Mode::None.start(Plan::new(2, 1), &[1, 1], "").unwrap();
    let (host, provider) = (&topology.hosts[0].netns, &topology.providers[0].netns);
    let providers: Vec<_> =
        topology.providers.iter().map(|p| (&p.netns, TOWARDS_GATEWAY)).collect();
    let link = [mac(Port::Host(0)), mac(Port::GatewayLan(0))];
    let ends = [ipv6::host(0), ipv6::SERVER];
    let out = passing(&topology, (host, "eth0"), link, ends, &providers);
    // Errors, the question and the answer of echo.
    assert_eq!(out, (0..=129).collect(), "from a LAN");
    let link = [[2, 0x66, 0, 0, 0, 0], mac(Port::GatewayWan(0))];
    let (from, ends) = ((provider, TOWARDS_GATEWAY), [ipv6::STRANGER, ipv6::host(0)]);
    let inward = passing(&topology, from, link, ends, &[(host, "eth0")]);
    assert_eq!(inward, BTreeSet::new(), "from an uplink, unasked");
    weir.check_conservation().unwrap();
}
