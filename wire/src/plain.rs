//! The packets the kernel tier forwards: nothing but the next datagram of an established flow.
//!
//! Recognised from whole words, little-endian loads of what stands in memory, because per byte the
//! BPF machine would need four times the instructions. Whatever [`Ip4::is_plain`] and [`is_plain`]
//! accept, [`parse`](crate::parse::parse) accepts with the same result; they refuse all that the
//! user tier has to see: fragments, options, a TTL about to end, SYN, FIN and RST.

use crate::checksum::Delta;
use crate::layout::flow::FlowKey4;
use crate::{icmp, ipv4, tcp, udp};

/// The 20 bytes of an IPv4 header without options, as five words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4(pub [u64; 5]);

const VERSION_IHL: u64 = 0x45;
/// More fragments, or an offset: as the field's bytes in a little-endian word.
const FRAGMENTED: u64 = (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET).swap_bytes() as u64;

impl Ip4 {
    /// Is it for the kernel tier? `room` is what the frame has from the header's start.
    #[inline(always)]
    pub const fn is_plain(&self, room: u64) -> bool {
        let [first, second, third, src, dst] = self.0;
        let total = self.total() as u64;
        // One's complement sums are the same in either byte order (RFC 1071 §2(B)). Five words are
        // 35 bits; three folds make them 16.
        let sum = first + second + third + src + dst;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        first & 0xff == VERSION_IHL
            && (second >> 16) & FRAGMENTED == 0
            && third & 0xff > 1
            && total <= room
            && total >= ipv4::HEADER_LEN as u64
            && (sum & 0xffff) + (sum >> 16) == 0xffff
    }

    /// Bytes of the packet, header included.
    #[inline(always)]
    pub const fn total(&self) -> u16 {
        ((self.0[0] >> 16) as u16).swap_bytes()
    }

    /// The protocol.
    #[inline(always)]
    pub const fn proto(&self) -> u8 {
        (self.0[2] >> 8) as u8
    }

    /// The third word, of TTL, protocol and checksum, when the packet leaves, given
    /// [`Rewrite4::l3_delta`](crate::layout::flow::Rewrite4::l3_delta). The TTL must not be zero.
    #[inline(always)]
    pub const fn next_ttl_word(&self, l3_delta: u16) -> u64 {
        let third = self.0[2];
        let field = ((third >> 16) as u16).to_le_bytes();
        let checksum = u16::from_le_bytes(Delta::from_raw(l3_delta).apply(field));
        ((third & 0xffff) - 1) | (checksum as u64) << 16
    }
}

/// The ports of a transport header as they stand in memory, the first at the lower address, from
/// its first two words. ICMP echo has its identifier in both.
#[inline(always)]
pub const fn ports(proto: u8, first: u64, second: u64) -> u64 {
    if proto == icmp::PROTOCOL {
        let ident = second & 0xffff;
        ident | ident << 16
    } else {
        first
    }
}

/// Is the transport header, its first two words and of TCP the fourth, for the kernel tier? `len`
/// counts it and what follows it.
#[inline(always)]
pub const fn is_plain(proto: u8, first: u64, second: u64, fourth: u64, len: u64) -> bool {
    match proto {
        udp::PROTOCOL => {
            let stated = (second as u16).swap_bytes() as u64;
            stated >= udp::HEADER_LEN as u64 && stated <= len
        }
        tcp::PROTOCOL => {
            const EVENTS: u64 = (tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST) as u64;
            let header = (fourth & 0xf0) >> 2;
            header >= tcp::HEADER_LEN as u64 && header <= len && (fourth >> 8) & EVENTS == 0
        }
        icmp::PROTOCOL => {
            let kind = first as u8;
            len >= 8 && (kind == icmp::ECHO_REQUEST || kind == icmp::ECHO_REPLY)
        }
        _ => false,
    }
}

/// A plain TCP packet's segment, from the second and fourth word of its header.
#[inline(always)]
pub const fn segment(ip: &Ip4, second: u64, fourth: u64) -> tcp::Segment {
    let headers = ipv4::HEADER_LEN as u32 + ((fourth & 0xf0) >> 2) as u32;
    tcp::Segment::new((second as u32).swap_bytes(), ip.total() as u32 - headers, 0)
}

/// What a plain TCP packet acknowledges, if anything, from the third and fourth word of its header.
#[inline(always)]
pub const fn acknowledged(third: u64, fourth: u64) -> Option<u32> {
    if (fourth >> 8) & tcp::flag::ACK as u64 == 0 {
        return None;
    }
    Some((third as u32).swap_bytes())
}

/// The words of the packet's [`FlowKey4`], see [`FlowKey4::words`].
#[inline(always)]
pub const fn key(ip: &Ip4, ports: u64) -> [u64; 2] {
    let [_, _, _, src, dst] = ip.0;
    [src | dst << 32, ports | (ip.proto() as u64) << 32]
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
