//! Later fragments follow the first: by its rewrite, or to the worker that it was handed off to.
//!
//! Only a first fragment has ports. What became of it is kept, by addresses, identification and
//! protocol, for [`LIFETIME_MS`]; later fragments in order share it. A fragment that comes before its first is
//! dropped. The table has a fixed size: a new first fragment takes the place of an old one.

use weir_shm::flows::Action4;
use weir_wire::hash::hash2;

const SLOTS: usize = 1024;
/// How long fragments of a packet may straggle (RFC 791 suggests 15 s).
pub const LIFETIME_MS: u32 = 15_000;

/// What the fragments of a packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Identification.
    pub ident: u16,
    /// IP protocol.
    pub proto: u8,
}

/// What was decided about a first fragment.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// It left.
    Forwarded(Action4),
    /// It went to the worker that owns, or will own, its flow.
    HandedOff(u8),
}

/// Verdicts of recent first fragments.
#[derive(Debug)]
pub struct Fragments {
    slots: Box<[Option<(FragmentKey, Verdict, u32)>; SLOTS]>,
    secret: [u64; 2],
}

impl Fragments {
    /// An empty table.
    pub fn new(secret: [u64; 2]) -> Self {
        Self { slots: Box::new([None; SLOTS]), secret }
    }

    /// Keeps the verdict of a first fragment.
    pub fn remember(&mut self, key: FragmentKey, verdict: Verdict, now: u32) {
        let slot = self.slot(&key);
        self.slots[slot] = Some((key, verdict, now));
    }

    /// The verdict of a later fragment.
    pub fn recall(&self, key: &FragmentKey, now: u32) -> Option<Verdict> {
        let (of, verdict, since) = self.slots[self.slot(key)]?;
        (of == *key && now.wrapping_sub(since) < LIFETIME_MS).then_some(verdict)
    }

    fn slot(&self, key: &FragmentKey) -> usize {
        let word = |a: [u8; 4]| u64::from(u32::from_be_bytes(a));
        let addresses = word(key.src) << 32 | word(key.dst);
        let rest = u64::from(key.ident) << 8 | u64::from(key.proto);
        hash2(self.secret, addresses, rest) as usize % SLOTS
    }
}
