//! What coturn's `turnutils_natdiscovery` (RFC 5780) finds out about the NAT from behind it, and of TCP,
//! which that does not look at, what servers see that one port of a host connects to.
//!
//! A NAT that keeps ports looks endpoint-independent to it whatever it does, until another host has
//! the same port at the same servers: so one sends from it first.

use std::collections::{BTreeSet, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};
use weir_kit::listeners;
use weir_kit::plan::{self, Plan};
use weir_kit::process::Process;
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::control::path_state;

const PORTS: [u16; 2] = [3478, 3479];
/// How long a connection is tried, or its first word waited for.
const PATIENCE: Duration = Duration::from_secs(10);

struct Site {
    topology: Topology,
    weir: Weir,
    _stun: Process,
}

impl Site {
    /// Two hosts behind two uplinks that let in so much, and a server with two addresses.
    fn with(filtering: &str) -> Self {
        let topology = Topology::build(Plan::new(2, 2)).unwrap();
        let file = Weir::configuration_with(&topology, &[1, 1], "", |_| filtering.into());
        let weir = Weir::start(&topology, &file).unwrap();
        let mut command = Command::new("turnserver");
        command.args(["-n", "-z", "-S", "--no-tls", "--no-dtls", "--no-cli", "-l", "stdout"]);
        command.args(["-p", "3478", "--alt-listening-port=3479", "-b", "/dev/null"]);
        command.args(["--pidfile", "/dev/null"]);
        for server in servers() {
            command.args(["-L", &server.to_string()]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let stun = topology.internet.spawn(&mut command).unwrap();
        PORTS.iter().for_each(|port| listeners::wait_for_udp(&topology.internet, *port).unwrap());
        Self { topology, weir, _stun: stun }
    }

    /// What is found out from a port that another host uses already: `-m` mapping, `-f` filtering.
    fn verdict(&self, what: &str, port: u16) -> String {
        let [host, other] = &self.topology.hosts[..] else { panic!("two hosts") };
        other
            .netns
            .run(|| {
                let socket = UdpSocket::bind((other.address, port)).unwrap();
                let to = servers().into_iter().flat_map(|server| PORTS.map(|port| (server, port)));
                for to in to {
                    socket.send_to(b"first", to).unwrap();
                }
            })
            .unwrap();
        let mut judge = Command::new("turnutils_natdiscovery");
        judge.args([what, "-L", &host.address.to_string(), "-l", &port.to_string()]);
        judge.arg(servers()[0].to_string());
        let output = host.netns.run(|| judge.output()).unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let verdict = said.lines().find(|line| line.contains("NAT with"));
        verdict.unwrap_or_else(|| panic!("no verdict: {said}")).trim().to_owned()
    }
}

/// A host that begins flows all the time, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<anyhow::Result<usize>>,
}

impl Load {
    fn start(site: &Site) -> Self {
        let (stop, host) = (Arc::new(AtomicBool::new(false)), &site.topology.hosts[1]);
        let (stopped, address) = (stop.clone(), host.address);
        let sender = host.netns.thread("load", move || {
            let mut sent = 0;
            // Ports that the judge has no use for.
            for port in (10_000..30_000).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let socket = UdpSocket::bind((address, port)).unwrap();
                for server in servers() {
                    sent += usize::from(socket.send_to(b"load", (server, 9)).is_ok());
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        Self { stop, sender: sender.unwrap() }
    }

    /// How many datagrams it sent.
    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap().unwrap()
    }
}

impl Site {
    /// Cuts the first provider off, and waits until nothing leaves by it.
    fn cut_the_first(&self) {
        self.topology.providers[0].set_carrier(false).unwrap();
        wait::until("the carrier to be missed", wait::BOUND, || {
            Ok((self.weir.states()?[0] & path_state::USABLE == 0).then_some(()))
        })
        .unwrap();
    }
}

fn servers() -> [Ipv4Addr; 2] {
    [0, 1].map(plan::server_address)
}

#[test]
fn the_mapping_is_independent_of_the_destination_over_two_uplinks_and_after_the_loss_of_one() {
    let site = Site::with("");
    const INDEPENDENT: &str = "NAT with Endpoint Independent Mapping!";
    for port in 40_000..40_004 {
        assert_eq!(site.verdict("-m", port), INDEPENDENT);
    }
    site.cut_the_first();
    for port in 40_000..40_004 {
        assert_eq!(site.verdict("-m", port), INDEPENDENT);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn the_filtering_is_what_the_file_says() {
    for (filtering, verdict) in [
        ("", "NAT with Address and Port Dependent Filtering!"),
        ("filtering = \"address\"", "NAT with Address Dependent Filtering!"),
        ("filtering = \"endpoint\"", "NAT with Endpoint Independent Filtering!"),
    ] {
        let site = Site::with(filtering);
        for port in [40_000, 40_001] {
            assert_eq!(site.verdict("-f", port), verdict);
        }
        site.cut_the_first();
        assert_eq!(site.verdict("-f", 40_002), verdict);
        site.weir.check_conservation().unwrap();
    }
}

/// Where connections of one port come from, as a server at each of these addresses and ports sees it.
fn seen_by_servers(
    site: &Site,
    listeners: &[TcpListener],
    host: usize,
    port: u16,
) -> Vec<SocketAddr> {
    let host = &site.topology.hosts[host];
    let own = SocketAddrV4::new(host.address, port);
    let mut open = Vec::new();
    let mut seen = Vec::new();
    for listener in listeners {
        let to = listener.local_addr().unwrap();
        open.push(host.netns.run(|| connect(own, to)).unwrap());
        let (connection, from) = listener.accept().unwrap();
        open.push(connection);
        seen.push(from);
    }
    // Resets: the next connections may have the same ports.
    for connection in &open {
        sockopt::set_socket_linger(connection, Some(Duration::ZERO)).unwrap();
    }
    seen
}

/// A connection from a port that others may have too.
fn connect(from: SocketAddrV4, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &from).unwrap();
    // Bounds the attempt to connect, too.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE)).unwrap();
    let done = rustix::net::connect(&socket, &to);
    done.unwrap_or_else(|error| panic!("{from} cannot connect to {to}: {error}"));
    TcpStream::from(socket)
}

/// Servers at two addresses, at two ports each.
fn listen(site: &Site) -> Vec<TcpListener> {
    let to = || servers().into_iter().flat_map(|server| [8001, 8002].map(|port| (server, port)));
    let bind = || to().map(|to| TcpListener::bind(to).unwrap()).collect();
    site.topology.internet.run(bind).unwrap()
}

#[test]
fn the_mapping_of_tcp_is_what_the_file_says() {
    for (line, independent) in [("", false), ("tcp_mapping = \"endpoint\"", true)] {
        let site = Site::with(line);
        let listeners = listen(&site);
        let mut ports = BTreeSet::new();
        for port in 40_000..40_008 {
            // The other has the port first, so that ours can be kept nowhere.
            let [other, ours] = [1, 0].map(|host| seen_by_servers(&site, &listeners, host, port));
            let [other, ours] = [other, ours].map(BTreeSet::from_iter);
            if independent {
                assert_eq!((ours.len(), other.len()), (1, 1), "{ours:?} {other:?}");
                assert!(ours.is_disjoint(&other), "{ours:?} and {other:?} share a port");
            }
            ports.extend(ours);
        }
        assert_eq!(ports.len() == 8, independent, "{ports:?}");
        if independent {
            site.cut_the_first();
            let after = BTreeSet::from_iter(seen_by_servers(&site, &listeners, 0, 40_000));
            assert_eq!(after.len(), 1, "{after:?}");
        }
        site.weir.check_conservation().unwrap();
    }
}

#[test]
fn the_verdicts_are_the_same_while_flows_begin_all_the_time_and_an_uplink_is_lost() {
    let site = Site::with("filtering = \"address\"");
    let load = Load::start(&site);
    // Of a port that was judged once, each server has been asked.
    let verdicts = |port| [site.verdict("-m", port), site.verdict("-f", port + 1)];
    const VERDICTS: [&str; 2] =
        ["NAT with Endpoint Independent Mapping!", "NAT with Address Dependent Filtering!"];
    assert_eq!(verdicts(40_000), VERDICTS);
    site.cut_the_first();
    assert_eq!(verdicts(40_002), VERDICTS);
    assert!(load.stop() > 1000);
    let [first, second, ..] = site.weir.uplinks().unwrap()[..] else { panic!("two uplinks") };
    assert!(first.flows_created > 100 && second.flows_created > 100, "both have flows");
    site.weir.check_conservation().unwrap();
}

/// Servers of TCP that say to whom they speak, as they see it, and close.
fn say_who_asks(site: &Site) {
    for (server, port) in endpoints() {
        let internet = &site.topology.internet;
        let listener = internet.run(|| TcpListener::bind((server, port)).unwrap()).unwrap();
        internet
            .thread("server", move || {
                for mut asked in listener.incoming().map_while(Result::ok) {
                    let who = asked.peer_addr().unwrap().to_string();
                    // Who asks may have gone.
                    let _ = asked.write_all(who.as_bytes());
                }
            })
            .unwrap();
    }
}

/// Those that no other server uses.
fn endpoints() -> [(Ipv4Addr, u16); 4] {
    let [a, b] = servers();
    [(a, 7001), (a, 7002), (b, 7001), (b, 7002)]
}

/// A connection of a host from a port of its own, and who it is outside.
fn asks(site: &Site, host: usize, port: u16, to: (Ipv4Addr, u16)) -> (TcpStream, SocketAddrV4) {
    let host = &site.topology.hosts[host];
    let own = SocketAddrV4::new(host.address, port);
    let mut stream = host.netns.run(|| connect(own, to.into())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    (stream, said.parse().unwrap())
}

#[test]
fn servers_tell_connections_from_the_same_port_of_two_hosts_apart_and_reach_no_host_by_them() {
    let site = Site::with("filtering = \"endpoint\"");
    say_who_asks(&site);
    let addresses = [0, 1].map(|provider| site.topology.providers[provider].addresses[0]);
    let mut seen = HashSet::new();
    let mut open = Vec::new();
    for port in [41_000, 41_001] {
        for host in [0, 1] {
            for to in endpoints() {
                let (stream, who) = asks(&site, host, port, to);
                assert!(addresses.contains(who.ip()), "{who}");
                assert!(seen.insert((who, to)), "{who} asks {to:?} twice");
                // Datagrams may come to a port from anybody, connections not.
                refuses(&site, who);
                open.push(stream);
            }
        }
    }
    site.cut_the_first();
    for host in [0, 1] {
        for to in endpoints() {
            let (_, who) = asks(&site, host, 41_002, to);
            assert_eq!(*who.ip(), addresses[1]);
            assert!(seen.insert((who, to)), "{who} asks {to:?} twice");
        }
    }
    drop(open);
    site.weir.check_conservation().unwrap();
}

/// Another server asks where a connection comes from.
fn refuses(site: &Site, who: SocketAddrV4) {
    let ask = || TcpStream::connect_timeout(&who.into(), PATIENCE).map(drop);
    let refused = site.topology.internet.run(ask).unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{who}");
}
