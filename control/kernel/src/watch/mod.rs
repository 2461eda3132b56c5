//! The gateway's view of the kernel: links, addresses, routes, weir's own rules, and neighbours, by
//! netlink.
//!
//! IPv6 has sockets of its own, and none where no uplink has a path of it: what happens there, and
//! how long its routes take to be told, is no matter of IPv4's.
//!
//! | module | what it is |
//! |---|---|
//! | `heard` | events, and what they are about |
//! | `dump` | the kernel's lists |
//!
//! Events only say that something changed; what they are about is then read anew, and all events that
//! came before count as dealt with. Neighbours are read once a second besides: one that grows stale is
//! no event, and one that has the address it had is no news. Only the loss of a carrier is taken from
//! the event itself, by `urgent`. Events that overrun the socket's buffer are lost, but not the news
//! that some were. Requests have a socket of their own, where no event takes a reply's place.

mod dump;
mod heard;

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::sys::TokioSocket;
use rtnetlink::{Handle, MulticastGroup};

use weir_layout::Family;
use weir_service::Complaint;
use weir_view::Kernel;
use weir_view::own::{self as own_view, DefaultRoute, Own};

use self::dump::Found;
use crate::devices::Devices;
use crate::events::Stale;
use crate::own;
use crate::peers::Peers;
use crate::routes::Reading;
use crate::socket::subscribe;
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
    peers: Peers,
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
        let groups =
            [MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv6Route, MulticastGroup::Ipv6Netconf];
        let events = subscribe(&groups).context("cannot subscribe to events of IPv6")?;
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { events, handle })
    }
}

impl Watcher {
    /// Subscribes to changes. Needs a tokio runtime, which drives it.
    pub fn new() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv4Netconf,
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
            peers: Peers::default(),
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

    /// Are routes to be read now?
    fn is_due(&self, now: Instant) -> bool {
        let [v4, v6] = &self.readings;
        v4.is_due(now) || self.ipv6.is_some() && v6.is_due(now)
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
        self.view.peers = self.peers.read().await;
        self.view.ipv6 = own::has_v6();
        self.open_or_close_ipv6();
        // Before the links: a link that loses its carrier loses its neighbours after it, and one
        // that seems to have lost them alone would seem to have a silent next hop.
        let stale = std::mem::replace(&mut self.stale, Stale::none());
        let now = Instant::now();
        let asked = std::mem::take(self.asked.get_mut());
        let old = now - self.neighbours_read >= NEIGHBOURS_KEEP;
        if stale.neighbours || stale.links || asked || old {
            (self.view.neighbours, self.view.silent) = dump::neighbours(&self.handle).await?;
            self.neighbours_read = now;
        }
        if stale.links {
            self.view.links = dump::links(&self.handle).await?;
            let up = self.view.links.iter().filter(|link| link.up).map(|link| link.index);
            let up: HashSet<u32> = up.collect();
            self.readings.iter_mut().for_each(|reading| reading.know(up.clone()));
        }
        self.devices.tell(&mut self.view.links, &stale.devices).await;
        if stale.addresses {
            let found = dump::addresses(&self.handle).await?;
            self.view.addresses = found.all;
            (self.view.unfit, self.view.deprecated) = (found.unfit, found.deprecated);
            self.view.advertised = found.advertised;
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
            let Found { main, tables, own } = dump::routes::<Ipv4Net>(&self.handle).await?;
            keep(&mut self.view.routes, main.into());
            keep(&mut self.view.tables, tables);
            self.end_reading(Family::V4, own, begun);
        }
        Ok(())
    }

    /// Reads IPv6's routes, if they are out of date: last, as all else is then read. Those of before
    /// stand where that fails, takes too long, or is given up.
    async fn read_routes6(&mut self) {
        let Some(Ipv6 { handle, .. }) = &self.ipv6 else { return };
        let handle = handle.clone();
        let Some(begun) = self.begin_reading(Family::V6) else { return };
        // Should it be given up.
        self.readings[Family::V6.index()].fail(begun, Duration::ZERO);
        let read = tokio::time::timeout(IPV6_PATIENCE, dump::routes6(&handle)).await;
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

/// Takes what was read anew. What is as before stays the same memory, so that the next comparison of
/// two views need not look at each route.
fn keep<T: PartialEq>(known: &mut Arc<T>, read: T) {
    if **known != read {
        *known = Arc::new(read);
    }
}
