//! Packets of the gateway's own: ICMP errors (RFC 792, RFC 1812 §4.3.2, RFC 4443) and TCP resets (RFC
//! 9293 §3.5.2), built from the packet that caused them and sent back the way it came, or out of nothing.

use weir_wire::family::Family;
use weir_wire::parse::Parsed;
use weir_wire::plain::Header;
use weir_wire::rewrite::{LinkHeader, TAGGED, UNTAGGED};
use weir_wire::{ethernet, icmp, ipv6, tcp};

use crate::icmp_error::fill_checksum;
use weir_wire::key::FlowKey;

/// An answer as a frame, of so many bytes at most.
#[derive(Clone, Copy, Debug)]
pub struct Answer<const MAX: usize> {
    bytes: [u8; MAX],
    len: usize,
}

/// An ICMP error: a link header with a tag, and the least that each link of either family carries.
pub type IcmpError = Answer<{ TAGGED + ipv6::MIN_MTU }>;
/// A reset in either family.
pub type Reset = Answer<{ TAGGED + ipv6::HEADER_LEN + tcp::HEADER_LEN }>;

impl<const MAX: usize> Answer<MAX> {
    fn empty() -> Self {
        Self { bytes: [0; MAX], len: 0 }
    }

    /// The frame.
    pub fn data(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// A packet of so many bytes behind its IP header at `l3`, and those.
    fn packet<F: Family>(
        &mut self,
        l3: usize,
        [src, dst]: [&F::Address; 2],
        proto: u8,
        payload: usize,
    ) -> Option<&mut [u8]> {
        let l4 = l3 + F::Header::LEN;
        self.len = l4 + payload;
        F::put_header(self.bytes.get_mut(l3..l4)?, src, dst, proto, payload);
        self.bytes.get_mut(l4..self.len)
    }

    /// The link header of a frame, turned round.
    fn turned(frame: &[u8], l3: usize) -> Option<Self> {
        let mut answer = Self::empty();
        answer.bytes[..6].copy_from_slice(frame.get(6..12)?);
        answer.bytes[6..12].copy_from_slice(frame.get(..6)?);
        answer.bytes[12..l3].copy_from_slice(frame.get(12..l3)?);
        Some(answer)
    }
}

/// An ICMP error of this type and code about the packet, from the gateway's address `source`; `rest`
/// is the second word of the ICMP header (the next-hop MTU of "too big", RFC 1191 §4, RFC 4443 §3.2).
/// It quotes as much of the packet as every host takes.
pub fn icmp_error<F: Family>(
    frame: &[u8],
    p: &Parsed<F>,
    source: F::Address,
    [kind, code]: [u8; 2],
    rest: u32,
) -> Option<IcmpError> {
    let (l3, most) = (usize::from(p.l3), F::MIN_MTU - F::Header::LEN - icmp::HEADER_LEN);
    let quoted = frame.get(l3..usize::from(p.end))?;
    let quoted = &quoted[..quoted.len().min(most)];
    let mut answer = IcmpError::turned(frame, l3)?;
    let len = icmp::HEADER_LEN + quoted.len();
    let message = answer.packet::<F>(l3, [&source, &p.src], F::ICMP, len)?;
    (message[0], message[1]) = (kind, code);
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    message[8..].copy_from_slice(quoted);
    fill_checksum::<F>(message, &source, &p.src);
    Some(answer)
}

/// A reset that the packet's sender accepts, in the name of its peer; `None` for a reset.
pub fn tcp_reset<F: Family>(frame: &[u8], p: &Parsed<F>) -> Option<Reset> {
    let (l4, end) = (usize::from(p.l4), usize::from(p.end));
    let segment = tcp::Packet::new_checked(frame.get(l4..end)?).ok()?;
    let flags = segment.flags();
    if flags & tcp::flag::RST != 0 {
        return None;
    }
    let (seq, ack, flags) = if flags & tcp::flag::ACK != 0 {
        (segment.ack(), 0, tcp::flag::RST)
    } else {
        let phantom = flags & tcp::flag::SYN != 0;
        let payload = end - l4 - segment.header_len();
        let ack = segment.seq().wrapping_add(payload as u32 + u32::from(phantom));
        (0, ack, tcp::flag::RST | tcp::flag::ACK)
    };
    let mut answer = Reset::turned(frame, p.l3.into())?;
    put_reset::<F>(&mut answer, p.l3.into(), &p.key().reversed(), [seq, ack], flags)?;
    Some(answer)
}

/// A reset from the sender of `key`'s packets to their receiver, out of nothing: `seq` is the number
/// of the sender's next byte, `ack` of the receiver's. Who has received all that was sent takes it
/// (RFC 9293 §3.10.7.4); who has not answers with an acknowledgement (RFC 5961 §3.2). The
/// acknowledgement number makes it good before the handshake's second packet, too.
pub fn reset<F: Family>(link: &LinkHeader, key: &FlowKey<F>, seq: u32, ack: u32) -> Option<Reset> {
    let l3 = if link.vlan == 0 { UNTAGGED } else { TAGGED };
    let mut answer = Reset::empty();
    answer.bytes[..6].copy_from_slice(&link.destination.bytes());
    answer.bytes[6..12].copy_from_slice(&link.source.bytes());
    if link.vlan != 0 {
        answer.bytes[12..14].copy_from_slice(&ethernet::VLAN.to_be_bytes());
        answer.bytes[14..16].copy_from_slice(&link.vlan.to_be_bytes());
    }
    answer.bytes[l3 - 2..l3].copy_from_slice(&F::ETHERTYPE.to_be_bytes());
    put_reset::<F>(&mut answer, l3, key, [seq, ack], tcp::flag::RST | tcp::flag::ACK)?;
    Some(answer)
}

/// Writes a reset of this key, which has these numbers.
fn put_reset<F: Family>(
    answer: &mut Reset,
    l3: usize,
    key: &FlowKey<F>,
    [seq, ack]: [u32; 2],
    flags: u8,
) -> Option<()> {
    let addresses = [&key.src(), &key.dst()];
    let segment = answer.packet::<F>(l3, addresses, tcp::PROTOCOL, tcp::HEADER_LEN)?;
    let mut reset = tcp::Packet::new_unchecked(segment);
    reset.set_sport(key.sport());
    reset.set_dport(key.dport());
    reset.set_seq(seq);
    reset.set_ack(ack);
    reset.set_header_len(tcp::HEADER_LEN);
    reset.set_flags(flags);
    reset.fill_checksum(F::pseudo(&key.src(), &key.dst(), tcp::PROTOCOL, tcp::HEADER_LEN as u16));
    Some(())
}

/// At most so many answers a second, in bursts of as many (RFC 1812 §4.3.2.8).
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    per_second: u32,
    tokens: u32,
    since_ms: u32,
}

impl RateLimit {
    /// A full bucket.
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, tokens: per_second, since_ms: 0 }
    }

    /// Changes the rate.
    pub fn set(&mut self, per_second: u32) {
        self.per_second = per_second;
        self.tokens = self.tokens.min(per_second);
    }

    /// Takes a token if there is one.
    pub fn allows(&mut self, now_ms: u32) -> bool {
        let elapsed = now_ms.wrapping_sub(self.since_ms).min(1000);
        let earned = (u64::from(elapsed) * u64::from(self.per_second) / 1000) as u32;
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.per_second);
            self.since_ms = now_ms;
        }
        let allowed = self.tokens > 0;
        self.tokens -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use weir_wire::checksum;
    use weir_wire::family::V4;
    use weir_wire::parse::parse;

    fn syn() -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [198, 51, 100, 1], 1)
            .tcp(1234, 80, 1000, 512)
            .syn();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        frame
    }

    #[test]
    fn time_exceeded_quotes_the_packet_and_checks_out() {
        let frame = syn();
        let p = parse(&frame).unwrap();
        let answer =
            icmp_error::<V4>(&frame, &p, [10, 0, 0, 254], [icmp::TIME_EXCEEDED, 0], 0).unwrap();
        let q = parse(answer.data()).unwrap();
        assert_eq!((q.src, q.dst), ([10, 0, 0, 254], [10, 0, 0, 1]));
        let message = icmp::Packet::new_checked(&answer.data()[34..]).unwrap();
        assert!(message.verify_checksum());
        assert_eq!((message.kind(), message.code()), (11, 0));
        assert_eq!(message.payload(), &frame[14..]);
        assert_eq!(&answer.data()[..6], &[1; 6]);
    }

    #[test]
    fn fragmentation_needed_names_the_mtu() {
        let frame = syn();
        let p = parse(&frame).unwrap();
        let answer = icmp_error::<V4>(&frame, &p, [10, 0, 0, 254], [3, 4], 1400).unwrap();
        assert_eq!(&answer.data()[14 + 20 + 6..][..2], &1400u16.to_be_bytes());
    }

    #[test]
    fn a_reset_acknowledges_the_syn() {
        let frame = syn();
        let p = parse(&frame).unwrap();
        let answer = tcp_reset::<V4>(&frame, &p).unwrap();
        let sliced = SlicedPacket::from_ethernet(answer.data()).unwrap();
        let Some(TransportSlice::Tcp(reset)) = sliced.transport else { panic!("no TCP") };
        assert!(reset.rst() && reset.ack());
        assert_eq!(reset.acknowledgment_number(), 1001);
        assert_eq!((reset.source_port(), reset.destination_port()), (80, 1234));
        let p = parse(answer.data()).unwrap();
        let pseudo = checksum::pseudo4(p.src, p.dst, 6, 20);
        assert!(tcp::Packet::new_checked(&answer.data()[34..]).unwrap().verify_checksum(pseudo));
    }

    #[test]
    fn nobody_answers_a_reset() {
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [198, 51, 100, 1], 64)
            .tcp(1234, 80, 1000, 512)
            .rst();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        assert!(tcp_reset::<V4>(&frame, &parse(&frame).unwrap()).is_none());
    }

    #[test]
    fn answers_are_limited_and_the_allowance_returns() {
        let mut limit = RateLimit::new(10);
        assert_eq!((0..100).filter(|_| limit.allows(5000)).count(), 10);
        assert_eq!((0..100).filter(|_| limit.allows(5500)).count(), 5);
    }
}
