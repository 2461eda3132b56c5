//! Destinations that stay on the gateway: what XDP leaves to the kernel.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, Path, Translate, host_class};
use weir_site::Site;
use weir_site::closed::Closed;
use weir_site::rules::{self, Lookup};
use weir_view::rule::MAIN;
use weir_view::{Kernel, Net, Route, Routes};

use crate::destinations::{self, Way};
use crate::guard;
use crate::near;

/// Prefix (address, length) to class.
type Prefixes<N> = BTreeMap<(<N as Net>::Octets, u8), u32>;

/// All that these destinations of a family depend on, and the guard. What is derived from a million
/// routes is derived anew only where two of these differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources<N: Net> {
    /// Routes; views that were read without a change of routes share them.
    routes: Arc<Routes<N>>,
    /// Those of other tables.
    tables: Arc<BTreeMap<u32, Vec<Route<N>>>>,
    /// What of them packets from LANs are looked up in.
    lookups: Vec<Lookup<N>>,
    /// The uplinks' interfaces.
    uplinks: Vec<near::By>,
    /// Addresses that packets by uplinks have.
    uplink_addresses: Vec<N::Address>,
    /// Kernel indices of the LANs' interfaces.
    lan_links: Vec<u32>,
    /// Names of devices on ports, after these: no destination depends on them, the guard does.
    virtual_ports: Vec<(u32, String)>,
    /// Networks of the LANs.
    lans: Vec<N>,
    /// Those that no route by an uplink leads into.
    closed: Closed<N>,
    /// The gateway's addresses.
    own: Vec<N::Address>,
    /// What uplinks translate to: addresses, and prefixes, each with its uplink.
    pools: Vec<(u8, N)>,
    /// These prefixes, each with the index of the uplink's interface, which may be on a part of it.
    linked: Vec<(u32, N)>,
}

impl Sources<Ipv4Net> {
    /// What there is of them now; `half` has the uplinks' addresses.
    pub fn of(site: &Site, kernel: &Kernel, lans: &[IpNet], half: &ControlHalf) -> Self {
        let net = |address: &Address| Ipv4Net::from(Ipv4Addr::from(address.to_v4()));
        let pools = held(site, half, Family::V4).map(|(uplink, _, address)| (uplink, net(address)));
        Self {
            routes: Arc::clone(&kernel.routes),
            tables: Arc::clone(&kernel.tables),
            lookups: rules::lookups(site, kernel),
            pools: pools.collect(),
            ..Self::in_family(site, kernel, lans)
        }
    }
}

impl Sources<Ipv6Net> {
    /// What there is of them now; `half` has the uplinks' addresses and prefixes. Rules of IPv6 are
    /// not followed: the main table decides. What routers advertise is not followed into a LAN,
    /// neither from it nor by an uplink.
    pub fn of(site: &Site, kernel: &Kernel, lans: &[IpNet], half: &ControlHalf) -> Self {
        let net = |address: &Address| Ipv6Net::from(Ipv6Addr::from(address.0));
        let of_ports = held(site, half, Family::V6)
            .filter(|(_, path, _)| path.translation() == Translate::Napt);
        let addresses = of_ports.map(|(uplink, _, address)| (uplink, net(address)));
        let interface = |uplink: u8| {
            let uplink = site.uplinks.get(usize::from(uplink))?;
            Some(kernel.link(&uplink.interface)?.index)
        };
        let linked = outsides(half).filter_map(|(uplink, net)| Some((interface(uplink)?, net)));
        Self {
            routes: Arc::clone(&kernel.routes6),
            pools: addresses.chain(outsides(half)).collect(),
            linked: linked.collect(),
            ..Self::in_family(site, kernel, lans)
        }
    }
}

/// The addresses that flows have or get by the site's paths of a family, each with its uplink's index and
/// its path.
fn held<'h>(
    site: &Site,
    half: &'h ControlHalf,
    family: Family,
) -> impl Iterator<Item = (u8, &'h Path, &'h Address)> {
    let paths = half.uplinks.iter().take(site.uplinks.len()).map(move |of| of.path(family));
    (0..)
        .zip(paths)
        .flat_map(|(uplink, path)| path.held().iter().map(move |address| (uplink, path, address)))
}

/// What hosts are translated to, each with its uplink's index; by an uplink that
/// [rescues](weir_layout::control::carried::rescues) too. Of a provider's prefix that is the part which
/// the one inside reaches (RFC 6296 §3.7): with what a provider delegates beyond that it takes no
/// address from anybody, whosever it is.
fn outsides(half: &ControlHalf) -> impl Iterator<Item = (u8, Ipv6Net)> {
    let pairs = half.path_prefixes().iter().filter(|pair| pair.is_pair());
    pairs.filter_map(|pair| {
        let len = pair.inside_len.max(pair.outside_len);
        Some((pair.uplink, Ipv6Net::new(Ipv6Addr::from(pair.outside), len).ok()?))
    })
}

impl<N: Net> Sources<N> {
    /// Without what either family has of its own.
    fn in_family(site: &Site, kernel: &Kernel, lans: &[IpNet]) -> Self {
        let lan_links = site.lans.iter().filter_map(|lan| kernel.link(&lan.interface));
        let lan_links: Vec<u32> = lan_links.map(|link| link.index).collect();
        let virtual_ports = guard::virtual_ports(site, kernel).into_iter();
        let held = kernel.addresses.iter().filter_map(|(_, net)| N::address(net.addr()));
        Self {
            routes: Arc::default(),
            tables: Arc::default(),
            lookups: vec![Lookup::main()],
            uplinks: near::uplinks(site, kernel),
            uplink_addresses: near::sources::<N>(site, kernel),
            closed: Closed::of(site, kernel),
            lan_links,
            virtual_ports: virtual_ports
                .map(|(port, device)| (port.index, device.name.clone()))
                .collect(),
            lans: lans.iter().copied().filter_map(N::of).collect(),
            own: held.collect(),
            pools: Vec::new(),
            linked: Vec::new(),
        }
    }

    /// Gateway addresses; prefixes the kernel routes elsewhere than by an uplink, or by one alone; LAN
    /// prefixes, and what the kernel routes by a LAN's interface; of the pools, what the gateway does
    /// not have itself; and within these, the uplinks' links.
    pub fn prefixes(&self) -> Prefixes<N> {
        let class = |way| match way {
            Way::Kernel => host_class::KERNEL,
            Way::Lan => host_class::LAN,
            Way::Near => host_class::NEAR,
            Way::Uplinks | Way::Next => 0,
        };
        let table = |table| match table {
            MAIN => &self.routes[..],
            other => self.tables.get(&other).map_or(&[][..], Vec::as_slice),
        };
        // By an uplink with a source that is not the uplink's goes what a VPN takes out of it
        // (strongSwan's routes are like that, RFC 4301 selectors want the LAN's address).
        let near =
            near::networks(&self.routes, &self.uplinks, &self.uplink_addresses, &self.closed);
        let is_near = |route: &Route<N>| {
            near.get(&route.interface).is_some_and(|near| near.contains(&route.destination))
        };
        let by_interface = |route: &Route<N>| {
            let own = |source| self.uplink_addresses.contains(&source);
            let of = |uplink: &near::By| uplink.interface == route.interface;
            match route.interface {
                by if self.lan_links.contains(&by) => (!route.advertised).then_some(Way::Lan),
                _ if !self.uplinks.iter().any(of) || !route.source.is_none_or(own) => {
                    Some(Way::Kernel)
                }
                _ if self.closed.is_against(route) => None,
                _ if is_near(route) => Some(Way::Near),
                _ => Some(Way::Uplinks),
            }
        };
        let ways = destinations::of(&self.lookups, table, by_interface);
        let mut hosts: Prefixes<N> =
            ways.iter().map(|(net, way)| (net.prefix(), class(*way))).collect();
        // What rescues has hosts translated to a prefix that a LAN may have too: then it is the LAN's.
        // Where two uplinks translate to the same, it is the first's.
        let pools = self.pools.iter().rev();
        let pools =
            pools.map(|(uplink, net)| (net, host_class::of_uplink(host_class::POOL, *uplink)));
        let links = self.links().map(|net| (net, host_class::LINK));
        let lans = self.lans.iter().map(|net| (net, host_class::LAN));
        for (net, class) in pools.chain(links).chain(lans) {
            hosts.insert(net.prefix(), class);
        }
        for net in self.own.iter().map(|address| N::host(*address)) {
            let of = self.pools.iter().find(|(_, pool)| *pool == net);
            let local = host_class::LOCAL;
            let value = of.map_or(local, |(uplink, _)| host_class::of_uplink(local, *uplink));
            hosts.insert(net.prefix(), value);
        }
        hosts
    }

    /// Likewise, but of routes only those within the LANs' prefixes, or around them: of a million few.
    pub fn prefixes_about_lans(&self) -> Prefixes<N> {
        let concerns = |route: &&Route<N>| {
            let net = &route.destination;
            self.lans.iter().any(|lan| lan.covers(net) || net.covers(lan))
        };
        let routes: Vec<_> = self.routes.iter().filter(concerns).copied().collect();
        Self { routes: Arc::new(routes.into()), ..self.clone() }.prefixes()
    }

    /// What providers have taken out of a prefix for the link to the gateway (RFC 6603), or use of it
    /// there: networks of the uplink's own interface within what it translates to.
    fn links(&self) -> impl Iterator<Item = &N> {
        let is_within = |route: &&Route<N>| {
            self.linked.iter().any(|(interface, outside)| {
                *interface == route.interface && outside.covers(&route.destination)
            })
        };
        let routes = if self.linked.is_empty() { &[] } else { &self.routes[..] };
        let links = routes.iter().filter(|route| route.is_on_link()).filter(is_within);
        links.filter(|route| !self.closed.is_against(route)).map(|route| &route.destination)
    }
}

#[cfg(test)]
mod tests {
    use weir_view::{Link, Route};

    use super::*;

    const SITE: &str =
        "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";

    fn kernel(routes: &[(&str, u32)]) -> Kernel {
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let route = |(destination, interface): &(&str, u32)| {
            Route::by(*interface, destination.parse().unwrap())
        };
        Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0"), link(3, "vpn0")],
            addresses: vec![(1, "192.168.1.1/24".parse().unwrap())],
            routes: Arc::new(routes.iter().map(route).collect::<Vec<_>>().into()),
            ..Kernel::default()
        }
    }

    fn sources(kernel: &Kernel) -> Sources<Ipv4Net> {
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let lans = ["192.168.1.0/24".parse().unwrap()];
        Sources::<Ipv4Net>::of(&site, kernel, &lans, &weir_shm::control::empty_half())
    }

    #[test]
    fn what_the_kernel_routes_by_no_uplink_stays_on_the_gateway() {
        let kernel = kernel(&[("10.0.0.0/8", 3), ("100.64.0.0/24", 2), ("0.0.0.0/0", 3)]);
        let prefixes = sources(&kernel).prefixes();
        let wanted = [
            (([10, 0, 0, 0], 8), host_class::KERNEL),
            (([100, 64, 0, 0], 24), host_class::NEAR),
            (([192, 168, 1, 0], 24), host_class::LAN),
            (([192, 168, 1, 1], 32), host_class::LOCAL),
        ];
        assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn what_the_kernel_routes_by_a_lans_interface_is_behind_its_port() {
        let kernel = kernel(&[("10.0.0.0/8", 3), ("10.1.0.0/16", 1), ("192.168.1.7/32", 1)]);
        let prefixes = sources(&kernel).prefixes();
        for inner in [([10, 1, 0, 0], 16), ([192, 168, 1, 7], 32)] {
            assert_eq!(prefixes.get(&inner), Some(&host_class::LAN), "{inner:?}");
        }
        assert_eq!(prefixes.get(&([10, 0, 0, 0], 8)), Some(&host_class::KERNEL));
    }

    #[test]
    fn a_route_by_an_uplink_takes_no_address_from_a_network_of_a_lan() {
        let routes = [("192.168.1.64/26", 2), ("192.168.0.0/16", 3), ("192.168.1.128/25", 3)];
        let prefixes = sources(&kernel(&routes)).prefixes();
        assert_eq!(prefixes.get(&([192, 168, 1, 64], 26)), None, "all of it stays the LAN's");
        assert_eq!(prefixes.get(&([192, 168, 1, 128], 25)), Some(&host_class::KERNEL));
    }

    #[test]
    fn a_route_by_an_uplink_with_the_source_of_another_is_a_vpns() {
        let mut kernel = kernel(&[]);
        kernel.addresses.push((2, "100.64.0.2/24".parse().unwrap()));
        let by = |destination: &str, source: &str| Route {
            source: Some(source.parse().unwrap()),
            ..Route::by(2, destination.parse().unwrap())
        };
        let routes = vec![by("100.64.0.0/24", "100.64.0.2"), by("10.8.0.0/16", "192.168.1.1")];
        kernel.routes = Arc::new(routes.into());
        let prefixes = sources(&kernel).prefixes();
        assert_eq!(prefixes.get(&([10, 8, 0, 0], 16)), Some(&host_class::KERNEL));
        assert_eq!(prefixes.get(&([100, 64, 0, 0], 24)), Some(&host_class::NEAR));
    }

    #[test]
    fn addresses_of_a_pool_are_their_uplinks_and_local_only_where_the_gateway_has_them() {
        let mut half = weir_shm::control::empty_half();
        let path = half.uplinks[0].path_mut(Family::V4);
        (path.pool_len, path.pool[0]) = (2, Address::v4([203, 0, 113, 7]));
        path.pool[1] = Address::v4([203, 0, 113, 8]);
        let mut kernel = kernel(&[]);
        kernel.addresses.push((2, "203.0.113.8/24".parse().unwrap()));
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let prefixes = Sources::<Ipv4Net>::of(&site, &kernel, &[], &half).prefixes();
        let value = |last| prefixes[&([203, 0, 113, last], 32)];
        assert_eq!(value(7), host_class::of_uplink(host_class::POOL, 0));
        assert_eq!(value(8), host_class::of_uplink(host_class::LOCAL, 0));
        assert_eq!(prefixes[&([192, 168, 1, 1], 32)], host_class::LOCAL, "a LAN's own");
    }

    #[test]
    fn a_view_without_a_change_of_its_sources_is_derived_from_no_more() {
        let before = kernel(&[("10.0.0.0/8", 3)]);
        let mut after = before.clone();
        after.links[1].running = true;
        after.neighbours.clear();
        assert_eq!(sources(&before), sources(&after));
        let vrrp = Link { index: 7, name: "vrrp7".into(), macvlan: Some(1), ..Link::default() };
        after.links.push(vrrp);
        assert_ne!(sources(&before), sources(&after), "the guard is to know it");
        after.links.pop();
        let more = kernel(&[("10.0.0.0/8", 3), ("10.1.0.0/16", 2)]);
        assert_ne!(sources(&before), sources(&more));
        after.addresses.clear();
        assert_ne!(sources(&before), sources(&after));
    }

    #[test]
    fn what_is_advertised_to_the_gateway_takes_no_address_from_a_lan_and_gives_it_none() {
        let mut kernel = kernel(&[]);
        let of_host = "2001:db8:bad::5/64".parse().unwrap();
        kernel.addresses = vec![(1, "2001:db8:7::1/64".parse().unwrap()), (1, of_host)];
        kernel.advertised.insert((1, of_host.addr()));
        let by = |index, to: &str| Route::by(index, to.parse::<Ipv6Net>().unwrap());
        let advertised = |index, to: &str| Route::<Ipv6Net> { advertised: true, ..by(index, to) };
        let routes = vec![
            by(1, "2001:db8:7::/64"),
            by(2, "2001:db8:7:0:1::/80"),
            advertised(2, "2001:db8:7:0:2::/80"),
            advertised(1, "2001:db8:bad::/64"),
            advertised(1, "2001:db8:ca::/48"),
        ];
        kernel.routes6 = Arc::new(routes.into());
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let lans = site.lans[0].networks(Family::V6, &kernel);
        let half = weir_shm::control::empty_half();
        let prefixes = Sources::<Ipv6Net>::of(&site, &kernel, &lans, &half).prefixes();
        let at = |net: &str| net.parse::<Ipv6Net>().unwrap().prefix();
        let wanted = [
            (at("2001:db8:7::/64"), host_class::LAN),
            (at("2001:db8:7::1/128"), host_class::LOCAL),
            (at("2001:db8:bad::5/128"), host_class::LOCAL),
        ];
        assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn what_the_kernel_routes_of_ipv6_by_no_uplink_stays_on_the_gateway() {
        let mut kernel = kernel(&[]);
        for (index, net) in [(1, "2001:db8:7::1/64"), (2, "2001:db8:1::2/64")] {
            kernel.addresses.push((index, net.parse().unwrap()));
        }
        let by = |index, to: &str| Route::by(index, to.parse::<Ipv6Net>().unwrap());
        let routes = vec![
            by(3, "::/0"),
            by(3, "2001:db8:9::/48"),
            by(2, "2001:db8:1::/64"),
            by(1, "2001:db8:7::/64"),
        ];
        kernel.routes6 = Arc::new(routes.into());
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let lans = ["192.168.1.0/24".parse().unwrap(), "2001:db8:7::/64".parse().unwrap()];
        let half = weir_shm::control::empty_half();
        let prefixes = Sources::<Ipv6Net>::of(&site, &kernel, &lans, &half).prefixes();
        let at = |net: &str| net.parse::<Ipv6Net>().unwrap().prefix();
        let wanted = [
            (at("2001:db8:1::2/128"), host_class::LOCAL),
            (at("2001:db8:7::/64"), host_class::LAN),
            (at("2001:db8:7::1/128"), host_class::LOCAL),
            (at("2001:db8:9::/48"), host_class::KERNEL),
        ];
        assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), wanted);
    }
}
