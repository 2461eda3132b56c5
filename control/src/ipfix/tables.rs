//! The flow tables of both families. The dataplane makes them when it first starts, and that of
//! IPv6 anew when an uplink gets its first path of it.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use weir_service::Complaint;
use weir_shm::flows::{FlowTable, Stored};
use weir_shm::{Error, Pins, pins};
use weir_wire::family::{V4, V6};

use super::follower::{Follower, Timers};
use super::gateway::Gateway;
use super::sender::Sender;
use crate::clocks::Clocks;

/// Both tables.
#[derive(Debug, Default)]
pub struct Tables {
    v4: Table<V4>,
    v6: Table<V6>,
}

/// A family's table.
#[derive(Debug)]
struct Table<F: Stored> {
    follower: Option<Follower<F>>,
    /// Number of its pin, which is another's when it is another table; none: it was not looked for.
    pin: Option<u64>,
}

impl<F: Stored> Default for Table<F> {
    fn default() -> Self {
        Self { follower: None, pin: None }
    }
}

impl Tables {
    /// Opens tables that are there and were not.
    pub fn open(&mut self, pins: &Pins, complaint: &mut Complaint) {
        let opened = self.v4.open(pins).and_then(|()| self.v6.open(pins));
        complaint.say(opened.err().map(|error| format!("flows are not told of: {error}")));
    }

    /// Reads one of so many parts of both, and tells what is due. Returns how many directions were
    /// missed.
    pub fn read(
        &mut self,
        step: usize,
        steps: usize,
        timers: Timers,
        gateway: &Gateway,
        sender: &mut Sender,
    ) -> u64 {
        self.v4.read(step, steps, timers, gateway, sender)
            + self.v6.read(step, steps, timers, gateway, sender)
    }
}

impl<F: Stored> Table<F> {
    /// One that is there when it is first looked for has been there before; one that comes later is
    /// new, with all that is in it.
    fn open(&mut self, pins: &Pins) -> Result<(), Error> {
        /// Of no pin.
        const MISSING: u64 = 0;
        let found = std::fs::metadata(pins.path(pins::name::flows(F::FAMILY)));
        let pin = found.map_or(MISSING, |found| found.ino());
        if self.pin == Some(pin) {
            return Ok(());
        }
        self.follower = match FlowTable::read_only(pins) {
            Ok(table) if self.pin.is_none() => Some(Follower::adopt(table)),
            Ok(table) => Some(Follower::new(table)),
            // It may be without its tags yet.
            Err(Error::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        self.pin = Some(if self.follower.is_some() { pin } else { MISSING });
        Ok(())
    }

    fn read(
        &mut self,
        step: usize,
        steps: usize,
        timers: Timers,
        gateway: &Gateway,
        sender: &mut Sender,
    ) -> u64 {
        let Some(follower) = &mut self.follower else { return 0 };
        let (slots, clocks) = (part(follower.slots(), step, steps), Clocks::now());
        let now_ms = clocks.monotonic_ms as u32;
        follower.read(slots, now_ms, timers, |part| sender.add(&gateway.record(&part, clocks)))
    }
}

/// One of so many parts of a whole.
const fn part(whole: usize, step: usize, steps: usize) -> Range<usize> {
    whole * step / steps..whole * (step + 1) / steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_table_are_all_of_it_and_do_not_overlap() {
        for whole in [64, 629_184, 7] {
            let parts: Vec<_> = (0..20).flat_map(|step| part(whole, step, 20)).collect();
            assert!(parts.into_iter().eq(0..whole), "{whole}");
        }
    }
}
