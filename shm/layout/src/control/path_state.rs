//! Bits of a path's state word.

/// Flows on this path are forwarded; cleared when it is down.
pub const USABLE: u32 = 1;
/// The uplink was set down by hand.
pub const ADMIN_DOWN: u32 = 2;
/// No carrier, no address or no next hop: why it is not usable (informative).
pub const NO_CARRIER: u32 = 4;
/// The interface has no usable address of the family.
pub const NO_ADDRESS: u32 = 8;
/// The next hop is unknown or its MAC address is not resolved.
pub const NO_NEXT_HOP: u32 = 16;
/// Its health says no: targets do not answer, or it has not shown itself yet.
pub const UNHEALTHY: u32 = 32;
/// Well again, but held down for a while.
pub const HELD_DOWN: u32 = 64;
/// Usable, but worse than others: flows stay, new ones go elsewhere.
pub const DEGRADED: u32 = 128;
/// In use only because no uplink of a policy is well.
pub const LAST_RESORT: u32 = 256;
/// Being emptied: flows stay, but those that may move do so when idle; new ones go elsewhere.
pub const DRAINING: u32 = 512;
/// Fuller than its threshold: new flows go elsewhere while there is room (informative).
pub const SATURATED: u32 = 1024;
/// Not usable, but a policy has nothing better: its flows stay, those of other policies leave.
pub const SPARED: u32 = 2048;
/// Its interface is of no kind that can be used, or the dataplane was refused it.
pub const NO_DEVICE: u32 = 4096;
/// The uplink is not used in the family: it is in no bucket table, and nothing is said of it.
pub const NOT_CONFIGURED: u32 = 8192;
/// The paths of the uplink are joint, and the other one is not usable.
pub const JOINT: u32 = 16_384;
