//! The flow table: one slot per direction, the match key and the compiled rewrite in one place.
//!
//! An IPv4 direction fills one 64-byte cache line, an IPv6 direction two. The table is an array of
//! `2^n` slots in groups of [`GROUP`]. A key lives in one of the two groups that its hash names
//! ([`groups`]): in the first while that is less than half full, else in the emptier one. With two
//! choices a group overflows only when the table as a whole is nearly full, and a search looks at
//! 16 slots at most.
//!
//! **Publication.** `state` is the slot's word of truth:
//!
//! | state | meaning | next |
//! |---|---|---|
//! | [`EMPTY`] | never used since the last empty run; ends a search | claimed by compare-and-swap |
//! | [`CLAIMED`] bit | a worker is writing the slot; readers skip it | stored `VALID` with release |
//! | [`VALID`] bit | key and action may be read | stored `RETIRED` with release |
//! | [`RETIRED`] bit | the flow is gone; a search goes on past it | claimed again, or made `EMPTY` |
//!
//! The other bits count generations, so that a reader that loads `state` (acquire), copies the
//! slot, and finds `state` unchanged afterwards has read one flow and not two halves. Only the
//! owning worker changes anything but the counters and `last_seen`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots of a group, adjacent and aligned.
pub const GROUP: u32 = 8;

/// First slots of the two groups of a hash, in a table of `mask + 1` slots.
#[inline]
pub const fn groups(hash: u64, mask: u32) -> [u32; 2] {
    let mask = mask & !(GROUP - 1);
    [hash as u32 & mask, (hash >> 24) as u32 & mask]
}

/// State of a slot that ends the search of its group.
pub const EMPTY: u32 = 0;
/// A worker is writing the slot.
pub const CLAIMED: u32 = 1;
/// The slot holds a flow.
pub const VALID: u32 = 2;
/// The slot held a flow.
pub const RETIRED: u32 = 4;
/// Added to `state` each time the slot is claimed.
pub const GENERATION: u32 = 8;

/// Bits of an entry's `flags`.
pub mod flag {
    /// The direction that the flow's first packet had; the peer entry lacks it.
    pub const FORWARD: u8 = 1;
    /// Addresses or ports are rewritten.
    pub const NAT: u8 = 2;
    /// Both directions have been seen: the kernel tier may forward the flow.
    pub const OFFLOAD: u8 = 4;
    /// At least one packet of this direction has been seen.
    pub const SEEN: u8 = 8;
    /// The direction leads to an uplink; unset: to a LAN port.
    pub const TO_UPLINK: u8 = 16;
    /// TCP: a FIN was seen in this direction.
    pub const FIN: u8 = 32;
}

/// Where a flow stands; kept in the forward entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowState {
    /// UDP, or ICMP query: idle timeout only.
    Stateless = 0,
    /// TCP, handshake not complete.
    Opening = 1,
    /// TCP, handshake complete.
    Established = 2,
    /// TCP, FIN or RST seen.
    Closing = 3,
}

impl FlowState {
    /// The state a byte of shared memory names; anything unknown is the shortest lived.
    #[inline]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Opening,
            2 => Self::Established,
            3 => Self::Closing,
            _ => Self::Stateless,
        }
    }
}

/// Match key of an IPv4 direction: the packet's own fields, as received. ICMP queries carry the
/// identifier in both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct FlowKey4 {
    /// Source address, network order.
    pub src: [u8; 4],
    /// Destination address, network order.
    pub dst: [u8; 4],
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl FlowKey4 {
    /// The key of a packet with these fields.
    #[inline]
    pub const fn new(
        src: [u8; 4],
        dst: [u8; 4],
        sport: [u8; 2],
        dport: [u8; 2],
        proto: u8,
    ) -> Self {
        Self { src, dst, sport, dport, proto, pad: [0; 3] }
    }

    /// The key as two words, in memory order: addresses; ports and protocol.
    #[inline]
    pub const fn words(&self) -> [u64; 2] {
        let [a, b, c, d] = self.src;
        let [e, f, g, h] = self.dst;
        let [i, j] = self.sport;
        let [k, l] = self.dport;
        [
            u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            u64::from_ne_bytes([i, j, k, l, self.proto, 0, 0, 0]),
        ]
    }
}

/// Compiled rewrite of an IPv4 direction: what the packet looks like when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rewrite4 {
    /// New source address, network order.
    pub src: [u8; 4],
    /// New destination address, network order.
    pub dst: [u8; 4],
    /// New source port (ICMP: identifier), network order.
    pub sport: [u8; 2],
    /// New destination port (ICMP: identifier), network order.
    pub dport: [u8; 2],
    /// RFC 1624 delta of the IPv4 header checksum, without the TTL.
    pub l3_delta: u16,
    /// RFC 1624 delta of the transport checksum.
    pub l4_delta: u16,
}

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
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// IP protocol.
    pub proto: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// [`FlowState`], in the forward entry.
    pub flow_state: u8,
    /// The uplink the flow is on.
    pub uplink: u8,
    /// What leaves.
    pub rewrite: Rewrite4,
    /// Layer-2 addresses: below 64 the next hop of that uplink, else `64 + index` in the
    /// [neighbour](super::neighbour) table.
    pub l2: u16,
    /// Port it leaves by.
    pub port: u8,
    /// Worker that owns the flow.
    pub worker: u8,
    /// Slot of the other direction.
    pub peer: u32,
    /// Packets forwarded. Atomic.
    pub packets: u64,
    /// Bytes forwarded, from the IP header on. Atomic.
    pub bytes: u64,
}

/// One IPv6 direction. 128 bytes, two cache lines: the key in the first, the rewrite in the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct FlowEntry6 {
    /// As in [`FlowEntry4::state`].
    pub state: u32,
    /// As in [`FlowEntry4::last_seen`].
    pub last_seen: u32,
    /// Source address, network order.
    pub src: [u8; 16],
    /// Destination address, network order.
    pub dst: [u8; 16],
    /// Source port, network order.
    pub sport: [u8; 2],
    /// Destination port, network order.
    pub dport: [u8; 2],
    /// Upper-layer protocol.
    pub proto: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// [`FlowState`].
    pub flow_state: u8,
    /// The uplink the flow is on.
    pub uplink: u8,
    /// As in [`FlowEntry4::l2`].
    pub l2: u16,
    /// Port it leaves by.
    pub port: u8,
    /// Worker that owns the flow.
    pub worker: u8,
    /// Slot of the other direction.
    pub peer: u32,
    /// New source address, network order.
    pub new_src: [u8; 16],
    /// New destination address, network order.
    pub new_dst: [u8; 16],
    /// RFC 1624 delta of the transport checksum; 0 under checksum-neutral NPTv6 (RFC 6296).
    pub l4_delta: u16,
    /// Zero.
    pub reserved: [u8; 22],
    /// Packets forwarded. Atomic.
    pub packets: u64,
    /// Bytes forwarded, from the IP header on. Atomic.
    pub bytes: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<FlowKey4>() == 16);
    assert!(size_of::<FlowEntry4>() == 64);
    assert!(offset_of!(FlowEntry4, src) == 8);
    assert!(offset_of!(FlowEntry4, sport) == 16);
    assert!(offset_of!(FlowEntry4, flags) == 21);
    assert!(offset_of!(FlowEntry4, rewrite) == 24);
    assert!(offset_of!(FlowEntry4, l2) == 40);
    assert!(offset_of!(FlowEntry4, packets) == 48);
    assert!(size_of::<FlowEntry6>() == 128);
    assert!(offset_of!(FlowEntry6, new_src) == 56);
    assert!(offset_of!(FlowEntry6, packets) == 112);
    assert!(GROUP.is_power_of_two());
};
