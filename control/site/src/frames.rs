//! Frames that reach XDP and AF_XDP in another form than on the wire, or not at all.

use weir_layout::LARGEST_PACKET;
use weir_view::{Kernel, Link};

use super::Site;

/// What is to be known of the frames of this site's devices.
pub fn warnings(site: &Site, kernel: &Kernel) -> Vec<String> {
    let links = site.interfaces().filter_map(|name| kernel.link(name));
    links.flat_map(|link| [oversize(link), merged(link, kernel)]).flatten().collect()
}

fn oversize(link: &Link) -> Option<String> {
    let Link { name, mtu, .. } = link;
    (*mtu > LARGEST_PACKET).then(|| {
        format!(
            "interface {name} has MTU {mtu}: packets over {LARGEST_PACKET} bytes begin no \
             flow and take no user tier, and are counted as lost in `weir status`; \
             `ip link set {name} mtu {LARGEST_PACKET}` has them cut by who sends them"
        )
    })
}

/// XDP runs on such a device after its lower devices have merged segments; on others before.
fn merged(link: &Link, kernel: &Kernel) -> Option<String> {
    let Link { name, index, .. } = link;
    let kind = match link.macvlan {
        Some(_) => "macvlan device",
        None if link.bridge => "bridge",
        None => return None,
    };
    let is_lower =
        |lower: &&Link| lower.master == Some(*index) || link.macvlan == Some(lower.index);
    let lower = kernel.links.iter().filter(is_lower);
    let lines: Vec<_> = lower.map(|lower| format!("`ethtool -K {} gro off`", lower.name)).collect();
    Some(format!(
        "interface {name} is a {kind}: segments that were merged below it, or that a container or \
         virtual machine left to be cut, are too large for XDP and are lost: {}, and in each \
         container or virtual machine `ethtool -K eth0 tso off gso off`",
        if lines.is_empty() { "`ethtool -K PORT gro off`".into() } else { lines.join(", ") }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str =
        "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";

    fn told(links: Vec<Link>) -> Vec<String> {
        let site = crate::parse("weir.toml", SITE).unwrap();
        warnings(&site, &Kernel { links, ..Kernel::default() })
    }

    fn link(index: u32, name: &str) -> Link {
        Link { index, name: name.into(), mtu: 1500, ..Link::default() }
    }

    #[test]
    fn packets_that_are_too_large_for_the_user_tier_are_told_with_the_command_that_helps() {
        assert_eq!(told(vec![link(1, "lan0"), link(2, "wan0")]), [""; 0]);
        let jumbo = Link { mtu: 9000, ..link(2, "wan0") };
        let told = told(vec![Link { mtu: 3822, ..link(1, "lan0") }, jumbo]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("interface wan0 has MTU 9000"), "{told:?}");
        assert!(told[0].contains("`ip link set wan0 mtu 3822`"), "{told:?}");
    }

    #[test]
    fn a_lan_that_is_a_bridge_is_told_how_to_have_segments_cut() {
        let bridge = Link { bridge: true, ..link(1, "lan0") };
        let port = Link { master: Some(1), ..link(3, "eth1") };
        let told = told(vec![bridge, link(2, "wan0"), port]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("`ethtool -K eth1 gro off`"), "{told:?}");
    }

    #[test]
    fn a_port_that_is_a_macvlan_is_told_how_to_have_segments_cut() {
        let macvlan = Link { macvlan: Some(3), ..link(2, "wan0") };
        let told = told(vec![link(1, "lan0"), macvlan, link(3, "eth1")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("`ethtool -K eth1 gro off`"), "{told:?}");
    }
}
