//! One slot: publish, read, count, retire.

use weir_layout::flow::{FlowState, GENERATION, StateOwner, VALID};
use weir_wire::entry::{Entry, EntryWords};
use weir_wire::family::Family;
use weir_wire::forward::Direction;
use weir_wire::rewrite::Rewrite;
use weir_wire::tcp::{Place, Segment};

use super::words::{SlotWords, Stored};
use crate::sync::{AtomicU64, Ordering, fence};

/// Ports and protocol in the last key word; the rest is flags, state and owner, and uplink.
const KEY_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);

/// A slot of a family's table.
#[repr(transparent)]
#[derive(Debug)]
pub struct Slot<F: Stored>(F::Slot);

/// What forwarding a packet needs of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action<F: Family> {
    /// What leaves.
    pub rewrite: Rewrite<F::Address>,
    /// Where it leaves to, see [`FlowEntry4::adjacency`](weir_layout::flow::FlowEntry4::adjacency).
    pub adjacency: u16,
    /// Whom it comes from, see [`FlowEntry4::mark`](weir_layout::flow::FlowEntry4::mark).
    pub mark: u16,
    /// Slot of the other direction.
    pub peer: u32,
    /// Bits of [`weir_layout::flow::flag`].
    pub flags: u8,
    /// Where the flow stands.
    pub flow_state: FlowState,
    /// Owner.
    pub worker: u8,
    /// Uplink.
    pub uplink: u8,
}

/// What a walk over the table looks at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// IP protocol.
    pub proto: u8,
    /// Bits of [`weir_layout::flow::flag`].
    pub flags: u8,
    /// Where the flow stands.
    pub flow_state: FlowState,
    /// Owner.
    pub worker: u8,
    /// Does the flow hold its endpoint's mapping?
    pub is_mapped: bool,
    /// Uplink.
    pub uplink: u8,
}

impl<F: Family> Action<F> {
    /// What the decision about its packets needs.
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        let Self { flags, uplink, adjacency, mark, peer, .. } = *self;
        Direction { flags, uplink, adjacency, mark, peer }
    }
}

impl<F: Stored> Slot<F> {
    /// Does the slot hold the key of these words now?
    #[inline]
    pub fn holds(&self, key: F::Words) -> bool {
        let key = key.as_ref();
        let same = |at: usize| {
            let mask = if at == F::WORDS - 1 { KEY_MASK } else { u64::MAX };
            self.0.key()[at].load(Ordering::Relaxed) & mask == key[at]
        };
        self.is_valid() && (0..F::WORDS).all(same)
    }

    /// Is there a flow in the slot?
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.0.state().load(Ordering::Acquire) & VALID != 0
    }

    /// The word of ports, protocol, flags, state and owner, and uplink.
    #[inline]
    fn ports(&self) -> &AtomicU64 {
        &self.0.key()[F::WORDS - 1]
    }

    /// Protocol, flags, flow state, owner and uplink of the flow in the slot: one load.
    #[inline]
    pub fn meta(&self) -> Meta {
        let [.., proto, flags, owner, uplink] = self.ports().load(Ordering::Relaxed).to_ne_bytes();
        let owner = StateOwner::from_byte(owner);
        let (flow_state, worker, is_mapped) = (owner.state(), owner.worker(), owner.is_mapped());
        Meta { proto, flags, flow_state, worker, is_mapped, uplink }
    }

    /// Which use of the slot this is: another flow in it has another number.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.0.state().load(Ordering::Acquire)
    }

    /// The action, for the slot's owner, which alone could change it.
    #[inline]
    pub fn action(&self) -> Action<F> {
        let [a0, a1, m0, m1, e0, e1, e2, e3] = self.0.out().load(Ordering::Relaxed).to_ne_bytes();
        let Meta { flags, flow_state, worker, uplink, .. } = self.meta();
        Action {
            rewrite: F::rewrite(&load(self.0.rewrite())),
            adjacency: u16::from_ne_bytes([a0, a1]),
            mark: u16::from_ne_bytes([m0, m1]),
            peer: u32::from_ne_bytes([e0, e1, e2, e3]),
            flags,
            flow_state,
            worker,
            uplink,
        }
    }

    /// A whole entry as one reader sees it; `None` when there is none, or it changed meanwhile.
    pub fn read(&self) -> Option<Entry<F>> {
        self.words().map(|words| Entry::from(&words))
    }

    /// Its words.
    #[inline]
    pub(super) fn words(&self) -> Option<EntryWords<F>> {
        let state = self.0.state().load(Ordering::Acquire);
        if state & VALID == 0 {
            return None;
        }
        let words = self.load();
        fence(Ordering::Acquire);
        let same = self.0.state().load(Ordering::Relaxed) == state;
        same.then_some(words)
    }

    /// The words of the flow that is in the slot, or was the last there, with the
    /// [generation](Self::generation) that says which. `is_free` tells whether its tag is zero:
    /// what has ended stays as it was until another worker claims the slot. `None`: the slot was
    /// never used, or is being changed.
    pub(super) fn last_words(&self, is_free: impl Fn() -> bool) -> Option<(u32, EntryWords<F>)> {
        let state = self.0.state().load(Ordering::Acquire);
        if state == 0 {
            return None;
        }
        let words = self.load();
        // Who sees a word of the next flow sees that the slot was claimed for it; and who sees that
        // free again sees the generation that it had.
        fence(Ordering::Acquire);
        let whole = state & VALID != 0 || is_free();
        fence(Ordering::Acquire);
        let same = self.0.state().load(Ordering::Relaxed) == state;
        (whole && same).then_some((state, words))
    }

    /// What stands there, whole or not.
    #[inline(always)]
    fn load(&self) -> EntryWords<F> {
        let (packets, bytes) = self.0.counters();
        EntryWords::<F> {
            last_seen: self.last_seen(),
            key: load(self.0.key()),
            rewrite: load(self.0.rewrite()),
            out: self.0.out().load(Ordering::Relaxed),
            packets,
            next_seq: self.next_seq(),
            bytes,
        }
    }

    /// Makes a slot that the caller has claimed hold a direction.
    pub(super) fn publish(&self, words: &EntryWords<F>) {
        // Whoever sees one of the stores below sees that the slot's earlier flow has ended.
        fence(Ordering::Release);
        self.0.last_seen().store(words.last_seen, Ordering::Relaxed);
        store(self.0.key(), words.key.as_ref());
        store(self.0.rewrite(), words.rewrite.as_ref());
        self.0.out().store(words.out, Ordering::Relaxed);
        self.0.set_counters(words.packets, words.bytes);
        self.0.next_seq().store(words.next_seq, Ordering::Relaxed);
        let generation = self.0.state().load(Ordering::Relaxed) & !VALID;
        self.0.state().store(generation.wrapping_add(GENERATION) | VALID, Ordering::Release);
    }

    /// Counts a packet, and says that the flow lives.
    #[inline]
    pub fn count(&self, bytes: u64, now_ms: u32) {
        self.0.last_seen().store(now_ms, Ordering::Relaxed);
        self.0.count(bytes);
    }

    /// Follows the sequence numbers of a direction by a segment that acknowledges `ack`, if
    /// anything, before the packet is [counted](Self::count); `peer` is the other direction. Says
    /// what the segment is to it, never [`Place::Beyond`].
    #[inline]
    pub fn track_sequence(&self, segment: Segment, ack: Option<u32>, peer: &Self) -> Place {
        let place = match self.0.is_unused() {
            true => Place::New,
            false => segment.follow(self.next_seq(), ack, || Some(peer.next_seq())),
        };
        if place == Place::New {
            self.set_next_seq(segment.end);
        }
        place
    }

    /// The direction's numbers go on with this one.
    pub fn set_next_seq(&self, seq: u32) {
        self.0.next_seq().store(seq, Ordering::Relaxed);
    }

    /// TCP: the sequence number after the last byte that was forwarded in this direction.
    #[inline]
    pub fn next_seq(&self) -> u32 {
        self.0.next_seq().load(Ordering::Relaxed)
    }

    /// Bytes forwarded in this direction.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.0.counters().1
    }

    /// When a packet last took this direction.
    #[inline]
    pub fn last_seen(&self) -> u32 {
        self.0.last_seen().load(Ordering::Relaxed)
    }

    /// Owner only: replaces flags and flow state.
    #[inline]
    pub fn set_meta(&self, flags: u8, flow_state: FlowState) {
        change(self.ports(), |[_, _, _, _, _, had, owner, _]| {
            (*had, *owner) = (flags, StateOwner::from_byte(*owner).with_state(flow_state).byte());
        });
    }

    /// Gives the entry to another worker; only while none runs.
    pub fn set_worker(&self, worker: u8) {
        change(self.ports(), |[_, _, _, _, _, _, owner, _]| {
            *owner = StateOwner::from_byte(*owner).with_worker(worker).byte();
        });
    }

    /// The flow holds no mapping any more; only while no worker runs.
    pub fn unmap(&self) {
        change(self.ports(), |[_, _, _, _, _, _, owner, _]| {
            *owner = StateOwner::from_byte(*owner).with_mapping(false).byte();
        });
    }

    /// Owner only: replaces the host that the direction's packets come from.
    #[inline]
    pub fn set_mark(&self, mark: u16) {
        change(self.0.out(), |out| out[2..4].copy_from_slice(&mark.to_ne_bytes()));
    }

    /// Owner only: replaces where the direction leaves to.
    #[inline]
    pub fn set_adjacency(&self, adjacency: u16) {
        change(self.0.out(), |out| out[..2].copy_from_slice(&adjacency.to_ne_bytes()));
    }

    /// Owner only: names the other direction's slot.
    #[cfg_attr(loom, expect(dead_code, reason = "the table is not part of the models"))]
    pub(super) fn set_peer(&self, peer: u32) {
        change(self.0.out(), |out| out[4..].copy_from_slice(&peer.to_ne_bytes()));
    }

    /// Owner only: ends the flow.
    pub(super) fn retire(&self) {
        let generation = self.0.state().load(Ordering::Relaxed) & !VALID;
        self.0.state().store(generation, Ordering::Release);
    }
}

/// Changes a part of a word that only its owner changes, and stores it as one.
#[inline]
fn change(word: &AtomicU64, change: impl FnOnce(&mut [u8; 8])) {
    let mut bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    change(&mut bytes);
    word.store(u64::from_ne_bytes(bytes), Ordering::Release);
}

/// Loads words that only their owner changes.
#[inline]
fn load<W: Default + AsMut<[u64]>>(from: &[AtomicU64]) -> W {
    let mut words = W::default();
    for (word, from) in words.as_mut().iter_mut().zip(from) {
        *word = from.load(Ordering::Relaxed);
    }
    words
}

#[inline(always)]
fn store(to: &[AtomicU64], words: &[u64]) {
    for (to, word) in to.iter().zip(words) {
        to.store(*word, Ordering::Relaxed);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;
    use weir_wire::family::{V4, V6};

    use super::*;
    use crate::flows::TagWord;

    /// An entry of which every word is a number, but for what a family does not have.
    fn entry<F: Stored>(n: u8) -> EntryWords<F> {
        let (mut words, number) = (F::Words::default(), u64::from(n));
        words.as_mut().fill(number);
        let (last_seen, next_seq) = (n.into(), n.into());
        let packets = if F::FAMILY == V4::FAMILY { n.into() } else { 0 };
        EntryWords {
            last_seen,
            key: words,
            rewrite: words,
            out: number,
            packets,
            next_seq,
            bytes: number,
        }
    }

    fn a_reader_sees_one_flow_or_none<F: Stored<Slot: Default + Send>>() {
        // Two forced switches find a torn read; more only multiply the runs.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let slot = Arc::new(Slot::<F>(F::Slot::default()));
            slot.publish(&entry::<F>(1));
            let writer = {
                let slot = slot.clone();
                loom::thread::spawn(move || {
                    slot.retire();
                    slot.publish(&entry::<F>(2));
                })
            };
            if let Some(seen) = slot.read() {
                assert!([1, 2].map(|n| Entry::from(&entry::<F>(n))).contains(&seen));
            }
            writer.join().unwrap();
        });
    }

    /// The slot is claimed by its tag, as the table does.
    fn a_reader_of_what_has_ended_sees_one_flow_or_none<F: Stored<Slot: Default + Send>>() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let table = Arc::new((Slot::<F>(F::Slot::default()), TagWord::default()));
            let (slot, tags) = &*table;
            let at = tags.claim(1, 0).unwrap();
            slot.publish(&entry::<F>(1));
            let writer = {
                let table = table.clone();
                loom::thread::spawn(move || {
                    let (slot, tags) = &*table;
                    slot.retire();
                    tags.release(at);
                    assert_eq!(tags.claim(2, at), Some(at));
                    slot.publish(&entry::<F>(2));
                })
            };
            let is_free = || tags.is_free(at);
            if let Some((state, words)) = slot.last_words(is_free) {
                let number = state / GENERATION;
                assert_eq!(words, entry::<F>(number as u8), "flow {number}");
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_reader_of_a_slot_that_is_given_back_and_claimed_sees_one_flow_or_none() {
        a_reader_of_what_has_ended_sees_one_flow_or_none::<V4>();
    }

    #[test]
    fn a_reader_of_an_ipv6_slot_that_is_given_back_and_claimed_sees_one_flow_or_none() {
        a_reader_of_what_has_ended_sees_one_flow_or_none::<V6>();
    }

    #[test]
    fn a_reader_of_a_recycled_slot_sees_one_flow_or_none() {
        a_reader_sees_one_flow_or_none::<V4>();
    }

    #[test]
    fn a_reader_of_a_recycled_ipv6_slot_sees_one_flow_or_none() {
        a_reader_sees_one_flow_or_none::<V6>();
    }
}
