//! Which of the gateway's addresses the ICMP errors by each port are sent from.
//!
//! As a rule one of the port's interface (RFC 1812 §4.3.2.4). An interface may have no address of IPv6
//! but that of its link, which means nothing further on (RFC 4291 §2.5.6); then it is another of the
//! gateway's (RFC 4443 §2.2), or no host would be told of a smaller MTU.

use std::net::IpAddr;

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf};
use weir_site::{Site, UplinkConfig};
use weir_view::{Kernel, is_beyond_site};

/// Enters the address of each port, of LANs and of uplinks, in the families of the site.
pub fn enter(
    half: &mut ControlHalf,
    site: &Site,
    kernel: &Kernel,
    lan_ports: &[Option<u8>],
    uplink_ports: &[Option<u8>],
) {
    let lans = site.lans.iter().map(|lan| (&lan.interface, None)).zip(lan_ports);
    let uplinks = site.uplinks.iter().map(|it| (&it.interface, Some(it))).zip(uplink_ports);
    for ((interface, uplink), port) in lans.chain(uplinks) {
        let (Some(port), Some(link)) = (port, kernel.link(interface)) else { continue };
        for family in site.families() {
            let address = of_port(site, family, uplink, link.index, kernel);
            half.addresses[usize::from(*port)][family.index()] =
                address.map_or(Address::UNSPECIFIED, Address::from);
        }
    }
}

/// That of a port in a family: of a LAN's, or of this uplink's.
fn of_port(
    site: &Site,
    family: Family,
    uplink: Option<&UplinkConfig>,
    interface: u32,
    kernel: &Kernel,
) -> Option<IpAddr> {
    let own = kernel.addresses_of(family, interface).into_iter();
    let mut own = own.filter(|own| kernel.takes_source(interface, *own));
    match (family, uplink) {
        (Family::V4, _) => own.next(),
        (Family::V6, Some(uplink)) => {
            site.path_sources(uplink, family, interface, kernel).into_iter().next()
        }
        (Family::V6, None) => {
            let is_local = |own: &IpAddr| matches!(own, IpAddr::V6(own) if !is_beyond_site(*own));
            let lans = site.lan_prefixes(kernel);
            let of_lan = |own: &IpAddr| lans.iter().any(|net| net.contains(own));
            let inner = || site.inner_addresses(kernel).into_iter().map(IpAddr::V6);
            own.min_by_key(is_local).or_else(|| inner().find(of_lan))
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_layout::NONE;
    use weir_layout::control::PortRole;
    use weir_view::Link;

    use super::*;
    use crate::fixture::site;
    use crate::{Overrides, derive};

    /// The addresses that errors by `lan0`, `wan0` and `wan1` are sent from, where these have these.
    fn sources(addresses: &[(u32, &str)]) -> [String; 3] {
        let mut site = site(&["a", "b"]);
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
        let link =
            |(index, name): (u32, &str)| Link { index, name: name.into(), ..Link::default() };
        let kernel = Kernel {
            links: (1..).zip(["lan0", "wan0", "wan1"]).map(link).collect(),
            addresses: addresses.iter().map(|(at, net)| (*at, net.parse().unwrap())).collect(),
            ..Kernel::default()
        };
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        [(PortRole::Lan, NONE), (PortRole::Uplink, 0), (PortRole::Uplink, 1)].map(|of| {
            let is = |port: &&weir_layout::control::Port| {
                (port.role(), port.uplink) == (Some(of.0), of.1)
            };
            let port = half.ports.iter().position(|port| is(&port)).unwrap();
            std::net::Ipv6Addr::from(half.own_address(port as u8, Family::V6).0).to_string()
        })
    }

    #[test]
    fn errors_come_from_a_global_address_of_the_interface_before_a_unique_local_one() {
        let found = sources(&[
            (1, "fd00::1/64"),
            (1, "2001:2:0:100::1/64"),
            (2, "fd00:1::2/64"),
            (2, "2001:2:0:a0::2/64"),
        ]);
        assert_eq!(found[..2], ["2001:2:0:100::1", "2001:2:0:a0::2"]);
        let found = sources(&[(1, "fd00::1/64"), (2, "2001:2:0:a0::2/64")]);
        assert_eq!(found[0], "fd00::1", "hosts of the site have a way to it");
    }

    #[test]
    fn a_port_with_addresses_of_the_link_alone_sends_errors_from_another_of_the_gateways() {
        let found = sources(&[(1, "2001:2:0:100::1/64"), (3, "2001:2:0:a1::2/64")]);
        assert_eq!(found[1], "2001:2:0:100::1", "not from another uplink's");
        let found = sources(&[(3, "2001:2:0:a1::2/64")]);
        assert_eq!(found[..2], ["::", "::"]);
    }
}
