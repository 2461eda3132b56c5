//! The gateway's own traffic: a socket that names an uplink, by its device or one of its addresses,
//! leaves by that uplink; every other leaves by one that works.
//!
//! Done with tables and rules of the kernel's own, of a protocol number that marks them as weir's:
//! nobody else's is ever touched. Every selector has two rules. The first looks only at routes of
//! the main table that are more special than a default, so that the LAN stays reachable; the second
//! at weir's table.
//!
//! | priority | selector | table |
//! |---|---|---|
//! | [`PRIORITY`], + 1 | bound to the uplink's device, or from one of its addresses | main without defaults, then [`TABLE`] + 1 + uplink |
//! | [`PRIORITY`], + 1, + 2 | with the uplink's [`mark`] | main without defaults, then the uplink's table, then nowhere |
//! | [`PRIORITY`] + 2, + 3 | all | main without defaults, then [`TABLE`] |
//!
//! The mark is that of commands run by `weir use` (see [`confine`](crate::confine)), which leave by
//! their uplink or not at all; so they have no IPv6 beyond the gateway's own networks while uplinks
//! have none.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use futures_util::stream::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use weir_wire::layout::control::uplink_state;

use crate::site::Site;
use crate::watch::Kernel;

/// Priority of the first of weir's rules.
pub const PRIORITY: u32 = 11_700;
/// Table of the gateway's own traffic; the uplinks' follow.
pub const TABLE: u32 = 11_700;
/// `rtm_protocol` and `FRA_PROTOCOL` of what is weir's; none of `rtnetlink.h`'s.
pub const PROTOCOL: u8 = 117;

/// The mark of sockets that leave by an uplink whatever they are bound to (`SO_MARK`).
pub const fn mark(uplink: u8) -> u32 {
    MARK | uplink as u32
}

/// "wei" and the uplink's index: nothing that anybody else is likely to use.
const MARK: u32 = 0x7765_6900;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// For IPv6 rather than IPv4.
    pub v6: bool,
    /// Order; lower is first.
    pub priority: u32,
    /// Whose packets.
    pub selector: Selector,
    /// Where it looks: the main table without its default routes, if it is that; and 0 is nowhere,
    /// the destination is unreachable.
    pub table: u32,
}

/// Whose packets a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Everybody's.
    All,
    /// Of sockets bound to this device.
    Device(String),
    /// From this address.
    Source(Ipv4Addr),
    /// Of sockets with this mark.
    Mark(u32),
}

/// A default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Default4 {
    /// The table.
    pub table: u32,
    /// The next hop.
    pub next_hop: Ipv4Addr,
    /// Index of its interface.
    pub interface: u32,
}

/// All rules and routes of weir's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes.
    pub routes: BTreeSet<Default4>,
}

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const NOWHERE: u32 = RouteHeader::RT_TABLE_UNSPEC as u32;

/// Does the kernel have IPv6?
fn has_v6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

impl Own {
    /// What there should be, given the uplinks' state words; pure. The gateway uses the first usable
    /// uplink of its default policy, best tier and greatest weight first; of none other, one that is
    /// draining; and the first of all that have a next hop when none is usable.
    pub fn wanted(site: &Site, kernel: &Kernel, states: &[u32]) -> Self {
        let mut own = Self::default();
        let mut ranked = Vec::new();
        let policy = site.policies.get(usize::from(site.default_policy));
        for (index, uplink) in site.uplinks.iter().enumerate() {
            let selector = Selector::Mark(mark(index as u8));
            own.look(0, selector.clone(), TABLE + 1 + index as u32);
            for (v6, at, table) in [(false, 2, NOWHERE), (true, 0, MAIN), (true, 2, NOWHERE)] {
                let (priority, selector) = (PRIORITY + at, selector.clone());
                own.rules.insert(Rule { v6, priority, selector, table });
            }
            let Some(link) = kernel.link(&uplink.interface) else { continue };
            let Some(next_hop) = uplink.next_hop_by(link.index, kernel) else { continue };
            let table = TABLE + 1 + index as u32;
            own.routes.insert(Default4 { table, next_hop, interface: link.index });
            own.look(0, Selector::Device(link.name.clone()), table);
            for address in kernel.addresses_of(link.index) {
                own.look(0, Selector::Source(address), table);
            }
            let member =
                policy.and_then(|p| p.members.iter().find(|m| usize::from(m.uplink) == index));
            let Some(member) = member else { continue };
            let weight = member.weight.unwrap_or(uplink.weight);
            let state = states.get(index).copied().unwrap_or(0);
            let is = |bit| state & bit != 0;
            let usable = (is(uplink_state::USABLE), !is(uplink_state::DRAINING));
            let rank = (Reverse(usable), member.tier, Reverse(weight), index);
            let route = Default4 { table: TABLE, next_hop, interface: link.index };
            ranked.push((rank, route));
        }
        if let Some((_, route)) = ranked.iter().min() {
            own.routes.insert(*route);
            own.look(2, Selector::All, TABLE);
        }
        own
    }

    fn look(&mut self, at: u32, selector: Selector, table: u32) {
        for (priority, table) in [(PRIORITY + at, MAIN), (PRIORITY + at + 1, table)] {
            let selector = selector.clone();
            self.rules.insert(Rule { v6: false, priority, selector, table });
        }
    }

    /// What there is.
    async fn read(handle: &Handle) -> Result<Self> {
        let mut own = Self::default();
        let versions = [Some(IpVersion::V4), has_v6().then_some(IpVersion::V6)];
        for version in versions.into_iter().flatten() {
            let mut rules = handle.rule().get(version).execute();
            while let Some(message) = rules.try_next().await.context("cannot list rules")? {
                own.rules.extend(rule_of(&message));
            }
        }
        let mut query = RouteMessage::default();
        query.header.address_family = AddressFamily::Inet;
        let mut routes = handle.route().get(query).execute();
        while let Some(message) = routes.try_next().await.context("cannot list routes")? {
            own.routes.extend(route_of(&message));
        }
        Ok(own)
    }

    /// Makes the kernel have these and no others of weir's. What is new is there before what is old
    /// goes.
    pub async fn install(&self, handle: &Handle) -> Result<()> {
        let known = Self::read(handle).await?;
        for route in &self.routes {
            // One default per table: this replaces another.
            if !known.routes.contains(route) {
                let message = message_of(route);
                let done = handle.route().add(message).replace().execute().await;
                done.with_context(|| format!("cannot add a route to table {}", route.table))?;
            }
        }
        for rule in self.rules.difference(&known.rules).filter(|rule| !rule.v6 || has_v6()) {
            let mut request = handle.rule().add();
            *request.message_mut() = rule.message();
            request.execute().await.with_context(|| format!("cannot add {rule:?}"))?;
        }
        for rule in known.rules.difference(&self.rules) {
            let done = handle.rule().del(rule.message()).execute().await;
            done.with_context(|| format!("cannot remove {rule:?}"))?;
        }
        let tables: BTreeSet<u32> = self.routes.iter().map(|route| route.table).collect();
        for route in known.routes.iter().filter(|route| !tables.contains(&route.table)) {
            let done = handle.route().del(message_of(route)).execute().await;
            done.with_context(|| format!("cannot empty table {}", route.table))?;
        }
        Ok(())
    }
}

impl Rule {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = if self.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        message.header.action =
            if self.table == NOWHERE { RuleAction::Unreachable } else { RuleAction::ToTable };
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
        ];
        if self.table != NOWHERE {
            message.attributes.push(RuleAttribute::Table(self.table));
        }
        if self.table == MAIN {
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        match &self.selector {
            Selector::All => {}
            Selector::Device(name) => message.attributes.push(RuleAttribute::Oifname(name.clone())),
            Selector::Mark(mark) => message.attributes.push(RuleAttribute::FwMark(*mark)),
            Selector::Source(address) => {
                message.header.src_len = 32;
                message.attributes.push(RuleAttribute::Source(IpAddr::V4(*address)));
            }
        }
        message
    }
}

/// The rule in a message, if it is weir's.
fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let mut rule = Rule {
        v6: message.header.family == AddressFamily::Inet6,
        priority: 0,
        selector: Selector::All,
        table: message.header.table.into(),
    };
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(mark) => rule.selector = Selector::Mark(*mark),
            RuleAttribute::Oifname(name) => rule.selector = Selector::Device(name.clone()),
            RuleAttribute::Source(IpAddr::V4(address)) => {
                rule.selector = Selector::Source(*address);
            }
            RuleAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL,
            _ => {}
        }
    }
    ours.then_some(rule)
}

/// The route in a message, if it is weir's.
fn route_of(message: &RouteMessage) -> Option<Default4> {
    let (mut table, mut next_hop, mut interface) = (u32::from(message.header.table), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => next_hop = Some(*address),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let ours = u8::from(message.header.protocol) == PROTOCOL;
    ours.then_some(Default4 { table, next_hop: next_hop?, interface: interface? })
}

fn message_of(route: &Default4) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .table_id(route.table)
        .gateway(route.next_hop)
        .output_interface(route.interface)
        .protocol(RouteProtocol::from(PROTOCOL))
        .build();
    // The next hop may be outside the interface's own prefixes, as with /32 addresses.
    message.header.flags |= netlink_packet_route::route::RouteFlags::Onlink;
    message
}
