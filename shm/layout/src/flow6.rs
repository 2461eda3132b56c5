//! The flow table's entries for IPv6: two cache lines a direction. What is matched, decided and
//! followed is in the first, what is done in the second, so that a direction without a rewrite
//! touches one.
//!
//! The protocol of publication is that of [`flow`](super::flow).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::flow::StateOwner;

/// One IPv6 direction. 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct FlowEntry6 {
    /// As in [`FlowEntry4::state`](super::flow::FlowEntry4::state).
    pub state: u32,
    /// As in [`FlowEntry4::last_seen`](super::flow::FlowEntry4::last_seen).
    pub last_seen: u32,
    /// Source address, network order.
    pub src: [u8; 16],
    /// Destination address, network order.
    pub dst: [u8; 16],
    /// Source port, network order; of echo its identifier.
    pub sport: [u8; 2],
    /// Destination port, network order; of echo its type.
    pub dport: [u8; 2],
    /// Upper-layer protocol.
    pub proto: u8,
    /// Bits of [`flag`](super::flow::flag).
    pub flags: u8,
    /// State and owner, of both directions alike.
    pub state_owner: StateOwner,
    /// As in [`FlowEntry4::uplink`](super::flow::FlowEntry4::uplink).
    pub uplink: u8,
    /// As in [`FlowEntry4::adjacency`](super::flow::FlowEntry4::adjacency).
    pub adjacency: u16,
    /// As in [`FlowEntry4::mark`](super::flow::FlowEntry4::mark).
    pub mark: u16,
    /// Slot of the other direction.
    pub peer: u32,
    /// As in [`FlowEntry4::next_seq`](super::flow::FlowEntry4::next_seq).
    pub next_seq: u32,
    /// Bytes forwarded, from the IP header on: the low 32 bits.
    pub bytes_low: u32,
    /// As in [`FlowEntry4::rewrite`](super::flow::FlowEntry4::rewrite).
    pub rewrite: [u64; 5],
    /// The high 32 bits, which change once in 4 GiB.
    pub bytes_high: u32,
    /// Zero.
    pub reserved: [u8; 20],
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<FlowEntry6>() == 128);
    assert!(offset_of!(FlowEntry6, src) == 8);
    assert!(offset_of!(FlowEntry6, sport) == 40);
    assert!(offset_of!(FlowEntry6, adjacency) == 48);
    assert!(offset_of!(FlowEntry6, bytes_low) == 60);
    // The second line.
    assert!(offset_of!(FlowEntry6, rewrite) == 64);
    assert!(offset_of!(FlowEntry6, bytes_high) == 104);
};
