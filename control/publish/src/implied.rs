//! What is probed of an uplink for which nothing is configured: its next hop.

use weir_layout::Family;
use weir_site::Site;
use weir_site::health::{Probe, Target};
use weir_view::Kernel;

/// The target's name, by [`Family`].
const NAMES: [&str; Family::COUNT] = ["next hop", "IPv6 next hop"];

/// Gives every path its next hop as a target, as far as it is known, for want of others; says whether
/// one has another than before.
///
/// Its silence is a reason to check its hardware address, not more: many routers answer no pings, or
/// stop when they are busy. One that answers neither is gone.
pub fn imply(site: &mut Site, kernel: &Kernel) -> bool {
    let mut changed = false;
    for uplink in &mut site.uplinks {
        let link = kernel.link(&uplink.interface);
        let implied = Family::ALL.map(|family| {
            let link = link.filter(|_| uplink.has_path(family))?;
            let address = uplink.next_hop_by(family, link.index, kernel)?;
            let name = NAMES[family.index()].into();
            Some(Target { name, kind: Probe::Icmp { address } })
        });
        changed |= implied != uplink.implied;
        uplink.implied = implied;
    }
    changed
}
