//! Writing and reading the control page, the bucket tables and the sets of prefixes.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the region, and its words |
//! | `read` | copies of what is published |
//! | `sets` | the sets of prefixes, in place |
//! | `write` | the writing side |

mod read;
mod sets;
#[cfg(test)]
mod tests;
mod write;

use std::mem::offset_of;
use std::sync::Arc;

use weir_layout::control::{
    BUCKET_BANKS, BUCKETS, BucketTable, ControlHalf, ControlPage, PathId, TABLES, table_index,
};
use weir_layout::prefix_sets::REGION;
use weir_layout::{Family, MAX_POLICIES};
use zerocopy::FromZeros;

use crate::map::{self, Access, Mmap};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{Error, Pins, publish};

pub use read::{Current, Snapshot};
pub use write::{BoundPorts, ControlWriter, StateWords};

/// The control page, the bucket tables and the sets of prefixes, mapped.
#[derive(Clone, Debug)]
pub struct ControlRegion {
    page: Arc<Mmap>,
    buckets: Arc<Mmap>,
    sets: Arc<Mmap>,
}

impl ControlRegion {
    /// Opens the pinned regions, creating them when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let (page, buckets) = (pins.control(access)?, pins.buckets(access)?);
        let sets = Arc::new(pins.sets(access)?);
        Ok(Self { page: Arc::new(page), buckets: Arc::new(buckets), sets })
    }

    /// Regions of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self {
            page: Arc::new(Mmap::anonymous(size_of::<ControlPage>())?),
            buckets: Arc::new(Mmap::anonymous(BUCKET_BANKS * TABLES * BUCKETS)?),
            sets: Arc::new(Mmap::anonymous(REGION)?),
        })
    }

    /// Publications so far; 0 = none. A load of one word.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch_word().load(Ordering::Acquire)
    }

    /// State word of a path; 0, that is not usable, for an index out of range.
    #[inline]
    pub fn path_state(&self, path: PathId) -> u32 {
        if !path.is_valid() {
            return 0;
        }
        self.state_word(path).load(Ordering::Relaxed)
    }

    #[inline]
    fn state_word(&self, path: PathId) -> &AtomicU32 {
        let words = self.page.view::<AtomicU32>(offset_of!(ControlPage, path_state));
        &words[path.index()]
    }

    /// Has a socket of the gateway bound the port? A load of one word.
    #[inline]
    pub fn is_bound(&self, port: u16) -> bool {
        let words = self.page.view::<AtomicU64>(offset_of!(ControlPage, bound_ports));
        words[usize::from(port / 64)].load(Ordering::Relaxed) >> (port % 64) & 1 != 0
    }

    /// Process id of the control process that last started, and its latest sign of life in
    /// CLOCK_MONOTONIC milliseconds.
    pub fn control_process(&self) -> (u64, u64) {
        (
            self.word(offset_of!(ControlPage, pid)).load(Ordering::Relaxed),
            self.word(offset_of!(ControlPage, heartbeat_ms)).load(Ordering::Relaxed),
        )
    }

    /// Copies the current state and its bucket tables. `None`: nothing published yet, or the
    /// memory is not what a control process wrote (a wrong checksum).
    pub fn snapshot(&self) -> Option<Box<Snapshot>> {
        Snapshot::take(self)
    }

    /// Copies all of it to regions that nobody else uses; `false`: nothing is published, or
    /// something was each time it was tried. State words and bound ports are as they were some time
    /// meanwhile.
    pub fn copy_to(&self, copy: &Self) -> bool {
        read::copy(self, copy)
    }

    /// What a policy's table of a family says of a bucket in the state that was published as
    /// `epoch`: an uplink or [`NONE`](weir_layout::NONE), unchecked. Read in place. `None`: a state
    /// that takes its room is being published, or was.
    #[inline]
    pub fn bucket(&self, epoch: u64, family: Family, policy: usize, bucket: u16) -> Option<u8> {
        let table = Self::table_offset((epoch & 1) as usize, family, policy);
        let (word, byte) = (usize::from(bucket) / 8, usize::from(bucket) % 8);
        let words = self.buckets.view::<AtomicU64>(table);
        let begun = self.word(offset_of!(ControlPage, begun));
        let found = publish::read_in_place(begun, epoch, || words[word].load(Ordering::Relaxed));
        found.map(|word| word.to_ne_bytes()[byte])
    }

    /// A policy's bucket table in a bank, as it is, unchecked.
    pub fn bank(&self, bank: usize, family: Family, policy: usize) -> Box<BucketTable> {
        let mut table = new_table();
        self.load_table(bank, family, policy, &mut table);
        table
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        &self.page.view::<AtomicU64>(offset)[0]
    }

    fn epoch_word(&self) -> &AtomicU64 {
        self.word(offset_of!(ControlPage, epoch))
    }

    fn half_offset(epoch: u64) -> usize {
        offset_of!(ControlPage, half) + (epoch & 1) as usize * size_of::<ControlHalf>()
    }

    #[inline]
    fn table_offset(bank: usize, family: Family, policy: usize) -> usize {
        table_index(bank, family, policy) * BUCKETS
    }

    fn load_half(&self, epoch: u64, half: &mut ControlHalf) {
        map::load_into(&self.page, Self::half_offset(epoch), half);
    }

    fn load_table(&self, bank: usize, family: Family, policy: usize, table: &mut BucketTable) {
        map::load_into(&self.buckets, Self::table_offset(bank, family, policy), table);
    }
}

fn new_table() -> Box<BucketTable> {
    // Infallible but for exhausted memory, where the allocator's own handler is as good as any.
    BucketTable::new_box_zeroed().expect("64 KiB of memory")
}

/// The half of an empty state: epoch 0, no ports.
pub fn empty_half() -> Box<ControlHalf> {
    let mut half = ControlHalf::new_box_zeroed().expect("memory for the control page");
    half.clear();
    half
}

/// Where there may be a bucket table.
fn tables() -> impl Iterator<Item = (Family, usize)> {
    let of = |family| (0..MAX_POLICIES).map(move |policy| (family, policy));
    Family::ALL.into_iter().flat_map(of)
}
