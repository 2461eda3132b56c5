//! What of IPv6 is allowed on this machine and certain to hurt.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use weir_layout::Family;
use weir_view::Kernel;

use super::{Lan, Site, UplinkConfig};
use crate::warn::setting;

/// Says where a kernel that forwards no IPv6 is in the way: nothing comes in that no flow asked for,
/// although the file lets it; and hosts of a LAN give up a router that does not say that it is one
/// when they ask whether it is there (RFC 4861 §7.3.3, the R flag). `forwards` says whether it
/// forwards what comes by an interface.
pub fn unforwarded(site: &Site, forwards: impl Fn(&str) -> bool) -> Vec<String> {
    let inbound = site.uplinks.iter().filter(|uplink| uplink.is_inbound(Family::V6));
    let stopped = inbound.filter(|uplink| !forwards(&uplink.interface));
    let warning = |uplink: &UplinkConfig| {
        format!(
            "uplink {}: the kernel forwards no IPv6, so that nothing reaches a LAN that `inbound` \
             lets in: set net.ipv6.conf.all.forwarding to 1, and accept_ra of the uplinks to 2",
            uplink.name
        )
    };
    let advertised = site.lans.iter().filter(|lan| lan.ra.is_some());
    let given_up = advertised.filter(|lan| !forwards(&lan.interface));
    let of_lan = |lan: &Lan| {
        format!(
            "lan {}: the kernel forwards no IPv6 and tells hosts that it is no router, so that they \
             give up what `ra` told them: set net.ipv6.conf.all.forwarding to 1, and accept_ra of \
             the uplinks to 2",
            lan.interface
        )
    };
    stopped.map(warning).chain(given_up.map(of_lan)).collect()
}

/// Says on which LANs the kernel takes router advertisements: any host of one may send some. `takes`
/// says whether it does on an interface.
pub fn advertised_lans(site: &Site, kernel: &Kernel, takes: impl Fn(&str) -> bool) -> Vec<String> {
    let there =
        site.lans.iter().filter(|lan| site.has_ipv6() && kernel.link(&lan.interface).is_some());
    let warning = |Lan { interface, .. }: &Lan| {
        format!(
            "lan {interface}: the kernel takes router advertisements there, so that any host of the \
             LAN can give the gateway addresses and routes. No flow follows those, but what the \
             gateway itself sends does: set net.ipv6.conf.{}.accept_ra to 0",
            interface.replace('.', "/")
        )
    };
    there.filter(|lan| takes(&lan.interface)).map(warning).collect()
}

/// Says of which LANs that `ra` is for hosts get no addresses: by the length of a network, or as the
/// file says.
pub fn without_addresses(site: &Site, kernel: &Kernel) -> Vec<String> {
    let of_lan = |lan: &Lan| {
        let Lan { interface, .. } = lan;
        let (_, useless) = lan.offered(kernel);
        let useless = useless.into_iter().map(|net| {
            let of_it = if net.prefix_len() < 64 { " of it" } else { "" };
            format!(
                "lan {interface}: hosts make no addresses of {net}, as they do of /64 (RFC 4862 \
                 §5.5.3): give {interface} an address of a /64{of_it}"
            )
        });
        let bare = lan.ra.as_ref().is_some_and(|ra| !ra.autonomous && !ra.managed);
        let bare = bare.then(|| {
            format!(
                "lan {interface}: autonomous = false without managed = true: its hosts neither make \
                 addresses of IPv6 nor ask for some"
            )
        });
        useless.chain(bare).collect::<Vec<_>>()
    };
    site.lans.iter().flat_map(of_lan).collect()
}

/// Says which prefixes hosts are told and the kernel has not on their link. They stay told: an
/// interface that was down has lost its addresses, its hosts have not, and gets them back.
pub fn unconnected(site: &Site, kernel: &Kernel) -> Vec<String> {
    let of_lan = |lan: &Lan| {
        let (offered, _) = lan.offered(kernel);
        let Lan { interface, .. } = lan;
        let warning = |net: Ipv6Net| {
            let own = Ipv6Addr::from(u128::from(net.network()) | 1);
            format!(
                "lan {interface}: hosts are told {net}, and the gateway has no address of it on \
                 {interface}: what is for them gets lost. Add one, as with `ip addr add {own}/64 \
                 dev {interface}`"
            )
        };
        lan.unconnected(&offered, kernel).into_iter().map(warning).collect::<Vec<_>>()
    };
    site.lans.iter().flat_map(of_lan).collect()
}

/// Says which uplinks' next hops are addresses of their own interfaces. `own` has the gateway's
/// addresses of one link, each with its interface.
pub fn own_next_hops(site: &Site, own: &[(String, Ipv6Addr)]) -> Vec<String> {
    let warning = |uplink: &UplinkConfig| {
        let UplinkConfig { name, interface, ipv6, .. } = uplink;
        let next_hop = ipv6.as_ref()?.next_hop?;
        let is_own = |(of, address): &(String, Ipv6Addr)| of == interface && *address == next_hop;
        own.iter().any(is_own).then(|| {
            format!(
                "uplink {name}: next hop {next_hop} is the gateway itself: give the address of the \
                 provider's router"
            )
        })
    };
    site.uplinks.iter().filter_map(warning).collect()
}

/// Does the kernel forward IPv6 that comes by an interface (`ip6_forward`, net/ipv6/ip6_output.c)?
/// Where there is no IPv6 there is nothing to be said of it.
pub fn forwards(interface: &str) -> bool {
    setting("ipv6", "all", "forwarding") != Some(0)
        || setting("ipv6", interface, "force_forwarding").is_some_and(|value| value != 0)
}

/// The gateway's addresses of one link, each with its interface (`if6_seq_show`,
/// net/ipv6/addrconf.c). The kernel's view leaves them out, as every interface has some.
pub fn own_addresses() -> Vec<(String, Ipv6Addr)> {
    let text = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    text.lines().filter_map(own_address).filter(|(_, own)| own.is_unicast_link_local()).collect()
}

fn own_address(line: &str) -> Option<(String, Ipv6Addr)> {
    let mut words = line.split_whitespace();
    let address = u128::from_str_radix(words.next()?, 16).ok()?;
    Some((words.last()?.to_owned(), address.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weir_view::{Link, Route};

    use super::*;

    fn site(ipv6: &str) -> Site {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n\
             ipv6 = {{ translate = \"none\"{ipv6} }}\n"
        );
        crate::parse("weir.toml", &text).unwrap()
    }

    #[test]
    fn inbound_without_a_kernel_that_forwards_is_told() {
        let inbound = site(", inbound = true");
        let told = unforwarded(&inbound, |interface| interface != "wan0");
        assert!(told.len() == 1 && told[0].contains("net.ipv6.conf.all.forwarding"), "{told:?}");
        assert_eq!(unforwarded(&inbound, |_| true), [""; 0]);
        assert_eq!(unforwarded(&site(""), |_| false), [""; 0]);
    }

    #[test]
    fn advertisements_without_a_kernel_that_forwards_are_told() {
        let text = "[[lan]]\ninterface = \"lan0\"\nra = {}\n[[uplink]]\nname = \"fiber\"\n\
                    interface = \"wan0\"\nipv6 = { translate = \"none\" }\n";
        let advertised = crate::parse("weir.toml", text).unwrap();
        let told = unforwarded(&advertised, |interface| interface != "lan0");
        assert!(told.len() == 1 && told[0].starts_with("lan lan0: the kernel"), "{told:?}");
        assert_eq!(unforwarded(&advertised, |_| true), [""; 0]);
    }

    #[test]
    fn a_lan_whose_hosts_may_advertise_to_the_gateway_is_told() {
        let kernel = |name: &str| weir_view::Kernel {
            links: vec![weir_view::Link { index: 1, name: name.into(), ..Default::default() }],
            ..Default::default()
        };
        let told = advertised_lans(&site(""), &kernel("lan0"), |of| of == "lan0");
        assert!(told.len() == 1 && told[0].contains("conf.lan0.accept_ra to 0"), "{told:?}");
        assert_eq!(advertised_lans(&site(""), &kernel("lan0"), |_| false), [""; 0]);
        assert_eq!(advertised_lans(&site(""), &kernel("lan1"), |_| true), [""; 0], "not there");
    }

    #[test]
    fn a_lan_whose_hosts_get_no_addresses_is_told() {
        let told = |ra: &str, address: &str| {
            let text = format!(
                "[[lan]]\ninterface = \"lan0\"\nra = {ra}\n[[uplink]]\nname = \"fiber\"\n\
                 interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
            );
            let link = weir_view::Link { index: 1, name: "lan0".into(), ..Default::default() };
            let kernel = Kernel {
                links: vec![link],
                addresses: vec![(1, address.parse().unwrap())],
                ..Kernel::default()
            };
            without_addresses(&crate::parse("weir.toml", &text).unwrap(), &kernel)
        };
        assert_eq!(told("{}", "2001:2:0:10::1/60"), [""; 0]);
        let narrow = told("{}", "2001:2:0:10::1/80");
        assert!(narrow.len() == 1 && narrow[0].contains("of 2001:2:0:10::/80"), "{narrow:?}");
        assert!(narrow[0].ends_with("give lan0 an address of a /64"), "it has none: {narrow:?}");
        let bare = told("{ autonomous = false }", "2001:2:0:10::1/64");
        assert!(bare.len() == 1 && bare[0].contains("without managed"), "{bare:?}");
        let leased = "{ managed = true, autonomous = false }";
        assert_eq!(told(leased, "2001:2:0:10::1/64"), [""; 0]);
    }

    #[test]
    fn a_prefix_that_hosts_are_told_and_the_gateway_has_no_address_of_is_told() {
        let told = |lan: &str, address: &str, route: &str| {
            let text = format!(
                "[[lan]]\ninterface = \"lan0\"\n{lan}\n[[uplink]]\nname = \"fiber\"\n\
                 interface = \"wan0\"\nipv6 = {{ translate = \"none\" }}\n"
            );
            let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
            let by = |to: &str| Route::by(1, to.parse::<Ipv6Net>().unwrap());
            let kernel = Kernel {
                links: vec![link(1, "lan0"), link(2, "wan0")],
                addresses: vec![
                    (1, address.parse().unwrap()),
                    (2, "2001:2:0:1::2/64".parse().unwrap()),
                ],
                routes6: Arc::new(vec![by("::/0"), by(route)].into()),
                ..Kernel::default()
            };
            unconnected(&crate::parse("weir.toml", &text).unwrap(), &kernel)
        };
        let of_file = "prefixes = [\"2001:2:0:1::/64\"]\nra = {}";
        let chosen = "ra = { prefixes = [\"2001:2:0:1::/64\"] }";
        let (none, elsewhere) = ("10.0.0.1/24", "2001:2:0:2::/64");
        for lan in [of_file, chosen] {
            let words =
                "hosts are told 2001:2:0:1::/64, and the gateway has no address of it on lan0";
            let found = told(lan, none, elsewhere);
            assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
            assert!(found[0].contains("`ip addr add 2001:2:0:1::1/64 dev lan0`"), "{found:?}");
            assert_eq!(
                told(lan, "2001:2:0:1::1/128", elsewhere).len(),
                1,
                "no host is a neighbour"
            );
            assert_eq!(told(lan, "2001:2:0:1::1/64", elsewhere), [""; 0]);
            assert_eq!(told(lan, none, "2001:2::/60"), [""; 0], "entered by hand");
        }
        assert_eq!(told("ra = {}", none, elsewhere), [""; 0], "nothing is told");
    }

    #[test]
    fn a_next_hop_that_is_the_interfaces_own_is_told() {
        let line = "fe800000000000000000000000000001 02 40 20 80     wan0";
        let own = own_address(line).unwrap();
        assert_eq!(own, ("wan0".to_owned(), "fe80::1".parse().unwrap()));
        let to = |next_hop: &str| site(&format!(", next_hop = \"{next_hop}\""));
        let told = own_next_hops(&to("fe80::1"), std::slice::from_ref(&own));
        assert!(told.len() == 1 && told[0].contains("fe80::1 is the gateway itself"), "{told:?}");
        assert_eq!(own_next_hops(&to("fe80::2"), std::slice::from_ref(&own)), [""; 0]);
        // Every link may have it.
        let other = ("lan0".to_owned(), own.1);
        assert_eq!(own_next_hops(&to("fe80::1"), &[other]), [""; 0]);
    }
}
