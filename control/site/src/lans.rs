//! `[[lan]]`.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use weir_layout::control::MAX_LAN_PREFIXES;

use super::checker::Checker;
use super::machine::overlap;
use super::schema::File;
use super::{Lan, ra};

pub fn lans(c: &mut Checker<'_>, file: &File) -> Vec<Lan> {
    let has_ipv6 = file.has_ipv6();
    let mut seen: Vec<(IpNet, usize)> = Vec::new();
    let mut lans = Vec::new();
    for lan in &file.lan {
        let line = c.places.line(lan.span().start);
        let lan = lan.get_ref();
        let mut prefixes = Vec::new();
        for spanned in &lan.prefixes {
            let prefix = c.prefix(spanned);
            if let Some((other, line)) = seen.iter().find(|(p, _)| overlap(p, &prefix)) {
                let message = format!("LAN prefix {prefix} overlaps {other} of line {line}");
                c.refuse(spanned.span(), message, "each address belongs to one LAN port");
            }
            if matches!(prefix, IpNet::V6(_)) && !has_ipv6 {
                let message = format!("LAN prefix {prefix} is of IPv6, and no uplink is");
                c.refuse(spanned.span(), message, "give an uplink `ipv6`, or remove it");
            }
            if let Some(nobodys) = nobodys().find(|nobodys| overlap(nobodys, &prefix)) {
                let message = format!("LAN prefix {prefix} has addresses of {nobodys}");
                c.refuse(spanned.span(), message, "give the prefixes that are routed to the LAN");
            }
            seen.push((prefix, c.places.line(spanned.span().start)));
            prefixes.push(prefix);
        }
        let ra = lan.ra.as_ref().map(|given| {
            if !has_ipv6 {
                let message = "router advertisements for a LAN, and no uplink has IPv6";
                c.refuse(given.span(), message, "give an uplink `ipv6`, or remove `ra`");
            }
            ra::advertisements(c, given, &prefixes)
        });
        if ra.as_ref().is_some_and(|ra| ra.by_others) && file.gateway.hooks.is_none() {
            c.warnings.push(format!(
                "lan {}: no hook tells the program that sends its router advertisements what they \
                 are to say: give `hooks` in [gateway], with one such as deploy/hooks/radvd",
                lan.interface.get_ref()
            ));
        }
        let (interface, port_mapping) = (lan.interface.get_ref().clone(), lan.port_mapping);
        lans.push(Lan { interface, prefixes, ra, port_mapping, line });
    }
    c.too_many("LAN prefixes", seen.len(), MAX_LAN_PREFIXES);
    lans
}

/// Prefixes of IPv6 that are no LAN's: every link has the first, groups the second; and the last is
/// nobody's address and every host's own (RFC 4291 §2.4).
fn nobodys() -> impl Iterator<Item = IpNet> {
    let nets = [(0xfe80, 10), (0xff00, 8), (0, 127)];
    let net = |(first, length)| Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length);
    nets.into_iter().filter_map(move |of| net(of).ok()).map(IpNet::V6)
}
