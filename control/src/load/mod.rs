//! Load of the uplinks: counters, round-trip times and time in, placement of new flows out.
//!
//! No clock, socket or thread is in here: `now` is a parameter, in milliseconds of any clock that
//! never goes back. Existing flows are nothing to it; whatever it decides is about new ones.
//!
//! | module | what it is |
//! |---|---|
//! | [`settings`] | capacities, thresholds and ways to balance, as the file has them |
//! | [`rate`] | bits per second from a counter |
//! | [`window`] | the least or greatest value of late |
//! | [`learn`] | the capacity of a link, from its load and its round-trip time |
//! | [`spill`] | whether an uplink is too full for new flows |
//! | [`place`] | which members of a policy take new flows, and how many of them |
//! | [`weigh`] | weights by room, members by latency, the place for heavy flows |
//! | [`engine`] | all uplinks and policies together |
//! | [`view`] | how the load is told |

pub mod engine;
pub mod learn;
pub mod place;
pub mod rate;
pub mod settings;
pub mod spill;
pub mod view;
pub mod weigh;
pub mod window;

pub use engine::{Load, Reading};
pub use learn::Rtt;
pub use place::Placement;
pub use rate::Counts;
pub use settings::{Balance, Capacity, Spill};
pub use spill::Change;
pub use view::{CapacityFrom, DirectionView, LoadView};

use serde::{Deserialize, Serialize};

/// Which way traffic goes. Arrays by direction are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the provider.
    Down = 0,
    /// To the provider.
    Up = 1,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Down, Self::Up];
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Up => "up",
        })
    }
}

#[cfg(test)]
mod tests;
