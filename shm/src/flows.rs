//! The IPv4 flow table, in place: look-up, claim, publish, retire.
//!
//! The states and who may change them are in [`weir_wire::layout::flow`]. Orderings, for x86 and
//! arm64 alike: a claim is a compare-and-swap (acquire), so two workers never write one slot;
//! key and action are stored relaxed between two release points, the claim's fence and the
//! `VALID` store; a reader loads `state` (acquire), then the rest, then `state` again behind an
//! acquire fence. What it read is one flow if both states are the same.

use weir_wire::layout::flow::{CLAIMED, FlowEntry4, GENERATION, RETIRED, Rewrite4, VALID};

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

const STATE_BITS: u32 = GENERATION - 1;
/// Ports and protocol in the second key word; the rest is flags, flow state and uplink.
const KEY1_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);

/// A [`FlowEntry4`] whose words are atomics; same size, same offsets.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot4 {
    state: AtomicU32,
    last_seen: AtomicU32,
    addresses: AtomicU64,
    ports: AtomicU64,
    new_addresses: AtomicU64,
    new_ports: AtomicU64,
    out: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Slot4>() == size_of::<FlowEntry4>());
    assert!(offset_of!(Slot4, addresses) == offset_of!(FlowEntry4, src));
    assert!(offset_of!(Slot4, ports) == offset_of!(FlowEntry4, sport));
    assert!(offset_of!(Slot4, new_addresses) == offset_of!(FlowEntry4, rewrite));
    assert!(offset_of!(Slot4, out) == offset_of!(FlowEntry4, l2));
    assert!(offset_of!(Slot4, packets) == offset_of!(FlowEntry4, packets));
};

/// What forwarding a packet needs of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action4 {
    /// What leaves.
    pub rewrite: Rewrite4,
    /// See [`FlowEntry4::l2`].
    pub l2: u16,
    /// Port it leaves by.
    pub port: u8,
    /// Owner.
    pub worker: u8,
    /// Slot of the other direction.
    pub peer: u32,
    /// Bits of [`weir_wire::layout::flow::flag`].
    pub flags: u8,
    /// [`weir_wire::layout::flow::FlowState`].
    pub flow_state: u8,
    /// Uplink.
    pub uplink: u8,
}

impl Slot4 {
    /// Does the slot hold this key now?
    #[inline]
    pub fn holds(&self, key: [u64; 2]) -> bool {
        self.state.load(Ordering::Acquire) & VALID != 0
            && self.addresses.load(Ordering::Relaxed) == key[0]
            && self.ports.load(Ordering::Relaxed) & KEY1_MASK == key[1]
    }

    /// Is there a flow in the slot?
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.state.load(Ordering::Acquire) & VALID != 0
    }

    /// The action, for the slot's owner, which alone could change it.
    #[inline]
    pub fn action(&self) -> Action4 {
        let [s0, s1, s2, s3, d0, d1, d2, d3] =
            self.new_addresses.load(Ordering::Relaxed).to_ne_bytes();
        let [p0, p1, q0, q1, a0, a1, b0, b1] = self.new_ports.load(Ordering::Relaxed).to_ne_bytes();
        let [l0, l1, port, worker, e0, e1, e2, e3] = self.out.load(Ordering::Relaxed).to_ne_bytes();
        let [.., flags, flow_state, uplink] = self.ports.load(Ordering::Relaxed).to_ne_bytes();
        Action4 {
            rewrite: Rewrite4 {
                src: [s0, s1, s2, s3],
                dst: [d0, d1, d2, d3],
                sport: [p0, p1],
                dport: [q0, q1],
                l3_delta: u16::from_ne_bytes([a0, a1]),
                l4_delta: u16::from_ne_bytes([b0, b1]),
            },
            l2: u16::from_ne_bytes([l0, l1]),
            port,
            worker,
            peer: u32::from_ne_bytes([e0, e1, e2, e3]),
            flags,
            flow_state,
            uplink,
        }
    }

    /// A whole entry as one reader sees it; `None` when there is none, or it changed meanwhile.
    pub fn read(&self) -> Option<FlowEntry4> {
        let state = self.state.load(Ordering::Acquire);
        if state & VALID == 0 {
            return None;
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = self.addresses.load(Ordering::Relaxed).to_ne_bytes();
        let [p0, p1, q0, q1, proto, ..] = self.ports.load(Ordering::Relaxed).to_ne_bytes();
        let action = self.action();
        let entry = FlowEntry4 {
            state,
            last_seen: self.last_seen.load(Ordering::Relaxed),
            src: [s0, s1, s2, s3],
            dst: [d0, d1, d2, d3],
            sport: [p0, p1],
            dport: [q0, q1],
            proto,
            flags: action.flags,
            flow_state: action.flow_state,
            uplink: action.uplink,
            rewrite: action.rewrite,
            l2: action.l2,
            port: action.port,
            worker: action.worker,
            peer: action.peer,
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some(entry)
    }

    /// Takes a free slot for writing.
    fn claim(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state & (VALID | CLAIMED) != 0 {
            return false;
        }
        let claimed = (state & !STATE_BITS).wrapping_add(GENERATION) | CLAIMED;
        let won = self
            .state
            .compare_exchange(state, claimed, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        // The stores that follow must not be seen before the claim.
        fence(Ordering::Release);
        won
    }

    /// Makes a claimed slot hold `entry`; its `state` field is ignored.
    fn publish(&self, entry: &FlowEntry4) {
        let word = |a: [u8; 4], b: [u8; 4]| {
            let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a, b);
            u64::from_ne_bytes([a0, a1, a2, a3, b0, b1, b2, b3])
        };
        let ([p0, p1], [q0, q1]) = (entry.sport, entry.dport);
        let (meta, new) =
            ([entry.proto, entry.flags, entry.flow_state, entry.uplink], entry.rewrite);
        let ([l0, l1], e) = (entry.l2.to_ne_bytes(), entry.peer.to_ne_bytes());
        let ([a0, a1], [b0, b1]) = (new.l3_delta.to_ne_bytes(), new.l4_delta.to_ne_bytes());
        let ([n0, n1], [m0, m1]) = (new.sport, new.dport);
        self.last_seen.store(entry.last_seen, Ordering::Relaxed);
        self.addresses.store(word(entry.src, entry.dst), Ordering::Relaxed);
        self.ports.store(word([p0, p1, q0, q1], meta), Ordering::Relaxed);
        self.new_addresses.store(word(new.src, new.dst), Ordering::Relaxed);
        self.new_ports.store(word([n0, n1, m0, m1], [a0, a1, b0, b1]), Ordering::Relaxed);
        self.out.store(word([l0, l1, entry.port, entry.worker], e), Ordering::Relaxed);
        self.packets.store(entry.packets, Ordering::Relaxed);
        self.bytes.store(entry.bytes, Ordering::Relaxed);
        let generation = self.state.load(Ordering::Relaxed) & !STATE_BITS;
        self.state.store(generation | VALID, Ordering::Release);
    }

    /// Counts a packet. Each entry has one forwarder at a time, so no read-modify-write is needed.
    #[inline]
    pub fn count(&self, bytes: u64, now_ms: u32) {
        self.last_seen.store(now_ms, Ordering::Relaxed);
        let packets = self.packets.load(Ordering::Relaxed);
        self.packets.store(packets.wrapping_add(1), Ordering::Relaxed);
        let total = self.bytes.load(Ordering::Relaxed);
        self.bytes.store(total.wrapping_add(bytes), Ordering::Relaxed);
    }

    /// When a packet last took this direction.
    #[inline]
    pub fn last_seen(&self) -> u32 {
        self.last_seen.load(Ordering::Relaxed)
    }

    /// Owner only: replaces flags and flow state.
    #[inline]
    pub fn set_meta(&self, flags: u8, flow_state: u8) {
        let [p0, p1, q0, q1, proto, _, _, uplink] =
            self.ports.load(Ordering::Relaxed).to_ne_bytes();
        let word = u64::from_ne_bytes([p0, p1, q0, q1, proto, flags, flow_state, uplink]);
        self.ports.store(word, Ordering::Release);
    }

    /// Owner only: names the other direction's slot.
    #[cfg_attr(loom, expect(dead_code, reason = "the table is not part of the models"))]
    fn set_peer(&self, peer: u32) {
        let [l0, l1, port, worker, ..] = self.out.load(Ordering::Relaxed).to_ne_bytes();
        let [e0, e1, e2, e3] = peer.to_ne_bytes();
        let word = u64::from_ne_bytes([l0, l1, port, worker, e0, e1, e2, e3]);
        self.out.store(word, Ordering::Release);
    }

    fn retire(&self) {
        let generation = self.state.load(Ordering::Relaxed) & !STATE_BITS;
        self.state.store(generation | RETIRED, Ordering::Release);
    }
}

#[cfg(not(loom))]
pub use table::FlowTable4;

#[cfg(not(loom))]
mod table {
    use std::sync::Arc;

    use weir_wire::layout::flow::{EMPTY, FlowKey4, GROUP, groups};

    use super::*;
    use crate::map::{self, Access, Mapping, prefetch};
    use crate::{Error, Pins, pins::name};

    /// The table, shared by all workers of the process and by every process that maps it.
    #[derive(Clone, Debug)]
    pub struct FlowTable4 {
        mapping: Arc<Mapping>,
        mask: u32,
    }

    impl FlowTable4 {
        /// Opens the pinned table for writing, creating one of `slots` slots when there is none.
        /// The caller makes sure that the status page vouches for a table that exists.
        pub fn open(pins: &Pins, slots: u32) -> Result<Self, Error> {
            Self::checked(pins, pins.flows4(slots.max(GROUP).next_power_of_two(), Access::Write)?)
        }

        /// Opens the pinned table for reading.
        pub fn read_only(pins: &Pins) -> Result<Self, Error> {
            Self::checked(pins, pins.flows4(0, Access::Read)?)
        }

        fn checked(pins: &Pins, (mapping, shape): (Mapping, map::Shape)) -> Result<Self, Error> {
            if !shape.entries.is_power_of_two() {
                return Err(Error::Layout {
                    path: pins.path(name::FLOWS4),
                    found: format!("{} slots", shape.entries),
                    expected: "a power of two".into(),
                });
            }
            Ok(Self { mapping: Arc::new(mapping), mask: shape.entries - 1 })
        }

        /// A table of this process alone.
        pub fn anonymous(slots: u32) -> std::io::Result<Self> {
            let slots = slots.max(GROUP).next_power_of_two();
            let mapping = Mapping::anonymous(slots as usize * size_of::<Slot4>())?;
            Ok(Self { mapping: Arc::new(mapping), mask: slots - 1 })
        }

        /// Number of slots, a power of two.
        pub fn capacity(&self) -> u32 {
            self.mask + 1
        }

        /// The slot at `index`, which wraps: no index is out of bounds.
        #[inline]
        pub fn slot(&self, index: u32) -> &Slot4 {
            &self.mapping.view::<Slot4>(0)[(index & self.mask) as usize]
        }

        /// Asks for the cache line where a search for `hash` begins.
        #[inline]
        pub fn prefetch(&self, hash: u64) {
            prefetch(self.slot(groups(hash, self.mask)[0]));
        }

        /// The slot that holds `key`.
        #[inline]
        pub fn find(&self, hash: u64, key: &FlowKey4) -> Option<u32> {
            let words = key.words();
            for first in groups(hash, self.mask) {
                for index in first..first + GROUP {
                    let slot = self.slot(index);
                    if slot.holds(words) {
                        return Some(index);
                    }
                    if slot.state.load(Ordering::Relaxed) == EMPTY {
                        break;
                    }
                }
            }
            None
        }

        /// Claims a slot for `hash` and publishes `entry` in it; `None` when both groups are full.
        pub fn insert(&self, hash: u64, entry: &FlowEntry4) -> Option<u32> {
            let [a, b] = groups(hash, self.mask);
            let (in_a, in_b) = (self.used(a), self.used(b));
            let order = if in_a < GROUP / 2 || in_a <= in_b { [a, b] } else { [b, a] };
            for first in order {
                for index in first..first + GROUP {
                    let slot = self.slot(index);
                    if slot.claim() {
                        slot.publish(entry);
                        return Some(index);
                    }
                }
            }
            None
        }

        fn used(&self, first: u32) -> u32 {
            let busy = |i: u32| self.slot(i).state.load(Ordering::Relaxed) & (VALID | CLAIMED) != 0;
            (first..first + GROUP).filter(|i| busy(*i)).count() as u32
        }

        /// Owner only: makes two published entries each other's peer.
        pub fn link(&self, a: u32, b: u32) {
            self.slot(a).set_peer(b);
            self.slot(b).set_peer(a);
        }

        /// Owner only: ends the flow in the slot.
        pub fn retire(&self, index: u32) {
            self.slot(index).retire();
        }

        /// Frees slots that a worker of an earlier process claimed and never published. Only while
        /// no worker runs.
        pub fn recover(&self) {
            for index in 0..self.capacity() {
                let slot = self.slot(index);
                if slot.state.load(Ordering::Relaxed) & CLAIMED != 0 {
                    slot.retire();
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use weir_wire::hash;
    use weir_wire::layout::flow::{FlowKey4, GROUP};
    use zerocopy::FromZeros;

    use super::*;

    fn entry(n: u32) -> FlowEntry4 {
        let mut entry = FlowEntry4::new_zeroed();
        entry.src = n.to_be_bytes();
        entry.dst = [198, 51, 100, 1];
        entry.sport = [1, 2];
        entry.dport = [3, 4];
        entry.proto = 17;
        entry.flags = 0b101;
        entry.uplink = 3;
        entry.rewrite.src = [203, 0, 113, 1];
        entry.rewrite.l3_delta = 0x1234;
        entry.rewrite.l4_delta = 0x5678;
        entry.l2 = 77;
        entry.port = 5;
        entry.worker = 1;
        entry.peer = 9;
        entry
    }

    fn key(e: &FlowEntry4) -> FlowKey4 {
        FlowKey4::new(e.src, e.dst, e.sport, e.dport, e.proto)
    }

    #[test]
    fn what_is_published_is_read_back() {
        let table = FlowTable4::anonymous(64).unwrap();
        let entry = entry(1);
        let index = table.insert(7, &entry).unwrap();
        let read = table.slot(index).read().unwrap();
        assert_eq!(FlowEntry4 { state: 0, ..read }, entry);
        assert_eq!(table.find(7, &key(&entry)), Some(index));
    }

    #[test]
    fn a_retired_flow_is_not_found_and_its_neighbours_are() {
        let table = FlowTable4::anonymous(64).unwrap();
        let (a, b) = (entry(1), entry(2));
        let first = table.insert(7, &a).unwrap();
        let second = table.insert(7, &b).unwrap();
        table.retire(first);
        assert_eq!(table.find(7, &key(&a)), None);
        assert_eq!(table.find(7, &key(&b)), Some(second));
        assert_eq!(table.insert(7, &a), Some(first));
    }

    #[test]
    fn full_groups_refuse_and_keep_what_they_have() {
        let table = FlowTable4::anonymous(64).unwrap();
        let hash = 8 | 32 << 24;
        for n in 0..2 * GROUP {
            assert!(table.insert(hash, &entry(n)).is_some());
        }
        assert_eq!(table.insert(hash, &entry(99)), None);
        for n in 0..2 * GROUP {
            assert!(table.find(hash, &key(&entry(n))).is_some());
        }
    }

    #[test]
    fn slots_claimed_by_a_dead_process_become_free() {
        let table = FlowTable4::anonymous(64).unwrap();
        assert!(table.slot(0).claim());
        assert_eq!(table.insert(0, &entry(1)), Some(1));
        table.recover();
        assert_eq!(table.insert(0, &entry(2)), Some(0));
    }

    #[test]
    fn a_table_two_thirds_full_refuses_nothing() {
        let table = FlowTable4::anonymous(1 << 16).unwrap();
        let secret = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let hash = |e: &FlowEntry4| hash::flow4(secret, &key(e));
        let entries: Vec<_> = (0..(1u32 << 16) * 2 / 3).map(entry).collect();
        let refused = entries.iter().filter(|e| table.insert(hash(e), e).is_none()).count();
        assert_eq!(refused, 0);
        assert!(entries.iter().all(|e| table.find(hash(e), &key(e)).is_some()));
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use loom::sync::Arc;

    fn empty() -> Slot4 {
        Slot4 {
            state: AtomicU32::new(0),
            last_seen: AtomicU32::new(0),
            addresses: AtomicU64::new(0),
            ports: AtomicU64::new(0),
            new_addresses: AtomicU64::new(0),
            new_ports: AtomicU64::new(0),
            out: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    fn entry(n: u8) -> FlowEntry4 {
        let mut entry: FlowEntry4 = zerocopy::FromZeros::new_zeroed();
        (entry.src, entry.rewrite.src, entry.worker) = ([n; 4], [n; 4], n);
        entry
    }

    #[test]
    fn a_reader_of_a_recycled_slot_sees_one_flow_or_none() {
        // Two forced switches find a torn read; more only multiply the runs.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let slot = Arc::new(empty());
            assert!(slot.claim());
            slot.publish(&entry(1));
            let writer = {
                let slot = slot.clone();
                loom::thread::spawn(move || {
                    slot.retire();
                    assert!(slot.claim());
                    slot.publish(&entry(2));
                })
            };
            if let Some(seen) = slot.read() {
                assert_eq!((seen.src, seen.rewrite.src), ([seen.worker; 4], [seen.worker; 4]));
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn two_workers_never_claim_one_slot() {
        loom::model(|| {
            let slot = Arc::new(empty());
            let other = {
                let slot = slot.clone();
                loom::thread::spawn(move || slot.claim())
            };
            let mine = slot.claim();
            assert!(mine != other.join().unwrap());
        });
    }
}
