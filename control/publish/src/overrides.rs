//! What is set at run time and not in the file.

use std::collections::BTreeMap;

use weir_layout::control::{Member, PathId, path_state};
use weir_shm::control::{ControlRegion, Snapshot};
use weir_site::Site;

/// What was set at run time and not in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Weight by uplink.
    pub weights: BTreeMap<u8, u16>,
    /// Weight by policy and uplink.
    pub member_weights: BTreeMap<(u8, u8), u16>,
    /// Uplinks that the operator does not want to use as they are.
    pub hands: BTreeMap<u8, Hand>,
}

/// What the operator set an uplink to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Down.
    Down,
    /// To be emptied until then, CLOCK_BOOTTIME seconds or `Uplink::NO_DEADLINE`.
    Draining(u64),
    /// To be emptied until then, and that is past.
    Drained(u64),
}

impl Hand {
    /// Bits of the uplink's state word; a drained uplink has both.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Down => path_state::ADMIN_DOWN,
            Self::Draining(_) => path_state::DRAINING,
            Self::Drained(_) => path_state::ADMIN_DOWN | path_state::DRAINING,
        }
    }
}

impl Overrides {
    /// What an earlier control process had set, for what the site still has of it.
    pub fn adopt(site: &Site, region: &ControlRegion, snapshot: &Snapshot) -> Self {
        let mut overrides = Self::default();
        let half = &snapshot.half;
        for (uplink, published) in half.uplinks.iter().enumerate() {
            let uplink = uplink as u8;
            if published.weight_overridden == 1 {
                overrides.weights.insert(uplink, published.weight);
            }
            let down = region.path_state(PathId::v4(uplink)) & path_state::ADMIN_DOWN != 0;
            match published.drain_until {
                0 if down => _ = overrides.hands.insert(uplink, Hand::Down),
                0 => {}
                until => _ = overrides.hands.insert(uplink, Hand::Draining(until)),
            }
        }
        for (policy, published) in half.policies.iter().enumerate() {
            for member in published.members() {
                if member.weight & Member::OVERRIDDEN != 0 {
                    let weight = member.weight & Member::MAX_WEIGHT;
                    overrides.member_weights.insert((policy as u8, member.uplink), weight);
                }
            }
        }
        let uplinks: Vec<_> = half.uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
        let policies: Vec<_> = half.policies.iter().map(|policy| policy.name.as_str()).collect();
        overrides.carry(&uplinks, &policies, site)
    }

    /// What stays of it with another file. Names decide: `uplinks` and `policies` are those that its
    /// indices stand for, and what the site has under none of them is forgotten.
    pub fn carry(&self, uplinks: &[&str], policies: &[&str], site: &Site) -> Self {
        let uplink = |old: &u8| {
            let name = uplinks.get(usize::from(*old))?;
            Some(site.uplinks.iter().position(|uplink| uplink.name == *name)? as u8)
        };
        let member = |policy: &u8, old: &u8| {
            let name = policies.get(usize::from(*policy))?;
            let at = site.policies.iter().position(|policy| policy.name == *name)?;
            let uplink = uplink(old)?;
            let is_in = site.policies[at].members.iter().any(|member| member.uplink == uplink);
            is_in.then_some((at as u8, uplink))
        };
        let weights = self.weights.iter().filter_map(|(u, weight)| Some((uplink(u)?, *weight)));
        let hands = self.hands.iter().filter_map(|(u, hand)| Some((uplink(u)?, *hand)));
        let members = self.member_weights.iter();
        let members = members.filter_map(|((p, u), weight)| Some((member(p, u)?, *weight)));
        Self {
            weights: weights.collect(),
            member_weights: members.collect(),
            hands: hands.collect(),
        }
    }

    /// Lets time pass: what was to be empty by `now`, CLOCK_BOOTTIME seconds, is drained.
    pub fn expire(&mut self, now: u64) {
        for hand in self.hands.values_mut() {
            if let Hand::Draining(until) = *hand
                && until <= now
            {
                *hand = Hand::Drained(until);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_health::load::Placement;
    use weir_layout::Family;
    use weir_layout::control::Uplink;
    use weir_view::Kernel;

    use super::*;
    use crate::fixture::site;
    use crate::{Tables, derive};

    #[test]
    fn what_is_set_by_hand_is_found_again_by_the_next_process() {
        let site = site(&["a", "b", "c", "d"]);
        let region = ControlRegion::anonymous().unwrap();
        let next_hops = weir_shm::adjacencies::NextHops::anonymous().unwrap();
        let mut writer = weir_shm::control::ControlWriter::new(region.clone(), next_hops);
        let mut overrides = Overrides::default();
        let forever = Uplink::NO_DEADLINE;
        overrides.hands.insert(1, Hand::Down);
        overrides.hands.insert(2, Hand::Draining(1000));
        overrides.hands.insert(3, Hand::Draining(forever));
        overrides.weights.insert(0, 7);
        overrides.expire(999);
        assert_eq!(overrides.hands[&2], Hand::Draining(1000));
        let mut published = derive(&site, &Kernel::default(), &overrides, [&[]; 2], None);
        for (index, problems) in published.problems[0].iter().enumerate() {
            writer.set_path_state(PathId::v4(index as u8), problems & !path_state::DRAINING);
        }
        let mut tables = Tables::new(Family::V4);
        tables.update(&mut published.half, &[0b0001], None, Placement::plain);
        writer.publish(&mut published.half, [&tables.live(), &[]]);
        let mut found = Overrides::adopt(&site, &region, &region.snapshot().unwrap());
        assert_eq!(found, overrides);
        found.expire(1000);
        assert_eq!(found.hands[&2], Hand::Drained(1000));
        assert_eq!(found.hands[&3], Hand::Draining(forever));
    }

    #[test]
    fn what_is_set_by_hand_goes_by_names_when_the_file_changes() {
        let mut overrides = Overrides::default();
        overrides.weights.insert(1, 7);
        overrides.hands.extend([(0, Hand::Down), (1, Hand::Draining(9))]);
        overrides.member_weights.extend([((0, 1), 3), ((1, 0), 4), ((1, 1), 5)]);
        let file = "[[lan]]\ninterface = \"lan0\"\n\
            [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n\
            [[policy]]\nname = \"voice\"\n\
            [[policy]]\nname = \"all\"\n";
        let site = weir_site::parse("weir.toml", file).unwrap();
        let carried = overrides.carry(&["fiber", "lte"], &["all", "gone"], &site);
        assert_eq!(carried.weights, [(0, 7)].into());
        assert_eq!(carried.hands, [(0, Hand::Draining(9))].into());
        assert_eq!(carried.member_weights, [((1, 0), 3)].into());
    }
}
