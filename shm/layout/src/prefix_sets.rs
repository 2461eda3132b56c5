//! Named sets of prefixes, as rules and published services ask for them.
//!
//! The region `SETS` is a [`Head`] and two banks. A bank has for each family the ranges that the
//! prefixes of all sets make, apart from each other and in order, and for each range which sets hold
//! it: one search finds all sets that hold an address, however many there are.
//!
//! The half says what the bank of its generation holds ([`Sets`](crate::control::Sets)); the bank is
//! that of the lowest bit of the [generation](crate::control::Sets::generation). Like the halves by
//! `begun` of the control page, it is read in place: before anything of a generation is stored,
//! [`Head::begun`] says so.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Family, RegionHeader, checksum64};

/// Sets of a site.
pub const MAX_SETS: usize = 64;
/// By [`Family`], prefixes of all sets together. IPv6 has as much memory, and twice as large ones.
pub const MAX_PREFIXES: [usize; Family::COUNT] = [1 << 18, 1 << 17];
/// By [`Family`], ranges: each prefix begins one, and ends one.
pub const MAX_RANGES: [usize; Family::COUNT] = [2 * MAX_PREFIXES[0], 2 * MAX_PREFIXES[1]];

/// Bytes of an entry of the map.
pub const PAGE: usize = 4096;
/// Bytes of a bank.
pub const BANK: usize = offset::MASKS6 + MAX_RANGES[1] * size_of::<u64>();
/// Bytes of the region.
pub const REGION: usize = PAGE + 2 * BANK;

/// What is where in a bank, in bytes.
pub mod offset {
    use super::MAX_RANGES;

    /// First addresses of the ranges of IPv4: a `u32` each, host order.
    pub const FIRSTS4: usize = 0;
    /// Which sets hold each: a `u64`, bit *n* for set *n*.
    pub const MASKS4: usize = FIRSTS4 + MAX_RANGES[0] * size_of::<u32>();
    /// First addresses of the ranges of IPv6: two `u64` each, host order, the upper half first.
    pub const FIRSTS6: usize = MASKS4 + MAX_RANGES[0] * size_of::<u64>();
    /// Which sets hold each.
    pub const MASKS6: usize = FIRSTS6 + MAX_RANGES[1] * size_of::<[u64; 2]>();
}

/// Where a bank begins, in bytes of the region.
#[inline]
pub const fn bank(generation: u64) -> usize {
    PAGE + (generation & 1) as usize * BANK
}

/// The beginning of the region.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Head {
    /// Identification.
    pub header: RegionHeader,
    /// The generation whose bank the control process last began to write. Atomic.
    pub begun: u64,
}

/// The ranges that a bank has room for, in order: each ends before the next one begins, the last with
/// the last address. What is below the first is in no set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ranges<'r> {
    /// As at [`offset::FIRSTS4`].
    pub firsts4: &'r [u32],
    /// As at [`offset::MASKS4`].
    pub masks4: &'r [u64],
    /// As at [`offset::FIRSTS6`].
    pub firsts6: &'r [[u64; 2]],
    /// As at [`offset::MASKS6`].
    pub masks6: &'r [u64],
}

impl Ranges<'_> {
    /// [`checksum64`] of all of it; 0 of nothing.
    pub fn checksum(&self) -> u64 {
        let parts = [
            self.firsts4.as_bytes(),
            self.masks4.as_bytes(),
            self.firsts6.as_bytes(),
            self.masks6.as_bytes(),
        ];
        if parts.iter().all(|part| part.is_empty()) {
            return 0;
        }
        parts.iter().fold(0, |sum: u64, part| sum.rotate_left(1) ^ checksum64(part)) | 1
    }
}

const _: () = {
    assert!(size_of::<Head>() <= PAGE);
    assert!(BANK.is_multiple_of(PAGE) && MAX_SETS == u64::BITS as usize);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_checksum_and_what_moves_between_parts_another() {
        let of = |firsts4, masks4| Ranges { firsts4, masks4, ..Ranges::default() }.checksum();
        assert_eq!(of(&[], &[]), 0);
        assert_ne!(of(&[0, 7], &[1, 0]), of(&[0, 7], &[0, 1]));
        assert_ne!(of(&[1, 0], &[1]), 0);
    }
}
