//! Later fragments follow the first: by its rewrite, or to the worker that it was handed off to.
//!
//! Only a first fragment has ports. What became of it is kept, by what it shares with the later
//! ones, for [`LIFETIME_MS`]. Those that come before it [wait](crate::early). The table has a fixed
//! size: a new first fragment takes the place of an old one, but one that was dropped takes that of
//! none that went on.

use weir_shm::flows::Action;
use weir_wire::family::{Family, V4};
use weir_wire::hash::hash2;

use crate::early::WAIT_MS;

const SLOTS: usize = 1024;
/// How long fragments of a packet may straggle (RFC 791 suggests 15 s).
pub const LIFETIME_MS: u32 = 15_000;

/// What the fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey<F: Family = V4> {
    /// Do they come in by an uplink?
    pub outside: bool,
    /// Source address.
    pub src: F::Address,
    /// Destination address.
    pub dst: F::Address,
    /// [`Parsed::ident`](weir_wire::parse::Parsed::ident).
    pub ident: u32,
}

/// What was decided about a first fragment.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<F: Family = V4> {
    /// It left.
    Forwarded(Action<F>),
    /// It went to the worker that owns, or will own, its flow.
    HandedOff(u8),
    /// It was dropped.
    Dropped,
}

/// What was decided, and when, milliseconds.
#[derive(Clone, Copy, Debug)]
struct Decided<F: Family> {
    key: FragmentKey<F>,
    verdict: Verdict<F>,
    at: u32,
}

impl<F: Family> Decided<F> {
    fn holds(&self, now: u32) -> bool {
        let lifetime = match self.verdict {
            Verdict::Dropped => WAIT_MS,
            _ => LIFETIME_MS,
        };
        now.wrapping_sub(self.at) < lifetime
    }
}

/// Verdicts of recent first fragments.
#[derive(Debug)]
pub struct Fragments<F: Family = V4> {
    slots: Box<[Option<Decided<F>>; SLOTS]>,
    secret: [u64; 2],
}

impl<F: Family> Fragments<F> {
    /// An empty table.
    pub fn new(secret: [u64; 2]) -> Self {
        Self { slots: Box::new([None; SLOTS]), secret }
    }

    /// Keeps the verdict of a first fragment.
    pub fn remember(&mut self, key: FragmentKey<F>, verdict: Verdict<F>, now: u32) {
        let slot = self.slot(&key);
        self.slots[slot] = Some(Decided { key, verdict, at: now });
    }

    /// A first fragment was dropped: for [`WAIT_MS`] its later ones are not waited for. If it had gone to
    /// another worker, that has handed it back, and they go there no more.
    pub fn refuse(&mut self, key: FragmentKey<F>, now: u32) {
        let slot = self.slot(&key);
        let went_on = |decided: Decided<F>| {
            let is_back = decided.key == key && matches!(decided.verdict, Verdict::HandedOff(_));
            decided.holds(now) && !is_back
        };
        if !self.slots[slot].is_some_and(went_on) {
            self.slots[slot] = Some(Decided { key, verdict: Verdict::Dropped, at: now });
        }
    }

    /// The verdict of a later fragment.
    pub fn recall(&self, key: &FragmentKey<F>, now: u32) -> Option<Verdict<F>> {
        let decided = self.slots[self.slot(key)]?;
        (decided.key == *key && decided.holds(now)).then_some(decided.verdict)
    }

    fn slot(&self, key: &FragmentKey<F>) -> usize {
        let word = |address| u64::from(F::digest(self.secret, address));
        let addresses = word(&key.src) << 32 | word(&key.dst);
        let datagram = u64::from(key.outside) << 32 | u64::from(key.ident);
        hash2(self.secret, addresses, datagram) as usize % SLOTS
    }
}

#[cfg(test)]
mod tests {
    use weir_wire::family::V6;

    use super::*;

    fn later_fragments_get_the_verdict_of_their_first_for_a_while<F: Family>(
        address: impl Fn(u8) -> F::Address,
    ) {
        let mut fragments = Fragments::<F>::new([1, 2]);
        let key = |ident| FragmentKey { outside: false, src: address(1), dst: address(2), ident };
        fragments.remember(key(7), Verdict::HandedOff(3), 1000);
        let recalled = |key, now| match fragments.recall(&key, now) {
            Some(Verdict::HandedOff(worker)) => Some(worker),
            _ => None,
        };
        assert_eq!(recalled(key(7), 1000 + LIFETIME_MS - 1), Some(3));
        assert_eq!(recalled(key(7), 1000 + LIFETIME_MS), None);
        assert_eq!(recalled(key(8), 1000), None);
        assert_eq!(recalled(FragmentKey { dst: address(3), ..key(7) }, 1000), None);
        assert_eq!(recalled(FragmentKey { outside: true, ..key(7) }, 1000), None);
    }

    const fn key(ident: u32) -> FragmentKey {
        FragmentKey { outside: false, src: [1; 4], dst: [2; 4], ident }
    }

    #[test]
    fn a_first_that_came_back_and_was_dropped_sends_no_others_on() {
        let mut fragments = Fragments::<V4>::new([1, 2]);
        fragments.remember(key(7), Verdict::HandedOff(3), 1000);
        fragments.refuse(key(7), 1001);
        assert!(matches!(fragments.recall(&key(7), 1001), Some(Verdict::Dropped)));
    }

    #[test]
    fn a_first_that_was_dropped_takes_the_place_of_none_that_went_on() {
        let mut fragments = Fragments::<V4>::new([1, 2]);
        for ident in 0..2 * SLOTS as u32 {
            fragments.remember(key(ident), Verdict::HandedOff(3), 1000);
        }
        let went_on = |fragments: &Fragments, now| {
            let verdict = |ident| fragments.recall(&key(ident), now);
            let on = |ident: &u32| matches!(verdict(*ident), Some(Verdict::HandedOff(3)));
            (0..2 * SLOTS as u32).filter(on).count()
        };
        let before = went_on(&fragments, 1000);
        for ident in 2 * SLOTS as u32..6 * SLOTS as u32 {
            fragments.refuse(key(ident), 1000);
        }
        assert_eq!(went_on(&fragments, 1000), before);
        // A place that is free, or whose time is over, it takes for a while.
        let mut fragments = Fragments::<V4>::new([1, 2]);
        fragments.refuse(key(7), 1000);
        let dropped = |fragments: &Fragments, now| {
            matches!(fragments.recall(&key(7), now), Some(Verdict::Dropped))
        };
        assert!(dropped(&fragments, 1000 + WAIT_MS - 1) && !dropped(&fragments, 1000 + WAIT_MS));
        fragments.refuse(key(7), 1000 + WAIT_MS);
        assert!(dropped(&fragments, 1000 + WAIT_MS));
        fragments.remember(key(7), Verdict::HandedOff(3), 1000 + WAIT_MS);
        assert!(!dropped(&fragments, 1000 + WAIT_MS));
    }

    #[test]
    fn later_fragments_get_the_verdict_of_their_first_for_a_while_in_either_family() {
        later_fragments_get_the_verdict_of_their_first_for_a_while::<V4>(|n| [n; 4]);
        later_fragments_get_the_verdict_of_their_first_for_a_while::<V6>(|n| [n; 16]);
    }
}
