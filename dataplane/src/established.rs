//! The shortest way through the engine: the next packet of an established flow, by whole words, as
//! the XDP program takes it. Whatever is not plainly that goes the long way.

use weir_shm::flows::Action4;
use weir_wire::layout::flow::FlowKey4;
use weir_wire::parse::{Family, Kind, Parsed};
use weir_wire::plain::{self, Ip4};
use weir_wire::{ethernet, icmp, tcp, udp};

use crate::link::LinkHeader;

/// Start of the IP header: tagged frames go the long way.
const L3: usize = 14;
const L4: usize = L3 + 20;
/// Bytes of every plain frame.
const HEAD: usize = L4 + 8;

/// A plain packet.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    ip: Ip4,
    key: [u64; 2],
    /// The second to fourth word of the transport header, of others than TCP the second.
    transport: [u32; 3],
}

impl Plain {
    /// Recognises a packet that the kernel tier would forward, if its flow were known.
    #[inline(always)]
    pub fn read(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<HEAD>()?;
        if head[12..L3] != ethernet::IPV4.to_be_bytes() {
            return None;
        }
        let word = |at: usize| {
            u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
        };
        let ip = Ip4([word(L3), word(L3 + 4), word(L3 + 8), word(L3 + 12), word(L3 + 16)]);
        let proto = ip.proto();
        let (first, second) = (word(L4), word(L4 + 4));
        let rest = match proto {
            tcp::PROTOCOL => u64::from_le_bytes(*frame.get(L4 + 8..)?.first_chunk()?),
            _ => 0,
        };
        let fourth = rest >> 32;
        let is_plain = ip.is_plain((frame.len() - L3) as u64)
            && plain::is_plain(proto, first, second, fourth, u64::from(ip.total()) - 20);
        is_plain.then(|| Self {
            ip,
            key: plain::key(&ip, plain::ports(proto, first, second)),
            transport: [second as u32, rest as u32, fourth as u32],
        })
    }

    /// The same as [`parse`](weir_wire::parse::parse) says of the frame.
    pub fn parsed(&self) -> Parsed {
        let FlowKey4 { src, dst, sport, dport, proto, .. } = self.key();
        let [first, _, third, ..] = self.ip.0;
        let [_, _, fourth] = self.transport;
        Parsed {
            vlan: 0,
            l3: L3 as u16,
            l4: L4 as u16,
            end: (L3 as u16).saturating_add(self.total()),
            src,
            dst,
            sport,
            dport,
            family: Family::V4,
            proto,
            tcp_flags: (fourth >> 8) as u8,
            ttl: third as u8,
            dscp: (first >> 8) as u8 >> 2,
            kind: Kind::Flow,
        }
    }

    /// Its TCP segment.
    #[inline]
    pub fn segment(&self) -> Option<tcp::Segment> {
        let [second, _, fourth] = self.transport.map(u64::from);
        (self.ip.proto() == tcp::PROTOCOL).then(|| plain::segment(&self.ip, second, fourth))
    }

    /// What its TCP segment acknowledges, if anything.
    #[inline]
    pub fn acknowledged(&self) -> Option<u32> {
        let [_, third, fourth] = self.transport.map(u64::from);
        plain::acknowledged(third, fourth)
    }

    /// The flow's key.
    #[inline]
    pub fn key(&self) -> FlowKey4 {
        FlowKey4::from_words(self.key)
    }

    /// Bytes of the packet, from the IP header on.
    #[inline]
    pub fn total(&self) -> u16 {
        self.ip.total()
    }

    /// Makes the frame, which the packet was read from, the one that leaves.
    #[inline(always)]
    pub fn rewrite(&self, frame: &mut [u8], action: &Action4, link: &LinkHeader) {
        let (new, proto) = (&action.rewrite, self.ip.proto());
        let at = L4
            + match proto {
                tcp::PROTOCOL => tcp::field::CHECKSUM,
                udp::PROTOCOL => udp::field::CHECKSUM,
                _ => icmp::field::CHECKSUM,
            };
        if let Some(field) = frame.get_mut(at..at + 2) {
            let old = u16::from_le_bytes([field[0], field[1]]);
            field.copy_from_slice(&plain::next_checksum(proto, old, new.l4_delta).to_le_bytes());
        }
        let Some(head) = frame.first_chunk_mut::<HEAD>() else { return };
        let (destination, source) = (link.destination.word(), link.source.word());
        head[..8].copy_from_slice(&(destination | source << 48).to_le_bytes());
        head[8..12].copy_from_slice(&((source >> 16) as u32).to_le_bytes());
        let ttl_word = self.ip.next_ttl_word(new.l3_delta) as u32;
        head[L3 + 8..L3 + 12].copy_from_slice(&ttl_word.to_le_bytes());
        head[L3 + 12..L3 + 16].copy_from_slice(&new.src);
        head[L3 + 16..L4].copy_from_slice(&new.dst);
        if proto == icmp::PROTOCOL {
            let at = L4 + icmp::field::IDENT;
            head[at..at + 2].copy_from_slice(&new.sport);
        } else {
            head[L4..L4 + 2].copy_from_slice(&new.sport);
            head[L4 + 2..L4 + 4].copy_from_slice(&new.dport);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_wire::checksum;
    use weir_wire::parse::parse;

    use super::*;

    proptest! {
        #[test]
        fn a_plain_packet_is_what_the_parser_says(
            proto in prop::sample::select(vec![tcp::PROTOCOL, udp::PROTOCOL, icmp::PROTOCOL]),
            (tos, ttl) in (any::<u8>(), 2u8..),
            addresses: [u8; 8],
            mut transport: [u8; 20],
            padding in 0usize..8,
        ) {
            match proto {
                tcp::PROTOCOL => {
                    transport[12] = 0x50;
                    transport[13] &= !(tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST);
                }
                udp::PROTOCOL => transport[4..6].copy_from_slice(&[0, 20]),
                _ => transport[0] &= icmp::ECHO_REQUEST,
            }
            let mut frame = vec![0; 12];
            frame.extend_from_slice(&ethernet::IPV4.to_be_bytes());
            frame.extend_from_slice(&[0x45, tos, 0, 40, 1, 2, 0x40, 0, ttl, proto, 0, 0]);
            frame.extend_from_slice(&addresses);
            let sum = checksum::finish(checksum::sum(&frame[L3..]));
            frame[L3 + 10..L3 + 12].copy_from_slice(&sum);
            frame.extend_from_slice(&transport);
            frame.resize(frame.len() + padding, 0);
            let plain = Plain::read(&frame).unwrap();
            prop_assert_eq!(plain.parsed(), parse(&frame).unwrap());
        }
    }
}
