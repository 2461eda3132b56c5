//! Addresses.

use core::fmt::Debug;
use core::hash::Hash;
use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Prefix;

/// An address of either family, network order. IPv4 has the first four bytes, the rest is zero.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// All zero: no address.
    pub const UNSPECIFIED: Self = Self([0; 16]);

    /// An IPv4 address.
    #[inline]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    /// The IPv4 address.
    #[inline]
    pub const fn to_v4(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::v4(address.octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

/// The prefixes of IPv6 that no provider routes back, and their lengths: those of a site (RFC 4193,
/// RFC 3879), of documents (RFC 3849, RFC 9637), and what is to be discarded (RFC 6666).
pub const UNROUTED: [([u8; 16], u8); 5] = {
    const fn begin(first: u32) -> [u8; 16] {
        ((first as u128) << 96).to_be_bytes()
    }
    [
        (begin(0xfc00_0000), 7),
        (begin(0xfec0_0000), 10),
        (begin(0x2001_0db8), 32),
        (begin(0x3fff_0000), 20),
        (begin(0x0100_0000), 64),
    ]
};

/// Is it of [those](UNROUTED)? As XDP asks it for each packet.
#[inline]
pub const fn is_unrouted(address: [u8; 16]) -> bool {
    let [a, b, c, d, ..] = address;
    let of_site = a & 0xfe == 0xfc || a == 0xfe && b & 0xc0 == 0xc0;
    let of_documents = matches!([a, b, c, d], [0x20, 1, 0xd, 0xb8] | [0x3f, 0xff, 0..=0xf, _]);
    let discarded = u128::from_be_bytes(address) >> 64 == 0x0100 << 48;
    of_site || of_documents || discarded
}

/// An address of a family, network order: `[u8; 4]` or `[u8; 16]`.
pub trait IpAddress:
    Copy + Ord + Hash + Debug + Default + Into<IpAddr> + Send + Sync + 'static
{
    /// As either family's.
    fn to_address(self) -> Address;

    /// From either family's, which is one of this.
    fn from_address(address: Address) -> Self;

    /// Is it in the prefix?
    fn is_in(self, prefix: &Prefix) -> bool;
}

impl IpAddress for [u8; 4] {
    #[inline]
    fn to_address(self) -> Address {
        Address::v4(self)
    }

    #[inline]
    fn from_address(address: Address) -> Self {
        address.to_v4()
    }

    #[inline]
    fn is_in(self, prefix: &Prefix) -> bool {
        let [a, b, c, d, ..] = prefix.address;
        let mask = (u64::from(u32::MAX) << (32 - u32::from(prefix.length.min(32)))) as u32;
        prefix.family == 0
            || prefix.family == 4
                && u32::from_be_bytes(self) & mask == u32::from_be_bytes([a, b, c, d])
    }
}

impl IpAddress for [u8; 16] {
    #[inline]
    fn to_address(self) -> Address {
        Address(self)
    }

    #[inline]
    fn from_address(address: Address) -> Self {
        address.0
    }

    #[inline]
    fn is_in(self, prefix: &Prefix) -> bool {
        let host = u128::MAX.checked_shr(prefix.length.into()).unwrap_or(0);
        prefix.family == 0
            || prefix.family == 6
                && u128::from_be_bytes(self) & !host == u128::from_be_bytes(prefix.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_routes_is_told_from_its_neighbours() {
        for (prefix, length) in UNROUTED {
            let (first, host) = (u128::from_be_bytes(prefix), u128::MAX >> length);
            for (address, is) in [
                (first - 1, false),
                (first, true),
                (first | host, true),
                ((first | host) + 1, false),
            ] {
                // fe80::/10, of a link, is between two of them.
                assert_eq!(is_unrouted(address.to_be_bytes()), is, "{address:x}");
            }
        }
    }

    #[test]
    fn a_prefix_has_the_addresses_that_begin_with_it_and_none_of_the_other_family() {
        let mut address = [0x20; 16];
        for length in 0..=128u8 {
            let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            let bits = u128::from_be_bytes([0x20; 16]) & !host;
            let prefix = Prefix { address: bits.to_be_bytes(), family: 6, length, ..Prefix::ANY };
            assert!([0x20; 16].is_in(&prefix) && !([0x20; 4].is_in(&prefix)));
            if length > 0 {
                address = (u128::from_be_bytes([0x20; 16]) ^ 1 << (128 - length)).to_be_bytes();
                assert!(!address.is_in(&prefix), "{length}");
            }
        }
        assert!(address.is_in(&Prefix::ANY) && [0x20; 4].is_in(&Prefix::ANY));
        assert!(!address.is_in(&Prefix::v4([0; 4], 0)));
    }
}
