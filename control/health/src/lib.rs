//! Health and load of the uplinks, and where new flows go: events and time in, transitions with
//! their reasons, placement and bucket tables out.
//!
//! No clock, socket or thread is in here: `now` is a parameter, in milliseconds of any clock that
//! never goes back. The same events give the same transitions, and memory is bounded by the
//! configuration. What is probed, and when it counts as failed or well, is in `weir_site::health`.
//!
//! | module | what it is |
//! |---|---|
//! | [`window`] | loss, round-trip time and jitter of one target |
//! | [`target`] | one target: probes sent, answers, timeouts |
//! | [`passive`] | what the connections of users say |
//! | [`flaps`] | the hold-down and how it grows |
//! | [`signal`] | signals, states, reasons, transitions |
//! | [`mod@path`] | one path, an uplink in one address family: signals in, transitions out |
//! | `text` | states and reasons, for people |
//! | [`choice`] | which uplinks take flows, with the last resort |
//! | [`roles`] | what paths are for, by all policies together |
//! | [`monitor`] | all paths of a family together, and what follows |
//! | [`history`] | what happened of late |
//! | [`availability`] | for how much of the time paths were usable |
//! | [`pace`] | when probes leave |
//! | [`load`] | load, capacity, and which uplinks take new flows |
//! | [`buckets`] | which uplink takes which bucket of a policy |
#![forbid(unsafe_code)]

pub mod availability;
pub mod buckets;
pub mod choice;
pub mod flaps;
pub mod history;
pub mod load;
pub mod monitor;
pub mod pace;
pub mod passive;
pub mod path;
pub mod roles;
pub mod signal;
pub mod target;
mod text;
pub mod window;

pub use choice::{Choice, Standing, choose};
pub use history::{Author, Command, Entry, Event, History, Part, TierChange};
pub use monitor::{Monitor, Verdict};
pub use passive::{PassiveCounts, Remotes};
pub use path::Path;
pub use roles::Roles;
pub use signal::{Reason, Signal, State, Transition, Wish};
pub use target::{ProbeError, Status, TlsFault};

#[cfg(test)]
mod tests;
