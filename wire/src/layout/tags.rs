//! The index of the flow table: a byte for every slot, the eight of a group in one word.
//!
//! A byte is zero while its slot is free, else eight bits of the hash of the key in the slot. A key
//! lives in one of four groups that its hash names: the emptier of [`choices`], or, when both are
//! full, one of [`spills`]. With one word a search knows which slots to look at; a slot that does
//! not hold the key is touched once in thirty searches.
//!
//! The groups' number is any, not a power of two: a table is as large as it was asked to be.

use super::flow::GROUP;

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;

/// The tag of a hash, never zero.
#[inline(always)]
pub const fn tag(hash: u64) -> u8 {
    let low = hash as u8;
    low | (low == 0) as u8
}

/// The two groups, of `groups`, where the keys of a hash live.
#[inline(always)]
pub const fn choices(hash: u64, groups: u32) -> [u32; 2] {
    [scale(hash >> 32, groups), scale(hash & 0xffff_ffff, groups)]
}

/// The two groups where they live when both [`choices`] were full.
#[inline(always)]
pub const fn spills(hash: u64, groups: u32) -> [u32; 2] {
    choices(hash.wrapping_mul(0xff51_afd7_ed55_8ccd), groups)
}

/// Maps 32 bits evenly onto `0..groups`.
#[inline(always)]
const fn scale(bits: u64, groups: u32) -> u32 {
    ((bits * groups as u64) >> 32) as u32
}

/// The bytes of `word` that equal `tag`: the top bit of each is set, all else is zero.
#[inline(always)]
pub const fn matching(word: u64, tag: u8) -> u64 {
    let x = word ^ (LOW * tag as u64);
    // Exact for every byte: no carry leaves one.
    !(((x & !HIGH) + !HIGH) | x) & HIGH
}

/// Number of slots in use.
#[inline(always)]
pub const fn used(word: u64) -> u32 {
    GROUP - matching(word, 0).count_ones()
}

/// The slot within the group that the lowest bit of a mask of [`matching`] means. The mask must not
/// be zero. By multiplication, because the BPF machine counts no zeros.
#[inline(always)]
pub const fn lowest(mask: u64) -> u32 {
    let bit = (mask & mask.wrapping_neg()) >> 7;
    (bit.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_finds_every_byte_and_no_other() {
        let word = u64::from_le_bytes([7, 0, 7, 8, 0x87, 0xff, 0, 7]);
        assert_eq!(matching(word, 7).to_le_bytes(), [0x80, 0, 0x80, 0, 0, 0, 0, 0x80]);
        assert_eq!(matching(word, 0).to_le_bytes(), [0, 0x80, 0, 0, 0, 0, 0x80, 0]);
        assert_eq!(matching(word, 9), 0);
        assert_eq!(used(word), 6);
    }

    #[test]
    fn the_lowest_match_comes_first() {
        for slot in 0..GROUP {
            let mask = 0x80u64 << (8 * slot);
            assert_eq!(lowest(mask), slot);
            assert_eq!(lowest(mask | 1 << 63), slot.min(7));
        }
    }

    #[test]
    fn a_tag_is_never_zero_and_groups_are_in_range() {
        for hash in [0, 1, 0x100, u64::MAX, 0x8000_0000_8000_0000] {
            assert_ne!(tag(hash), 0);
            for groups in [1, 3, 1000, u32::MAX / GROUP] {
                let all = [choices(hash, groups), spills(hash, groups)];
                assert!(all.as_flattened().iter().all(|group| *group < groups));
            }
        }
    }
}
