//! Fragments that came before their first, and wait for it.
//!
//! They are copied here, so that the frames they came in are free at once: no ring runs dry for them,
//! and no device is kept. The room is of a fixed size, [`ROOM`] fragments for what LANs bring and as many
//! for what uplinks bring. Where it is full, the source that has the most of it loses its oldest
//! datagram, if that source has more than the longest one takes; else the oldest datagram of all goes:
//! of many made-up sources each has less than one that sends a long datagram. Sources are told apart by
//! a keyed hash. None waits longer than [`WAIT_MS`]: receivers wait for half a minute (RFC 8200 §4.5: a
//! minute), but what overtakes its first does so by milliseconds.

use weir_layout::LARGEST_FRAME;
use weir_wire::family::{Family, V4};

use crate::fragments::FragmentKey;

/// How long a fragment waits for its first.
pub const WAIT_MS: u32 = 1000;
/// Fragments that wait on either side, LANs and uplinks. A datagram of 65 535 bytes has 45 in frames of
/// 1500, so there is room for two of the longest, and a half.
pub const ROOM: usize = 128;
/// Fragments that a datagram of 65 535 bytes has in frames of 1280.
const LONGEST: u8 = 54;
/// Sources share so many counts of what they have.
const SOURCES: usize = 64;
/// Largest frame that waits.
const FRAME: usize = LARGEST_FRAME as usize;

/// The fragments of a family that wait at a worker.
#[derive(Debug)]
pub struct Early<F: Family = V4> {
    /// By side: inside, outside.
    sides: [Side<F>; 2],
}

impl<F: Family> Default for Early<F> {
    /// None.
    fn default() -> Self {
        Self { sides: std::array::from_fn(|_| Side::new()) }
    }
}

impl<F: Family> Early<F> {
    /// Keeps a copy of a fragment of this datagram that came by a device and is of this source, given by
    /// a keyed hash. How many were lost for it: itself, if it is too long.
    pub fn keep(
        &mut self,
        key: &FragmentKey<F>,
        source: u64,
        (device, frame): (u8, &[u8]),
        now: u32,
    ) -> u64 {
        if frame.len() > FRAME {
            return 1;
        }
        let source = (source % SOURCES as u64) as u8;
        let side = &mut self.sides[usize::from(key.outside)];
        let lost = side.make_room(key);
        side.keep(
            Waiting { key: *key, device, len: frame.len(), source, since: now, number: 0 },
            frame,
        );
        lost
    }

    /// The fragment of the datagram that has waited the longest: the device that it came in by and the
    /// frame. It waits no longer.
    pub fn take(&mut self, key: &FragmentKey<F>) -> Option<(u8, &[u8])> {
        let side = &mut self.sides[usize::from(key.outside)];
        let place = side.oldest(|waiting| waiting.key == *key)?;
        let Waiting { device, len, .. } = side.remove(place)?;
        Some((device, &side.frames[place * FRAME..][..len]))
    }

    /// Drops those whose time is over; how many.
    pub fn expire(&mut self, now: u32) -> u64 {
        self.drop_if(|waiting| now.wrapping_sub(waiting.since) >= WAIT_MS)
    }

    /// Drops those that came in by these devices; how many.
    pub fn drop_of(&mut self, mut devices: impl FnMut(u8) -> bool) -> u64 {
        self.drop_if(|waiting| devices(waiting.device))
    }

    fn drop_if(&mut self, mut which: impl FnMut(&Waiting<F>) -> bool) -> u64 {
        self.sides.iter_mut().map(|side| side.drop_if(&mut which)).sum()
    }
}

/// A fragment that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting<F: Family> {
    key: FragmentKey<F>,
    device: u8,
    /// Bytes of its frame.
    len: usize,
    /// Whose it is, less than [`SOURCES`].
    source: u8,
    /// When it came, milliseconds.
    since: u32,
    /// In the order of arrival.
    number: u64,
}

/// Those of a side.
#[derive(Debug)]
struct Side<F: Family> {
    places: Box<[Option<Waiting<F>>; ROOM]>,
    /// The frame in each place, [`FRAME`] bytes apart. The kernel gives memory to those alone that were
    /// ever used.
    frames: Box<[u8]>,
    /// How many wait.
    count: usize,
    /// How many of each source.
    by_source: [u8; SOURCES],
    /// Number of the next.
    next: u64,
}

impl<F: Family> Side<F> {
    fn new() -> Self {
        Self {
            places: Box::new([None; ROOM]),
            frames: vec![0; FRAME * ROOM].into_boxed_slice(),
            count: 0,
            by_source: [0; SOURCES],
            next: 0,
        }
    }

    /// Makes room for a fragment of a datagram, if there is none; how many are dropped for it. The
    /// datagram itself goes if its source has too much and nothing else.
    fn make_room(&mut self, key: &FragmentKey<F>) -> u64 {
        if self.count < ROOM {
            return 0;
        }
        let most = self.by_source.iter().max().copied().unwrap_or(0);
        let may_go = |waiting: &Waiting<F>| {
            most <= LONGEST || self.by_source[usize::from(waiting.source)] == most
        };
        let another = self.oldest(|waiting| may_go(waiting) && waiting.key != *key);
        let oldest = another.or_else(|| self.oldest(may_go));
        let Some(Waiting { key, source, .. }) = oldest.and_then(|place| self.places[place]) else {
            return 0;
        };
        self.drop_if(&mut |waiting| waiting.key == key && waiting.source == source)
    }

    /// There is room for one.
    fn keep(&mut self, waiting: Waiting<F>, frame: &[u8]) {
        let Some(place) = self.places.iter().position(Option::is_none) else { return };
        self.frames[place * FRAME..][..frame.len()].copy_from_slice(frame);
        self.by_source[usize::from(waiting.source)] += 1;
        self.places[place] = Some(Waiting { number: self.next, ..waiting });
        self.count += 1;
        self.next += 1;
    }

    /// The place of the oldest of these.
    fn oldest(&self, which: impl Fn(&Waiting<F>) -> bool) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let places = self.places.iter().enumerate();
        let of =
            places.filter_map(|(place, waiting)| Some((place, waiting.filter(&which)?.number)));
        of.min_by_key(|(_, number)| *number).map(|(place, _)| place)
    }

    fn remove(&mut self, place: usize) -> Option<Waiting<F>> {
        let waiting = self.places[place].take()?;
        self.by_source[usize::from(waiting.source)] -= 1;
        self.count -= 1;
        Some(waiting)
    }

    fn drop_if(&mut self, which: &mut impl FnMut(&Waiting<F>) -> bool) -> u64 {
        let before = self.count;
        for place in 0..ROOM {
            if self.count == 0 {
                break;
            }
            if self.places[place].as_ref().is_some_and(&mut *which) {
                self.remove(place);
            }
        }
        (before - self.count) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(outside: bool, ident: u32) -> FragmentKey {
        FragmentKey { outside, src: [1; 4], dst: [2; 4], ident }
    }

    /// Keeps a fragment of a datagram, of a source; how many were lost.
    fn keep(early: &mut Early, outside: bool, ident: u32, source: u64, byte: u8) -> u64 {
        early.keep(&key(outside, ident), source, (7, &[byte; 40]), 1000)
    }

    fn all(early: &mut Early, outside: bool, ident: u32) -> Vec<u8> {
        std::iter::from_fn(|| early.take(&key(outside, ident)).map(|(_, frame)| frame[0])).collect()
    }

    #[test]
    fn fragments_of_a_datagram_come_out_in_the_order_of_their_arrival() {
        let mut early = Early::default();
        for byte in 0..40 {
            keep(&mut early, false, u32::from(byte % 2), 0, byte);
        }
        // Places in the middle are free again.
        assert!(all(&mut early, false, 0).into_iter().eq((0..40).step_by(2)));
        for byte in 40..60 {
            keep(&mut early, false, 1, 0, byte);
        }
        assert!(all(&mut early, false, 1).into_iter().eq((1..40).step_by(2).chain(40..60)));
        assert_eq!(all(&mut early, false, 1), []);
    }

    #[test]
    fn what_a_fragment_was_is_what_comes_out() {
        let mut early = Early::default();
        let frame: Vec<u8> = (0..FRAME).map(|n| n as u8).collect();
        assert_eq!(early.keep(&key(true, 1), 0, (9, &frame), 0), 0);
        assert_eq!(early.take(&key(false, 1)), None, "of the other side");
        assert_eq!(early.take(&key(true, 1)), Some((9, &frame[..])));
        assert_eq!(early.keep(&key(true, 1), 0, (9, &[0; FRAME + 1]), 0), 1, "too long");
        assert_eq!(early.take(&key(true, 1)), None);
    }

    #[test]
    fn who_has_the_most_of_a_full_room_loses_its_oldest_datagram() {
        let mut early = Early::default();
        // A flood of one source, two fragments each; and others with few.
        let room = ROOM as u32;
        assert!((0..room - 2).all(|n| keep(&mut early, false, n / 2, 1, 0) == 0));
        assert_eq!(keep(&mut early, false, 1000, 2, 0), 0);
        assert_eq!(keep(&mut early, false, 1001, 3, 0), 0);
        assert_eq!(keep(&mut early, false, 1002, 4, 0), 2);
        assert_eq!(all(&mut early, false, 0), []);
        for n in 2000..2000 + 10 * room {
            keep(&mut early, false, n, 1, 0);
        }
        for ident in 1000..1003 {
            assert_eq!(all(&mut early, false, ident).len(), 1, "{ident}");
        }
    }

    #[test]
    fn what_uplinks_bring_takes_no_place_of_lans() {
        let mut early = Early::default();
        keep(&mut early, false, 1, 1, 0);
        let lost: u64 = (0..10 * ROOM as u64).map(|n| keep(&mut early, true, n as u32, n, 0)).sum();
        assert_eq!(lost, 9 * ROOM as u64);
        assert_eq!(all(&mut early, false, 1).len(), 1);
    }

    #[test]
    fn a_datagram_in_many_fragments_outlasts_a_flood_of_made_up_sources_as_any_other() {
        let mut early = Early::default();
        let mut strangers = (0..10 * ROOM as u32).map(|n| (1000 + n, 7 * u64::from(n)));
        let mut flood = |early: &mut Early, count: usize| {
            for (ident, source) in strangers.by_ref().take(count) {
                keep(early, true, ident, source, 0);
            }
        };
        flood(&mut early, 2 * ROOM);
        for byte in 0..40 {
            keep(&mut early, true, 1, 3, byte);
            flood(&mut early, 1);
        }
        assert!(all(&mut early, true, 1).into_iter().eq(0..40));
    }

    #[test]
    fn a_datagram_that_has_no_end_is_lost_itself_and_takes_no_others_place() {
        let mut early = Early::default();
        for ident in 0..60 {
            keep(&mut early, false, ident, 2 + u64::from(ident), 0);
        }
        (0..10 * ROOM).for_each(|_| _ = keep(&mut early, false, 1000, 1, 0));
        let left: usize = (0..60).map(|ident| all(&mut early, false, ident).len()).sum();
        assert_eq!(left, 60);
    }

    #[test]
    fn sources_that_have_as_much_each_are_served_in_turn() {
        let mut early = Early::default();
        for n in 0..4 * ROOM as u32 {
            keep(&mut early, true, n, u64::from(n), 0);
            assert_eq!(early.sides[1].count, ROOM.min(n as usize + 1));
            assert!(
                early.sides[1].by_source.iter().all(|of| usize::from(*of) <= ROOM / SOURCES + 1)
            );
        }
    }

    #[test]
    fn fragments_wait_for_a_second_and_no_longer_than_their_device_is_there() {
        let mut early = Early::default();
        keep(&mut early, false, 1, 1, 0);
        early.keep(&key(true, 2), 1, (8, &[0; 40]), 1500);
        assert_eq!(early.expire(1000 + WAIT_MS - 1), 0);
        assert_eq!(early.expire(1000 + WAIT_MS), 1);
        assert_eq!(
            [early.drop_of(|device| device == 7), early.drop_of(|device| device == 8)],
            [0, 1]
        );
        assert_eq!(early.sides.each_ref().map(|side| side.count), [0, 0]);
    }
}
