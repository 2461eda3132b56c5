//! The control process.
//!
//! | module | what it is |
//! |---|---|
//! | [`probe`] | the probers, each bound to its uplink |
//! | [`advertise`] | router advertisements, sent |
//! | [`port_mapping`] | ports that hosts of LANs ask for |
//! | [`hooks`] | the operator's programs, run when a state or a tier changes |
//! | `nat_log` | the log of NAT allocations |
//! | `ipfix` | flows, told to a collector |
//! | `history` | what `weir history` tells, on disk |
//! | `metrics` | metrics by HTTP |
//! | [`users`] | what users' connections say of the uplinks |
//! | [`dataplane`] | what the dataplane says of the devices |
//! | [`mod@file`] | the configuration file, and the last good one |
//! | [`delegated`] | the prefixes that providers delegate, on disk |
//! | `availability` | for how much of the time uplinks were usable, on disk |
//! | [`state`] | what is kept on disk |
//! | [`by_hand`] | what was set by hand, for people |
//! | [`daemon`] | the control process |
//! | [`serve`] | the socket by which it is asked |
//! | `command_lines` | command lines of those who ask |
//! | `clocks` | times of shared memory as times of day |
//! | `sleep` | waiting |
#![forbid(unsafe_code)]

pub mod advertise;
mod availability;
pub mod by_hand;
mod clocks;
mod command_lines;
pub mod daemon;
pub mod dataplane;
pub mod delegated;
pub mod file;
mod history;
pub mod hooks;
mod ipfix;
mod limits;
mod metrics;
mod nat_log;
pub mod port_mapping;
pub mod probe;
pub mod serve;
mod sleep;
pub mod state;
mod urgent;
pub mod users;
