//! LANs that a provider's prefix has no room for.
//!
//! Where it is longer than the prefix inside that is translated to it, it stands for the first part
//! of that alone: of the rest no address has another (RFC 6296 §3.7), and nothing leaves.

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_view::{Kernel, Net as _};

use super::machine::overlap;
use super::{PrefixPair, Site, UplinkConfig};

/// Says which these are, by each uplink.
pub fn warnings(site: &Site, kernel: &Kernel) -> Vec<String> {
    site.uplinks.iter().flat_map(|uplink| of_uplink(site, kernel, uplink)).collect()
}

/// The same by one uplink.
pub fn of_uplink(site: &Site, kernel: &Kernel, uplink: &UplinkConfig) -> Vec<String> {
    let name = &uplink.name;
    let mut said = Vec::new();
    for PrefixPair { inside, outside } in uplink.ipv6.iter().flat_map(|path| &path.prefixes) {
        let Some(inside) = inside.filter(|inside| inside.prefix_len() < outside.prefix_len())
        else {
            continue;
        };
        let Ok(room) = Ipv6Net::new(inside.network(), outside.prefix_len()) else { continue };
        for lan in &site.lans {
            let nets = lan.networks(Family::V6, kernel).into_iter().filter_map(Ipv6Net::of);
            let has_more = |net: &Ipv6Net| overlaps(net, &inside) && !room.contains(net);
            for net in nets.filter(has_more) {
                let part = if net.contains(&room) { " but for the first addresses" } else { "" };
                said.push(format!(
                    "uplink {name}: {outside} has no room for {net} of LAN {}{part}: of {inside} \
                     it stands for {room} alone, and nothing else leaves by it. Give the LAN a \
                     prefix of that, or ask the provider for a /{}",
                    lan.interface,
                    inside.prefix_len()
                ));
            }
        }
    }
    said
}

fn overlaps(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    overlap(&IpNet::V6(*a), &IpNet::V6(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lan: &str, inside: &str, outside: &str) -> Vec<String> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\nprefixes = [\"{lan}\"]\n[[uplink]]\nname = \"a\"\n\
             interface = \"wan0\"\nipv6 = {{ translate = \"npt66\", inside = \"{inside}\", \
             prefix = \"{outside}\" }}\n"
        );
        let site = crate::parse("weir.toml", &text).unwrap();
        crate::warnings_here(&site, &Kernel::default())
            .into_iter()
            .filter(|told| told.contains("no room"))
            .collect()
    }

    #[test]
    fn a_lan_whose_subnet_has_no_room_in_the_providers_prefix_is_told() {
        let found = told("fd00:1:0:1::/64", "fd00:1::/60", "2001:2:0:a000::/64");
        assert_eq!(found.len(), 1, "{found:?}");
        for part in [
            "uplink a: 2001:2:0:a000::/64 has no room for fd00:1:0:1::/64 of LAN lan0:",
            "of fd00:1::/60 it stands for fd00:1::/64 alone",
            "ask the provider for a /60",
        ] {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
        assert_eq!(told("fd00:1::/64", "fd00:1::/60", "2001:2:0:a000::/64"), [""; 0]);
        assert_eq!(told("fd00:1:0:1::/64", "fd00:1::/60", "2001:2:0:a000::/56"), [""; 0]);
        let in_part = told("fd00:1::/60", "fd00:1::/60", "2001:2:0:a000::/64");
        assert!(in_part[0].contains("lan0 but for the first addresses:"), "{in_part:?}");
    }
}
