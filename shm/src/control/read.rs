//! Copies of what is published: whole ones, and the half that a worker works by.

use std::mem::offset_of;

use weir_layout::control::{
    BUCKETS, BucketTable, ControlHalf, ControlPage, HOME_BANK, PORT_WORDS, PathId,
};
use weir_layout::{Family, MAX_POLICIES, checksum64};

use super::{ControlRegion, empty_half, tables};
use crate::map;
use crate::publish;
use crate::sync::Ordering;

/// How often a reader begins anew when the writer was faster.
const TRIES: usize = 3;

/// What one publication says, with its bucket tables: for those who look at it now and then.
#[derive(Debug)]
pub struct Snapshot {
    /// Uplinks, policies, rules.
    pub half: Box<ControlHalf>,
    /// Bucket tables, by [`Family`] and policy; none: no uplink has a path in the family.
    tables: [Vec<Option<Box<BucketTable>>>; Family::COUNT],
}

impl Snapshot {
    /// As [`ControlRegion::snapshot`].
    pub(super) fn take(region: &ControlRegion) -> Option<Box<Self>> {
        let tables = Family::ALL.map(|_| Vec::new());
        let mut snapshot = Box::new(Self { half: empty_half(), tables });
        let load = |snapshot: &mut Self, epoch| snapshot.load(region, epoch);
        read_sound(region, &mut *snapshot, load, Self::is_sound).then_some(snapshot)
    }

    fn load(&mut self, region: &ControlRegion, epoch: u64) {
        region.load_half(epoch, &mut self.half);
        self.tables = Family::ALL.map(|family| {
            let table = |policy: usize| {
                let published = self.half.policies[policy].steering(family).has_table != 0;
                published.then(|| region.bank((epoch & 1) as usize, family, policy))
            };
            (0..MAX_POLICIES).map(table).collect()
        });
    }

    /// The bucket table of a policy in a family; `None`: no uplink has a path in the family, or
    /// there is no such policy.
    pub fn table(&self, family: Family, policy: usize) -> Option<&BucketTable> {
        self.tables[family.index()].get(policy)?.as_deref()
    }

    fn is_sound(&self) -> bool {
        let is_table_sound = |(family, policy): (Family, usize)| {
            let wanted = self.half.policies[policy].steering(family).buckets_checksum;
            self.table(family, policy).is_none_or(|table| checksum64(table) == wanted)
        };
        is_half_sound(&self.half) && tables().all(is_table_sound)
    }
}

/// A worker's copy of the half. It looks at bucket tables where they are: see
/// [`ControlRegion::bucket`].
#[derive(Debug)]
pub struct Current {
    /// Uplinks, policies, rules.
    pub half: Box<ControlHalf>,
    /// Where the next one is put together.
    next: Box<ControlHalf>,
}

impl Default for Current {
    /// An empty state.
    fn default() -> Self {
        Self { half: empty_half(), next: empty_half() }
    }
}

impl Current {
    /// Replaces the copy by the current state; allocates nothing. `false`: nothing is published, the
    /// writer was faster three times over, or the checksum is wrong; the copy then stays.
    pub fn refresh(&mut self, region: &ControlRegion) -> bool {
        let load = |half: &mut ControlHalf, epoch| region.load_half(epoch, half);
        let sound = read_sound(region, &mut *self.next, load, is_half_sound);
        if sound {
            std::mem::swap(&mut self.half, &mut self.next);
        }
        sound
    }
}

/// Has `load` read the current epoch's part of the region into `into`, until that is of one
/// publication and `is_sound`; `false`: not in [`TRIES`].
fn read_sound<T>(
    region: &ControlRegion,
    into: &mut T,
    load: impl Fn(&mut T, u64),
    is_sound: impl Fn(&T) -> bool,
) -> bool {
    (0..TRIES)
        .any(|_| publish::read(region.epoch_word(), |epoch| load(into, epoch)) && is_sound(into))
}

/// As [`ControlRegion::copy_to`].
pub(super) fn copy(from: &ControlRegion, to: &ControlRegion) -> bool {
    (0..TRIES).any(|_| {
        let mut copied = 0;
        let whole = publish::read(from.epoch_word(), |epoch| {
            copied = epoch;
            copy_epoch(from, to, epoch);
        });
        publish::begin(to.word(offset_of!(ControlPage, begun)), copied);
        to.epoch_word().store(copied, Ordering::Release);
        whole && to.snapshot().is_some()
    })
}

/// Copies what is of an epoch, and what stands outside all: each field at the width that it has.
fn copy_epoch(from: &ControlRegion, to: &ControlRegion, epoch: u64) {
    let mut half = empty_half();
    map::copy(&from.page, &to.page, ControlRegion::half_offset(epoch), size_of_val(&*half));
    to.load_half(epoch, &mut half);
    let has_table = |(family, policy): &(Family, usize)| {
        half.policies[*policy].steering(*family).has_table != 0
    };
    for (family, policy) in tables().filter(has_table) {
        for bank in [(epoch & 1) as usize, HOME_BANK] {
            let offset = ControlRegion::table_offset(bank, family, policy);
            map::copy(&from.buckets, &to.buckets, offset, BUCKETS);
        }
    }
    from.copy_sets(&half.sets, to);
    for path in PathId::all() {
        let state = from.state_word(path).load(Ordering::Relaxed);
        to.state_word(path).store(state, Ordering::Relaxed);
    }
    let ports = offset_of!(ControlPage, bound_ports);
    map::copy(&from.page, &to.page, ports, PORT_WORDS * size_of::<u64>());
}

fn is_half_sound(half: &ControlHalf) -> bool {
    half.epoch != 0 && half.checksum == half.compute_checksum()
}
