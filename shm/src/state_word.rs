//! A path's state word with two writers: one decides, the other knows of a reason against it
//! sooner.
//!
//! Who is sooner *reports* the reason beside the word, then puts it into the word. Who decides stores
//! the word, then looks at what is reported, and takes it into the word too. Each writes before it
//! reads or overwrites what is the other's, with a sequentially consistent fence between, so that
//! of two writers at a time at least one sees the other (store buffering, as in Dekker's
//! algorithm):
//! - if the fence of who reports comes first, who decides finds the reason and corrects the word;
//! - if the other comes first, the word that was decided precedes, in the modification order, the
//!   one with the reason.
//!
//! So a decision that knows nothing of what is reported never stands, on x86 and arm64 alike. Between
//! its two stores a reader may see it.

use crate::sync::{AtomicU32, Ordering, fence};

/// Stores a decision; `fallen` makes of it the word with what is reported.
pub fn decide(
    word: &AtomicU32,
    reported: &AtomicU32,
    decision: u32,
    fallen: impl Fn(u32, u32) -> u32,
) {
    word.store(decision, Ordering::Release);
    fence(Ordering::SeqCst);
    let reasons = reported.load(Ordering::Acquire);
    if reasons != 0 {
        word.store(fallen(decision, reasons), Ordering::Release);
    }
}

/// Reports a reason, and puts it into all words that it holds for.
pub fn report<'a>(
    words: impl IntoIterator<Item = &'a AtomicU32>,
    reported: &AtomicU32,
    reason: u32,
    fallen: impl Fn(u32, u32) -> u32,
) {
    reported.fetch_or(reason, Ordering::AcqRel);
    fence(Ordering::SeqCst);
    for word in words {
        word.store(fallen(word.load(Ordering::Acquire), reason), Ordering::Release);
    }
}

/// Takes back what was reported, because who decides knows of it; was it?
pub fn acknowledge(reported: &AtomicU32, reason: u32) -> bool {
    reported.fetch_and(!reason, Ordering::AcqRel) & reason != 0
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;

    const USABLE: u32 = 1;
    const NO_CARRIER: u32 = 2;

    fn fallen(word: u32, reasons: u32) -> u32 {
        (word & !USABLE) | reasons
    }

    #[test]
    fn what_was_decided_before_does_not_stand_against_what_is_reported() {
        loom::model(|| {
            let pair = Arc::new((AtomicU32::new(USABLE), AtomicU32::new(0)));
            let urgent = {
                let pair = pair.clone();
                loom::thread::spawn(move || report([&pair.0], &pair.1, NO_CARRIER, fallen))
            };
            decide(&pair.0, &pair.1, USABLE, fallen);
            urgent.join().unwrap();
            assert_eq!(pair.0.load(Ordering::Relaxed), NO_CARRIER);
            assert!(acknowledge(&pair.1, NO_CARRIER));
        });
    }

    #[test]
    fn what_is_acknowledged_is_in_the_next_decision() {
        loom::model(|| {
            let pair = Arc::new((AtomicU32::new(USABLE), AtomicU32::new(0)));
            let urgent = {
                let pair = pair.clone();
                loom::thread::spawn(move || report([&pair.0], &pair.1, NO_CARRIER, fallen))
            };
            // The state machine knows of the lost carrier once it has acknowledged it.
            let decision = if acknowledge(&pair.1, NO_CARRIER) { NO_CARRIER } else { USABLE };
            decide(&pair.0, &pair.1, decision, fallen);
            urgent.join().unwrap();
            assert_eq!(pair.0.load(Ordering::Relaxed), NO_CARRIER);
        });
    }
}
