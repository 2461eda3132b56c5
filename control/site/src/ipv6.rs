//! From the file to an uplink's IPv6 path.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use toml::Spanned;
use weir_layout::control::{MAX_POOL, Translate, is_unrouted};

use super::checker::Checker;
use super::prefixes::{self, Delegated};
use super::schema::{self, Translation6};
use super::{Ipv6Config, Lan};

/// Checks what the file says of an uplink's IPv6 path. `pooled` are the source addresses of all
/// uplinks so far, each with the line of its uplink, which is `line` for this one; `delegated`
/// their prefixes.
pub fn path(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Ipv6>,
    lans: &[Lan],
    pooled: &mut HashMap<IpAddr, usize>,
    delegated: &mut Delegated,
    line: usize,
) -> Ipv6Config {
    let of = given.get_ref();
    let translate = match of.translate.get_ref() {
        Translation6::None => Translate::None,
        Translation6::Npt66 => Translate::Npt,
        Translation6::Nat66 => Translate::Napt,
        Translation6::Source => Translate::Source,
    };
    if of.inbound && matches!(translate, Translate::Napt | Translate::Npt) {
        c.refuse(
            of.translate.span(),
            "inbound = true on a path that translates",
            "what no flow asked for is not translated: remove it, or say translate = \"none\"",
        );
    }
    let next_hop = of.next_hop.as_ref().map(|next_hop| {
        if !is_host(*next_hop.get_ref()) {
            c.refuse(
                next_hop.span(),
                format!("next hop {} is no host", next_hop.get_ref()),
                "give the address of the provider's router, or leave it out: its router \
                 advertisements tell it",
            );
        }
        *next_hop.get_ref()
    });
    for address in &of.addresses {
        let at = address.get_ref();
        if !is_host(*at) || at.is_unicast_link_local() {
            c.refuse(
                address.span(),
                format!("address {at} means nothing beyond this host or one link"),
                "give one that the gateway has, and that all your providers route here",
            );
        }
        if matches!(translate, Translate::Napt) && is_unrouted(at.octets()) {
            c.refuse(
                address.span(),
                format!("address {at} is one that no provider routes"),
                "give one of the provider's, which hosts are translated to",
            );
        }
        if let Some(first) = pooled.insert(IpAddr::V6(*at), line) {
            c.refuse(
                address.span(),
                format!("address {at} is there twice, first in line {first}"),
                "what is sent from it leaves by one uplink: remove one of them",
            );
        }
    }
    if of.addresses.len() > MAX_POOL {
        let message = format!("{} addresses, at most {MAX_POOL} are possible", of.addresses.len());
        c.refuse(given.span(), message, "remove some");
    }
    let addresses = of.addresses.iter().map(|address| *address.get_ref()).collect();
    let (prefixes, delegation) = prefixes::of_path(c, given, lans, delegated);
    Ipv6Config {
        translate,
        next_hop,
        addresses,
        prefixes,
        delegation,
        rescue: of.rescue.as_ref().is_some_and(|rescue| *rescue.get_ref()),
        inbound: of.inbound,
        pin: of.pin,
        joint: of.joint,
    }
}

/// Is it the address of one host?
pub fn is_host(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}
