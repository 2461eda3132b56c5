//! LAN hardware addresses by index.

use std::sync::Arc;

use weir_layout::adjacency::{PROBES, ADJACENCIES, Adjacency};
use weir_wire::hash::hash2;

use crate::map::{Access, Mmap};
use crate::rounds::Rounds;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// Of so many places one is kept for those that the kernel knows.
const KEPT: usize = 4;

/// The table, shared by all workers.
#[derive(Clone, Debug)]
pub struct Adjacencies {
    mmap: Arc<Mmap>,
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
        Self { mmap: Arc::new(mmap), rounds: Arc::new(Rounds::new(ADJACENCIES)), key }
    }

    /// The index of a neighbour, entering it when it is new; `None` when there is no room. It is
    /// the neighbour's for as long as a flow refers to it that is made at once.
    ///
    /// Any station can send in the name of as many as there are places. So a quarter of the places is
    /// kept for those that the [kernel knows](Self::learn_known).
    pub fn learn(&self, neighbour: Adjacency) -> Option<u16> {
        self.enter(neighbour, |index| index % KEPT != 0)
    }

    /// Enters a neighbour that is known to be there, in a place that is kept too; `None` when there
    /// is no room. It is there for [`learn`](Self::learn) for some rounds.
    pub fn learn_known(&self, neighbour: Adjacency) -> Option<u16> {
        self.enter(neighbour, |_| true)
    }

    fn enter(&self, neighbour: Adjacency, may_take: impl Fn(usize) -> bool) -> Option<u16> {
        const RELAXED: Ordering = Ordering::Relaxed;
        let word = neighbour.to_word();
        let words = self.words();
        let first = hash2(self.key, word, 0) as usize;
        for probe in 0..PROBES {
            let index = first.wrapping_add(probe) & (ADJACENCIES - 1);
            let mut found = words[index].load(RELAXED);
            if found == 0 && may_take(index) {
                let entered = words[index].compare_exchange(0, word, RELAXED, RELAXED);
                found = entered.map_or_else(|other| other, |_| word);
            }
            if found == word && self.rounds.mark(index) && words[index].load(RELAXED) == word {
                return Some(index as u16);
            }
        }
        None
    }

    /// A worker has met a flow that refers to this neighbour, on its walk over all its flows.
    #[inline]
    pub fn refer(&self, index: u16) {
        let index = usize::from(index);
        if index < ADJACENCIES {
            self.rounds.mark(index);
        }
    }

    /// Number of the round: see [`Self::walked`].
    pub fn round(&self) -> u32 {
        self.rounds.now()
    }

    /// One of `workers` has walked over all its flows since the round began, which it says once in
    /// each round. When all have, the round ends, and neighbours are forgotten that no flow has
    /// referred to for three.
    pub fn walked(&self, workers: u8) {
        self.rounds.walked(workers, |index| self.words()[index].store(0, Ordering::Relaxed));
    }

    /// The neighbour at an index.
    #[inline]
    pub fn get(&self, index: u16) -> Option<Adjacency> {
        let word = self.words()[..ADJACENCIES].get(usize::from(index))?;
        Adjacency::from_word(word.load(Ordering::Relaxed))
    }

    /// Forgets every neighbour for which `used` is false; only while no worker runs.
    pub fn retain(&self, mut used: impl FnMut(u16) -> bool) {
        self.rounds.begin_anew();
        for (index, word) in self.words()[..ADJACENCIES].iter().enumerate() {
            if !used(index as u16) {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn words(&self) -> &[AtomicU64] {
        self.mmap.view(0)
    }
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
        let place = |of: Adjacency| hash2(KEY, of.to_word(), 0) as usize & (ADJACENCIES - 1);
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
    fn a_host_that_the_kernel_knows_has_room_that_nobody_else_takes() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        let at = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Adjacency { mac: [2, 0, a, b, c, d], port: 0 }
        };
        let taken = (0..200_000).filter(|n| table.learn(at(*n)).is_some()).count();
        assert_eq!(taken, ADJACENCIES / KEPT * (KEPT - 1));
        let host = at(200_000);
        assert_eq!(table.learn(host), None);
        let index = table.learn_known(host);
        assert!(index.is_some());
        assert_eq!(table.learn(host), index);
    }

    #[test]
    fn a_neighbour_keeps_its_index() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        let a = Adjacency { mac: [2, 0, 0, 0, 0, 1], port: 0 };
        let b = Adjacency { port: 1, ..a };
        let index = table.learn(a).unwrap();
        assert_eq!(table.learn(a), Some(index));
        assert_ne!(table.learn(b), Some(index));
        assert_eq!(table.get(index), Some(a));
    }

    #[test]
    fn an_index_without_an_address_or_out_of_range_is_nobody() {
        let table = Adjacencies::anonymous(KEY).unwrap();
        assert_eq!(table.get(0), None);
        assert_eq!(table.get(u16::MAX), None);
    }
}
