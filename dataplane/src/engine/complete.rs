//! Checksums that a sender leaves to its device.
//!
//! A container, a virtual machine or a bridge hands frames over before any device has finished
//! them: the checksum field holds the sum of the pseudo-header and nothing more
//! (`CHECKSUM_PARTIAL`, `include/linux/skbuff.h`). The kernel knows that of its packet buffers, and
//! XDP does not see it. What a delta makes of such a field is as incomplete as before, and the far
//! end drops it.
//!
//! So a worker completes what takes the slow path, and lets that direction of the flow take no
//! other: in neither tier does the fast path look at data. Nothing is lost by doing that to a packet
//! that was complete and whose checksum happens to be the pseudo-header's: it is the same
//! afterwards.
//!
//! SCTP has no pseudo-header, and leaves zero in its field (`sctp_packet_transmit`,
//! net/sctp/output.c; veth devices, and bridges over them, take such packets: `NETIF_F_SCTP_CRC`).
//! What a LAN sends with zero is completed: whoever has agreed to take zero (RFC 9653) takes the
//! CRC32c too.

use weir_layout::flow::flag;
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::protocol::SCTP;
use weir_wire::{checksum, tcp, udp};

use super::sessions::Sessions;

impl<F: Stored> Sessions<F> {
    /// Completes the packet's checksum where its sender did not, and keeps the direction of such a
    /// sender, whose entry is `slot`, on the slow path. So it does with one that begins with
    /// fragments: what is cut is complete, and says nothing of what follows.
    #[inline(always)]
    pub(super) fn complete(
        &self,
        slot: u32,
        action: &mut Action<F>,
        p: &Parsed<F>,
        frame: &mut [u8],
    ) {
        if action.direction().is_from_inside() {
            complete_sctp(frame, p);
        }
        let unproven = p.kind != Kind::Flow || complete(frame, p);
        // What is offered has shown itself: nobody else's packet takes that away.
        if unproven && action.flags & (flag::NO_OFFLOAD | flag::OFFLOAD) == 0 {
            action.flags |= flag::NO_OFFLOAD;
            self.table.slot(slot).set_meta(action.flags, action.flow_state);
        }
    }
}

/// Makes the checksum of a TCP or UDP packet that is not cut whole, if it is only begun; says
/// whether it was.
#[inline]
pub(super) fn complete<F: Family>(frame: &mut [u8], p: &Parsed<F>) -> bool {
    let segment = usize::from(p.l4)..usize::from(p.end);
    let begun = frame.get(segment.clone()).is_some_and(|segment| is_begun(segment, p));
    if begun {
        finish(&mut frame[segment], p.proto);
    }
    begun
}

/// Fills in the CRC32c of a whole SCTP packet that has none; its bytes go out the lowest first (RFC
/// 9260 appendix A).
#[inline]
fn complete_sctp<F: Family>(frame: &mut [u8], p: &Parsed<F>) {
    const CHECKSUM: std::ops::Range<usize> = 8..12;
    if p.proto != SCTP || p.kind != Kind::Flow {
        return;
    }
    let Some(packet) = frame.get_mut(p.l4.into()..p.end.into()) else { return };
    if packet.get(CHECKSUM) == Some(&[0; 4]) {
        let crc = crc32c::crc32c(packet);
        packet[CHECKSUM].copy_from_slice(&crc.to_le_bytes());
    }
}

#[cold]
fn finish(segment: &mut [u8], proto: u8) {
    let Some(at) = field(proto) else { return };
    // The field's own value stands for the pseudo-header in the sum.
    let sum = checksum::sum(segment);
    let whole =
        if proto == udp::PROTOCOL { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    segment[at..at + 2].copy_from_slice(&whole);
}

/// Is the checksum of a TCP or UDP packet only begun?
#[inline]
pub(super) fn is_begun<F: Family>(segment: &[u8], p: &Parsed<F>) -> bool {
    let value = field(p.proto).and_then(|at| segment.get(at..)?.first_chunk::<2>());
    let begun = F::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4);
    value.is_some_and(|value| u16::from_be_bytes(*value) == begun)
}

/// Where a protocol has its checksum.
fn field(proto: u8) -> Option<usize> {
    match proto {
        tcp::PROTOCOL => Some(tcp::field::CHECKSUM),
        udp::PROTOCOL => Some(udp::field::CHECKSUM),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_wire::parse::parse;

    use super::*;

    /// An Ethernet frame with a packet whose checksum is right.
    fn frame(proto: u8, payload: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(
            [10, 0, 0, 2],
            [198, 51, 100, 1],
            64,
        );
        let mut frame = Vec::new();
        match proto {
            tcp::PROTOCOL => builder.tcp(40_000, 443, 7, 9).write(&mut frame, payload),
            _ => builder.udp(40_000, 53).write(&mut frame, payload),
        }
        .unwrap();
        frame
    }

    /// The same as its sender leaves it to its device.
    fn begun(mut frame: Vec<u8>) -> Vec<u8> {
        let p = parse(&frame).unwrap();
        let at = usize::from(p.l4) + if p.proto == tcp::PROTOCOL { 16 } else { 6 };
        let sum = checksum::pseudo4(p.src, p.dst, p.proto, p.end - p.l4);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        frame
    }

    proptest! {
        #[test]
        fn a_checksum_that_is_begun_is_completed_and_no_other_is_touched(
            proto in prop::sample::select(vec![tcp::PROTOCOL, udp::PROTOCOL]),
            payload in prop::collection::vec(any::<u8>(), 0..64),
            padding in 0usize..8,
        ) {
            let mut whole = frame(proto, &payload);
            let mut partial = begun(whole.clone());
            for frame in [&mut whole, &mut partial] {
                frame.resize(frame.len() + padding, 0xa5);
            }
            let p = parse(&whole).unwrap();
            prop_assert!(complete(&mut partial, &p));
            prop_assert_eq!(&partial, &whole);
            complete(&mut partial, &p);
            prop_assert_eq!(&partial, &whole);
        }
    }

    fn sctp(packet: &[u8]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(
            [10, 0, 0, 2],
            [198, 51, 100, 1],
            64,
        );
        let mut frame = Vec::new();
        builder.write(&mut frame, etherparse::IpNumber(SCTP), packet).unwrap();
        frame
    }

    /// The CRC32c by its polynomial (RFC 9260 appendix A).
    fn by_bits(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }

    proptest! {
        #[test]
        fn of_sctp_what_has_none_gets_its_crc_and_what_has_one_keeps_it(
            header in any::<[u8; 8]>(),
            chunks in prop::collection::vec(any::<u8>(), 0..64),
            padding in 0usize..8,
            other in 1u32..,
        ) {
            let packet = |sum: [u8; 4]| [&header[..], &sum, &chunks].concat();
            let expected = by_bits(&packet([0; 4])).to_le_bytes();
            for (given, expected) in
                [([0; 4], expected), (expected, expected), (other.to_be_bytes(), other.to_be_bytes())]
            {
                let mut frame = sctp(&packet(given));
                let p = parse(&frame).unwrap();
                frame.resize(frame.len() + padding, 0xa5);
                complete_sctp(&mut frame, &p);
                let left = &frame[34..frame.len() - padding];
                prop_assert_eq!(left, &packet(expected)[..]);
            }
        }
    }

    #[test]
    fn sctp_that_is_cut_short_is_left_alone() {
        for length in 0..12 {
            let mut frame = sctp(&[0; 12][..length]);
            let (before, p) = (frame.clone(), parse(&frame).unwrap());
            complete_sctp(&mut frame, &p);
            assert_eq!(frame, before);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let mut datagram = frame(udp::PROTOCOL, b"payload");
        datagram[40..42].fill(0);
        let before = datagram.clone();
        let p = parse(&datagram).unwrap();
        assert!(!complete(&mut datagram, &p));
        assert_eq!(datagram, before);
    }
}
