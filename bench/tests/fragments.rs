//! Fragments in any order, between sockets of kernels that put them together.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan, Port};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::udp_flows;
use weir_kit::weir::Weir;
use weir_layout::counters::Counter;
use weir_wire::ipv4;

const HOST_PORT: u16 = 6000;
const SERVER_PORT: u16 = 5353;
/// Bytes of a datagram: three fragments.
const BYTES: usize = 4000;
/// Bytes that a fragment carries, as a link of 1500 has room for.
const PIECE: usize = 1448;
/// How often a datagram is sent until it arrives: a busy machine may lose some.
const TRIES: usize = 5;

fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A station that sends datagrams in fragments, as another one might.
struct Sender {
    station: Station,
    macs: [[u8; 6]; 2],
    /// Identification of the last datagram.
    ident: u16,
}

impl Sender {
    fn on(netns: &Netns, device: &str, ends: [Port; 2]) -> Self {
        let station = Station::on(netns, device).unwrap();
        Self { station, macs: ends.map(mac), ident: 0x7000 }
    }

    /// At the host, towards the gateway.
    fn at_host(topology: &Topology) -> Self {
        Self::on(&topology.hosts[0].netns, "eth0", [Port::Host(0), Port::GatewayLan(0)])
    }

    /// At the provider's router, towards the gateway.
    fn at_provider(topology: &Topology) -> Self {
        let ends = [Port::RouterCustomer(0), Port::GatewayWan(0)];
        Self::on(&topology.providers[0].netns, TOWARDS_GATEWAY, ends)
    }

    /// A datagram of these bytes in fragments.
    fn fragments(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.ident += 1;
        let [source, destination] = self.macs;
        let builder = PacketBuilder::ethernet2(source, destination);
        let (mut frame, ports) = (Vec::new(), (from.port(), to.port()));
        let head = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let builder = builder.ipv4(from.octets(), to.octets(), 64);
                builder.udp(ports.0, ports.1).write(&mut frame, bytes).unwrap();
                34
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let builder = builder.ipv6(from.octets(), to.octets(), 64);
                builder.udp(ports.0, ports.1).write(&mut frame, bytes).unwrap();
                54
            }
            _ => panic!("of two families"),
        };
        let (head, carried) = frame.split_at(head);
        let pieces = carried.chunks(PIECE).enumerate();
        let last = carried.len().div_ceil(PIECE) - 1;
        pieces.map(|(at, piece)| self.fragment(head, at * PIECE, at != last, piece)).collect()
    }

    fn fragment(&self, head: &[u8], offset: usize, more: bool, piece: &[u8]) -> Vec<u8> {
        let mut frame = head.to_vec();
        if head.len() == 34 {
            let mut ip = ipv4::Packet::new_unchecked(&mut frame[14..]);
            let more = if more { ipv4::MORE_FRAGMENTS } else { 0 };
            ip.set_fragment(more | (offset / 8) as u16);
            ip.set_ident(self.ident);
            ip.set_total_len((20 + piece.len()) as u16);
            ip.fill_checksum();
        } else {
            frame[18..20].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
            let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
            let [id_high, id_low] = self.ident.to_be_bytes();
            frame.extend([frame[20], 0, high, low, 0, 0, id_high, id_low]);
            frame[20] = 44;
        }
        frame.extend_from_slice(piece);
        frame
    }

    /// Sends datagrams, each with its number, in this order of their fragments until the socket has
    /// received it whole. Who the socket says sent them.
    fn deliver(
        &mut self,
        (from, to): (SocketAddr, SocketAddr),
        order: [usize; 3],
        socket: &UdpSocket,
    ) -> Option<SocketAddr> {
        let mut sender = None;
        for number in 0..10 {
            let bytes = vec![number; BYTES];
            let peer = (0..TRIES).find_map(|_| {
                let fragments = self.fragments(from, to, &bytes);
                order.iter().for_each(|at| self.station.send(&fragments[*at]).unwrap());
                received(socket, &bytes)
            })?;
            assert!(sender.is_none_or(|before| before == peer), "one flow");
            sender = Some(peer);
        }
        sender
    }
}

/// Who sent a datagram of these bytes, if one comes.
fn received(socket: &UdpSocket, bytes: &[u8]) -> Option<SocketAddr> {
    let mut buffer = [0; 65_535];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((len, peer)) if buffer[..len] == *bytes => return Some(peer),
            // Of an earlier try.
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

fn socket(netns: &Netns, address: SocketAddr) -> UdpSocket {
    let socket = netns.run(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
}

const REVERSED: [usize; 3] = [2, 1, 0];
const ORDERS: [[usize; 3]; 4] = [[0, 1, 2], REVERSED, [1, 0, 2], [0, 2, 1]];

/// From the host to the server and back, in every order.
fn both_ways(topology: &Topology, host: IpAddr, server: IpAddr) {
    let (host, server) = ((host, HOST_PORT).into(), (server, SERVER_PORT).into());
    let inside = socket(&topology.hosts[0].netns, host);
    let outside = socket(&topology.internet, server);
    let mut sender = Sender::at_host(topology);
    let seen = ORDERS.map(|order| sender.deliver((host, server), order, &outside).unwrap());
    assert_eq!(seen, [seen[0]; 4], "one mapping");
    let mut sender = Sender::at_provider(topology);
    for order in ORDERS {
        let peer = sender.deliver((server, seen[0]), order, &inside);
        assert_eq!(peer, Some(server), "{order:?}");
    }
}

#[test]
fn datagrams_arrive_whole_in_whatever_order_their_fragments_come() {
    for mode in [Mode::None, Mode::Npt66, Mode::Nat66] {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(1, 1), &[1], "").unwrap();
        both_ways(&topology, topology.hosts[0].address.into(), plan::server_address(0).into());
        both_ways(&topology, mode.host(0).into(), ipv6::SERVER.into());
        weir.check_conservation().unwrap();
    }
}

#[test]
fn what_is_for_a_socket_of_the_gateway_reaches_it_in_either_order() {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1])).unwrap();
    let own: SocketAddr = (plan::uplink_address(0, 0), 7000).into();
    let socket_of_gateway = socket(&topology.gateway, own);
    let [server, other] =
        [0, 1].map(|it| SocketAddr::from((plan::server_address(it), SERVER_PORT)));
    let mut sender = Sender::at_provider(&topology);
    for order in ORDERS {
        let peer = sender.deliver((other, own), order, &socket_of_gateway);
        assert_eq!(peer, Some(other), "{order:?}");
    }
    // Also while a host hears of another server; and of the same one from the first in order on.
    both_ways(&topology, topology.hosts[0].address.into(), server.ip());
    for order in [REVERSED, [0, 1, 2]] {
        assert!(sender.deliver((other, own), order, &socket_of_gateway).is_some());
    }
    for order in ORDERS {
        let peer = sender.deliver((server, own), order, &socket_of_gateway);
        assert_eq!(peer, Some(server), "{order:?}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_flood_of_strangers_later_fragments_leaves_new_flows_of_hosts_alone() {
    const FLOWS: usize = 500;
    let (topology, weir) = Mode::None.start(Plan::new(1, 2), &[1], "").unwrap();
    let echo = SocketAddrV4::new(plan::server_address(0), ECHO_PORT);
    let _server = Server::start(&topology.internet, *echo.ip()).unwrap();
    // To the address that hosts have outside, and to one of a host.
    let targets: [(IpAddr, IpAddr); 2] = [
        ([198, 18, 0, 1].into(), plan::uplink_address(0, 0).into()),
        (ipv6::remote(99).into(), Mode::None.host(0).into()),
    ];
    let mut sender = Sender::at_provider(&topology);
    let mut models = targets.map(|(from, to)| {
        sender.fragments((from, 9).into(), (to, 9).into(), &[7; BYTES]).remove(1)
    });
    let stop = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for model in &mut models {
                    // Other sources, each of a datagram.
                    let [high, low] = (sent as u16).to_be_bytes();
                    let at = if model.len() == 34 + PIECE { 28 } else { 36 };
                    model[at..at + 2].copy_from_slice(&[high, low]);
                    if at == 28 {
                        ipv4::Packet::new_unchecked(&mut model[14..34]).fill_checksum();
                    }
                    sent += u64::from(sender.station.send(model).is_ok());
                }
            }
            sent
        });
        let report = udp_flows::run(&topology.hosts, echo, FLOWS);
        stop.store(true, Ordering::Relaxed);
        let report = report.unwrap();
        assert_eq!((report.answered, report.wrong), (2 * FLOWS, 0));
        flood.join().unwrap()
    });
    weir.check_conservation().unwrap();
    // None of the first ones went to a worker: they may be the gateway's.
    let waited = weir.counters().unwrap().sum(Counter::DropFragmentWait);
    assert!(waited > 0 && waited <= sent / 2, "{waited} of {sent}");
}
