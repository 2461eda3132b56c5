//! Names of the program and the maps in the object file.

/// The XDP program.
pub const PROGRAM: &str = "weir";

/// Packets seen: one `u64` per CPU at index 0, host byte order.
pub const PACKETS: &str = "PACKETS";

/// The map of AF_XDP sockets, by `device * 64 + queue`.
pub const XSKS: &str = "XSKS";
