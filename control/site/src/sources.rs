//! Which addresses packets by an uplink are sent from.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use weir_layout::control::{PathPrefix, Translate, carried};
use weir_layout::{Family, NONE};
use weir_view::{Kernel, is_beyond_site, is_link_local};

use super::{PrefixPair, Site, UplinkConfig, prefixes};

impl UplinkConfig {
    /// The pool of an uplink's path on the interface of this index: what the file says, else the
    /// addresses of the interface that its provider can be expected to route here, in the kernel's
    /// order. Those are the fit ones of the networks that have the next hop; if none has it (a
    /// point-to-point link, addresses of /32, a next hop of IPv6 that is of the link alone), all
    /// fit ones. What else an interface has is for the link alone: the page of a modem, an address
    /// of RFC 3927, a virtual address of /32 that another gateway may take over; of IPv6 a unique
    /// local address, such as a provider's router advertises beside a global one. Deprecated ones
    /// will do where there are no others (RFC 6724 §5, rule 3).
    pub fn pool(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        match self.given_addresses(family) {
            given if given.is_empty() => self.sources(family, interface, kernel),
            given => given,
        }
    }

    /// The gateway's own addresses that are the path's, best first: those of its pool that the
    /// gateway has, on whatever interface, then those of the interface, which may be of a private
    /// network up to the provider's router, those of a prefix that its provider delegates, and
    /// those that are for the link alone.
    fn own_addresses(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        let has = |address: &IpAddr| kernel.addresses.iter().any(|(_, n)| n.addr() == *address);
        let mut own = self.given_addresses(family);
        own.retain(has);
        let sources = self.sources(family, interface, kernel).into_iter();
        let all = kernel.addresses.iter().map(|(_, net)| net.addr());
        let delegated =
            all.filter(|address| self.delegated(family).any(|net| net.contains(address)));
        for address in sources.chain(delegated).chain(kernel.addresses_of(family, interface)) {
            if !own.contains(&address) {
                own.push(address);
            }
        }
        own
    }

    /// IPv4 addresses of the interface that are not in the pool, and are not named in the file
    /// either.
    pub fn left_out(&self, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        let pool = self.pool(Family::V4, interface, kernel);
        let mut all = kernel.addresses_of(Family::V4, interface);
        all.retain(|address| self.addresses.is_empty() && !pool.contains(address));
        all
    }

    /// The source addresses that the file says.
    pub fn given_addresses(&self, family: Family) -> Vec<IpAddr> {
        let six = || self.ipv6.iter().flat_map(|ipv6| &ipv6.addresses).copied();
        match family {
            Family::V4 => self.addresses.iter().copied().map(IpAddr::V4).collect(),
            Family::V6 => six().map(IpAddr::V6).collect(),
        }
    }

    /// The prefixes that its provider delegates.
    pub fn delegated(&self, family: Family) -> impl Iterator<Item = IpNet> {
        self.pairs(family).map(|pair| IpNet::V6(pair.outside))
    }

    /// Those of which LANs have addresses.
    pub fn delegated_to_lans(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let pairs = self.pairs(family).filter(|pair| pair.inside.is_none());
        pairs.map(|pair| IpNet::V6(pair.outside))
    }

    fn pairs(&self, family: Family) -> impl Iterator<Item = &PrefixPair> {
        let ipv6 = self.ipv6.iter().filter(move |_| family == Family::V6);
        ipv6.flat_map(|ipv6| &ipv6.prefixes)
    }

    fn sources(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        let next_hop = self.next_hop_by(family, interface, kernel);
        let all = kernel.addresses.iter().filter(|(index, net)| {
            let address = net.addr();
            *index == interface
                && Family::of(address) == family
                && !is_link_local(address)
                && is_sendable(address)
        });
        let (mut fit, mut deprecated) = (Vec::new(), Vec::new());
        for (_, net) in all {
            let at = (interface, net.addr());
            match (kernel.unfit.contains(&at), kernel.deprecated.contains(&at)) {
                (false, _) => fit.push(*net),
                (true, true) => deprecated.push(*net),
                (true, false) => {}
            }
        }
        if fit.is_empty() {
            fit = deprecated;
        }
        let near = |net: &&IpNet| next_hop.is_some_and(|hop| net.contains(&hop));
        let of_next_hop: Vec<_> = fit.iter().filter(near).map(IpNet::addr).collect();
        match of_next_hop.is_empty() {
            true => fit.iter().map(IpNet::addr).collect(),
            false => of_next_hop,
        }
    }
}

impl Site {
    /// The gateway's own addresses that are an uplink's path's, best first, but for those of a
    /// prefix that another provider delegates: whoever is on the link may have advertised it there.
    pub fn own_addresses(
        &self,
        uplink: &UplinkConfig,
        family: Family,
        interface: u32,
        kernel: &Kernel,
    ) -> Vec<IpAddr> {
        let (index, prefixes) = (self.index_of(uplink), self.path_prefixes());
        let mut own = uplink.own_addresses(family, interface, kernel);
        own.retain(|own| match own {
            IpAddr::V4(_) => true,
            IpAddr::V6(own) => !carried::is_anothers(&prefixes, index, own.octets()),
        });
        own
    }

    /// The index of an uplink, in the order of the file; [`NONE`] if it is not the site's.
    pub fn index_of(&self, uplink: &UplinkConfig) -> u8 {
        let index = self.uplinks.iter().position(|of| of.name == uplink.name);
        index.map_or(NONE, |index| index as u8)
    }

    /// What the gateway itself may send from by an uplink's path, best first: the path's [own
    /// addresses](Self::own_addresses) that the kernel takes; then, of IPv6, those that the gateway
    /// has elsewhere of the prefixes that the path carries. Many a link to a provider has no
    /// address of IPv6 but that of the link (RFC 7084 §4.2, WAA-7). Never another uplink's: its
    /// provider alone carries that.
    pub fn path_sources(
        &self,
        uplink: &UplinkConfig,
        family: Family,
        interface: u32,
        kernel: &Kernel,
    ) -> Vec<IpAddr> {
        let mut sources = self.own_addresses(uplink, family, interface, kernel);
        sources.retain(|own| is_sendable(*own) && kernel.takes_source(interface, *own));
        if let (Family::V6, Some(ipv6)) = (family, &uplink.ipv6) {
            let (index, prefixes) = (self.index_of(uplink), self.path_prefixes());
            let lans = self.lan_prefixes(kernel);
            let is_the_sites = |own: Ipv6Addr| match ipv6.translate {
                Translate::None => lans.iter().any(|net| net.contains(&IpAddr::V6(own))),
                Translate::Npt | Translate::Source | Translate::Napt => true,
            };
            let is_routed_back = |own: Ipv6Addr| {
                carried::is_routed_back(&prefixes, index, ipv6.translate, own.octets())
            };
            let inner = self.inner_addresses(kernel).into_iter();
            let carried = inner.filter(|own| is_the_sites(*own) && is_routed_back(*own));
            let known = sources.clone();
            sources.extend(carried.map(IpAddr::V6).filter(|own| !known.contains(own)));
        }
        sources
    }

    /// What probes by an uplink's path are sent from: the best that there is inside of the prefixes
    /// that hosts are carried with, as a provider may route the network of its link and a prefix no
    /// more that it has delegated; else the best of all [that may be](Self::path_sources).
    pub fn probe_source(
        &self,
        uplink: &UplinkConfig,
        family: Family,
        interface: u32,
        kernel: &Kernel,
    ) -> Option<IpAddr> {
        let sources = self.path_sources(uplink, family, interface, kernel);
        let inner = self.inner_addresses(kernel);
        let is_as_hosts = |source: &&IpAddr| {
            uplink.delegated(family).any(|net| net.contains(*source))
                && inner.iter().any(|own| IpAddr::V6(*own) == **source)
        };
        sources.iter().find(is_as_hosts).or(sources.first()).copied()
    }

    /// The prefixes of all IPv6 paths, as they are published, but for how they are translated.
    pub fn path_prefixes(&self) -> Vec<PathPrefix> {
        let uplinks = (0u8..).zip(&self.uplinks);
        let pairs = uplinks.flat_map(|(index, uplink)| {
            let all =
                uplink.pairs(Family::V6).copied().chain(prefixes::rescued(uplink, &self.uplinks));
            all.map(move |pair| pair.of_path(index))
        });
        pairs.collect()
    }

    /// The IPv6 prefixes of all LANs, given or connected.
    pub fn lan_prefixes(&self, kernel: &Kernel) -> Vec<IpNet> {
        self.lans.iter().flat_map(|lan| lan.networks(Family::V6, kernel)).collect()
    }

    /// The IPv6 addresses that the gateway has on whatever interface but an uplink's, `lo` say;
    /// those that mean something beyond the site, in the kernel's order.
    pub fn inner_addresses(&self, kernel: &Kernel) -> Vec<Ipv6Addr> {
        let of_uplinks = self.uplink_interfaces(kernel);
        let inner = kernel.addresses.iter().filter_map(|(index, net)| match net.addr() {
            IpAddr::V6(own) if !of_uplinks.contains(index) => Some((*index, own)),
            _ => None,
        });
        let is_fit = |(index, own): &(u32, Ipv6Addr)| {
            is_beyond_site(*own) && !kernel.unfit.contains(&(*index, IpAddr::V6(*own)))
        };
        inner.filter(is_fit).map(|(_, own)| own).collect()
    }

    /// Is there an address to send from by an uplink's path, if perhaps not at the moment, as while
    /// it is tentative? Of IPv4 the pool says so.
    pub fn has_source(
        &self,
        uplink: &UplinkConfig,
        family: Family,
        interface: u32,
        kernel: &Kernel,
    ) -> bool {
        let has_own = || kernel.addresses_of(family, interface).into_iter().any(is_sendable);
        family == Family::V4
            || has_own()
            || !self.path_sources(uplink, family, interface, kernel).is_empty()
    }
}

impl PrefixPair {
    /// As it is published of this uplink.
    fn of_path(&self, uplink: u8) -> PathPrefix {
        let inside = self.inside.map(|net| (net.network().octets(), net.prefix_len()));
        let (inside, inside_len) = inside.unwrap_or_default();
        let (outside, outside_len) = (self.outside.network().octets(), self.outside.prefix_len());
        PathPrefix { inside, outside, inside_len, outside_len, uplink, ..PathPrefix::UNUSED }
    }
}

/// Can an answer from the Internet find the way to it? Of IPv4 a provider may translate what is
/// private.
fn is_sendable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => is_beyond_site(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(next_hop: Option<&str>, addresses: &[&str], unfit: &[&str]) -> Vec<String> {
        let text =
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";
        let mut uplink = crate::parse("weir.toml", text).unwrap().uplinks.remove(0);
        uplink.next_hop = next_hop.map(|hop| hop.parse().unwrap());
        let kernel = Kernel {
            addresses: addresses.iter().map(|net| (2, net.parse().unwrap())).collect(),
            unfit: unfit.iter().map(|address| (2, address.parse().unwrap())).collect(),
            ..Kernel::default()
        };
        uplink.pool(Family::V4, 2, &kernel).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_pool_is_of_the_networks_that_have_the_next_hop() {
        let addresses = ["192.168.100.2/24", "192.0.2.2/24", "192.0.2.9/32", "192.0.2.3/24"];
        assert_eq!(pool(Some("192.0.2.1"), &addresses, &[]), ["192.0.2.2", "192.0.2.3"]);
    }

    #[test]
    fn without_a_network_of_the_next_hop_all_addresses_will_do() {
        let addresses = ["192.0.2.2/32", "203.0.113.2/32", "169.254.7.7/16"];
        for next_hop in [Some("198.51.100.1"), None] {
            assert_eq!(pool(next_hop, &addresses, &[]), ["192.0.2.2", "203.0.113.2"]);
        }
    }

    #[test]
    fn a_deprecated_address_is_in_the_pool_where_there_is_no_other() {
        let text =
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";
        let uplink = crate::parse("weir.toml", text).unwrap().uplinks.remove(0);
        let of = |addresses: &[&str]| {
            let old = (2, "2001:2:0:a0::2".parse().unwrap());
            let kernel = Kernel {
                addresses: addresses.iter().map(|net| (2, net.parse().unwrap())).collect(),
                unfit: [old].into(),
                deprecated: [old].into(),
                ..Kernel::default()
            };
            uplink.pool(Family::V6, 2, &kernel).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(&["2001:2:0:a0::2/64"]), ["2001:2:0:a0::2"]);
        assert_eq!(of(&["2001:2:0:a0::2/64", "2001:2:0:a1::2/64"]), ["2001:2:0:a1::2"]);
    }

    #[test]
    fn an_address_that_the_kernel_would_not_take_is_not_in_the_pool() {
        let addresses = ["192.0.2.2/24", "192.0.2.3/24"];
        assert_eq!(pool(Some("192.0.2.1"), &addresses, &["192.0.2.2"]), ["192.0.2.3"]);
        assert!(pool(Some("192.0.2.1"), &["169.254.7.7/16"], &[]).is_empty());
    }

    const LAN: &str = "2001:2:0:100::1/64";

    /// What the first of two uplinks with IPv6 may send from, by `wan0`, where the gateway has
    /// these addresses: on `lo`, `wan0`, `wan1` and `lan0` by their index from 1 on.
    fn sources(addresses: &[(u32, &str)], unfit: &[(u32, &str)]) -> Vec<String> {
        sources_by("translate = \"none\"", addresses, unfit)
    }

    /// The same of paths that the file says this of.
    fn sources_by(path: &str, addresses: &[(u32, &str)], unfit: &[(u32, &str)]) -> Vec<String> {
        let (site, kernel) = gateway(path, addresses, unfit);
        let found = site.path_sources(&site.uplinks[0], Family::V6, 2, &kernel);
        assert!(found.is_empty() || site.has_source(&site.uplinks[0], Family::V6, 2, &kernel));
        found.iter().map(ToString::to_string).collect()
    }

    fn gateway(path: &str, addresses: &[(u32, &str)], unfit: &[(u32, &str)]) -> (Site, Kernel) {
        let path = format!("ipv6 = {{ {path} }}\n");
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n\
             [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n{path}\
             [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\nipv6 = {{ translate = \"none\" }}\n"
        );
        let site = crate::parse("weir.toml", &text).unwrap();
        let link = |(index, name): (u32, &str)| weir_view::Link {
            index,
            name: name.into(),
            ..weir_view::Link::default()
        };
        let kernel = Kernel {
            links: (1..).zip(["lo", "wan0", "wan1", "lan0"]).map(link).collect(),
            addresses: addresses.iter().map(|(at, net)| (*at, net.parse().unwrap())).collect(),
            unfit: unfit.iter().map(|(at, own)| (*at, own.parse().unwrap())).collect(),
            ..Kernel::default()
        };
        (site, kernel)
    }

    #[test]
    fn a_unique_local_address_beside_the_global_one_is_no_source() {
        let (global, local) = ((2, "2001:2:0:a0::2/64"), (2, "fd00:1::2/64"));
        for addresses in [[global, local], [local, global]] {
            assert_eq!(sources(&addresses, &[]), ["2001:2:0:a0::2"]);
        }
        assert!(sources(&[local], &[]).is_empty());
    }

    #[test]
    fn without_an_address_of_its_own_an_ipv6_path_is_sent_from_one_of_the_lans_prefixes() {
        let other = (3, "2001:2:0:a1::2/64");
        assert_eq!(sources(&[other, (4, LAN)], &[]), ["2001:2:0:100::1"]);
        let on_lo = (1, "2001:2:0:100::7/128");
        assert_eq!(sources(&[on_lo, (4, LAN)], &[(4, "2001:2:0:100::1")]), ["2001:2:0:100::7"]);
        let own = (2, "2001:2:0:a0::2/64");
        assert_eq!(sources(&[(4, LAN), own], &[])[0], "2001:2:0:a0::2", "its own is better");
    }

    #[test]
    fn where_a_provider_delegates_a_prefix_the_gateways_address_is_of_that_one() {
        let npt =
            "translate = \"npt66\", prefix = \"2001:2:0:a000::/56\", inside = \"fd00:1::/56\"";
        let (inside, delegated) = ((4, "fd00:1::1/64"), (1, "2001:2:0:a000::1/128"));
        assert_eq!(sources_by(npt, &[inside, (4, LAN), delegated], &[]), ["2001:2:0:a000::1"]);
        assert!(sources_by("translate = \"nat66\"", &[inside, (4, LAN)], &[]).is_empty());
    }

    #[test]
    fn probes_are_sent_from_an_address_of_what_hosts_are_carried_with_where_the_gateway_has_one() {
        let by_source = "translate = \"source\", prefixes = [\"2001:2:0:100::/56\"]";
        let npt = "translate = \"npt66\", prefix = \"2001:2:0:100::/56\", inside = \"fd00:1::/56\"";
        let (own, on_link) = ((2, "2001:2:0:a0::2/64"), (2, "2001:2:0:1ff::2/64"));
        for path in [by_source, npt] {
            let from = |addresses: &[(u32, &str)], unfit: &[(u32, &str)]| {
                let (site, kernel) = gateway(path, addresses, unfit);
                let source = site.probe_source(&site.uplinks[0], Family::V6, 2, &kernel);
                source.unwrap().to_string()
            };
            assert_eq!(from(&[own, (4, LAN)], &[]), "2001:2:0:100::1");
            assert_eq!(from(&[own, (1, "2001:2:0:107::7/128")], &[]), "2001:2:0:107::7");
            assert_eq!(from(&[own], &[]), "2001:2:0:a0::2");
            assert_eq!(from(&[on_link, (4, LAN)], &[]), "2001:2:0:100::1", "the link has a part");
            let tentative = (4, "2001:2:0:100::1");
            assert_eq!(from(&[own, (4, LAN)], &[tentative]), "2001:2:0:a0::2");
        }
        let (site, kernel) = gateway("translate = \"none\"", &[own, (4, LAN)], &[]);
        let source = site.probe_source(&site.uplinks[0], Family::V6, 2, &kernel);
        assert_eq!(source.unwrap().to_string(), "2001:2:0:a0::2");
    }

    #[test]
    fn an_ipv6_path_is_never_sent_from_an_address_of_another_uplink() {
        let on_wan1 = [(3, "2001:2:0:100::9/64"), (3, "2001:2:0:a1::2/64")];
        assert_eq!(sources(&[&on_wan1[..], &[(4, LAN)]].concat(), &[]), ["2001:2:0:100::1"]);
        assert!(sources(&on_wan1, &[]).is_empty());
        assert!(sources(&[(4, "fd00:1::1/64")], &[]).is_empty(), "nor from a unique local one");
    }
}
