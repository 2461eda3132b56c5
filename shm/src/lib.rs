//! The shared-memory regions: BPF arrays, pinned in bpffs, mapped and typed.
//!
//! | module | what it is |
//! |---|---|
//! | [`pins`] | the directory of pins, and opening or creating what is in it |
//! | [`claim`] | who works on it: one process of each role |
//! | [`map`] | a BPF array or anonymous memory, mapped; all `unsafe` of the shared memory, but for [`cgroup`] |
//! | [`control`] | writing and reading the control page and the bucket tables |
//! | [`state_word`] | a path's state word, decided and overtaken |
//! | [`flows`] | the flow table: look-up, claim, publish, retire |
//! | [`adjacencies`] | hardware addresses by index: LAN hosts and next hops |
//! | [`counters`] | lanes and their sums |
//! | [`nat_log`] | the log of NAT allocations on its way to the control process |
//! | [`observations`] | what the workers see of new connections |
//! | [`process`] | whether the two processes run, and turn |
//! | [`published`] | what is published, with its counters, as views read it |
//! | [`status`] | what the dataplane says about itself |
//! | [`sysctls`] | the kernel's settings as they were before weir, for every version |
//! | [`hosts`] | the longest-prefix map of destinations that stay on the gateway |
//! | [`blocks`] | the filter in front of it |
//! | [`cgroup`] | beside them: a BPF program that marks a cgroup's sockets |
//! | [`program`] | beside them: having the kernel take an XDP program |
//!
//! The layouts are in `weir_layout`. Shared words are only ever touched as atomics: what
//! another process, or the XDP program, does to them is data, and never undefined behaviour here.

pub mod flows;
mod sync;

#[cfg(not(loom))]
pub mod adjacencies;
#[cfg(not(loom))]
pub mod allowances;
#[cfg(not(loom))]
pub mod blocks;
#[cfg(not(loom))]
pub mod cgroup;
#[cfg(not(loom))]
pub mod claim;
#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub mod counters;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
pub mod hosts;
#[cfg(not(loom))]
pub mod map;
#[cfg(not(loom))]
pub mod nat_log;
#[cfg(not(loom))]
pub mod observations;
#[cfg(not(loom))]
pub mod pins;
#[cfg(not(loom))]
pub mod process;
#[cfg(not(loom))]
pub mod program;
#[cfg(not(loom))]
pub mod published;
#[cfg(not(loom))]
mod rounds;
#[cfg(not(loom))]
pub mod status;
#[cfg(not(loom))]
pub mod sysctls;

pub mod publish;
pub mod state_word;

#[cfg(not(loom))]
pub use claim::Role;
#[cfg(not(loom))]
pub use error::Error;
#[cfg(not(loom))]
pub use pins::Pins;
