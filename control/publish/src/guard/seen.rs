//! What the table takes from the kernel beside the site.

use std::net::IpAddr;

use ipnet::IpNet;
use weir_layout::Family;
use weir_site::{Lan, Site, UplinkConfig, is_interface_name};
use weir_view::{Kernel, Link, is_link_local};

use crate::near::{self, Near};

/// A view of it. Without one yet, nothing.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Macvlan devices, each after the name of the port of the site that it is on. What comes by
    /// the port for their hardware address comes in by them.
    pub virtual_ports: Vec<(String, String)>,
    /// The gateway's addresses on LANs.
    pub lan_addresses: Vec<IpAddr>,
    /// The networks of each LAN, after its interface: what may be a source there.
    pub lan_networks: Vec<(String, Vec<IpNet>)>,
    /// Networks within these that an uplink leads to: those of its link, and what is near.
    pub beyond_uplinks: Vec<IpNet>,
    /// What is reached by one uplink alone, of IPv4.
    pub near: Vec<Near>,
    /// The gateway's own addresses that are of one uplink alone, by the uplink's number.
    pub homes: Vec<(u8, IpAddr)>,
}

impl Seen {
    /// What of a family is reached by one uplink alone.
    pub fn near_in(&self, family: Family) -> &[Near] {
        match family {
            Family::V4 => &self.near,
            Family::V6 => &[],
        }
    }

    /// The networks of a family of all LANs, none within another.
    pub fn all_lan_networks(&self, family: Family) -> Vec<IpNet> {
        let all = self.lan_networks.iter().flat_map(|(_, nets)| of_family(family, nets));
        IpNet::aggregate(&all.collect())
    }

    /// What there is now.
    pub fn of(site: &Site, kernel: &Kernel) -> Self {
        let virtual_ports = virtual_ports(site, kernel);
        let lans = site.lans.iter().filter_map(|lan| kernel.link(&lan.interface));
        let is_lan = |port: &str| site.lans.iter().any(|lan| lan.interface == port);
        let on_lans = virtual_ports.iter().filter(|(port, _)| is_lan(&port.name));
        let links = lans.chain(on_lans.map(|(_, device)| *device));
        let addresses = |link: &Link| {
            Family::ALL.map(|family| kernel.addresses_of(family, link.index)).concat()
        };
        let of_lan = |lan: &Lan| {
            let connected = Family::ALL.into_iter().flat_map(|family| lan.networks(family, kernel));
            connected.chain(site.behind_routers(lan, kernel)).collect::<Vec<_>>()
        };
        let lan_networks: Vec<_> =
            site.lans.iter().map(|lan| (lan.interface.clone(), of_lan(lan))).collect();
        let near = near::of(site, kernel);
        let uplinks = site.uplinks.iter().filter_map(|uplink| kernel.link(&uplink.interface));
        let of_links = uplinks.flat_map(|link| networks_on(link, kernel));
        let led_to = near.iter().flat_map(|near| &near.networks).copied().map(IpNet::V4);
        let of_lans = || lan_networks.iter().flat_map(|(_, nets)| nets);
        let within = |net: &IpNet| of_lans().any(|lan| lan.contains(net));
        let beyond: Vec<_> = of_links.chain(led_to).filter(within).collect();
        let named = |(port, device): &(&Link, &Link)| (port.name.clone(), device.name.clone());
        Self {
            lan_addresses: links.flat_map(addresses).collect(),
            lan_networks,
            beyond_uplinks: IpNet::aggregate(&beyond),
            virtual_ports: virtual_ports.iter().map(named).collect(),
            near,
            homes: homes(site, kernel),
        }
    }
}

/// Those of a family.
pub fn of_family(family: Family, nets: &[IpNet]) -> impl Iterator<Item = IpNet> {
    nets.iter().copied().filter(move |net| Family::of(net.addr()) == family)
}

/// The gateway's own addresses that one uplink has and no other.
fn homes(site: &Site, kernel: &Kernel) -> Vec<(u8, IpAddr)> {
    let of_uplink = |(number, uplink): (u8, &UplinkConfig)| {
        let link = kernel.link(&uplink.interface)?;
        let own = |family| site.own_addresses(uplink, family, link.index, kernel);
        Some(
            Family::ALL.into_iter().flat_map(own).map(move |own| (number, own)).collect::<Vec<_>>(),
        )
    };
    let all: Vec<_> = (0..).zip(&site.uplinks).filter_map(of_uplink).flatten().collect();
    let is_anothers = |(number, own): &(u8, IpAddr)| {
        all.iter().any(|other| other.0 != *number && other.1 == *own)
    };
    let alone = all.iter().filter(|home| !is_anothers(home) && !is_link_local(home.1));
    alone.copied().collect()
}

/// The networks that an interface has addresses of, but for those of one link alone.
fn networks_on(link: &Link, kernel: &Kernel) -> impl Iterator<Item = IpNet> {
    let on = kernel.addresses.iter().filter(move |(index, _)| *index == link.index);
    on.map(|(_, net)| net.trunc()).filter(|net| !is_link_local(net.addr()))
}

/// Macvlan devices on ports of the site that are none themselves, after their port.
pub fn virtual_ports<'k>(site: &Site, kernel: &'k Kernel) -> Vec<(&'k Link, &'k Link)> {
    let is_port = |name: &str| site.interfaces().any(|interface| interface == name);
    let devices = kernel.links.iter().filter_map(|device| {
        let port = kernel.link_at(device.macvlan?)?;
        let counts = is_port(&port.name) && !is_port(&device.name);
        (counts && is_interface_name(&device.name)).then_some((port, device))
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macvlan_devices_on_ports_are_seen_with_the_addresses_of_those_on_lans() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\n\
                    interface = \"wan0\"\n[[uplink]]\nname = \"b\"\ninterface = \"wan0b\"\n";
        let site = weir_site::parse("weir.toml", text).unwrap();
        let link = |index, name: &str, macvlan| Link {
            index,
            name: name.into(),
            macvlan,
            ..Link::default()
        };
        let kernel = Kernel {
            links: vec![
                link(1, "lan0", None),
                link(2, "wan0", None),
                link(3, "vrrp7", Some(1)),
                link(4, "vrrp8", Some(2)),
                link(5, "wan0b", Some(2)),
                link(6, "other", Some(9)),
            ],
            addresses: [(1, "10.0.0.1/16"), (2, "192.0.2.2/24"), (3, "10.0.0.254/32")]
                .map(|(index, net)| (index, net.parse().unwrap()))
                .into(),
            ..Kernel::default()
        };
        let seen = Seen::of(&site, &kernel);
        let ports = [("lan0", "vrrp7"), ("wan0", "vrrp8")];
        assert_eq!(seen.virtual_ports, ports.map(|(p, d)| (p.to_owned(), d.to_owned())));
        assert_eq!(seen.lan_addresses, [[10, 0, 0, 1], [10, 0, 0, 254]].map(IpAddr::from));
        let network = "10.0.0.0/16".parse::<IpNet>().unwrap();
        assert_eq!(seen.lan_networks, [("lan0".to_owned(), vec![network])]);
        assert_eq!(seen.all_lan_networks(Family::V4), [network]);
        assert_eq!(seen.all_lan_networks(Family::V6), []);
        assert_eq!(seen.beyond_uplinks, []);
        let mut kernel = kernel;
        kernel.addresses[1].1 = "10.0.7.2/24".parse().unwrap();
        let within = Seen::of(&site, &kernel).beyond_uplinks;
        assert_eq!(within, ["10.0.7.0/24".parse::<IpNet>().unwrap()]);
    }
}
