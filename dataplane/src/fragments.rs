//! Later fragments follow the first: by its rewrite, or to the worker that it was handed off to.
//!
//! Only a first fragment has ports. What became of it is kept, by what it shares with the later
//! ones, for [`LIFETIME_MS`]; those in order share it. A fragment that comes before its first is
//! dropped. The table has a fixed size: a new first fragment takes the place of an old one.

use weir_shm::flows::Action;
use weir_wire::family::{Family, V4};
use weir_wire::hash::hash2;

const SLOTS: usize = 1024;
/// How long fragments of a packet may straggle (RFC 791 suggests 15 s).
pub const LIFETIME_MS: u32 = 15_000;

/// What the fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey<F: Family = V4> {
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
}

/// What was decided, and when, milliseconds.
#[derive(Clone, Copy, Debug)]
struct Decided<F: Family> {
    key: FragmentKey<F>,
    verdict: Verdict<F>,
    at: u32,
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

    /// The verdict of a later fragment.
    pub fn recall(&self, key: &FragmentKey<F>, now: u32) -> Option<Verdict<F>> {
        let Decided { key: of, verdict, at } = self.slots[self.slot(key)]?;
        (of == *key && now.wrapping_sub(at) < LIFETIME_MS).then_some(verdict)
    }

    fn slot(&self, key: &FragmentKey<F>) -> usize {
        let word = |address| u64::from(F::digest(self.secret, address));
        let addresses = word(&key.src) << 32 | word(&key.dst);
        hash2(self.secret, addresses, key.ident.into()) as usize % SLOTS
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
        let key = |ident| FragmentKey { src: address(1), dst: address(2), ident };
        fragments.remember(key(7), Verdict::HandedOff(3), 1000);
        let recalled = |key, now| match fragments.recall(&key, now) {
            Some(Verdict::HandedOff(worker)) => Some(worker),
            _ => None,
        };
        assert_eq!(recalled(key(7), 1000 + LIFETIME_MS - 1), Some(3));
        assert_eq!(recalled(key(7), 1000 + LIFETIME_MS), None);
        assert_eq!(recalled(key(8), 1000), None);
        assert_eq!(recalled(FragmentKey { dst: address(3), ..key(7) }, 1000), None);
    }

    #[test]
    fn later_fragments_get_the_verdict_of_their_first_for_a_while_in_either_family() {
        later_fragments_get_the_verdict_of_their_first_for_a_while::<V4>(|n| [n; 4]);
        later_fragments_get_the_verdict_of_their_first_for_a_while::<V6>(|n| [n; 16]);
    }
}
