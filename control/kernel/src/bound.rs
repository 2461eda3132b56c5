//! Ports that sockets of the gateway have bound, by sock_diag(7): flows are given others.
//!
//! What a flow's remote end sends to such a port would be the flow's, and a question to the service
//! there from the same remote port would have no answer. Looked at once a second, for binding a port
//! is no event. Asked for are sockets that wait for anybody: TCP listeners, which the kernel keeps
//! apart from connections, and all of UDP. A flow that has the port already keeps it.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use weir_layout::control::PORT_WORDS;
use weir_service::Complaint;
use weir_shm::control::BoundPorts;

/// `NETLINK_SOCK_DIAG` (linux/netlink.h).
const SOCK_DIAG: isize = 4;
/// How often they are looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// More than the kernel puts in one datagram of a dump (net/netlink/af_netlink.c).
const DATAGRAM: usize = 64 << 10;

/// A bit for each port, lowest first.
pub type Ports = [u64; PORT_WORDS];

/// Publishes them for as long as the runtime lives.
pub fn follow(to: BoundPorts) {
    tokio::spawn(async move {
        let mut complaint = Complaint::default();
        let mut reader = None;
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            let found = read(&mut reader).await;
            if let Ok(ports) = &found {
                to.set(ports);
            }
            complaint.say(found.err().map(|error| {
                format!("ports of the gateway's own sockets may be given to flows: {error}")
            }));
        }
    });
}

/// The ports that are bound now.
///
/// # Errors
/// When the kernel does not say.
pub async fn now() -> io::Result<Box<Ports>> {
    read(&mut None).await
}

/// Is a port among them?
pub fn has(ports: &Ports, port: u16) -> bool {
    ports[usize::from(port) / 64] >> (port % 64) & 1 != 0
}

/// The ends of sockets with these ports, of which 0 is any: the kernel looks for them
/// (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
///
/// # Errors
/// When the kernel does not say.
pub async fn connections(
    family: u8,
    protocol: u8,
    states: StateFlags,
    ends: SocketId,
) -> io::Result<Vec<SocketId>> {
    let mut reader = Reader::new()?;
    reader.socket.send(&request(family, protocol, states, ends)).await?;
    let mut found = Vec::new();
    reader.take_all(|ends| found.push(ends)).await?;
    Ok(found)
}

/// The ports that are bound now, by this reader or by a new one. After an error there is none: what
/// it has not read yet would be taken for the next answer.
async fn read(reader: &mut Option<Reader>) -> io::Result<Box<Ports>> {
    let mut with = match reader.take() {
        Some(with) => with,
        None => Reader::new()?,
    };
    let ports = with.read().await?;
    *reader = Some(with);
    Ok(ports)
}

/// A socket, and room for a datagram.
struct Reader {
    socket: TokioSocket,
    datagram: Vec<u8>,
}

impl Reader {
    fn new() -> io::Result<Self> {
        let mut socket = TokioSocket::new(SOCK_DIAG)?;
        socket.socket_mut().bind_auto()?;
        Ok(Self { socket, datagram: Vec::with_capacity(DATAGRAM) })
    }

    async fn read(&mut self) -> io::Result<Box<Ports>> {
        let mut ports = Box::new([0; PORT_WORDS]);
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            for (protocol, states) in
                [(IPPROTO_TCP, StateFlags::LISTEN), (IPPROTO_UDP, StateFlags::all())]
            {
                self.socket.send(&request(family, protocol, states, any.clone())).await?;
                let enter = |found: SocketId| {
                    let port = usize::from(found.source_port);
                    ports[port / 64] |= 1 << (port % 64);
                };
                self.take_all(enter).await?;
            }
        }
        Ok(ports)
    }

    /// Gives all that a dump says to `enter`.
    async fn take_all(&mut self, mut enter: impl FnMut(SocketId)) -> io::Result<()> {
        while !self.take(&mut enter).await? {}
        Ok(())
    }

    /// Gives what the next datagram of a dump says to `enter`; was it the last? A family or
    /// protocol that the kernel does not have has no sockets.
    async fn take(&mut self, enter: &mut impl FnMut(SocketId)) -> io::Result<bool> {
        self.datagram.clear();
        self.socket.recv(&mut self.datagram).await?;
        let mut rest = &self.datagram[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest);
            let message = message.map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(found)) => {
                    enter(found.header.socket_id);
                }
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::Error(error) if error.to_io().kind() == io::ErrorKind::NotFound => {
                    return Ok(true);
                }
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(message.header.length.next_multiple_of(4) as usize..).unwrap_or(&[]);
        }
        Ok(false)
    }
}

fn request(family: u8, protocol: u8, states: StateFlags, socket_id: SocketId) -> Vec<u8> {
    let extensions = ExtensionFlags::empty();
    let request = InetRequest { family, protocol, extensions, states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[tokio::test]
    async fn ports_of_listeners_and_datagram_sockets_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let dual = UdpSocket::bind("[::]:0").unwrap();
        let port = |address: io::Result<std::net::SocketAddr>| address.unwrap().port();
        let ports = [tcp.local_addr(), udp.local_addr(), dual.local_addr()].map(port);
        let mut reader = None;
        let found = read(&mut reader).await.unwrap();
        assert!(ports.iter().all(|port| has(&found, *port)), "{ports:?}");
        drop((tcp, udp, dual));
        // Another program may have taken one of them since.
        let found = read(&mut reader).await.unwrap();
        assert!(!ports.iter().all(|port| has(&found, *port)), "{ports:?}");
    }

    #[tokio::test]
    async fn after_an_error_another_socket_is_asked() {
        // Nobody in the kernel listens to this protocol.
        const USERSOCK: isize = 2;
        let socket = TokioSocket::new(USERSOCK).unwrap();
        let mut reader = Some(Reader { socket, datagram: Vec::new() });
        read(&mut reader).await.unwrap_err();
        read(&mut reader).await.unwrap();
        assert!(reader.is_some(), "it is asked again");
    }
}
