//! The flow table: one slot per direction, the match key and the compiled rewrite in one place.
//!
//! An IPv4 direction fills one 64-byte cache line, an [IPv6 direction](super::flow6) two. Slots stand
//! in groups of [`GROUP`], groups in pages of [`PAGE`] slots, 4 KiB of IPv4. Which of a group's slots
//! to look at is in its word of [`tags`](super::tags), a page's words are one cache line: a search
//! touches that line, and then as a rule one slot, the one that holds the flow.
//!
//! **Publication.** `state` is the slot's word of truth: the [`VALID`] bit, and above it a
//! generation that is another one each time the slot is used.
//!
//! 1. A worker claims the slot by entering a tag for it (compare-and-swap).
//! 2. It stores key and action, then `state` with [`VALID`] and the next generation (release).
//! 3. To end the flow it clears [`VALID`] (release), then the tag (release): only then may the slot
//!    be claimed again.
//!
//! A reader that loads `state` (acquire), copies what it needs, and finds `state` unchanged behind
//! an acquire fence has read one flow and not two halves. The XDP program reads so on x86-64, where
//! the machine keeps loads in order and stores in order, so that release and acquire are plain
//! accesses; arm64 would need `BPF_LOAD_ACQ` (Linux 6.15), so there the kernel tier stays off. Only
//! the owning worker changes anything but the counters and `last_seen`; what it changes in a
//! valid slot (flags, flow state, adjacency, mark, peer) it stores as one word.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::MAX_WORKERS;

/// Slots of a group, adjacent and aligned.
pub const GROUP: u32 = 8;
/// Slots of a page of the table, which is one of the machine's: finding it costs one walk of the
/// page tables, whichever of its slots is wanted.
pub const PAGE: u32 = 64;

/// The slot holds a flow.
pub const VALID: u32 = 1;
/// Added to `state` each time the slot is used.
pub const GENERATION: u32 = 2;

/// Slots of a table for so many flows: two each, and a fifth more, with which two insertions in a
/// hundred thousand are refused while the table fills to what it was made for.
pub const fn slots_for(flows: u32) -> u32 {
    let slots = (flows as u64 * 12).div_ceil(5).next_multiple_of(PAGE as u64);
    // An index is 32 bits, and a peer is named by one.
    const MOST: u32 = u32::MAX - (PAGE - 1);
    if slots > MOST as u64 { MOST } else { slots as u32 }
}

/// Flows that a table of so many slots is made for: the other way round.
pub const fn flows_for(slots: u32) -> u32 {
    (slots as u64 * 5 / 12) as u32
}

/// Bits of an entry's `flags`.
pub mod flag {
    use crate::control::PortRole;

    /// The direction that the flow's first packet had; the peer entry lacks it.
    pub const INITIATED: u8 = 1;
    /// Addresses or ports are rewritten.
    pub const NAT: u8 = 2;
    /// Both directions have been seen: the kernel tier may forward the flow.
    pub const OFFLOAD: u8 = 4;
    /// At least one packet of this direction has been seen.
    pub const SEEN: u8 = 8;
    /// Its packets come from inside, by a LAN port; unset: by an uplink. Both directions of a flow
    /// that stays inside have it.
    pub const INSIDE: u8 = 16;
    /// TCP: a FIN was seen in this direction.
    pub const FIN: u8 = 32;
    /// TCP, closing: this direction has gone on since.
    pub const GOES_ON: u8 = 64;
    /// The direction is never offered to the kernel tier: a worker completes its checksums, or its
    /// protocol has no ports.
    pub const NO_OFFLOAD: u8 = 128;

    /// [`INSIDE`] as it stands in entries whose packets come in by a port of this
    /// [role](PortRole).
    #[inline(always)]
    pub const fn side(role: u8) -> u8 {
        const _: () = assert!(PortRole::Uplink as u8 & PortRole::Lan as u8 == 0);
        (role & PortRole::Lan as u8) * INSIDE
    }
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// UDP, ICMP query, or another protocol: idle timeout only.
    Stateless = 0,
    /// TCP, handshake not complete.
    Opening = 1,
    /// TCP, handshake complete.
    Established = 2,
    /// TCP, FIN or RST seen.
    Closing = 3,
}

/// A flow's state, the worker that owns it, and whether it holds its endpoint's mapping, in a byte: bits
/// 0 and 1, bits 2 to 6, bit 7.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct StateOwner(u8);

impl StateOwner {
    const STATE: u8 = 0b11;
    const WORKER: u32 = 2;
    const MAPPED: u8 = 1 << 7;

    /// Of a flow in this state, and of this worker, which is below [`MAX_WORKERS`]; without a mapping.
    #[inline(always)]
    pub const fn new(state: FlowState, worker: u8) -> Self {
        Self(state as u8 | (worker & (MAX_WORKERS as u8 - 1)) << Self::WORKER)
    }

    /// The same in another state.
    #[inline(always)]
    pub const fn with_state(self, state: FlowState) -> Self {
        Self(self.0 & !Self::STATE | state as u8)
    }

    /// The same of another worker.
    #[inline(always)]
    pub const fn with_worker(self, worker: u8) -> Self {
        let Self(owned) = Self::new(self.state(), worker);
        Self(owned | self.0 & Self::MAPPED)
    }

    /// The same of a flow that holds its endpoint's mapping, or none.
    #[inline(always)]
    pub const fn with_mapping(self, is_mapped: bool) -> Self {
        Self(self.0 & !Self::MAPPED | (is_mapped as u8 * Self::MAPPED))
    }

    /// From the byte of shared memory, any of which is one.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }

    /// That byte.
    #[inline(always)]
    pub const fn byte(self) -> u8 {
        self.0
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        match self.0 & Self::STATE {
            0 => FlowState::Stateless,
            1 => FlowState::Opening,
            2 => FlowState::Established,
            _ => FlowState::Closing,
        }
    }

    /// Does it hold its endpoint's mapping?
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        self.0 & Self::MAPPED != 0
    }

    /// The worker, below [`MAX_WORKERS`].
    #[inline(always)]
    pub const fn worker(self) -> u8 {
        self.0 >> Self::WORKER & (MAX_WORKERS as u8 - 1)
    }
}

const _: () = {
    assert!(FlowState::Closing as u8 == StateOwner::STATE);
    assert!(
        MAX_WORKERS.is_power_of_two()
            && MAX_WORKERS << StateOwner::WORKER <= StateOwner::MAPPED as usize
    );
};

/// One IPv4 direction. 64 bytes, one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct FlowEntry4 {
    /// Publication word, see the module's text. Atomic.
    pub state: u32,
    /// When a packet last took this direction, CLOCK_MONOTONIC milliseconds, wrapping. Atomic.
    pub last_seen: u32,
    /// Source address, network order.
    pub src: [u8; 4],
    /// Destination address, network order.
    pub dst: [u8; 4],
    /// Source port, network order; of echo its identifier.
    pub sport: [u8; 2],
    /// Destination port, network order; of echo its type.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// State, owner, and whether there is a mapping, of both directions alike.
    pub state_owner: StateOwner,
    /// The uplink the flow is on; [`NONE`](super::NONE): it stays inside.
    pub uplink: u8,
    /// What leaves: new addresses, ports and checksum deltas, see `Rewrite` of `weir_wire::rewrite`.
    pub rewrite: [u64; 2],
    /// Where it leaves to, an index in the table of [adjacencies](super::adjacency).
    pub adjacency: u16,
    /// Of packets from inside: the [mark](super::adjacency::mark) of the host that sends them, or
    /// of the router it is behind. So a packet from another hardware address or port is noticed
    /// without a look at the other direction's entry.
    pub mark: u16,
    /// Slot of the other direction.
    pub peer: u32,
    /// Packets forwarded, by either tier, wrapping. A packet may go uncounted when both forward at
    /// once.
    pub packets: u32,
    /// TCP: the sequence number after the last byte that was forwarded in this direction, of segments
    /// that are the connection's (`Place` of `weir_wire::tcp`). As above, the forwarding tier's.
    pub next_seq: u32,
    /// Bytes forwarded, from the IP header on.
    pub bytes: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<FlowEntry4>() == 64);
    assert!(offset_of!(FlowEntry4, src) == 8);
    assert!(offset_of!(FlowEntry4, sport) == 16);
    assert!(offset_of!(FlowEntry4, flags) == 21);
    assert!(offset_of!(FlowEntry4, rewrite) == 24);
    assert!(offset_of!(FlowEntry4, adjacency) == 40);
    assert!(offset_of!(FlowEntry4, packets) == 48);
    assert!(GROUP.is_power_of_two() && PAGE == GROUP * GROUP);
};
