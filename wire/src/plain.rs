//! The packets the kernel tier forwards: nothing but the next datagram of an established flow.
//!
//! Recognised from whole words, little-endian loads of what stands in memory, because per byte the
//! BPF machine would need four times the instructions. Whatever [`Packet::is_plain`] accepts,
//! [`parse`](crate::parse::parse) accepts with the same result; it refuses all that the user tier has
//! to see: fragments, options, a TTL about to end, SYN, FIN and RST.

use crate::{icmp, ipv4, tcp, udp};
use weir_layout::flow::FlowKey4;

/// The 20 bytes of an IPv4 header without options, as five words of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip4(pub [u64; 5]);

const VERSION_IHL: u64 = 0x45;
/// More fragments, or an offset: as the field's bytes in a little-endian word.
const FRAGMENTED: u64 = (ipv4::MORE_FRAGMENTS | ipv4::FRAGMENT_OFFSET).swap_bytes() as u64;

impl Ip4 {
    /// Is it one of a plain packet? `room` is what the frame has from the header's start.
    #[inline(always)]
    const fn is_plain(&self, room: u64) -> bool {
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
}

/// A packet's headers, as whole words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The IP header.
    pub ip: Ip4,
    /// Of the transport header: the first two words, and of TCP the next two.
    pub transport: [u64; 4],
}

impl Packet {
    /// Is it for the kernel tier? `room` counts the frame's bytes from the IP header on.
    #[inline(always)]
    pub const fn is_plain(&self, room: u64) -> bool {
        self.ip.is_plain(room) && self.has_plain_transport()
    }

    /// Is its transport header, after a plain IP header?
    #[inline(always)]
    const fn has_plain_transport(&self) -> bool {
        let [first, second, _, fourth] = self.transport;
        let len = self.ip.total() as u64 - ipv4::HEADER_LEN as u64;
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
            icmp::PROTOCOL => {
                let kind = first as u8;
                len >= 8 && (kind == icmp::ECHO_REQUEST || kind == icmp::ECHO_REPLY)
            }
            _ => false,
        }
    }

    /// The words of its [`FlowKey4`], see [`FlowKey4::words`]. ICMP echo has its identifier in both
    /// ports.
    #[inline(always)]
    pub const fn key(&self) -> [u64; 2] {
        let [_, _, _, src, dst] = self.ip.0;
        let [first, second, ..] = self.transport;
        let proto = self.ip.proto();
        let ports = if proto == icmp::PROTOCOL {
            let ident = second & 0xffff;
            ident | ident << 16
        } else {
            first
        };
        [src | dst << 32, ports | (proto as u64) << 32]
    }

    /// Its TCP segment.
    #[inline(always)]
    pub const fn segment(&self) -> Option<tcp::Segment> {
        if self.ip.proto() != tcp::PROTOCOL {
            return None;
        }
        let [_, second, _, fourth] = self.transport;
        let headers = ipv4::HEADER_LEN as u32 + ((fourth & 0xf0) >> 2) as u32;
        let len = self.ip.total() as u32 - headers;
        Some(tcp::Segment::new((second as u32).swap_bytes(), len, 0))
    }

    /// What its TCP segment acknowledges, if anything.
    #[inline(always)]
    pub const fn acknowledged(&self) -> Option<u32> {
        let [_, _, third, fourth] = self.transport;
        if (fourth >> 8) & tcp::flag::ACK as u64 == 0 {
            return None;
        }
        Some((third as u32).swap_bytes())
    }
}

const _: () = {
    // Keys are compared as memory has them.
    let key = FlowKey4::new([1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [11, 12], 13);
    assert!(key.words()[1] == u64::from_le_bytes([9, 10, 11, 12, 13, 0, 0, 0]));
};
