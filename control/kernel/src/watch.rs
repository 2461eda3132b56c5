//! The gateway's view of the kernel: links, addresses, routes, weir's own rules, and neighbours, by
//! netlink.
//!
//! IPv6 has sockets of its own, and none where no uplink has a path of it: what happens there, and
//! how long its routes take to be told, is no matter of IPv4's.
//!
//! Events only say that something changed; what they are about is then read anew, and all events that
//! came before count as dealt with. Neighbours are read once a second besides: one that grows stale is
//! no event, and one that has the address it had is no news. Only the loss of a carrier is taken from
//! the event itself, by `urgent`. Events that overrun the socket's buffer are lost, but not the news
//! that some were. Requests have a socket of their own, where no event takes a reply's place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::TryStreamExt;
use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::{Handle, MulticastGroup};
use rustix::io::Errno;

use weir_layout::Family;
use weir_service::Complaint;
use weir_view::own::{self as own_view, DefaultRoute, Own, PROTOCOL};
use weir_view::{Kernel, Link, Net, Route, rule};

use crate::devices::Devices;
use crate::events::{self, Event, Stale};
use crate::message;
use crate::own;
use crate::routes::Reading;
use crate::sysctls::LocalPorts;

/// How long neighbours without an event are taken to be as they were.
const NEIGHBOURS_KEEP: Duration = Duration::from_millis(900);

/// How long IPv6's routes may take to be told.
const IPV6_PATIENCE: Duration = Duration::from_secs(2);

/// The connection to the kernel.
pub struct Watcher {
    handle: Handle,
    events: TokioSocket,
    /// Some uplink has an IPv6 path.
    follows_ipv6: bool,
    ipv6: Option<Ipv6>,
    /// Of IPv6's routes.
    untold: Complaint,
    /// As last read.
    view: Kernel,
    stale: Stale,
    /// When neighbours were last read, and whether the kernel was asked about one since: that it begins
    /// to look is no event.
    neighbours_read: Instant,
    asked: AtomicBool,
    /// By [`Family`].
    readings: [Reading; Family::COUNT],
    devices: Devices,
    local_ports: LocalPorts,
    /// A reading has begun; if none goes on now, it was given up.
    underway: bool,
}

/// The connection for IPv6's addresses and routes.
struct Ipv6 {
    events: TokioSocket,
    /// Of its own: the rest of a reading that was given up is in the way of none of IPv4's.
    handle: Handle,
}

impl Ipv6 {
    fn open() -> Result<Self> {
        let groups = [MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route];
        let events = subscribe(&groups).context("cannot subscribe to events of IPv6")?;
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { events, handle })
    }
}

/// What one reading of a family's routes gives: those of the main table, of others, and weir's.
struct Found<N: Net> {
    main: Vec<Route<N>>,
    tables: BTreeMap<u32, Vec<Route<N>>>,
    own: BTreeSet<DefaultRoute>,
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
        let now = Instant::now();
        Ok(Self {
            handle,
            events,
            follows_ipv6: false,
            ipv6: None,
            untold: Complaint::default(),
            view: Kernel::default(),
            stale: Stale::all(),
            neighbours_read: now,
            asked: AtomicBool::new(false),
            readings: Family::ALL.map(|family| Reading::none(family, now)),
            devices: Devices::new(ethtool),
            local_ports: LocalPorts::default(),
            underway: false,
        })
    }

    /// For other requests to the kernel.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// From the next [`read`](Self::read) on, IPv6's addresses and routes are followed too, or no
    /// more. Without that, events of its addresses are none, and the view has none of its routes.
    pub const fn follow_ipv6(&mut self, follow: bool) {
        self.follows_ipv6 = follow;
    }

    /// Returns when something changed since the last [`read`](Self::read) began that is to be read
    /// now.
    pub async fn changed(&mut self) {
        let mut event = Vec::with_capacity(events::ENOUGH);
        let mut event6 = Vec::with_capacity(events::ENOUGH);
        loop {
            event.clear();
            event6.clear();
            let (family, heard) = tokio::select! {
                heard = self.events.recv(&mut event) => (Family::V4, heard),
                heard = hear(&mut self.ipv6, &mut event6) => (Family::V6, heard),
            };
            let event = if family == Family::V6 { &event6 } else { &event };
            match heard {
                Ok(()) => {
                    if !self.on_event(event) || self.is_due(Instant::now()) {
                        return;
                    }
                }
                Err(error) if is_overrun(&error) => return self.lost(family),
                Err(error) => {
                    tracing::error!("no more netlink events, changes are seen late: {error}");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Are routes to be read now?
    fn is_due(&self, now: Instant) -> bool {
        let [v4, v6] = &self.readings;
        v4.is_due(now) || self.ipv6.is_some() && v6.is_due(now)
    }

    /// Takes note of an event; says whether it can wait.
    fn on_event(&mut self, message: &[u8]) -> bool {
        let event = Event::of(message);
        let is_news = match event {
            Event::Neighbour => !self.take_known(message),
            Event::Address(Family::V6) | Event::Route { family: Family::V6, .. } => {
                !events::message(message)
                    .is_some_and(|it| message::is_of_a_link_alone(&it) || self.has_address(&it))
            }
            _ => true,
        };
        if !is_news {
            return true;
        }
        self.stale.mark(event);
        self.readings.each_mut().map(|reading| reading.on_event(event)).contains(&true)
    }

    /// Takes over how fresh a neighbour is that has the hardware address it had; `false`: it is another,
    /// or has another. The kernel tells each time that it begins or ends to doubt one.
    fn take_known(&mut self, message: &[u8]) -> bool {
        let Some((key, entry)) = events::neighbour(message).as_ref().and_then(message::neighbour)
        else {
            return false;
        };
        let known = self.view.neighbours.get_mut(&key);
        let known = entry.zip(known).filter(|(entry, known)| entry.mac == known.mac);
        known.map(|(entry, known)| *known = entry).is_some()
    }

    /// Does it tell of an address that the view has, as it has it? The kernel tells of each that a
    /// router advertises each time that one does.
    fn has_address(&self, message: &RouteNetlinkMessage) -> bool {
        let RouteNetlinkMessage::NewAddress(message) = message else { return false };
        message::address(message).is_some_and(|(interface, net)| {
            let unfit = self.view.unfit.contains(&(interface, net.addr()));
            self.view.addresses.contains(&(interface, net)) && message::is_fit(message) != unfit
        })
    }

    /// An event was lost, of a socket that hears everything or of IPv6's.
    fn lost(&mut self, family: Family) {
        match family {
            Family::V4 => _ = self.on_event(&[]),
            Family::V6 => self.lost_ipv6(),
        }
    }

    /// All of IPv6's is to be read.
    fn lost_ipv6(&mut self) {
        self.stale.addresses = true;
        self.readings[Family::V6.index()].on_event(Event::Unknown);
    }

    /// Drops what has arrived, so that a burst of changes causes one reading of the view.
    fn forget_events(&mut self) {
        for family in Family::ALL {
            while let Some(heard) = self.take_event(family) {
                match heard {
                    Ok(event) => _ = self.on_event(&event),
                    Err(error) if is_overrun(&error) => self.lost(family),
                    Err(_) => break,
                }
            }
        }
    }

    /// The next event that has arrived by a family's socket; none: it has none.
    fn take_event(&self, family: Family) -> Option<io::Result<Vec<u8>>> {
        let socket = match family {
            Family::V4 => &self.events,
            Family::V6 => &self.ipv6.as_ref()?.events,
        };
        let mut event = vec![0; events::ENOUGH];
        // Past the runtime, whose cooperative budget would end the loop too soon.
        let length = socket.socket_ref().recv(&mut &mut event[..], 0);
        Some(length.map(|length| {
            event.truncate(length);
            event
        }))
    }

    /// Reads what is out of date. After an error all is.
    pub async fn read(&mut self) -> Result<Kernel> {
        // Before the first request: what happens from here on may be missing in the view.
        self.forget_events();
        // One that was given up half-way has perhaps not read what it took note of.
        if std::mem::replace(&mut self.underway, true) {
            self.lost(Family::V4);
        }
        let done = self.read_parts().await;
        self.underway = false;
        if let Err(error) = done {
            self.lost(Family::V4);
            return Err(error);
        }
        self.read_routes6().await;
        Ok(self.view.clone())
    }

    async fn read_parts(&mut self) -> Result<()> {
        match self.local_ports.read() {
            Ok(ports) => self.view.local_ports = ports,
            // Without a free descriptor, say. The rest takes none.
            Err(_) if self.view.local_ports != (0, 0) => {}
            Err(error) => return Err(error),
        }
        self.view.ipv6 = own::has_v6();
        self.open_or_close_ipv6();
        // Before the links: a link that loses its carrier loses its neighbours after it, and one
        // that seems to have lost them alone would seem to have a silent next hop.
        let stale = std::mem::replace(&mut self.stale, Stale::none());
        let now = Instant::now();
        let asked = std::mem::take(self.asked.get_mut());
        let old = now - self.neighbours_read >= NEIGHBOURS_KEEP;
        if stale.neighbours || stale.links || asked || old {
            self.read_neighbours().await?;
            self.neighbours_read = now;
        }
        if stale.links {
            self.view.links = self.read_links().await?;
            let up = self.view.links.iter().filter(|link| link.up).map(|link| link.index);
            let up: HashSet<u32> = up.collect();
            self.readings.iter_mut().for_each(|reading| reading.know(up.clone()));
        }
        self.devices.tell(&mut self.view.links, &stale.devices).await;
        if stale.addresses {
            self.read_addresses().await?;
        }
        if stale.rules {
            let found = own::rules(&self.handle).await?;
            let routes = self.view.own.routes.clone();
            keep(&mut self.view.own, Own { rules: found.own, routes });
            self.view.rules = found.others;
            self.view.foremost = found.foremost;
            self.open_or_close_ipv6();
        }
        self.read_routes().await
    }

    /// Has IPv6 heard where it is to be, and where the kernel has routes of weir's that an earlier
    /// file asked for: until they are gone.
    fn open_or_close_ipv6(&mut self) {
        let own = &self.view.own;
        let is_led =
            |rule: &own_view::Rule| rule.family == Family::V6 && rule.table >= own_view::TABLE;
        let has_own = own.rules.iter().any(is_led)
            || own.routes.iter().any(|route| route.family() == Family::V6);
        let wanted = self.view.ipv6 && (self.follows_ipv6 || has_own);
        if wanted && self.ipv6.is_none() {
            match Ipv6::open() {
                Ok(ipv6) => {
                    self.ipv6 = Some(ipv6);
                    self.lost_ipv6();
                }
                Err(error) => self.untold.say(Some(format!("{error:#}"))),
            }
        } else if !wanted && self.ipv6.is_some() {
            self.ipv6 = None;
            self.view.routes6 = Arc::default();
            self.keep_own(Family::V6, BTreeSet::new());
        }
    }

    /// Reads IPv4's routes, if they are out of date.
    async fn read_routes(&mut self) -> Result<()> {
        if let Some(begun) = self.begin_reading(Family::V4) {
            let Found { main, tables, own } = self.list_routes::<Ipv4Net>().await?;
            keep(&mut self.view.routes, main.into());
            keep(&mut self.view.tables, tables);
            self.end_reading(Family::V4, own, begun);
        }
        Ok(())
    }

    /// Reads IPv6's routes, if they are out of date: last, as all else is then read. Those of before
    /// stand where that fails, takes too long, or is given up.
    async fn read_routes6(&mut self) {
        if self.ipv6.is_none() {
            return;
        }
        let Some(begun) = self.begin_reading(Family::V6) else { return };
        // Should it be given up.
        self.readings[Family::V6.index()].fail(begun, Duration::ZERO);
        let read = tokio::time::timeout(IPV6_PATIENCE, self.list_routes::<Ipv6Net>()).await;
        let read = read.context("they are not told in time").flatten();
        self.untold.say(read.as_ref().err().map(|error| {
            format!("the kernel's IPv6 routes are taken to be as they were: {error:#}")
        }));
        match read {
            Ok(Found { main, own, .. }) => {
                self.readings[Family::V6.index()].begin();
                keep(&mut self.view.routes6, main.into());
                self.end_reading(Family::V6, own, begun);
            }
            Err(_) => self.readings[Family::V6.index()].fail(Instant::now(), begun.elapsed()),
        }
    }

    /// Begins to read a family's routes, if it is time to.
    fn begin_reading(&mut self, family: Family) -> Option<Instant> {
        let now = Instant::now();
        let reading = &mut self.readings[family.index()];
        reading.is_due(now).then(|| {
            reading.begin();
            now
        })
    }

    /// A family's routes were read, among them these of weir's.
    fn end_reading(&mut self, family: Family, own: BTreeSet<DefaultRoute>, begun: Instant) {
        self.keep_own(family, own);
        let now = Instant::now();
        self.readings[family.index()].end(now, now - begun);
    }

    /// Of a family, weir has these routes.
    fn keep_own(&mut self, family: Family, own: BTreeSet<DefaultRoute>) {
        let others = self.view.own.routes.iter().filter(|route| route.family() != family);
        let routes = others.copied().chain(own).collect();
        let rules = self.view.own.rules.clone();
        keep(&mut self.view.own, Own { rules, routes });
    }

    async fn read_neighbours(&mut self) -> Result<()> {
        let (mut known, mut silent) = (HashMap::new(), HashSet::new());
        let mut neighbours = self.handle.neighbours().get().execute();
        while let Some(message) = neighbours.try_next().await.context("cannot list neighbours")? {
            let Some((key, entry)) = message::neighbour(&message) else { continue };
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
            found.extend(message::link(&message));
        }
        Ok(found)
    }

    async fn read_addresses(&mut self) -> Result<()> {
        let (mut found, mut unfit) = (Vec::new(), HashSet::new());
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) = addresses.try_next().await.context("cannot list addresses")? {
            let Some((interface, net)) = message::address(&message) else { continue };
            found.push((interface, net));
            if !message::is_fit(&message) {
                unfit.insert((interface, net.addr()));
            }
        }
        (self.view.addresses, self.view.unfit) = (found, unfit);
        Ok(())
    }

    async fn list_routes<N: Net>(&self) -> Result<Found<N>> {
        let mut routes = Found { main: Vec::new(), tables: BTreeMap::new(), own: BTreeSet::new() };
        let mut query = RouteMessage::default();
        query.header.address_family = match N::FAMILY {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let handle = match (N::FAMILY, &self.ipv6) {
            (Family::V6, Some(ipv6)) => &ipv6.handle,
            _ => &self.handle,
        };
        let mut messages = handle.route().get(query).execute();
        while let Some(message) = messages.try_next().await.context("cannot list routes")? {
            if u8::from(message.header.protocol) == PROTOCOL {
                routes.own.extend(own::route_of(&message));
                continue;
            }
            match message::table_of(&message) {
                rule::MAIN => routes.main.extend(message::routes_of(&message)),
                other => {
                    routes.tables.entry(other).or_default().extend(message::routes_of(&message))
                }
            }
        }
        Ok(routes)
    }

    /// Removes all rules and routes that are weir's, but for what commands need that run by these
    /// uplinks.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or refuses.
    pub async fn remove_own(&mut self, commands: &BTreeSet<u8>) -> Result<()> {
        let mut known = Own::clone(&*self.read().await?.own);
        own::install(&known.of_commands(commands), &mut known, &self.handle).await
    }

    /// Makes the kernel find out, or check, a neighbour's hardware address (`NTF_USE`,
    /// `net/core/neighbour.c`).
    pub async fn resolve(&self, interface: u32, address: IpAddr) {
        let request = self
            .handle
            .neighbours()
            .add(interface, address)
            .flags(NeighbourFlags::Use)
            .state(NeighbourState::None);
        self.asked.store(true, Ordering::Relaxed);
        if let Err(error) = request.replace().execute().await {
            tracing::debug!(%address, "cannot ask for a neighbour: {error}");
        }
    }

    /// Makes the kernel check a neighbour now that it would believe for half a minute yet. It stays
    /// known meanwhile; one that does not answer is lost within seconds, and asked for anew.
    pub async fn doubt(&self, interface: u32, address: IpAddr, mac: [u8; 6]) {
        let request = self
            .handle
            .neighbours()
            .add(interface, address)
            .link_layer_address(&mac)
            .state(NeighbourState::Probe);
        self.asked.store(true, Ordering::Relaxed);
        if let Err(error) = request.replace().execute().await {
            tracing::debug!(%address, "cannot check a neighbour: {error}");
        }
    }
}

/// The next event of IPv6; never one where it is not followed.
async fn hear(ipv6: &mut Option<Ipv6>, event: &mut Vec<u8>) -> io::Result<()> {
    match ipv6 {
        Some(ipv6) => ipv6.events.recv(event).await,
        None => std::future::pending().await,
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
