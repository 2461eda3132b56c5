//! The sets of prefixes: which of them hold an address, and writing a bank.

use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weir_layout::Family;
use weir_layout::control::IpAddress;
use weir_layout::control::Sets;
use weir_layout::prefix_sets::{Head, MAX_RANGES, Ranges, bank, offset};

use super::ControlRegion;
use crate::publish;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

impl ControlRegion {
    /// The sets that hold an address, a bit each, by the state whose `sets` these are. Read in place.
    /// `None`: the bank is that of another state, or is being made that.
    #[inline]
    pub fn sets_of(&self, sets: &Sets, address: impl IpAddress) -> Option<u64> {
        self.read_bank(sets, || match address.into() {
            IpAddr::V4(address) => self.sets_of_v4(sets, address),
            IpAddr::V6(address) => self.sets_of_v6(sets, address),
        })
    }

    fn sets_of_v4(&self, sets: &Sets, address: Ipv4Addr) -> u64 {
        let (firsts, masks) = self.ranges4(sets);
        let address = u32::from(address);
        let behind = firsts.partition_point(|first| first.load(Ordering::Relaxed) <= address);
        mask(masks, behind)
    }

    fn sets_of_v6(&self, sets: &Sets, address: Ipv6Addr) -> u64 {
        let (firsts, masks) = self.ranges6(sets);
        let address = halves(address.into());
        let behind = firsts.partition_point(|first| load(first) <= address);
        mask(masks, behind)
    }

    /// Does the bank hold what was published? For those who look now and then.
    pub fn has_sound_sets(&self, sets: &Sets) -> bool {
        let load32 =
            |words: &[AtomicU32]| words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let load64 =
            |words: &[AtomicU64]| words.iter().map(|w| w.load(Ordering::Relaxed)).collect();
        let sum = self.read_bank(sets, || {
            let (firsts4, masks4) = self.ranges4(sets);
            let (firsts6, masks6) = self.ranges6(sets);
            let (firsts4, masks4): (Vec<u32>, Vec<u64>) = (load32(firsts4), load64(masks4));
            let firsts6: Vec<[u64; 2]> = firsts6.iter().map(load).collect();
            let masks6: Vec<u64> = load64(masks6);
            Ranges { firsts4: &firsts4, masks4: &masks4, firsts6: &firsts6, masks6: &masks6 }
                .checksum()
        });
        sum == Some(sets.checksum)
    }

    /// Stores ranges in the bank of a generation, as far as there is room. That of the one before
    /// stays.
    pub(super) fn store_sets(&self, generation: u64, ranges: &Ranges<'_>) {
        publish::begin(self.sets_begun(), generation);
        let base = bank(generation);
        let firsts = &self.sets.view::<AtomicU32>(base + offset::FIRSTS4)[..MAX_RANGES[0]];
        for (word, first) in firsts.iter().zip(ranges.firsts4) {
            word.store(*first, Ordering::Relaxed);
        }
        let firsts = ranges.firsts6.as_flattened();
        for (at, room, values) in [
            (offset::MASKS4, MAX_RANGES[0], ranges.masks4),
            (offset::FIRSTS6, 2 * MAX_RANGES[1], firsts),
            (offset::MASKS6, MAX_RANGES[1], ranges.masks6),
        ] {
            let words = &self.sets.view::<AtomicU64>(base + at)[..room];
            words.iter().zip(values).for_each(|(word, value)| publish::update(word, *value));
        }
    }

    /// Copies the sets of a half to a region that nobody else uses.
    pub(super) fn copy_sets(&self, sets: &Sets, to: &Self) {
        const RELAXED: Ordering = Ordering::Relaxed;
        let copy = |to: &[AtomicU64], from: &[AtomicU64]| {
            to.iter().zip(from).for_each(|(word, found)| word.store(found.load(RELAXED), RELAXED));
        };
        let [(firsts, masks), (old_firsts, old_masks)] = [to.ranges4(sets), self.ranges4(sets)];
        for (word, found) in firsts.iter().zip(old_firsts) {
            word.store(found.load(RELAXED), RELAXED);
        }
        copy(masks, old_masks);
        let [(firsts, masks), (old_firsts, old_masks)] = [to.ranges6(sets), self.ranges6(sets)];
        copy(firsts.as_flattened(), old_firsts.as_flattened());
        copy(masks, old_masks);
        publish::begin(to.sets_begun(), sets.generation);
    }

    fn read_bank<T>(&self, sets: &Sets, read: impl FnOnce() -> T) -> Option<T> {
        publish::read_in_place(self.sets_begun(), sets.generation, read)
    }

    fn sets_begun(&self) -> &AtomicU64 {
        &self.sets.view::<AtomicU64>(offset_of!(Head, begun))[0]
    }

    fn ranges4(&self, sets: &Sets) -> (&[AtomicU32], &[AtomicU64]) {
        let (base, count) = (bank(sets.generation), count(sets, Family::V4));
        let firsts = self.sets.view::<AtomicU32>(base + offset::FIRSTS4);
        let masks = self.sets.view::<AtomicU64>(base + offset::MASKS4);
        (&firsts[..count], &masks[..count])
    }

    fn ranges6(&self, sets: &Sets) -> (&[[AtomicU64; 2]], &[AtomicU64]) {
        let (base, count) = (bank(sets.generation), count(sets, Family::V6));
        let firsts = self.sets.view::<AtomicU64>(base + offset::FIRSTS6).as_chunks().0;
        let masks = self.sets.view::<AtomicU64>(base + offset::MASKS6);
        (&firsts[..count], &masks[..count])
    }
}

fn count(sets: &Sets, family: Family) -> usize {
    let at = family.index();
    (sets.ranges[at] as usize).min(MAX_RANGES[at])
}

/// The sets of the range before which so many begin, itself among them.
fn mask(masks: &[AtomicU64], behind: usize) -> u64 {
    let at = behind.checked_sub(1).and_then(|at| masks.get(at));
    at.map_or(0, |mask| mask.load(Ordering::Relaxed))
}

fn load([upper, lower]: &[AtomicU64; 2]) -> [u64; 2] {
    [upper.load(Ordering::Relaxed), lower.load(Ordering::Relaxed)]
}

const fn halves(address: u128) -> [u64; 2] {
    [(address >> 64) as u64, address as u64]
}
