//! Classes of destinations, values of the longest-prefix maps `HOSTS4` and `HOSTS6` (written by
//! control).

/// An address of the gateway itself.
pub const LOCAL: u32 = 1;
/// A prefix the kernel routes: through an interface that is no uplink, LANs included.
pub const KERNEL: u32 = 2;
/// A prefix behind a LAN port that uplinks without translation carry.
pub const LAN: u32 = 3;
/// An address that an uplink translates to and the gateway does not have itself.
pub const POOL: u32 = 4;
/// A prefix that the kernel routes by one uplink alone.
pub const NEAR: u32 = 5;
/// A network of an uplink's own link, within a prefix that it translates to. Flows have addresses of
/// it, as of a pool; and so has the provider's router.
pub const LINK: u32 = 6;
