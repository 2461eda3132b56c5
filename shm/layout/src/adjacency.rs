//! Adjacencies: where a frame goes next, as a port to leave by and a hardware address behind it.
//!
//! The table is an array of [`ADJACENCIES`] words, of LAN hosts, inner routers and next hops alike.
//! A direction of a flow names its adjacency by index: two bytes in its entry, and a load from a
//! line that many flows share. Each word has one writing side.
//!
//! - The first [`NEXT_HOPS`] are the uplinks', at [`next_hop`]: the control process stores them,
//!   with each publication. One store changes the hardware address for all flows.
//! - The rest are learned from the frames that hosts send. A worker enters one by compare-and-swap
//!   from zero, and it stays while flows refer to it. Where it stands is a keyed hash's choice, so
//!   that nobody can compute addresses that fill a host's places.
//!
//! What needs no flow and is for a LAN names none of them: XDP asks the kernel. Where it hands such a
//! packet to a worker, the first eight bytes of the frame are the adjacency's word.

use super::control::{ControlHalf, PathId};
use super::{Family, MAX_PORTS, MAX_UPLINKS};

/// Adjacencies of next hops: one for each path.
pub const NEXT_HOPS: usize = Family::COUNT * MAX_UPLINKS;
/// Places for adjacencies that are learned, a power of two.
pub const LEARNED: usize = 16_384;
/// Words of the table.
pub const ADJACENCIES: usize = NEXT_HOPS + LEARNED;
/// Places searched for one that is learned, from where its hash says.
pub const PROBES: usize = 32;

const _: () = {
    assert!(LEARNED.is_power_of_two() && ADJACENCIES <= 1 << u16::BITS);
    // A port is a byte of the word.
    assert!(MAX_PORTS <= 1 << u8::BITS);
};

/// Index of a path's next hop.
#[inline(always)]
pub const fn next_hop(path: PathId) -> u16 {
    path.index() as u16
}

/// The word of an address behind a port, given its bytes in memory order in the low 48 bits.
#[inline(always)]
pub const fn word(address: u64, port: u8) -> u64 {
    address | (port as u64) << 48 | 1 << 56
}

/// Sixteen bits of an adjacency's [word](Adjacency::to_word), as a flow's entry keeps them whose
/// other direction is in slot `peer`. Two hosts look the same to one flow in 65 536.
#[inline(always)]
pub const fn mark(word: u64, peer: u32) -> u16 {
    ((word ^ peer as u64).wrapping_mul(MIXER) >> 48) as u16
}

/// 2^64 divided by the golden ratio: all bits of a number reach the upper ones of its product.
const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hardware address behind a port: address in the low 48 bits in memory order, the port in bits
/// 48–55, bit 56 set when the word is in use. A next hop that is not resolved has no address, all
/// zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Index of the port it is behind.
    pub port: u8,
}

impl Adjacency {
    /// The table's word.
    #[inline]
    pub const fn to_word(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        word(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), self.port)
    }

    /// The adjacency in a word; `None` for an unused one.
    #[inline]
    pub const fn from_word(word: u64) -> Option<Self> {
        let [a, b, c, d, e, f, port, used] = word.to_le_bytes();
        if used == 1 { Some(Self { mac: [a, b, c, d, e, f], port }) } else { None }
    }
}

/// The next hops of a published state, by index; `None` of an uplink without a port.
pub fn next_hops(half: &ControlHalf) -> [Option<Adjacency>; NEXT_HOPS] {
    let mut table = [None; NEXT_HOPS];
    for (number, uplink) in (0..).zip(&half.uplinks) {
        let port = uplink.port;
        if uplink.name.0[0] == 0 || usize::from(port) >= MAX_PORTS {
            continue;
        }
        for family in Family::ALL {
            let mac = uplink.path(family).next_hop_mac.bytes();
            table[PathId::new(number, family).index()] = Some(Adjacency { mac, port });
        }
    }
    table
}
