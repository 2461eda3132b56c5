//! Which blocks of addresses hold a prefix of the longest-prefix maps
//! ([`host_class`](crate::control::host_class)): a filter in front of them.
//!
//! Most packets are for none of these prefixes, and to learn that from the map takes a look at each
//! of its nodes on the way. Here it takes four bits, one on each level: the block of 16, 32, 48 and
//! 64 bits that an IPv6 address is in, of 8, 16, 24 and 32 bits for IPv4. A prefix sets the bits of
//! the blocks that it is made of, or the one of the block that it is part of. So an address without
//! a bit is in no prefix; one that has a bit may be, and the map is asked.
//!
//! The map `BLOCKS` has a [`Blocks`] for each family, by its index.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Family;

/// Lengths of blocks that are looked at.
pub const LEVELS: usize = 4;
/// Words of a level: a bit for each number of 16 bits.
pub const WORDS: usize = 1 << 10;
/// A prefix is made of no more blocks than two to the power of this, but of any number where no
/// block is shorter than it.
const EXPANDED: u32 = 8;
/// Odd, with its bits spread: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bits of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Blocks {
    /// Not zero as soon as the bits of all prefixes are set.
    pub filled: u64,
    /// Bit `n % 64` of word `n / 64` stands for the block whose [`number`] is `n`, shortest blocks first.
    pub levels: [[u64; WORDS]; LEVELS],
}

/// Bits that a block of the next level has more.
const fn step(family: Family) -> u32 {
    match family {
        Family::V4 => 8,
        Family::V6 => 16,
    }
}

/// The number of the block that an address is in, given its first eight bytes in network order; an
/// IPv4 address has the upper half.
#[inline(always)]
pub const fn number(family: Family, level: usize, address: u64) -> u16 {
    let bits = step(family) * (level as u32 + 1);
    let block = address >> (u64::BITS - bits);
    if bits <= u16::BITS { block as u16 } else { (block.wrapping_mul(SPREAD) >> 48) as u16 }
}

/// The level of the blocks of a prefix, and their numbers; the address as of [`number`].
pub fn of_prefix(family: Family, address: u64, length: u32) -> (usize, impl Iterator<Item = u16>) {
    let step = step(family);
    let length = length.min(step * LEVELS as u32);
    let (below, above) = (length / step * step, length.next_multiple_of(step).max(step));
    let bits = if below == 0 || above - length <= EXPANDED { above } else { below };
    let level = (bits / step - 1) as usize;
    let host_bits = u64::MAX.checked_shr(length.min(bits)).unwrap_or(0);
    let (first, shift) = (address & !host_bits, u64::BITS - bits);
    let blocks = 0..1u64 << bits.saturating_sub(length);
    (level, blocks.map(move |block| number(family, level, first + (block << shift))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Is the bit of the block set that an address is in?
    fn holds(family: Family, prefix: (u64, u32), address: u64) -> bool {
        let (level, mut numbers) = of_prefix(family, prefix.0, prefix.1);
        numbers.any(|set| set == number(family, level, address))
    }

    #[test]
    fn every_address_of_a_prefix_is_in_one_of_its_blocks() {
        // 2001:db8:77:1234::, 10.77.18.52
        for (family, address) in
            [(Family::V6, 0x2001_0db8_0077_1234), (Family::V4, 0x0a4d_1234 << 32)]
        {
            let bits = if family == Family::V4 { 32 } else { 128 };
            for length in 0..=bits {
                let host_bits = u64::MAX.checked_shr(length).unwrap_or(0);
                let first = address & !host_bits;
                for within in [0, host_bits, host_bits / 3, host_bits / 7 * 5] {
                    assert!(holds(family, (first, length), first | within), "{family:?}/{length}");
                }
            }
        }
    }

    #[test]
    fn what_is_far_from_a_prefix_is_in_none_of_its_blocks() {
        let lan = 0x2001_0002_0000_0077;
        for length in 57..=128 {
            assert!(!holds(Family::V6, (lan, length), 0x2001_0002_0000_00ff), "/{length}");
        }
        for length in 3..=128 {
            assert!(!holds(Family::V6, (lan, length), 0xfd00_0002_0000_0077), "/{length}");
        }
        for length in 1..=32 {
            assert!(!holds(Family::V4, (0x0a4d << 48, length), 0xcb00_7101 << 32), "/{length}");
        }
    }

    #[test]
    fn a_prefix_has_no_more_blocks_than_a_level_has_bits() {
        for (family, longest) in [(Family::V4, 32), (Family::V6, 128)] {
            for length in 0..=longest {
                let blocks = of_prefix(family, 0, length).1.count();
                let most = if length < 16 { 1 << 16 } else { 1 << EXPANDED };
                assert!((1..=most).contains(&blocks), "{family:?}/{length}: {blocks}");
            }
        }
    }
}
