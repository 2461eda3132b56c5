//! Networks that are reached by one uplink alone, because the gateway is on them or has a route
//! there: a modem's page, hosts on a provider's link, its telephone server.
//!
//! What LANs send there the kernel forwards, by that uplink and to that neighbour or next hop. The
//! guard's table lets it pass and gives it an address of the uplink's: the one in the network of the
//! neighbour, so who answers need know nothing else.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;
use weir_layout::Family;
use weir_layout::control::Translate;
use weir_site::Site;
use weir_site::closed::Closed;
use weir_view::{Kernel, Net, Route, RouteKind, is_link_local};

/// With more routes by a router, an uplink has those of the Internet, and weir deals it out.
const FEW: usize = 256;
/// Shorter prefixes are halves and quarters of the Internet.
const SHORTEST: u8 = 8;

/// An uplink's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// Its kernel index.
    pub interface: u32,
    /// Whether what its routers lead to is near too. Not where nothing is translated: hosts there
    /// know own prefixes, and not the address of the link.
    pub routed: bool,
}

/// The uplinks that have an interface.
pub fn uplinks(site: &Site, kernel: &Kernel) -> Vec<By> {
    let by = |uplink: &weir_site::UplinkConfig| {
        let interface = kernel.link(&uplink.interface)?.index;
        Some(By { interface, routed: uplink.translate == Translate::Napt })
    };
    site.uplinks.iter().filter_map(by).collect()
}

/// Addresses of a family that packets by uplinks have: those of their interfaces, and of their pools.
pub fn sources<N: Net>(site: &Site, kernel: &Kernel) -> Vec<N::Address> {
    let interfaces = uplinks(site, kernel).into_iter();
    let own = interfaces.flat_map(|by| kernel.addresses_of(N::FAMILY, by.interface));
    let given = site.uplinks.iter().flat_map(|uplink| uplink.given_addresses(N::FAMILY));
    own.chain(given).filter_map(N::address).collect()
}

/// The networks that are near, by interface: those without a router, and those by one if they are
/// few, but for what is [closed](Closed) to them. `own` are the uplinks' addresses: a route with
/// another source is a VPN's. None is of IPv6,
/// where nothing is translated: hosts there are answered by a provider's router, which knows the
/// site's prefixes, and are asked by it.
pub fn networks<N: Net>(
    routes: &[Route<N>],
    uplinks: &[By],
    own: &[N::Address],
    closed: &Closed<N>,
) -> BTreeMap<u32, BTreeSet<N>> {
    let routes = if N::FAMILY == Family::V4 { routes } else { &[] };
    let mut found: BTreeMap<u32, [BTreeSet<N>; 2]> = BTreeMap::new();
    for route in routes {
        let Some(by) = uplinks.iter().find(|by| by.interface == route.interface) else { continue };
        let net = route.destination;
        let is_part = net.prefix_len() >= SHORTEST && !is_link_local(net.into().addr());
        let ours = route.source.is_none_or(|source| own.contains(&source));
        let follows = is_part && ours && !closed.is_against(route);
        if route.kind == RouteKind::Unicast && follows {
            let [linked, routed] = found.entry(by.interface).or_default();
            match route.gateway {
                None => _ = linked.insert(net),
                Some(_) if by.routed && routed.len() <= FEW => _ = routed.insert(net),
                Some(_) => {}
            }
        }
    }
    let near = |[mut linked, routed]: [BTreeSet<N>; 2]| {
        if routed.len() <= FEW {
            linked.extend(routed);
        }
        linked
    };
    found.into_iter().map(|(interface, both)| (interface, near(both))).collect()
}

/// What is reached by an interface alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// Its name.
    pub interface: String,
    /// In order, none within another.
    pub networks: Vec<Ipv4Net>,
}

/// What is near now.
pub fn of(site: &Site, kernel: &Kernel) -> Vec<Near> {
    let uplinks = uplinks(site, kernel);
    let (own, closed) = (sources::<Ipv4Net>(site, kernel), Closed::of(site, kernel));
    let networks = networks(&kernel.routes, &uplinks, &own, &closed);
    let named = networks.into_iter().filter_map(|(index, networks)| {
        let link = kernel.link_at(index)?;
        let networks = Ipv4Net::aggregate(&Vec::from_iter(networks));
        (!networks.is_empty()).then(|| Near { interface: link.name.clone(), networks })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_view::Link;

    use super::*;

    fn near(translate: &str, routes: Vec<Route>) -> Vec<String> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
             translate = \"{translate}\"\naddresses = [\"203.0.113.7\"]\n"
        );
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let kernel = Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), ..Link::default() }],
            addresses: vec![(2, "192.0.2.2/24".parse().unwrap())],
            routes: Arc::new(routes.into()),
            ..Kernel::default()
        };
        let networks = of(&site, &kernel).into_iter().flat_map(|near| near.networks);
        networks.map(|net| net.to_string()).collect()
    }

    fn linked(interface: u32, destination: &str) -> Route {
        Route::by(interface, destination.parse().unwrap())
    }

    fn routed(destination: &str) -> Route {
        Route { gateway: "192.0.2.1".parse().ok(), ..linked(2, destination) }
    }

    #[test]
    fn networks_of_the_link_and_of_routes_by_it_are_near() {
        let routes = vec![
            routed("0.0.0.0/0"),
            routed("0.0.0.0/1"),
            linked(2, "192.0.2.0/24"),
            linked(2, "192.168.100.0/24"),
            linked(2, "169.254.0.0/16"),
            linked(3, "10.0.0.0/8"),
            routed("203.0.113.0/24"),
            Route { source: "10.77.0.1".parse().ok(), ..routed("10.8.0.0/16") },
            Route { source: "203.0.113.7".parse().ok(), ..linked(2, "198.18.0.0/24") },
        ];
        let link = ["192.0.2.0/24", "192.168.100.0/24", "198.18.0.0/24"];
        assert_eq!(near("none", routes.clone()), link);
        assert_eq!(near("nat44", routes), [&link[..], &["203.0.113.0/24"]].concat());
    }

    #[test]
    fn a_table_of_the_internet_by_an_uplink_is_not_near() {
        let with = |count: usize| {
            let net = |n| routed(&format!("20.{}.{}.0/24", n / 128, n % 128 * 2));
            near("nat44", (0..count).map(net).chain([linked(2, "192.0.2.0/24")]).collect())
        };
        assert_eq!(with(FEW).len(), 1 + FEW);
        assert_eq!(with(FEW + 1), ["192.0.2.0/24"]);
    }
}
