//! Health of the uplinks: events and time in, transitions with their reasons out.
//!
//! No clock, socket or thread is in here: `now` is a parameter, in milliseconds of any clock that
//! never goes back. The same events give the same transitions, and memory is bounded by the
//! configuration.
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | what is probed, and when it counts as failed or well |
//! | [`window`] | loss, round-trip time and jitter of one target |
//! | [`target`] | one target: probes sent, answers, timeouts |
//! | [`passive`] | what the connections of users say |
//! | [`flaps`] | the hold-down and how it grows |
//! | [`signal`] | signals, states, reasons, transitions |
//! | [`uplink`] | one uplink: signals in, transitions out |
//! | [`url`] | URLs of HTTP probes |
//! | `text` | states and reasons, for people |
//! | [`choice`] | which uplinks take flows, with the last resort |
//! | [`history`] | the transitions of late |

pub mod choice;
pub mod config;
pub mod flaps;
pub mod history;
pub mod passive;
pub mod signal;
pub mod target;
mod text;
pub mod uplink;
pub mod url;
pub mod window;

pub use choice::{Choice, Standing, choose};
pub use config::{Fault, Health, Limits, Probe, Record, Target};
pub use history::{Entry, History, Part};
pub use passive::{Passive, PassiveCounts, Remotes};
pub use signal::{Reason, Signal, State, Transition, Wish};
pub use target::{ProbeError, Status, TlsFault};
pub use uplink::Uplink;
pub use url::Url;

#[cfg(test)]
mod tests;
