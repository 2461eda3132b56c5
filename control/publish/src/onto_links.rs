//! LANs whose hosts would be translated into the network of an uplink's own link.
//!
//! A provider may take that network out of the prefix that it delegates (RFC 6603). Answers to hosts
//! that have addresses of it outside never come to the gateway: the provider's router looks for them on
//! the link.

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_site::{Lan, Site, UplinkConfig, overlap};
use weir_view::{Kernel, Route};
use weir_wire::npt;

use crate::path_prefixes;

/// Says which these are, by each uplink that translates prefixes.
pub fn warnings(site: &Site, kernel: &Kernel) -> Vec<String> {
    let by = |uplink| of_uplink(site, kernel, uplink);
    site.uplinks.iter().flat_map(by).collect()
}

/// The same by one uplink.
pub fn of_uplink(site: &Site, kernel: &Kernel, uplink: &UplinkConfig) -> Vec<String> {
    let index = site.index_of(uplink);
    let Some(link) = kernel.link(&uplink.interface) else { return Vec::new() };
    let pairs =
        site.path_prefixes().into_iter().filter(|pair| pair.uplink == index && pair.is_pair());
    let pairs: Vec<_> = pairs.map(path_prefixes::adjusted).collect();
    let is_of_link = |route: &&Route<Ipv6Net>| {
        route.interface == link.index && route.is_on_link() && route.destination.prefix_len() == 64
    };
    let mut said = Vec::new();
    for route in kernel.routes6.iter().filter(is_of_link) {
        let net = route.destination;
        // Any host of it but the first, which nobody is.
        let host = (u128::from(net.network()) | 1).to_be_bytes();
        let insides = pairs.iter().filter_map(|pair| npt::inward(pair, host).ok());
        let insides = insides.filter_map(|inside| Ipv6Net::new(inside.into(), 64).ok());
        for (inside, lan) in
            insides.filter_map(|net| Some((net.trunc(), lan_of(site, kernel, net)?)))
        {
            let (name, by, lan) = (&uplink.name, &uplink.interface, &lan.interface);
            said.push(format!(
                "uplink {name}: hosts of LAN {lan} with addresses of {inside} are translated into \
                 {net}, which {by} is on: the provider's router looks for them on that link. Give the \
                 LAN another subnet of what `inside` says, if need be a /56"
            ));
        }
    }
    said
}

/// The LAN that has an address of the network.
fn lan_of<'s>(site: &'s Site, kernel: &Kernel, net: Ipv6Net) -> Option<&'s Lan> {
    let has =
        |lan: &&Lan| lan.networks(Family::V6, kernel).iter().any(|of| overlap(of, &IpNet::V6(net)));
    site.lans.iter().find(has)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_view::Link;

    use super::*;

    /// What is said where LANs have this prefix of `fd00:1::/56`, or `fd00:1::/48`, and the uplink's
    /// interface is on this network of what stands for it.
    fn said(lan: &str, inside: &str, outside: &str, link: &str) -> Vec<String> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\nprefixes = [\"{lan}\"]\n\
             [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nipv6 = {{ translate = \"npt66\", \
             inside = \"{inside}\", prefix = \"{outside}\" }}\n"
        );
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let by = |index, net: &str| Route::by(index, net.parse::<Ipv6Net>().unwrap());
        let kernel = Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), ..Link::default() }],
            routes6: Arc::new(vec![by(2, link), by(3, "2a00:1:0:abc0::/64")].into()),
            ..Kernel::default()
        };
        warnings(&site, &kernel)
    }

    #[test]
    fn a_lan_that_is_translated_into_the_network_of_the_link_is_told() {
        let (lan, outside, link) = ("fd00:1::/64", "2a00:1:0:abc0::/60", "2a00:1:0:abc0::/64");
        let told = said(lan, lan, outside, link);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in
            ["uplink a", "LAN lan0", "of fd00:1::/64", "into 2a00:1:0:abc0::/64", "wan0 is on"]
        {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
        assert_eq!(said(lan, lan, outside, "2a00:1:0:abcf::/64"), [""; 0], "another subnet");
        assert_eq!(said("fd00:1:0:1::/64", "fd00:1::/56", "2a00:1:0:ab00::/56", link).len(), 0);
        let numbers = said("fd00:1:0:c0::/64", "fd00:1::/56", "2a00:1:0:ab00::/56", link);
        assert_eq!(numbers.len(), 1, "equal numbers of subnets: {numbers:?}");
    }

    #[test]
    fn the_subnet_that_is_adjusted_under_a_short_prefix_is_found() {
        // fd00 - 2a00 (RFC 6296 §3.1) is added, and becomes the subnet 1 with 2d00.
        let told = |lan| said(lan, "fd00:1::/48", "2a00:1::/48", "2a00:1:0:1::/64").len();
        assert_eq!([told("fd00:1:0:2d00::/64"), told("fd00:1:0:1::/64")], [1, 0]);
    }
}
