//! weir-control, the control process, and weir, its command line.
//!
//! | module | what it is |
//! |---|---|
//! | [`site`] | the configuration file: read, checked, resolved to indices |
//! | [`watch`] | the kernel's links, addresses, routes and neighbours |
//! | [`probe`] | the probers, each bound to its uplink |
//! | [`health`] | the state of each uplink, from signals and time |
//! | [`load`] | load, capacity, and where new flows go |
//! | [`monitor`] | the health of all uplinks together, and what follows |
//! | `netdev` | which devices can transmit for XDP |
//! | [`own`] | routes and rules for what the gateway itself sends |
//! | [`buckets`] | which uplink takes which bucket of a policy |
//! | [`publish`] | from site and kernel to the state that is published |
//! | [`daemon`] | the control process |
//! | [`api`] | the requests that the command line makes of it |
//! | [`cli`] | the `weir` command |
#![forbid(unsafe_code)]

pub mod api;
pub mod buckets;
pub mod cli;
pub mod daemon;
pub mod health;
pub mod load;
pub mod monitor;
mod netdev;
pub mod own;
pub mod probe;
pub mod publish;
pub mod site;
pub mod watch;
