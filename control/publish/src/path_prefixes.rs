//! The prefixes of the IPv6 paths, and what the gateway keeps of them for itself.

use weir_layout::control::{Address, ControlHalf, MAX_KEPT, PathPrefix};
use weir_site::Site;
use weir_view::Kernel;
use weir_wire::npt;

/// Enters both into the half.
pub fn publish(half: &mut ControlHalf, site: &Site, kernel: &Kernel) {
    for (slot, prefix) in half.path_prefixes.iter_mut().zip(site.path_prefixes()) {
        *slot = adjusted(prefix);
        half.path_prefix_count += 1;
    }
    let kept = kept(half, kernel);
    half.kept_count = kept.len() as u32;
    half.kept[..kept.len()].copy_from_slice(&kept);
}

/// With what is added to addresses that it translates.
pub fn adjusted(prefix: PathPrefix) -> PathPrefix {
    let adjustment = || npt::adjustment(prefix.inside, prefix.outside);
    PathPrefix { adjustment: if prefix.is_pair() { adjustment() } else { 0 }, ..prefix }
}

/// The gateway's own addresses within prefixes that are translated, up to [`MAX_KEPT`].
fn kept(half: &ControlHalf, kernel: &Kernel) -> Vec<Address> {
    let is_translated = |own: &Address| {
        let mut pairs = half.path_prefixes().iter().filter(|pair| pair.is_pair());
        pairs.any(|pair| pair.is_outside(own.0))
    };
    let own = kernel.addresses.iter().map(|(_, net)| net.addr()).filter(|own| own.is_ipv6());
    own.map(Address::from).filter(is_translated).take(MAX_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv6Addr;
    use std::sync::Arc;

    use ipnet::Ipv6Net;
    use weir_layout::control::Translate;
    use weir_layout::control::host_class::{self, LAN, LINK, LOCAL, POOL, of_uplink};
    use weir_site::{Ipv6Config, PrefixPair};

    use weir_shm::control::empty_half;
    use weir_view::{Link, Route};

    use super::*;
    use crate::fixture::site;
    use crate::hosts::Sources;

    fn classes(site: &Site, kernel: &Kernel, half: &ControlHalf) -> BTreeMap<([u8; 16], u8), u32> {
        Sources::<Ipv6Net>::of(site, kernel, &[], half).prefixes()
    }

    /// Two uplinks, the first of which translates and has `own` on its link, the second routes.
    fn two(own: &str) -> (Site, Kernel) {
        let mut site = site(&["a", "b"]);
        let pair = |inside: Option<&str>, outside: &str| PrefixPair {
            inside: inside.map(|net| net.parse().unwrap()),
            outside: outside.parse().unwrap(),
        };
        let path =
            |translate, pair| Ipv6Config { translate, prefixes: vec![pair], ..Default::default() };
        let npt = pair(Some("fd01:203:405::/48"), "2001:db8:1::/48");
        site.uplinks[0].ipv6 = Some(path(Translate::Npt, npt));
        site.uplinks[1].ipv6 = Some(path(Translate::Source, pair(None, "2001:db8:2::/56")));
        let addresses = own.split_whitespace().map(|net| (1, net.parse().unwrap())).collect();
        (site, Kernel { addresses, ..Kernel::default() })
    }

    #[test]
    fn what_providers_delegate_is_published_with_what_translates_it() {
        let (site, kernel) = two("");
        let mut half = empty_half();
        publish(&mut half, &site, &kernel);
        let of = |uplink| half.prefixes_of(uplink).copied().collect::<Vec<_>>();
        let [first, second] = [of(0), of(1)].map(|prefixes| prefixes[0]);
        // RFC 6296 §3.6.
        assert_eq!((first.adjustment, first.inside_len, first.outside_len), (0xd54f, 48, 48));
        assert_eq!((second.adjustment, second.inside_len, second.outside_len), (0, 0, 56));
        assert_eq!(half.path_prefix_count, 2);
        let classes = classes(&site, &kernel, &half).into_iter();
        assert_eq!(
            classes.map(|((_, len), class)| (len, class)).collect::<Vec<_>>(),
            [(48, of_uplink(POOL, 0))]
        );
    }

    /// The classes of prefixes where the second uplink rescues, or the first translates to this, and
    /// the kernel has these on-link routes.
    fn found(outside: &str, rescue: bool, lans: &[&str], routes: &[(u32, &str)]) -> Vec<String> {
        let (mut site, _) = two("");
        let paths = site.uplinks.iter_mut().filter_map(|uplink| uplink.ipv6.as_mut());
        for (path, outside) in paths.zip([outside, "2001:db8:2::/48"]) {
            path.prefixes[0].outside = outside.parse().unwrap();
        }
        if rescue {
            let [first, second] = &mut site.uplinks[..] else { panic!("two uplinks") };
            let (first, second) = (first.ipv6.as_mut().unwrap(), second.ipv6.as_mut().unwrap());
            (first.translate, first.prefixes[0].inside) = (Translate::Source, None);
            second.rescue = true;
        }
        let link =
            |(index, name): (u32, &str)| Link { index, name: name.into(), ..Link::default() };
        let route = |(by, net): &(u32, &str)| Route::by(*by, net.parse::<Ipv6Net>().unwrap());
        let kernel = Kernel {
            links: (1..).zip(["lan0", "wan0", "wan1"]).map(link).collect(),
            routes6: Arc::new(routes.iter().map(route).collect::<Vec<_>>().into()),
            ..Kernel::default()
        };
        let mut half = empty_half();
        publish(&mut half, &site, &kernel);
        let lans: Vec<_> = lans.iter().map(|net| net.parse().unwrap()).collect();
        let found = Sources::<Ipv6Net>::of(&site, &kernel, &lans, &half).prefixes().into_iter();
        let text = |((net, len), class)| {
            let class = match (host_class::class(class), host_class::uplink(class)) {
                (LAN, None) => "lan".to_owned(),
                (LINK, None) => "link".to_owned(),
                (POOL, Some(uplink)) => format!("pool of {uplink}"),
                other => format!("{other:?}"),
            };
            format!("{}/{len} {class}", Ipv6Addr::from(net))
        };
        found.map(text).collect()
    }

    #[test]
    fn what_rescued_hosts_are_translated_to_is_a_pool_but_for_what_a_lan_has_of_it() {
        let lans = ["2001:db8:2:5::/64"];
        let rescued = found("2001:db8:1::/48", true, &lans, &[]);
        assert_eq!(rescued, ["2001:db8:2::/48 pool of 1", "2001:db8:2:5::/64 lan"]);
        let all = found("2001:db8:1::/48", true, &["2001:db8:2::/48"], &[]);
        assert_eq!(all, ["2001:db8:2::/48 lan"]);
    }

    #[test]
    fn a_provider_takes_no_more_addresses_from_others_than_those_inside_need() {
        // fd01:203:405::/48 inside.
        assert_eq!(found("2000::/20", false, &[], &[]), ["2000::/48 pool of 0"]);
    }

    #[test]
    fn a_network_of_an_uplinks_own_link_within_what_it_translates_to_is_the_links() {
        let routes = [(2, "2001:db8:1:ff::/64"), (3, "2001:db8:1:ee::/64"), (2, "2001:db8::/32")];
        let classes = found("2001:db8:1::/48", false, &[], &routes);
        assert_eq!(classes, ["2001:db8:1::/48 pool of 0", "2001:db8:1:ff::/64 link"]);
    }

    #[test]
    fn the_gateways_own_addresses_of_a_translated_prefix_are_kept() {
        let (site, kernel) = two("2001:db8:1::1/128 2001:db8:2::1/128 32.1.13.184/32 fd01::1/64");
        let mut half = empty_half();
        publish(&mut half, &site, &kernel);
        let own = Address::from("2001:db8:1::1".parse::<std::net::IpAddr>().unwrap());
        assert_eq!((half.kept_count, half.kept[0]), (1, own));
        assert!(half.keeps(own) && !half.keeps(Address::UNSPECIFIED));
        assert_eq!(classes(&site, &kernel, &half).get(&(own.0, 128)), Some(&LOCAL));
    }
}
