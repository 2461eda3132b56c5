//! Names of the program and the maps in the object file.

/// The XDP program.
pub const PROGRAM: &str = "weir";

/// Packets seen: one `u64` per CPU at index 0, host byte order.
pub const PACKETS: &str = "PACKETS";
