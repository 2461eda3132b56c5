//! Addresses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
