//! Uplinks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Mac, Name};

/// Addresses of one uplink's pool.
pub const MAX_POOL: usize = 16;

/// An uplink. 192 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Uplink {
    /// Name; empty = slot unused.
    pub name: Name,
    /// Index into [`ControlHalf::ports`](super::ControlHalf::ports).
    pub port: u8,
    /// [`Translate`].
    pub translate: u8,
    /// Valid entries of `pool`.
    pub pool_len: u8,
    /// 1 while weight was set at run time, so differs from the configuration file.
    pub weight_overridden: u8,
    /// Configured weight, the default of policy members.
    pub weight: u16,
    /// 1: from this uplink the LANs' prefixes may be reached without a flow.
    pub inbound: u8,
    /// Zero.
    pub reserved0: u8,
    /// First NAT port, inclusive.
    pub nat_lo: u16,
    /// Last NAT port, inclusive.
    pub nat_hi: u16,
    /// Address of the next hop, network order.
    pub next_hop: [u8; 4],
    /// Hardware address of the next hop; zero = not resolved.
    pub next_hop_mac: Mac,
    /// Pool of source addresses, network order.
    pub pool: [[u8; 4]; MAX_POOL],
    /// When the uplink last changed usability, CLOCK_REALTIME seconds.
    pub since: u64,
    /// Next hop for IPv6; zero = none.
    pub next_hop6: [u8; 16],
    /// Hardware address of the IPv6 next hop.
    pub next_hop6_mac: [u8; 6],
    /// Zero.
    pub reserved2: [u8; 2],
    /// When the uplink is to be empty, CLOCK_BOOTTIME seconds; 0 = it is not being emptied,
    /// [`Uplink::NO_DEADLINE`] = until told otherwise. For the next control process.
    pub drain_until: u64,
    /// Zero.
    pub reserved3: [u8; 32],
}

impl Uplink {
    /// Being emptied until the operator says otherwise.
    pub const NO_DEADLINE: u64 = u64::MAX;

    /// The valid entries of `pool`.
    #[inline]
    pub fn addresses(&self) -> &[[u8; 4]] {
        &self.pool[..usize::from(self.pool_len).min(self.pool.len())]
    }
}

/// How an uplink changes source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Translate {
    /// Source untouched: own prefix, accepted by every provider that carries it.
    None = 0,
    /// Network address and port translation to the uplink's pool.
    Nat44 = 1,
}

const _: () = assert!(size_of::<Uplink>() == 192);
