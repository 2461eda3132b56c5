//! Which policies' new flows another tier takes.

use weir_health::TierChange;
use weir_layout::control::{BucketTable, ControlHalf};
use weir_layout::{Family, NONE};
use weir_site::Site;

use super::paths::Paths;

/// What is other in `new` than in `old`, by the tiers that are published there. A policy that is in
/// one of them alone has not changed, nor has a family without paths.
pub(super) fn changes(
    site: &Site,
    paths: &[Paths; Family::COUNT],
    old: &ControlHalf,
    new: &ControlHalf,
) -> Vec<TierChange> {
    let mut changes = Vec::new();
    for (family, paths) in Family::ALL.into_iter().zip(paths) {
        let tables = paths.tables.live();
        for ((policy, table), published) in site.policies.iter().zip(tables).zip(&new.policies) {
            let before = old.policies.iter().find(|policy| policy.name == published.name);
            let tier = |tier: u8| (tier != 0).then_some(tier);
            let Some(from) = before.map(|before| tier(before.steering(family).active_tier)) else {
                continue;
            };
            let to = tier(published.steering(family).active_tier);
            if from != to {
                let (policy, uplinks) = (policy.name.clone(), takers(site, table));
                changes.push(TierChange { policy, family, from, to, uplinks });
            }
        }
    }
    changes
}

/// The uplinks that have buckets, by name.
fn takers(site: &Site, table: &BucketTable) -> Vec<String> {
    let owners = table.iter().filter(|owner| **owner != NONE);
    let takers = owners.fold(0u64, |set, owner| set | 1 << (owner & 63));
    let has = |(index, _): &(usize, _)| takers >> index & 1 == 1;
    site.uplinks.iter().enumerate().filter(has).map(|(_, uplink)| uplink.name.clone()).collect()
}
