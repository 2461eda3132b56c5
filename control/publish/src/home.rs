//! When flows that are away come home: off the uplinks of a worse tier than the active one.

use weir_layout::Family;
use weir_layout::control::{ComeHome, ControlHalf};
use weir_site::{Failback, Site};

/// What a policy's flows of a family that are away are to do, as time goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Homing {
    /// The active tier and since when, milliseconds; none: not looked at yet.
    active: Option<(u8, u64)>,
    /// The operator wants them home.
    asked: bool,
}

impl Homing {
    /// What an earlier control process had come to for each policy, if it worked by the same file.
    pub fn of_all(family: Family, site: &Site, published: &ControlHalf, now: u64) -> Vec<Self> {
        if published.config_hash != site.hash {
            return vec![Self::default(); site.policies.len()];
        }
        let policies = published.policies.iter().take(site.policies.len());
        policies
            .map(|policy| {
                let published = policy.steering(family);
                let come_home = ComeHome::from_byte(published.come_home);
                Self::adopt(published.active_tier, come_home, now)
            })
            .collect()
    }

    /// What an earlier control process had come to by `now`: when all were to come home already
    /// (by the operator or by a deadline), they still are.
    pub fn adopt(active_tier: u8, come_home: ComeHome, now: u64) -> Self {
        Self { active: Some((active_tier, now)), asked: come_home == ComeHome::All }
    }

    /// The operator wants all flows home that are away now.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// What is to be done at `now`. `active_tier` is 0 while no uplink is usable; `away` is how many
    /// flows are on uplinks of worse tiers, if that is known to be more than their own.
    ///
    /// A deadline counts from the last change of the active tier. That is also the end of what the
    /// operator asked: when a tier has failed since, flows are away anew.
    pub fn come_home(
        &mut self,
        failback: Failback,
        active_tier: u8,
        away: u64,
        now: u64,
    ) -> ComeHome {
        let since = match self.active {
            Some((tier, since)) if tier == active_tier => since,
            _ => {
                self.asked &= self.active.is_none();
                now
            }
        };
        self.active = Some((active_tier, since));
        self.asked &= away > 0;
        match failback {
            _ if active_tier == 0 => ComeHome::Stay,
            _ if self.asked => ComeHome::All,
            Failback::NewFlows => ComeHome::Stay,
            Failback::Idle => ComeHome::Idle,
            Failback::Deadline(seconds) if now - since >= u64::from(seconds) * 1000 => {
                ComeHome::All
            }
            Failback::Deadline(_) => ComeHome::Idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ComeHome::{All, Idle, Stay};

    /// What comes of a sequence of (time in seconds, active tier), with flows away.
    fn run(homing: &mut Homing, failback: Failback, steps: &[(u64, u8)]) -> Vec<ComeHome> {
        let step =
            |(seconds, tier): &(u64, u8)| homing.come_home(failback, *tier, 9, seconds * 1000);
        steps.iter().map(step).collect()
    }

    #[test]
    fn flows_stay_unless_the_policy_says_otherwise() {
        let steps = [(0, 1), (10, 2), (20, 1), (9_000, 1)];
        assert_eq!(run(&mut Homing::default(), Failback::NewFlows, &steps), [Stay; 4]);
        assert_eq!(run(&mut Homing::default(), Failback::Idle, &steps), [Idle; 4]);
    }

    #[test]
    fn a_deadline_counts_from_the_return_of_the_better_tier() {
        let steps = [(0, 1), (599, 1), (600, 1), (610, 2), (620, 1), (1_219, 1), (1_220, 1)];
        let seen = run(&mut Homing::default(), Failback::Deadline(600), &steps);
        assert_eq!(seen, [Idle, Idle, All, Idle, Idle, Idle, All]);
    }

    #[test]
    fn nothing_comes_home_while_no_uplink_is_usable() {
        let mut homing = Homing::default();
        homing.ask();
        assert_eq!(run(&mut homing, Failback::Idle, &[(0, 0)]), [Stay]);
    }

    #[test]
    fn the_operator_has_all_come_home_until_a_tier_fails() {
        let mut homing = Homing::default();
        assert_eq!(run(&mut homing, Failback::NewFlows, &[(0, 1)]), [Stay]);
        homing.ask();
        let seen = run(&mut homing, Failback::NewFlows, &[(1, 1), (500, 1), (501, 2), (502, 1)]);
        assert_eq!(seen, [All, All, Stay, Stay]);
    }

    #[test]
    fn what_the_operator_asked_ends_when_no_flow_is_away() {
        let mut homing = Homing::default();
        homing.ask();
        assert_eq!(homing.come_home(Failback::NewFlows, 1, 1, 0), All);
        assert_eq!(homing.come_home(Failback::NewFlows, 1, 0, 1), Stay);
        assert_eq!(homing.come_home(Failback::NewFlows, 1, 1, 2), Stay);
    }

    #[test]
    fn the_next_process_goes_on_with_what_was_to_come_home() {
        let go_on = |before| Homing::adopt(1, before, 0).come_home(Failback::NewFlows, 1, 5, 1);
        assert_eq!([go_on(All), go_on(Idle)], [All, Stay]);
    }

    #[test]
    fn a_process_with_another_file_has_nothing_come_home_for_the_one_before() {
        let text =
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";
        let site = weir_site::parse("weir.toml", text).unwrap();
        let mut half = weir_shm::control::empty_half();
        let steering = half.policies[0].steering_mut(Family::V4);
        (steering.active_tier, steering.come_home) = (1, All as u8);
        let mut go_on = |hash| {
            half.config_hash = hash;
            Homing::of_all(Family::V4, &site, &half, 0)[0].come_home(Failback::NewFlows, 1, 5, 1)
        };
        assert_eq!([go_on(site.hash), go_on(!site.hash)], [All, Stay]);
    }
}
