//! The nftables tables that keep the kernel from forwarding on its own: what is in them.

mod foreign;
mod ruleset;
mod seen;

pub use ruleset::{rulesets, table};
pub use seen::{Seen, virtual_ports};
