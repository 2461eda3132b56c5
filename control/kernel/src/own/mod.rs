//! Weir's own rules and routes in the kernel: what is there, and who keeps them.
//!
//! Those of the process's network namespace; [`weir_view::own`] says what they are.

mod claim;
mod message;

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use futures_util::stream::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::rule::RuleMessage;
use rtnetlink::{Handle, IpVersion};
use rustix::io::Errno;
use weir_layout::Family;
use weir_view::own::{DefaultRoute, Foremost, Own, Rule};
use weir_view::rule::Rule as OthersRule;

use crate::message::rule as others_rule;

pub use claim::{Claim, Keeper};
pub use message::route_of;

/// Does the kernel have IPv6?
pub(crate) fn has_v6() -> bool {
    std::path::Path::new("/proc/sys/net/ipv6").exists()
}

/// Makes the kernel have these and no others of weir's. `known` is what it has, and is kept up to
/// date. What is new is there before what is old goes. One that the kernel refuses stops no
/// other.
///
/// # Errors
/// What was refused, and why.
pub async fn install(wanted: &Own, known: &mut Own, handle: &Handle) -> Result<()> {
    let mut refused = Vec::new();
    let can_have = |family| family == Family::V4 || has_v6();
    let new = wanted.routes.difference(&known.routes).filter(|route| can_have(route.family()));
    for route in new.copied().collect::<Vec<_>>() {
        // One default per table and family: this replaces another.
        match handle.route().add(message::of_route(&route)).replace().execute().await {
            Ok(()) => {
                known.routes.retain(|other| place(other) != place(&route));
                known.routes.insert(route);
            }
            Err(error) => refused.push(format!("cannot add {route:?}: {error}")),
        }
    }
    let new = wanted.rules.difference(&known.rules).filter(|rule| can_have(rule.family));
    for rule in new.cloned().collect::<Vec<_>>() {
        let mut request = handle.rule().add();
        *request.message_mut() = message::of_rule(&rule);
        match request.execute().await {
            Ok(()) => _ = known.rules.insert(rule),
            Err(error) => refused.push(format!("cannot add {rule:?}: {error}")),
        }
    }
    let old: Vec<_> = known.rules.difference(&wanted.rules).cloned().collect();
    for rule in old {
        match handle.rule().del(message::of_rule(&rule)).execute().await {
            Ok(()) => _ = known.rules.remove(&rule),
            Err(error) => refused.push(format!("cannot remove {rule:?}: {error}")),
        }
    }
    let places: BTreeSet<_> = wanted.routes.iter().map(place).collect();
    let old = known.routes.iter().filter(|route| !places.contains(&place(route)));
    for route in old.copied().collect::<Vec<_>>() {
        match handle.route().del(message::of_route(&route)).execute().await {
            Ok(()) => _ = known.routes.remove(&route),
            Err(error) => refused.push(format!("cannot remove {route:?}: {error}")),
        }
    }
    if !refused.is_empty() {
        bail!("{}", refused.join("; "));
    }
    Ok(())
}

/// Where there is one route at most.
const fn place(route: &DefaultRoute) -> (u32, Family) {
    (route.table, route.family())
}

/// The rules that there are.
#[derive(Debug, Default)]
pub struct Rules {
    /// Weir's.
    pub own: BTreeSet<Rule>,
    /// Others', in their order.
    pub others: Vec<OthersRule>,
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
                    found.others.extend(others_rule(&message));
                    note(&mut found.foremost, &message);
                }
                Ok(None) => break,
                Err(error) if is_unsupported(&error) => break,
                Err(error) => return Err(error).context("cannot list rules"),
            }
        }
    }
    Ok(found)
}

fn note(foremost: &mut Foremost, rule: &RuleMessage) {
    let Some(priority) = message::priority_of_another(rule) else { return };
    let v6 = rule.header.family == AddressFamily::Inet6;
    let first = if v6 { &mut foremost.v6 } else { &mut foremost.v4 };
    *first = Some(first.map_or(priority, |first| first.min(priority)));
}

fn is_unsupported(error: &rtnetlink::Error) -> bool {
    let unsupported = [Errno::AFNOSUPPORT, Errno::OPNOTSUPP].map(|errno| -errno.raw_os_error());
    matches!(error, rtnetlink::Error::NetlinkError(e) if unsupported.contains(&e.raw_code()))
}
