//! The prefixes that providers delegate, and what stands inside for them.

use ipnet::{IpNet, Ipv6Net};
use toml::Spanned;
use weir_layout::control::Translate;

use super::checker::Checker;
use super::machine::overlap;
use super::schema::{self, Translation6};
use super::{Lan, PrefixPair, UplinkConfig};

/// The prefixes of all uplinks so far, each with its line.
pub type Delegated = Vec<(Ipv6Net, usize)>;

/// Addresses of which hosts may be sent to from anywhere (RFC 4291 §2.4).
const GLOBAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Unique local ones (RFC 4193).
const UNIQUE_LOCAL: Ipv6Net =
    Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);

/// Checks what the file says of the prefixes of a path.
pub fn of_path(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Ipv6>,
    lans: &[Lan],
    delegated: &mut Delegated,
) -> Vec<PrefixPair> {
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
    let prefixes = match of.translate.get_ref() {
        Translation6::None | Translation6::Nat66 => Vec::new(),
        Translation6::Npt66 => pairs(c, given, lans),
        Translation6::Source => sources(c, given, lans),
    };
    for (pair, span) in &prefixes {
        let other = delegated.iter().find(|(other, _)| overlaps(other, &pair.outside));
        if let Some((other, line)) = other {
            let message = format!("prefix {} overlaps {other} of line {line}", pair.outside);
            c.refuse(span.clone(), message, "a provider delegates it by one uplink: remove one");
        }
        delegated.push((pair.outside, c.places.line(span.start)));
    }
    prefixes.into_iter().map(|(pair, _)| pair).collect()
}

/// Says which prefixes of LANs a path that translates prefixes does not carry.
pub fn left_out(uplink: &UplinkConfig, lans: &[Lan]) -> Vec<String> {
    let Some(path) = uplink.ipv6.as_ref().filter(|path| path.translate == Translate::Npt) else {
        return Vec::new();
    };
    let covered = |lan: &Ipv6Net| {
        path.prefixes.iter().filter_map(|pair| pair.inside).any(|inside| overlaps(&inside, lan))
    };
    let left_out = of_lans(lans).filter(|lan| !covered(lan));
    let warning = |lan| {
        let name = &uplink.name;
        format!("uplink {name}: LAN prefix {lan} is translated to no prefix, and leaves not by it")
    };
    left_out.map(warning).collect()
}

type Placed = (PrefixPair, std::ops::Range<usize>);

/// The pairs of a path that translates prefixes.
fn pairs(c: &mut Checker<'_>, given: &Spanned<schema::Ipv6>, lans: &[Lan]) -> Vec<Placed> {
    let of = given.get_ref();
    let mut pairs: Vec<Placed> = Vec::new();
    match (&of.prefix, &of.pairs) {
        (Some(outside), None) => {
            let outside = (provider(c, outside), outside.span());
            let inside = match &of.inside {
                Some(inside) => Some(unicast(c, inside)),
                None => only_one(c, &outside.1, lans),
            };
            pairs.extend(inside.map(|inside| pair(inside, outside)));
        }
        (None, Some(given)) => {
            for given in given.get_ref() {
                let outside = (provider(c, &given.outside), given.outside.span());
                pairs.push(pair(unicast(c, &given.inside), outside));
            }
        }
        _ => c.refuse(
            given.span(),
            "a path that translates prefixes has either `prefix` or `pairs`",
            "say prefix = \"2001:db8:1::/56\" with the prefix that the provider delegates",
        ),
    }
    for (index, (PrefixPair { inside, outside }, span)) in pairs.iter().enumerate() {
        let Some(inside) = inside else { continue };
        let earlier = pairs[..index].iter().filter_map(|(pair, _)| pair.inside);
        if let Some(other) = earlier.into_iter().find(|other| overlaps(other, inside)) {
            let message = format!("inside prefix {inside} overlaps {other} of the same path");
            c.refuse(span.clone(), message, "each address is translated to one prefix");
        }
        if knows_all(lans) && !of_lans(lans).any(|lan| overlaps(&lan, inside)) {
            let message = format!("no LAN has an address of the inside prefix {inside}");
            c.refuse(span.clone(), message, "give one that holds prefixes of LANs");
        }
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

/// The prefixes of a path whose provider's addresses the LANs have.
fn sources(c: &mut Checker<'_>, given: &Spanned<schema::Ipv6>, lans: &[Lan]) -> Vec<Placed> {
    let Some(prefixes) = given.get_ref().prefixes.as_ref().filter(|p| !p.get_ref().is_empty())
    else {
        c.refuse(
            given.span(),
            "a path by source has `prefixes`",
            "say prefixes = [\"2001:db8:1::/56\"] with what the provider delegates",
        );
        return Vec::new();
    };
    let mut placed = Vec::new();
    for given in prefixes.get_ref() {
        let outside = provider(c, given);
        if knows_all(lans) && !of_lans(lans).any(|lan| overlaps(&lan, &outside)) {
            let message = format!("no LAN has an address of the prefix {outside}");
            c.refuse(given.span(), message, "give LANs prefixes of it");
        }
        placed.push((PrefixPair { inside: None, outside }, given.span()));
    }
    placed
}

fn pair(inside: Ipv6Net, (outside, span): (Ipv6Net, std::ops::Range<usize>)) -> Placed {
    (PrefixPair { inside: Some(inside), outside }, span)
}

/// The only IPv6 prefix that LANs have.
fn only_one(c: &mut Checker<'_>, span: &std::ops::Range<usize>, lans: &[Lan]) -> Option<Ipv6Net> {
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

/// A prefix that a provider delegates.
fn provider(c: &mut Checker<'_>, given: &Spanned<Ipv6Net>) -> Ipv6Net {
    let net = sound(c, given);
    if !GLOBAL.contains(&net) {
        let remedy = "give the one that the provider delegates: of 2000::/3";
        c.refuse(given.span(), format!("{net} is no provider's prefix"), remedy);
    }
    net
}

/// A prefix that LANs may have.
fn unicast(c: &mut Checker<'_>, given: &Spanned<Ipv6Net>) -> Ipv6Net {
    let net = sound(c, given);
    if !GLOBAL.contains(&net) && !UNIQUE_LOCAL.contains(&net) {
        let message = format!("no host of a LAN has an address of {net}");
        c.refuse(given.span(), message, "give a prefix of fc00::/7 or 2000::/3");
    }
    net
}

/// Without what is set after its length; the part of an interface is nobody's to route (RFC 6296 §3.5).
fn sound(c: &mut Checker<'_>, given: &Spanned<Ipv6Net>) -> Ipv6Net {
    let net = *given.get_ref();
    if net.trunc() != net {
        let message = format!("{net} has bits set after its length");
        c.refuse(given.span(), message, format!("write {}", net.trunc()));
    }
    if net.prefix_len() > 64 {
        c.refuse(
            given.span(),
            format!("{net} is longer than 64 bits"),
            "give a /64 or a shorter one",
        );
    }
    net.trunc()
}

/// Does the file give IPv6 prefixes of all LANs?
fn knows_all(lans: &[Lan]) -> bool {
    lans.iter().all(|lan| lan.prefixes.iter().any(|net| matches!(net, IpNet::V6(_))))
}

fn of_lans(lans: &[Lan]) -> impl Iterator<Item = Ipv6Net> {
    lans.iter().flat_map(|lan| &lan.prefixes).filter_map(|net| match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(*net),
    })
}

fn overlaps(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    overlap(&IpNet::V6(*a), &IpNet::V6(*b))
}
