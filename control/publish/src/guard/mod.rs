//! The nftables table that keeps the kernel from forwarding on its own: what is in it.

mod ruleset;
mod seen;

pub use ruleset::{ruleset, table};
pub use seen::{Seen, virtual_ports};
