//! Which addresses packets by an uplink are sent from.

use std::net::Ipv4Addr;

use weir_view::Kernel;

use super::UplinkConfig;

impl UplinkConfig {
    /// The pool of an uplink on the interface of this index: what the file says, else the addresses
    /// of the interface that its provider can be expected to route here, in the kernel's order. Those
    /// are the fit ones of the networks that have the next hop; if none has it (a point-to-point
    /// link, addresses of /32), all fit ones. What else an interface has is for the link alone: the
    /// page of a modem, an address of RFC 3927, a virtual address of /32 that another gateway may
    /// take over.
    pub fn pool(&self, interface: u32, kernel: &Kernel) -> Vec<Ipv4Addr> {
        if !self.addresses.is_empty() {
            return self.addresses.clone();
        }
        self.sources(interface, kernel)
    }

    /// The gateway's own addresses that are the uplink's, best first: those of its pool that the
    /// gateway has, on whatever interface, then those of the interface, which may be of a private
    /// network up to the provider's router, then those that are for the link alone.
    pub fn own_addresses(&self, interface: u32, kernel: &Kernel) -> Vec<Ipv4Addr> {
        let has = |address: &&Ipv4Addr| kernel.addresses.iter().any(|(_, n)| n.addr() == **address);
        let mut own: Vec<Ipv4Addr> = self.addresses.iter().filter(has).copied().collect();
        for address in
            self.sources(interface, kernel).into_iter().chain(kernel.addresses_of(interface))
        {
            if !own.contains(&address) {
                own.push(address);
            }
        }
        own
    }

    /// Addresses of the interface that are not in the pool, and are not named in the file either.
    pub fn left_out(&self, interface: u32, kernel: &Kernel) -> Vec<Ipv4Addr> {
        let pool = self.pool(interface, kernel);
        let mut all = kernel.addresses_of(interface);
        all.retain(|address| self.addresses.is_empty() && !pool.contains(address));
        all
    }

    fn sources(&self, interface: u32, kernel: &Kernel) -> Vec<Ipv4Addr> {
        let next_hop = self.next_hop_by(interface, kernel);
        let fit: Vec<_> = kernel
            .addresses
            .iter()
            .filter(|(index, net)| {
                let address = net.addr();
                *index == interface
                    && !address.is_link_local()
                    && !kernel.unfit.contains(&(interface, address))
            })
            .map(|(_, net)| net)
            .collect();
        let near = |net: &&&ipnet::Ipv4Net| next_hop.is_some_and(|hop| net.contains(&hop));
        let of_next_hop: Vec<_> = fit.iter().filter(near).map(|net| net.addr()).collect();
        match of_next_hop.is_empty() {
            true => fit.iter().map(|net| net.addr()).collect(),
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
        uplink.pool(2, &kernel).iter().map(ToString::to_string).collect()
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
