//! Of TCP, which STUN's judges do not look at: where servers see connections of one port come from.

use std::collections::{BTreeSet, HashSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::{Site, servers};

/// How long a connection is tried, or its first word waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where connections of one port come from, as a server at each of these addresses and ports sees
/// it.
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
