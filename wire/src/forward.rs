//! May the next packet of an established flow leave at once? One answer for both tiers.
//!
//! Each tier brings the words: of the [packet](crate::plain), of where it came in, of its entry, and
//! of where that leads. What is in none of them it looks at itself: the user tier whose flow it is.

use crate::rewrite::LinkHeader;
use weir_layout::NONE;
use weir_layout::adjacency::mark;
use weir_layout::control::{Mac, path_state};
use weir_layout::flow::flag;

/// Where a frame came in.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// The side that its port is on, see [`flag::side`].
    pub side: u8,
    /// Its sender's [`adjacency::word`](weir_layout::adjacency::word).
    pub sender: u64,
}

/// What a flow's entry says of one direction, see [`FlowEntry4`](weir_layout::flow::FlowEntry4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Bits of [`flag`].
    pub flags: u8,
    /// Uplink index; [`NONE`]: it stays inside.
    pub uplink: u8,
    /// Where it leaves to: index of the adjacency.
    pub adjacency: u16,
    /// From inside: mark of its sender.
    pub mark: u16,
    /// Slot of the other direction.
    pub peer: u32,
}

/// Where a direction leads, by its adjacency and the published state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// State word of the direction's path, if it has one.
    pub path_state: u32,
    /// To an uplink.
    pub outward: bool,
    /// The port's device.
    pub device: u8,
    /// The port's MTU, bytes.
    pub mtu: u16,
    /// Layer 2; no destination, while none is known.
    pub link: LinkHeader,
}

impl Direction {
    /// From the entry's words, in memory order on a little-endian machine: that of the key's ports
    /// and the flags, and that of the adjacency.
    #[inline(always)]
    pub const fn from_words(meta: u64, out: u64) -> Self {
        let [_, _, _, _, _, flags, _, uplink] = meta.to_le_bytes();
        let (adjacency, mark, peer) = (out as u16, (out >> 16) as u16, (out >> 32) as u32);
        Self { flags, uplink, adjacency, mark, peer }
    }

    /// Do its packets come from inside?
    #[inline(always)]
    pub const fn is_from_inside(&self) -> bool {
        self.flags & flag::INSIDE != 0
    }

    /// Does a packet come from another hardware address, or port, than the flow's host does?
    #[inline(always)]
    pub const fn has_moved(&self, sender: u64) -> bool {
        self.is_from_inside() && self.mark != mark(sender, self.peer)
    }

    /// Does it leave, as far as its path is concerned, whose state word this is?
    #[inline(always)]
    const fn is_usable(&self, path_state: u32) -> bool {
        path_state & path_state::USABLE != 0 || self.uplink == NONE
    }
}

/// May a plain packet of this direction, of `len` bytes from the IP header on, leave at once? Its
/// flow must be offered to the kernel tier, and for packets from this side.
#[inline(always)]
pub const fn may_leave(len: u16, from: &Ingress, direction: &Direction, to: &Egress) -> bool {
    const OFFERED: u8 = flag::OFFLOAD | flag::INSIDE;
    direction.flags & OFFERED == flag::OFFLOAD | from.side
        && direction.is_usable(to.path_state)
        && !direction.has_moved(from.sender)
        && to.link.destination.word() != Mac::NONE.word()
        && len <= to.mtu
}

#[cfg(test)]
mod tests {
    use weir_layout::adjacency::Adjacency;
    use weir_layout::control::PortRole;

    use super::*;

    const PEER: u32 = 9;
    const HOST: Adjacency = Adjacency { mac: [2; 6], port: 0 };
    const ANOTHER: Adjacency = Adjacency { mac: [4; 6], port: 0 };

    fn by(role: PortRole, sender: Adjacency) -> Ingress {
        Ingress { side: flag::side(role as u8), sender: sender.to_word() }
    }

    fn to(outward: bool) -> Egress {
        let link = LinkHeader { destination: Mac::new([6; 6]), source: Mac::new([8; 6]), vlan: 0 };
        let path_state = path_state::USABLE;
        Egress { path_state, outward, device: 1, mtu: 1500, link }
    }

    /// Offered, and with these flags.
    fn direction(flags: u8) -> Direction {
        let mark = mark(HOST.to_word(), PEER);
        Direction { flags: flags | flag::OFFLOAD, uplink: 3, adjacency: 6, mark, peer: PEER }
    }

    #[test]
    fn either_direction_leaves_from_its_own_side_whichever_the_flow_began_on() {
        for initiated in [0, flag::INITIATED] {
            let (outward, inward) =
                (direction(flag::INSIDE | initiated), direction(initiated ^ flag::INITIATED));
            let leaves = |role, direction: &Direction, to: &Egress| {
                may_leave(1500, &by(role, HOST), direction, to)
            };
            assert!(leaves(PortRole::Lan, &outward, &to(true)));
            assert!(leaves(PortRole::Uplink, &inward, &to(false)));
            assert!(!leaves(PortRole::Uplink, &outward, &to(true)));
            assert!(!leaves(PortRole::Lan, &inward, &to(false)));
        }
    }

    #[test]
    fn both_directions_of_a_flow_that_stays_inside_leave_whatever_uplinks_do() {
        for flags in [flag::INSIDE | flag::INITIATED, flag::INSIDE] {
            let direction = Direction { uplink: NONE, ..direction(flags) };
            for path_state in [0, path_state::USABLE] {
                let to = Egress { path_state, ..to(false) };
                let leaves = |role, sender| may_leave(1500, &by(role, sender), &direction, &to);
                assert!(leaves(PortRole::Lan, HOST));
                assert!(!leaves(PortRole::Lan, ANOTHER), "each end has a mark");
                assert!(!leaves(PortRole::Uplink, HOST));
            }
        }
    }

    #[test]
    fn a_packet_stays_that_has_no_way_or_does_not_fit() {
        let direction = direction(flag::INSIDE | flag::INITIATED);
        let from = by(PortRole::Lan, HOST);
        assert!(may_leave(1500, &from, &direction, &to(true)));
        assert!(!may_leave(1501, &from, &direction, &to(true)));
        assert!(!may_leave(1500, &from, &direction, &Egress { path_state: 0, ..to(true) }));
        let link = LinkHeader { destination: Mac::NONE, ..to(true).link };
        assert!(!may_leave(1500, &from, &direction, &Egress { link, ..to(true) }));
        let kept = Direction { flags: direction.flags & !flag::OFFLOAD, ..direction };
        assert!(!may_leave(1500, &from, &kept, &to(true)));
    }

    #[test]
    fn only_from_inside_is_it_noticed_that_a_sender_moved() {
        let (outward, inward) = (direction(flag::INSIDE), direction(0));
        assert!(!may_leave(1500, &by(PortRole::Lan, ANOTHER), &outward, &to(true)));
        assert!(may_leave(1500, &by(PortRole::Uplink, ANOTHER), &inward, &to(false)));
    }
}
