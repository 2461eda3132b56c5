//! Numbers by hash, of which many come and go.
//!
//! Cache lines of fifteen numbers, each with a byte of its hash, as in the flow table. A number stands
//! in the line that its hash names, or if that is full in the next with room, and every line that was
//! full on the way counts it. So a search stops at a line that nothing has passed, and what is removed
//! leaves no trace: nothing is moved, and no other number's hash is asked for. (The counts are those of
//! F14: N. Bronson and X. Shi, "Open-sourcing F14 for faster, more memory-efficient hash tables", 2019.)

use weir_layout::tags::{matching, tag};
use weir_shm::map::prefetch;

/// Most numbers: they have 24 bits.
pub const MOST: usize = 1 << 24;

const LINE: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
struct Line {
    /// A byte for each number, see [`tag`]; 0: none. The last byte is no number's.
    tags: [u64; 2],
    /// Little-endian.
    numbers: [[u8; 3]; LINE],
    unused: u8,
    /// Numbers that would be here or before, were this line not full when they came.
    passed: u16,
}

#[derive(Debug)]
pub struct Index {
    lines: Vec<Line>,
    len: usize,
}

impl Line {
    const EMPTY: Self = Self { tags: [0; 2], numbers: [[0; 3]; LINE], unused: 0, passed: 0 };

    /// The places with this byte.
    #[inline]
    fn places(&self, tag: u8) -> impl Iterator<Item = usize> + use<> {
        let [a, b] = self.tags.map(|word| matching(word, tag) >> 7);
        // Of the byte of each place in both words a bit, the second word's above the first's.
        let mut left = a | (b & (u64::MAX >> 8)) << 1;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros() as usize;
            let found = left != 0;
            left &= left.wrapping_sub(1);
            found.then_some(bit / 8 + 8 * (bit % 8))
        })
    }

    #[inline]
    fn number(&self, place: usize) -> u32 {
        let [a, b, c] = self.numbers[place];
        u32::from_le_bytes([a, b, c, 0])
    }

    fn tag(&self, place: usize) -> u8 {
        self.tags[place / 8].to_le_bytes()[place % 8]
    }

    fn set_tag(&mut self, place: usize, tag: u8) {
        let shift = 8 * (place % 8);
        let word = &mut self.tags[place / 8];
        *word = *word & !(0xff << shift) | u64::from(tag) << shift;
    }
}

impl Index {
    /// Four fifths full at `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { lines: vec![Line::EMPTY; lines_for(capacity)], len: 0 }
    }

    /// Makes room for so many numbers, if there is less; `hash_of` is that of any in the index.
    pub fn reserve(&mut self, capacity: usize, hash_of: impl Fn(u32) -> u64) {
        if lines_for(capacity) > self.lines.len() {
            self.resize(capacity, hash_of);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Asks for the line that a search begins with.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.lines[self.home(hash)]);
    }

    /// The number that [`Self::find`] will first ask about, most likely.
    #[inline]
    pub fn candidate(&self, hash: u64) -> Option<u32> {
        let line = &self.lines[self.home(hash)];
        line.places(byte(hash)).next().map(|place| line.number(place))
    }

    /// The number with this hash that `same` accepts.
    #[inline]
    pub fn find(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<u32> {
        let (line, place) = self.position(hash, same)?;
        Some(self.lines[line].number(place))
    }

    /// Enters a number with its hash; `hash_of` is that of any number in the index.
    pub fn insert(&mut self, number: u32, hash: u64, hash_of: impl Fn(u32) -> u64) {
        if (self.len + 1) * 8 > self.lines.len() * LINE * 7 {
            self.resize(self.lines.len() * LINE * 2, hash_of);
        }
        self.place(number, hash);
    }

    #[cold]
    fn resize(&mut self, capacity: usize, hash_of: impl Fn(u32) -> u64) {
        let old = std::mem::replace(self, Self::new(capacity));
        for line in &old.lines {
            for place in (0..LINE).filter(|place| line.tag(*place) != 0) {
                self.place(line.number(place), hash_of(line.number(place)));
            }
        }
    }

    /// Takes the number out that has this hash and that `same` accepts.
    pub fn remove(&mut self, hash: u64, same: impl Fn(u32) -> bool) {
        let Some((line, place)) = self.position(hash, same) else { return };
        let mut at = self.home(hash);
        while at != line {
            self.lines[at].passed -= 1;
            at = self.next(at);
        }
        self.lines[line].set_tag(place, 0);
        self.len -= 1;
    }

    /// Where a search begins: the hash's high half, scaled.
    #[inline]
    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.lines.len() as u64) >> 32) as usize
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
    }

    #[inline]
    fn position(&self, hash: u64, same: impl Fn(u32) -> bool) -> Option<(usize, usize)> {
        let mut at = self.home(hash);
        for _ in 0..self.lines.len() {
            let line = &self.lines[at];
            if let Some(place) = line.places(byte(hash)).find(|place| same(line.number(*place))) {
                return Some((at, place));
            }
            if line.passed == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    fn place(&mut self, number: u32, hash: u64) {
        let mut at = self.home(hash);
        loop {
            let line = &mut self.lines[at];
            if let Some(place) = line.places(0).next() {
                let [a, b, c, _] = number.to_le_bytes();
                line.numbers[place] = [a, b, c];
                line.set_tag(place, byte(hash));
                self.len += 1;
                return;
            }
            line.passed += 1;
            at = self.next(at);
        }
    }
}

/// Lines that are four fifths full with so many numbers.
const fn lines_for(capacity: usize) -> usize {
    capacity / (LINE * 4 / 5) + 1
}

/// The byte that a number's place has: of the hash's low half, the high one says the line.
#[inline]
fn byte(hash: u64) -> u8 {
    tag(hash << 48)
}

const _: () = assert!(size_of::<Line>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    /// All in one line's way, and all alike to look at.
    fn crowd(_: u32) -> u64 {
        7
    }

    #[test]
    fn what_found_its_line_full_is_found_and_leaves_nothing_behind() {
        let mut index = Index::new(200);
        for number in 0..100 {
            index.insert(number, 7, crowd);
        }
        for number in 0..100 {
            assert_eq!(index.find(7, |n| n == number), Some(number));
        }
        for number in (0..100).rev() {
            index.remove(7, |n| n == number);
            assert_eq!(index.find(7, |n| n == number), None);
            assert_eq!(index.len(), number as usize);
        }
        assert!(index.lines.iter().all(|line| line.passed == 0 && line.tags == [0; 2]));
    }

    #[test]
    fn all_are_found_after_room_was_made_for_more() {
        let hash_of = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut index = Index::new(0);
        (0..50).for_each(|number| index.insert(number, hash_of(number), hash_of));
        index.reserve(100_000, hash_of);
        let lines = index.lines.len();
        index.reserve(50, hash_of);
        assert_eq!((index.lines.len(), index.len()), (lines, 50), "room is never taken away");
        for number in 0..50 {
            assert_eq!(index.find(hash_of(number), |n| n == number), Some(number));
        }
    }

    #[test]
    fn a_search_for_what_is_not_there_ends_although_every_line_was_passed() {
        let mut index = Index::new(1);
        for number in 0..13 {
            index.insert(number, 7, crowd);
        }
        index.lines.iter_mut().for_each(|line| line.passed += 1);
        assert_eq!(index.find(7, |n| n == 99), None);
    }
}
