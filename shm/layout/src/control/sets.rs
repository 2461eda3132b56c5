//! What the half says of the [sets of prefixes](crate::prefix_sets), and what rules ask of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Name;
use crate::Family;
use crate::prefix_sets::MAX_SETS;

/// What a bank holds; part of the half.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Sets {
    /// [`Ranges::checksum`](crate::prefix_sets::Ranges::checksum); 0: there are no prefixes.
    pub checksum: u64,
    /// Changes of the bank so far. Filled in when the half is published.
    pub generation: u64,
    /// By [`Family`], valid ranges.
    pub ranges: [u32; Family::COUNT],
    /// The sets by their number; one without a name is none.
    pub sets: [Set; MAX_SETS],
}

impl Sets {
    /// The sets that there are, in the order of their numbers.
    pub fn named(&self) -> impl Iterator<Item = &Set> {
        self.sets.iter().take_while(|set| set.name.0[0] != 0)
    }

    /// The name of a set by its number.
    pub fn name(&self, number: u8) -> &str {
        self.sets.get(usize::from(number)).map_or("?", |set| set.name.as_str())
    }
}

/// A set. 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Set {
    /// Name.
    pub name: Name,
    /// By [`Family`], its prefixes.
    pub prefixes: [u32; Family::COUNT],
}

/// What a rule asks of an address, in a byte: nothing, that a set holds it, or that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct SetTest(pub u8);

impl SetTest {
    /// Every address passes.
    pub const ANY: Self = Self(0);
    const NOT: u8 = 0x80;

    /// That the set of this number holds it, or does not.
    pub const fn new(number: u8, negated: bool) -> Self {
        let number = number % MAX_SETS as u8 + 1;
        Self(if negated { number | Self::NOT } else { number })
    }

    /// The set's number; `None`: any address passes.
    #[inline]
    pub const fn number(self) -> Option<u8> {
        match self.0 {
            0 => None,
            byte => Some(((byte & !Self::NOT).wrapping_sub(1)) % MAX_SETS as u8),
        }
    }

    /// Must the set not hold it?
    #[inline]
    pub const fn is_negated(self) -> bool {
        self.0 & Self::NOT != 0
    }

    /// Does an address pass that these sets hold, a bit each?
    #[inline]
    pub const fn passes(self, sets: u64) -> bool {
        match self.number() {
            None => true,
            Some(number) => (sets >> number & 1 != 0) != self.is_negated(),
        }
    }
}

const _: () = assert!(size_of::<Set>() == 40);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_passes_what_its_set_holds_or_what_it_does_not() {
        for number in 0..MAX_SETS as u8 {
            let (is, not) = (SetTest::new(number, false), SetTest::new(number, true));
            assert_eq!((is.number(), not.number()), (Some(number), Some(number)));
            for (sets, held) in [(1 << number, true), (!(1 << number), false)] {
                assert_eq!((is.passes(sets), not.passes(sets)), (held, !held), "{number}");
            }
        }
        assert!(SetTest::ANY.passes(0) && SetTest::ANY.passes(u64::MAX));
        for byte in 0..=u8::MAX {
            assert!(SetTest(byte).number().is_none_or(|number| usize::from(number) < MAX_SETS));
        }
    }
}
