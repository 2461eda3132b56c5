//! Frame bytes as words, which is how the BPF machine handles them well: what both tiers write, they
//! write by these traits. The user tier's frames are slices; the XDP program brings its own.
//! [`Source`] is for what stands where only the frame itself says.

use crate::extensions::{self, Chain};
use crate::parse::Reject;

/// Bytes that are known to be there, as little-endian words at constant offsets.
pub trait Words {
    /// The word of 16 bits at `AT`.
    fn load16<const AT: usize>(&self) -> u64;
    /// Stores the low 16 bits of `word` at `AT`.
    fn store16<const AT: usize>(&mut self, word: u64);
    /// Stores the low 32 bits of `word` at `AT`.
    fn store32<const AT: usize>(&mut self, word: u64);
    /// Stores `word` at `AT`.
    fn store64<const AT: usize>(&mut self, word: u64);
}

/// A frame whose parts are looked at after one comparison with its length.
pub trait Frame {
    /// `LEN` bytes from `at` on; `None` unless they are all there.
    fn words<const LEN: usize>(&mut self, at: usize) -> Option<impl Words>;
}

/// A frame that is read at any place.
pub trait Source {
    /// A copy of the `N` bytes from `at` on; `None` unless they are all there.
    fn bytes<const N: usize>(&self, at: u16) -> Option<[u8; N]>;

    /// [`extensions::walk`], for a source that has it in one place.
    ///
    /// # Errors
    ///
    /// As there.
    #[inline(always)]
    fn walk(&self, next: u8, at: u16, end: u16) -> Result<Option<Chain>, Reject> {
        extensions::walk(self, next, at, end)
    }
}

impl Source for [u8] {
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: u16) -> Option<[u8; N]> {
        self.get(usize::from(at)..)?.first_chunk().copied()
    }
}

impl Frame for [u8] {
    #[inline(always)]
    fn words<const LEN: usize>(&mut self, at: usize) -> Option<impl Words> {
        self.get_mut(at..)?.first_chunk_mut::<LEN>()
    }
}

impl<const LEN: usize> Words for &mut [u8; LEN] {
    #[inline(always)]
    fn load16<const AT: usize>(&self) -> u64 {
        const { assert!(AT + 2 <= LEN) };
        u16::from_le_bytes([self[AT], self[AT + 1]]).into()
    }

    #[inline(always)]
    fn store16<const AT: usize>(&mut self, word: u64) {
        const { assert!(AT + 2 <= LEN) };
        self[AT..AT + 2].copy_from_slice(&(word as u16).to_le_bytes());
    }

    #[inline(always)]
    fn store32<const AT: usize>(&mut self, word: u64) {
        const { assert!(AT + 4 <= LEN) };
        self[AT..AT + 4].copy_from_slice(&(word as u32).to_le_bytes());
    }

    #[inline(always)]
    fn store64<const AT: usize>(&mut self, word: u64) {
        const { assert!(AT + 8 <= LEN) };
        self[AT..AT + 8].copy_from_slice(&word.to_le_bytes());
    }
}
