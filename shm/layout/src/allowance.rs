//! How much a worker takes of what begins something, by its sockets: while more comes than it can
//! do, each source has an allowance, so that who sends the most loses the most.
//!
//! The map `ALLOWANCES` has a word of 64 bits for each socket, by its place in the map of sockets
//! (`device * MAX_QUEUES + queue`). It counts packets in a tick of the kernel, or is [`ALL`]. What is
//! over it and of no flow is dropped by the XDP program. A source shares its allowance with those
//! that a keyed hash puts into the same of [`SOURCES`] places. Beyond an uplink anybody can have any
//! source: all that ask by it for published services have one allowance.

use crate::{MAX_DEVICES, MAX_QUEUES, MAX_UPLINKS};

/// Words of the region.
pub const SOCKETS: usize = MAX_DEVICES * MAX_QUEUES;
/// The allowance of a socket that is not under pressure.
pub const ALL: u64 = 0;
/// Places of sources, which each CPU counts for itself.
pub const SOURCES: usize = 1 << 8;
/// All places: behind those of sources each uplink has one, for what asks by it for published services.
pub const PLACES: usize = SOURCES + MAX_UPLINKS;
/// What the hash of a source is for; other purposes have other numbers (`dataplane/src/purpose.rs`).
pub const PURPOSE: u64 = 1 << 8;
/// Bits of a count, in the lower end of a place; above it is the tick, as many bits as remain.
pub const COUNT_BITS: u32 = 16;

/// What a place says after one more packet of this tick.
#[inline(always)]
pub const fn counted(place: u64, tick: u64) -> u64 {
    let this = tick << COUNT_BITS;
    if place >> COUNT_BITS != this >> COUNT_BITS {
        this | 1
    } else if count(place) == count(u64::MAX) {
        place
    } else {
        place + 1
    }
}

/// Packets that a place has counted in its tick, up to its most.
#[inline(always)]
pub const fn count(place: u64) -> u64 {
    place & ((1 << COUNT_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_within_a_tick_and_begins_anew_with_the_next() {
        let mut place = 0;
        for expected in 1..=3 {
            place = counted(place, 7);
            assert_eq!(count(place), expected);
        }
        assert_eq!(count(counted(place, 8)), 1);
        // A tick whose upper bits do not fit.
        let late = u64::MAX / 3;
        place = counted(place, late);
        assert_eq!((count(place), count(counted(place, late))), (1, 2));
    }

    #[test]
    fn a_count_stays_at_its_most() {
        let full = 7 << COUNT_BITS | 0xffff;
        assert_eq!(counted(full, 7), full);
    }
}
