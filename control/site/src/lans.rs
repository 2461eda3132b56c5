//! `[[lan]]`.

use ipnet::IpNet;
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
            seen.push((prefix, c.places.line(spanned.span().start)));
            prefixes.push(prefix);
        }
        let ra = lan.ra.as_ref().map(|given| {
            if !has_ipv6 {
                let message = "router advertisements for a LAN, and no uplink has IPv6";
                c.refuse(given.span(), message, "give an uplink `ipv6`, or remove `ra`");
            }
            ra::advertisements(c, given)
        });
        lans.push(Lan { interface: lan.interface.get_ref().clone(), prefixes, ra, line });
    }
    c.too_many("LAN prefixes", seen.len(), MAX_LAN_PREFIXES);
    lans
}
