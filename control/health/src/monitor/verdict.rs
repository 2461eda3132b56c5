//! What follows from the health of all paths of a family.

use weir_layout::control::path_state;
use weir_site::{MemberConfig, PolicyConfig, Site};

use super::Monitor;
use crate::choice::Standing;
use crate::path::Path;
use crate::roles::Roles;
use crate::signal::State;

/// What follows from the health of all paths of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The state word of each uplink's path.
    pub states: Vec<u32>,
    /// By policy, the uplinks that may take new flows, a bit for each; empty where no uplink has a
    /// path.
    pub takers: Vec<u64>,
}

impl Monitor {
    /// What follows, given the bits last observed: see [`Roles`]. `weighty` gives the members of a
    /// policy that have a weight, a bit for each: one without takes no flows, so that it spares no
    /// worse one from taking them. `before` has the state words that were, by uplink.
    pub fn verdict(&self, site: &Site, weighty: impl Fn(usize) -> u64, before: &[u32]) -> Verdict {
        let standings: Vec<_> = (0..self.paths.len()).map(|index| self.standing(index)).collect();
        let unproven = self.in_use_unproven(before);
        let policies = if self.has_paths() { &site.policies[..] } else { &[] };
        let members = |(index, policy): (usize, &PolicyConfig)| {
            let all =
                policy.members.iter().fold(0, |set, member| set | 1u64 << (member.uplink & 63));
            all & weighty(index)
        };
        let also = |policy: usize, take| unproven | self.undecided(&policies[policy].members, take);
        let roles = Roles::of(&standings, policies.iter().enumerate().map(members), also);
        let states = self.paths.iter().enumerate().map(|(index, path)| {
            let problems = path.problems.map(|problems| problems & !path_state::DRAINING);
            let health = match path.machine.as_ref().map_or(State::Down, Path::state) {
                State::Up => 0,
                State::Degraded => path_state::DEGRADED,
                State::Recovering { .. } => path_state::HELD_DOWN,
                // What the kernel or the operator says is said already.
                State::Down if problems != Some(0) => 0,
                State::Down => path_state::UNHEALTHY,
                State::Draining => path_state::DRAINING,
            };
            let is_out = path.machine.is_some() && path.is_out();
            let joint = if is_out { path_state::JOINT } else { 0 };
            problems.unwrap_or(0) | health | joint | roles.bits(index)
        });
        Verdict { states: states.collect(), takers: roles.takers }
    }

    /// The paths in use that have not answered yet, as at a start, when all are the last resort:
    /// the first to answer takes new flows, and theirs stay until they have answered or failed to.
    fn in_use_unproven(&self, before: &[u32]) -> u64 {
        let in_use = (0..).zip(before).filter(|(_, word)| **word & path_state::USABLE != 0);
        in_use
            .filter(|(index, _)| self.standing(*index) == Some(Standing::Unproven))
            .fold(0, |set, (index, _)| set | 1 << index)
    }

    /// The silent members that nothing better is known for. What silences all uplinks silences one
    /// after another: until one that takes flows has answered since, silence is no reason to cut.
    fn undecided(&self, members: &[MemberConfig], take: u64) -> u64 {
        let members = || members.iter().map(|member| usize::from(member.uplink));
        let quiet = |index: usize| self.path(index).is_none_or(Path::is_quiet);
        if members().any(|index| take >> index & 1 == 1 && !quiet(index)) {
            return 0;
        }
        members().filter(|index| self.is_silent(*index)).fold(0, |set, index| set | 1 << index)
    }
}
