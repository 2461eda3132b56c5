//! Who has a LAN address, by the kernel's tables: of which the gateway's own ARP is the writer.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::engine::Owner;

/// Room for a reply: a route or a neighbour has a few hundred bytes of attributes.
const REPLY: usize = 8192;

/// How long after one neighbour of IPv6 was [looked for](Owners::known) the next may be.
const SEARCH_MS: u64 = 1000;

/// Asks the kernel. Each question is answered before its system call returns.
#[derive(Debug)]
pub struct Owners {
    socket: Socket,
    /// Sequence number of the last question.
    asked: Cell<u32>,
    /// When a neighbour of IPv6 may be looked for, CLOCK_MONOTONIC milliseconds.
    search_from: Cell<u64>,
}

impl Owners {
    /// A socket for questions.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, asked: Cell::new(0), search_from: Cell::new(0) })
    }

    /// Who has the address, or is the router to it, behind the interface with this index. What the
    /// kernel does not know, or not for sure, it begins to find out.
    pub fn of(&self, interface: u32, address: IpAddr) -> Owner {
        self.look(interface, address, true).unwrap_or(Owner::Unknown)
    }

    /// The same, as far as the kernel knows: it finds out nothing, however many addresses somebody
    /// makes up. But of IPv6 it looks for one a second: hosts hear the gateway's hardware address by
    /// router advertisements, and solicit from their address of the link (RFC 4861 §6.3.4, §7.2.2), so
    /// that the kernel need never hear of the one that they send to the Internet from.
    pub fn known(&self, interface: u32, address: IpAddr, now: u64) -> Owner {
        let known = self.look(interface, address, false).unwrap_or(Owner::Unknown);
        if known == Owner::Asked && address.is_ipv6() && now >= self.search_from.get() {
            self.search_from.set(now + SEARCH_MS);
            return self.of(interface, address);
        }
        known
    }

    /// The same, as far as the kernel knows now: it begins to find out nothing.
    pub fn told(&self, interface: u32, address: IpAddr) -> Owner {
        self.look(interface, address, false).unwrap_or(Owner::Unknown)
    }

    fn look(&self, interface: u32, address: IpAddr, find_out: bool) -> io::Result<Owner> {
        let Some(address) = self.next_hop(interface, address)? else { return Ok(Owner::Nobody) };
        let mut query = NeighbourMessage::default();
        query.header.family = family_of(address);
        query.header.ifindex = interface;
        query.attributes.push(destination(address));
        let known = match self.ask(RouteNetlinkMessage::GetNeighbour(query), NLM_F_REQUEST) {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(known))) => Some(known),
            Ok(_) => return Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let state = known.as_ref().map_or(NeighbourState::None, |known| known.header.state);
        let mac = known.iter().flat_map(|known| &known.attributes).find_map(|attribute| {
            let NeighbourAttribute::LinkLayerAddress(mac) = attribute else { return None };
            <[u8; 6]>::try_from(mac.as_slice()).ok()
        });
        // One that did not answer may have come since.
        let open =
            matches!(state, NeighbourState::None | NeighbourState::Stale | NeighbourState::Failed);
        if find_out && open {
            self.resolve(interface, address);
        }
        Ok(match (state, mac) {
            (NeighbourState::Failed, _) => Owner::Nobody,
            (NeighbourState::None, _) | (_, None) => Owner::Asked,
            (_, Some(mac)) => Owner::At(mac),
        })
    }

    /// The neighbour by which packets to the address leave; `None`: not by this interface.
    fn next_hop(&self, interface: u32, address: IpAddr) -> io::Result<Option<IpAddr>> {
        let mut query = RouteMessage::default();
        let (length, destination) = match address {
            IpAddr::V4(address) => (32, RouteAddress::Inet(address)),
            IpAddr::V6(address) => (128, RouteAddress::Inet6(address)),
        };
        query.header.address_family = family_of(address);
        query.header.destination_prefix_length = length;
        query.attributes.push(RouteAttribute::Destination(destination));
        let reply = self.ask(RouteNetlinkMessage::GetRoute(query), NLM_F_REQUEST)?;
        let Some(RouteNetlinkMessage::NewRoute(route)) = reply else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let leaves = route.attributes.contains(&RouteAttribute::Oif(interface));
        let gateway = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some((*gateway).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some((*gateway).into()),
            _ => None,
        });
        Ok(leaves.then(|| gateway.unwrap_or(address)))
    }

    /// Makes the kernel find out, or check, a neighbour's hardware address (`NTF_USE`,
    /// `net/core/neighbour.c`).
    fn resolve(&self, interface: u32, address: IpAddr) {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = family_of(address);
        neighbour.header.ifindex = interface;
        neighbour.header.flags = NeighbourFlags::Use;
        neighbour.attributes.push(destination(address));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        // What fails is asked for again with the next claim.
        let _ = self.ask(RouteNetlinkMessage::NewNeighbour(neighbour), flags);
    }

    /// The reply; `None`: an acknowledgement.
    ///
    /// # Errors
    /// When the kernel does not answer, or with an error.
    fn ask(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let number = self.asked.get().wrapping_add(1);
        self.asked.set(number);
        let mut request = NetlinkMessage::from(message);
        (request.header.flags, request.header.sequence_number) = (flags, number);
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let mut reply = Vec::with_capacity(REPLY);
            self.socket.recv(&mut reply, 0)?;
            let reply = NetlinkMessage::deserialize(&reply).map_err(io::Error::other)?;
            // One before it was given up, and answered late.
            if reply.header.sequence_number != number {
                continue;
            }
            return match reply.payload {
                NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                _ => Ok(None),
            };
        }
    }
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn destination(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    /// `lo`.
    const LOOPBACK: u32 = 1;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn what_is_routed_elsewhere_is_nobodys_here_and_an_error_says_nothing() {
        let mut owners = Owners::new().unwrap();
        assert_eq!(owners.of(LOOPBACK + 1, ADDRESS), Owner::Nobody);
        // One that knows no such question.
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&SocketAddr::new(0, 0)).unwrap();
        owners.socket = socket;
        assert_eq!(owners.of(LOOPBACK + 1, ADDRESS), Owner::Unknown);
    }

    #[test]
    fn the_answer_to_an_earlier_question_is_not_taken_for_that_of_a_later_one() {
        let owners = Owners::new().unwrap();
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let mut early = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(query));
        (early.header.flags, early.header.sequence_number) = (NLM_F_REQUEST, 77);
        early.finalize();
        let mut bytes = vec![0; early.buffer_len()];
        early.serialize(&mut bytes);
        owners.socket.send(&bytes, 0).unwrap();
        assert_eq!(owners.of(LOOPBACK + 1, ADDRESS), Owner::Nobody);
    }

    /// In a network namespace of its own.
    #[test]
    fn a_neighbour_of_ipv6_is_looked_for_once_a_second() {
        let looked_for = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("run as root");
            let ip = |arguments: &str| {
                let output = std::process::Command::new("ip").args(arguments.split(' ')).output();
                String::from_utf8(output.unwrap().stdout).unwrap()
            };
            ip("link add lan0 type veth peer name host");
            ip("addr add 2001:db8::1/64 dev lan0 nodad");
            ip("link set lan0 up");
            ip("link set host up");
            let interface = ip("-o link show lan0").split(':').next().unwrap().parse().unwrap();
            let owners = Owners::new().unwrap();
            [(0, 7), (10, 8), (10 + SEARCH_MS, 9)].map(|(now, host)| {
                let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host);
                assert_eq!(owners.known(interface, address.into(), now), Owner::Asked);
                ip("-6 neigh show dev lan0").contains(&address.to_string())
            })
        });
        assert_eq!(looked_for.join().unwrap(), [true, false, true]);
    }
}
