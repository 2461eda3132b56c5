//! A group's word of tags: claiming a slot, and giving it back.

use weir_layout::tags::{first_from, matching};

use crate::sync::{AtomicU64, Ordering};

/// See [`weir_layout::tags`].
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct TagWord(AtomicU64);

impl TagWord {
    /// The word.
    #[inline]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Is the slot nobody's?
    pub(super) fn is_free(&self, slot: u32) -> bool {
        self.load() >> (8 * slot) & 0xff == 0
    }

    /// Enters `tag` for a free slot, which is the caller's from then on: the `preferred` one or the
    /// next; `None` when there is none.
    pub(super) fn claim(&self, tag: u8, preferred: u32) -> Option<u32> {
        let mut word = self.load();
        loop {
            let slot = free_from(word, preferred)?;
            let claimed = word | u64::from(tag) << (8 * slot);
            // Acquire: what the last owner did to the slot has happened.
            match self.0.compare_exchange(word, claimed, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Some(slot),
                Err(now) => word = now,
            }
        }
    }

    /// Replaces the word, while nobody else looks at it.
    pub(super) fn set(&self, word: u64) {
        self.0.store(word, Ordering::Relaxed);
    }

    /// Gives back a slot of the caller's.
    pub(super) fn release(&self, slot: u32) {
        self.0.fetch_and(!(0xff << (8 * (slot & 7))), Ordering::Release);
    }
}

/// The free slot that [`TagWord::claim`] would take of a word: the `preferred` one or the next.
#[inline]
pub(super) fn free_from(word: u64, preferred: u32) -> Option<u32> {
    let free = matching(word, 0);
    (free != 0).then(|| first_from(preferred, free))
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;

    use super::*;

    #[test]
    fn two_workers_never_claim_one_slot() {
        loom::model(|| {
            let word = Arc::new(TagWord(AtomicU64::new(0x0101_0101_0101_0000)));
            let other = {
                let word = word.clone();
                loom::thread::spawn(move || word.claim(7, 0))
            };
            let mine = word.claim(8, 0);
            let theirs = other.join().unwrap();
            assert_eq!((mine.is_some(), theirs.is_some(), mine != theirs), (true, true, true));
        });
    }

    #[test]
    fn a_slot_given_back_keeps_the_claims_of_others() {
        loom::model(|| {
            let word = Arc::new(TagWord(AtomicU64::new(0x0101_0101_0101_0002)));
            let other = {
                let word = word.clone();
                loom::thread::spawn(move || word.release(0))
            };
            let mine = word.claim(8, 0);
            other.join().unwrap();
            assert_eq!(word.load(), 0x0101_0101_0101_0000 | 8 << (8 * mine.unwrap()));
        });
    }
}
