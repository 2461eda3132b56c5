//! Who has a LAN address, by the kernel's tables: of which the gateway's own ARP is the writer.

use std::net::Ipv4Addr;

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

/// Asks the kernel. Each question is answered before its system call returns.
#[derive(Debug)]
pub struct Owners {
    socket: Socket,
}

impl Owners {
    /// A socket for questions.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new() -> std::io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Who has the address, or is the router to it, behind the interface with this index. What the
    /// kernel does not know, or not for sure, it begins to find out.
    pub fn of(&self, interface: u32, address: [u8; 4]) -> Owner {
        let Some(address) = self.next_hop(interface, address.into()) else { return Owner::Nobody };
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Inet;
        query.header.ifindex = interface;
        query.attributes.push(destination(address));
        let known = match self.ask(RouteNetlinkMessage::GetNeighbour(query), NLM_F_REQUEST) {
            Some(RouteNetlinkMessage::NewNeighbour(known)) => Some(known),
            _ => None,
        };
        let state = known.as_ref().map_or(NeighbourState::None, |known| known.header.state);
        let mac = known.iter().flat_map(|known| &known.attributes).find_map(|attribute| {
            let NeighbourAttribute::LinkLayerAddress(mac) = attribute else { return None };
            <[u8; 6]>::try_from(mac.as_slice()).ok()
        });
        match (state, mac) {
            (NeighbourState::Failed, _) => Owner::Nobody,
            (NeighbourState::None, _) => {
                self.resolve(interface, address);
                Owner::Asked
            }
            (NeighbourState::Stale, Some(mac)) => {
                self.resolve(interface, address);
                Owner::At(mac)
            }
            (_, Some(mac)) => Owner::At(mac),
            (_, None) => Owner::Asked,
        }
    }

    /// The neighbour by which packets to the address leave; `None`: not by this interface.
    fn next_hop(&self, interface: u32, address: Ipv4Addr) -> Option<Ipv4Addr> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        query.header.destination_prefix_length = 32;
        query.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
        let reply = self.ask(RouteNetlinkMessage::GetRoute(query), NLM_F_REQUEST)?;
        let RouteNetlinkMessage::NewRoute(route) = reply else { return None };
        let leaves = route.attributes.contains(&RouteAttribute::Oif(interface));
        let gateway = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
            _ => None,
        });
        leaves.then(|| gateway.unwrap_or(address))
    }

    /// Makes the kernel find out, or check, a neighbour's hardware address (`NTF_USE`,
    /// `net/core/neighbour.c`).
    fn resolve(&self, interface: u32, address: Ipv4Addr) {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = AddressFamily::Inet;
        neighbour.header.ifindex = interface;
        neighbour.header.flags = NeighbourFlags::Use;
        neighbour.attributes.push(destination(address));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(neighbour), flags);
    }

    /// The reply, if it is not an error or an acknowledgement.
    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> Option<RouteNetlinkMessage> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).ok()?;
        let mut reply = Vec::with_capacity(REPLY);
        self.socket.recv(&mut reply, 0).ok()?;
        match NetlinkMessage::deserialize(&reply).ok()?.payload {
            NetlinkPayload::InnerMessage(message) => Some(message),
            _ => None,
        }
    }
}

fn destination(address: Ipv4Addr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(NeighbourAddress::Inet(address))
}
