//! The prefixes of the IPv6 paths, and what the gateway keeps of them for itself.

use weir_layout::control::{Address, ControlHalf, MAX_KEPT, PathPrefix};
use weir_site::Site;
use weir_view::Kernel;
use weir_wire::npt;

/// Enters both into the half.
pub fn publish(half: &mut ControlHalf, site: &Site, kernel: &Kernel) {
    for (slot, prefix) in half.path_prefixes.iter_mut().zip(site.path_prefixes()) {
        let is_translated = prefix.inside_len > 0;
        let adjustment = || npt::adjustment(prefix.inside, prefix.outside);
        *slot = PathPrefix { adjustment: if is_translated { adjustment() } else { 0 }, ..prefix };
        half.path_prefix_count += 1;
    }
    let kept = kept(half, kernel);
    half.kept_count = kept.len() as u32;
    half.kept[..kept.len()].copy_from_slice(&kept);
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

    use ipnet::Ipv6Net;
    use weir_layout::Family;
    use weir_layout::control::Translate;
    use weir_layout::control::host_class::{LOCAL, POOL};
    use weir_site::{Ipv6Config, PrefixPair};

    use weir_shm::control::empty_half;

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
        half.uplinks[0].path_mut(Family::V6).translate = Translate::Npt as u8;
        let classes = classes(&site, &kernel, &half).into_iter();
        assert_eq!(classes.map(|((_, len), class)| (len, class)).collect::<Vec<_>>(), [(48, POOL)]);
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
