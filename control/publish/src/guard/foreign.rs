//! Sources that the table keeps from uplinks: those that no provider there would route back. Which
//! these are, [`carried`](weir_layout::control::carried) says.

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::{Translate, UNROUTED};
use weir_site::{Site, UplinkConfig};

/// Sources that an uplink does not take.
enum Kept {
    All,
    AllBut(Vec<IpNet>),
    Of(Vec<IpNet>),
}

impl Kept {
    /// The rule that drops them.
    fn rule(&self, interface: &str) -> String {
        let sources = match self {
            Self::All => String::new(),
            // No prefix is known yet.
            Self::AllBut(nets) if nets.is_empty() => String::new(),
            Self::AllBut(nets) => format!("ip6 saddr != {} ", set(nets)),
            Self::Of(nets) if nets.is_empty() => return String::new(),
            Self::Of(nets) => format!("ip6 saddr {} ", set(nets)),
        };
        format!("\t\toifname \"{interface}\" {sources}counter drop\n")
    }
}

/// Rules for what the kernel forwards from LANs, which it does not translate. For IPv4 who has it stand
/// in has it translate.
pub fn of_lans(family: Family, site: &Site) -> String {
    if family == Family::V4 {
        return String::new();
    }
    let unrouted = UNROUTED
        .into_iter()
        .filter_map(|(first, length)| Ipv6Net::new(first.into(), length).ok().map(IpNet::V6));
    let unrouted: Vec<_> = unrouted.collect();
    let kept = |uplink: &UplinkConfig| match uplink.ipv6.as_ref()?.translate {
        Translate::Npt | Translate::Napt => Some(Kept::All),
        Translate::Source => Some(Kept::AllBut(uplink.delegated(family).collect())),
        Translate::None => {
            let all = site.uplinks.iter().flat_map(|uplink| uplink.delegated(family));
            Some(Kept::Of(all.chain(unrouted.iter().copied()).collect()))
        }
    };
    rules(site, kept)
}

/// Rules for what the gateway itself sends: a prefix that one provider delegates is no source by
/// another. The rest the kernel chooses, by weir's rules and routes.
pub fn of_gateway(family: Family, site: &Site) -> String {
    let kept = |uplink: &UplinkConfig| {
        uplink.has_path(family).then(|| {
            let own: Vec<_> = uplink.delegated(family).collect();
            let all = site.uplinks.iter().flat_map(|uplink| uplink.delegated(family));
            Kept::Of(all.filter(|net| !own.contains(net)).collect())
        })
    };
    rules(site, kept)
}

fn rules(site: &Site, kept: impl Fn(&UplinkConfig) -> Option<Kept>) -> String {
    let rules = site.uplinks.iter().filter_map(|uplink| {
        let kept = kept(uplink)?;
        Some(kept.rule(&uplink.interface))
    });
    rules.collect()
}

fn set(nets: &[IpNet]) -> String {
    let nets: Vec<_> = IpNet::aggregate(&nets.to_vec()).iter().map(ToString::to_string).collect();
    format!("{{ {} }}", nets.join(", "))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use proptest::prelude::*;
    use weir_layout::control::{PathId, carried};
    use weir_shm::control::empty_half;
    use weir_site::{Ipv6Config, PrefixPair};
    use weir_view::{Kernel, Link};

    use super::super::{Seen, rulesets};
    use super::*;
    use crate::fixture::site;
    use crate::path_prefixes;

    /// What providers delegate, and what stands inside.
    const OUTSIDES: [&str; 4] =
        ["2a00:1::/48", "2a00:2:0:100::/56", "2a00:2:0:200::/64", "2001:2:0:c000::/50"];
    const INSIDES: [&str; 2] = ["fd00:1::/48", "2a00:7::/56"];
    /// Prefixes that are nobody's of these.
    const OTHERS: [&str; 6] =
        ["fd77::/16", "2001:db8::/32", "3fff::/20", "100::/64", "2a00:9::/48", "fec0::/10"];

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    /// The table of IPv6, the kernel standing in.
    fn table(site: &Site) -> String {
        rulesets("weir", site, &Seen::default())[Family::V6.index()].clone().unwrap_or_default()
    }

    /// Does a chain of the table drop what leaves by the interface from this source, before it is
    /// accepted or sent to another chain?
    fn drops(table: &str, chain: &str, interface: &str, source: Ipv6Addr) -> bool {
        let begin = format!("\tchain {chain} {{\n");
        let (_, rules) = table.split_once(&begin).unwrap();
        let (rules, _) = rules.split_once("\t}\n").unwrap();
        let by = format!("oifname \"{interface}\" ");
        let of_uplink = rules.lines().filter_map(|rule| rule.trim().strip_prefix(&by));
        let matches = |rule: &str| {
            let Some(sources) = rule.strip_prefix("ip6 saddr ") else { return true };
            let is_inverted = sources.starts_with("!= ");
            let (_, set) = sources.split_once("{ ").unwrap();
            let (set, _) = set.split_once(" }").unwrap();
            set.split(", ").any(|of| net(of).contains(&source)) != is_inverted
        };
        of_uplink.filter(|rule| rule.ends_with("counter drop")).any(matches)
    }

    /// The path of an uplink, of the prefixes that are left.
    fn path(mode: u8, outsides: &mut Vec<&str>) -> Option<Ipv6Config> {
        let (translate, inside) = match mode {
            0 => return None,
            1 => (Translate::None, None),
            2 => (Translate::Napt, None),
            3 => (Translate::Source, None),
            4 => (Translate::Npt, Some(net(INSIDES[0]))),
            _ => (Translate::Npt, Some(net(INSIDES[1]))),
        };
        let outside = if mode < 3 { None } else { Some(net(outsides.pop()?)) };
        let prefixes = outside.map(|outside| PrefixPair { inside, outside }).into_iter().collect();
        Some(Ipv6Config { translate, prefixes, ..Ipv6Config::default() })
    }

    fn site_of(modes: &[u8]) -> Site {
        let names = ["a", "b", "c", "d"];
        let mut site = site(&names[..modes.len()]);
        site.on_dataplane_loss = weir_layout::control::OnDataplaneLoss::Kernel;
        let mut outsides = OUTSIDES.to_vec();
        for (uplink, mode) in site.uplinks.iter_mut().zip(modes) {
            uplink.ipv6 = path(*mode, &mut outsides);
        }
        site
    }

    proptest! {
        #[test]
        fn the_table_a_worker_and_a_probe_say_the_same_of_each_source(
            modes in proptest::collection::vec(0u8..6, 1..5),
            prefix in 0..OUTSIDES.len() + INSIDES.len() + OTHERS.len(),
            host: u64,
        ) {
            let site = site_of(&modes);
            let mut all = OUTSIDES.iter().chain(&INSIDES).chain(&OTHERS);
            let within = net(all.nth(prefix).unwrap());
            let source = Ipv6Addr::from(u128::from(within.network()) | u128::from(host));
            let (mut half, table) = (empty_half(), table(&site));
            path_prefixes::publish(&mut half, &site, &Kernel::default());
            // The gateway has it too.
            let link = |(index, name): (u32, &str)| Link { index, name: name.into(), ..Link::default() };
            let names = ["lo", "lan0", "wan0", "wan1", "wan2", "wan3"];
            let on_lan = |net: &str| (2, format!("{}/64", self::net(net).network()).parse().unwrap());
            let mut kernel = Kernel {
                links: (1..).zip(names).map(link).collect(),
                addresses: OTHERS.into_iter().chain(OUTSIDES).map(on_lan).collect(),
                ..Kernel::default()
            };
            kernel.addresses.push((1, IpNet::new(source.into(), 128).unwrap()));
            for (index, uplink) in (0u8..).zip(&site.uplinks) {
                let Some(ipv6) = &uplink.ipv6 else { continue };
                let path = half.uplinks[usize::from(index)].path_mut(Family::V6);
                path.translate = ipv6.translate as u8;
                let translates = ipv6.translate.readdresses();
                let leaves = half.carries(PathId::new(index, Family::V6), source.octets());
                let by = &uplink.interface;
                prop_assert_eq!(!drops(&table, "to_uplink", by, source), leaves && !translates);
                let prefixes = site.path_prefixes();
                let is_anothers = carried::is_anothers(&prefixes, index, source.octets());
                prop_assert_eq!(drops(&table, "output", by, source), is_anothers);
                let interface = 3 + u32::from(index);
                let probes = site.path_sources(uplink, Family::V6, interface, &kernel);
                let is_routed_back = carried::is_routed_back(
                    &prefixes, index, ipv6.translate, source.octets());
                prop_assert!(is_routed_back || !probes.contains(&IpAddr::V6(source)));
                // Somebody on the link may advertise it there.
                kernel.addresses.push((interface, IpNet::new(source.into(), 64).unwrap()));
                let advertised = site.path_sources(uplink, Family::V6, interface, &kernel);
                kernel.addresses.pop();
                for probe in probes.into_iter().chain(advertised) {
                    let IpAddr::V6(probe) = probe else { panic!("{probe}") };
                    prop_assert!(!carried::is_anothers(&prefixes, index, probe.octets()));
                }
            }
        }
    }

    #[test]
    fn what_ipsec_encrypts_is_no_source_of_the_lans_by_the_uplink() {
        let site = site_of(&[3, 1]);
        let table = table(&site);
        let (_, chain) = table.split_once("chain to_uplink").unwrap();
        let at = |rule: &str| chain.find(rule).unwrap();
        assert!(at("rt ipsec exists accept") < at("ip6 saddr"), "{chain}");
    }
}
