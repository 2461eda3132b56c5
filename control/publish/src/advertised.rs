//! What the hosts of each LAN are to be told by router advertisements.
//!
//! A host chooses by its source address which provider its connections go by, if it has several
//! (RFC 6724 rule 3: rather not from a deprecated one). So what new flows of the LAN may take is
//! what its prefixes are preferred by.

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_ra::{Offer, Settings};
use weir_site::{Lan, RaConfig, Site};
use weir_view::Kernel;

/// Hop limit of what hosts send, as Linux has it (`IPV6_DEFAULT_HOPLIMIT`, include/net/ipv6.h).
const HOP_LIMIT: u8 = 64;

/// A LAN whose hosts are told something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Its interface.
    pub interface: String,
    /// The interface's index; none: there is no such interface.
    pub index: Option<u32>,
    /// The interface is up, with a carrier. Where not, what it offers may not be known.
    pub running: bool,
    /// What its hosts are told beside prefixes.
    pub settings: Settings,
    /// The gateway has a way to the Internet for its hosts.
    pub leads: bool,
    /// The prefixes.
    pub offers: Vec<Offer>,
}

/// Of each LAN that is advertised; `takers` are by policy the uplinks that take new flows of IPv6.
pub fn advertised(site: &Site, kernel: &Kernel, takers: &[u64]) -> Vec<Advertised> {
    let with_ra = site.lans.iter().enumerate().filter_map(|(index, lan)| {
        let ra = lan.ra.as_ref()?;
        let takers = takers.get(policy(site, index)).copied().unwrap_or(0);
        Some(of_lan(site, kernel, lan, ra, takers))
    });
    with_ra.collect()
}

fn of_lan(site: &Site, kernel: &Kernel, lan: &Lan, ra: &RaConfig, takers: u64) -> Advertised {
    let link = kernel.link(&lan.interface);
    let others = site.lans.iter().filter(|other| other.interface != lan.interface);
    let routes = others.flat_map(|other| networks(other, kernel));
    let offer =
        |prefix: Ipv6Net| Offer { prefix, valid_until: None, preferred_until: None, usable: true };
    let settings = Settings {
        hop_limit: HOP_LIMIT,
        managed: ra.managed,
        other: ra.other,
        router_lifetime: ra.router_lifetime,
        link_address: link.map_or([0; 6], |link| link.mac),
        mtu: ra.mtu,
        routes: ra.routes.iter().copied().chain(routes).collect(),
        dns: ra.dns.clone(),
        search: ra.search.clone(),
    };
    Advertised {
        interface: lan.interface.clone(),
        index: link.map(|link| link.index),
        running: link.is_some_and(|link| link.running),
        settings,
        leads: takers != 0,
        offers: prefixes(lan, ra, kernel).into_iter().map(offer).collect(),
    }
}

/// Those of which hosts make addresses: what the file says, else the LAN's that have 64 bits, as
/// they must have (RFC 4862 §5.5.3 d).
fn prefixes(lan: &Lan, ra: &RaConfig, kernel: &Kernel) -> Vec<Ipv6Net> {
    if !ra.prefixes.is_empty() {
        return ra.prefixes.clone();
    }
    networks(lan, kernel).filter(|net| net.prefix_len() == 64).collect()
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
fn policy(site: &Site, lan: usize) -> usize {
    let takes_all = site.rules.iter().find(|rule| {
        rule.in_lan.is_none_or(|of| of == lan)
            && (rule.source, rule.destination) == (None, None)
            && (rule.source_ports, rule.destination_ports) == (None, None)
            && (rule.protocol, rule.dscp) == (0, None)
    });
    takes_all.map_or(site.default_policy, |rule| rule.policy).into()
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
        let link = Link { index: 7, name: "lan0".into(), running: true, ..Link::default() };
        let addresses = ["2001:2:0:1::1/64", "2001:2:0:2::1/80", "10.0.0.1/24"];
        let kernel = Kernel {
            links: vec![link],
            addresses: addresses.map(|net| (7, net.parse().unwrap())).into(),
            ..Kernel::default()
        };
        advertised(&weir_site::parse("weir.toml", SITE).unwrap(), &kernel, takers)
    }

    fn texts(nets: impl IntoIterator<Item = Ipv6Net>) -> Vec<String> {
        nets.into_iter().map(|net| net.to_string()).collect()
    }

    #[test]
    fn hosts_make_addresses_of_the_lans_networks_of_64_bits_or_of_those_in_the_file() {
        let [lan0, lan1] = &told(&[3, 2])[..] else { panic!("two LANs are advertised") };
        let prefixes = |of: &Advertised| texts(of.offers.iter().map(|offer| offer.prefix));
        assert_eq!((prefixes(lan0), lan0.index), (vec!["2001:2:0:1::/64".into()], Some(7)));
        assert_eq!((prefixes(lan1), lan1.index), (vec!["2001:2:0:101::/64".into()], None));
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
}
