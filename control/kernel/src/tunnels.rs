//! The kernel's own tunnels that are no links: L2TP over IP, and PPTP.
//!
//! L2TP tells of its tunnels by generic netlink (`include/uapi/linux/l2tp.h`). PPTP tells nobody
//! (`drivers/net/ppp/pptp.c`): there the control connection tells, TCP port 1723 at either end,
//! without which no tunnel lives (RFC 2637 §3.1). Neither is asked while the kernel has not loaded
//! it.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::stream::TryStreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{SocketId, StateFlags};
use weir_layout::protocol::{GRE, L2TP};
use weir_view::Peer;

use crate::bound;

/// Port of PPTP's control connections.
const PPTP: u16 = 1723;

/// Reads them.
#[derive(Default)]
pub struct Tunnels {
    l2tp: Option<GenetlinkHandle>,
}

impl Tunnels {
    /// Those that are there now.
    ///
    /// # Errors
    /// When the kernel has some and does not say which.
    pub async fn read(&mut self) -> io::Result<Vec<Peer>> {
        // A line for each protocol that has sockets, by its name.
        let loaded = std::fs::read_to_string("/proc/net/protocols")?;
        let has = |name: &str| loaded.lines().any(|line| line.starts_with(name));
        let mut found = Vec::new();
        if has("L2TP/IP") {
            found.extend(self.l2tp().await?);
        }
        if has("PPTP") {
            found.extend(pptp().await?);
        }
        Ok(found)
    }

    async fn l2tp(&mut self) -> io::Result<Vec<Peer>> {
        let handle = match &mut self.l2tp {
            Some(handle) => handle,
            none => {
                let (connection, handle, _) = genetlink::new_connection()?;
                tokio::spawn(connection);
                none.insert(handle)
            }
        };
        let mut request = NetlinkMessage::from(GenlMessage::from_payload(Tunnel::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut replies = handle.request(request).await.map_err(io::Error::other)?;
        let mut found = Vec::new();
        while let Some(reply) = replies.try_next().await.map_err(io::Error::other)? {
            match reply.payload {
                NetlinkPayload::InnerMessage(message) => found.extend(message.payload.peer()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The far ends of the gateway's control connections, of IPv4, by sockets of either family: PPTP
/// has no other.
async fn pptp() -> io::Result<Vec<Peer>> {
    let mut found = connections(StateFlags::ESTABLISHED, [PPTP, 0]).await?;
    found.extend(begun_here(connections(StateFlags::ESTABLISHED, [0, PPTP]).await?).await?);
    let peer = |ends: SocketId| {
        let ends = [ends.source_address, ends.destination_address];
        let [local, remote] = ends.map(|end| end.to_canonical());
        local.is_ipv4().then_some(Peer { protocol: GRE, local, remote })
    };
    Ok(found.into_iter().filter_map(peer).collect())
}

/// Those of the gateway's clients. Anybody may connect to a service of the gateway from port 1723: what
/// was accepted has the end of the socket that listens for it.
async fn begun_here(mut found: Vec<SocketId>) -> io::Result<Vec<SocketId>> {
    if found.is_empty() {
        return Ok(found);
    }
    let listening = connections(StateFlags::LISTEN, [0; 2]).await?;
    let end = |socket: &SocketId| (socket.source_address.to_canonical(), socket.source_port);
    let listening: HashSet<_> = listening.iter().map(end).collect();
    found.retain(|socket| {
        let (own, port) = end(socket);
        let by = [own, Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        !by.iter().any(|address| listening.contains(&(*address, port)))
    });
    Ok(found)
}

/// Sockets of TCP with these ports, here and there, of which 0 is any; of both families.
async fn connections(states: StateFlags, [here, there]: [u16; 2]) -> io::Result<Vec<SocketId>> {
    let mut found = Vec::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let ends = SocketId { source_port: here, destination_port: there, ..any };
        found.extend(bound::connections(family, IPPROTO_TCP, states.clone(), ends).await?);
    }
    Ok(found)
}

/// A tunnel of L2TP.
#[derive(Clone, Copy, Debug, Default)]
struct Tunnel {
    over_ip: bool,
    local: Option<IpAddr>,
    remote: Option<IpAddr>,
}

impl Tunnel {
    /// Its far end, where it has no ports.
    fn peer(self) -> Option<Peer> {
        let (local, remote) = self.local.zip(self.remote)?;
        self.over_ip.then_some(Peer { protocol: L2TP, local, remote })
    }
}

const TUNNEL_GET: u8 = 4;
const VERSION: u8 = 1;
/// Attributes of a tunnel.
const ENCAPSULATION: u16 = 2;
const LOCAL: u16 = 24;
const REMOTE: u16 = 25;
const LOCAL6: u16 = 31;
const REMOTE6: u16 = 32;
/// Of encapsulation: in IP, not UDP.
const IN_IP: [u8; 2] = 1u16.to_ne_bytes();

impl GenlFamily for Tunnel {
    fn family_name() -> &'static str {
        "l2tp"
    }

    fn command(&self) -> u8 {
        TUNNEL_GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

/// A request for all of them names none.
impl Emitable for Tunnel {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Tunnel {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut tunnel = Self::default();
        let four = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
        let six = |bytes: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into());
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            match (attribute.kind(), attribute.value()) {
                (ENCAPSULATION, value) => tunnel.over_ip = value == IN_IP,
                (LOCAL, value) => tunnel.local = four(value),
                (REMOTE, value) => tunnel.remote = four(value),
                (LOCAL6, value) => tunnel.local = six(value),
                (REMOTE6, value) => tunnel.remote = six(value),
                _ => {}
            }
        }
        Ok(tunnel)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    fn attributes(of: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in of {
            bytes.extend((4 + value.len() as u16).to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn peer(of: &[(u16, &[u8])]) -> Option<Peer> {
        let header = GenlHeader { cmd: 1, version: VERSION };
        Tunnel::parse_with_param(&attributes(of), header).ok()?.peer()
    }

    #[test]
    fn a_tunnel_of_l2tp_is_without_ports_if_it_is_not_in_udp() {
        let ends: [(u16, &[u8]); 2] = [(LOCAL, &[192, 0, 2, 1]), (REMOTE, &[198, 51, 100, 7])];
        let with = |encapsulation: u16| {
            peer(&[ends[0], (ENCAPSULATION, &encapsulation.to_ne_bytes()), ends[1]])
        };
        let [local, remote] = [[192, 0, 2, 1], [198, 51, 100, 7]].map(IpAddr::from);
        assert_eq!(with(1), Some(Peer { protocol: 115, local, remote }));
        assert_eq!((with(0), peer(&ends)), (None, None));
        let six = peer(&[(ENCAPSULATION, &IN_IP), (LOCAL6, &[1; 16]), (REMOTE6, &[2; 16])]);
        assert_eq!(six.unwrap().remote, IpAddr::from([2; 16]));
        assert_eq!(peer(&[(ENCAPSULATION, &IN_IP), (LOCAL, &[1; 3]), (REMOTE, &[2; 4])]), None);
    }

    /// How many control connections with this far end there are.
    async fn with(remote: Ipv4Addr) -> usize {
        let found = pptp().await.unwrap();
        found.iter().filter(|peer| (peer.protocol, peer.remote) == (GRE, remote.into())).count()
    }

    #[tokio::test]
    async fn a_control_connection_of_pptp_tells_of_its_far_end_whoever_began_it() {
        let [here, there] = [Ipv4Addr::new(127, 0, 0, 71), Ipv4Addr::new(127, 0, 0, 72)];
        let server = TcpListener::bind((there, PPTP)).unwrap();
        let client = connect((here, 0).into(), server.local_addr().unwrap());
        let _accepted = server.accept().unwrap();
        assert_eq!((with(there).await, with(here).await), (1, 1), "both ends are here");
        drop(client);
    }

    #[tokio::test]
    async fn who_connects_from_pptps_port_to_a_service_of_the_gateway_is_no_server_of_it() {
        let asker = Ipv4Addr::new(127, 0, 0, 73);
        for listener in ["127.0.0.74:0", "[::]:0"] {
            let service = TcpListener::bind(listener).unwrap();
            let port = service.local_addr().unwrap().port();
            let to = ([127, 0, 0, 74], port).into();
            let client = connect((asker, PPTP).into(), to);
            let _accepted = service.accept().unwrap();
            assert_eq!(with(asker).await, 0, "{listener}");
            drop(client);
        }
    }

    fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket.into()
    }

    #[tokio::test]
    async fn a_kernel_without_them_has_none() {
        let mut tunnels = Tunnels::default();
        let asked = tunnels.l2tp().await;
        assert!(asked.is_err() || asked.unwrap().is_empty(), "no such family, or no tunnel");
        tunnels.read().await.unwrap();
    }
}
