//! What is behind routers of a LAN.

use ipnet::{IpNet, Ipv6Net};
use weir_view::{Kernel, Route, RouteKind};

use super::{Lan, Site};

impl Site {
    /// The IPv6 networks behind routers of a LAN: what the main table leads to them by its interface,
    /// of prefixes that a provider delegates or that are translated. Who gives an inner router a part
    /// of one (RFC 7084 L-2) enters the route, and it changes with the prefix, so the file cannot say
    /// it. Where the file says what the LAN has, that is all. What a router advertises is none of it.
    pub fn behind_routers(&self, lan: &Lan, kernel: &Kernel) -> Vec<IpNet> {
        let says_all = lan.prefixes.iter().any(|net| matches!(net, IpNet::V6(_)));
        let prefixes = self.prefixes_of_hosts();
        let link = kernel.link(&lan.interface).filter(|_| !says_all && !prefixes.is_empty());
        let Some(link) = link else { return Vec::new() };
        let is_behind = |route: &&Route<Ipv6Net>| {
            route.interface == link.index
                && route.kind == RouteKind::Unicast
                && route.gateway.is_some()
                && !route.advertised
                && prefixes.iter().any(|prefix| prefix.contains(&route.destination))
        };
        kernel.routes6.iter().filter(is_behind).map(|route| IpNet::V6(route.destination)).collect()
    }

    /// The prefixes that hosts of LANs have addresses of, as far as uplinks say it.
    fn prefixes_of_hosts(&self) -> Vec<Ipv6Net> {
        let paths = self.uplinks.iter().flat_map(|uplink| &uplink.ipv6);
        let pairs = paths.flat_map(|path| &path.prefixes);
        pairs.map(|pair| pair.inside.unwrap_or(pair.outside)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_view::Link;

    use super::*;

    const BY_SOURCE: &str = "translate = \"source\", prefixes = [\"2001:2:0:a00::/56\"]";
    const NPT: &str =
        "translate = \"npt66\", prefix = \"2001:2:0:b00::/56\", inside = \"fd00:1::/56\"";

    /// What is behind routers of `lan0`, to which these routes lead.
    fn behind(lan: &str, path: &str, routes: Vec<Route<Ipv6Net>>) -> Vec<String> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n{lan}[[uplink]]\nname = \"a\"\n\
             interface = \"wan0\"\nipv6 = {{ {path} }}\n"
        );
        let site = crate::parse("weir.toml", &text).unwrap();
        let kernel = Kernel {
            links: vec![Link { index: 1, name: "lan0".into(), ..Link::default() }],
            routes6: Arc::new(routes.into()),
            ..Kernel::default()
        };
        let found = site.behind_routers(&site.lans[0], &kernel);
        found.iter().map(ToString::to_string).collect()
    }

    fn by(interface: u32, to: &str) -> Route<Ipv6Net> {
        let gateway = "fe80::7".parse().ok();
        Route { gateway, ..Route::by(interface, to.parse().unwrap()) }
    }

    #[test]
    fn what_a_router_of_a_lan_has_of_a_prefix_of_its_hosts_is_behind_it() {
        let part = "2001:2:0:a10::/60";
        assert_eq!(behind("", BY_SOURCE, vec![by(1, part)]), [part]);
        assert_eq!(behind("", NPT, vec![by(1, "fd00:1:0:10::/60")]), ["fd00:1:0:10::/60"]);
        let given = "prefixes = [\"2001:2:0:a01::/64\"]\n";
        assert_eq!(behind(given, BY_SOURCE, vec![by(1, part)]), [""; 0], "the file says all");
        let none = "translate = \"none\"";
        assert_eq!(behind("", none, vec![by(1, part)]), [""; 0], "nobody says whose it is");
    }

    #[test]
    fn what_leads_elsewhere_or_is_no_part_or_was_advertised_is_not_behind_a_router_of_the_lan() {
        let part = "2001:2:0:a10::/60";
        let routes = vec![
            by(2, part),
            by(1, "::/0"),
            by(1, "2001:2::/32"),
            by(1, "2001:2:0:b10::/60"),
            Route { gateway: None, ..by(1, part) },
            Route { advertised: true, ..by(1, part) },
            Route { kind: RouteKind::Elsewhere, ..by(1, part) },
        ];
        assert_eq!(behind("", BY_SOURCE, routes), [""; 0]);
    }
}
