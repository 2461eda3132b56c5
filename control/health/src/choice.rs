//! Which uplinks take flows, with the last resort.

use serde::{Deserialize, Serialize};

/// How good a choice an uplink is, best first. The order is that of the last resort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Well.
    Up,
    /// Usable, but worse.
    Degraded,
    /// Usable, but the operator wants it empty.
    Draining,
    /// Well, but held down.
    Recovering,
    /// Nothing is wrong that is known; not enough has answered yet.
    Unproven,
    /// Its targets are silent: perhaps they are at fault and not the link.
    Silent,
    /// Its next hop is silent.
    NoNextHop,
    /// It has no usable address.
    NoAddress,
    /// Its link is cut, or its interface cannot be used: nothing can leave.
    NoCarrier,
    /// The operator took it out of use.
    Admin,
}

impl Standing {
    /// Are flows forwarded?
    pub fn usable(self) -> bool {
        self < Self::Recovering
    }
}

/// What a set of uplinks is to do; bit *u* is uplink *u*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// These take new flows.
    pub take: u64,
    /// Flows on these stay: those of `take`, the degraded and the draining.
    pub keep: u64,
    /// None is usable: `take` is the least bad.
    pub last_resort: bool,
}

/// Chooses among the uplinks of a policy (index below 64, standing).
///
/// Those that are Up take new flows; without any, the Degraded do; without those either, the
/// Draining, because a flow is better off there than nowhere. Without any of them, the last resort: all that are of the best standing there is take flows, so that a fault of what is
/// probed takes no site off the net. A link without carrier and one that the operator took out of
/// use never do.
pub fn choose(uplinks: impl IntoIterator<Item = (u8, Standing)>) -> Choice {
    let mut by_standing = [0u64; Standing::Admin as usize + 1];
    for (uplink, standing) in uplinks {
        by_standing[standing as usize] |= 1 << (uplink & 63);
    }
    let possible = &by_standing[..Standing::NoCarrier as usize];
    let Some(best) = possible.iter().position(|set| *set != 0) else { return Choice::default() };
    let take = possible[best];
    let keep = take | possible[Standing::Degraded as usize] | possible[Standing::Draining as usize];
    Choice { take, keep, last_resort: best > Standing::Draining as usize }
}
