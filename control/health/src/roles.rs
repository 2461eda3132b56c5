//! What the paths of a family are for, by how they stand and which policies have them.

use weir_layout::control::path_state;

use crate::choice::{Standing, choose};

/// What each is for: sets have a bit for each uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    in_use: u64,
    last_resort: u64,
    /// Some policies keep their flows on these, and others do not.
    spared: u64,
    /// By policy, the uplinks that may take new flows.
    pub takers: Vec<u64>,
}

impl Roles {
    /// By the standing of each uplink's path, none where there is no path. A path is in use if its
    /// health says so, or if it is the last resort of every policy that its uplink is in; if of
    /// some only, it is spared for them. `policies` are their members that have a weight; `also`
    /// says which of a policy's members stay besides those of its choice, given whom that has take
    /// flows.
    pub fn of(
        standings: &[Option<Standing>],
        policies: impl IntoIterator<Item = u64>,
        also: impl Fn(usize, u64) -> u64,
    ) -> Self {
        let all = || (0u8..).zip(standings).filter_map(|(uplink, it)| Some((uplink, (*it)?)));
        let well = all().filter(|(_, standing)| standing.usable());
        let well = well.fold(0u64, |set, (uplink, _)| set | 1 << (uplink & 63));
        let (mut kept, mut left, mut last_resort, mut takers) = (0, 0, 0, Vec::new());
        for (policy, members) in policies.into_iter().enumerate() {
            let choice = choose(all().filter(|(uplink, _)| members >> (uplink & 63) & 1 == 1));
            takers.push(choice.take);
            let keep = choice.keep | also(policy, choice.take);
            (kept, left) = (kept | keep, left | (members & !keep));
            last_resort |= if choice.last_resort { choice.take } else { 0 };
        }
        let in_use = well | (kept & !left);
        Self { in_use, last_resort, spared: kept & !in_use, takers }
    }

    /// The bits of an uplink's state word that say it.
    pub const fn bits(&self, uplink: usize) -> u32 {
        const fn bit(set: u64, uplink: usize, state: u32) -> u32 {
            if set >> (uplink & 63) & 1 == 1 { state } else { 0 }
        }
        bit(self.in_use, uplink, path_state::USABLE)
            | bit(self.last_resort, uplink, path_state::LAST_RESORT)
            | bit(self.spared, uplink, path_state::SPARED)
    }
}
