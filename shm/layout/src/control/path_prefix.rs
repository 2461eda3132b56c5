//! Prefixes that providers delegate, and what stands inside for them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::NONE;

/// Entries of all IPv6 paths together.
pub const MAX_PATH_PREFIXES: usize = 128;

/// A prefix that an uplink's provider routes here. 40 bytes.
///
/// Where the path [translates prefixes](super::Translate::Npt), packets that leave by it have an
/// address of `outside` for the one of `inside` (RFC 6296). Where LANs have addresses of each
/// provider ([`Translate::Source`](super::Translate::Source)), sources of `outside` leave by it as
/// they are, and there is no `inside`; but in entries for sources of other providers that it
/// [rescues](super::carried::rescues).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PathPrefix {
    /// The prefix of the LANs, network order, host bits zero.
    pub inside: [u8; 16],
    /// The provider's, likewise.
    pub outside: [u8; 16],
    /// Length of `inside`, bits, at most 64.
    pub inside_len: u8,
    /// Length of `outside`, bits, at most 64.
    pub outside_len: u8,
    /// RFC 6296 §3.1: one's complement sum of `inside` less that of `outside`, host order.
    pub adjustment: u16,
    /// Index of the uplink.
    pub uplink: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl PathPrefix {
    /// No uplink's.
    pub const UNUSED: Self = Self {
        inside: [0; 16],
        outside: [0; 16],
        inside_len: 0,
        outside_len: 0,
        adjustment: 0,
        uplink: NONE,
        reserved: [0; 3],
    };

    /// Does it stand for a prefix inside?
    #[inline]
    pub const fn is_pair(&self) -> bool {
        self.inside_len > 0
    }

    /// Is the address of the provider's prefix?
    #[inline]
    pub fn is_outside(&self, address: [u8; 16]) -> bool {
        starts_with(address, self.outside, self.outside_len)
    }

    /// Is the address one that hosts are translated to? Of the provider's prefix that is the part which
    /// the one inside reaches.
    #[inline]
    pub fn is_outside_of_hosts(&self, address: [u8; 16]) -> bool {
        let len = self.inside_len.max(self.outside_len);
        self.is_pair() && starts_with(address, self.outside, len)
    }

    /// Is the address of the LANs' prefix, and of that part of it for which the provider's has room:
    /// the shorter of two unlike prefixes goes on in zeros (RFC 6296 §3.7)?
    #[inline]
    pub fn is_inside(&self, address: [u8; 16]) -> bool {
        let len = self.inside_len.max(self.outside_len);
        self.is_pair() && starts_with(address, self.inside, len)
    }
}

/// Are the first bits of an address those of a prefix of this length?
#[inline]
fn starts_with(address: [u8; 16], prefix: [u8; 16], len: u8) -> bool {
    let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
    (u128::from_be_bytes(address) ^ u128::from_be_bytes(prefix)) & !host == 0
}

const _: () = assert!(size_of::<PathPrefix>() == 40);
