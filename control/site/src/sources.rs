//! Which addresses packets by an uplink are sent from.

use std::net::IpAddr;

use ipnet::IpNet;
use weir_layout::Family;
use weir_view::{Kernel, is_link_local};

use super::UplinkConfig;

impl UplinkConfig {
    /// The pool of an uplink's path on the interface of this index: what the file says, else the
    /// addresses of the interface that its provider can be expected to route here, in the kernel's
    /// order. Those are the fit ones of the networks that have the next hop; if none has it (a
    /// point-to-point link, addresses of /32, a next hop of IPv6 that is of the link alone), all fit
    /// ones. What else an interface has is for the link alone: the page of a modem, an address of RFC
    /// 3927, a virtual address of /32 that another gateway may take over.
    pub fn pool(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        match self.given_addresses(family) {
            given if given.is_empty() => self.sources(family, interface, kernel),
            given => given,
        }
    }

    /// The gateway's own addresses that are the path's, best first: those of its pool that the
    /// gateway has, on whatever interface, then those of the interface, which may be of a private
    /// network up to the provider's router, those of a prefix that its provider delegates, and those
    /// that are for the link alone.
    pub fn own_addresses(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
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

    /// What sockets of the path are given: the best of these that the kernel takes.
    pub fn source(&self, family: Family, interface: u32, kernel: &Kernel) -> Option<IpAddr> {
        let mut own = self.own_addresses(family, interface, kernel).into_iter();
        own.find(|source| kernel.takes_source(interface, *source))
    }

    /// IPv4 addresses of the interface that are not in the pool, and are not named in the file either.
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

    /// The prefixes that its provider delegates, where LANs have addresses of it.
    pub fn delegated(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let ipv6 = self.ipv6.iter().filter(move |_| family == Family::V6);
        let prefixes = ipv6.flat_map(|ipv6| &ipv6.prefixes);
        prefixes.filter(|pair| pair.inside.is_none()).map(|pair| IpNet::V6(pair.outside))
    }

    fn sources(&self, family: Family, interface: u32, kernel: &Kernel) -> Vec<IpAddr> {
        let next_hop = self.next_hop_by(family, interface, kernel);
        let fit: Vec<IpNet> = kernel
            .addresses
            .iter()
            .filter(|(index, net)| {
                let address = net.addr();
                *index == interface
                    && weir_view::family(address) == family
                    && !is_link_local(address)
                    && !kernel.unfit.contains(&(interface, address))
            })
            .map(|(_, net)| *net)
            .collect();
        let near = |net: &&IpNet| next_hop.is_some_and(|hop| net.contains(&hop));
        let of_next_hop: Vec<_> = fit.iter().filter(near).map(IpNet::addr).collect();
        match of_next_hop.is_empty() {
            true => fit.iter().map(IpNet::addr).collect(),
            false => of_next_hop,
        }
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
    fn an_address_that_the_kernel_would_not_take_is_not_in_the_pool() {
        let addresses = ["192.0.2.2/24", "192.0.2.3/24"];
        assert_eq!(pool(Some("192.0.2.1"), &addresses, &["192.0.2.2"]), ["192.0.2.3"]);
        assert!(pool(Some("192.0.2.1"), &["169.254.7.7/16"], &[]).is_empty());
    }
}
