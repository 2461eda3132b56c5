//! The index of the flow table: a byte for every slot, the eight of a group in one word, the eight
//! words of a page in one cache line.
//!
//! A byte is zero while its slot is free, else eight bits of the hash of the key in the slot. A key
//! lives in one of two groups of a page, its [`choices`], or when they are full in one of two of
//! another page, its [`spills`]. With one word a search knows which slots of a group to look at; a
//! slot that does not hold the key is touched once in thirty searches.
//!
//! Within its group a flow stands in the slot that its hash prefers, else in the next free one, in
//! turn: a reader can load the slots where most flows are while it waits for the tags.
//!
//! The pages' number is any, not a power of two: a table is as large as it was asked to be.

use super::flow::{GROUP, PAGE};

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = LOW << 7;

/// Groups of a page.
pub const PAGE_GROUPS: u32 = PAGE / GROUP;

/// The tag of a hash, never zero.
#[inline(always)]
pub const fn tag(hash: u64) -> u8 {
    let tag = (hash >> 48) as u8;
    tag | (tag == 0) as u8
}

/// The slot of its group that a hash prefers.
#[inline(always)]
pub const fn preferred(hash: u64) -> u32 {
    (hash >> 40) as u32 & (GROUP - 1)
}

/// A page of the table, and two groups of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The page.
    pub page: u32,
    /// The groups, counted within the page.
    pub groups: [u32; 2],
}

impl Place {
    /// The groups, counted from the table's start.
    #[inline(always)]
    pub const fn in_table(&self) -> [u32; 2] {
        let first = self.page * PAGE_GROUPS;
        [first + self.groups[0], first + self.groups[1]]
    }
}

/// Where the keys of a hash live, in a table of `pages`.
#[inline(always)]
pub const fn choices(hash: u64, pages: u32) -> Place {
    // Maps 32 bits evenly onto 0..pages.
    let page = ((hash & 0xffff_ffff) * pages as u64) >> 32;
    let a = (hash >> 32) as u32 & (PAGE_GROUPS - 1);
    // Another one, by an odd difference.
    let b = a ^ (((hash >> 34) as u32 & (PAGE_GROUPS - 1)) | 1);
    Place { page: page as u32, groups: [a, b] }
}

/// Where they live when their [`choices`] were full.
#[inline(always)]
pub const fn spills(hash: u64, pages: u32) -> Place {
    choices(hash.wrapping_mul(0xff51_afd7_ed55_8ccd), pages)
}

/// The bytes of `word` that equal `tag`: the top bit of each is set, all else is zero.
#[inline(always)]
pub const fn matching(word: u64, tag: u8) -> u64 {
    let x = word ^ (LOW * tag as u64);
    // Exact for every byte: no carry leaves one.
    !(((x & !HIGH) + !HIGH) | x) & HIGH
}

/// Number of slots in use. By multiplication, because plain x86-64 counts no ones.
#[inline(always)]
pub const fn used(word: u64) -> u32 {
    GROUP - ((matching(word, 0) >> 7).wrapping_mul(LOW) >> 56) as u32
}

/// The slot within the group that the lowest bit of a mask of [`matching`] means. The mask must not
/// be zero. By multiplication, because the BPF machine counts no zeros.
#[inline(always)]
pub const fn lowest(mask: u64) -> u32 {
    let bit = (mask & mask.wrapping_neg()) >> 7;
    (bit.wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// The first slot of a mask of [`matching`], in turn from `preferred` on. The mask must not be zero.
#[inline(always)]
pub const fn first_from(preferred: u32, mask: u64) -> u32 {
    (lowest(mask.rotate_right(8 * preferred)) + preferred) & (GROUP - 1)
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
    fn slots_are_taken_in_turn_from_the_preferred_one() {
        let mask = matching(u64::from_le_bytes([0, 1, 0, 1, 1, 1, 0, 1]), 0);
        let taken = [0, 1, 2, 3, 4, 5, 6, 7].map(|preferred| first_from(preferred, mask));
        assert_eq!(taken, [0, 2, 2, 6, 6, 6, 6, 0]);
    }

    #[test]
    fn a_tag_is_never_zero_and_places_are_in_the_table() {
        for hash in [0, 1, 0x100, u64::MAX, 0x8000_0000_8000_0000, 0x1234_5678_9abc_def0] {
            assert_ne!(tag(hash), 0);
            for pages in [1, 3, 1000, u32::MAX / PAGE] {
                for place in [choices(hash, pages), spills(hash, pages)] {
                    let [a, b] = place.groups;
                    assert!(place.page < pages && a < PAGE_GROUPS && b < PAGE_GROUPS && a != b);
                    assert!(place.in_table().iter().all(|group| group / PAGE_GROUPS == place.page));
                }
            }
        }
    }
}
