//! Whom the gateway itself speaks with by protocols without ports: hosts of LANs must not get the
//! address that its answers come to.
//!
//! Tunnels are links, of which the kernel tells, but for [some](crate::tunnels). IPsec associations and
//! raw sockets are looked at with each reading of the view, once a second at least: to open one is no
//! event.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::link::{InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoVti, LinkInfo};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use weir_layout::protocol::{AH, ESP, GRE, IPIP, IPV6, SCTP, is_portless};
use weir_service::Complaint;
use weir_view::Peer;

use crate::tunnels::Tunnels;

/// Receives no packet (raw(7)).
const IPPROTO_RAW: u8 = 255;

/// The far end of a tunnel, by what the kernel says of its link.
pub fn of_link(infos: &[LinkInfo]) -> Vec<Peer> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let (protocols, local, remote): (&[u8], _, _) = match data {
        Some(InfoData::GreTun(of) | InfoData::GreTap(of) | InfoData::ErSpan(of)) => {
            let address = |which: fn(&InfoGre) -> Option<Ipv4Addr>| {
                IpAddr::V4(of.iter().find_map(which).unwrap_or(Ipv4Addr::UNSPECIFIED))
            };
            let local = address(|it| if let InfoGre::Local(of) = it { Some(*of) } else { None });
            let remote = address(|it| if let InfoGre::Remote(of) = it { Some(*of) } else { None });
            (&[GRE], local, remote)
        }
        Some(InfoData::GreTun6(of) | InfoData::GreTap6(of) | InfoData::Ip6ErSpan(of)) => {
            let address = |which: fn(&InfoGre6) -> Option<Ipv6Addr>| {
                IpAddr::V6(of.iter().find_map(which).unwrap_or(Ipv6Addr::UNSPECIFIED))
            };
            let local = address(|it| if let InfoGre6::Local(of) = it { Some(*of) } else { None });
            let remote = address(|it| if let InfoGre6::Remote(of) = it { Some(*of) } else { None });
            (&[GRE], local, remote)
        }
        Some(InfoData::IpTunnel(of)) => {
            let local = |it: &_| if let InfoIpTunnel::Local(of) = it { Some(*of) } else { None };
            let remote = |it: &_| if let InfoIpTunnel::Remote(of) = it { Some(*of) } else { None };
            let [local, remote] = ends(of.iter().find_map(local), of.iter().find_map(remote));
            (&[IPIP, IPV6], local, remote)
        }
        Some(InfoData::Vti(of)) => {
            let local = |it: &_| if let InfoVti::Local(of) = it { Some(*of) } else { None };
            let remote = |it: &_| if let InfoVti::Remote(of) = it { Some(*of) } else { None };
            let [local, remote] = ends(of.iter().find_map(local), of.iter().find_map(remote));
            (&[ESP, AH], local, remote)
        }
        _ => return Vec::new(),
    };
    protocols.iter().map(|protocol| Peer { protocol: *protocol, local, remote }).collect()
}

/// Both ends, of which one that is not said is any of the family.
fn ends(local: Option<IpAddr>, remote: Option<IpAddr>) -> [IpAddr; 2] {
    let any = match local.or(remote) {
        Some(IpAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    [local.unwrap_or(any), remote.unwrap_or(any)]
}

/// Looks at associations and raw sockets.
#[derive(Default)]
pub struct Peers {
    xfrm: Option<TokioSocket>,
    /// Associations that were there when the kernel last told of them.
    associations: Vec<Peer>,
    untold: Complaint,
    tunnels: Tunnels,
    /// Tunnels that are no links that were there then.
    silent: Vec<Peer>,
    silent_untold: Complaint,
}

impl Peers {
    /// Those that are there now, without one twice; while the kernel does not tell of associations,
    /// those that were.
    pub async fn read(&mut self) -> Vec<Peer> {
        let mut found = sockets();
        match self.associations().await {
            Ok(peers) => {
                self.associations = peers;
                self.untold.say(None);
            }
            Err(error) => {
                // What it has not read yet would be taken for the next answer.
                self.xfrm = None;
                self.untold.say(Some(format!(
                    "the gateway's own IPsec associations are taken to be as they were: {error}"
                )));
            }
        }
        match self.tunnels.read().await {
            Ok(peers) => {
                self.silent = peers;
                self.silent_untold.say(None);
            }
            Err(error) => self.silent_untold.say(Some(format!(
                "the gateway's own tunnels of PPTP and L2TP are taken to be as they were: {error}"
            ))),
        }
        found.extend(&self.associations);
        found.extend(&self.silent);
        found.sort_unstable();
        found.dedup();
        found
    }

    async fn associations(&mut self) -> io::Result<Vec<Peer>> {
        /// `NETLINK_XFRM` (linux/netlink.h).
        const XFRM: isize = 6;
        let socket = match self.xfrm.take() {
            Some(socket) => socket,
            None => match TokioSocket::new(XFRM) {
                Ok(mut socket) => {
                    socket.socket_mut().bind_auto()?;
                    socket
                }
                // A kernel without IPsec.
                Err(_) => return Ok(Vec::new()),
            },
        };
        socket.send(&xfrm::dump()).await?;
        let mut found = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(xfrm::DATAGRAM);
            socket.recv(&mut datagram).await?;
            if xfrm::read(&datagram, &mut found)? {
                break;
            }
        }
        self.xfrm = Some(socket);
        Ok(found)
    }
}

/// Associations of IPsec (linux/xfrm.h).
mod xfrm {
    use super::*;

    /// More than the kernel puts in one datagram of a dump.
    pub const DATAGRAM: usize = 64 << 10;
    const HEADER: usize = 16;
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    const NEW_ASSOCIATION: u16 = 16;
    const GET_ASSOCIATION: u16 = 18;
    /// Where `struct xfrm_usersa_info` has its parts, and its length.
    const TO: usize = 56;
    const PROTOCOL: usize = 76;
    const FROM: usize = 80;
    const FAMILY: usize = 212;
    const LENGTH: usize = 224;
    /// In UDP: its packets have ports.
    const ENCAPSULATED: u16 = 4;
    const AF_INET: u16 = 2;

    /// Asks for all of them.
    pub fn dump() -> [u8; HEADER] {
        const REQUEST_DUMP: u16 = 0x301;
        let mut message = [0; HEADER];
        message[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        message[4..6].copy_from_slice(&GET_ASSOCIATION.to_ne_bytes());
        message[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
        message
    }

    /// Enters those of a datagram; was it the last?
    pub fn read(mut rest: &[u8], found: &mut Vec<Peer>) -> io::Result<bool> {
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let [a, b, c, d, e, f, ..] = *header;
            let len = u32::from_ne_bytes([a, b, c, d]) as usize;
            let body = rest.get(HEADER..len).ok_or(io::ErrorKind::InvalidData)?;
            match u16::from_ne_bytes([e, f]) {
                DONE => return Ok(true),
                ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                NEW_ASSOCIATION => found.extend(association(body)),
                _ => {}
            }
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(false)
    }

    /// One that comes in has the gateway's address as its destination. One that goes out is not told
    /// from it here, and has another's.
    fn association(body: &[u8]) -> Option<Peer> {
        let family = u16::from_ne_bytes(*body.get(FAMILY..)?.first_chunk()?);
        let address = |at: usize| -> Option<IpAddr> {
            let bytes = body.get(at..at + 16)?;
            Some(match family {
                AF_INET => IpAddr::from(*bytes.first_chunk::<4>()?),
                _ => IpAddr::from(*bytes.first_chunk::<16>()?),
            })
        };
        let (local, remote, protocol) = (address(TO)?, address(FROM)?, *body.get(PROTOCOL)?);
        let mut attributes = body.get(LENGTH..).unwrap_or(&[]);
        while let Some([a, b, c, d]) = attributes.first_chunk() {
            if u16::from_ne_bytes([*c, *d]) == ENCAPSULATED {
                return None;
            }
            let len = usize::from(u16::from_ne_bytes([*a, *b])).max(4).next_multiple_of(4);
            attributes = attributes.get(len..).unwrap_or(&[]);
        }
        Some(Peer { protocol, local, remote })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn message(kind: u16, body: &[u8]) -> Vec<u8> {
            let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
            message.extend(kind.to_ne_bytes());
            message.resize(HEADER, 0);
            message.extend(body);
            message
        }

        fn body(attribute: u16) -> Vec<u8> {
            let mut body = vec![0; LENGTH];
            body[TO..TO + 4].copy_from_slice(&[192, 0, 2, 1]);
            body[FROM..FROM + 4].copy_from_slice(&[198, 51, 100, 7]);
            body[PROTOCOL] = ESP;
            body[FAMILY..FAMILY + 2].copy_from_slice(&AF_INET.to_ne_bytes());
            body.extend([8u16.to_ne_bytes(), attribute.to_ne_bytes(), [0; 2], [0; 2]].concat());
            body
        }

        #[test]
        fn associations_are_read_but_for_those_in_udp() {
            let mut found = Vec::new();
            let mut datagram = message(NEW_ASSOCIATION, &body(1));
            datagram.extend(message(NEW_ASSOCIATION, &body(ENCAPSULATED)));
            assert!(!read(&datagram, &mut found).unwrap());
            assert!(read(&message(DONE, &[0; 4]), &mut found).unwrap());
            let [local, remote] = [[192, 0, 2, 1], [198, 51, 100, 7]].map(IpAddr::from);
            assert_eq!(found, [Peer { protocol: ESP, local, remote }]);
            for end in 0..datagram.len() {
                let _ = read(&datagram[..end], &mut found);
            }
            assert!(read(&message(ERROR, &(-1i32).to_ne_bytes()), &mut found).is_err());
        }
    }
}

/// Raw sockets, and those of SCTP, which the kernel lists as lines of text.
fn sockets() -> Vec<Peer> {
    let text = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut found = raw_sockets::<4>(&text("/proc/net/raw"));
    found.extend(raw_sockets::<16>(&text("/proc/net/raw6")));
    // Its sockets may have any of the gateway's addresses, and several remotes'.
    if text("/proc/net/sctp/eps").lines().count() > 1 {
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        found.extend(any.map(|any| Peer { protocol: SCTP, local: any, remote: any }));
    }
    found
}

/// Those of `/proc/net/raw` or `raw6`, whose addresses have so many bytes: words of 32 bits as numbers
/// in hexadecimal, and behind them the protocol.
fn raw_sockets<const LEN: usize>(text: &str) -> Vec<Peer> {
    let end = |field: &str| -> Option<(IpAddr, u8)> {
        let (address, protocol) = field.split_once(':')?;
        let mut bytes = [0; LEN];
        for (at, word) in bytes.chunks_exact_mut(4).enumerate() {
            let digits = address.get(at * 8..at * 8 + 8)?;
            word.copy_from_slice(&u32::from_str_radix(digits, 16).ok()?.to_ne_bytes());
        }
        let address = match bytes.first_chunk::<16>() {
            Some(bytes) => IpAddr::from(*bytes),
            None => IpAddr::from(*bytes.first_chunk::<4>()?),
        };
        Some((address, u16::from_str_radix(protocol, 16).ok()?.try_into().ok()?))
    };
    let peer = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let ((local, protocol), (remote, _)) = (end(fields.next()?)?, end(fields.next()?)?);
        let waits = is_portless(protocol) && protocol != IPPROTO_RAW;
        waits.then_some(Peer { protocol, local, remote })
    };
    text.lines().skip(1).filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::InfoKind;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_tunnel_has_the_ends_that_its_link_says_and_others_have_any() {
        let of = |data| of_link(&[LinkInfo::Kind(InfoKind::GreTun), LinkInfo::Data(data)]);
        let [a, b] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 7)];
        let gre = of(InfoData::GreTun(vec![InfoGre::Local(a), InfoGre::Remote(b)]));
        assert_eq!(gre, [Peer { protocol: GRE, local: a.into(), remote: b.into() }]);
        let gre = of(InfoData::GreTap(vec![InfoGre::Local(a)]));
        assert_eq!(gre, [Peer { protocol: GRE, local: a.into(), remote: ip("0.0.0.0") }]);
        let sit = of(InfoData::IpTunnel(vec![InfoIpTunnel::Remote(b.into())]));
        let any = ip("0.0.0.0");
        let peer = |protocol| Peer { protocol, local: any, remote: b.into() };
        assert_eq!(sit, [peer(IPIP), peer(IPV6)]);
        let six = of(InfoData::GreTun6(vec![InfoGre6::Remote(Ipv6Addr::LOCALHOST)]));
        assert_eq!((six[0].local, six[0].remote), (ip("::"), ip("::1")));
        assert_eq!(of(InfoData::Vti(vec![InfoVti::Local(a.into())]))[0].protocol, ESP);
        assert_eq!(of_link(&[LinkInfo::Kind(InfoKind::Veth)]), []);
    }

    #[test]
    fn raw_sockets_of_protocols_without_ports_are_read() {
        let word = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let (local, remote) = (word([192, 0, 2, 1]), word([198, 51, 100, 7]));
        let text = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n\
             \x20  47: {local}:002F {remote}:0000 07 00000000:00000000 00:00000000 00000000 0\n\
             \x20   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000 0\n\
             \x20 255: 00000000:00FF 00000000:0000 07 00000000:00000000 00:00000000 00000000 0\n\
             \x20 oops\n"
        );
        let peer = Peer { protocol: GRE, local: ip("192.0.2.1"), remote: ip("198.51.100.7") };
        assert_eq!(raw_sockets::<4>(&text), [peer]);
        let six = format!("sl\n 50: {}:0032 {}:0000 07\n", "0".repeat(32), "0".repeat(32));
        let peer = Peer { protocol: ESP, local: ip("::"), remote: ip("::") };
        assert_eq!(raw_sockets::<16>(&six), [peer]);
    }

    #[tokio::test]
    async fn while_the_kernel_does_not_tell_of_associations_those_that_were_stand() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let known = Peer { protocol: ESP, local: address, remote: address };
        // Nobody is at the other end.
        const USERSOCK: isize = 2;
        let deaf = TokioSocket::new(USERSOCK).unwrap();
        let mut peers = Peers { xfrm: Some(deaf), associations: vec![known], ..Peers::default() };
        assert!(peers.read().await.contains(&known));
    }

    #[tokio::test]
    async fn the_kernel_tells_of_its_associations_and_a_raw_socket_is_found() {
        use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
        const PROTOCOL: u8 = 253;
        let protocol = std::num::NonZeroU32::new(PROTOCOL.into()).map(Protocol::from_raw);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::RAW, flags, protocol).unwrap();
        let mut peers = Peers::default();
        let of_ours = |peers: Vec<Peer>| peers.iter().any(|peer| peer.protocol == PROTOCOL);
        assert!(of_ours(peers.read().await));
        peers.associations().await.unwrap();
        drop(socket);
        assert!(!of_ours(peers.read().await));
    }
}
