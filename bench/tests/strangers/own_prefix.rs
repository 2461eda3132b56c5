//! Strangers who may come in: to an own prefix, by uplinks that say so (`inbound = true`). The
//! gateway is a router there.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use weir_kit::capture::Capture;
use weir_kit::plan::{self, Plan};
use weir_kit::server::Server;
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, server};

use crate::{ECHO, SERVER, site};

const PATIENCE: Duration = Duration::from_secs(10);

/// A site whose host has an address that every provider routes to the gateway; `gateway` is more of
/// that table of the file.
fn own_prefix(inbound: bool, gateway: &str) -> (Topology, Server, Weir) {
    let (topology, server, _) = site(Plan { owned_prefix: true, ..Plan::new(2, 1) });
    let path = |_| format!("translate = \"none\"\ninbound = {inbound}\n");
    let file = Weir::configuration_with(&topology, &[1, 1], &plan::owned_line(), path);
    let configuration = file.replacen("[gateway]\n", &format!("[gateway]\n{gateway}"), 1);
    // Without DF, so that a provider's router cuts what is too long for the link.
    topology.internet.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    topology.hosts[0].netns.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    let weir = Weir::start(&topology, &configuration).unwrap();
    (topology, server, weir)
}

/// What a stranger in the Internet gets from a port of the host by UDP: so many bytes, or why not.
fn ask(topology: &Topology, to: (Ipv4Addr, u16), bytes: usize) -> Result<usize, ErrorKind> {
    let asked = topology.internet.run(|| {
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(to).unwrap();
        socket.send(&vec![7; bytes]).unwrap();
        socket.recv(&mut [0; 8192])
    });
    asked.unwrap().map_err(|error| error.kind())
}

fn connect(topology: &Topology, to: (Ipv4Addr, u16)) -> std::io::Result<TcpStream> {
    let to = SocketAddr::from(to);
    topology.internet.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
}

/// Pings with this many bytes, which do not fit one packet.
fn pings_in_fragments(topology: &Topology, to: Ipv4Addr) -> bool {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-c", "3", "-i", "0.1", "-W", "2", "-s", "4000"]).arg(to.to_string());
    topology.internet.output(&mut ping).is_ok()
}

#[test]
fn who_asks_an_own_prefix_is_answered_as_by_a_router() {
    let (topology, _server, weir) = own_prefix(true, "");
    let host = &topology.hosts[0];
    let owned = host.owned.unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    assert_eq!(clients::ping(&topology.internet, owned, 5).unwrap().received, 5);
    assert!(pings_in_fragments(&topology, owned));
    let refused = ErrorKind::ConnectionRefused;
    assert_eq!(connect(&topology, (owned, 22)).unwrap_err().kind(), refused, "TCP");
    assert_eq!(ask(&topology, (owned, 161), 10).unwrap_err(), refused, "UDP");
    // Services: a datagram in fragments, there and back, before there is a flow and in one.
    let socket = host.netns.run(|| UdpSocket::bind((owned, 5000))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut datagram = [0; 8192];
        while let Ok((len, peer)) = socket.recv_from(&mut datagram) {
            socket.send_to(&datagram[..len], peer).unwrap();
        }
    });
    for bytes in [4000, 100, 4000] {
        assert_eq!(ask(&topology, (owned, 5000), bytes), Ok(bytes));
    }
    let _service = Server::start(&host.netns, owned).unwrap();
    let url = server::content_url(owned, 1_000_000);
    assert_eq!(clients::curl(&topology.internet, &url).unwrap().bytes, 1_000_000);
    for (capture, provider) in captures.into_iter().zip(&topology.providers) {
        let tally = capture.stop().unwrap();
        assert_eq!(tally.faulty, 0, "{:?}", tally.faults);
        let sources = tally.sources_to(SERVER);
        assert!(sources.keys().all(|source| *source == owned), "{sources:?}");
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn without_a_word_of_the_file_nobody_reaches_an_own_prefix() {
    let (topology, _server, weir) = own_prefix(false, "");
    let host = &topology.hosts[0];
    let owned = host.owned.unwrap();
    let lan = Capture::start(&host.netns, "eth0").unwrap();
    assert_eq!(clients::ping(&topology.internet, owned, 3).unwrap().received, 0);
    let to = SocketAddr::from((owned, 22));
    let tcp = || TcpStream::connect_timeout(&to, Duration::from_millis(300));
    assert!(topology.internet.run(tcp).unwrap().is_err());
    assert_eq!(lan.stop().unwrap().sources_to(owned).len(), 0);
    // What the host itself asks for is answered.
    let answered = host.netns.run(|| {
        let socket = UdpSocket::bind((owned, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(b"?", ECHO).unwrap();
        socket.recv(&mut [0; 8])
    });
    assert_eq!(answered.unwrap().unwrap(), 1);
    weir.check_conservation().unwrap();
}

#[test]
fn where_the_kernel_stands_in_hosts_are_answered_and_strangers_reach_nobody() {
    let (topology, _server, mut weir) = own_prefix(false, "on_dataplane_loss = \"kernel\"\n");
    let (host, owned) = (&topology.hosts[0].netns, topology.hosts[0].owned.unwrap());
    let stands_in = || {
        assert_eq!(clients::ping_from(host, owned, SERVER, 3).unwrap().received, 3);
        assert_eq!(clients::ping(&topology.internet, owned, 3).unwrap().received, 0);
    };
    weir.kill_dataplane();
    stands_in();
    weir.start_dataplane().unwrap();
    stands_in();
    weir.kill_dataplane();
    weir.take_program_off().unwrap();
    stands_in();
}
