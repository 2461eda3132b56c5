//! The packets the kernel tier forwards: nothing but the next datagram of an established flow.
//!
//! Recognised from whole words, little-endian loads of what stands in memory, because per byte the
//! BPF machine would need four times the instructions. Whatever [`Packet::is_plain`] accepts,
//! [`parse`](crate::parse) accepts with the same result; it refuses all that the user tier has to
//! see: fragments, options, extension headers, a time to live about to end, SYN, FIN and RST.

use core::fmt::Debug;

use crate::family::{Family, V4};
use crate::parse::get;
use crate::{extensions, ipv4, ipv6, tcp, udp};

/// An IP header as whole words.
pub trait Header: Copy + Eq + Debug {
    /// Bytes of the header.
    const LEN: usize;
    /// A flow key's words.
    type Words;

    /// The header at the beginning of these bytes; what they lack is zero.
    fn read(bytes: &[u8]) -> Self;

    /// Is it one of a plain packet? `room` is what the frame has from the header's start.
    fn is_plain(&self, room: u64) -> bool;

    /// Bytes of the packet, header included.
    fn total(&self) -> u16;

    /// The protocol.
    fn proto(&self) -> u8;

    /// Do extension headers follow it?
    fn is_extended(&self) -> bool;

    /// The words of source and destination, as [`Origin`](weir_layout::control::Origin) has them.
    fn addresses(&self) -> [[u64; 2]; 2];

    /// Is the field the pseudo-header's sum (RFC 9293 §3.1, RFC 8200 §8.1) of a packet that is not
    /// cut? That is what a sender leaves in the checksum field of TCP or UDP for its device to
    /// complete. The field's bytes are a word as they stand.
    fn is_pseudo(&self, field: u64) -> bool;

    /// Time to live, or hop limit.
    fn ttl(&self) -> u8;

    /// Differentiated services code point.
    fn dscp(&self) -> u8;

    /// Flow label, 20 bits (RFC 6437); 0 of IPv4, which has none, and of an IPv6 packet without.
    fn label(&self) -> u32;

    /// The words of its flow's key, of which the last is given.
    fn key(&self, last: u64) -> Self::Words;
}

/// The 20 bytes of an IPv4 header without options, as five words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4(pub [u64; 5]);

const VERSION_IHL: u64 = 0x45;
/// More fragments, or an offset: as the field's bytes in a little-endian word.
const FRAGMENTED: u64 = (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET).swap_bytes() as u64;

impl Header for Ip4 {
    const LEN: usize = ipv4::HEADER_LEN;
    type Words = [u64; 2];

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self([0, 4, 8, 12, 16].map(|at| u32::from_le_bytes(get(bytes, at)).into()))
    }

    #[inline(always)]
    fn is_plain(&self, room: u64) -> bool {
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

    #[inline(always)]
    fn total(&self) -> u16 {
        ((self.0[0] >> 16) as u16).swap_bytes()
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        (self.0[2] >> 8) as u8
    }

    #[inline(always)]
    fn is_extended(&self) -> bool {
        false
    }

    #[inline(always)]
    fn addresses(&self) -> [[u64; 2]; 2] {
        let [_, _, _, src, dst] = self.0;
        [[src, 0], [dst, 0]]
    }

    #[inline(always)]
    fn is_pseudo(&self, field: u64) -> bool {
        let [_, _, _, src, dst] = self.0;
        let len = self.total().wrapping_sub(ipv4::HEADER_LEN as u16);
        let sum = src + dst + u64::from(len.swap_bytes()) + (u64::from(self.proto()) << 8);
        folds_to(sum, field)
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        self.0[2] as u8
    }

    #[inline(always)]
    fn dscp(&self) -> u8 {
        (self.0[0] >> 8) as u8 >> 2
    }

    #[inline(always)]
    fn label(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn key(&self, last: u64) -> [u64; 2] {
        let [_, _, _, src, dst] = self.0;
        [src | dst << 32, last]
    }
}

/// The 40 bytes of an IPv6 header, as five words of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip6(pub [u64; 5]);

impl Ip6 {
    /// Bytes behind the header.
    #[inline(always)]
    const fn payload(&self) -> u16 {
        ((self.0[0] >> 32) as u16).swap_bytes()
    }
}

impl Header for Ip6 {
    const LEN: usize = ipv6::HEADER_LEN;
    type Words = [u64; 5];

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self([0, 8, 16, 24, 32].map(|at| u64::from_le_bytes(get(bytes, at))))
    }

    #[inline(always)]
    fn is_plain(&self, room: u64) -> bool {
        let [first, ..] = self.0;
        first & 0xf0 == 0x60
            && first >> 56 > 1
            && u64::from(self.payload()) + ipv6::HEADER_LEN as u64 <= room.min(u16::MAX.into())
    }

    #[inline(always)]
    fn total(&self) -> u16 {
        self.payload().wrapping_add(ipv6::HEADER_LEN as u16)
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        (self.0[0] >> 48) as u8
    }

    #[inline(always)]
    fn is_extended(&self) -> bool {
        extensions::is_walked(self.proto())
    }

    #[inline(always)]
    fn addresses(&self) -> [[u64; 2]; 2] {
        let [_, a, b, c, d] = self.0;
        [[a, b], [c, d]]
    }

    #[inline(always)]
    fn is_pseudo(&self, field: u64) -> bool {
        let [_, a, b, c, d] = self.0;
        // All is the lower halves and the upper ones, shifted. Wraps cancel out.
        let all = a.wrapping_add(b).wrapping_add(c).wrapping_add(d);
        let upper = (a >> 32) + (b >> 32) + (c >> 32) + (d >> 32);
        let addresses = all.wrapping_sub(upper << 32) + upper;
        let len = u64::from(self.payload().swap_bytes());
        folds_to(addresses + len + (u64::from(self.proto()) << 8), field)
    }

    #[inline(always)]
    fn ttl(&self) -> u8 {
        (self.0[0] >> 56) as u8
    }

    #[inline(always)]
    fn dscp(&self) -> u8 {
        ((self.0[0] as u16).swap_bytes() >> 6) as u8 & 0x3f
    }

    #[inline(always)]
    fn label(&self) -> u32 {
        (self.0[0] as u32).swap_bytes() & ipv6::FLOW_LABEL
    }

    #[inline(always)]
    fn key(&self, last: u64) -> [u64; 5] {
        let [_, a, b, c, d] = self.0;
        [a, b, c, d, last]
    }
}

/// Is the field what a one's complement sum of words of 32 bits, which is not zero, folds to? In
/// either order of bytes (RFC 1071 §2(B)).
///
/// Folding changes no remainder by 65 535, so the two differ by a multiple of it. A multiple times
/// the inverse of an odd number is the quotient, and nothing else comes out as small (Granlund and
/// Montgomery, 1994, §9).
#[inline(always)]
const fn folds_to(sum: u64, field: u64) -> bool {
    const DIVISOR: u64 = 0xffff;
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const { assert!(DIVISOR.wrapping_mul(INVERSE) == 1) };
    let difference = sum + DIVISOR - field;
    field != 0 && difference.wrapping_mul(INVERSE) <= u64::MAX / DIVISOR
}

/// A packet's headers, as whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<F: Family = V4> {
    /// The IP header.
    pub ip: F::Header,
    /// Of the transport header: the first two words, and of TCP the next two.
    pub transport: [u64; 4],
}

impl<F: Family> Packet<F> {
    /// Is it for the kernel tier? `room` counts the frame's bytes from the IP header on.
    #[inline(always)]
    pub fn is_plain(&self, room: u64) -> bool {
        self.ip.is_plain(room) && self.has_plain_transport()
    }

    /// Is its transport header, after a plain IP header?
    #[inline(always)]
    fn has_plain_transport(&self) -> bool {
        let [first, second, _, fourth] = self.transport;
        let len = self.ip.total() as u64 - F::Header::LEN as u64;
        match self.ip.proto() {
            udp::PROTOCOL => {
                let stated = (second as u16).swap_bytes() as u64;
                stated >= udp::HEADER_LEN as u64 && stated <= len
            }
            tcp::PROTOCOL => {
                const EVENTS: u64 = (tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST) as u64;
                let header = (fourth & 0xf0) >> 2;
                header >= tcp::HEADER_LEN as u64 && header <= len && (fourth >> 8) & EVENTS == 0
            }
            proto => {
                proto == F::ICMP
                    && len >= 8
                    && (first as u8 == F::ECHO_REQUEST || first as u8 == F::ECHO_REPLY)
            }
        }
    }

    /// The words of its [key](crate::key::FlowKey).
    #[inline(always)]
    pub fn key(&self) -> F::Words {
        let [first, second, ..] = self.transport;
        let proto = self.ip.proto();
        let ports = if proto == F::ICMP {
            // As [`echo_ports`](crate::key::echo_ports), in memory order.
            second & 0xffff | (first & 0xff) << 24
        } else {
            first
        };
        self.ip.key(ports | (proto as u64) << 32)
    }

    /// Its TCP segment.
    #[inline(always)]
    pub fn segment(&self) -> Option<tcp::Segment> {
        if self.ip.proto() != tcp::PROTOCOL {
            return None;
        }
        let [_, second, _, fourth] = self.transport;
        let headers = F::Header::LEN as u32 + ((fourth & 0xf0) >> 2) as u32;
        let len = self.ip.total() as u32 - headers;
        Some(tcp::Segment::new((second as u32).swap_bytes(), len, 0))
    }

    /// What its TCP segment acknowledges, if anything.
    #[inline(always)]
    pub fn acknowledged(&self) -> Option<u32> {
        let [_, _, third, fourth] = self.transport;
        if (fourth >> 8) & tcp::flag::ACK as u64 == 0 {
            return None;
        }
        Some((third as u32).swap_bytes())
    }
}
