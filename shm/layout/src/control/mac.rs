//! Hardware addresses.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A hardware address in a word of its own, so that the XDP program loads it as one: the address in
/// the low six bytes in memory order, above them zero. Aligned to 8 bytes wherever it is kept.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct Mac(u64);

impl Mac {
    /// No address: all zero.
    pub const NONE: Self = Self(0);

    /// From the bytes as on the wire.
    #[inline]
    pub const fn new(address: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = address;
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// From the word as memory has it, whose upper two bytes are zero.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The bytes as on the wire.
    #[inline]
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// The word as memory has it.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }
}
