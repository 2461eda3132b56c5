//! Load of the uplinks: counters, round-trip times and time in, placement of new flows out.
//!
//! No clock, socket or thread is in here: `now` is a parameter, in milliseconds of any clock that
//! never goes back. Existing flows are nothing to it; whatever it decides is about new ones.
//!
//! | module | what it is |
//! |---|---|
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
pub mod spill;
pub mod view;
pub mod weigh;
pub mod window;

pub use engine::{Load, Reading};
pub use learn::Rtt;
pub use place::Placement;
pub use rate::Counts;
pub use spill::Change;
pub use view::{CapacityFrom, DirectionView, LoadView};

#[cfg(test)]
mod tests;
