//! The filter in front of the longest-prefix maps ([`weir_layout::blocks`]), of one family.

use weir_layout::Family;
use weir_layout::blocks::{self, Blocks, LEVELS, WORDS};

use crate::map::Mmap;
use crate::publish::update;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// The bits of some prefixes.
#[derive(Debug)]
pub struct Marked {
    family: Family,
    levels: Box<[[u64; WORDS]; LEVELS]>,
}

impl Marked {
    /// Of no prefix.
    pub fn none(family: Family) -> Self {
        Self { family, levels: Box::new([[0; WORDS]; LEVELS]) }
    }

    /// Sets the bits of a prefix, given the first eight bytes of its address in network order.
    pub fn add(&mut self, address: u64, length: u8) {
        let (level, numbers) = blocks::of_prefix(self.family, address, length.into());
        for number in numbers {
            self.levels[level][usize::from(number / 64)] |= 1 << (number % 64);
        }
    }

    fn words(&self) -> &[u64] {
        self.levels.as_flattened()
    }
}

/// The published bits of a family.
#[derive(Debug)]
pub struct Filter {
    mmap: Mmap,
    family: Family,
}

impl Filter {
    /// Opens the pinned region, creating it when there is none.
    pub fn open(pins: &Pins, family: Family) -> Result<Self, Error> {
        Ok(Self { mmap: pins.blocks()?, family })
    }

    /// Before prefixes are entered in the map: adds their bits.
    pub fn widen(&self, marked: &Marked) {
        let (_, words) = self.words();
        for (word, more) in words.iter().zip(marked.words()) {
            update(word, word.load(Ordering::Relaxed) | more);
        }
    }

    /// After others were removed from it: takes away all bits but these.
    pub fn narrow(&self, marked: &Marked) {
        let (filled, words) = self.words();
        for (word, wanted) in words.iter().zip(marked.words()) {
            update(word, *wanted);
        }
        filled.store(1, Ordering::Release);
    }

    fn words(&self) -> (&AtomicU64, &[AtomicU64]) {
        let all = self.mmap.view(self.family.index() * size_of::<Blocks>());
        (&all[0], &all[1..=LEVELS * WORDS])
    }
}
