//! May the next packet of an established flow leave at once? One answer for both tiers.
//!
//! Each tier brings the words: of the [packet](crate::plain), of where it came in, of its entry, and
//! of where that leads. What is in none of them it looks at itself: the user tier whose flow it is.

use crate::rewrite::LinkHeader;
use weir_layout::control::{Mac, path_state};
use weir_layout::flow::flag;
use weir_layout::adjacency::mark;

/// Where a frame came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// Where packets go that come in by its port, see [`flag::heading`].
    pub heading: u8,
    /// Its sender's [`adjacency::word`](weir_layout::adjacency::word).
    pub sender: u64,
}

/// What a flow's entry says of one direction, see [`FlowEntry4`](weir_layout::flow::FlowEntry4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Bits of [`flag`].
    pub flags: u8,
    /// Uplink index.
    pub uplink: u8,
    /// Port it leaves by.
    pub port: u8,
    /// The LAN host: its index, or its mark.
    pub host: u16,
    /// Slot of the other direction.
    pub peer: u32,
}

/// Where a direction leads, by the published state and the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The path's state word.
    pub path_state: u32,
    /// The port's device.
    pub device: u8,
    /// The port's MTU, bytes.
    pub mtu: u16,
    /// Layer 2; no destination, while none is known.
    pub link: LinkHeader,
}

impl Direction {
    /// From the entry's words, in memory order on a little-endian machine: that of the key's ports
    /// and the flags, and that of the host.
    #[inline(always)]
    pub const fn from_words(meta: u64, out: u64) -> Self {
        let [_, _, _, _, _, flags, _, uplink] = meta.to_le_bytes();
        let (host, port, peer) = (out as u16, (out >> 16) as u8, (out >> 32) as u32);
        Self { flags, uplink, port, host, peer }
    }

    /// Does it lead to an uplink?
    #[inline(always)]
    pub const fn is_outward(&self) -> bool {
        self.flags & flag::TO_UPLINK != 0
    }

    /// Does a packet come from another hardware address, or port, than the flow's host does?
    #[inline(always)]
    pub const fn has_moved(&self, sender: u64) -> bool {
        self.is_outward() && self.host != mark(sender, self.peer)
    }
}

/// May a plain packet of this direction, of `len` bytes from the IP header on, leave at once? Its
/// flow must be offered to the kernel tier, and for packets from this side.
#[inline(always)]
pub const fn may_leave(len: u16, from: &Ingress, direction: &Direction, to: &Egress) -> bool {
    const OFFERED: u8 = flag::OFFLOAD | flag::TO_UPLINK;
    direction.flags & OFFERED == flag::OFFLOAD | from.heading
        && to.path_state & path_state::USABLE != 0
        && !direction.has_moved(from.sender)
        && to.link.destination.word() != Mac::NONE.word()
        && len <= to.mtu
}
