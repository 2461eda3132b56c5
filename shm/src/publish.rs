//! The epoch protocol: one writer, two halves, any number of readers.
//!
//! The writer fills the half that the next epoch selects, then stores the epoch. A reader copies
//! the half of the epoch it saw and looks at the epoch again: if it has not moved, the writer
//! cannot have begun to rewrite that half. This is a sequence lock whose readers never wait,
//! because the half being written is never the current one.
//!
//! Ordering, in the words of the memory model (x86 and arm64 alike):
//! - the writer's data stores come after a release fence that follows the previous epoch store, so
//!   a reader that sees any of them sees at least that epoch in its second look;
//! - the epoch store is a release, the reader's first look an acquire: the half is complete;
//! - the reader's data loads come before an acquire fence and the second look.

use crate::sync::{AtomicU64, Ordering, fence};

/// Writes `data` as epoch `epoch + 1`; `half` are the words of the half that epoch selects.
/// Returns the new epoch.
pub fn write(epoch: &AtomicU64, half: &[AtomicU64], data: impl IntoIterator<Item = u64>) -> u64 {
    let next = epoch.load(Ordering::Relaxed).wrapping_add(1);
    fence(Ordering::Release);
    for (word, value) in half.iter().zip(data) {
        update(word, value);
    }
    epoch.store(next, Ordering::Release);
    next
}

/// Stores a value, relaxed, unless it is there already: the cache line then stays with its readers.
#[inline]
pub fn update(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

/// Copies the current half with `copy`, which gets the epoch; `false` when the writer
/// moved on meanwhile, so that the copy may be torn.
pub fn read(epoch: &AtomicU64, copy: impl FnOnce(u64)) -> bool {
    let seen = epoch.load(Ordering::Acquire);
    copy(seen);
    fence(Ordering::Acquire);
    epoch.load(Ordering::Relaxed) == seen
}

/// Announces that what is stored from now on is of epoch `next`, and takes the room of `next - 2`.
pub fn begin(begun: &AtomicU64, next: u64) {
    begun.store(next, Ordering::Relaxed);
    fence(Ordering::Release);
}

/// What `read` finds in the room of `epoch`; `None` when that is being taken for another. The writer
/// [announces](begin) what it begins.
#[inline]
pub fn read_in_place<T>(begun: &AtomicU64, epoch: u64, read: impl FnOnce() -> T) -> Option<T> {
    let found = read();
    fence(Ordering::Acquire);
    (begun.load(Ordering::Relaxed).wrapping_sub(epoch) < 2).then_some(found)
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;

    #[test]
    fn a_reader_sees_one_publication_and_never_a_mixture() {
        loom::model(|| {
            let epoch = Arc::new(AtomicU64::new(0));
            let halves: Arc<[[AtomicU64; 2]; 2]> = Arc::new([
                [AtomicU64::new(0), AtomicU64::new(0)],
                [AtomicU64::new(0), AtomicU64::new(0)],
            ]);
            let writer = {
                let (epoch, halves) = (epoch.clone(), halves.clone());
                loom::thread::spawn(move || {
                    for value in 1..=3u64 {
                        // The first word is stored once, and then found as it is to be.
                        write(&epoch, &halves[(value & 1) as usize], [7, value]);
                    }
                })
            };
            let (mut seen, mut copied) = (0, [0, 0]);
            let whole = read(&epoch, |at| {
                seen = at;
                let half = &halves[(at & 1) as usize];
                copied = [half[0].load(Ordering::Relaxed), half[1].load(Ordering::Relaxed)];
            });
            if whole {
                let first = if seen == 0 { 0 } else { 7 };
                assert_eq!(copied, [first, seen]);
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn what_is_read_in_place_is_of_the_epoch_or_nothing() {
        loom::model(|| {
            let (epoch, begun) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(1)));
            // The room of odd epochs, and that of even ones.
            let rooms = Arc::new([AtomicU64::new(0), AtomicU64::new(1)]);
            let writer = {
                let (epoch, begun, rooms) = (epoch.clone(), begun.clone(), rooms.clone());
                loom::thread::spawn(move || {
                    for next in 2..=3u64 {
                        begin(&begun, next);
                        rooms[(next & 1) as usize].store(next, Ordering::Relaxed);
                        write(&epoch, &[], []);
                    }
                })
            };
            let seen = epoch.load(Ordering::Acquire);
            let room = &rooms[(seen & 1) as usize];
            let found = read_in_place(&begun, seen, || room.load(Ordering::Relaxed));
            assert!(found.is_none_or(|found| found == seen), "{found:?} of {seen}");
            writer.join().unwrap();
        });
    }
}
