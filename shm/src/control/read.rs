//! Copies of what is published: whole ones, and the half that a worker works by.

use weir_layout::control::{BucketTable, ControlHalf};
use weir_layout::{Family, MAX_POLICIES, checksum64};

use super::{ControlRegion, empty_half, tables};
use crate::publish;

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

fn is_half_sound(half: &ControlHalf) -> bool {
    half.epoch != 0 && half.checksum == half.compute_checksum()
}
