//! The bucket tables of the policies in a family.

use weir_health::buckets::Buckets;
use weir_health::load::Placement;
use weir_layout::control::{BucketTable, ControlHalf, HOME_BANK, Member, Selection};
use weir_layout::{Family, NONE};
use weir_shm::control::{ControlRegion, Snapshot};
use weir_site::Site;

/// The members of a published policy, with the weights that were configured or set.
fn members(policy: &weir_layout::control::Policy) -> Vec<Member> {
    let unmarked = |m: &Member| Member { weight: m.weight & Member::MAX_WEIGHT, ..*m };
    policy.members().iter().map(unmarked).collect()
}

/// The bucket tables of all policies in one family, with their memory.
pub struct Tables {
    family: Family,
    policies: Vec<Buckets>,
}

impl Tables {
    /// None yet.
    pub const fn new(family: Family) -> Self {
        Self { family, policies: Vec::new() }
    }

    /// What an earlier control process left, for a site of the same file.
    pub fn adopt(family: Family, site: &Site, region: &ControlRegion, snapshot: &Snapshot) -> Self {
        if snapshot.half.config_hash != site.hash {
            return Self::new(family);
        }
        let home = |policy: usize| match snapshot.half.policies[policy].steering(family).active_tier
        {
            0 => Buckets::default(),
            tier => Buckets::adopt(tier, region.bank(HOME_BANK, family, policy)),
        };
        Self { family, policies: (0..site.policies.len()).map(home).collect() }
    }

    /// Brings the tables up to date with the half's members. `takers` has for each policy the
    /// uplinks whose paths health lets take new flows, a bit for each, and is empty where no uplink
    /// has a path; `place` says what load makes of them, given the policy, its members and its
    /// takers. Where a policy selects by host, buckets belong where they do in the family of `first`.
    /// Says whether a live table changed.
    pub fn update(
        &mut self,
        half: &mut ControlHalf,
        takers: &[u64],
        first: Option<&Self>,
        mut place: impl FnMut(usize, &[Member], u64) -> Placement,
    ) -> bool {
        let mut changed = self.policies.len() != takers.len();
        self.policies.resize_with(takers.len(), Buckets::default);
        let policies = self.policies.iter_mut().zip(&mut half.policies);
        for (index, ((buckets, policy), takers)) in policies.zip(takers).enumerate() {
            let mut members = members(policy);
            let placement = place(index, &members, *takers);
            for (member, weight) in members.iter_mut().zip(placement.weights) {
                member.weight = weight;
            }
            if let Some(first) = first.and_then(|first| first.policies.get(index))
                && policy.selection() == Selection::Host
            {
                buckets.follow(first);
            }
            changed |= buckets.update(&members, placement.takers);
            let steering = policy.steering_mut(self.family);
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
        let mut tables = Tables::new(Family::V4);
        assert!(tables.update(&mut half, &[0b11], None, Placement::plain));
        let before = half.clone();
        assert!(tables.update(&mut half, &[0b01], None, Placement::plain));
        assert_eq!(half.as_bytes(), before.as_bytes());
        assert!(!tables.update(&mut half, &[0b01], None, Placement::plain));
    }

    #[test]
    fn a_policys_tables_differ_by_family() {
        let mut half = published(&["fiber", "lte"]);
        let (mut v4, mut v6) = (Tables::new(Family::V4), Tables::new(Family::V6));
        v4.update(&mut half, &[0b11], None, Placement::plain);
        v6.update(&mut half, &[0b10], None, Placement::plain);
        let has = |tables: &Tables, uplink| tables.live()[0].contains(&uplink);
        assert!(has(&v4, 0) && has(&v4, 1) && has(&v6, 1) && !has(&v6, 0));
        let tiers = |half: &ControlHalf| half.policies[0].steering.map(|of| of.active_tier);
        assert_eq!(tiers(&half), [1, 1]);
        assert!(v6.update(&mut half, &[0], None, Placement::plain), "no path is left");
        assert!(!v4.update(&mut half, &[0b11], None, Placement::plain), "the other family's stay");
        assert_eq!(tiers(&half), [1, 0]);
    }

    #[test]
    fn where_a_host_selects_both_families_have_one_table_whatever_was_before() {
        let mut half = published(&["fiber", "cable", "lte"]);
        half.policies[0].selection = Selection::Host as u8;
        let (mut v4, mut v6) = (Tables::new(Family::V4), Tables::new(Family::V6));
        let mut update = |weights: [u16; 3], six: u64| {
            for (member, weight) in half.policies[0].members.iter_mut().zip(weights) {
                member.weight = weight;
            }
            v4.update(&mut half, &[0b111], None, Placement::plain);
            v6.update(&mut half, &[six], Some(&v4), Placement::plain);
            let pairs = v4.live()[0].iter().zip(v6.live()[0]);
            pairs.filter(|(four, six)| four != six && **four != 2).count()
        };
        assert_eq!(update([5, 3, 2], 0b111), 0);
        // No uplink has IPv6 while weights change, and change again.
        update([1, 8, 2], 0);
        update([3, 3, 3], 0);
        assert_eq!(update([5, 3, 2], 0b111), 0);
        assert_eq!(update([5, 3, 2], 0b011), 0, "those of the others stay");
    }

    #[test]
    fn a_family_without_paths_has_no_tables() {
        let mut tables = Tables::new(Family::V6);
        assert!(!tables.update(&mut published(&["fiber"]), &[], None, Placement::plain));
        assert!(tables.live().is_empty());
    }
}
