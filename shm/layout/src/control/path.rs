//! Paths: an uplink in one address family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Address, Mac};
use crate::protocol::{self, Covered};
use crate::{Family, MAX_UPLINKS};

/// Addresses of one path's pool.
pub const MAX_POOL: usize = 16;

/// Which path: of which uplink, in which family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathId {
    /// Index into [`ControlHalf::uplinks`](super::ControlHalf::uplinks).
    pub uplink: u8,
    /// Address family.
    pub family: Family,
}

impl PathId {
    /// An uplink's path in a family.
    #[inline(always)]
    pub const fn new(uplink: u8, family: Family) -> Self {
        Self { uplink, family }
    }

    /// An uplink's IPv4 path.
    #[inline(always)]
    pub const fn v4(uplink: u8) -> Self {
        Self::new(uplink, Family::V4)
    }

    /// All that there may be, in the order of their indices.
    pub fn all() -> impl Iterator<Item = Self> {
        let uplinks = |family| (0..MAX_UPLINKS as u8).map(move |uplink| Self::new(uplink, family));
        Family::ALL.into_iter().flat_map(uplinks)
    }

    /// Is its uplink one that there may be?
    #[inline(always)]
    pub const fn is_valid(self) -> bool {
        (self.uplink as usize) < MAX_UPLINKS
    }

    /// Index of its state word. The paths of a family stand together.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self.family.index() * MAX_UPLINKS + (self.uplink as usize & (MAX_UPLINKS - 1))
    }
}

/// What is published of a path. 296 bytes; all zero where the uplink has none in the family.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Path {
    /// [`Translate`].
    pub translate: u8,
    /// Entries of `pool` that new flows get.
    pub pool_len: u8,
    /// Bits of [`inbound`]: what becomes of what is for the LANs' prefixes without a flow.
    pub inbound: u8,
    /// Entries of `pool` after those: addresses that no new flow gets, and that flows keep which have
    /// one.
    pub retired: u8,
    /// First NAT port, inclusive.
    pub nat_lo: u16,
    /// Last NAT port, inclusive.
    pub nat_hi: u16,
    /// Hardware address of the next hop; zero = not resolved.
    pub next_hop_mac: Mac,
    /// Address of the next hop.
    pub next_hop: Address,
    /// When the path last changed usability, CLOCK_REALTIME seconds.
    pub since: u64,
    /// Pool of source addresses.
    pub pool: [Address; MAX_POOL],
}

impl Path {
    /// The addresses that new flows get.
    #[inline]
    pub fn addresses(&self) -> &[Address] {
        &self.pool[..usize::from(self.pool_len).min(self.pool.len())]
    }

    /// The addresses that flows have or get.
    #[inline]
    pub fn held(&self) -> &[Address] {
        let held = usize::from(self.pool_len) + usize::from(self.retired);
        &self.pool[..held.min(self.pool.len())]
    }

    /// Those of them that flows have and no new one gets.
    #[inline]
    pub fn retired(&self) -> &[Address] {
        self.held().get(self.addresses().len()..).unwrap_or(&[])
    }

    /// Are rules asked about what is for the LANs' prefixes?
    #[inline(always)]
    pub const fn is_ruled(&self) -> bool {
        self.inbound & inbound::RULED != 0
    }

    /// Does what is for them come in, but for what rules deny?
    #[inline(always)]
    pub const fn is_open(&self) -> bool {
        self.inbound & inbound::OPEN != 0
    }

    /// Does all that is for them come in, whatever it is, by the kernel's routes?
    #[inline(always)]
    pub const fn lets_in_all(&self) -> bool {
        self.inbound == inbound::OPEN
    }

    /// How it changes source addresses.
    #[inline(always)]
    pub const fn translation(&self) -> Translate {
        Translate::from_byte(self.translate)
    }

    /// Has a host another address by this path than by others?
    #[inline]
    pub const fn translates(&self) -> bool {
        self.translation().readdresses()
    }
}

/// Bits of [`Path::inbound`].
pub mod inbound {
    /// What is for the LANs' prefixes comes in.
    pub const OPEN: u8 = 1;
    /// Rules are asked about it, so that it is the user tier's. Not where a path translates ports:
    /// there it leads to nobody by itself.
    pub const RULED: u8 = 2;
}

/// How a path changes source addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Translate {
    /// Source untouched: own prefix, accepted by every provider that carries it.
    #[default]
    None = 0,
    /// Addresses and ports, to the path's pool: NAT44, NAT66.
    Napt = 1,
    /// IPv6 prefixes (RFC 6296), by the path's [entries](super::PathPrefix).
    Npt = 2,
    /// Source untouched: of the provider's prefix, and no other leaves by the path.
    Source = 3,
}

impl Translate {
    /// What a byte of shared memory says; anything unknown is [`Self::None`].
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Napt,
            2 => Self::Npt,
            3 => Self::Source,
            _ => Self::None,
        }
    }

    /// Has a host another address outside than inside?
    #[inline(always)]
    pub const fn readdresses(self) -> bool {
        match self {
            Self::Napt | Self::Npt => true,
            Self::None | Self::Source => false,
        }
    }

    /// Are packets of the protocol still right once they have another address? Another prefix leaves
    /// the sum of an address as it was (RFC 6296 §3.1), another address does not.
    pub const fn keeps_right(self, proto: u8) -> bool {
        match (protocol::covered(proto), self) {
            (Covered::Nothing, _) | (_, Self::None | Self::Source) => true,
            (Covered::Checksum, Self::Npt) => true,
            (Covered::Checksum, Self::Napt) | (Covered::Digest, _) => false,
        }
    }
}

const _: () = assert!(MAX_UPLINKS.is_power_of_two() && size_of::<Path>() == 296);
