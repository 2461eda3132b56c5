//! The gateway's own traffic: a socket that names an uplink, by its device or one of its addresses,
//! leaves by that uplink; every other leaves by one that works.
//!
//! Done with tables and rules of the kernel's own, of a protocol number that marks them as weir's:
//! nobody else's is ever touched. Every selector has two rules. The first looks only at routes of
//! the main table that are more special than a default, so that the LAN stays reachable; the second
//! at weir's table. For what names an uplink the halves of everything that some VPNs have routes for
//! (0.0.0.0/1) are defaults too.
//!
//! | priority | selector | table |
//! |---|---|---|
//! | [`PRIORITY`], + 1, + 2, or right before all of others' | with the uplink's [`mark`] | main without defaults, then [`TABLE`] + 1 + uplink from its addresses or none yet, then nowhere |
//! | [`PRIORITY`] + 3, + 4 | bound to the uplink's device, or from one of its addresses | main without defaults, then the uplink's table |
//! | [`PRIORITY`] + 5, + 6 | the gateway's own | main without defaults, then [`TABLE`] |
//! | [`PRIORITY_LAN`], + 1 | from a LAN, if the kernel forwards without a dataplane | main without defaults, then [`TABLE`] |
//!
//! The mark is that of commands run by `weir use` (see [`confine`](crate::confine)), which leave by
//! their uplink or not at all, whatever address they bind to; the guard's table sees to the devices
//! that they bind to. So they have no IPv6 beyond the gateway's own networks while uplinks have none.
//! A rule that is entered without a priority gets one before all others but the local table's
//! (`fib_default_rule_pref`, net/core/fib_rules.c), as `wg-quick` has it; so the rules by mark, which
//! are for nobody else, move before it. When it goes down, it has the kernel delete rules that look at
//! main without defaults, whoever's and for whatever packets (`rule_find`, there), until its own is
//! gone; none for what names an uplink is meant by that, as none suppresses length 0.
//! Their rules outlive this process. What comes in by a LAN meets others' rules first: where they
//! lead elsewhere than to an uplink, such packets are the kernel's (see `destinations`).

mod claim;
mod message;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail};
use futures_util::stream::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::RouteHeader;
use netlink_packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;
use weir_wire::layout::control::{ControlHalf, Member, OnDataplaneLoss, Policy, uplink_state};

use crate::site::Site;
use crate::watch::{Kernel, Watcher};

pub use claim::{Claim, Keeper};
pub use message::route_of;

/// Priority of the first of weir's rules.
pub const PRIORITY: u32 = 11_700;
/// Priority of the first rule for LANs, right before that of the main table.
pub const PRIORITY_LAN: u32 = 32_764;
/// Table of the gateway's own traffic; the uplinks' follow.
pub const TABLE: u32 = 11_700;
/// `rtm_protocol` and `FRA_PROTOCOL` of what is weir's; none of `rtnetlink.h`'s.
pub const PROTOCOL: u8 = 117;

/// The mark of sockets that leave by an uplink whatever they are bound to (`SO_MARK`).
pub const fn mark(uplink: u8) -> u32 {
    MARK | uplink as u32
}

/// "wei" and the uplink's index: nothing that anybody else is likely to use.
pub const MARK: u32 = 0x7765_6900;
/// The bits that all marks share.
pub const MARKS: u32 = 0xffff_ff00;

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
    /// Everybody's. None of weir's rules is so wide: it would forward others' packets by uplinks, in
    /// spite of their own rules further on.
    All,
    /// That came in by this device; the gateway's own come by `lo`.
    From(String),
    /// Of sockets bound to this device.
    Device(String),
    /// From this address.
    Source(Ipv4Addr),
    /// Of sockets with this mark.
    Mark(u32),
    /// Of sockets with this mark, from this address; 0.0.0.0: that have none yet.
    Marked(u32, Ipv4Addr),
}

impl Selector {
    /// Routes of main with prefixes up to this length do not count.
    const fn suppressed(&self) -> u32 {
        match self {
            Self::Mark(_) | Self::Marked(..) | Self::Device(_) | Self::Source(_) => 1,
            Self::From(_) | Self::All => 0,
        }
    }

    /// The uplink whose mark it asks for.
    fn marked(&self) -> Option<u8> {
        match self {
            Self::Mark(mark) | Self::Marked(mark, _) => {
                mark.checked_sub(MARK).and_then(|uplink| uplink.try_into().ok())
            }
            _ => None,
        }
    }
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
    /// What sockets without an address of their own are given; none: one of the interface.
    pub source: Option<Ipv4Addr>,
}

/// All rules and routes of weir's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes.
    pub routes: BTreeSet<Default4>,
}

/// How many priorities the rules by mark take.
const BY_MARK: u32 = 3;

const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
const NOWHERE: u32 = RouteHeader::RT_TABLE_UNSPEC as u32;

/// Priorities of the first rules of others, but for the local table's, which nobody goes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foremost {
    /// Of IPv4.
    pub v4: Option<u32>,
    /// Of IPv6.
    pub v6: Option<u32>,
}

impl Foremost {
    fn note(&mut self, rule: &RuleMessage) {
        let Some(priority) = message::priority_of_another(rule) else { return };
        let first =
            if rule.header.family == AddressFamily::Inet6 { &mut self.v6 } else { &mut self.v4 };
        *first = Some(first.map_or(priority, |first| first.min(priority)));
    }
}

/// The first priority of rules by mark, where others' begin at `first`.
fn before(first: Option<u32>) -> u32 {
    first.map_or(PRIORITY, |first| PRIORITY.min(first.saturating_sub(BY_MARK)).max(1))
}

/// Does the kernel have IPv6?
fn has_v6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// How good a choice a member is for the gateway's own traffic, in the order of what takes flows of
/// users: the usable, with a weight, not draining, not degraded; the best tier, the greatest weight.
fn rank(member: &Member, state: u32) -> impl Ord {
    let is = |bit| state & bit != 0;
    let weight = member.weight & Member::MAX_WEIGHT;
    let worse = (!is(uplink_state::USABLE), weight == 0, is(uplink_state::DRAINING));
    (worse, is(uplink_state::DEGRADED), member.tier, Reverse(weight))
}

impl Own {
    /// What there should be, given what is published and the uplinks' state words; pure. The gateway
    /// uses the best uplink of its default policy that has a next hop.
    pub fn wanted(site: &Site, kernel: &Kernel, half: &ControlHalf, states: &[u32]) -> Self {
        let mut own = Self::default();
        let mut ranked = Vec::new();
        let policy = half.policies.get(usize::from(half.default_policy));
        let members = policy.map_or(&[][..], Policy::members);
        for (index, uplink) in site.uplinks.iter().enumerate() {
            let table = TABLE + 1 + index as u32;
            let link = kernel.link(&uplink.interface);
            let addresses = link.map(|link| uplink.own_addresses(link.index, kernel));
            let addresses = addresses.unwrap_or_default();
            own.confine(mark(index as u8), table, &addresses, kernel.foremost);
            let Some(link) = link else { continue };
            let Some(next_hop) = uplink.next_hop_by(link.index, kernel) else { continue };
            own.look(PRIORITY + 3, Selector::Device(link.name.clone()), table);
            for address in &addresses {
                own.look(PRIORITY + 3, Selector::Source(*address), table);
            }
            let mut held = addresses.iter().filter(|address| !kernel.has_lost(**address));
            let source = held.next().copied();
            if !link.up || (source.is_none() && !addresses.is_empty()) {
                // The kernel drops the routes by a link that is set down or has lost its addresses,
                // and takes none.
                continue;
            }
            let route = Default4 { table, next_hop, interface: link.index, source };
            own.routes.insert(route);
            let member = members.iter().find(|member| usize::from(member.uplink) == index);
            let state = states.get(index).copied().unwrap_or(0);
            let rank = member.map(|member| rank(member, state));
            ranked.extend(rank.map(|rank| (rank, index, Default4 { table: TABLE, ..route })));
        }
        if let Some((_, _, route)) = ranked.iter().min() {
            own.routes.insert(*route);
            own.look(PRIORITY + 5, Selector::From("lo".into()), TABLE);
            if site.on_dataplane_loss == OnDataplaneLoss::Kernel {
                for lan in &site.lans {
                    own.look(PRIORITY_LAN, Selector::From(lan.interface.clone()), TABLE);
                }
            }
        }
        own
    }

    fn look(&mut self, priority: u32, selector: Selector, table: u32) {
        for (priority, table) in [(priority, MAIN), (priority + 1, table)] {
            let selector = selector.clone();
            self.rules.insert(Rule { v6: false, priority, selector, table });
        }
    }

    /// What has this mark leaves by this table, from one of these addresses, or not at all.
    fn confine(&mut self, mark: u32, table: u32, addresses: &[Ipv4Addr], foremost: Foremost) {
        let (v4, v6) = (before(foremost.v4), before(foremost.v6));
        for (v6, first) in [(false, v4), (true, v6)] {
            for (priority, table) in [(first, MAIN), (first + 2, NOWHERE)] {
                self.rules.insert(Rule { v6, priority, selector: Selector::Mark(mark), table });
            }
        }
        for address in addresses.iter().chain([&Ipv4Addr::UNSPECIFIED]) {
            let (priority, selector) = (v4 + 1, Selector::Marked(mark, *address));
            self.rules.insert(Rule { v6: false, priority, selector, table });
        }
    }

    /// Of these, what commands need that run by these uplinks.
    pub fn of_commands(&self, uplinks: &BTreeSet<u8>) -> Self {
        let rules = self
            .rules
            .iter()
            .filter(|rule| rule.selector.marked().is_some_and(|uplink| uplinks.contains(&uplink)));
        let of = |table| uplinks.iter().any(|uplink| TABLE + 1 + u32::from(*uplink) == table);
        let routes = self.routes.iter().filter(|route| of(route.table));
        Self { rules: rules.cloned().collect(), routes: routes.copied().collect() }
    }

    /// Makes the kernel have these and no others of weir's, given what it has, which is kept up to
    /// date. What is new is there before what is old goes. One that the kernel refuses stops no
    /// other.
    ///
    /// # Errors
    /// What was refused, and why.
    pub async fn install(&self, known: &mut Self, handle: &Handle) -> Result<()> {
        let mut refused = Vec::new();
        let new: Vec<_> = self.routes.difference(&known.routes).copied().collect();
        for route in new {
            // One default per table: this replaces another.
            match handle.route().add(route.message()).replace().execute().await {
                Ok(()) => {
                    known.routes.retain(|other| other.table != route.table);
                    known.routes.insert(route);
                }
                Err(error) => refused.push(format!("cannot add {route:?}: {error}")),
            }
        }
        let new = self.rules.difference(&known.rules).filter(|rule| !rule.v6 || has_v6());
        for rule in new.cloned().collect::<Vec<_>>() {
            let mut request = handle.rule().add();
            *request.message_mut() = rule.new_message();
            match request.execute().await {
                Ok(()) => _ = known.rules.insert(rule),
                Err(error) => refused.push(format!("cannot add {rule:?}: {error}")),
            }
        }
        let old: Vec<_> = known.rules.difference(&self.rules).cloned().collect();
        for rule in old {
            match handle.rule().del(rule.message()).execute().await {
                Ok(()) => _ = known.rules.remove(&rule),
                Err(error) => refused.push(format!("cannot remove {rule:?}: {error}")),
            }
        }
        let tables: BTreeSet<u32> = self.routes.iter().map(|route| route.table).collect();
        let old = known.routes.iter().filter(|route| !tables.contains(&route.table));
        for route in old.copied().collect::<Vec<_>>() {
            match handle.route().del(route.message()).execute().await {
                Ok(()) => _ = known.routes.remove(&route),
                Err(error) => refused.push(format!("cannot remove {route:?}: {error}")),
            }
        }
        if !refused.is_empty() {
            bail!("{}", refused.join("; "));
        }
        Ok(())
    }
}

/// Removes all that is weir's, but for what commands need that run by these uplinks.
///
/// # Errors
/// When the kernel cannot be asked, or refuses.
pub async fn remove(watcher: &mut Watcher, commands: &BTreeSet<u8>) -> Result<()> {
    let mut known = watcher.read().await?.own;
    known.of_commands(commands).install(&mut known, watcher.handle()).await
}

/// The rules that there are.
#[derive(Debug, Default)]
pub struct Rules {
    /// Weir's.
    pub own: BTreeSet<Rule>,
    /// [Others'](crate::rules), in their order.
    pub others: Vec<crate::rules::Rule>,
    /// Where others' begin.
    pub foremost: Foremost,
}

/// Lists them.
///
/// # Errors
/// When the kernel cannot be asked. One that has no rules for a family at all has none.
pub async fn rules(handle: &Handle) -> Result<Rules> {
    let mut found = Rules::default();
    for version in [Some(IpVersion::V4), has_v6().then_some(IpVersion::V6)].into_iter().flatten() {
        let mut rules = handle.rule().get(version).execute();
        loop {
            match rules.try_next().await {
                Ok(Some(message)) => {
                    found.own.extend(message::rule_of(&message));
                    found.others.extend(crate::rules::Rule::of(&message));
                    found.foremost.note(&message);
                }
                Ok(None) => break,
                Err(error) if is_unsupported(&error) => break,
                Err(error) => return Err(error).context("cannot list rules"),
            }
        }
    }
    Ok(found)
}

fn is_unsupported(error: &rtnetlink::Error) -> bool {
    let unsupported = [Errno::AFNOSUPPORT, Errno::OPNOTSUPP].map(|errno| -errno.raw_os_error());
    matches!(error, rtnetlink::Error::NetlinkError(e) if unsupported.contains(&e.raw_code()))
}
