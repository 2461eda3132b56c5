//! Where a family's slot has its words: an entry of its table, made of atomics.

#[cfg(not(loom))]
use weir_layout::flow::FlowEntry4;
#[cfg(not(loom))]
use weir_layout::flow6::FlowEntry6;
use weir_wire::family::{Family, V4, V6};

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A family that has a table.
pub trait Stored: Family {
    /// Its slots' words.
    type Slot: SlotWords + Sync;
}

impl Stored for V4 {
    type Slot = Words4;
}

impl Stored for V6 {
    type Slot = Words6;
}

/// The words of a slot.
pub trait SlotWords {
    /// Publication word.
    fn state(&self) -> &AtomicU32;
    /// When a packet last took the direction.
    fn last_seen(&self) -> &AtomicU32;
    /// The key's words; in the last, above the protocol, flags, state and owner, and uplink.
    fn key(&self) -> &[AtomicU64];
    /// The rewrite's words.
    fn rewrite(&self) -> &[AtomicU64];
    /// Adjacency, mark and peer.
    fn out(&self) -> &AtomicU64;
    /// TCP: the sequence number after the last byte.
    fn next_seq(&self) -> &AtomicU32;
    /// Packets, where the family counts them, and bytes.
    fn counters(&self) -> (u32, u64);
    /// Replaces the counters.
    fn set_counters(&self, packets: u32, bytes: u64);
    /// Counts a packet. Each direction has one forwarder at a time, but for the moment when the other
    /// tier takes over, so no read-modify-write is needed.
    fn count(&self, bytes: u64);
    /// Has no packet been counted?
    fn is_unused(&self) -> bool;
}

/// A [`FlowEntry4`](weir_layout::flow::FlowEntry4) whose words are atomics; same size, same
/// offsets.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Words4 {
    state: AtomicU32,
    last_seen: AtomicU32,
    key: [AtomicU64; 2],
    rewrite: [AtomicU64; 2],
    out: AtomicU64,
    packets: AtomicU32,
    next_seq: AtomicU32,
    bytes: AtomicU64,
}

/// A [`FlowEntry6`](weir_layout::flow6::FlowEntry6) whose words are atomics; same size, same
/// offsets.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Words6 {
    state: AtomicU32,
    last_seen: AtomicU32,
    key: [AtomicU64; 5],
    out: AtomicU64,
    next_seq: AtomicU32,
    bytes_low: AtomicU32,
    rewrite: [AtomicU64; 5],
    bytes_high: AtomicU32,
    reserved: [AtomicU32; 5],
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Words4>() == size_of::<FlowEntry4>());
    assert!(offset_of!(Words4, key) == offset_of!(FlowEntry4, src));
    assert!(offset_of!(Words4, rewrite) == offset_of!(FlowEntry4, rewrite));
    assert!(offset_of!(Words4, out) == offset_of!(FlowEntry4, adjacency));
    assert!(offset_of!(Words4, packets) == offset_of!(FlowEntry4, packets));
    assert!(offset_of!(Words4, next_seq) == offset_of!(FlowEntry4, next_seq));
    assert!(offset_of!(Words4, bytes) == offset_of!(FlowEntry4, bytes));
    assert!(size_of::<Words6>() == size_of::<FlowEntry6>());
    assert!(offset_of!(Words6, key) == offset_of!(FlowEntry6, src));
    assert!(offset_of!(Words6, out) == offset_of!(FlowEntry6, adjacency));
    assert!(offset_of!(Words6, next_seq) == offset_of!(FlowEntry6, next_seq));
    assert!(offset_of!(Words6, bytes_low) == offset_of!(FlowEntry6, bytes_low));
    assert!(offset_of!(Words6, rewrite) == offset_of!(FlowEntry6, rewrite));
    assert!(offset_of!(Words6, bytes_high) == offset_of!(FlowEntry6, bytes_high));
    assert!(offset_of!(Words6, reserved) == offset_of!(FlowEntry6, reserved));
};

/// The fields that both have.
macro_rules! fields {
    () => {
        #[inline]
        fn state(&self) -> &AtomicU32 {
            &self.state
        }

        #[inline]
        fn last_seen(&self) -> &AtomicU32 {
            &self.last_seen
        }

        #[inline]
        fn key(&self) -> &[AtomicU64] {
            &self.key
        }

        #[inline]
        fn rewrite(&self) -> &[AtomicU64] {
            &self.rewrite
        }

        #[inline]
        fn out(&self) -> &AtomicU64 {
            &self.out
        }

        #[inline]
        fn next_seq(&self) -> &AtomicU32 {
            &self.next_seq
        }
    };
}

impl SlotWords for Words4 {
    fields!();

    #[inline]
    fn counters(&self) -> (u32, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    #[inline]
    fn set_counters(&self, packets: u32, bytes: u64) {
        self.packets.store(packets, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    #[inline]
    fn count(&self, bytes: u64) {
        let (packets, total) = self.counters();
        self.set_counters(packets.wrapping_add(1), total.wrapping_add(bytes));
    }

    #[inline]
    fn is_unused(&self) -> bool {
        self.packets.load(Ordering::Relaxed) == 0
    }
}

impl SlotWords for Words6 {
    fields!();

    #[inline]
    fn counters(&self) -> (u32, u64) {
        let [low, high] =
            [&self.bytes_low, &self.bytes_high].map(|word| word.load(Ordering::Relaxed));
        (0, u64::from(high) << 32 | u64::from(low))
    }

    #[inline]
    fn set_counters(&self, _: u32, bytes: u64) {
        self.bytes_low.store(bytes as u32, Ordering::Relaxed);
        self.bytes_high.store((bytes >> 32) as u32, Ordering::Relaxed);
    }

    /// Touches the second line once in 4 GiB.
    #[inline]
    fn count(&self, bytes: u64) {
        let total = u64::from(self.bytes_low.load(Ordering::Relaxed)) + bytes;
        self.bytes_low.store(total as u32, Ordering::Relaxed);
        let carry = (total >> 32) as u32;
        if carry != 0 {
            let high = self.bytes_high.load(Ordering::Relaxed);
            self.bytes_high.store(high.wrapping_add(carry), Ordering::Relaxed);
        }
    }

    #[inline]
    fn is_unused(&self) -> bool {
        self.bytes_low.load(Ordering::Relaxed) == 0 && self.bytes_high.load(Ordering::Relaxed) == 0
    }
}

#[cfg(loom)]
impl Default for Words4 {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(0),
            last_seen: AtomicU32::new(0),
            key: std::array::from_fn(|_| AtomicU64::new(0)),
            rewrite: std::array::from_fn(|_| AtomicU64::new(0)),
            out: AtomicU64::new(0),
            packets: AtomicU32::new(0),
            next_seq: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

#[cfg(loom)]
impl Default for Words6 {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(0),
            last_seen: AtomicU32::new(0),
            key: std::array::from_fn(|_| AtomicU64::new(0)),
            out: AtomicU64::new(0),
            next_seq: AtomicU32::new(0),
            bytes_low: AtomicU32::new(0),
            rewrite: std::array::from_fn(|_| AtomicU64::new(0)),
            bytes_high: AtomicU32::new(0),
            reserved: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}
