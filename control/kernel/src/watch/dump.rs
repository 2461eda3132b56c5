//! The kernel's lists, each read whole (`NLM_F_DUMP`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use futures_util::stream::TryStreamExt;
use ipnet::{IpNet, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{RouteFlags, RouteMessage};
use rtnetlink::Handle;

use weir_layout::Family;
use weir_view::own::{DefaultRoute, PROTOCOL};
use weir_view::{Link, NeighbourEntry, Net, Route, rule};

use crate::message::{self, Fitness};
use crate::own;

/// An address, and the index of the interface that it is on or behind.
type At = (u32, IpAddr);

/// A family's routes: those of the main table, of others, and weir's.
pub struct Found<N: Net> {
    pub main: Vec<Route<N>>,
    pub tables: BTreeMap<u32, Vec<Route<N>>>,
    pub own: BTreeSet<DefaultRoute>,
}

/// Neighbours whose hardware address is known, and those that did not answer.
pub async fn neighbours(handle: &Handle) -> Result<(HashMap<At, NeighbourEntry>, HashSet<At>)> {
    let (mut known, mut silent) = (HashMap::new(), HashSet::new());
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(message) = neighbours.try_next().await.context("cannot list neighbours")? {
        let Some((key, entry)) = message::neighbour(&message) else { continue };
        if message.header.state == NeighbourState::Failed {
            silent.insert(key);
        }
        known.extend(entry.map(|entry| (key, entry)));
    }
    Ok((known, silent))
}

/// Interfaces.
pub async fn links(handle: &Handle) -> Result<Vec<Link>> {
    let mut found = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(message) = links.try_next().await.context("cannot list interfaces")? {
        found.extend(message::link(&message));
    }
    Ok(found)
}

/// Addresses.
#[derive(Default)]
pub struct Addresses {
    /// With their networks, by interface.
    pub all: Vec<(u32, IpNet)>,
    /// Those that are not fit to be sent from.
    pub unfit: HashSet<At>,
    /// Those of them that are deprecated, and nothing else.
    pub deprecated: HashSet<At>,
    /// Those that were made of router advertisements.
    pub advertised: HashSet<At>,
}

/// Addresses.
pub async fn addresses(handle: &Handle) -> Result<Addresses> {
    let mut found = Addresses::default();
    let mut addresses = handle.address().get().execute();
    while let Some(message) = addresses.try_next().await.context("cannot list addresses")? {
        let Some((interface, net)) = message::address(&message) else { continue };
        let at = (interface, net.addr());
        found.all.push((interface, net));
        let fitness = message::fitness(&message);
        found.unfit.extend((fitness != Fitness::Fit).then_some(at));
        found.deprecated.extend((fitness == Fitness::Deprecated).then_some(at));
        found.advertised.extend(message::is_advertised(&message).then_some(at));
    }
    Ok(found)
}

/// Routes of a family.
pub async fn routes<N: Net>(handle: &Handle) -> Result<Found<N>> {
    let mut found = Found { main: Vec::new(), tables: BTreeMap::new(), own: BTreeSet::new() };
    let mut messages = handle.route().get(query(N::FAMILY)).execute();
    while let Some(message) = messages.try_next().await.context("cannot list routes")? {
        if u8::from(message.header.protocol) == PROTOCOL {
            found.own.extend(own::route_of(&message));
            continue;
        }
        match message::table_of(&message) {
            rule::MAIN => found.main.extend(message::routes_of(&message)),
            other => found.tables.entry(other).or_default().extend(message::routes_of(&message)),
        }
    }
    Ok(found)
}

/// The same of IPv6. Which networks a router has said to be on a link only the question tells: a
/// route of the kernel's own looks the same (`rt6_dump_route`, net/ipv6/route.c).
pub async fn routes6(handle: &Handle) -> Result<Found<Ipv6Net>> {
    let mut found = routes::<Ipv6Net>(handle).await?;
    let mut advertised = query(Family::V6);
    advertised.header.flags = RouteFlags::Prefix;
    let mut messages = handle.route().get(advertised).execute();
    let mut prefixes = HashSet::new();
    while let Some(message) = messages.try_next().await.context("cannot list routes")? {
        let routes = message::routes_of::<Ipv6Net>(&message).into_iter();
        prefixes.extend(routes.map(|route| (route.interface, route.destination)));
    }
    for route in found.main.iter_mut().filter(|route| route.gateway.is_none()) {
        route.advertised |= prefixes.contains(&(route.interface, route.destination));
    }
    Ok(found)
}

fn query(family: Family) -> RouteMessage {
    let mut query = RouteMessage::default();
    query.header.address_family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    query
}
