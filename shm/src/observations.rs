//! What the workers see of their users' new connections, interval by interval.

use std::sync::Arc;
use std::sync::atomic::fence;

use weir_layout::MAX_WORKERS;
use weir_layout::control::PathId;
use weir_layout::observations::{INTERVAL_MS, Interval, SLOTS, WorkerObservations};
use zerocopy::{FromBytes, IntoBytes};

use crate::map::{Access, Mmap};
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

const WORKER_WORDS: usize = size_of::<WorkerObservations>() / 8;
const PATHS_AT: usize = std::mem::offset_of!(WorkerObservations, paths) / 8;
const INTERVAL_WORDS: usize = size_of::<Interval>() / 8;

/// The observations of all workers, mapped.
#[derive(Clone, Debug)]
pub struct Observations {
    mmap: Arc<Mmap>,
}

impl Observations {
    /// Opens the pinned region, creating it when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        Ok(Self { mmap: Arc::new(pins.observations(access)?) })
    }

    /// Observations of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        let bytes = MAX_WORKERS * size_of::<WorkerObservations>();
        Ok(Self { mmap: Arc::new(Mmap::anonymous(bytes)?) })
    }

    /// The number of the interval at `now_ms` of CLOCK_MONOTONIC. The first is 1.
    pub const fn number(now_ms: u64) -> u64 {
        now_ms / INTERVAL_MS + 1
    }

    /// What a worker saw of a path in interval `number`; `None` when it saw nothing, has not
    /// written it yet or has since overwritten it.
    pub fn read(&self, worker: u8, path: PathId, number: u64) -> Option<Interval> {
        let words = self.slot(worker, path, number);
        let (first, rest) = words.split_first()?;
        if first.load(Ordering::Acquire) != number {
            return None;
        }
        let mut copy = [0u64; INTERVAL_WORDS];
        copy[0] = number;
        for (to, from) in copy[1..].iter_mut().zip(rest) {
            *to = from.load(Ordering::Relaxed);
        }
        fence(Ordering::Acquire);
        let whole = first.load(Ordering::Relaxed) == number;
        whole.then(|| Interval::read_from_bytes(copy.as_bytes()).ok()).flatten()
    }

    /// Writes what a worker saw of a path in the interval that it names. A worker writes its own
    /// only.
    pub fn write(&self, worker: u8, path: PathId, interval: &Interval) {
        let words = self.slot(worker, path, interval.number);
        let Some((first, rest)) = words.split_first() else { return };
        first.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, from) in rest.iter().zip(interval.as_bytes()[8..].chunks_exact(8)) {
            let word = u64::from_ne_bytes(from.try_into().unwrap_or_default());
            to.store(word, Ordering::Relaxed);
        }
        first.store(interval.number, Ordering::Release);
    }

    fn slot(&self, worker: u8, path: PathId, number: u64) -> &[AtomicU64] {
        let worker = usize::from(worker) % MAX_WORKERS;
        let interval = path.index() * SLOTS + (number % SLOTS as u64) as usize;
        let at = worker * WORKER_WORDS + PATHS_AT + interval * INTERVAL_WORDS;
        &self.mmap.view::<AtomicU64>(0)[at..at + INTERVAL_WORDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_layout::Family;
    use weir_layout::observations::NewFlows;

    fn interval(number: u64) -> Interval {
        let tcp = NewFlows { flows: number * 2, unanswered: number, ..NewFlows::default() };
        Interval { number, tcp, udp: NewFlows::default() }
    }

    #[test]
    fn an_interval_is_read_as_it_was_written() {
        let observations = Observations::anonymous().unwrap();
        for family in Family::ALL {
            let path = |uplink| PathId::new(uplink, family);
            observations.write(3, path(63), &interval(7));
            assert_eq!(observations.read(3, path(63), 7), Some(interval(7)));
            assert_eq!(observations.read(3, path(62), 7), None);
            assert_eq!(observations.read(2, path(63), 7), None);
        }
    }

    #[test]
    fn an_interval_that_was_overwritten_is_gone() {
        let observations = Observations::anonymous().unwrap();
        for number in 1..=SLOTS as u64 + 1 {
            observations.write(0, PathId::v4(0), &interval(number));
        }
        assert_eq!(observations.read(0, PathId::v4(0), 1), None);
        assert_eq!(observations.read(0, PathId::v4(0), 2), Some(interval(2)));
        assert_eq!(observations.read(0, PathId::v4(0), SLOTS as u64 + 2), None);
    }
}
