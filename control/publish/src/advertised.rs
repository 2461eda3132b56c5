//! What the hosts of each LAN are to be told by router advertisements.
//!
//! A host chooses by its source address which provider its connections go by, if it has several
//! (RFC 6724 rule 3: rather not from a deprecated one). So what new flows of the LAN may take is
//! what its prefixes are preferred by, and whether the gateway is a default router.
//!
//! | a prefix that | is |
//! |---|---|
//! | an uplink carries which takes new flows of the LAN's policy | preferred, and leads to the Internet |
//! | only uplinks carry that do not, by source | deprecated: it is of their providers |
//! | only uplinks carry that do not, another way | preferred: it is the site's own |
//! | none carries | preferred if it is a unique local one; else not told, or ended |

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, PathId, Translate};
use weir_ra::{Offer, Settings};
use weir_site::{Lan, RaConfig, Site};
use weir_view::Kernel;

use crate::delegations::Delegations;

/// Hop limit of what hosts send, as Linux has it (`IPV6_DEFAULT_HOPLIMIT`, include/net/ipv6.h).
const HOP_LIMIT: u8 = 64;

/// A LAN whose hosts are told something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    /// Its interface.
    pub interface: String,
    /// The interface's index; none: there is no such interface.
    pub index: Option<u32>,
    /// The interface is up, with a carrier. Where not, what it offers may not be known.
    pub running: bool,
    /// Another program sends its advertisements.
    pub by_others: bool,
    /// What its hosts are told beside prefixes.
    pub settings: Settings,
    /// The gateway has a way to the Internet for its hosts.
    pub leads: bool,
    /// The prefixes.
    pub offers: Vec<Offer>,
    /// Networks of the LAN that its hosts can make no addresses of.
    pub useless: Vec<Ipv6Net>,
    /// Prefixes that are offered and that the kernel has not on the link, see [`Lan::unconnected`].
    pub unconnected: Vec<Ipv6Net>,
}

/// Of each LAN that is advertised; `takers` are by policy the uplinks that take new flows of IPv6,
/// which carry what the half says.
pub fn advertised(
    site: &Site,
    kernel: &Kernel,
    half: &ControlHalf,
    takers: &[u64],
    delegations: &Delegations,
) -> Vec<Advertised> {
    let with_ra = site.lans.iter().enumerate().filter_map(|(index, lan)| {
        let ra = lan.ra.as_ref()?;
        let takers = takers.get(policy(site, index)).copied().unwrap_or(0);
        let offer = |prefix: Ipv6Net| {
            let way = way(site, half, takers, &prefix)?;
            let lease = delegations.lease_of(site, &prefix);
            Some((
                way == Way::Open,
                Offer {
                    prefix,
                    valid_until: lease.and_then(|lease| lease.valid_until),
                    preferred_until: lease.and_then(|lease| lease.preferred_until),
                    usable: way != Way::Shut,
                },
            ))
        };
        let (offered, useless) = lan.offered(kernel);
        let offers = offered.into_iter().filter_map(offer).collect();
        Some(of_lan(site, kernel, lan, ra, offers, useless))
    });
    with_ra.collect()
}

/// `offers` are the prefixes, each with whether it leads to the Internet.
fn of_lan(
    site: &Site,
    kernel: &Kernel,
    lan: &Lan,
    ra: &RaConfig,
    offers: Vec<(bool, Offer)>,
    useless: Vec<Ipv6Net>,
) -> Advertised {
    let link = kernel.link(&lan.interface);
    let others = site.lans.iter().filter(|other| other.interface != lan.interface);
    let routes = others.flat_map(|other| networks(other, kernel));
    let settings = Settings {
        hop_limit: HOP_LIMIT,
        managed: ra.managed,
        autonomous: ra.autonomous,
        other: ra.other,
        router_lifetime: ra.router_lifetime,
        preference: ra.preference,
        link_address: link.map_or([0; 6], |link| link.mac),
        mtu: ra.mtu,
        routes: ra.routes.iter().copied().chain(routes).collect(),
        dns: ra.dns.clone(),
        search: ra.search.clone(),
    };
    let prefixes: Vec<_> = offers.iter().map(|(_, offer)| offer.prefix).collect();
    Advertised {
        interface: lan.interface.clone(),
        index: link.map(|link| link.index),
        running: link.is_some_and(|link| link.running),
        by_others: ra.by_others,
        settings,
        leads: offers.iter().any(|(leads, _)| *leads),
        offers: offers.into_iter().map(|(_, offer)| offer).collect(),
        useless,
        unconnected: lan.unconnected(&prefixes, kernel),
    }
}

/// Where what hosts send from a prefix goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the Internet.
    Open,
    /// To the networks of the site.
    Inside,
    /// It is of providers that take nothing now.
    Shut,
}

/// None: it is nobody's.
fn way(site: &Site, half: &ControlHalf, takers: u64, prefix: &Ipv6Net) -> Option<Way> {
    let address = prefix.network().octets();
    let paths = (0u8..).zip(&site.uplinks).filter_map(|(index, uplink)| {
        let path = uplink.ipv6.as_ref()?;
        let carries = half.carries(PathId::new(index, Family::V6), address);
        carries.then_some((takers >> index & 1 != 0, path.translate))
    });
    let carriers: Vec<_> = paths.collect();
    if carriers.iter().any(|(takes, _)| *takes) {
        Some(Way::Open)
    } else if carriers.iter().any(|(_, translate)| *translate != Translate::Source)
        || prefix.network().is_unique_local()
    {
        Some(Way::Inside)
    } else {
        (!carriers.is_empty()).then_some(Way::Shut)
    }
}

/// The IPv6 networks of a LAN.
fn networks(lan: &Lan, kernel: &Kernel) -> impl Iterator<Item = Ipv6Net> {
    let networks = lan.networks(Family::V6, kernel).into_iter();
    networks.filter_map(|net| match net {
        IpNet::V6(net) => Some(net),
        IpNet::V4(_) => None,
    })
}

/// The policy of what a LAN's hosts send to anywhere.
pub fn policy(site: &Site, lan: usize) -> usize {
    let takes_all = site.rules.iter().find(|rule| {
        rule.in_lan.is_none_or(|of| of == lan)
            && (rule.source, rule.destination) == (None, None)
            && (rule.source_ports, rule.destination_ports) == (None, None)
            && (rule.protocol, rule.dscp) == (0, None)
    });
    takes_all.and_then(|rule| rule.verdict.policy()).unwrap_or(site.default_policy).into()
}

#[cfg(test)]
mod tests {
    use weir_view::Link;

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\nra = { dns = [\"2001:2::53\"] }\n\
        [[lan]]\ninterface = \"lan1\"\nprefixes = [\"2001:2:0:100::/56\"]\n\
        ra = { prefixes = [\"2001:2:0:101::/64\"], routes = [\"2001:2:0:300::/56\"] }\n\
        [[lan]]\ninterface = \"lan2\"\nprefixes = [\"2001:2:0:200::/64\"]\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nipv6 = { translate = \"none\" }\n\
        [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\nipv6 = { translate = \"none\" }\n\
        [[policy]]\nname = \"balanced\"\n\
        [[policy]]\nname = \"guests\"\nmembers = [{ uplink = \"b\" }]\n\
        [[rule]]\nprotocol = \"tcp\"\npolicy = \"guests\"\n\
        [[rule]]\nin_interface = \"lan1\"\npolicy = \"guests\"\n";

    fn told(takers: &[u64]) -> Vec<Advertised> {
        told_of(SITE, &Delegations::default(), takers)
    }

    /// What the LANs of a site are told where `lan0` has these addresses.
    fn told_of(text: &str, delegations: &Delegations, takers: &[u64]) -> Vec<Advertised> {
        let link = Link { index: 7, name: "lan0".into(), running: true, ..Link::default() };
        let addresses = ["2001:2:0:1::1/64", "2001:2:0:2::1/80", "10.0.0.1/24"];
        let kernel = Kernel {
            links: vec![link],
            addresses: addresses.map(|net| (7, net.parse().unwrap())).into(),
            ..Kernel::default()
        };
        let mut site = weir_site::parse("weir.toml", text).unwrap();
        delegations.fill(&mut site, 0);
        let overrides = crate::Overrides::default();
        let half = crate::derive(&site, &kernel, &overrides, [&[]; 2], None).half;
        advertised(&site, &kernel, &half, takers, delegations)
    }

    fn texts(nets: impl IntoIterator<Item = Ipv6Net>) -> Vec<String> {
        nets.into_iter().map(|net| net.to_string()).collect()
    }

    #[test]
    fn hosts_are_offered_the_lans_networks_of_64_bits_or_those_in_the_file() {
        let [lan0, lan1] = &told(&[3, 2])[..] else { panic!("two LANs are advertised") };
        let prefixes = |of: &Advertised| texts(of.offers.iter().map(|offer| offer.prefix));
        assert_eq!((prefixes(lan0), lan0.index), (vec!["2001:2:0:1::/64".into()], Some(7)));
        assert_eq!((prefixes(lan1), lan1.index), (vec!["2001:2:0:101::/64".into()], None));
        assert_eq!(texts(lan0.useless.clone()), ["2001:2:0:2::/80"]);
        assert_eq!(texts(lan0.unconnected.clone()), [""; 0]);
    }

    #[test]
    fn the_gateway_leads_to_the_other_lans_and_to_what_the_file_says() {
        let told = told(&[3, 2]);
        let routes = |of: &Advertised| texts(of.settings.routes.clone());
        assert_eq!(routes(&told[0]), ["2001:2:0:100::/56", "2001:2:0:200::/64"]);
        let of_lan0 =
            ["2001:2:0:300::/56", "2001:2:0:1::/64", "2001:2:0:2::/80", "2001:2:0:200::/64"];
        assert_eq!(routes(&told[1]), of_lan0);
    }

    #[test]
    fn the_gateway_leads_somewhere_where_the_policy_of_the_lan_has_an_uplink() {
        let leads = |takers: &[u64]| told(takers).iter().map(|of| of.leads).collect::<Vec<_>>();
        assert_eq!(leads(&[1, 0]), [true, false]);
        assert_eq!(leads(&[0, 2]), [false, true]);
        assert_eq!(leads(&[]), [false, false]);
    }

    /// Hosts of `lan0` have addresses of providers, and of the site.
    const BY_SOURCE: &str = "[[lan]]\ninterface = \"lan0\"\n\
        ra = { prefixes = [\"2001:2:0:a01::/64\", \"2001:2:0:b01::/64\", \"fd00:1::/64\"] }\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
        ipv6 = { translate = \"source\", prefixes = [\"2001:2:0:a00::/56\"] }\n\
        [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\n\
        ipv6 = { translate = \"source\", prefixes = \"delegated\" }\n";

    /// Those that the LAN is told of and that are preferred, and whether it has a default router.
    fn preferred(of: &Advertised) -> (Vec<(u16, bool)>, bool) {
        let subnet = |offer: &Offer| (offer.prefix.network().segments()[3], offer.usable);
        (of.offers.iter().map(subnet).collect(), of.leads)
    }

    #[test]
    fn a_provider_that_is_down_has_its_prefix_deprecated_and_the_others_stay() {
        let mut delegations = Delegations::default();
        let lease = crate::Lease {
            prefix: "2001:2:0:b00::/56".parse().unwrap(),
            valid_until: Some(9),
            preferred_until: Some(8),
        };
        delegations.set("b", lease);
        let told = |takers: u64| told_of(BY_SOURCE, &delegations, &[takers]).remove(0);
        assert_eq!(preferred(&told(3)), (vec![(0xa01, true), (0xb01, true), (0, true)], true));
        assert_eq!(preferred(&told(2)), (vec![(0xa01, false), (0xb01, true), (0, true)], true));
        assert_eq!(preferred(&told(0)), (vec![(0xa01, false), (0xb01, false), (0, true)], false));
        let [of_file, delegated, _] = &told(3).offers[..] else { panic!("three prefixes") };
        assert_eq!((of_file.valid_until, of_file.preferred_until), (None, None));
        assert_eq!((delegated.valid_until, delegated.preferred_until), (Some(9), Some(8)));
    }

    #[test]
    fn a_prefix_that_no_provider_delegates_is_not_told() {
        let told = told_of(BY_SOURCE, &Delegations::default(), &[3]).remove(0);
        assert_eq!(preferred(&told), (vec![(0xa01, true), (0, true)], true));
        let unconnected = ["2001:2:0:a01::/64", "fd00:1::/64"];
        assert_eq!(
            texts(told.unconnected),
            unconnected,
            "told, without an address of the gateway's"
        );
    }

    #[test]
    fn a_gateway_whose_uplinks_carry_no_prefix_of_the_lan_leads_nowhere() {
        let text = BY_SOURCE.replace("\"2001:2:0:a01::/64\", ", "");
        let told = told_of(&text, &Delegations::default(), &[3]).remove(0);
        assert_eq!(preferred(&told), (vec![(0, true)], false));
    }
}
