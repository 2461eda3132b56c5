//! What the dataplane says about itself.

use std::mem::offset_of;
use std::sync::Arc;

use weir_layout::status::{DeviceStatus, StatusPage, WorkerStatus};
use weir_layout::{Family, MAX_DEVICES, MAX_WORKERS, RegionHeader, RegionKind};

use crate::flows::{Slot, Stored};
use crate::map::{self, Access, Mmap};
use crate::pins::{name, read_header, write_header};
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// After how long without a sign of life a process is stopped or hangs, milliseconds: both give one
/// several times a second.
pub const SILENT_MS: u64 = 3000;

/// How long ago the worker that is longest silent finished a turn, milliseconds; 0 when none runs.
pub fn silence_ms(page: &StatusPage, now_ms: u64) -> u64 {
    let workers = page.worker.iter().take(page.workers as usize);
    let turned = workers.map(|worker| worker.heartbeat_ms).filter(|turned| *turned != 0);
    turned.map(|turned| now_ms.saturating_sub(turned)).max().unwrap_or(0)
}

/// The status page, mapped.
#[derive(Clone, Debug)]
pub struct Status {
    mapping: Arc<Mmap>,
}

impl Status {
    /// Opens the pinned page, creating it when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        Ok(Self { mapping: Arc::new(pins.status(access)?) })
    }

    /// A page of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self { mapping: Arc::new(Mmap::anonymous(size_of::<StatusPage>())?) })
    }

    /// The page as it is now.
    pub fn read(&self) -> Box<StatusPage> {
        let mut page =
            <StatusPage as zerocopy::FromZeros>::new_box_zeroed().expect("memory for a page");
        map::load_into(&self.mapping, 0, &mut *page);
        page
    }

    /// Process id of the dataplane, 0 = none running.
    pub fn pid(&self) -> u64 {
        self.word(offset_of!(StatusPage, pid)).load(Ordering::Acquire)
    }

    /// Says who is the dataplane; 0 when it stops.
    pub fn set_pid(&self, pid: u64) {
        self.word(offset_of!(StatusPage, pid)).store(pid, Ordering::Release);
    }

    /// Says how many workers run.
    pub fn set_workers(&self, workers: u64) {
        self.word(offset_of!(StatusPage, workers)).store(workers, Ordering::Relaxed);
    }

    /// Says how many frames the tap device lost.
    pub fn set_tap_refused(&self, frames: u64) {
        self.word(offset_of!(StatusPage, tap_refused)).store(frames, Ordering::Relaxed);
    }

    /// Key of the flow hash; zero until [`Self::set_hash_key`].
    pub fn hash_key(&self) -> [u64; 2] {
        map::load(&self.mapping, offset_of!(StatusPage, hash_key))
    }

    /// Sets the key of the flow hash: once per boot, before the first flow.
    pub fn set_hash_key(&self, key: [u64; 2]) {
        map::store(&self.mapping, offset_of!(StatusPage, hash_key), &key);
    }

    /// Vouches for a family's flow table that is about to be created.
    pub fn set_flows<F: Stored>(&self, slots: u32) {
        write_header(&self.mapping, Self::flows_at::<F>(), Self::flows_header::<F>(slots));
    }

    /// Is the pinned flow table of this version's layout? `None`: no table was ever made.
    pub fn check_flows<F: Stored>(&self, pins: &Pins, slots: u32) -> Result<Option<()>, Error> {
        let at = Self::flows_at::<F>();
        if read_header(&self.mapping, at).magic == 0 {
            return Ok(None);
        }
        let expected = Self::flows_header::<F>(slots);
        pins.check_header(name::flows(F::FAMILY), &self.mapping, at, expected)?;
        Ok(Some(()))
    }

    const fn flows_at<F: Stored>() -> usize {
        offset_of!(StatusPage, flows) + F::FAMILY.index() * size_of::<RegionHeader>()
    }

    fn flows_header<F: Stored>(slots: u32) -> RegionHeader {
        let kind = match F::FAMILY {
            Family::V4 => RegionKind::Flows4,
            Family::V6 => RegionKind::Flows6,
        };
        RegionHeader::expected(kind, slots as usize * size_of::<Slot<F>>())
    }

    /// Publishes the state of a device's sockets.
    pub fn set_device(&self, device: u8, status: &DeviceStatus) {
        let index = usize::from(device) % MAX_DEVICES;
        let at = offset_of!(StatusPage, devices) + index * size_of::<DeviceStatus>();
        map::store(&self.mapping, at, status);
    }

    /// Publishes the state of a worker.
    pub fn set_worker(&self, worker: u8, status: &WorkerStatus) {
        let index = usize::from(worker) % MAX_WORKERS;
        let at = offset_of!(StatusPage, worker) + index * size_of::<WorkerStatus>();
        map::store(&self.mapping, at, status);
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        &self.mapping.view::<AtomicU64>(offset)[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_reads_back_what_was_set() {
        let status = Status::anonymous().unwrap();
        status.set_pid(42);
        status.set_hash_key([1, 2]);
        let page = status.read();
        assert_eq!((page.pid, page.hash_key), (42, [1, 2]));
    }

    #[test]
    fn the_worker_that_is_longest_silent_counts_and_none_that_does_not_run() {
        let status = Status::anonymous().unwrap();
        let mut worker = <WorkerStatus as zerocopy::FromZeros>::new_zeroed();
        let silence = || silence_ms(&status.read(), 5000);
        for (id, turned) in [(0, 4990), (1, 1000), (2, 0), (3, 100)] {
            worker.heartbeat_ms = turned;
            status.set_worker(id, &worker);
        }
        assert_eq!(silence(), 0, "none runs");
        status.set_workers(3);
        assert_eq!(silence(), 4000);
        status.set_workers(1);
        assert_eq!(silence(), 10);
    }
}
