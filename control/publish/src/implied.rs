//! What is probed of an uplink for which nothing is configured: its next hop.

use weir_layout::Family;
use weir_site::Site;
use weir_site::health::{Probe, Target};
use weir_view::Kernel;

/// The target's name.
const NAME: &str = "next hop";

/// Gives every uplink without targets its next hop as one, as far as it is known; says whether one
/// has another than before.
///
/// Its silence is a reason to check its hardware address, not more: many routers answer no pings, or
/// stop when they are busy. One that answers neither is gone.
pub fn imply(site: &mut Site, kernel: &Kernel) -> bool {
    let mut changed = false;
    for uplink in &mut site.uplinks {
        if !uplink.health.implied && !uplink.health.targets.is_empty() {
            continue;
        }
        let link = kernel.link(&uplink.interface);
        let next_hop = link.and_then(|link| uplink.next_hop_by(Family::V4, link.index, kernel));
        let probe = next_hop.map(|next_hop| Probe::Icmp { address: next_hop });
        let targets: Vec<_> =
            probe.into_iter().map(|kind| Target { name: NAME.into(), kind }).collect();
        changed |= targets != uplink.health.targets;
        (uplink.health.targets, uplink.health.implied) = (targets, true);
    }
    changed
}
