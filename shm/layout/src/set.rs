//! Sets of uplinks, ports or devices.

use core::ops::{BitAnd, BitOr, BitOrAssign, Sub};

use super::{MAX_DEVICES, MAX_PORTS, MAX_UPLINKS};

/// A set of indices of uplinks, ports or devices: bit *n* stands for index *n*. An index that none of
/// them has, such as [`NONE`](super::NONE), is in no set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexSet(u64);

const _: () = assert!(MAX_UPLINKS <= 64 && MAX_PORTS <= 64 && MAX_DEVICES <= 64);

impl IndexSet {
    /// Nothing.
    pub const EMPTY: Self = Self(0);
    /// Every index there may be.
    pub const ALL: Self = Self(u64::MAX);

    /// The set with these bits.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The set of one index.
    #[inline]
    pub const fn of(index: u8) -> Self {
        Self(if index < 64 { 1 << index } else { 0 })
    }

    /// Is the index in it?
    #[inline]
    pub const fn contains(self, index: u8) -> bool {
        self.0 & Self::of(index).0 != 0
    }

    /// Puts an index in, or takes it out.
    #[inline]
    pub const fn set(&mut self, index: u8, is_in: bool) {
        let of = Self::of(index).0;
        self.0 = if is_in { self.0 | of } else { self.0 & !of };
    }

    /// Is nothing in it?
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many are in it.
    #[inline]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }
}

impl BitOr for IndexSet {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for IndexSet {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

impl BitAnd for IndexSet {
    type Output = Self;

    #[inline]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Sub for IndexSet {
    type Output = Self;

    #[inline]
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl FromIterator<u8> for IndexSet {
    #[inline]
    fn from_iter<I: IntoIterator<Item = u8>>(indices: I) -> Self {
        indices.into_iter().fold(Self::EMPTY, |set, index| set | Self::of(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NONE;

    #[test]
    fn a_set_holds_what_was_put_in_and_no_index_that_nothing_has() {
        let mut set: IndexSet = [0, 5, 63, 64, NONE].into_iter().collect();
        assert_eq!((set.len(), set.bits()), (3, 1 << 63 | 1 << 5 | 1));
        assert!(set.contains(63) && !set.contains(64) && !IndexSet::ALL.contains(NONE));
        set.set(5, false);
        set.set(NONE, true);
        assert_eq!(set, IndexSet::of(0) | IndexSet::of(63));
        assert!((set - IndexSet::ALL).is_empty() && set & IndexSet::ALL == set);
    }
}
