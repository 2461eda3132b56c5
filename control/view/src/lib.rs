//! What a gateway's kernel has, as plain values: links, addresses, routes, rules, neighbours.
//!
//! Nothing here asks the kernel or has a clock. `weir-kernel` reads a view by netlink; what follows
//! from it is decided by functions that take one.
//!
//! | module | what it is |
//! |---|---|
//! | `link` | interfaces and neighbours |
//! | `net` | networks of one address family |
//! | `route` | routes |
//! | [`local_ports`] | the kernel's own ports beside those of the NAT |
//! | [`rule`] | others' routing rules |
//! | [`own`] | rules and routes of weir's own |
//! | `peer` | whom the gateway itself speaks with |
//! | `grace` | what an interface has lost and may have again in a moment |
#![forbid(unsafe_code)]

mod grace;
mod link;
pub mod local_ports;
mod net;
pub mod own;
mod peer;
mod route;
pub mod rule;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::DeviceFault;

pub use grace::Lost;
pub use link::{Link, NeighbourEntry, Shortage};
pub use net::{Net, is_beyond_site, is_link_local};
pub use peer::Peer;
pub use route::{Preference, Route, RouteKind, Routes};

use own::{Foremost, Own};
use rule::Rule;

/// How long a neighbour that was forgotten is waited for: as long as the kernel asks, three times a
/// second apart.
const FORGOTTEN_MS: u64 = 3000;

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Interfaces.
    pub links: Vec<Link>,
    /// Addresses with their prefix lengths, by interface index, in the kernel's order.
    pub addresses: Vec<(u32, IpNet)>,
    /// Those of them that packets should not be sent from: of narrower than global scope,
    /// deprecated, tentative, or already another host's; of IPv6 also temporary ones (RFC 8981),
    /// which are for the connections of one day.
    pub unfit: HashSet<(u32, IpAddr)>,
    /// Those of the unfit that are deprecated and nothing else: connections that have one keep it,
    /// and new ones take another, if there is one (RFC 4862 §5.5.4).
    pub deprecated: HashSet<(u32, IpAddr)>,
    /// Those that the kernel made of router advertisements that it took: whoever sends them has
    /// chosen the network.
    pub advertised: HashSet<(u32, IpAddr)>,
    /// IPv4 routes of the main table: perhaps a million, and most views have the same.
    pub routes: Arc<Routes>,
    /// IPv6 routes of the main table.
    pub routes6: Arc<Routes<Ipv6Net>>,
    /// IPv4 routes of other tables, but for weir's.
    pub tables: Arc<BTreeMap<u32, Vec<Route>>>,
    /// Others' rules for what comes in, in their order.
    pub rules: Vec<Rule>,
    /// Where others' rules of any kind begin.
    pub foremost: Foremost,
    /// Rules and routes of weir's own; most views have the same.
    pub own: Arc<Own>,
    /// Neighbours with a hardware address.
    pub neighbours: HashMap<(u32, IpAddr), NeighbourEntry>,
    /// Those that were asked and did not answer.
    pub silent: HashSet<(u32, IpAddr)>,
    /// Of addresses and default routes, those that the kernel does not have at the moment.
    pub lost: Lost,
    /// Of `neighbours`, those that the kernel has forgotten, and since when, CLOCK_MONOTONIC
    /// milliseconds.
    pub forgotten: HashMap<(u32, IpAddr), u64>,
    /// Whom the gateway speaks with by protocols without ports, but for [tunnels](Link::tunnels).
    pub peers: Vec<Peer>,
    /// `net.ipv4.ip_local_port_range`.
    pub local_ports: (u16, u16),
    /// The kernel has IPv6. It may come late, as a module.
    pub ipv6: bool,
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

    /// The interface of that name, and the device that carries its frames: itself, or a VLAN's
    /// parent.
    ///
    /// # Errors
    /// Why weir cannot use it.
    pub fn usable(&self, interface: &str) -> Result<(&Link, &Link), DeviceFault> {
        let link = self.link(interface).ok_or(DeviceFault::Missing)?;
        let parent = match link.vlan {
            Some((parent, _)) => self.link_at(parent),
            None => Some(link),
        };
        match parent.ok_or(DeviceFault::Missing)? {
            parent if parent.headerless => Err(DeviceFault::NoEthernet),
            parent if link.vlan.is_some() && parent.vlan.is_some() => Err(DeviceFault::StackedVlan),
            parent => Ok((link, parent)),
        }
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

    /// Are both the same but for neighbours? How fresh those are changes all the time.
    pub fn differs_by_neighbours_alone(&self, other: &Self) -> bool {
        let Self {
            links,
            addresses,
            unfit,
            deprecated,
            advertised,
            routes,
            routes6,
            tables,
            rules,
            foremost,
            own,
            neighbours: _,
            silent: _,
            lost,
            forgotten: _,
            peers,
            local_ports,
            ipv6,
        } = self;
        (links, addresses) == (&other.links, &other.addresses)
            && (unfit, deprecated, advertised)
                == (&other.unfit, &other.deprecated, &other.advertised)
            && (routes, routes6) == (&other.routes, &other.routes6)
            && (tables, rules, foremost, own)
                == (&other.tables, &other.rules, &other.foremost, &other.own)
            && (lost, local_ports, ipv6) == (&other.lost, &other.local_ports, &other.ipv6)
            && peers == &other.peers
    }

    /// Keeps for a while the neighbours of `before` that the kernel has forgotten by `now`, as it
    /// does when they are flushed or the interface gets another hardware address: they are to be
    /// asked again, and have not failed to answer. Likewise addresses and default routes. What goes
    /// with a carrier is lost at once.
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
            rule::MAIN => &self.routes,
            other => self.tables.get(&other).map_or(&[], Vec::as_slice),
        }
    }

    /// The hardware addresses of macvlan devices on this one, which hosts behind it may know the
    /// gateway by, as with VRRP.
    pub fn virtual_macs(&self, link: &Link) -> BTreeSet<[u8; 6]> {
        let on = |other: &&Link| other.macvlan == Some(link.index) && other.up;
        self.links.iter().filter(on).map(|on| on.mac).filter(|mac| *mac != link.mac).collect()
    }

    /// Networks of a family that an interface is on.
    pub fn networks(&self, of: Family, index: u32) -> Vec<IpNet> {
        let nets =
            self.addresses.iter().filter(|(i, net)| *i == index && Family::of(net.addr()) == of);
        let mut networks: Vec<IpNet> = nets.map(|(_, net)| net.trunc()).collect();
        networks.dedup();
        networks
    }

    /// Those of them that it was given, by whom the gateway obeys: not by a router's advertisement.
    pub fn given_networks(&self, of: Family, index: u32) -> Vec<IpNet> {
        let mut networks = self.networks(of, index);
        let is_given = |(at, own): &(u32, IpNet), net: &IpNet| {
            *at == index && own.trunc() == *net && !self.advertised.contains(&(*at, own.addr()))
        };
        networks.retain(|net| self.addresses.iter().any(|own| is_given(own, net)));
        networks
    }

    /// Addresses of an interface in a family.
    pub fn addresses_of(&self, of: Family, index: u32) -> Vec<IpAddr> {
        let addresses = self.addresses.iter().filter(|(i, _)| *i == index);
        addresses.map(|(_, net)| net.addr()).filter(|address| Family::of(*address) == of).collect()
    }

    /// Can packets by an interface be given this source? One of IPv6 that is not proved yet to be
    /// this host's alone, or is another's, the kernel refuses (`ipv6_chk_addr`,
    /// net/ipv6/addrconf.c).
    pub fn takes_source(&self, index: u32, address: IpAddr) -> bool {
        let at = (index, address);
        address.is_ipv4() || !self.unfit.contains(&at) || self.deprecated.contains(&at)
    }

    /// Next hop of the best default route by an interface in a family, or of the one that is waited
    /// for. One of IPv6 is of the link alone, as a rule (RFC 4861 §4.2). Of several routers with
    /// equal metrics a silent one is the last (§6.3.6); then they are taken by preference (RFC 4191
    /// §3.2), and one that is known to be there before one that is not.
    pub fn default_next_hop(&self, family: Family, index: u32) -> Option<IpAddr> {
        let best = match family {
            Family::V4 => self.best_gateway(self.routes.defaults(), index),
            Family::V6 => self.best_gateway(self.routes6.defaults(), index),
        };
        best.unwrap_or_else(|| self.lost_next_hop(index, family))
    }

    /// The next hop, or none, of the best of these routes by an interface; `None`: there is no
    /// route.
    fn best_gateway<N: Net>(&self, routes: &[Route<N>], index: u32) -> Option<Option<IpAddr>> {
        let by = routes.iter().filter(|route| route.interface == index);
        let by = by.map(|route| (route.metric, route.preference, route.gateway.map(Into::into)));
        let best = by.min_by_key(|(metric, preference, gateway)| {
            let key = gateway.map(|gateway: IpAddr| (index, gateway));
            let is_silent = key.is_some_and(|key| self.silent.contains(&key));
            let is_known = key.is_some_and(|key| self.neighbours.contains_key(&key));
            (*metric, is_silent, Reverse(*preference), !is_known)
        });
        best.map(|(.., gateway)| gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let key = (3, IpAddr::from([192, 0, 2, 1]));
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
    fn of_routers_with_equal_metrics_one_that_is_there_is_preferred_and_a_silent_one_is_the_last() {
        let router = |n: u16, metric| Route::<Ipv6Net> {
            gateway: Some(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n)),
            metric,
            ..Route::by(2, Ipv6Net::default())
        };
        let low = Route { preference: Preference::Low, ..router(4, 1024) };
        let high = Route { preference: Preference::High, ..router(3, 2000) };
        let routes = vec![high, low, router(1, 1024), router(2, 1024)];
        let key = |n: u16| (2, IpAddr::V6(router(n, 0).gateway.unwrap()));
        let next_hop = |known: &[u16], silent: &[u16]| {
            let entry = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
            let kernel = Kernel {
                routes6: Arc::new(routes.clone().into()),
                neighbours: known.iter().map(|n| (key(*n), entry)).collect(),
                silent: silent.iter().map(|n| key(*n)).collect(),
                ..Kernel::default()
            };
            kernel.default_next_hop(Family::V6, 2)
        };
        assert_eq!(next_hop(&[], &[]), Some(key(1).1), "the first");
        assert_eq!(next_hop(&[1, 2], &[]), Some(key(1).1));
        assert_eq!(next_hop(&[2], &[]), Some(key(2).1));
        assert_eq!(next_hop(&[], &[1]), Some(key(2).1));
        assert_eq!(next_hop(&[4], &[]), Some(key(1).1), "by preference, known or not");
        assert_eq!(next_hop(&[4], &[1, 2]), Some(key(4).1), "reachable before preferred");
        assert_eq!(next_hop(&[3], &[1, 2, 4]), Some(key(1).1), "another metric: another's choice");
    }
}
