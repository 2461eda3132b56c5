//! The prefixes that providers delegate, and what stands inside for them.

use std::collections::BTreeSet;
use std::ops::Range;

use ipnet::{IpNet, Ipv6Net};
use toml::Spanned;
use weir_layout::Family;
use weir_layout::control::{Translate, is_unrouted};

use super::checker::Checker;
use super::machine::overlap;
use super::schema::{self, Prefix, Prefixes, Translation6};
use super::{Delegation, Lan, PrefixPair, UplinkConfig};

/// The prefixes of all uplinks so far.
pub type Delegated = Vec<Claim>;

/// A prefix that an uplink's provider delegates.
pub struct Claim {
    net: Ipv6Net,
    line: usize,
    /// Hosts have addresses of it.
    by_source: bool,
}

impl Claim {
    /// May both be right?
    fn agrees(&self, other: &Self) -> bool {
        may_share(&self.net, &other.net, self.by_source && other.by_source)
    }
}

/// May two uplinks have these prefixes? Two lines of one provider may lead to one prefix of which hosts
/// have addresses, so by source at both. What is translated to it comes back by either line, and has
/// its flow at one.
pub fn may_share(one: &Ipv6Net, other: &Ipv6Net, by_source: bool) -> bool {
    !overlaps(one, other) || by_source && one == other
}

/// What to do where two uplinks have a prefix that they may not share.
pub const SHARED: &str = "a provider delegates it by one uplink. Two lines that both lead to it have \
                          the same prefix, each with translate = \"source\"";

/// Addresses of which hosts may be sent to from anywhere (RFC 4291 §2.4).
const GLOBAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Unique local ones (RFC 4193).
const UNIQUE_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Checks what the file says of the prefixes of a path: these, or that they are told later.
pub fn of_path(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Ipv6>,
    lans: &[Lan],
    delegated: &mut Delegated,
) -> (Vec<PrefixPair>, Option<Delegation>) {
    let of = given.get_ref();
    let is = |mode| *of.translate.get_ref() == mode;
    let only = [
        (of.prefix.as_ref().map(Spanned::span), "prefix", Translation6::Npt66, "npt66"),
        (of.inside.as_ref().map(Spanned::span), "inside", Translation6::Npt66, "npt66"),
        (of.pairs.as_ref().map(Spanned::span), "pairs", Translation6::Npt66, "npt66"),
        (of.prefixes.as_ref().map(Spanned::span), "prefixes", Translation6::Source, "source"),
        (of.rescue.as_ref().map(Spanned::span), "rescue", Translation6::Source, "source"),
    ];
    for (span, key, mode, name) in only {
        if let Some(span) = span.filter(|_| !is(mode)) {
            let remedy = format!("say translate = \"{name}\", or remove it");
            c.refuse(span, format!("{key} has no effect on this path"), remedy);
        }
    }
    if let Some(delegation) = delegation(c, given, lans) {
        return (Vec::new(), Some(delegation));
    }
    let prefixes = match of.translate.get_ref() {
        Translation6::None | Translation6::Nat66 => Vec::new(),
        Translation6::Npt66 => pairs(c, given, lans),
        Translation6::Source => sources(c, given, lans),
    };
    let of_others = delegated.len();
    for (pair, span) in &prefixes {
        let (net, line) = (pair.outside, c.places.line(span.start));
        let claim = Claim { net, line, by_source: is(Translation6::Source) };
        let (others, own) = delegated.split_at(of_others);
        let twice = own.iter().find(|own| overlaps(&own.net, &net));
        if let Some(other) = others.iter().find(|other| !claim.agrees(other)).or(twice) {
            let message = format!("prefix {net} overlaps {} of line {}", other.net, other.line);
            c.refuse(span.clone(), message, format!("remove one: {SHARED}"));
        }
        delegated.push(claim);
    }
    (prefixes.into_iter().map(|(pair, _)| pair).collect(), None)
}

/// What is made of a prefix that the provider delegates, where the file leaves it to that.
fn delegation(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Ipv6>,
    lans: &[Lan],
) -> Option<Delegation> {
    let of = given.get_ref();
    match (of.translate.get_ref(), &of.prefix, &of.pairs, &of.prefixes) {
        (Translation6::Npt66, Some(prefix), None, _) => {
            let Prefix::Later(_) = prefix.get_ref() else { return None };
            let inside = inside(c, given, &prefix.span(), lans)?;
            refuse_foreign_inside(c, &inside, &prefix.span(), lans);
            Some(Delegation { inside: Some(inside) })
        }
        (Translation6::Source, _, _, Some(prefixes)) => {
            let is_later = matches!(prefixes.get_ref(), Prefixes::Later(_));
            is_later.then_some(Delegation { inside: None })
        }
        _ => None,
    }
}

/// Says which prefixes of LANs a path that translates prefixes does not carry.
pub fn left_out(uplink: &UplinkConfig, lans: &[Lan]) -> Vec<String> {
    let Some(path) = uplink.ipv6.as_ref().filter(|path| path.translate == Translate::Npt) else {
        return Vec::new();
    };
    let of_file = path.prefixes.iter().filter_map(|pair| pair.inside);
    let insides: Vec<_> = of_file.chain(path.delegation.and_then(|of| of.inside)).collect();
    let covered = |lan: &Ipv6Net| insides.iter().any(|inside| overlaps(inside, lan));
    let left_out = of_lans(lans).filter(|lan| !covered(lan));
    let warning = |lan| {
        let name = &uplink.name;
        format!("uplink {name}: LAN prefix {lan} is translated to no prefix, and leaves not by it")
    };
    left_out.map(warning).collect()
}

/// What an uplink translates to its provider's first prefix: sources of others' prefixes, while no
/// uplink that has them is to be had.
pub fn rescued(uplink: &UplinkConfig, all: &[UplinkConfig]) -> Vec<PrefixPair> {
    let path = uplink.ipv6.as_ref().filter(|path| path.rescue);
    let Some(outside) = path.and_then(|path| Some(path.prefixes.first()?.outside)) else {
        return Vec::new();
    };
    let is_own = |net: &IpNet| uplink.delegated_to_lans(Family::V6).any(|own| own == *net);
    let others = all.iter().flat_map(|other| other.delegated_to_lans(Family::V6));
    let others: BTreeSet<_> = others.filter(|net| !is_own(net)).filter_map(six).collect();
    others.into_iter().map(|inside| PrefixPair { inside: Some(inside), outside }).collect()
}

/// Says which uplinks would rescue sources of others, and there are none. What a provider is yet to
/// delegate may be one.
pub fn needless_rescues(uplinks: &[UplinkConfig]) -> Vec<String> {
    let rescues = uplinks.iter().filter(|of| of.ipv6.as_ref().is_some_and(|path| path.rescue));
    let is_by_source = |of: &&UplinkConfig| of.translation(Family::V6) == Translate::Source;
    let by_source = || uplinks.iter().filter(is_by_source);
    let waits = by_source().count() > 1 && by_source().any(UplinkConfig::is_delegated);
    let needless = rescues.filter(|uplink| rescued(uplink, uplinks).is_empty() && !waits);
    let warning = |uplink: &UplinkConfig| {
        format!(
            "uplink {}: `rescue` has nothing to rescue: no other uplink has prefixes by source",
            uplink.name
        )
    };
    needless.map(warning).collect()
}

type Placed = (PrefixPair, Range<usize>);

/// The pairs of a path that translates prefixes.
fn pairs(c: &mut Checker<'_>, given: &Spanned<schema::Ipv6>, lans: &[Lan]) -> Vec<Placed> {
    let of = given.get_ref();
    let mut pairs: Vec<Placed> = Vec::new();
    match (&of.prefix, &of.pairs) {
        (Some(prefix), None) => {
            // One that is told later and has nothing inside was refused already.
            let Prefix::Here(outside) = *prefix.get_ref() else { return pairs };
            let outside = (provider(c, outside, prefix.span()), prefix.span());
            let inside = inside(c, given, &prefix.span(), lans);
            pairs.extend(inside.map(|inside| pair(inside, outside)));
        }
        (None, Some(given)) => {
            for given in given.get_ref() {
                let at = given.outside.span();
                let outside = (provider(c, *given.outside.get_ref(), at.clone()), at);
                pairs.push(pair(unicast(c, &given.inside), outside));
            }
        }
        _ => c.refuse(
            given.span(),
            "a path that translates prefixes has either `prefix` or `pairs`",
            "say prefix = \"2001:db8:1::/56\" with the prefix that the provider delegates, or \
             \"delegated\"",
        ),
    }
    for (index, (PrefixPair { inside, outside }, span)) in pairs.iter().enumerate() {
        let Some(inside) = inside else { continue };
        let earlier = pairs[..index].iter().filter_map(|(pair, _)| pair.inside);
        if let Some(other) = earlier.into_iter().find(|other| overlaps(other, inside)) {
            let message = format!("inside prefix {inside} overlaps {other} of the same path");
            c.refuse(span.clone(), message, "each address is translated to one prefix");
        }
        refuse_foreign_inside(c, inside, span, lans);
        if let Some(lan) = of_lans(lans).find(|lan| overlaps(lan, outside)) {
            let message = format!("LAN prefix {lan} is of the provider's prefix {outside}");
            c.refuse(
                span.clone(),
                message,
                "give the LAN a prefix of its own, such as one of fd00::/8",
            );
        }
    }
    pairs
}

/// What is translated by a path with one prefix: what the file says, else the LANs' only prefix.
fn inside(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Ipv6>,
    span: &Range<usize>,
    lans: &[Lan],
) -> Option<Ipv6Net> {
    match &given.get_ref().inside {
        Some(inside) => Some(unicast(c, inside)),
        None => only_one(c, span, lans),
    }
}

/// Refuses an inside prefix that no LAN has an address of.
fn refuse_foreign_inside(c: &mut Checker<'_>, inside: &Ipv6Net, span: &Range<usize>, lans: &[Lan]) {
    if knows_all(lans) && !of_lans(lans).any(|lan| overlaps(&lan, inside)) {
        let message = format!("no LAN has an address of the inside prefix {inside}");
        c.refuse(span.clone(), message, "give one that holds prefixes of LANs");
    }
}

/// The prefixes of a path whose provider's addresses the LANs have.
fn sources(c: &mut Checker<'_>, given: &Spanned<schema::Ipv6>, lans: &[Lan]) -> Vec<Placed> {
    let given_ones = given.get_ref().prefixes.as_ref().and_then(|prefixes| {
        let Prefixes::Here(nets) = prefixes.get_ref() else { return None };
        (!nets.is_empty()).then(|| (nets, prefixes.span()))
    });
    let Some((nets, span)) = given_ones else {
        c.refuse(
            given.span(),
            "a path by source has `prefixes`",
            "say prefixes = [\"2001:db8:1::/56\"] with what the provider delegates, or \
             \"delegated\"",
        );
        return Vec::new();
    };
    let mut placed = Vec::new();
    for net in nets {
        let outside = provider(c, *net, span.clone());
        if knows_all(lans) && !of_lans(lans).any(|lan| overlaps(&lan, &outside)) {
            let message = format!("no LAN has an address of the prefix {outside}");
            c.refuse(span.clone(), message, "give LANs prefixes of it");
        }
        placed.push((PrefixPair { inside: None, outside }, span.clone()));
    }
    placed
}

fn pair(inside: Ipv6Net, (outside, span): (Ipv6Net, Range<usize>)) -> Placed {
    (PrefixPair { inside: Some(inside), outside }, span)
}

/// The only IPv6 prefix that LANs have.
fn only_one(c: &mut Checker<'_>, span: &Range<usize>, lans: &[Lan]) -> Option<Ipv6Net> {
    let mut prefixes = of_lans(lans);
    let (first, more) = (prefixes.next(), prefixes.next());
    if first.is_none() || more.is_some() {
        let many = if more.is_some() { "several IPv6 prefixes" } else { "no IPv6 prefix" };
        let message = format!("the LANs have {many} in the file: what is translated is not said");
        c.refuse(
            span.clone(),
            message,
            "say inside = \"fd00:1:2::/56\" with the prefix of the LANs",
        );
        return None;
    }
    first
}

/// Shortest prefix that may be told: registries seldom give a whole provider more.
const SHORTEST: u8 = 20;

/// A prefix that a provider delegates.
fn provider(c: &mut Checker<'_>, net: Ipv6Net, span: Range<usize>) -> Ipv6Net {
    let net = sound(c, net, span.clone());
    if !GLOBAL.contains(&net) {
        let remedy = "give the one that the provider delegates: of 2000::/3";
        c.refuse(span, format!("{net} is no provider's prefix"), remedy);
    } else if is_unrouted(net.network().octets()) {
        let message = format!("{net} is for documentation, and no provider routes it");
        c.refuse(span, message, "give the prefix that the provider delegates");
    }
    net
}

/// Why a prefix that is told cannot be a provider's; none: it can.
pub fn fault_of_delegated(net: &Ipv6Net) -> Option<String> {
    if net.trunc() != *net {
        Some(format!("{net} has bits set after its length: give {}", net.trunc()))
    } else if net.prefix_len() > 64 {
        Some(format!("{net} is longer than 64 bits: give a /64 or a shorter one"))
    } else if !GLOBAL.contains(net) {
        Some(format!("{net} is no provider's prefix: give one of 2000::/3"))
    } else if is_unrouted(net.network().octets()) {
        Some(format!("{net} is for documentation: give the prefix that the provider delegates"))
    } else if net.prefix_len() < SHORTEST {
        Some(format!("{net} is shorter than {SHORTEST} bits: no customer has so much"))
    } else {
        None
    }
}

/// A prefix that LANs may have.
fn unicast(c: &mut Checker<'_>, given: &Spanned<Ipv6Net>) -> Ipv6Net {
    let net = sound(c, *given.get_ref(), given.span());
    if !GLOBAL.contains(&net) && !UNIQUE_LOCAL.contains(&net) {
        let message = format!("no host of a LAN has an address of {net}");
        c.refuse(given.span(), message, "give a prefix of fc00::/7 or 2000::/3");
    }
    net
}

/// Without what is set after its length; the part of an interface is nobody's to route (RFC 6296 §3.5).
fn sound(c: &mut Checker<'_>, net: Ipv6Net, span: Range<usize>) -> Ipv6Net {
    if net.trunc() != net {
        let message = format!("{net} has bits set after its length");
        c.refuse(span.clone(), message, format!("write {}", net.trunc()));
    }
    if net.prefix_len() > 64 {
        c.refuse(span, format!("{net} is longer than 64 bits"), "give a /64 or a shorter one");
    }
    net.trunc()
}

/// Does the file give IPv6 prefixes of all LANs?
fn knows_all(lans: &[Lan]) -> bool {
    lans.iter().all(|lan| lan.prefixes.iter().any(|net| matches!(net, IpNet::V6(_))))
}

fn of_lans(lans: &[Lan]) -> impl Iterator<Item = Ipv6Net> {
    lans.iter().flat_map(|lan| &lan.prefixes).copied().filter_map(six)
}

const fn six(net: IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(net),
    }
}

fn overlaps(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    overlap(&IpNet::V6(*a), &IpNet::V6(*b))
}
