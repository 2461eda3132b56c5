//! The fast path through the engine: the next packet of an established flow, by whole words, as
//! the XDP program takes it. Whatever is not plainly that takes the slow path.

use weir_wire::family::Family;
use weir_wire::key::FlowKey;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::plain::{Header, Packet};
use weir_wire::rewrite::UNTAGGED;
use weir_wire::tcp;

/// Start of the IP header: tagged frames take the slow path.
pub const L3: usize = UNTAGGED;

/// Recognises a packet that the kernel tier would forward, if its flow were known.
#[inline(always)]
pub fn read<F: Family>(frame: &[u8]) -> Option<Packet<F>> {
    let l4 = L3 + F::Header::LEN;
    let head = frame.get(..l4 + 8)?;
    if head[12..L3] != F::ETHERTYPE.to_be_bytes() {
        return None;
    }
    let ip = F::Header::read(&head[L3..]);
    let word = |at: usize| {
        u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]))
    };
    let rest = match ip.proto() {
        tcp::PROTOCOL => u64::from_le_bytes(*frame.get(l4 + 8..)?.first_chunk()?),
        _ => 0,
    };
    let transport = [word(l4), word(l4 + 4), rest & 0xffff_ffff, rest >> 32];
    let packet = Packet { ip, transport };
    packet.is_plain((frame.len() - L3) as u64).then_some(packet)
}

/// The same as [`Family::parse`] says of the frame.
pub fn parsed<F: Family>(packet: &Packet<F>) -> Parsed<F> {
    let key = FlowKey::<F>::from_words(packet.key());
    let [src, dst] = key.addresses();
    let [.., fourth] = packet.transport;
    Parsed {
        vlan: 0,
        l3: L3 as u16,
        l4: (L3 + F::Header::LEN) as u16,
        end: (L3 as u16).saturating_add(packet.ip.total()),
        src,
        dst,
        sport: key.sport(),
        dport: key.dport(),
        proto: key.proto(),
        tcp_flags: (fourth >> 8) as u8,
        ttl: packet.ip.ttl(),
        dscp: packet.ip.dscp(),
        label: packet.ip.label(),
        ident: 0,
        kind: Kind::Flow,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_wire::family::V4;
    use weir_wire::parse::parse;
    use weir_wire::{checksum, ethernet, icmp, udp};

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
            prop_assert_eq!(parsed(&read::<V4>(&frame).unwrap()), parse(&frame).unwrap());
        }
    }
}
