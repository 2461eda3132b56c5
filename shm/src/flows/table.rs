//! The table: slots and tags together.

use std::marker::PhantomData;
use std::sync::Arc;

use weir_layout::flow::{GROUP, PAGE};
use weir_layout::tags::{PAGE_GROUPS, choices, lowest, matching, preferred, spills, tag, used};
use weir_wire::entry::{Entry, EntryWords};
use weir_wire::family::V4;

use super::tags::free_from;
use super::{Slot, Stored, TagWord};
use crate::map::{Access, Mmap, prefetch};
use crate::{Error, Pins, pins::name};
use weir_wire::key::FlowKey;

/// The table of a family, shared by all workers of the process and by every process that maps it.
#[derive(Debug)]
pub struct FlowTable<F: Stored> {
    slots: Arc<Mmap>,
    tags: Arc<Mmap>,
    pages: u32,
    _family: PhantomData<F>,
}

/// The IPv4 table.
pub type FlowTable4 = FlowTable<V4>;

impl<F: Stored> Clone for FlowTable<F> {
    fn clone(&self) -> Self {
        Self::new(self.slots.clone(), self.tags.clone(), self.pages)
    }
}

impl<F: Stored> FlowTable<F> {
    /// Opens the pinned table for writing, creating one of [`Self::capacity_for`] slots when there
    /// is none. The caller makes sure that the status page vouches for a table that exists.
    pub fn open(pins: &Pins, slots: u32) -> Result<Self, Error> {
        Self::checked(pins, pages_for(slots), Access::Write)
    }

    /// Opens the pinned table for reading.
    pub fn read_only(pins: &Pins) -> Result<Self, Error> {
        Self::checked(pins, 0, Access::Read)
    }

    fn checked(pins: &Pins, pages: u32, access: Access) -> Result<Self, Error> {
        let (slots, shape) = pins.flows::<F>(pages, access)?;
        let (tags, tag_shape) = pins.tags::<F>(shape.entries, access)?;
        if tag_shape.entries != shape.entries {
            return Err(Error::Layout {
                path: pins.path(name::tags(F::FAMILY)),
                found: format!("{} pages", tag_shape.entries),
                expected: format!("{} pages, as {}", shape.entries, name::flows(F::FAMILY)),
            });
        }
        Ok(Self::new(Arc::new(slots), Arc::new(tags), tag_shape.entries))
    }
}

impl<F: Stored> FlowTable<F> {
    /// Slots of a new table that is to have at least `slots`: whole pages.
    pub fn capacity_for(slots: u32) -> u32 {
        pages_for(slots) * PAGE
    }

    /// A table of this process alone.
    pub fn anonymous(slots: u32) -> std::io::Result<Self> {
        let pages = pages_for(slots);
        let of = |bytes: usize| Mmap::anonymous(bytes).map(Arc::new);
        let slots = of((pages * PAGE) as usize * size_of::<Slot<F>>())?;
        Ok(Self::new(slots, of((pages * PAGE_GROUPS) as usize * size_of::<TagWord>())?, pages))
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// Number of slots.
    pub fn capacity(&self) -> u32 {
        self.pages * PAGE
    }

    /// The slot at `index`; an index out of range, from shared memory, is some slot or other.
    #[inline]
    pub fn slot(&self, index: u32) -> &Slot<F> {
        let slots = self.slots.view::<Slot<F>>(0);
        slots.get(index as usize).unwrap_or(&slots[0])
    }

    #[inline]
    fn tags(&self, group: u32) -> &TagWord {
        &self.tags.view::<TagWord>(0)[group as usize]
    }

    /// Is nothing in the group of the slot at `index`?
    #[inline]
    pub fn is_group_free(&self, index: u32) -> bool {
        self.tags(index / GROUP).load() == 0
    }

    /// Asks for the tags that a search for `hash` begins with.
    #[inline]
    pub fn prefetch_tags(&self, hash: u64) {
        prefetch(self.tags(choices(hash, self.pages).page * PAGE_GROUPS));
    }

    /// Asks for the tags that a search for `hash` ends with, when it finds nothing.
    #[inline]
    pub fn prefetch_spills(&self, hash: u64) {
        prefetch(self.tags(spills(hash, self.pages).page * PAGE_GROUPS));
    }

    /// Asks for the slot that inserting `hash` will most likely take.
    #[inline]
    pub fn prefetch_free(&self, hash: u64) {
        let free = |group| free_from(self.tags(group).load(), preferred(hash));
        let group = self.group_for(hash);
        if let Some(slot) = free(group) {
            prefetch(self.slot(group * GROUP + slot));
        }
    }

    /// Asks for the slot that a search for `hash` will most likely look at; or, if the tags show
    /// none, for those where the search goes on.
    #[inline]
    pub fn prefetch_slot(&self, hash: u64) {
        for group in choices(hash, self.pages).in_table() {
            let mask = matching(self.tags(group).load(), tag(hash));
            if mask != 0 {
                prefetch(self.slot(group * GROUP + lowest(mask)));
                return;
            }
        }
        self.prefetch_spills(hash);
    }

    /// Asks for a slot and its tag.
    #[inline]
    pub fn prefetch_entry(&self, index: u32) {
        let index = index.min(self.capacity() - 1);
        prefetch(self.slot(index));
        prefetch(self.tags(index / GROUP));
    }

    /// The slot that holds `key`.
    #[inline]
    pub fn find(&self, hash: u64, key: &FlowKey<F>) -> Option<u32> {
        let words = key.words();
        let [a, b] = choices(hash, self.pages).in_table();
        self.search(a, hash, words)
            .or_else(|| self.search(b, hash, words))
            .or_else(|| self.search_spills(hash, words))
    }

    #[inline]
    fn search(&self, group: u32, hash: u64, words: F::Words) -> Option<u32> {
        let mut mask = matching(self.tags(group).load(), tag(hash));
        while mask != 0 {
            let index = group * GROUP + lowest(mask);
            if self.slot(index).holds(words) {
                return Some(index);
            }
            mask &= mask - 1;
        }
        None
    }

    #[cold]
    fn search_spills(&self, hash: u64, words: F::Words) -> Option<u32> {
        let [a, b] = spills(hash, self.pages).in_table();
        self.search(a, hash, words).or_else(|| self.search(b, hash, words))
    }

    /// Claims a slot for `hash` and publishes a direction in it; `None` when all its groups are
    /// full.
    pub fn insert(&self, hash: u64, words: &EntryWords<F>) -> Option<u32> {
        let index = loop {
            let group = self.group_for(hash);
            if let Some(slot) = self.tags(group).claim(tag(hash), preferred(hash)) {
                break group * GROUP + slot;
            }
            // Another worker took the last slot of the group just now, or there is none anywhere.
            if self.used(self.group_for(hash)) == GROUP {
                return None;
            }
        };
        self.slot(index).publish(words);
        Some(index)
    }

    /// The group to insert `hash` in. The first choice while half of it is free, so that most flows
    /// stand where readers look first; else the emptier of both; and once both are about to fill,
    /// the emptiest of all four, without which pages would fill unevenly.
    #[inline]
    fn group_for(&self, hash: u64) -> u32 {
        let [a, b] = choices(hash, self.pages).in_table();
        let in_a = self.used(a);
        if in_a <= GROUP / 2 {
            return a;
        }
        let in_b = self.used(b);
        if in_a.min(in_b) >= GROUP - 1 {
            return self.emptiest_group(hash);
        }
        if in_b < in_a { b } else { a }
    }

    /// The emptiest of the four groups for `hash`.
    #[cold]
    fn emptiest_group(&self, hash: u64) -> u32 {
        let [a, b] = choices(hash, self.pages).in_table();
        let [c, d] = spills(hash, self.pages).in_table();
        let emptier = |x, y| if self.used(y) < self.used(x) { y } else { x };
        [b, c, d].into_iter().fold(a, emptier)
    }

    #[inline]
    fn used(&self, group: u32) -> u32 {
        used(self.tags(group).load())
    }

    /// Owner only: makes two published entries each other's peer.
    pub fn link(&self, a: u32, b: u32) {
        self.slot(a).set_peer(b);
        self.slot(b).set_peer(a);
    }

    /// Owner only: ends the flow in the slot.
    pub fn retire(&self, index: u32) {
        self.slot(index).retire();
        if index < self.capacity() {
            self.tags(index / GROUP).release(index % GROUP);
        }
    }

    /// The flow that is in a slot, or was the last there, and which use of the slot that is: its
    /// [`GENERATION`](weir_layout::flow::GENERATION)s, with [`VALID`](weir_layout::flow::VALID)
    /// while the flow is there. One that has ended can be read until the slot is used again, with
    /// all that it has counted. `None`: the slot was never used, or is being changed.
    pub fn last(&self, index: u32) -> Option<(u32, Entry<F>)> {
        let is_free = || self.tags(index / GROUP).is_free(index % GROUP);
        let (state, words) = self.slot(index).last_words(is_free)?;
        Some((state, Entry::from(&words)))
    }

    /// Copies the flows to an empty table of the same size that nobody else uses, each in its slot.
    /// One that begins or ends meanwhile may be missing there, or a direction of it; none is torn.
    pub fn copy_to(&self, copy: &Self) {
        for group in 0..self.pages.min(copy.pages) * PAGE_GROUPS {
            let found = self.tags(group).load();
            let mut kept = found;
            for slot in (0..GROUP).filter(|slot| found >> (8 * slot) & 0xff != 0) {
                let index = group * GROUP + slot;
                match self.slot(index).words() {
                    Some(words) => copy.slot(index).publish(&words),
                    None => kept &= !(0xff << (8 * slot)),
                }
            }
            if kept != 0 {
                copy.tags(group).set(kept);
            }
        }
    }

    /// Frees slots that a worker of an earlier process claimed and never published. Only while
    /// no worker runs.
    pub fn recover(&self) {
        for group in 0..self.pages * PAGE_GROUPS {
            let word = self.tags(group).load();
            for slot in (0..GROUP).filter(|slot| word >> (8 * slot) & 0xff != 0) {
                if !self.slot(group * GROUP + slot).is_valid() {
                    self.tags(group).release(slot);
                }
            }
        }
    }
}

impl<F: Stored> FlowTable<F> {
    fn new(slots: Arc<Mmap>, tags: Arc<Mmap>, pages: u32) -> Self {
        Self { slots, tags, pages, _family: PhantomData }
    }
}

fn pages_for(slots: u32) -> u32 {
    slots.div_ceil(PAGE).max(1)
}

#[cfg(test)]
mod tests {
    use weir_layout::MAX_WORKERS;
    use weir_layout::flow::{FlowState, GENERATION, StateOwner, VALID, slots_for};
    use weir_wire::entry::NewDirection;
    use weir_wire::family::{Family, V6};
    use weir_wire::key::{FlowKey4, FlowKey6};

    use super::*;

    /// A direction with this key.
    fn words<F: Family>(key: &FlowKey<F>) -> EntryWords<F> {
        let new = NewDirection {
            flags: 0b101,
            state_owner: StateOwner::new(FlowState::Established, 1),
            uplink: 3,
            adjacency: 77,
            mark: 5,
            now: 7,
        };
        let words = new.words::<F>(key, &key.reversed());
        EntryWords { next_seq: 5, bytes: 7 << 32 | 6, ..words }
    }

    fn entry(n: u32) -> EntryWords<V4> {
        words(&key(n))
    }

    fn key(n: u32) -> FlowKey4 {
        FlowKey4::new(n.to_be_bytes(), [198, 51, 100, 1], [1, 2], [3, 4], 17)
    }

    #[test]
    fn what_is_published_is_read_back() {
        let table = FlowTable4::anonymous(64).unwrap();
        let entry = entry(1);
        let index = table.insert(7, &entry).unwrap();
        assert_eq!(table.slot(index).read(), Some(Entry::from(&entry)));
        assert_eq!(table.find(7, &key(1)), Some(index));
    }

    #[test]
    fn what_the_owner_changes_leaves_the_rest_of_the_entry_as_it_was() {
        let table = FlowTable4::anonymous(64).unwrap();
        let slot = table.slot(table.insert(7, &entry(1)).unwrap());
        let mut entry = Entry::from(&entry(1));
        for worker in [0, 17, MAX_WORKERS as u8 - 1] {
            slot.set_worker(worker);
            slot.set_meta(worker, FlowState::Closing);
            slot.set_adjacency(worker.into());
            slot.set_mark(!u16::from(worker));
            slot.set_peer(u32::MAX);
            let meta = slot.meta();
            assert_eq!((meta.worker, meta.flow_state), (worker, FlowState::Closing));
            (entry.flags, entry.peer) = (worker, u32::MAX);
            (entry.adjacency, entry.mark) = (worker.into(), !u16::from(worker));
            entry.state_owner = StateOwner::new(FlowState::Closing, worker);
            assert_eq!(slot.read(), Some(entry));
        }
    }

    #[test]
    fn a_retired_flow_is_not_found_and_its_neighbours_are() {
        let table = FlowTable4::anonymous(64).unwrap();
        let first = table.insert(7, &entry(1)).unwrap();
        let second = table.insert(7, &entry(2)).unwrap();
        table.retire(first);
        assert_eq!(table.find(7, &key(1)), None);
        assert_eq!(table.find(7, &key(2)), Some(second));
        assert_eq!(table.insert(7, &entry(1)), Some(first));
    }

    #[test]
    fn what_a_flow_counted_can_be_read_after_its_end_until_its_slot_is_claimed() {
        let table = FlowTable4::anonymous(64).unwrap();
        assert_eq!(table.last(0), None, "never used");
        let index = table.insert(7, &entry(1)).unwrap();
        let (first, _) = table.last(index).unwrap();
        table.slot(index).count(100, 9);
        table.retire(index);
        let (ended, counted) = table.last(index).unwrap();
        assert_eq!([first, ended], [GENERATION | VALID, GENERATION]);
        assert_eq!((counted.key, counted.last_seen), (key(1), 9));
        assert_eq!((counted.packets, counted.bytes), (1, 7 << 32 | 106));
        assert_eq!(table.tags(index / GROUP).claim(9, index % GROUP), Some(index % GROUP));
        assert_eq!(table.last(index), None, "somebody is about to use it");
        table.slot(index).publish(&entry(2));
        let (second, now) = table.last(index).unwrap();
        assert_eq!((second, now.key), ((2 * GENERATION) | VALID, key(2)));
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let table = FlowTable4::anonymous(2 * PAGE).unwrap();
        let hash = |n: u32| key(n).hash([1, 2]);
        let (mut kept, mut n) = (Vec::new(), 0);
        while kept.len() < 2 * PAGE as usize {
            kept.extend(table.insert(hash(n), &entry(n)).map(|_| n));
            n += 1;
        }
        assert_eq!(table.insert(hash(n), &entry(n)), None);
        assert!(kept.iter().all(|n| table.find(hash(*n), &key(*n)).is_some()));
    }

    #[test]
    fn slots_claimed_by_a_dead_process_become_free() {
        let table = FlowTable4::anonymous(PAGE).unwrap();
        assert_eq!(table.tags(0).claim(9, 0), Some(0));
        assert_eq!(table.insert(0, &entry(1)), Some(1));
        table.recover();
        assert_eq!(table.insert(0, &entry(2)), Some(0));
    }

    #[test]
    fn a_table_as_full_as_it_was_made_for_refuses_next_to_nothing() {
        let flows = 50_000;
        let table = FlowTable4::anonymous(slots_for(flows)).unwrap();
        let secret = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let hash = |n: u32| key(n).hash(secret);
        let (kept, refused): (Vec<_>, Vec<_>) =
            (0..2 * flows).partition(|n| table.insert(hash(*n), &entry(*n)).is_some());
        assert!(refused.len() <= 5, "{} refused", refused.len());
        assert!(kept.iter().all(|n| table.find(hash(*n), &key(*n)).is_some()));
    }

    fn key6(n: u32) -> FlowKey6 {
        let mut src = [0xfd; 16];
        src[12..].copy_from_slice(&n.to_be_bytes());
        FlowKey6::new(src, [0x20; 16], [1, 2], [3, 4], 17)
    }

    #[test]
    fn an_ipv6_flow_is_found_as_it_was_inserted_until_it_is_retired() {
        let table = FlowTable::<V6>::anonymous(slots_for(1000)).unwrap();
        let hash = |n: u32| key6(n).hash([1, 2]);
        let flows: Vec<_> =
            (0..1000).map(|n| (n, table.insert(hash(n), &words(&key6(n))).unwrap())).collect();
        for (n, slot) in &flows {
            assert_eq!(table.find(hash(*n), &key6(*n)), Some(*slot));
            let entry = Entry::from(&words::<V6>(&key6(*n)));
            assert_eq!(table.slot(*slot).read(), Some(entry));
            let action = table.slot(*slot).action();
            assert_eq!((action.rewrite, action.peer), (entry.rewrite, entry.peer));
        }
        for (n, slot) in flows.iter().step_by(2) {
            table.retire(*slot);
            assert_eq!(table.find(hash(*n), &key6(*n)), None);
        }
        for (n, slot) in flows.iter().skip(1).step_by(2) {
            assert_eq!(table.find(hash(*n), &key6(*n)), Some(*slot));
        }
    }

    #[test]
    fn bytes_of_an_ipv6_direction_go_on_beyond_32_bits() {
        let table = FlowTable::<V6>::anonymous(64).unwrap();
        let entry = EntryWords { bytes: (2 << 32) - 1, ..words::<V6>(&key6(1)) };
        let slot = table.slot(table.insert(7, &entry).unwrap());
        slot.count(2, 99);
        assert_eq!((slot.bytes(), slot.last_seen()), ((2 << 32) + 1, 99));
    }

    #[test]
    fn a_flow_costs_at_most_160_bytes() {
        let per_slot =
            size_of::<Slot<V4>>() as f64 + size_of::<TagWord>() as f64 / f64::from(GROUP);
        let bytes = per_slot * f64::from(slots_for(1_000_000)) / 1e6;
        assert!(bytes <= 160.0, "{bytes}");
    }
}
