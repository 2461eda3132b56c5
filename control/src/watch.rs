//! The gateway's view of the kernel: links, addresses, routes and neighbours, by netlink.
//!
//! Events only say that something changed; the whole view is then read anew. A lost event cannot
//! leave it wrong for longer than the next one, or the daemon's own tick.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::stream::{StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use rtnetlink::{Handle, MulticastGroup};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero if it has none of six bytes.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Up, and with carrier.
    pub running: bool,
    /// For a VLAN device: its parent's index and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// Receive queues in use.
    pub queues: u32,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: Ipv4Net,
    /// Next hop; none: on link.
    pub gateway: Option<Ipv4Addr>,
    /// Outgoing interface.
    pub interface: u32,
    /// Priority; lower is better.
    pub metric: u32,
}

/// A neighbour's hardware address and whether the kernel still vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Known good, or being checked; otherwise it should be asked for again.
    pub fresh: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Interfaces.
    pub links: Vec<Link>,
    /// IPv4 addresses with their prefix lengths, by interface index, in the kernel's order.
    pub addresses: Vec<(u32, Ipv4Net)>,
    /// IPv4 routes of the main table.
    pub routes: Vec<Route>,
    /// IPv4 neighbours with a hardware address.
    pub neighbours: HashMap<(u32, Ipv4Addr), NeighbourEntry>,
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: (u16, u16),
}

impl Kernel {
    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Networks that an interface is on.
    pub fn networks(&self, index: u32) -> Vec<Ipv4Net> {
        let mut networks: Vec<_> = self
            .addresses
            .iter()
            .filter(|(i, _)| *i == index)
            .map(|(_, net)| net.trunc())
            .collect();
        networks.dedup();
        networks
    }

    /// Addresses of an interface.
    pub fn addresses_of(&self, index: u32) -> Vec<Ipv4Addr> {
        self.addresses.iter().filter(|(i, _)| *i == index).map(|(_, net)| net.addr()).collect()
    }

    /// Next hop of the best default route by an interface.
    pub fn default_next_hop(&self, index: u32) -> Option<Ipv4Addr> {
        let default = |r: &&Route| r.interface == index && r.destination.prefix_len() == 0;
        self.routes.iter().filter(default).min_by_key(|r| r.metric)?.gateway
    }
}

/// The connection to the kernel.
pub struct Watcher {
    handle: Handle,
    ethtool: ethtool::EthtoolHandle,
    events: futures_util::stream::BoxStream<'static, ()>,
}

impl Watcher {
    /// Subscribes to changes. Needs a tokio runtime, which drives it.
    pub fn new() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Neigh,
        ];
        let (connection, handle, events) =
            rtnetlink::new_multicast_connection(&groups).context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        let (connection, ethtool, _) =
            ethtool::new_connection().context("cannot open an ethtool socket")?;
        tokio::spawn(connection);
        Ok(Self { handle, ethtool, events: events.map(|_| ()).boxed() })
    }

    /// Returns when something changed since the last call.
    pub async fn changed(&mut self) {
        if self.events.next().await.is_none() {
            // The connection ended; the daemon's tick goes on alone.
            std::future::pending::<()>().await;
        }
    }

    /// Reads everything.
    pub async fn read(&mut self) -> Result<Kernel> {
        let mut kernel = Kernel { local_ports: local_ports()?, ..Kernel::default() };
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.context("cannot list interfaces")? {
            kernel.links.extend(link(&message));
        }
        for link in &mut kernel.links {
            link.queues = self.queues(&link.name).await.unwrap_or(1).max(1);
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("cannot list addresses")? {
            let local = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            let net = local.and_then(|a| Ipv4Net::new(a, message.header.prefix_len).ok());
            kernel.addresses.extend(net.map(|net| (message.header.index, net)));
        }
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let mut routes = self.handle.route().get(query).execute();
        while let Some(message) = routes.try_next().await.context("cannot list routes")? {
            kernel.routes.extend(route(&message));
        }
        let mut neighbours = self.handle.neighbours().get().execute();
        while let Some(message) = neighbours.try_next().await.context("cannot list neighbours")? {
            let (mut address, mut mac) = (None, None);
            for attribute in &message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
                        address = Some(*a)
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = bytes.as_slice().try_into().ok()
                    }
                    _ => {}
                }
            }
            let state = message.header.state;
            let lost = matches!(
                state,
                NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None
            );
            if let (Some(address), Some(mac), false) = (address, mac, lost) {
                let entry = NeighbourEntry { mac, fresh: state != NeighbourState::Stale };
                kernel.neighbours.insert((message.header.ifindex, address), entry);
            }
        }
        Ok(kernel)
    }

    /// Makes the kernel find out, or check, a neighbour's hardware address (`NTF_USE`,
    /// `net/core/neighbour.c`).
    pub async fn resolve(&self, interface: u32, address: Ipv4Addr) {
        let request = self
            .handle
            .neighbours()
            .add(interface, IpAddr::V4(address))
            .flags(NeighbourFlags::Use)
            .state(NeighbourState::None);
        if let Err(error) = request.replace().execute().await {
            tracing::debug!(%address, "cannot ask for a neighbour: {error}");
        }
    }

    async fn queues(&mut self, interface: &str) -> Option<u32> {
        let mut replies = self.ethtool.channel().get(Some(interface)).execute().await.ok()?;
        let reply = replies.try_next().await.ok()??;
        let mut queues = 0;
        for attribute in &reply.payload.nlas {
            if let ethtool::EthtoolAttr::Channel(
                ethtool::EthtoolChannelAttr::RxCount(n)
                | ethtool::EthtoolChannelAttr::CombinedCount(n),
            ) = attribute
            {
                queues += n;
            }
        }
        Some(queues)
    }
}

fn local_ports() -> Result<(u16, u16)> {
    const PATH: &str = "/proc/sys/net/ipv4/ip_local_port_range";
    let text = std::fs::read_to_string(PATH).with_context(|| format!("cannot read {PATH}"))?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(lo)), Some(Ok(hi))) => Ok((lo, hi)),
        _ => anyhow::bail!("{PATH} holds {text:?}, not two ports"),
    }
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        running: message.header.flags.contains(LinkFlags::LowerUp | LinkFlags::Up),
        vlan: None,
        queues: 1,
    };
    let (mut parent, mut id) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or([0; 6])
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Data(InfoData::Vlan(data)) = info {
                        id = data.iter().find_map(|d| match d {
                            InfoVlan::Id(id) => Some(*id),
                            _ => None,
                        });
                    }
                }
            }
            _ => {}
        }
    }
    link.vlan = parent.zip(id);
    (!link.name.is_empty()).then_some(link)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let mut table = u32::from(message.header.table);
    let (mut destination, mut gateway, mut interface, mut metric) =
        (Ipv4Addr::UNSPECIFIED, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    let main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    Some(Route { destination, gateway, interface: interface?, metric }).filter(|_| main)
}
