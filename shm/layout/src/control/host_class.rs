//! Classes of destinations: the low byte of what the longest-prefix maps `HOSTS4` and `HOSTS6` hold
//! (written by control). Above it a value may name an uplink.

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

/// The value of a class that is an uplink's: an address that it translates to, or a prefix of those.
#[inline(always)]
pub const fn of_uplink(class: u32, uplink: u8) -> u32 {
    class | (uplink as u32 + 1) << 8
}

/// The class of a value.
#[inline(always)]
pub const fn class(value: u32) -> u32 {
    value & 0xff
}

/// The uplink of a value, if it names one.
#[inline(always)]
pub const fn uplink(value: u32) -> Option<u8> {
    match value >> 8 {
        0 => None,
        number => Some((number - 1) as u8),
    }
}
