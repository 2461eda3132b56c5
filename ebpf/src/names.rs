//! Names of the program and the maps in the object file. Maps that outlive a process are pinned
//! under the names of `weir_shm::pins::name`.

/// The XDP program.
pub const PROGRAM: &str = "weir";

/// The program of the tap device that the user tier transmits by.
pub const TRANSMIT: &str = "transmit";

/// The map of AF_XDP sockets, by `device * MAX_QUEUES + queue`.
pub const XSKS: &str = "XSKS";

/// The map of devices that the program may send by, by device index.
pub const DEVICES: &str = "DEVICES";

/// The key of the flow hash, two `u64`: to be set before the program is loaded.
pub const FLOW_SECRET: &str = "FLOW_SECRET";

/// Pages of the flow table, a `u32`: likewise. Zero, as without setting it: no flow is found.
pub const FLOW_PAGES: &str = "FLOW_PAGES";

/// The same of IPv6.
pub const FLOW_PAGES6: &str = "FLOW_PAGES6";
