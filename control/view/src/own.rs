//! Rules and routes for the gateway's own traffic: a socket that names an uplink, by its device or
//! one of its addresses, leaves by that uplink; every other leaves by one that works.
//!
//! Done with tables and rules of the kernel's own, of a protocol number that marks them as weir's:
//! nobody else's is ever touched. Every selector has two rules. The first looks only at routes of
//! the main table that are more special than a default, so that the LAN stays reachable; the second
//! at weir's table. For what names an uplink the halves of everything that some VPNs have routes
//! for (0.0.0.0/1) are defaults too.
//!
//! | priority | selector | table |
//! |---|---|---|
//! | [`PRIORITY`], + 1, + 2, or right before all of others' | with the uplink's [`mark`] | main without defaults, then [`TABLE`] + 1 + uplink from its addresses or none yet, then nowhere |
//! | [`PRIORITY`] + 2 | with its [`home_mark`] | the uplink's table |
//! | [`PRIORITY`] + 3, + 4 | bound to the uplink's device, from one of its addresses, or with its [`answer_mark`] | main without defaults, then the uplink's table |
//! | [`PRIORITY`] + 5, + 6 | the gateway's own | main without defaults, then [`TABLE`] |
//! | [`PRIORITY_LAN`] - 2, - 1 | from a LAN and a prefix that an uplink's provider delegates, likewise | main without defaults, then the uplink's table |
//! | [`PRIORITY_LAN`], + 1 | from a LAN, if the kernel forwards without a dataplane | main without defaults, then [`TABLE`] |
//!
//! The mark is that of commands run by `weir use`, which leave by their uplink or not at all,
//! whatever address they bind to; the guard's table sees to the devices that they bind to. By an
//! uplink without an IPv6 path they have no IPv6 beyond the gateway's own networks. A rule that is
//! entered without a priority gets one before all others but the local table's
//! (`fib_default_rule_pref`, net/core/fib_rules.c), as `wg-quick` has it; so the rules by mark,
//! which are for nobody else, move before it. When it goes down, it has the kernel delete rules
//! that look at main without defaults, whoever's and for whatever packets (`rule_find`, there),
//! until its own is gone; none for what names an uplink is meant by that, as none suppresses length
//! 0. Their rules outlive this process. The guard's table gives the second mark to answers of
//! containers, whose source is no address of an uplink's when their way is looked for, and the
//! third to what is from an uplink's address and for another uplink's link, where main has a route.
//! What comes in by a LAN meets others' rules first: where they lead elsewhere than to an uplink,
//! such packets are the kernel's (see `destinations`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weir_layout::Family;

/// Priority of the first of weir's rules.
pub const PRIORITY: u32 = 11_700;
/// Priority of the first rule for LANs, right before that of the main table.
pub const PRIORITY_LAN: u32 = 32_764;
/// Table of the gateway's own traffic; the uplinks' follow.
pub const TABLE: u32 = 11_700;
/// `rtm_protocol` and `FRA_PROTOCOL` of what is weir's; none of `rtnetlink.h`'s.
pub const PROTOCOL: u8 = 117;

/// The comment of an nftables table that is weir's, where others may have one of its name.
pub const GUARD_COMMENT: &str = "kept by weir-control";

/// The mark of sockets that leave by an uplink whatever they are bound to (`SO_MARK`).
pub const fn mark(uplink: u8) -> u32 {
    MARK | uplink as u32
}

/// The mark of answers to who came in by an uplink to a port that is published, of their
/// connections too.
pub const fn answer_mark(uplink: u8) -> u32 {
    ANSWER_MARK | uplink as u32
}

/// The mark of what the gateway sends from one of the uplink's addresses where routes would have it
/// leave by another uplink.
pub const fn home_mark(uplink: u8) -> u32 {
    HOME_MARK | uplink as u32
}

/// "wei" and the uplink's index: nothing that anybody else is likely to use.
pub const MARK: u32 = 0x7765_6900;
/// The next one.
pub const ANSWER_MARK: u32 = MARK + 0x100;
/// The one after that.
pub const HOME_MARK: u32 = ANSWER_MARK + 0x100;
/// The bits that all marks share.
pub const MARKS: u32 = 0xffff_ff00;

/// The main table (`RT_TABLE_MAIN`).
pub const MAIN: u32 = 254;
/// No table (`RT_TABLE_UNSPEC`): the rule says that there is no way.
pub const NOWHERE: u32 = 0;

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Of which packets.
    pub family: Family,
    /// Order; lower is first.
    pub priority: u32,
    /// Whose packets.
    pub selector: Selector,
    /// Where it looks; 0 is nowhere, the destination is unreachable.
    pub table: u32,
    /// Routes there with prefixes up to this length do not count (`suppress_prefixlength`).
    pub suppressed: Option<u32>,
}

impl Rule {
    /// One that looks in this table; in the main one without its default routes.
    pub fn new(family: Family, priority: u32, selector: Selector, table: u32) -> Self {
        let suppressed = (table == MAIN).then_some(selector.suppressed());
        Self { family, priority, selector, table, suppressed }
    }
}

/// Whose packets a rule is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Everybody's. None of weir's rules is so wide: it would forward others' packets by uplinks,
    /// in spite of their own rules further on.
    All,
    /// That came in by this device; the gateway's own come by `lo`.
    From(String),
    /// Of those, that have a source of this prefix.
    FromPrefix(String, IpNet),
    /// Of sockets bound to this device.
    Device(String),
    /// From this address.
    Source(IpAddr),
    /// With this mark.
    Mark(u32),
    /// Of sockets with this mark, from this address. IPv4's 0.0.0.0: that have none yet; of IPv6 it
    /// is for those too, if they are given this one (`FIB_RULE_FIND_SADDR`).
    Marked(u32, IpAddr),
}

impl Selector {
    /// Routes of main with prefixes up to this length do not count.
    const fn suppressed(&self) -> u32 {
        match self {
            Self::Mark(_) | Self::Marked(..) | Self::Device(_) | Self::Source(_) => 1,
            Self::From(_) | Self::FromPrefix(..) | Self::All => 0,
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
pub struct DefaultRoute {
    /// The table.
    pub table: u32,
    /// The next hop.
    pub next_hop: IpAddr,
    /// Index of its interface.
    pub interface: u32,
    /// What sockets without an address of their own are given; none: one of the interface.
    pub source: Option<IpAddr>,
}

impl DefaultRoute {
    /// Its family.
    pub const fn family(&self) -> Family {
        Family::of(self.next_hop)
    }
}

/// All rules and routes of weir's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The rules.
    pub rules: BTreeSet<Rule>,
    /// The routes.
    pub routes: BTreeSet<DefaultRoute>,
}

/// Priorities of the first rules of others, but for the local table's, which nobody goes before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foremost {
    /// Of IPv4.
    pub v4: Option<u32>,
    /// Of IPv6.
    pub v6: Option<u32>,
}

impl Foremost {
    /// Of a family.
    pub const fn of(self, family: Family) -> Option<u32> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Own {
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
}
