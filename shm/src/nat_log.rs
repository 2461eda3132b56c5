//! The log of NAT allocations on its way from workers to the control process.

use std::mem::offset_of;
use std::sync::Arc;

use weir_layout::MAX_WORKERS;
use weir_layout::nat_log::{Event, RECORDS, Reader, Record, Ring};
use zerocopy::{FromBytes, IntoBytes};

use crate::map::{Access, Mmap};
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

const RECORD_WORDS: usize = size_of::<Record>() / 8;

/// The rings of all workers, and what the control process says of them, mapped.
#[derive(Clone, Debug)]
pub struct NatLog {
    rings: Arc<Mmap>,
    reader: Arc<Mmap>,
}

/// A worker's ring, for the worker.
#[derive(Clone, Debug)]
pub struct RingWriter {
    log: NatLog,
    worker: usize,
}

impl NatLog {
    /// Opens the pinned regions, creating them when `access` is [`Access::Write`]: some 17 MB.
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let (rings, reader) = pins.nat_log(access)?;
        Ok(Self { rings: Arc::new(rings), reader: Arc::new(reader) })
    }

    /// Regions of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        let rings = Mmap::anonymous(MAX_WORKERS * size_of::<Ring>())?;
        let reader = Mmap::anonymous(size_of::<Reader>())?;
        Ok(Self { rings: Arc::new(rings), reader: Arc::new(reader) })
    }

    /// The ring of a worker, which alone writes to it.
    pub fn ring(&self, worker: u8) -> RingWriter {
        RingWriter { log: self.clone(), worker: usize::from(worker) % MAX_WORKERS }
    }

    /// For the control process: adds to `records` those of a worker that are not taken yet, at most so
    /// many. How many are taken once these are in the file.
    pub fn read(&self, worker: u8, most: usize, records: &mut Vec<Record>) -> u64 {
        let worker = usize::from(worker) % MAX_WORKERS;
        let written = self.ring_word(worker, offset_of!(Ring, written)).load(Ordering::Acquire);
        let taken = self.taken(worker).load(Ordering::Relaxed);
        // More cannot have been written: the two words do not belong together, and the ring is anew.
        let waiting = written.wrapping_sub(taken);
        if waiting > RECORDS as u64 {
            return written;
        }
        let count = waiting.min(most as u64);
        for number in taken..taken + count {
            let mut words = [0u64; RECORD_WORDS];
            for (word, from) in words.iter_mut().zip(self.record(worker, number)) {
                *word = from.load(Ordering::Relaxed);
            }
            records.extend(Record::read_from_bytes(words.as_bytes()));
        }
        taken + count
    }

    /// For the control process: so many of a worker's records are in the file.
    pub fn take(&self, worker: u8, taken: u64) {
        self.taken(usize::from(worker) % MAX_WORKERS).store(taken, Ordering::Release);
    }

    /// For the control process: has workers list what stands.
    pub fn ask_for_listing(&self) {
        let asked = self.reader_word(offset_of!(Reader, listings));
        asked.store(asked.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
    }

    /// Listings that were asked for.
    pub fn listings(&self) -> u64 {
        self.reader_word(offset_of!(Reader, listings)).load(Ordering::Acquire)
    }

    /// For the control process: why the file cannot be written, as the kernel numbers errors; 0: it
    /// can.
    pub fn set_error(&self, number: u64) {
        self.reader_word(offset_of!(Reader, error)).store(number, Ordering::Relaxed);
    }

    /// What was said so last.
    pub fn error(&self) -> u64 {
        self.reader_word(offset_of!(Reader, error)).load(Ordering::Relaxed)
    }

    /// Records that all workers lost.
    pub fn lost(&self) -> u64 {
        let lost = |worker| self.ring_word(worker, offset_of!(Ring, lost)).load(Ordering::Relaxed);
        (0..MAX_WORKERS).map(lost).sum()
    }

    fn ring_word(&self, worker: usize, at: usize) -> &AtomicU64 {
        &self.rings.view::<AtomicU64>(worker * size_of::<Ring>() + at)[0]
    }

    fn reader_word(&self, at: usize) -> &AtomicU64 {
        &self.reader.view::<AtomicU64>(at)[0]
    }

    fn taken(&self, worker: usize) -> &AtomicU64 {
        self.reader_word(offset_of!(Reader, taken) + worker * 8)
    }

    fn record(&self, worker: usize, number: u64) -> &[AtomicU64] {
        let place = (number % RECORDS as u64) as usize * size_of::<Record>();
        let at = worker * size_of::<Ring>() + offset_of!(Ring, records) + place;
        &self.rings.view::<AtomicU64>(at)[..RECORD_WORDS]
    }
}

impl RingWriter {
    /// Writes a record, or counts it as lost where there is no room.
    pub fn push(&self, record: &Record) {
        let lost = self.untold();
        if self.room() < if lost == 0 { 1 } else { 2 } {
            if lost == 0 {
                self.word(offset_of!(Ring, lost_since))
                    .store(record.time_ms.into(), Ordering::Relaxed);
            }
            let all = self.word(offset_of!(Ring, lost));
            all.store(all.load(Ordering::Relaxed).wrapping_add(1), Ordering::Release);
            return;
        }
        self.tell_of_loss(record.time_ms);
        self.write(record);
    }

    /// Writes what was lost, if something was of which no record tells, and there is room.
    pub fn tell_of_loss(&self, now_ms: u32) {
        let lost = self.untold();
        if lost == 0 || self.room() == 0 {
            return;
        }
        let since = self.word(offset_of!(Ring, lost_since)).load(Ordering::Relaxed);
        self.write(&Record::lost(lost, since as u32, now_ms));
        let all = self.word(offset_of!(Ring, lost)).load(Ordering::Relaxed);
        self.word(offset_of!(Ring, told)).store(all, Ordering::Release);
    }

    /// Losses that were told: another number each time.
    pub fn told(&self) -> u64 {
        self.word(offset_of!(Ring, told)).load(Ordering::Relaxed)
    }

    /// Records that there is room for.
    pub fn room(&self) -> usize {
        let written = self.word(offset_of!(Ring, written)).load(Ordering::Relaxed);
        let taken = self.log.taken(self.worker).load(Ordering::Acquire);
        // What makes no sense leaves none.
        RECORDS.saturating_sub(usize::try_from(written.wrapping_sub(taken)).unwrap_or(RECORDS))
    }

    /// Listings that were asked for.
    pub fn listings(&self) -> u64 {
        self.log.listings()
    }

    /// Writes a record that a listing begins or ends with; says whether there was room.
    pub fn mark(&self, event: Event, workers: u8, now_ms: u32) -> bool {
        let there_is = self.room() > 0;
        if there_is {
            self.write(&Record { workers: workers.into(), ..Record::new(event, now_ms) });
        }
        there_is
    }

    fn write(&self, record: &Record) {
        let written = self.word(offset_of!(Ring, written));
        let number = written.load(Ordering::Relaxed);
        let (words, _) = record.as_bytes().as_chunks::<8>();
        for (to, bytes) in self.log.record(self.worker, number).iter().zip(words) {
            to.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        written.store(number.wrapping_add(1), Ordering::Release);
    }

    /// Lost records of which none tells.
    fn untold(&self) -> u64 {
        let lost = self.word(offset_of!(Ring, lost)).load(Ordering::Relaxed);
        lost.wrapping_sub(self.told())
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.log.ring_word(self.worker, at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u32) -> Record {
        Record::new(Event::Begin, number)
    }

    fn take(log: &NatLog, most: usize) -> Vec<Record> {
        let mut records = Vec::new();
        log.take(3, log.read(3, most, &mut records));
        records
    }

    #[test]
    fn records_are_taken_once_and_in_their_order() {
        let log = NatLog::anonymous().unwrap();
        let ring = log.ring(3);
        let mut next = 0;
        for round in 0..5 * RECORDS as u32 / 1000 {
            (0..1000).for_each(|n| ring.push(&record(round * 1000 + n)));
            for taken in [take(&log, 300), take(&log, RECORDS)].concat() {
                assert_eq!(taken, record(next));
                next += 1;
            }
        }
        assert_eq!((log.lost(), take(&log, 1)), (0, vec![]));
    }

    #[test]
    fn what_is_not_taken_is_there_again() {
        let log = NatLog::anonymous().unwrap();
        log.ring(3).push(&record(7));
        let mut records = Vec::new();
        log.read(3, 10, &mut records);
        log.read(3, 10, &mut records);
        assert_eq!(records, [record(7); 2]);
    }

    #[test]
    fn what_finds_no_room_is_counted_and_the_next_that_does_comes_after_a_record_of_that() {
        let log = NatLog::anonymous().unwrap();
        let ring = log.ring(3);
        (0..RECORDS as u32 + 5).for_each(|n| ring.push(&record(n)));
        assert_eq!((log.lost(), ring.told()), (5, 0));
        assert_eq!(take(&log, 1), [record(0)]);
        ring.push(&record(9000));
        assert_eq!(log.lost(), 6, "room for one is none: that must be told first");
        assert_eq!(take(&log, RECORDS).len(), RECORDS - 1);
        ring.push(&record(9001));
        let [lost, next] = take(&log, 10)[..] else { panic!("two records") };
        assert_eq!((lost.loss(), next), ((6, RECORDS as u32), record(9001)));
        assert_eq!((log.lost(), ring.told()), (6, 6));
    }

    #[test]
    fn numbers_that_make_no_sense_cost_no_more_than_what_the_ring_holds() {
        let log = NatLog::anonymous().unwrap();
        let ring = log.ring(3);
        log.take(3, 1 << 40);
        ring.push(&record(1));
        assert_eq!(log.lost(), 1);
        assert_eq!(take(&log, 10), []);
        ring.push(&record(2));
        assert_eq!(take(&log, 10).len(), 2, "what was lost, and the next");
    }
}
