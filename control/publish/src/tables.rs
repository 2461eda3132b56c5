//! The bucket tables of the policies.

use weir_health::buckets::{Buckets, Member};
use weir_health::load::Placement;
use weir_layout::control::{ControlHalf, HOME_BANK, Member as MemberLayout};
use weir_layout::{Family, NONE};
use weir_shm::control::{BucketTable, ControlRegion, Snapshot};
use weir_site::Site;

/// The members of a published policy, with the weights that were configured or set.
fn members(policy: &weir_layout::control::Policy) -> Vec<Member> {
    let member = |m: &MemberLayout| Member {
        uplink: m.uplink,
        tier: m.tier,
        weight: m.weight & MemberLayout::MAX_WEIGHT,
    };
    policy.members().iter().map(member).collect()
}

/// The bucket tables of all policies, with their memory.
#[derive(Default)]
pub struct Tables {
    policies: Vec<Buckets>,
}

impl Tables {
    /// What an earlier control process left, for a site of the same file.
    pub fn adopt(site: &Site, region: &ControlRegion, snapshot: &Snapshot) -> Self {
        if snapshot.half.config_hash != site.hash {
            return Self::default();
        }
        let home =
            |policy: usize| match snapshot.half.policies[policy].steering(Family::V4).active_tier {
                0 => Buckets::default(),
                tier => Buckets::adopt(tier, region.bank(HOME_BANK, Family::V4, policy)),
            };
        Self { policies: (0..site.policies.len()).map(home).collect() }
    }

    /// Brings the tables up to date with the half's members. `takers` has for each policy the
    /// uplinks that health lets take new flows, a bit for each; `place` says what load makes of
    /// them, given the policy, its members and its takers. Says whether a live table changed.
    pub fn update(
        &mut self,
        half: &mut ControlHalf,
        takers: &[u64],
        mut place: impl FnMut(usize, &[Member], u64) -> Placement,
    ) -> bool {
        self.policies.resize_with(takers.len(), Buckets::default);
        let mut changed = false;
        let policies = self.policies.iter_mut().zip(&mut half.policies);
        for (index, ((buckets, policy), takers)) in policies.zip(takers).enumerate() {
            let mut members = members(policy);
            let placement = place(index, &members, *takers);
            for (member, weight) in members.iter_mut().zip(placement.weights) {
                member.weight = weight;
            }
            changed |= buckets.update(&members, placement.takers);
            let steering = policy.steering_mut(Family::V4);
            steering.active_tier = buckets.active_tier().unwrap_or(0);
            steering.heavy = placement.heavy.unwrap_or(NONE);
        }
        changed
    }

    /// Live table of each policy.
    pub fn live(&self) -> Vec<&BucketTable> {
        self.policies.iter().map(Buckets::live).collect()
    }

    /// Home table of each policy that has one.
    pub fn homes(&self) -> impl Iterator<Item = (usize, &BucketTable)> {
        self.policies.iter().enumerate().filter_map(|(index, b)| Some((index, b.home()?)))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::fixture::published;

    #[test]
    fn tables_that_change_while_the_half_does_not_are_noticed() {
        let mut half = published(&["fiber", "lte"]);
        let mut tables = Tables::default();
        assert!(tables.update(&mut half, &[0b11], Placement::plain));
        let before = half.clone();
        assert!(tables.update(&mut half, &[0b01], Placement::plain));
        assert_eq!(half.as_bytes(), before.as_bytes());
        assert!(!tables.update(&mut half, &[0b01], Placement::plain));
    }
}
