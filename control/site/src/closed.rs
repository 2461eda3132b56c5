//! Routes by uplinks that would take addresses from a LAN.
//!
//! The kernel follows a route that is longer than the LAN's network, whoever it has it from: a DHCP
//! server, a provider's router that advertises a prefix of its link (RFC 4861 §6.3.4). Hosts of the
//! LAN would be cut off, so weir follows none.

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};
use weir_view::{Kernel, Net, Route, RouteKind};

use super::{Site, UplinkConfig};

/// The networks of LANs that no route by an uplink leads into, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed<N>(Vec<Network<N>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network<N> {
    net: N,
    /// The LAN's interface.
    lan: String,
    /// Only the file says that it is the LAN's, or a route to a router of the LAN. Some of it may be
    /// behind another router, or a provider, as somebody here has entered it; but no router of a
    /// provider may say so.
    is_given: bool,
}

impl<N: Net> Closed<N> {
    /// Those that there are now.
    pub fn of(site: &Site, kernel: &Kernel) -> Self {
        let mut networks = Vec::new();
        for lan in &site.lans {
            let link = kernel.link(&lan.interface);
            let connected = link.map(|link| kernel.given_networks(N::FAMILY, link.index));
            let connected = connected.into_iter().flatten().map(|net| (net, false));
            let given = lan.prefixes.iter().copied().chain(site.behind_routers(lan, kernel));
            let given = given.map(|net| (net, true));
            let all = connected.chain(given).filter_map(|(net, given)| Some((N::of(net)?, given)));
            networks.extend(all.map(|(net, is_given)| Network {
                net,
                lan: lan.interface.clone(),
                is_given,
            }));
        }
        Self(networks)
    }

    /// Would a route by an uplink lead into one of them?
    pub fn is_against(&self, route: &Route<N>) -> bool {
        self.place(route).is_some()
    }

    /// Which one a route by an uplink would lead into.
    fn place(&self, route: &Route<N>) -> Option<usize> {
        let leads_into = |network: &Network<N>| {
            (route.advertised || !network.is_given) && network.net.covers(&route.destination)
        };
        self.0.iter().position(leads_into)
    }
}

/// Says which routes by uplinks are not followed.
pub fn unfollowed(site: &Site, kernel: &Kernel) -> Vec<String> {
    let mut said = in_family::<Ipv4Net>(site, kernel, &kernel.routes);
    if site.has_ipv6() {
        said.extend(in_family::<Ipv6Net>(site, kernel, &kernel.routes6));
    }
    said
}

/// In one family: by each uplink into each network the first route, and how many more there are.
fn in_family<N: Net>(site: &Site, kernel: &Kernel, routes: &[Route<N>]) -> Vec<String> {
    let closed = Closed::of(site, kernel);
    let by = |uplink: &UplinkConfig| kernel.link(&uplink.interface).map(|link| link.index);
    let uplinks: Vec<_> = site.uplinks.iter().map(by).collect();
    let mut found = BTreeMap::<(usize, usize), (&Route<N>, usize)>::new();
    for route in routes.iter().filter(|route| route.kind == RouteKind::Unicast) {
        let uplink = uplinks.iter().position(|by| *by == Some(route.interface));
        if let Some(key) = uplink.zip(closed.place(route)) {
            found.entry(key).or_insert((route, 0)).1 += 1;
        }
    }
    let told = found.into_iter().map(|((uplink, place), (route, count))| {
        let (UplinkConfig { name, interface, .. }, network) = (&site.uplinks[uplink], &closed.0[place]);
        let more = if count > 1 { format!(", and {} more,", count - 1) } else { String::new() };
        // A prefix of the link, or one that a router leads to (RFC 4191).
        let setting = match route.gateway {
            None => "accept_ra_pinfo",
            Some(_) => "accept_ra_rt_info_max_plen",
        };
        let remedy = match route.advertised {
            false => "remove it".to_owned(),
            true => format!(
                "a router advertises it: have the provider mend that, or set \
                 net.ipv6.conf.{}.{setting} to 0",
                interface.replace('.', "/")
            ),
        };
        format!(
            "uplink {name}: the kernel's route to {} by {interface}{more} leads into {} of LAN {}, and \
             is not followed there. What the gateway itself sends to it goes astray: {remedy}",
            route.destination, network.net, network.lan
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_view::Link;

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\nprefixes = [\"10.0.0.0/8\", \"2001:db8:7::/48\"]\n\
        [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\nipv6 = { translate = \"none\" }\n";

    fn kernel() -> Kernel {
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0")],
            addresses: ["10.1.0.1/16", "2001:db8:7::1/64"]
                .map(|net| (1, net.parse().unwrap()))
                .into(),
            ..Kernel::default()
        }
    }

    #[test]
    fn a_route_by_an_uplink_into_a_network_of_a_lan_is_told_with_both_names() {
        let site = crate::parse("weir.toml", SITE).unwrap();
        let by = |to: &str| Route::by(2, to.parse::<Ipv4Net>().unwrap());
        let mut kernel = kernel();
        let routes = vec![by("10.1.2.0/24"), by("10.1.3.0/24"), by("10.2.0.0/16"), by("0.0.0.0/0")];
        kernel.routes = Arc::new(routes.into());
        let told = unfollowed(&site, &kernel);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in ["uplink fiber", "10.1.2.0/24 by wan0, and 1 more", "10.1.0.0/16 of LAN lan0"] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
    }

    #[test]
    fn what_a_router_of_a_provider_advertises_leads_into_no_prefix_that_the_file_gives_a_lan() {
        let site = crate::parse("weir.toml", SITE).unwrap();
        let mut kernel = kernel();
        let mut told = |advertised| {
            let route = Route { advertised, ..Route::by(2, "2001:db8:7:5::/64".parse().unwrap()) };
            kernel.routes6 = Arc::new(vec![route].into());
            unfollowed(&site, &kernel)
        };
        assert_eq!(told(false), [""; 0], "somebody here wants it so");
        let told = told(true);
        assert!(told.len() == 1 && told[0].contains("wan0.accept_ra_pinfo to 0"), "{told:?}");
    }

    #[test]
    fn a_route_that_a_router_leads_to_is_turned_off_by_a_setting_of_its_own() {
        let site = crate::parse("weir.toml", SITE).unwrap();
        let route = Route::by(2, "2001:db8:7:5::/64".parse().unwrap());
        let route = Route { advertised: true, gateway: "fe80::1".parse().ok(), ..route };
        let routes6 = Arc::new(vec![route].into());
        let told = unfollowed(&site, &Kernel { routes6, ..kernel() });
        let setting = "wan0.accept_ra_rt_info_max_plen to 0";
        assert!(told.len() == 1 && told[0].contains(setting), "{told:?}");
    }

    #[test]
    fn what_a_router_of_a_provider_advertises_leads_into_no_part_that_a_router_of_a_lan_has() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n\
                    ipv6 = { translate = \"source\", prefixes = [\"2001:2:7::/48\"] }\n";
        let site = crate::parse("weir.toml", text).unwrap();
        let mut kernel = kernel();
        let by = |index, to: &str, advertised| Route::<Ipv6Net> {
            gateway: "fe80::7".parse().ok(),
            advertised,
            ..Route::by(index, to.parse().unwrap())
        };
        let inner = by(1, "2001:2:7:10::/60", false);
        let mut told = |advertised| {
            kernel.routes6 = Arc::new(vec![inner, by(2, "2001:2:7:12::/64", advertised)].into());
            unfollowed(&site, &kernel)
        };
        assert_eq!(told(false), [""; 0], "somebody here wants it so");
        let told = told(true);
        assert_eq!(told.len(), 1, "{told:?}");
        for part in ["2001:2:7:10::/60 of LAN lan0", "accept_ra_rt_info_max_plen"] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
    }
}
