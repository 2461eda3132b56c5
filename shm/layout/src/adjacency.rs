//! Hardware addresses of LAN hosts and inner routers, learned from the frames they send.
//!
//! The table is an array of [`ADJACENCIES`] words. A word is written by compare-and-swap from zero,
//! and stays while flows refer to it: an entry names it by index, so the frame's destination costs
//! two bytes in the entry and a load from a line that many flows share. Where it stands is a keyed
//! hash's choice, so that nobody can compute addresses that fill a host's places.

/// Slots of the table.
pub const ADJACENCIES: usize = 16_384;
/// Slots searched for an address, from where its hash says.
pub const PROBES: usize = 32;

/// The word of an address behind a port, given its bytes in memory order in the low 48 bits.
#[inline(always)]
pub const fn word(address: u64, port: u8) -> u64 {
    address | (port as u64) << 48 | 1 << 56
}

/// Sixteen bits of a neighbour's [word](Adjacency::to_word), as a flow's entry keeps them whose other
/// direction is in slot `peer`. Two neighbours look the same to one flow in 65 536.
#[inline(always)]
pub const fn mark(word: u64, peer: u32) -> u16 {
    ((word ^ peer as u64).wrapping_mul(MIXER) >> 48) as u16
}

/// 2^64 divided by the golden ratio: all bits of a number reach the upper ones of its product.
const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hardware address behind a port: address in the low 48 bits in memory order, the port in bits
/// 48–55, bit 56 set when the word is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Index of the port it lives behind.
    pub port: u8,
}

impl Adjacency {
    /// The table's word.
    #[inline]
    pub const fn to_word(self) -> u64 {
        let [a, b, c, d, e, f] = self.mac;
        word(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]), self.port)
    }

    /// The neighbour in a word; `None` for an unused slot.
    #[inline]
    pub const fn from_word(word: u64) -> Option<Self> {
        let [a, b, c, d, e, f, port, used] = word.to_le_bytes();
        if used == 1 { Some(Self { mac: [a, b, c, d, e, f], port }) } else { None }
    }
}
