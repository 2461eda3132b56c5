//! Follows the flows of a table, from one reading to the next.
//!
//! A slot keeps what its last flow counted until it is used again, and says by its generation how
//! often it was. So a flow may end between two readings and is told of all the same; one whose slot
//! another has by then is missed, and counted as missed.

use std::ops::Range;

use weir_layout::flow::{FlowState, GENERATION, VALID};
use weir_shm::flows::{FlowTable, Stored, ago_ms};
use weir_wire::entry::Entry;

use super::record::Reason;

/// After how long without a packet a TCP connection that is closing is told of as ended, ms.
const CLOSED_MS: u32 = 1000;

/// After how long flows are told of, ms.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// While they go on.
    pub active_ms: u32,
    /// Without a packet.
    pub idle_ms: u32,
}

/// What is to be told of a direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<F: Stored> {
    /// Its entry.
    pub entry: Entry<F>,
    /// The adjacency of the other direction, if that is known.
    pub back: Option<u16>,
    /// First packet of this part, CLOCK_MONOTONIC milliseconds, wrapping.
    pub start_ms: u32,
    /// Bytes of this part.
    pub octets: u64,
    /// Packets of this part.
    pub packets: u32,
    /// Why it is told.
    pub reason: Reason,
}

/// A table, and what was told of each slot.
#[derive(Debug)]
pub struct Follower<F: Stored> {
    table: FlowTable<F>,
    told: Vec<Told>,
}

/// What was told of a slot's last flow.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// The slot's state when it was last read.
    state: u32,
    /// First packet of what is yet to be told.
    start_ms: u32,
    /// Packets that were told.
    packets: u32,
    /// Is something yet to be told?
    is_pending: bool,
    /// Bytes that were told.
    octets: u64,
}

impl<F: Stored> Follower<F> {
    /// Of a table that has been there for longer: what its flows have carried so far is not told.
    pub fn adopt(table: FlowTable<F>) -> Self {
        let mut follower = Self::new(table);
        for (index, told) in (0..).zip(&mut follower.told) {
            if let Some((state, entry)) = follower.table.last(index) {
                told.state = state;
                told.tell(&entry);
            }
        }
        follower
    }

    /// Of a table that is new: all that its flows carry is told.
    pub fn new(table: FlowTable<F>) -> Self {
        let told = vec![Told::default(); table.capacity() as usize];
        Self { table, told }
    }

    /// Slots of the table.
    pub const fn slots(&self) -> usize {
        self.told.len()
    }

    /// Reads these slots, and tells what is due at this time. Returns how many directions were
    /// missed.
    pub fn read(
        &mut self,
        slots: Range<usize>,
        now_ms: u32,
        timers: Timers,
        mut tell: impl FnMut(Part<F>),
    ) -> u64 {
        let mut missed = 0;
        for (index, told) in (slots.start as u32..).zip(&mut self.told[slots]) {
            let Some((state, entry)) = self.table.last(index) else { continue };
            missed += told.turn_to(state);
            told.see(&entry);
            if let Some(reason) = told.due(&entry, now_ms, timers) {
                tell(Part {
                    entry,
                    back: back(&self.table, index, &entry),
                    start_ms: told.start_ms,
                    octets: entry.bytes.wrapping_sub(told.octets),
                    packets: entry.packets.wrapping_sub(told.packets),
                    reason,
                });
                told.tell(&entry);
            }
        }
        missed
    }
}

impl Told {
    /// The slot has this state now. Returns of how many flows, the last one included, something was
    /// not told.
    fn turn_to(&mut self, state: u32) -> u64 {
        let uses = (state & !VALID).wrapping_sub(self.state & !VALID) / GENERATION;
        let was_pending = self.is_pending;
        if uses != 0 {
            *self = Self::default();
        }
        self.state = state;
        match uses {
            0 => 0,
            _ => u64::from(uses - 1) + u64::from(was_pending),
        }
    }

    /// The flow's entry is this now.
    fn see<F: Stored>(&mut self, entry: &Entry<F>) {
        if !self.is_pending && entry.bytes > self.octets {
            (self.is_pending, self.start_ms) = (true, entry.last_seen);
        }
    }

    /// Why something is to be told now, if it is.
    fn due<F: Stored>(&self, entry: &Entry<F>, now_ms: u32, timers: Timers) -> Option<Reason> {
        // Where both tiers count at once, or the halves of a sum are read apart, it may go back.
        if !self.is_pending || entry.bytes < self.octets {
            return None;
        }
        let has_gone = self.state & VALID == 0;
        let is_closing = entry.state_owner.state() == FlowState::Closing;
        let quiet_ms = ago_ms(now_ms, entry.last_seen);
        if is_closing && (has_gone || quiet_ms >= CLOSED_MS) {
            Some(Reason::Ended)
        } else if quiet_ms >= timers.idle_ms {
            Some(Reason::Idle)
        } else if has_gone {
            Some(Reason::Forced)
        } else {
            (ago_ms(now_ms, self.start_ms) >= timers.active_ms).then_some(Reason::Active)
        }
    }

    /// All that this entry says is told.
    fn tell<F: Stored>(&mut self, entry: &Entry<F>) {
        (self.octets, self.packets, self.is_pending) = (entry.bytes, entry.packets, false);
    }
}

/// The adjacency of the other direction.
fn back<F: Stored>(table: &FlowTable<F>, index: u32, entry: &Entry<F>) -> Option<u16> {
    let (_, peer) = table.last(entry.peer)?;
    (peer.peer == index && peer.key.proto() == entry.key.proto()).then_some(peer.adjacency)
}

#[cfg(test)]
mod tests {
    use weir_layout::flow::{StateOwner, flag};
    use weir_shm::flows::FlowTable4;
    use weir_wire::entry::{EntryWords, NewDirection};
    use weir_wire::family::V4;
    use weir_wire::key::{FlowKey, FlowKey4};

    use super::*;

    const TIMERS: Timers = Timers { active_ms: 60_000, idle_ms: 15_000 };
    /// Hash of all flows: they take one slot after the other.
    const HASH: u64 = 7;

    fn key(port: u16) -> FlowKey4 {
        FlowKey::new([10, 77, 0, 2], [198, 51, 100, 1], port.to_be_bytes(), [0, 53], 17)
    }

    fn words(port: u16) -> EntryWords<V4> {
        let new = NewDirection {
            flags: flag::INITIATED | flag::INSIDE,
            state_owner: StateOwner::new(FlowState::Stateless, 0),
            uplink: 0,
            adjacency: 5,
            mark: 0,
            now: 0,
        };
        let key = key(port);
        new.words::<V4>(&key, &key)
    }

    /// A table with nothing in it, and who follows it.
    fn site() -> (FlowTable4, Follower<V4>) {
        let table = FlowTable4::anonymous(64).unwrap();
        (table.clone(), Follower::new(table))
    }

    /// Of whom something is told, from when on, bytes and packets, and why.
    type Seen = (FlowKey4, u32, u64, u32, Reason);

    /// What is told at a time, and how many were missed.
    fn read(follower: &mut Follower<V4>, now_ms: u32) -> (Vec<Seen>, u64) {
        let mut told = Vec::new();
        let missed = follower.read(0..follower.slots(), now_ms, TIMERS, |part| {
            told.push((part.entry.key, part.start_ms, part.octets, part.packets, part.reason));
        });
        (told, missed)
    }

    #[test]
    fn a_flow_that_goes_on_is_told_of_in_parts_that_add_up() {
        let (table, mut follower) = site();
        let index = table.insert(HASH, &words(1)).unwrap();
        let mut bytes = 0;
        for now in (100..=180_100).step_by(1000) {
            table.slot(index).count(10, now);
            let due = (now - 100) % 61_000 == 60_000;
            let (told, missed) = read(&mut follower, now);
            assert_eq!((told.len(), missed), (usize::from(due), 0), "at {now}");
            bytes += told.iter().map(|part| part.2).sum::<u64>();
            assert!(told.iter().all(|part| part.1 == now - 60_000 && part.4 == Reason::Active));
        }
        table.retire(index);
        let (told, _) = read(&mut follower, 180_200);
        assert_eq!(told.iter().map(|part| part.4).collect::<Vec<_>>(), [Reason::Forced]);
        assert_eq!(bytes + told[0].2, table.slot(index).bytes());
    }

    #[test]
    fn a_flow_that_falls_silent_is_told_of_once() {
        let (table, mut follower) = site();
        let index = table.insert(HASH, &words(1)).unwrap();
        table.slot(index).count(100, 1000);
        assert_eq!(read(&mut follower, 1500).0, []);
        table.slot(index).count(50, 2000);
        let told = [(key(1), 1000, 150, 2, Reason::Idle)];
        assert_eq!(read(&mut follower, 17_000).0, told);
        assert_eq!(read(&mut follower, 100_000).0, []);
        table.retire(index);
        assert_eq!(read(&mut follower, 300_000), (vec![], 0));
    }

    #[test]
    fn a_connection_that_is_closing_is_told_of_when_it_is_quiet() {
        let (table, mut follower) = site();
        let index = table.insert(HASH, &words(1)).unwrap();
        table.slot(index).count(100, 1000);
        table.slot(index).set_meta(flag::INITIATED, FlowState::Closing);
        assert_eq!(read(&mut follower, 1999).0, []);
        assert_eq!(read(&mut follower, 2000).0, [(key(1), 1000, 100, 1, Reason::Ended)]);
    }

    #[test]
    fn a_flow_that_began_and_ended_between_two_readings_is_told_of() {
        let (table, mut follower) = site();
        assert_eq!(read(&mut follower, 500).0, []);
        let index = table.insert(HASH, &words(1)).unwrap();
        table.slot(index).count(100, 900);
        table.retire(index);
        let told = vec![(key(1), 900, 100, 1, Reason::Forced)];
        assert_eq!(read(&mut follower, 1000), (told, 0));
        assert_eq!(read(&mut follower, 1500), (vec![], 0));
    }

    #[test]
    fn flows_whose_slot_another_took_before_it_was_read_are_counted() {
        let (table, mut follower) = site();
        let flow = |port| {
            let index = table.insert(HASH, &words(port)).unwrap();
            table.slot(index).count(100, 900);
            index
        };
        let first = flow(1);
        assert_eq!(read(&mut follower, 1000), (vec![], 0));
        table.retire(first);
        assert_eq!(flow(2), first);
        table.retire(first);
        assert_eq!(flow(3), first);
        assert_eq!(read(&mut follower, 2000), (vec![], 2));
        table.retire(first);
        let told = vec![(key(3), 900, 100, 1, Reason::Forced)];
        assert_eq!(read(&mut follower, 3000), (told, 0));
    }

    #[test]
    fn a_flow_that_was_told_of_before_its_slot_was_anothers_is_not_missed() {
        let (table, mut follower) = site();
        let index = table.insert(HASH, &words(1)).unwrap();
        table.slot(index).count(100, 1000);
        let told = vec![(key(1), 1000, 100, 1, Reason::Idle)];
        assert_eq!(read(&mut follower, 17_000), (told, 0));
        table.retire(index);
        assert_eq!(table.insert(HASH, &words(2)), Some(index));
        table.slot(index).count(100, 17_500);
        assert_eq!(read(&mut follower, 18_000), (vec![], 0));
    }

    #[test]
    fn what_flows_carried_before_they_were_followed_is_not_told() {
        let table = FlowTable4::anonymous(64).unwrap();
        let [gone, there] = [1, 2].map(|port| {
            let index = table.insert(HASH, &words(port)).unwrap();
            table.slot(index).count(100, 900);
            index
        });
        table.retire(gone);
        let mut follower = Follower::adopt(table.clone());
        assert_eq!(read(&mut follower, 100_000), (vec![], 0));
        table.slot(there).count(7, 100_500);
        let told = vec![(key(2), 100_500, 7, 1, Reason::Idle)];
        assert_eq!(read(&mut follower, 200_000), (told, 0));
    }

    #[test]
    fn where_answers_go_is_known_after_both_have_ended_and_not_of_another_flow() {
        let (table, mut follower) = site();
        let [there, back, other] = [1, 2, 3].map(|port| table.insert(HASH, &words(port)).unwrap());
        table.link(there, back);
        table.slot(back).set_adjacency(9);
        table.slot(other).set_adjacency(11);
        let mut last = |now| {
            table.slot(there).count(100, now);
            let mut told = Vec::new();
            follower.read(0..64, now + 20_000, TIMERS, |part| told.push(part.back));
            told
        };
        assert_eq!(last(1000), [Some(9)]);
        table.retire(back);
        assert_eq!(last(30_000), [Some(9)]);
        assert_eq!(table.insert(HASH, &words(4)), Some(back));
        table.link(back, other);
        assert_eq!(last(60_000), [None]);
    }
}
