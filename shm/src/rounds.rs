//! Which of some shared things flows still refer to, by rounds; within one process.
//!
//! A round ends when every worker has walked over all its flows since it began, and marked what they
//! refer to. What has gone unmarked for [`UNMARKED`] rounds is no flow's, not even one that is just
//! being made: its maker marks first, and no round but the running one ends before it has walked
//! over the flow too. (It may have finished its walk before, and read the number a moment ago.)

use crate::sync::{AtomicU32, Ordering};

/// Rounds after which what nothing marked is let go.
const UNMARKED: u32 = 3;
/// A mark: being let go.
const GOING: u32 = u32::MAX;

/// The round, and in which each thing was last marked.
#[derive(Debug)]
pub struct Rounds {
    now: AtomicU32,
    /// Workers that have walked since it began.
    walked: AtomicU32,
    marks: Box<[AtomicU32]>,
}

impl Rounds {
    /// For so many things, all just marked.
    pub fn new(things: usize) -> Self {
        let marks = (0..things).map(|_| AtomicU32::new(0)).collect();
        Self { now: AtomicU32::new(0), walked: AtomicU32::new(0), marks }
    }

    /// Number of the round.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// Marks a thing, which then stays; `false`: it is being let go. After `true` the caller has to
    /// look whether the thing is still the one that it meant.
    #[inline]
    pub fn mark(&self, thing: usize) -> bool {
        let (now, mark) = (self.now(), &self.marks[thing]);
        let stays = |last| (last != GOING).then_some(now);
        mark.load(Ordering::Acquire) == now
            || mark.fetch_update(Ordering::AcqRel, Ordering::Acquire, stays).is_ok()
    }

    /// One of `workers` has walked over its flows, once in this round. The last one ends the round,
    /// and does `let_go` for each thing that nothing has marked for so long.
    pub fn walked(&self, workers: u8, let_go: impl Fn(usize)) {
        if self.walked.fetch_add(1, Ordering::AcqRel) + 1 < workers.into() {
            return;
        }
        let now = self.now();
        for (thing, mark) in self.marks.iter().enumerate() {
            let last = mark.load(Ordering::Relaxed);
            let (taken, failed) = (Ordering::Acquire, Ordering::Relaxed);
            if now.wrapping_sub(last) >= UNMARKED
                && mark.compare_exchange(last, GOING, taken, failed).is_ok()
            {
                let_go(thing);
                // Who marks it from now on sees that it is gone.
                mark.store(now, Ordering::Release);
            }
        }
        self.begin_anew();
        self.now.store(now.wrapping_add(1) % GOING, Ordering::Release);
    }

    /// Forgets who has walked in this round: other workers start.
    pub fn begin_anew(&self) {
        self.walked.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_every_worker_leaves_unmarked_goes_and_cannot_be_marked_while_it_does() {
        let rounds = Rounds::new(3);
        let gone = RefCell::new(Vec::new());
        for round in 0..7 {
            assert_eq!(rounds.now(), round);
            rounds.mark(1);
            rounds.walked(2, |_| panic!("one worker has not walked"));
            rounds.walked(2, |thing| {
                assert!(!rounds.mark(thing));
                gone.borrow_mut().push((round, thing));
            });
        }
        assert_eq!(gone.into_inner(), [(3, 0), (3, 2), (6, 0), (6, 2)]);
    }
}
