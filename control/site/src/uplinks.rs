//! `[[uplink]]`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use toml::Spanned;
use weir_layout::Family;
use weir_layout::control::{Filtering, MAX_PATH_PREFIXES, MAX_POOL, Member, TcpMapping, Translate};

use super::checker::Checker;
use super::prefixes::{self, Delegated};
use super::schema::{self, Addresses, File, Translation, Uplink};
use super::{Lan, MemberConfig, PolicyConfig, UplinkConfig, capacity, clamp, ipv6, warn};
use crate::health::{Fault, Health};

pub fn uplinks(c: &mut Checker<'_>, file: &File, lans: &[Lan]) -> Vec<UplinkConfig> {
    let everywhere = file.health.as_ref().map_or_else(Health::default, |h| health(c, h, &[]));
    let told = everywhere.check();
    let (mut pooled, mut delegated) = (HashMap::new(), Delegated::new());
    let uplinks: Vec<_> = file
        .uplink
        .iter()
        .map(|given| {
            let health = match &given.get_ref().health {
                Some(own) => health(c, own, &told),
                None => everywhere.clone(),
            };
            uplink(c, given, health, lans, &mut pooled, &mut delegated)
        })
        .collect();
    let rescued = uplinks.iter().flat_map(|uplink| prefixes::rescued(uplink, &uplinks)).count();
    c.too_many("prefixes of uplinks", delegated.len() + rescued, MAX_PATH_PREFIXES);
    c.warnings.extend(prefixes::needless_rescues(&uplinks));
    refuse_names_of_others(c, file, &uplinks);
    refuse_addresses_of_others(c, file, &uplinks);
    uplinks
}

/// Refuses names that are another uplink's interface, where a provider delegates prefixes to one of
/// the two: hooks of DHCPv6 clients tell them by the interface, as if by a name, and one provider's
/// would be the other's.
fn refuse_names_of_others(c: &mut Checker<'_>, file: &File, uplinks: &[UplinkConfig]) {
    for (given, uplink) in file.uplink.iter().zip(uplinks) {
        let is_mistaken = |other: &&UplinkConfig| {
            other.interface == uplink.name
                && other.name != uplink.name
                && (other.is_delegated() || uplink.is_delegated())
        };
        if let Some(other) = uplinks.iter().find(is_mistaken) {
            c.refuse(
                given.get_ref().name.span(),
                format!(
                    "uplink name \"{}\" is the interface of uplink \"{}\"",
                    uplink.name, other.name
                ),
                "hooks of DHCPv6 clients tell prefixes by interface, so that these would be the \
                 wrong uplink's: rename it",
            );
        }
    }
}

/// Refuses source addresses of a prefix that another uplink's provider delegates.
fn refuse_addresses_of_others(c: &mut Checker<'_>, file: &File, uplinks: &[UplinkConfig]) {
    for (given, uplink) in file.uplink.iter().zip(uplinks) {
        let others = uplinks.iter().filter(|other| other.name != uplink.name);
        let delegated: Vec<_> =
            others.flat_map(|o| o.delegated(Family::V6).map(|net| (net, &o.name))).collect();
        let addresses = given.get_ref().ipv6.iter().flat_map(|ipv6| &ipv6.get_ref().addresses);
        for address in addresses {
            let at = IpAddr::V6(*address.get_ref());
            if let Some((net, name)) = delegated.iter().find(|(net, _)| net.contains(&at)) {
                c.refuse(
                    address.span(),
                    format!("address {at} is of {net}, which uplink {name} has of its provider"),
                    "that provider alone routes it back: give an address of this uplink's",
                );
            }
        }
    }
}

/// What was inherited with its faults, which are `told`, is not told again.
fn health(c: &mut Checker<'_>, given: &Spanned<Health>, told: &[Fault]) -> Health {
    for fault in given.get_ref().check().into_iter().filter(|fault| !told.contains(fault)) {
        c.refuse(given.span(), format!("health.{}: {}", fault.field, fault.what), fault.help);
    }
    given.get_ref().clone()
}

/// One uplink. `pooled` has the source addresses of those before, each with its uplink's line, and
/// `delegated` their prefixes.
fn uplink(
    c: &mut Checker<'_>,
    given: &Spanned<Uplink>,
    health: Health,
    lans: &[Lan],
    pooled: &mut HashMap<IpAddr, usize>,
    delegated: &mut Delegated,
) -> UplinkConfig {
    let line = c.places.line(given.span().start);
    let u = given.get_ref();
    c.name("uplink", &u.name);
    let weight = c.number("weight", &u.weight, 0..i64::from(Member::MAX_WEIGHT) + 1, 1) as u16;
    let addresses = pool(c, given, pooled, line);
    let inbound = inbound(c, u);
    let ipv6 = u.ipv6.as_ref().map(|given| ipv6::path(c, given, lans, pooled, delegated, line));
    let mut refuse = |span, what, help: &str| c.refuse(span, what, help);
    let capacity = capacity::capacity(u.capacity.as_ref(), &mut refuse);
    let spill = capacity::spill(u.spill.as_ref(), capacity, &mut refuse);
    let uplink = UplinkConfig {
        name: u.name.get_ref().clone(),
        interface: u.interface.get_ref().clone(),
        weight,
        next_hop: u.next_hop,
        addresses,
        translate: match u.translate {
            Translation::Nat44 => Translate::Napt,
            Translation::None => Translate::None,
        },
        ipv6,
        implied: Default::default(),
        inbound,
        pin: u.pin,
        filtering: filtering(c, u),
        tcp_mapping: tcp_mapping(c, u),
        clamp_mss: clamp::clamp_mss(c, u.clamp_mss.as_ref()),
        health,
        capacity,
        spill,
        line,
    };
    c.warnings.extend(warn::of_targets(&uplink));
    c.warnings.extend(prefixes::left_out(&uplink, lans));
    uplink
}

/// The IPv4 addresses that its packets are sent from.
fn pool(
    c: &mut Checker<'_>,
    uplink: &Spanned<Uplink>,
    pooled: &mut HashMap<IpAddr, usize>,
    line: usize,
) -> Vec<Ipv4Addr> {
    let mut addresses: Vec<Ipv4Addr> = Vec::new();
    for given in &uplink.get_ref().addresses {
        match given.get_ref() {
            Addresses::One(address) => addresses.push(*address),
            Addresses::Prefix(net) if net.prefix_len() >= 28 => {
                addresses.extend(net.trunc().hosts())
            }
            Addresses::Prefix(net) => {
                let message = format!("pool {net} is larger than {MAX_POOL} addresses");
                c.refuse(given.span(), message, "give a /28 or less");
            }
        }
    }
    for address in &addresses {
        if let Some(first) = pooled.insert(IpAddr::V4(*address), line) {
            c.refuse(
                uplink.span(),
                format!("address {address} is there twice, first in line {first}"),
                "replies to it can return by one uplink only: remove one of them",
            );
        }
    }
    if addresses.len() > MAX_POOL {
        let message = format!("{} addresses, at most {MAX_POOL} are possible", addresses.len());
        c.refuse(uplink.span(), message, "remove some from the uplink's pool");
    }
    addresses
}

/// May what no flow asked for come in by its IPv4 path?
fn inbound(c: &mut Checker<'_>, uplink: &Uplink) -> bool {
    let inbound = uplink.inbound.as_ref().filter(|inbound| *inbound.get_ref());
    if let (Some(inbound), Translation::Nat44) = (inbound, uplink.translate) {
        c.refuse(
            inbound.span(),
            "inbound = true on an uplink that translates",
            "what comes in there is for its own addresses: remove it, or say translate = \"none\"",
        );
    }
    inbound.is_some()
}

/// Who may come in by its mappings.
fn filtering(c: &mut Checker<'_>, uplink: &Uplink) -> Filtering {
    let Some(given) = &uplink.filtering else { return Filtering::default() };
    let filtering = match given.get_ref() {
        schema::Filtering::AddressAndPort => Filtering::AddressAndPort,
        schema::Filtering::Address => Filtering::Address,
        schema::Filtering::Endpoint => Filtering::Endpoint,
    };
    let maps = matches!(uplink.translate, Translation::Nat44);
    if !maps && filtering != Filtering::AddressAndPort {
        c.refuse(
            given.span(),
            "filtering on an uplink that translates no IPv4",
            "it has no mappings: remove it, or say `inbound = true` to let in what is for the LANs",
        );
    }
    filtering
}

/// Which TCP flows have a port in common outside.
fn tcp_mapping(c: &mut Checker<'_>, uplink: &Uplink) -> TcpMapping {
    let Some(given) = &uplink.tcp_mapping else { return TcpMapping::default() };
    let ipv6 = uplink.ipv6.as_ref().map(|ipv6| ipv6.get_ref().translate.get_ref());
    let maps = matches!(uplink.translate, Translation::Nat44)
        || matches!(ipv6, Some(schema::Translation6::Nat66));
    let mapping = match given.get_ref() {
        schema::TcpMapping::Flow => TcpMapping::Flow,
        schema::TcpMapping::Endpoint => TcpMapping::Endpoint,
    };
    if !maps && mapping != TcpMapping::Flow {
        c.refuse(
            given.span(),
            "tcp_mapping on an uplink that translates no ports",
            "hosts keep theirs by it: remove it",
        );
    }
    mapping
}

/// Takes users' connections for a signal of each uplink that another one stands beside, unless the
/// file says otherwise: what fails at both is not an uplink's fault.
pub fn enable_passive(uplinks: &mut [UplinkConfig], policies: &[PolicyConfig]) {
    for index in 0..uplinks.len() {
        let beside = has_another_beside(index as u8, uplinks, policies);
        uplinks[index].health.passive.enabled.get_or_insert(beside);
    }
}

/// Is there another uplink, with a weight, in the same tier of some policy?
fn has_another_beside(index: u8, uplinks: &[UplinkConfig], policies: &[PolicyConfig]) -> bool {
    policies.iter().any(|policy| {
        let own = policy.members.iter().find(|member| member.uplink == index);
        let weight = |member: &MemberConfig| {
            member.weight.unwrap_or(uplinks[usize::from(member.uplink)].weight)
        };
        policy.members.iter().any(|other| {
            other.uplink != index
                && own.is_some_and(|own| own.tier == other.tier)
                && weight(other) > 0
        })
    })
}
