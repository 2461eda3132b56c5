//! The gateway's view of the kernel: links, addresses, routes, weir's own rules, and neighbours, by
//! netlink.
//!
//! Events only say that something changed; what they are about is then read anew, and all events that
//! came before count as dealt with. Neighbours are read every time, since one that grows stale is no
//! event. Only the loss of a carrier is taken from the event itself, by `urgent`. Events that overrun
//! the socket's buffer are lost, but not the news that some were. Requests have a socket of their own,
//! where no event takes a reply's place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::stream::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use rustix::io::Errno;

use crate::channels::Shortage;
use crate::devices::Devices;
use crate::events::{self, Event, Stale};
use crate::grace::Lost;
use crate::own::{self, Default4, Foremost, Own};
use crate::routes::Reading;
use crate::routing::{Fate, Route, Routes};
use crate::rules::{self, Rule};

/// How long a neighbour that was forgotten is waited for: as long as the kernel asks, three times a
/// second apart.
const FORGOTTEN_MS: u64 = 3000;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero if it has none of six bytes.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Up as far as the operator is concerned.
    pub up: bool,
    /// Up, and with carrier.
    pub running: bool,
    /// For a VLAN device: its parent's index and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For a macvlan device: its parent's index.
    pub macvlan: Option<u32>,
    /// The index of the device that sends by this one, such as a bond.
    pub master: Option<u32>,
    /// Its frames have no Ethernet header, or it has no hardware address: PPP, raw IP, a tunnel.
    pub headerless: bool,
    /// Receive queues in use.
    pub queues: u32,
    /// XDP can redirect frames to it.
    pub xdp_transmit: bool,
    /// What keeps XDP from that though the driver says it can.
    pub shortage: Option<Shortage>,
    /// It takes VLAN tags off the frames it receives, and XDP does not see them.
    pub strips_tags: bool,
    /// It is a bridge.
    pub bridge: bool,
}

/// A neighbour's hardware address and whether the kernel still vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Known good, or being checked; otherwise it should be asked for again.
    pub fresh: bool,
    /// Seen to answer of late, and believed for some time without a check.
    pub trusted: bool,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Interfaces.
    pub links: Vec<Link>,
    /// IPv4 addresses with their prefix lengths, by interface index, in the kernel's order.
    pub addresses: Vec<(u32, Ipv4Net)>,
    /// Those of them that packets should not be sent from: of narrower than global scope, deprecated,
    /// tentative, or already another host's.
    pub unfit: HashSet<(u32, Ipv4Addr)>,
    /// IPv4 routes of the main table: perhaps a million, and most views have the same.
    pub routes: Arc<Routes>,
    /// Those of other tables, but for weir's.
    pub tables: Arc<BTreeMap<u32, Vec<Route>>>,
    /// Others' rules for what comes in, in their order.
    pub rules: Vec<Rule>,
    /// Where others' rules of any kind begin.
    pub foremost: Foremost,
    /// Rules and routes of weir's own.
    pub own: Own,
    /// IPv4 neighbours with a hardware address.
    pub neighbours: HashMap<(u32, Ipv4Addr), NeighbourEntry>,
    /// Those that were asked and did not answer.
    pub silent: HashSet<(u32, Ipv4Addr)>,
    /// Of addresses and default routes, those that the kernel does not have at the moment.
    pub lost: Lost,
    /// Of `neighbours`, those that the kernel has forgotten, and since when, CLOCK_MONOTONIC
    /// milliseconds.
    pub forgotten: HashMap<(u32, Ipv4Addr), u64>,
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: (u16, u16),
}

impl Kernel {
    /// The interface of that index.
    pub fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Is the interface of that index up, with a carrier?
    pub fn is_running(&self, index: u32) -> bool {
        self.link_at(index).is_some_and(|link| link.running)
    }

    /// Takes over that a link has lost its carrier, without reading the view anew; says whether it
    /// is news. All else must be read: what becomes usable needs more than a carrier.
    pub fn lose_carrier(&mut self, index: u32) -> bool {
        let lost = self.links.iter_mut().find(|link| link.index == index && link.running);
        lost.map(|link| link.running = false).is_some()
    }

    /// Keeps for a while the neighbours of `before` that the kernel has forgotten by `now`, as it does
    /// when they are flushed or the interface gets another hardware address: they are to be asked
    /// again, and have not failed to answer. Likewise addresses and default routes. What goes with a
    /// carrier is lost at once.
    pub fn remember(&mut self, before: &Self, now: u64) {
        self.wait_for(before, now);
        for (key, entry) in &before.neighbours {
            let since = before.forgotten.get(key).copied().unwrap_or(now);
            if !self.neighbours.contains_key(key)
                && !self.silent.contains(key)
                && now.saturating_sub(since) < FORGOTTEN_MS
                && before.is_running(key.0)
                && self.is_running(key.0)
            {
                self.forgotten.insert(*key, since);
                let entry = NeighbourEntry { fresh: false, trusted: false, ..*entry };
                self.neighbours.insert(*key, entry);
            }
        }
    }

    /// The routes of a table.
    pub fn table(&self, table: u32) -> &[Route] {
        match table {
            rules::MAIN => &self.routes,
            other => self.tables.get(&other).map_or(&[], Vec::as_slice),
        }
    }

    /// The hardware addresses of macvlan devices on this one, which hosts behind it may know the
    /// gateway by, as with VRRP.
    pub fn virtual_macs(&self, link: &Link) -> BTreeSet<[u8; 6]> {
        let on = |other: &&Link| other.macvlan == Some(link.index) && other.up;
        self.links.iter().filter(on).map(|on| on.mac).filter(|mac| *mac != link.mac).collect()
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

    /// Next hop of the best default route by an interface, or of the one that is waited for.
    pub fn default_next_hop(&self, index: u32) -> Option<Ipv4Addr> {
        let by = self.routes.defaults().iter().filter(|route| route.interface == index);
        let best = by.min_by_key(|route| route.metric);
        best.map_or_else(|| self.lost_next_hop(index), |route| route.gateway)
    }
}

/// The connection to the kernel.
pub struct Watcher {
    handle: Handle,
    events: TokioSocket,
    /// As last read.
    view: Kernel,
    stale: Stale,
    reading: Reading,
    devices: Devices,
    /// A reading has begun; if none goes on now, it was given up.
    underway: bool,
}

/// What one reading of routes gives: those of the main table, of others, and weir's.
#[derive(Default)]
struct Found {
    main: Vec<Route>,
    tables: BTreeMap<u32, Vec<Route>>,
    own: BTreeSet<Default4>,
}

impl Watcher {
    /// Subscribes to changes. Needs a tokio runtime, which drives it.
    pub fn new() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Neigh,
        ];
        let events = subscribe(&groups).context("cannot subscribe to netlink events")?;
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        let (connection, ethtool, _) =
            ethtool::new_connection().context("cannot open an ethtool socket")?;
        tokio::spawn(connection);
        let reading = Reading::none(Instant::now());
        let (view, devices) = (Kernel::default(), Devices::new(ethtool));
        Ok(Self { handle, events, view, stale: Stale::all(), reading, devices, underway: false })
    }

    /// For other requests to the kernel.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Returns when something changed since the last [`read`](Self::read) began that is to be read
    /// now.
    pub async fn changed(&mut self) {
        let mut event = Vec::with_capacity(events::ENOUGH);
        loop {
            event.clear();
            match self.events.recv(&mut event).await {
                Ok(()) => {
                    let can_wait = self.hear(&event);
                    if !can_wait || self.reading.is_due(Instant::now()) {
                        return;
                    }
                }
                Err(error) if is_overrun(&error) => return self.lost(),
                Err(error) => {
                    tracing::error!("no more netlink events, changes are seen late: {error}");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Takes note of an event; says whether it can wait.
    fn hear(&mut self, message: &[u8]) -> bool {
        let event = Event::of(message);
        self.stale.hear(event);
        self.reading.hear(event) || event == Event::Neighbour && self.is_known(message)
    }

    /// Is this a neighbour as last read, but for how long ago it was seen? The kernel tells each time
    /// that it begins or ends to doubt one.
    fn is_known(&self, message: &[u8]) -> bool {
        let Some((key, entry)) = events::neighbour(message).as_ref().and_then(neighbour) else {
            return false;
        };
        let known = self.view.neighbours.get(&key);
        entry.zip(known).is_some_and(|(entry, known)| entry.mac == known.mac)
    }

    /// An event was lost.
    fn lost(&mut self) {
        self.hear(&[]);
    }

    /// Drops what has arrived, so that a burst of changes causes one reading of the view.
    fn forget_events(&mut self) {
        loop {
            let mut event = [0; events::ENOUGH];
            // Past the runtime, whose cooperative budget would end the loop too soon.
            match self.events.socket_ref().recv(&mut &mut event[..], 0) {
                Ok(length) => _ = self.hear(&event[..length.min(event.len())]),
                Err(error) if is_overrun(&error) => self.lost(),
                Err(_) => return,
            }
        }
    }

    /// Reads what is out of date, and neighbours. After an error all is.
    pub async fn read(&mut self) -> Result<Kernel> {
        // Before the first request: what happens from here on may be missing in the view.
        self.forget_events();
        // One that was given up half-way has perhaps not read what it took note of.
        if std::mem::replace(&mut self.underway, true) {
            self.lost();
        }
        let done = self.read_parts().await;
        self.underway = false;
        if done.is_err() {
            self.lost();
        }
        done.map(|()| self.view.clone())
    }

    async fn read_parts(&mut self) -> Result<()> {
        match crate::sysctls::local_ports() {
            Ok(ports) => self.view.local_ports = ports,
            // Without a free descriptor, say. The rest takes none.
            Err(_) if self.view.local_ports != (0, 0) => {}
            Err(error) => return Err(error),
        }
        // Before the links: a link that loses its carrier loses its neighbours after it, and one
        // that seems to have lost them alone would seem to have a silent next hop.
        self.read_neighbours().await?;
        let stale = std::mem::replace(&mut self.stale, Stale::none());
        if stale.links {
            self.view.links = self.read_links().await?;
            let up = self.view.links.iter().filter(|link| link.up).map(|link| link.index);
            self.reading.know(up.collect());
        }
        self.devices.tell(&mut self.view.links, &stale.devices).await;
        if stale.addresses {
            self.read_addresses().await?;
        }
        if stale.rules {
            let found = own::rules(&self.handle).await?;
            (self.view.own.rules, self.view.rules) = (found.own, found.others);
            self.view.foremost = found.foremost;
        }
        let begun = Instant::now();
        if self.reading.is_due(begun) {
            self.reading.begin();
            let Found { main, tables, own } = self.read_routes().await?;
            keep(&mut self.view.routes, main.into());
            keep(&mut self.view.tables, tables);
            self.view.own.routes = own;
            let now = Instant::now();
            self.reading.end(now, now - begun);
        }
        Ok(())
    }

    async fn read_neighbours(&mut self) -> Result<()> {
        let (mut known, mut silent) = (HashMap::new(), HashSet::new());
        let mut neighbours = self.handle.neighbours().get().execute();
        while let Some(message) = neighbours.try_next().await.context("cannot list neighbours")? {
            let Some((key, entry)) = neighbour(&message) else { continue };
            if message.header.state == NeighbourState::Failed {
                silent.insert(key);
            }
            known.extend(entry.map(|entry| (key, entry)));
        }
        (self.view.neighbours, self.view.silent) = (known, silent);
        Ok(())
    }

    async fn read_links(&self) -> Result<Vec<Link>> {
        let mut found = Vec::new();
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.context("cannot list interfaces")? {
            found.extend(link(&message));
        }
        Ok(found)
    }

    async fn read_addresses(&mut self) -> Result<()> {
        let (mut found, mut unfit) = (Vec::new(), HashSet::new());
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("cannot list addresses")? {
            let Some((interface, net)) = address(&message) else { continue };
            found.push((interface, net));
            if !is_fit(&message) {
                unfit.insert((interface, net.addr()));
            }
        }
        (self.view.addresses, self.view.unfit) = (found, unfit);
        Ok(())
    }

    async fn read_routes(&self) -> Result<Found> {
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let mut messages = self.handle.route().get(query).execute();
        let mut routes = Found::default();
        while let Some(message) = messages.try_next().await.context("cannot list routes")? {
            if u8::from(message.header.protocol) == own::PROTOCOL {
                routes.own.extend(own::route_of(&message));
                continue;
            }
            match table_of(&message) {
                rules::MAIN => routes.main.extend(routes_of(&message)),
                other => routes.tables.entry(other).or_default().extend(routes_of(&message)),
            }
        }
        Ok(routes)
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

    /// Makes the kernel check a neighbour now that it would believe for half a minute yet. It stays
    /// known meanwhile; one that does not answer is lost within seconds, and asked for anew.
    pub async fn doubt(&self, interface: u32, address: Ipv4Addr, mac: [u8; 6]) {
        let request = self
            .handle
            .neighbours()
            .add(interface, IpAddr::V4(address))
            .link_layer_address(&mac)
            .state(NeighbourState::Probe);
        if let Err(error) = request.replace().execute().await {
            tracing::debug!(%address, "cannot check a neighbour: {error}");
        }
    }
}

/// A socket that hears the events of these groups.
pub(crate) fn subscribe(groups: &[MulticastGroup]) -> io::Result<TokioSocket> {
    let mask = groups.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind(&SocketAddr::new(0, mask))?;
    Ok(socket)
}

/// Does the error say that events were lost?
pub(crate) fn is_overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

/// Takes what was read anew. What is as before stays the same memory, so that the next comparison of
/// two views need not look at each route.
fn keep<T: PartialEq>(known: &mut Arc<T>, read: T) {
    if **known != read {
        *known = Arc::new(read);
    }
}

/// An IPv4 neighbour; without an entry when its hardware address is not known.
fn neighbour(message: &NeighbourMessage) -> Option<((u32, Ipv4Addr), Option<NeighbourEntry>)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(*a),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    let state = message.header.state;
    let lost =
        matches!(state, NeighbourState::Failed | NeighbourState::Incomplete | NeighbourState::None);
    let (stale, reachable) = (NeighbourState::Stale, NeighbourState::Reachable);
    let entry = mac.filter(|_| !lost).map(|mac| NeighbourEntry {
        mac,
        fresh: state != stale,
        trusted: state == reachable,
    });
    Some(((message.header.ifindex, address?), entry))
}

fn link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp | LinkFlags::Up),
        vlan: None,
        macvlan: None,
        master: None,
        headerless: message.header.link_layer_type != LinkLayerType::Ether,
        queues: 1,
        xdp_transmit: false,
        shortage: None,
        strips_tags: false,
        bridge: false,
    };
    let (mut parent, mut id, mut is_macvlan) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().unwrap_or([0; 6])
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                is_macvlan = infos.contains(&LinkInfo::Kind(InfoKind::MacVlan));
                for info in infos {
                    link.bridge |= matches!(info, LinkInfo::Kind(InfoKind::Bridge));
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
    link.macvlan = parent.filter(|_| is_macvlan);
    link.headerless |= link.mac == [0; 6];
    (!link.name.is_empty()).then_some(link)
}

/// Interface and address.
fn address(message: &AddressMessage) -> Option<(u32, Ipv4Net)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    });
    let net = Ipv4Net::new(local?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

/// May packets be sent from this address to everywhere?
fn is_fit(message: &AddressMessage) -> bool {
    let not_yet_or_no_more =
        AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    message.header.scope == AddressScope::Universe
        && !flags.is_some_and(|flags| flags.intersects(not_yet_or_no_more))
}

fn table_of(message: &RouteMessage) -> u32 {
    let id = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(id) => Some(*id),
        _ => None,
    });
    id.unwrap_or(message.header.table.into())
}

/// The routes of a message: one for each next hop of a multipath route.
fn routes_of(message: &RouteMessage) -> Vec<Route> {
    let (mut destination, mut metric, mut source) = (Ipv4Addr::UNSPECIFIED, 0, None);
    let mut hops = vec![hop(&message.attributes)];
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::MultiPath(several) => {
                hops = several
                    .iter()
                    .map(|one| (Some(one.interface_index), hop(&one.attributes).1))
                    .collect();
            }
            _ => {}
        }
    }
    let Ok(destination) = Ipv4Net::new(destination, message.header.destination_prefix_length)
    else {
        return Vec::new();
    };
    let nowhere = Route { metric, source, ..Route::to(destination) };
    match message.header.kind {
        RouteType::Unicast => hops
            .into_iter()
            .filter_map(|(interface, gateway)| {
                let interface = interface?;
                Some(Route { fate: Fate::Unicast, gateway, interface, ..nowhere })
            })
            .collect(),
        RouteType::Throw => vec![Route { fate: Fate::Throw, ..nowhere }],
        _ => vec![nowhere],
    }
}

/// Interface and gateway.
fn hop(attributes: &[RouteAttribute]) -> (Option<u32>, Option<Ipv4Addr>) {
    let interface = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    (interface, gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From a message, because not every kernel that runs the tests has VLAN devices.
    #[test]
    fn a_vlan_device_leads_to_its_parent() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("wan0.10".into()),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(10)])),
            ]),
        ];
        assert_eq!(link(&message).unwrap().vlan, Some((3, 10)));
    }

    #[test]
    fn a_carrier_is_lost_once() {
        let links = vec![Link { index: 3, running: true, ..Link::default() }];
        let mut kernel = Kernel { links, ..Kernel::default() };
        assert!(!kernel.lose_carrier(4), "there is none");
        assert!(kernel.lose_carrier(3) && !kernel.lose_carrier(3));
        assert!(!kernel.links[0].running);
    }

    #[test]
    fn a_neighbour_is_forgotten_for_a_while_before_it_is_lost() {
        let key = (3, Ipv4Addr::new(192, 0, 2, 1));
        let kernel = |running| Kernel {
            links: vec![Link { index: 3, running, ..Link::default() }],
            ..Kernel::default()
        };
        let entry = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
        let mut before = kernel(true);
        before.neighbours.insert(key, entry);
        for now in [500, 1000, 500 + FORGOTTEN_MS - 1] {
            let mut after = kernel(true);
            after.remember(&before, now);
            let kept = NeighbourEntry { fresh: false, trusted: false, ..entry };
            assert_eq!(after.neighbours.get(&key), Some(&kept), "{now}");
            before = after;
        }
        let lost = |mut after: Kernel, now| {
            after.remember(&before, now);
            after.neighbours.is_empty()
        };
        assert!(lost(kernel(true), 500 + FORGOTTEN_MS), "not asked for ever");
        assert!(lost(kernel(false), 501), "gone with the carrier");
        assert!(lost(Kernel { silent: [key].into(), ..kernel(true) }, 501), "it does not answer");
    }

    #[test]
    fn a_veth_device_has_a_peer_but_no_parent() {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName("wan0".into()), LinkAttribute::Link(3)];
        assert_eq!(link(&message).unwrap().vlan, None);
    }
}
