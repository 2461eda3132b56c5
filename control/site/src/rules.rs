//! The kernel's routing rules (`ip rule`), as far as they are about packets from LANs.
//!
//! A rule can be followed that asks for nothing but the device that a packet came in by, its source
//! and its destination: destinations are then looked up in its table. Which packets have a mark, a
//! protocol or a port is not told by their destination, so rules that ask for such are named and not
//! followed. Neither is a default route: what LANs send to the Internet is weir's.

use ipnet::{IpNet, Ipv4Net};
use weir_layout::Family;
use weir_view::rule::{Action, LOCAL, MAIN, Rule};
use weir_view::{Kernel, Net, Route};

use crate::{Site, overlap};

/// What is looked up for packets from LANs, by one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup<N: Net = Ipv4Net> {
    /// In which table; none: all of `destination` is refused.
    pub table: Option<u32>,
    /// Only routes with a longer prefix.
    pub suppress: Option<u8>,
    /// Only for destinations in here.
    pub destination: N,
}

impl<N: Net> Lookup<N> {
    /// In the main table.
    pub fn main() -> Self {
        Self { table: Some(MAIN), suppress: None, destination: N::default() }
    }
}

/// How a rule stands to packets from LANs.
enum Standing {
    /// It is for none of them.
    Elsewhere,
    Followed,
    /// It is for some, and which ones cannot be told: it asks for this.
    Unclear(&'static str),
}

fn standing(rule: &Rule, lans: &[(&str, Vec<Ipv4Net>)]) -> Standing {
    let everywhere = rule.source.prefix_len() == 0;
    let source = IpNet::V4(rule.source);
    let from =
        |nets: &[Ipv4Net]| everywhere || nets.iter().any(|net| overlap(&IpNet::V4(*net), &source));
    let by = |name| rule.interface.as_deref().is_none_or(|interface| interface == name);
    let mut concerned = lans.iter().filter(|(name, nets)| by(*name) && from(nets)).peekable();
    if concerned.peek().is_none() {
        return Standing::Elsewhere;
    }
    let whole = |nets: &[Ipv4Net]| nets.iter().any(|net| rule.source.contains(net));
    match rule.asks {
        Some(asks) => Standing::Unclear(asks),
        None if rule.action == Action::Goto => Standing::Unclear("another rule"),
        None if everywhere || concerned.any(|(_, nets)| whole(nets)) => Standing::Followed,
        None => Standing::Unclear("a part of a LAN"),
    }
}

fn lans<'s>(site: &'s Site, kernel: &Kernel) -> Vec<(&'s str, Vec<Ipv4Net>)> {
    let nets = |lan: &crate::Lan| {
        let nets = lan.networks(Family::V4, kernel).into_iter();
        nets.filter_map(Ipv4Net::of).collect()
    };
    site.lans.iter().map(|lan| (lan.interface.as_str(), nets(lan))).collect()
}

/// What is looked up for packets from LANs, in order. The main table is always among it.
pub fn lookups(site: &Site, kernel: &Kernel) -> Vec<Lookup> {
    let lans = lans(site, kernel);
    let main = Lookup::main();
    let default = |r: &Route| r.destination.prefix_len() == 0;
    let mut lookups: Vec<Lookup> = Vec::new();
    for rule in &kernel.rules {
        let (Standing::Followed, suppress) = (standing(rule, &lans), rule.suppress) else {
            continue;
        };
        let table = match rule.action {
            Action::Table(table) => Some(table),
            // Of everything: nothing would be left to do for weir.
            _ if rule.destination.prefix_len() == 0 => continue,
            _ => None,
        };
        // Defaults do not count: with and without them is the same.
        let suppress = suppress.filter(|length| *length > 0);
        let lookup = Lookup { table, suppress, destination: rule.destination };
        if !lookups.contains(&lookup) {
            lookups.push(lookup);
        }
        let for_all = rule.source.prefix_len() == 0 && rule.interface.is_none();
        let whole = lookup == main && rule.suppress.is_none();
        // Its default route leaves nothing to the rules behind.
        if for_all && whole && kernel.routes.iter().any(default) {
            break;
        }
    }
    if !lookups.contains(&main) {
        lookups.push(main);
    }
    lookups
}

/// Rules that keep packets of LANs from uplinks and are not followed: why, and what to do.
pub fn unfollowed(site: &Site, kernel: &Kernel) -> Vec<String> {
    let lans = lans(site, kernel);
    let uplinks = site.uplink_interfaces(kernel);
    let elsewhere = |r: &&Route| !uplinks.contains(&r.interface);
    let mut said = Vec::new();
    for rule in &kernel.rules {
        let (routes, table) = match rule.action {
            Action::Table(table @ (MAIN | LOCAL)) => (&[][..], table),
            Action::Table(table) => (kernel.table(table), table),
            Action::Refuse | Action::Goto => (&[][..], 0),
        };
        let refuses = !matches!(rule.action, Action::Table(_));
        let own = routes.iter().filter(elsewhere).count();
        let text = match standing(rule, &lans) {
            Standing::Unclear(asks) if refuses || own > 0 => format!(
                "the kernel's rule \"{rule}\" asks for {asks}, and is not followed: packets from \
                 LANs leave by uplinks whatever it says. Rules with from (of a whole LAN), iif and \
                 to alone are followed"
            ),
            Standing::Followed if rule.destination.prefix_len() == 0 => {
                let default = routes
                    .iter()
                    .filter(elsewhere)
                    .any(|r| r.destination.prefix_len() == 0 && rule.suppress.is_none());
                if !default && !refuses {
                    continue;
                }
                format!(
                    "the kernel's rule \"{rule}\" is about all destinations, which is not \
                     followed: what LANs send to the Internet leaves by uplinks. Name the \
                     destinations, by `to` in the rule or by routes in table {table}"
                )
            }
            _ => continue,
        };
        said.push(text);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_view::Link;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\n\
                        interface = \"wan0\"\n";

    fn rule(priority: u32, table: u32) -> Rule {
        Rule {
            priority,
            action: Action::Table(table),
            suppress: None,
            interface: None,
            source: Ipv4Net::default(),
            destination: Ipv4Net::default(),
            asks: None,
        }
    }

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn kernel(rules: &[Rule]) -> Kernel {
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let by_vpn = |to| Route::by(9, net(to));
        Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0"), link(9, "vpn0")],
            addresses: vec![(1, net("10.77.0.1/16").into())],
            rules: rules.to_vec(),
            tables: [(7, vec![by_vpn("172.16.0.0/12")]), (8, vec![by_vpn("0.0.0.0/0")])]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>()
                .into(),
            ..Kernel::default()
        }
    }

    /// Tables that are looked at, and how many complaints there are.
    fn met(rules: &[Rule]) -> (Vec<u32>, usize) {
        let (site, kernel) = (crate::parse("weir.toml", SITE).unwrap(), kernel(rules));
        let tables = lookups(&site, &kernel).iter().filter_map(|lookup| lookup.table).collect();
        (tables, unfollowed(&site, &kernel).len())
    }

    #[test]
    fn rules_by_source_device_and_destination_are_followed_in_their_order() {
        let rules = [
            Rule { source: net("10.0.0.0/8"), ..rule(1, 7) },
            Rule { interface: Some("lan0".into()), ..rule(2, 6) },
            Rule { destination: net("192.0.2.0/24"), ..rule(3, 8) },
            rule(32766, MAIN),
        ];
        assert_eq!(met(&rules), (vec![7, 6, 8, MAIN], 0));
    }

    #[test]
    fn rules_of_others_than_lans_are_none_of_weirs_business() {
        let rules = [
            Rule { source: net("10.9.0.0/24"), ..rule(1, 7) },
            Rule { interface: Some("vpn0".into()), ..rule(2, 7) },
            Rule { interface: Some("lo".into()), asks: Some("a mark"), ..rule(3, 7) },
        ];
        assert_eq!(met(&rules), (vec![MAIN], 0));
    }

    #[test]
    fn rules_that_cannot_be_followed_are_named() {
        let rules = [
            Rule { asks: Some("a mark"), ..rule(1, 7) },
            Rule { source: net("10.77.3.0/24"), ..rule(2, 7) },
            Rule { action: Action::Refuse, asks: Some("ports"), ..rule(3, 0) },
            Rule { action: Action::Refuse, ..rule(4, 0) },
            // A table without a route that leads elsewhere does no harm.
            Rule { asks: Some("a mark"), ..rule(5, 6) },
        ];
        assert_eq!(met(&rules), (vec![MAIN], 4));
    }

    #[test]
    fn a_default_route_of_another_table_is_named_and_not_followed() {
        assert_eq!(met(&[rule(1, 8)]).1, 1);
        assert_eq!(met(&[Rule { suppress: Some(0), ..rule(1, 8) }]).1, 0);
    }
}
