//! When what stands is to be listed again.
//!
//! Files go that say when it began: so it is listed after each half of them. A listing that fills more
//! than that is not begun again for the files that it fills itself: it would never end, and nothing
//! else would be kept.

use weir_layout::nat_log::{Event, Record};

/// See the module's text.
#[derive(Debug)]
pub struct Listings {
    /// Files after which it is time.
    after: u32,
    /// Files that were begun since the last listing.
    begun: u32,
    /// One was asked for, and no worker has begun it.
    asked: bool,
    /// Workers that list, a bit for each.
    under_way: u32,
}

impl Listings {
    /// Of a log with so many files beside the last one.
    pub const fn new(keep: u32) -> Self {
        Self { after: keep / 2, begun: 0, asked: false, under_way: 0 }
    }

    /// Takes note of a worker's record, before it is written.
    pub fn read(&mut self, worker: u8, record: &Record) {
        let bit = |worker: u32| 1u32.checked_shl(worker).unwrap_or(0);
        match Event::from_byte(record.event) {
            Some(Event::Listing) => {
                self.asked = false;
                // Workers that there are no more come to no end.
                self.under_way &= bit(record.workers.into()).wrapping_sub(1);
                self.under_way |= bit(worker.into());
            }
            Some(Event::Listed) => self.under_way &= !bit(worker.into()),
            _ => {}
        }
    }

    /// A file was begun.
    pub const fn begin_file(&mut self) {
        if !self.asked && self.under_way == 0 {
            self.begun += 1;
        }
    }

    /// The files before are gone.
    pub const fn lose_files(&mut self) {
        self.begun = self.after;
    }

    /// One is asked for.
    pub const fn ask(&mut self) {
        (self.begun, self.asked) = (0, true);
    }

    /// Is it time to ask for one? Says so once.
    pub const fn take_due(&mut self) -> bool {
        let due = self.begun >= self.after && !self.asked && self.under_way == 0;
        if due {
            self.ask();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(event: Event, workers: u16) -> Record {
        Record { workers, ..Record::new(event, 0) }
    }

    #[test]
    fn half_of_the_files_after_the_last_listing_another_is_due() {
        let mut listings = Listings::new(4);
        assert!(!listings.take_due());
        for _ in 0..3 {
            listings.begin_file();
            assert!(!listings.take_due());
            listings.begin_file();
            assert!(listings.take_due());
            assert!(!listings.take_due(), "said once");
            listings.read(0, &mark(Event::Listing, 1));
            listings.read(0, &mark(Event::Listed, 1));
        }
    }

    #[test]
    fn files_that_a_listing_fills_itself_ask_for_none() {
        let mut listings = Listings::new(4);
        listings.ask();
        for worker in 0..2 {
            (0..10).for_each(|_| listings.begin_file());
            listings.read(worker, &mark(Event::Listing, 2));
        }
        for worker in 0..2 {
            (0..10).for_each(|_| listings.begin_file());
            assert!(!listings.take_due());
            listings.read(worker, &mark(Event::Listed, 2));
        }
        assert!(!listings.take_due());
        (0..2).for_each(|_| listings.begin_file());
        assert!(listings.take_due());
    }

    #[test]
    fn workers_that_there_are_no_more_are_not_waited_for() {
        let mut listings = Listings::new(2);
        (0..32).for_each(|worker| listings.read(worker, &mark(Event::Listing, 32)));
        listings.read(0, &mark(Event::Listing, 1));
        listings.read(0, &mark(Event::Listed, 1));
        listings.begin_file();
        assert!(listings.take_due());
    }

    #[test]
    fn files_that_are_gone_are_listed_for_when_the_listing_under_way_is_over() {
        let mut listings = Listings::new(8);
        listings.read(0, &mark(Event::Listing, 1));
        listings.lose_files();
        assert!(!listings.take_due());
        listings.read(0, &mark(Event::Listed, 1));
        assert!(listings.take_due());
    }
}
