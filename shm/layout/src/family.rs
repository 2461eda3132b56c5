//! Address families, as indices.

use core::net::IpAddr;

/// An address family: an index into what there is one of for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

impl Family {
    /// How many there are.
    pub const COUNT: usize = 2;
    /// All, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] = [Self::V4, Self::V6];

    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Its index.
    #[inline(always)]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As people and programs are told of it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}
