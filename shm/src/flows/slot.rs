//! One slot: publish, read, count, retire.

use weir_wire::forward::Direction;
use weir_wire::layout::flow::{FlowEntry4, GENERATION, Rewrite4, VALID};
use weir_wire::tcp::{Place, Segment};

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

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
    packets: AtomicU32,
    next_seq: AtomicU32,
    bytes: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Slot4>() == size_of::<FlowEntry4>());
    assert!(offset_of!(Slot4, addresses) == offset_of!(FlowEntry4, src));
    assert!(offset_of!(Slot4, ports) == offset_of!(FlowEntry4, sport));
    assert!(offset_of!(Slot4, new_addresses) == offset_of!(FlowEntry4, rewrite));
    assert!(offset_of!(Slot4, out) == offset_of!(FlowEntry4, host));
    assert!(offset_of!(Slot4, packets) == offset_of!(FlowEntry4, packets));
    assert!(offset_of!(Slot4, next_seq) == offset_of!(FlowEntry4, next_seq));
    assert!(offset_of!(Slot4, bytes) == offset_of!(FlowEntry4, bytes));
};

/// What forwarding a packet needs of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action4 {
    /// What leaves.
    pub rewrite: Rewrite4,
    /// See [`FlowEntry4::host`].
    pub host: u16,
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

/// What a walk over the table looks at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta4 {
    /// IP protocol.
    pub proto: u8,
    /// Bits of [`weir_wire::layout::flow::flag`].
    pub flags: u8,
    /// [`weir_wire::layout::flow::FlowState`].
    pub flow_state: u8,
    /// Uplink.
    pub uplink: u8,
}

impl Action4 {
    /// What the decision about its packets needs.
    #[inline(always)]
    pub const fn direction(&self) -> Direction {
        let Self { flags, uplink, port, host, peer, .. } = *self;
        Direction { flags, uplink, port, host, peer }
    }
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

    /// Protocol, flags, flow state and uplink of the flow in the slot: one load.
    #[inline]
    pub fn meta(&self) -> Meta4 {
        let [.., proto, flags, flow_state, uplink] =
            self.ports.load(Ordering::Relaxed).to_ne_bytes();
        Meta4 { proto, flags, flow_state, uplink }
    }

    /// Which use of the slot this is: another flow in it has another number.
    #[inline]
    pub fn generation(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    /// The action, for the slot's owner, which alone could change it.
    #[inline]
    pub fn action(&self) -> Action4 {
        let rewrite =
            [self.new_addresses.load(Ordering::Relaxed), self.new_ports.load(Ordering::Relaxed)];
        let [h0, h1, port, worker, e0, e1, e2, e3] = self.out.load(Ordering::Relaxed).to_ne_bytes();
        let [.., flags, flow_state, uplink] = self.ports.load(Ordering::Relaxed).to_ne_bytes();
        Action4 {
            rewrite: Rewrite4::from_words(rewrite),
            host: u16::from_ne_bytes([h0, h1]),
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
            host: action.host,
            port: action.port,
            worker: action.worker,
            peer: action.peer,
            packets: self.packets.load(Ordering::Relaxed),
            next_seq: self.next_seq.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (self.state.load(Ordering::Relaxed) == state).then_some(entry)
    }

    /// Makes a slot that the caller has claimed hold `entry`, whose `state` field is ignored.
    pub(super) fn publish(&self, entry: &FlowEntry4) {
        // Whoever sees one of the stores below sees that the slot's earlier flow has ended.
        fence(Ordering::Release);
        let word = |a: [u8; 4], b: [u8; 4]| {
            let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a, b);
            u64::from_ne_bytes([a0, a1, a2, a3, b0, b1, b2, b3])
        };
        let ([p0, p1], [q0, q1]) = (entry.sport, entry.dport);
        let meta = [entry.proto, entry.flags, entry.flow_state, entry.uplink];
        let ([h0, h1], e) = (entry.host.to_ne_bytes(), entry.peer.to_ne_bytes());
        let [new_addresses, new_ports] = entry.rewrite.words();
        self.last_seen.store(entry.last_seen, Ordering::Relaxed);
        self.addresses.store(word(entry.src, entry.dst), Ordering::Relaxed);
        self.ports.store(word([p0, p1, q0, q1], meta), Ordering::Relaxed);
        self.new_addresses.store(new_addresses, Ordering::Relaxed);
        self.new_ports.store(new_ports, Ordering::Relaxed);
        self.out.store(word([h0, h1, entry.port, entry.worker], e), Ordering::Relaxed);
        self.packets.store(entry.packets, Ordering::Relaxed);
        self.next_seq.store(entry.next_seq, Ordering::Relaxed);
        self.bytes.store(entry.bytes, Ordering::Relaxed);
        let generation = self.state.load(Ordering::Relaxed) & !VALID;
        self.state.store(generation.wrapping_add(GENERATION) | VALID, Ordering::Release);
    }

    /// Counts a packet. Each direction has one forwarder at a time, but for the moment when the other
    /// tier takes over, so no read-modify-write is needed.
    #[inline]
    pub fn count(&self, bytes: u64, now_ms: u32) {
        self.last_seen.store(now_ms, Ordering::Relaxed);
        let packets = self.packets.load(Ordering::Relaxed);
        self.packets.store(packets.wrapping_add(1), Ordering::Relaxed);
        let total = self.bytes.load(Ordering::Relaxed);
        self.bytes.store(total.wrapping_add(bytes), Ordering::Relaxed);
    }

    /// Follows the sequence numbers of a direction by a segment that acknowledges `ack`, if anything,
    /// before the packet is [counted](Self::count); `peer` is the other direction. Says what the
    /// segment is to it, never [`Place::Beyond`].
    #[inline]
    pub fn track_sequence(&self, segment: Segment, ack: Option<u32>, peer: &Self) -> Place {
        let (next, packets) =
            (self.next_seq.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed));
        let place = match packets {
            0 => Place::New,
            _ => segment.follow(next, ack, || Some(peer.next_seq())),
        };
        if place == Place::New {
            self.next_seq.store(segment.end, Ordering::Relaxed);
        }
        place
    }

    /// The direction's numbers go on with this one.
    pub fn set_next_seq(&self, seq: u32) {
        self.next_seq.store(seq, Ordering::Relaxed);
    }

    /// TCP: the sequence number after the last byte that was forwarded in this direction.
    #[inline]
    pub fn next_seq(&self) -> u32 {
        self.next_seq.load(Ordering::Relaxed)
    }

    /// Bytes forwarded in this direction.
    #[inline]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
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

    /// Gives the entry to another worker; only while none runs.
    pub fn set_worker(&self, worker: u8) {
        self.change_out(|[_, _, _, of, ..]| *of = worker);
    }

    /// Owner only: replaces what the direction knows of the host.
    #[inline]
    pub fn set_host(&self, host: u16) {
        self.change_out(|out| out[..2].copy_from_slice(&host.to_ne_bytes()));
    }

    /// Owner only: replaces where the host is, of the direction that leads to it.
    #[inline]
    pub fn set_home(&self, port: u8, host: u16) {
        self.change_out(|out| {
            out[..2].copy_from_slice(&host.to_ne_bytes());
            out[2] = port;
        });
    }

    /// Owner only: names the other direction's slot.
    #[cfg_attr(loom, expect(dead_code, reason = "the table is not part of the models"))]
    pub(super) fn set_peer(&self, peer: u32) {
        self.change_out(|out| out[4..].copy_from_slice(&peer.to_ne_bytes()));
    }

    /// Changes a part of the word of host, port, worker and peer, and stores it as one.
    #[inline]
    fn change_out(&self, change: impl FnOnce(&mut [u8; 8])) {
        let mut out = self.out.load(Ordering::Relaxed).to_ne_bytes();
        change(&mut out);
        self.out.store(u64::from_ne_bytes(out), Ordering::Release);
    }

    /// Owner only: ends the flow.
    pub(super) fn retire(&self) {
        let generation = self.state.load(Ordering::Relaxed) & !VALID;
        self.state.store(generation, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::Arc;

    use super::*;

    fn empty() -> Slot4 {
        Slot4 {
            state: AtomicU32::new(0),
            last_seen: AtomicU32::new(0),
            addresses: AtomicU64::new(0),
            ports: AtomicU64::new(0),
            new_addresses: AtomicU64::new(0),
            new_ports: AtomicU64::new(0),
            out: AtomicU64::new(0),
            packets: AtomicU32::new(0),
            next_seq: AtomicU32::new(0),
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
            slot.publish(&entry(1));
            let writer = {
                let slot = slot.clone();
                loom::thread::spawn(move || {
                    slot.retire();
                    slot.publish(&entry(2));
                })
            };
            if let Some(seen) = slot.read() {
                assert_eq!((seen.src, seen.rewrite.src), ([seen.worker; 4], [seen.worker; 4]));
            }
            writer.join().unwrap();
        });
    }
}
