//! The table of adjacencies, by index: those that workers learn, and the next hops, which the
//! control process stores.

use std::sync::Arc;

use weir_layout::adjacency::{ADJACENCIES, Adjacency, LEARNED, NEXT_HOPS, PROBES};
use weir_wire::hash::hash2;

use crate::map::{self, Access, Mmap};
use crate::rounds::Rounds;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// Of so many places one is kept for those that the kernel knows.
const KEPT: usize = 4;

/// The table, shared by all workers.
#[derive(Clone, Debug)]
pub struct Adjacencies {
    mmap: Arc<Mmap>,
    /// Of those that are learned.
    rounds: Arc<Rounds>,
    /// Of the hash.
    key: [u64; 2],
}

impl Adjacencies {
    /// Opens the pinned table, creating it when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access, key: [u64; 2]) -> Result<Self, Error> {
        Ok(Self::of(pins.adjacencies(access)?, key))
    }

    /// A table of this process alone.
    pub fn anonymous(key: [u64; 2]) -> std::io::Result<Self> {
        Ok(Self::of(Mmap::anonymous(ADJACENCIES * 8)?, key))
    }

    fn of(mmap: Mmap, key: [u64; 2]) -> Self {
        Self { mmap: Arc::new(mmap), rounds: Arc::new(Rounds::new(LEARNED)), key }
    }

    /// The index of an adjacency on a LAN, entering it when it is new; `None` when there is no
    /// room. It is the adjacency's for as long as a flow refers to it that is made at once.
    ///
    /// Any station can send in the name of as many as there are places. So a quarter of the places
    /// is kept for those that the [kernel knows](Self::learn_known).
    pub fn learn(&self, adjacency: Adjacency) -> Option<u16> {
        self.enter(adjacency, |place| place % KEPT != 0)
    }

    /// Enters one that is known to be there, in a place that is kept too; `None` when there is no
    /// room. It is there for [`learn`](Self::learn) for some rounds.
    pub fn learn_known(&self, adjacency: Adjacency) -> Option<u16> {
        self.enter(adjacency, |_| true)
    }

    /// Was it learned, and not forgotten since? Then flows refer to it, or did lately.
    pub fn is_learned(&self, adjacency: Adjacency) -> bool {
        let word = adjacency.to_word();
        self.places(word).any(|place| self.learned()[place].load(Ordering::Relaxed) == word)
    }

    /// Where the word may stand, of those that are learned.
    fn places(&self, word: u64) -> impl Iterator<Item = usize> + use<> {
        let first = hash2(self.key, word, 0) as usize;
        (0..PROBES).map(move |probe| first.wrapping_add(probe) & (LEARNED - 1))
    }

    fn enter(&self, adjacency: Adjacency, may_take: impl Fn(usize) -> bool) -> Option<u16> {
        const RELAXED: Ordering = Ordering::Relaxed;
        let word = adjacency.to_word();
        let words = self.learned();
        for place in self.places(word) {
            let mut found = words[place].load(RELAXED);
            if found == 0 && may_take(place) {
                let entered = words[place].compare_exchange(0, word, RELAXED, RELAXED);
                found = entered.map_or_else(|other| other, |_| word);
            }
            if found == word && self.rounds.mark(place) && words[place].load(RELAXED) == word {
                return Some((NEXT_HOPS + place) as u16);
            }
        }
        None
    }

    /// A worker has met a flow that refers to this index, on its walk over all its flows.
    #[inline]
    pub fn refer(&self, index: u16) {
        let place = usize::from(index).wrapping_sub(NEXT_HOPS);
        if place < LEARNED {
            self.rounds.mark(place);
        }
    }

    /// Number of the round: see [`Self::walked`].
    pub fn round(&self) -> u32 {
        self.rounds.now()
    }

    /// One of `workers` has walked over all its flows since the round began, which it says once in
    /// each round. When all have, the round ends, and what was learned is forgotten where no flow
    /// has referred to it for three.
    pub fn walked(&self, workers: u8) {
        self.rounds.walked(workers, |place| self.learned()[place].store(0, Ordering::Relaxed));
    }

    /// The adjacency at an index.
    #[inline]
    pub fn get(&self, index: u16) -> Option<Adjacency> {
        let word = words(&self.mmap).get(usize::from(index))?;
        Adjacency::from_word(word.load(Ordering::Relaxed))
    }

    /// Forgets every one that was learned for which `used` is false; only while no worker runs.
    pub fn retain(&self, mut used: impl FnMut(u16) -> bool) {
        self.rounds.begin_anew();
        for (index, word) in (NEXT_HOPS as u16..).zip(self.learned()) {
            if !used(index) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Copies all of it to a table that nobody else uses.
    pub fn copy_to(&self, copy: &Self) {
        map::copy(&self.mmap, &copy.mmap, 0, ADJACENCIES * size_of::<u64>());
    }

    /// The next hops in it.
    pub fn next_hops(&self) -> NextHops {
        NextHops(self.mmap.clone())
    }

    fn learned(&self) -> &[AtomicU64] {
        &words(&self.mmap)[NEXT_HOPS..]
    }
}

/// The writing side of the next hops, the control process's.
#[derive(Clone, Debug)]
pub struct NextHops(Arc<Mmap>);

impl NextHops {
    /// Opens the pinned table, creating it if need be.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self(Arc::new(pins.adjacencies(Access::Write)?)))
    }

    /// Of a table of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mmap::anonymous(ADJACENCIES * 8)?)))
    }

    /// Replaces them: the next packet of each flow goes there.
    pub fn set(&self, next_hops: &[Option<Adjacency>; NEXT_HOPS]) {
        for (word, next_hop) in words(&self.0).iter().zip(next_hops) {
            let next_hop = next_hop.map_or(0, Adjacency::to_word);
            // The line is one that every CPU reads.
            if word.load(Ordering::Relaxed) != next_hop {
                word.store(next_hop, Ordering::Relaxed);
            }
        }
    }
}

#[inline]
fn words(mmap: &Mmap) -> &[AtomicU64] {
    &mmap.view(0)[..ADJACENCIES]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u64; 2] = [3, 5];

    #[test]
    fn addresses_that_keep_a_host_out_under_one_key_do_not_under_another() {
        let at = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Adjacency { mac: [2, 0, a, b, c, d], port: 0 }
        };
        let host = at(0);
        let place = |of: Adjacency| hash2(KEY, of.to_word(), 0) as usize & (LEARNED - 1);
        let same = |of: &Adjacency| place(*of) == place(host);
        let computed: Vec<_> =
            (1..).map(at).filter(same).take(PROBES / KEPT * (KEPT - 1)).collect();
        let filled = |key| {
            let table = Adjacencies::anonymous(key).unwrap();
            assert!(computed.iter().all(|of| table.learn(*of).is_some()));
            table.learn(host).is_none()
        };
        assert!(filled(KEY) && !filled([5, 3]));
    }

    #[test]
    fn what_was_learned_is_known_to_be_and_nothing_else_is() {
        let table = Adjacencies::anonymous([3, 5]).unwrap();
        let one = Adjacency { mac: [2, 0, 0, 0, 0, 1], port: 0 };
        assert!(!table.is_learned(one));
        table.learn(one).unwrap();
        assert!(table.is_learned(one) && !table.is_learned(Adjacency { port: 1, ..one }));
    }

    #[test]
    fn a_host_that_the_kernel_knows_has_room_that_nobody_else_takes() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        let at = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Adjacency { mac: [2, 0, a, b, c, d], port: 0 }
        };
        let taken = (0..200_000).filter(|n| table.learn(at(*n)).is_some()).count();
        assert_eq!(taken, LEARNED / KEPT * (KEPT - 1));
        let host = at(200_000);
        assert_eq!(table.learn(host), None);
        let index = table.learn_known(host);
        assert!(index.is_some());
        assert_eq!(table.learn(host), index);
    }

    #[test]
    fn an_adjacency_keeps_its_index() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        let a = Adjacency { mac: [2, 0, 0, 0, 0, 1], port: 0 };
        let b = Adjacency { port: 1, ..a };
        let index = table.learn(a).unwrap();
        assert_eq!(table.learn(a), Some(index));
        assert_ne!(table.learn(b), Some(index));
        assert_eq!(table.get(index), Some(a));
    }

    #[test]
    fn next_hops_have_places_of_their_own_that_no_round_frees() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        let hop = Adjacency { mac: [2, 0, 0, 0, 0, 7], port: 3 };
        let mut next_hops = [None; NEXT_HOPS];
        (next_hops[0], next_hops[NEXT_HOPS - 1]) = (Some(hop), Some(hop));
        table.next_hops().set(&next_hops);
        let learned = table.learn(hop).unwrap();
        assert!(usize::from(learned) >= NEXT_HOPS);
        (0..9).for_each(|_| table.walked(1));
        table.retain(|_| false);
        assert_eq!(table.get(learned), None);
        assert_eq!(
            [0, 1, NEXT_HOPS as u16 - 1].map(|at| table.get(at)),
            [Some(hop), None, Some(hop)]
        );
        table.refer(0);
        table.next_hops().set(&[None; NEXT_HOPS]);
        assert_eq!(table.get(0), None);
    }

    #[test]
    fn an_index_without_an_address_or_out_of_range_is_nobody() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        assert_eq!(table.get(0), None);
        assert_eq!(table.get(u16::MAX), None);
    }
}
