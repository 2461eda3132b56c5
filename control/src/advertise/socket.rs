//! A LAN's socket for router advertisements: ICMPv6, raw, bound to its device.

use std::io::{self, ErrorKind};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use weir_ra::heard::{self, Heard};

/// Where advertisements go.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Where solicitations come in.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Of all that goes by neighbour discovery (RFC 4861 §6.1).
const HOP_LIMIT: u8 = 255;

/// What came in.
#[derive(Clone, Debug)]
pub struct Message {
    /// The LAN's interface.
    pub interface: Arc<str>,
    /// Who sent it.
    pub from: Ipv6Addr,
    /// What it says.
    pub heard: Heard,
}

/// It is closed when this is dropped.
pub struct LanSocket {
    socket: Arc<UdpSocket>,
    /// Its own address, with the interface's index.
    source: SocketAddrV6,
    listener: AbortHandle,
}

impl Drop for LanSocket {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl LanSocket {
    /// By this interface. What is heard goes to `hear`.
    ///
    /// # Errors
    /// Those of socket(2) and its kin; that the interface has no address of the link yet, or is still
    /// finding out whether it is its alone.
    pub fn open(interface: &str, index: u32, hear: mpsc::Sender<Message>) -> io::Result<Self> {
        let source = SocketAddrV6::new(link_local(index)?, 0, 0, index);
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.attach_filter(&filter())?;
        socket.bind(&source.into())?;
        socket.set_multicast_if_v6(index)?;
        socket.set_multicast_hops_v6(HOP_LIMIT.into())?;
        socket.set_multicast_loop_v6(false)?;
        socket.join_multicast_v6(&ALL_ROUTERS, index)?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let listener = tokio::spawn(listen(Arc::clone(&socket), interface.into(), hear));
        Ok(Self { socket, source, listener: listener.abort_handle() })
    }

    /// Has the interface still the address that it sends from?
    pub fn is_current(&self) -> bool {
        link_local(self.source.scope_id()).is_ok_and(|address| address == *self.source.ip())
    }

    /// Is this the address that it sends from?
    pub fn is_from(&self, address: Ipv6Addr) -> bool {
        address == *self.source.ip()
    }

    /// Sends to all hosts of the LAN.
    ///
    /// # Errors
    /// Those of sendto(2).
    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        let all = SocketAddrV6::new(ALL_NODES, 0, 0, self.source.scope_id());
        // For sending a raw socket is like one of UDP.
        self.socket.send_to(message, SocketAddr::V6(all)).await.map(|_| ())
    }
}

/// The address of the link that the kernel sends from by an interface: hosts listen to no other
/// (RFC 4861 §6.1.2). A socket of UDP is told when it is connected, and nothing is sent.
pub fn link_local(index: u32) -> io::Result<Ipv6Addr> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.connect(&SocketAddrV6::new(ALL_NODES, 9, 0, index).into())?;
    let address = socket.local_addr()?.as_socket_ipv6().map(|address| *address.ip());
    address.filter(Ipv6Addr::is_unicast_link_local).ok_or_else(|| {
        io::Error::new(ErrorKind::AddrNotAvailable, "the interface has no link-local address")
    })
}

/// Hands on what is heard, until the receiver is gone.
async fn listen(socket: Arc<UdpSocket>, interface: Arc<str>, hear: mpsc::Sender<Message>) {
    let mut packet = [0; 1500];
    loop {
        let Ok((length, SocketAddr::V6(from))) = socket.recv_from(&mut packet).await else {
            // Of a device that is gone, say: what is sent next is told, and makes another socket.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if let Some(heard) = heard::read(*from.ip(), &packet[..length]) {
            let message = Message { interface: Arc::clone(&interface), from: *from.ip(), heard };
            // In a flood those that do not fit are as good as lost on the way.
            let _ = hear.try_send(message);
        }
    }
}

/// Accepts solicitations and advertisements that no router has forwarded, drops all else
/// (`linux/filter.h`), so that a flood of anything fills no queue. Of advertisements those to all
/// hosts: one to anybody else tells nothing of what the LAN's hosts have.
fn filter() -> [SockFilter; 15] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const IS_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// Where the IPv6 header begins (`SKF_NET_OFF`).
    const HEADER: u32 = (-0x10_0000_i32).cast_unsigned();
    const HOP_LIMIT_AT: u32 = HEADER + 7;
    const DESTINATION_AT: u32 = HEADER + 24;
    let [a, b, c, d] = all_nodes();
    [
        SockFilter::new(LOAD_BYTE, 0, 0, HOP_LIMIT_AT),
        SockFilter::new(IS_EQUAL, 0, 12, HOP_LIMIT.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(IS_EQUAL, 9, 0, heard::ROUTER_SOLICITATION.into()),
        SockFilter::new(IS_EQUAL, 0, 9, heard::ROUTER_ADVERTISEMENT.into()),
        SockFilter::new(LOAD_WORD, 0, 0, DESTINATION_AT),
        SockFilter::new(IS_EQUAL, 0, 7, a),
        SockFilter::new(LOAD_WORD, 0, 0, DESTINATION_AT + 4),
        SockFilter::new(IS_EQUAL, 0, 5, b),
        SockFilter::new(LOAD_WORD, 0, 0, DESTINATION_AT + 8),
        SockFilter::new(IS_EQUAL, 0, 3, c),
        SockFilter::new(LOAD_WORD, 0, 0, DESTINATION_AT + 12),
        SockFilter::new(IS_EQUAL, 0, 1, d),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// The address of all hosts, in words as a filter has them.
fn all_nodes() -> [u32; 4] {
    let bits = ALL_NODES.to_bits();
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}
