//! Rules about what uplinks bring, by real clients in the Internet and real servers in a LAN, on a
//! gateway whose kernel forwards too, with captures where the LAN's host is.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;
use weir_kit::capture::Capture;
use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::{self, Plan};
use weir_kit::server::{ECHO_PORT, HTTP_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, process, wait};
use weir_wire::npt;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PROVIDERS: usize = 2;
const REFUSED: u16 = 2525;
const SILENT: u16 = 2626;
/// How long to wait for what must not be answered.
const SOON: Duration = Duration::from_millis(400);

/// A rule about what uplinks bring.
fn rule(name: &str, criteria: &str, action: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\nfrom = \"uplink\"\n{criteria}\naction = \"{action}\"\n")
}

/// To two ports and by ping hosts are reached, and who asks for a third is told that it is not.
fn some() -> String {
    let port = |port: u16| format!("destination_ports = \"{port}\"");
    rule("refused", &port(REFUSED), "reject")
        + &rule("web", &format!("protocol = \"tcp\"\n{}", port(HTTP_PORT)), "accept")
        + &rule("echo", &port(ECHO_PORT), "accept")
        + &rule("ping", "protocol = \"icmp\"", "accept")
}

/// A site whose host keeps its ports outside.
struct Site {
    topology: Topology,
    weir: Weir,
    file: String,
    /// The host's address, and that which it has outside.
    host: [IpAddr; 2],
    client: IpAddr,
}

impl Site {
    /// Of IPv4 with an own prefix.
    fn own_prefix(inbound: bool) -> Self {
        let plan = Plan { owned_prefix: true, ..Plan::new(PROVIDERS, 1) };
        let topology = Topology::build(plan).unwrap();
        let path = |_| format!("translate = \"none\"\ninbound = {inbound}\n");
        let file = Weir::configuration_with(&topology, &[1; PROVIDERS], &plan::owned_line(), path);
        let weir = Weir::start(&topology, &file).unwrap();
        let host = topology.hosts[0].owned.unwrap().into();
        Self { topology, weir, file, host: [host; 2], client: CLIENT.into() }
    }

    fn of_ipv6(mode: Mode) -> Self {
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &[1; PROVIDERS], "").unwrap();
        let file = mode.configuration(&topology, &[1; PROVIDERS]);
        let inside = mode.host(0);
        let outside = match mode {
            Mode::Npt66 => {
                let half = weir.snapshot().unwrap().half;
                let pair = *half.prefixes_of(0).next().unwrap();
                npt::outward(&pair, inside.octets()).unwrap().into()
            }
            _ => inside,
        };
        let host = [inside.into(), outside.into()];
        Self { topology, weir, file, host, client: ipv6::SERVER.into() }
    }

    /// Has weir read this file, and waits until the dataplane has so many rules.
    fn reload(&self, file: &str, rules: usize) {
        self.weir.reload(file).unwrap();
        wait::until("the rules", wait::BOUND, || {
            Ok((self.weir.snapshot()?.half.rules().len() == rules).then_some(()))
        })
        .unwrap();
    }

    fn serve(&self) -> Server {
        Server::start(&self.topology.hosts[0].netns, self.host[0]).unwrap()
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host[1], port)
    }

    fn connect(&self, port: u16, patience: Duration) -> std::io::Result<TcpStream> {
        let connect = || TcpStream::connect_timeout(&self.at(port), patience);
        self.topology.internet.run(connect).unwrap()
    }

    /// What a datagram's sender hears.
    fn ask(&self, port: u16, patience: Duration) -> std::io::Result<usize> {
        let asked = self.topology.internet.run(|| {
            let socket = UdpSocket::bind((self.client, 0)).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect(self.at(port)).unwrap();
            socket.send(b"?")?;
            socket.recv(&mut [0; 16])
        });
        asked.unwrap()
    }

    fn pings(&self, count: usize) -> usize {
        let internet = &self.topology.internet;
        clients::ping_from(internet, self.client, self.host[1], count).unwrap().received
    }

    /// Waits until the host is reached: the kernel has to find it first.
    fn wait_for_host(&self) {
        wait::until("the host to answer", wait::BOUND, || Ok(self.ask(ECHO_PORT, SOON).ok()))
            .unwrap();
    }

    /// By name, the hits of rules.
    fn hits(&self, name: &str) -> u64 {
        let output = process::output(&mut self.weir.cli(&["rules", "--json"]).unwrap()).unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rules = value["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["name"] == name).unwrap()["hits"].as_u64().unwrap()
    }

    /// Captures what somebody asks the host for.
    fn capture(&self) -> Capture {
        Capture::keeping(&self.topology.hosts[0].netns, "eth0", |it| asked(it).is_some()).unwrap()
    }
}

/// The port that a frame asks for: of a datagram, a first segment, or, 0, a ping.
fn asked(frame: &[u8]) -> Option<u16> {
    let (proto, at) = match frame.get(12..14)? {
        [8, 0] => (frame[23], 34),
        [0x86, 0xdd] => (*frame.get(20)?, 54),
        _ => return None,
    };
    let port = || Some(u16::from_be_bytes([*frame.get(at + 2)?, *frame.get(at + 3)?]));
    match proto {
        6 if *frame.get(at + 13)? & 0x12 == 2 => port(),
        17 => port(),
        1 if *frame.get(at)? == 8 => Some(0),
        58 if *frame.get(at)? == 128 => Some(0),
        _ => None,
    }
}

/// The ports that a capture's frames ask for.
fn ports(capture: Capture) -> Vec<u16> {
    let kept = capture.stop().unwrap().kept;
    kept.iter().filter_map(|frame| asked(frame)).collect()
}

fn rules_say_what_comes_in(site: &Site) {
    let _server = site.serve();
    let capture = site.capture();
    assert_eq!(site.pings(2), 0);
    for port in [HTTP_PORT, REFUSED] {
        assert_eq!(site.connect(port, SOON).unwrap_err().kind(), ErrorKind::TimedOut);
    }
    assert_eq!(site.ask(ECHO_PORT, SOON).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(ports(capture), [0; 0], "without a rule");

    site.reload(&(site.file.clone() + &some()), 4);
    site.wait_for_host();
    let capture = site.capture();
    let url = format!("http://{}/1000000", site.at(HTTP_PORT));
    assert_eq!(clients::curl(&site.topology.internet, &url).unwrap().bytes, 1_000_000);
    assert_eq!(site.pings(3), 3);
    assert_eq!(site.ask(ECHO_PORT, wait::BOUND).unwrap(), 1);
    assert_eq!(site.connect(SILENT, SOON).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(site.ask(HTTP_PORT, SOON).unwrap_err().kind(), ErrorKind::WouldBlock);
    let refused = site.connect(REFUSED, wait::BOUND).unwrap_err().kind();
    assert_eq!(refused, ErrorKind::ConnectionRefused);
    let prohibited = match site.client {
        IpAddr::V4(_) => ErrorKind::HostUnreachable,
        IpAddr::V6(_) => ErrorKind::PermissionDenied,
    };
    assert_eq!(site.ask(REFUSED, wait::BOUND).unwrap_err().kind(), prohibited);
    let reached = ports(capture);
    let denied = |port: &u16| [SILENT, REFUSED].contains(port);
    assert!(!reached.iter().any(denied), "{reached:?}");
    assert_eq!((site.hits("web"), site.hits("refused")), (1, 2));
    assert!(site.hits("ping") >= 1);
    assert!(site.topology.providers.iter().all(|it| it.foreign_sources().unwrap() == 0));

    // What rules accept no more ends.
    let mut stream = site.connect(ECHO_PORT, wait::BOUND).unwrap();
    stream.set_read_timeout(Some(wait::BOUND)).unwrap();
    site.reload(&site.file, 0);
    let ended = stream.read(&mut [0; 8]).unwrap_err().kind();
    assert_eq!(ended, ErrorKind::ConnectionReset);
    assert_eq!(site.pings(1), 0);
    site.weir.check_conservation().unwrap();
}

#[test]
fn rules_say_what_comes_in_to_an_own_prefix() {
    rules_say_what_comes_in(&Site::own_prefix(false));
}

#[test]
fn rules_say_what_comes_in_to_an_own_prefix_of_ipv6() {
    rules_say_what_comes_in(&Site::of_ipv6(Mode::None));
}

#[test]
fn rules_say_what_comes_in_where_prefixes_are_translated() {
    rules_say_what_comes_in(&Site::of_ipv6(Mode::Npt66));
}

fn rules_deny_some_of_what_an_uplink_lets_in(site: &Site) {
    let _server = site.serve();
    let denied = rule("refused", &format!("destination_ports = \"{REFUSED}\""), "reject")
        + &rule("silent", &format!("destination_ports = \"{SILENT}\""), "drop");
    site.reload(&(site.file.clone() + &denied), 2);
    site.wait_for_host();
    let capture = site.capture();
    let refused = ErrorKind::ConnectionRefused;
    assert_eq!(site.connect(REFUSED, wait::BOUND).unwrap_err().kind(), refused);
    assert_eq!(site.connect(SILENT, SOON).unwrap_err().kind(), ErrorKind::TimedOut);
    drop(site.connect(ECHO_PORT, wait::BOUND).unwrap());
    assert_eq!(site.connect(22, wait::BOUND).unwrap_err().kind(), refused, "by the host");
    assert_eq!(site.pings(3), 3);
    let reached = ports(capture);
    assert!([0, 22, ECHO_PORT].iter().all(|port| reached.contains(port)), "{reached:?}");
    assert!(![SILENT, REFUSED].iter().any(|port| reached.contains(port)), "{reached:?}");
    site.weir.check_conservation().unwrap();
}

#[test]
fn rules_deny_some_of_what_an_uplink_lets_in_to_an_own_prefix() {
    rules_deny_some_of_what_an_uplink_lets_in(&Site::own_prefix(true));
}

#[test]
fn where_packets_needed_no_flows_rules_about_uplinks_hold() {
    rules_deny_some_of_what_an_uplink_lets_in(&Site::of_ipv6(Mode::Stateless));
}

#[test]
fn rules_are_asked_before_a_service() {
    const WEB: u16 = 8080;
    let topology = Topology::build(Plan::new(PROVIDERS, 1)).unwrap();
    let host = &topology.hosts[0];
    let _server = Server::start(&host.netns, host.address).unwrap();
    let to = format!("{}:{HTTP_PORT}", host.address);
    let web =
        format!("[[publish]]\nname = \"web\"\nprotocol = \"tcp\"\nports = {WEB}\nto = \"{to}\"\n");
    let file = Weir::configuration(&topology, &[1; PROVIDERS]) + &web;
    let weir = Weir::start(&topology, &file).unwrap();
    let connect = |provider: usize, patience| {
        let to = SocketAddr::from((topology.providers[provider].addresses[0], WEB));
        topology.internet.run(|| TcpStream::connect_timeout(&to, patience)).unwrap()
    };
    let connects = |provider| Ok(connect(provider, SOON).is_ok().then_some(()));
    wait::until("the service", wait::BOUND, || connects(0)).unwrap();
    // About the port of its host, by one uplink.
    let inside = format!("destination_ports = \"{HTTP_PORT}\"\nuplinks = [\"fiber\"]");
    for (action, kind) in [("reject", ErrorKind::ConnectionRefused), ("drop", ErrorKind::TimedOut)]
    {
        weir.reload(&(file.clone() + &rule("inside", &inside, action))).unwrap();
        wait::until("the rule", wait::BOUND, || {
            let half = weir.snapshot()?.half;
            Ok(half.rules().iter().any(|rule| rule.action().denies()).then_some(()))
        })
        .unwrap();
        let error = wait::until("the rule to hold", wait::BOUND, || Ok(connect(0, SOON).err()));
        assert_eq!(error.unwrap().kind(), kind);
        wait::until("the other uplink", wait::BOUND, || connects(1)).unwrap();
    }
    weir.check_conservation().unwrap();
}
