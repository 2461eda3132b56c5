//! The packets the kernel tier forwards: nothing but the next datagram of an established flow.
//!
//! Recognised from whole words, loaded as they stand in memory on a little-endian machine, because
//! per byte the BPF machine would need four times the instructions. Whatever [`Ip4::new`] and
//! [`flow`] accept, [`parse`](crate::parse::parse) accepts with the same result; they refuse all
//! that the user tier has to see: fragments, options, a TTL about to end, SYN, FIN and RST.

use crate::checksum::Delta;
use crate::layout::flow::FlowKey4;
use crate::{icmp, ipv4, tcp, udp};

/// An IPv4 header without options. Words are little-endian loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4 {
    /// TTL, protocol and checksum: bytes 8 to 11.
    pub ttl_word: u32,
    /// Source and destination: bytes 12 to 19.
    pub addresses: u64,
    /// Bytes of the packet, header included.
    pub total: u16,
}

const VERSION_IHL: u32 = 0x45;
/// More fragments, or an offset: as the field's bytes in a little-endian word.
const FRAGMENTED: u32 = (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET).swap_bytes() as u32;

impl Ip4 {
    /// The header whose 20 bytes are these words; `None` when it is not for the kernel tier. `room`
    /// is what the frame has from the header's start.
    #[inline(always)]
    pub const fn new(words: [u32; 3], addresses: u64, room: u32) -> Option<Self> {
        let [first, second, third] = words;
        let total = ((first >> 16) as u16).swap_bytes();
        let sum = first as u64
            + second as u64
            + third as u64
            + (addresses & 0xffff_ffff)
            + (addresses >> 32);
        // One's complement sums are the same in either byte order (RFC 1071 §2(B)).
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        if first & 0xff != VERSION_IHL
            || (second >> 16) & FRAGMENTED != 0
            || third & 0xff <= 1
            || (total as u32) > room
            || (total as usize) < ipv4::HEADER_LEN
            || (sum & 0xffff) + (sum >> 16) != 0xffff
        {
            return None;
        }
        Some(Self { ttl_word: third, addresses, total })
    }

    /// The protocol.
    #[inline(always)]
    pub const fn proto(&self) -> u8 {
        (self.ttl_word >> 8) as u8
    }

    /// The TTL word when the packet leaves, given [`Rewrite4::l3_delta`](crate::layout::flow::Rewrite4::l3_delta).
    #[inline(always)]
    pub fn next_ttl_word(&self, l3_delta: u16) -> u32 {
        let delta = Delta::from_raw(l3_delta) + Delta::TTL_DECREMENT;
        let [hi, lo] = delta.apply(((self.ttl_word >> 16) as u16).to_le_bytes());
        let [ttl, proto, ..] = self.ttl_word.to_le_bytes();
        u32::from_le_bytes([ttl.wrapping_sub(1), proto, hi, lo])
    }
}

/// The ports of a transport header as they stand in memory, the first at the lower address: its
/// first two words, and of TCP the fourth. ICMP echo has its identifier in both. `len` counts the
/// transport header and what follows it. `None`: not for the kernel tier.
#[inline(always)]
pub const fn flow(proto: u8, first: u32, second: u32, fourth: u32, len: u32) -> Option<u32> {
    match proto {
        udp::PROTOCOL => {
            let stated = (second as u16).swap_bytes() as u32;
            if stated < udp::HEADER_LEN as u32 || stated > len {
                return None;
            }
            Some(first)
        }
        tcp::PROTOCOL => {
            const EVENTS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;
            let header = (fourth & 0xf0) >> 2;
            if header < tcp::HEADER_LEN as u32 || header > len || (fourth >> 8) as u8 & EVENTS != 0
            {
                return None;
            }
            Some(first)
        }
        icmp::PROTOCOL => {
            let kind = first as u8;
            if len < 8 || (kind != icmp::ECHO_REQUEST && kind != icmp::ECHO_REPLY) {
                return None;
            }
            let ident = second & 0xffff;
            Some(ident | ident << 16)
        }
        _ => None,
    }
}

/// The words of the packet's [`FlowKey4`], see [`FlowKey4::words`].
#[inline(always)]
pub const fn key(ip: &Ip4, ports: u32) -> [u64; 2] {
    [ip.addresses, ports as u64 | (ip.proto() as u64) << 32]
}

/// A transport checksum, as a little-endian load, when the packet leaves.
#[inline(always)]
pub const fn next_checksum(proto: u8, field: u16, l4_delta: u16) -> u16 {
    let (delta, field) = (Delta::from_raw(l4_delta), field.to_le_bytes());
    u16::from_le_bytes(match proto {
        udp::PROTOCOL => delta.apply_udp(field),
        _ => delta.apply(field),
    })
}

const _: () = {
    // Keys are compared as memory has them.
    let key = FlowKey4::new([1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [11, 12], 13);
    assert!(key.words()[1] == u64::from_le_bytes([9, 10, 11, 12, 13, 0, 0, 0]));
};
