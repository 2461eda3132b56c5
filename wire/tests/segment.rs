//! Where TCP segments stand in their stream, read in full and from whole words.

use proptest::prelude::*;
use weir_wire::plain::{Ip4, Packet};
use weir_wire::tcp;
use weir_wire::tcp::{NEAR, Place, REACH, Segment, flag};

#[test]
fn syn_and_fin_take_a_number_each() {
    let (syn, fin) = (Segment::new(7, 0, flag::SYN), Segment::new(7, 3, flag::FIN | flag::ACK));
    assert_eq!(syn, Segment { end: 8, numbers: 1, has_data: false });
    assert_eq!(fin, Segment { end: 11, numbers: 4, has_data: true });
    assert_eq!(Segment::new(u32::MAX, 1, 0).end, 0);
}

#[test]
fn only_what_goes_on_from_all_before_it_is_new() {
    let segment = Segment::new(100, 10, 0);
    assert_eq!([100, 109].map(|next| segment.place(next)), [Place::New; 2]);
    assert_eq!([99, u32::MAX].map(|next| segment.place(next)), [Place::Beyond; 2]);
    assert_eq!([110, 111].map(|next| segment.place(next)), [Place::Again; 2]);
}

#[test]
fn what_is_farther_off_than_a_window_is_neither_new_nor_sent_again() {
    let place = |end: u32| Segment::new(end, 0, 0).place(1000);
    assert_eq!((place(1000 + REACH), place(1001 + REACH)), (Place::Beyond, Place::Outside));
    let before = 1000u32.wrapping_sub(REACH);
    assert_eq!((place(before.wrapping_add(1)), place(before)), (Place::Again, Place::Outside));
    assert_eq!(place(1000 + (1 << 31)), Place::Outside);
}

#[test]
fn a_segment_behind_a_hole_counts_by_what_it_acknowledges() {
    const PEER: u32 = 500;
    let credible =
        |hole: u32, ack: u32| Segment::new(1000 + hole, 1, 0).is_credible(1000, ack, PEER);
    for (hole, behind) in [(1, REACH), (NEAR - 1, REACH), (NEAR, NEAR), (REACH - 1, NEAR)] {
        assert!(credible(hole, PEER), "{hole}");
        assert!(credible(hole, PEER.wrapping_sub(behind)) && credible(hole, PEER + NEAR), "{hole}");
        assert!(!credible(hole, PEER.wrapping_sub(behind + 1)), "{hole}");
        assert!(!credible(hole, PEER + NEAR + 1), "{hole}");
    }
}

proptest! {
    #[test]
    fn words_and_fields_give_the_same_segment(seq: u32, data in 0u16..1400, words in 5u8..=15) {
        let header = u16::from(words) * 4;
        let total = 20 + header + data;
        let first = 0x45 | u64::from(total.swap_bytes()) << 16;
        let ip = Ip4([first, 0, 0x0640, 0, 0]);
        let transport = [0, u64::from(seq.swap_bytes()), 0, u64::from(words) << 4];
        let packet: Packet = Packet { ip, transport };
        prop_assert_eq!(packet.segment(), Some(Segment::new(seq, data.into(), 0)));
    }
}

/// A SYN with these options.
fn syn_with(options: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; tcp::HEADER_LEN];
    segment.extend_from_slice(options);
    let len = segment.len();
    let mut packet = tcp::Packet::new_unchecked(&mut segment);
    packet.set_header_len(len);
    packet.set_flags(tcp::flag::SYN);
    packet.fill_checksum(0);
    segment
}

#[test]
fn a_segment_size_is_clamped_wherever_it_stands_and_the_checksum_stays_right() {
    for (options, at) in [
        (&[2, 4, 5, 0xb4][..], 2),
        (&[1, 2, 4, 5, 0xb4, 1, 1, 0], 3),
        (&[3, 3, 7, 1, 2, 4, 5, 0xb4], 6),
        (&[4, 2, 1, 2, 4, 5, 0xb4, 0], 5),
        (&[2, 4, 2, 0, 2, 4, 5, 0xb4], 6),
    ] {
        let mut segment = syn_with(options);
        tcp::clamp_mss(&mut segment, 1200);
        let packet = tcp::Packet::new_checked(&segment[..]).unwrap();
        assert!(packet.verify_checksum(0), "{options:?}");
        assert_eq!(packet.options()[at..at + 2], 1200u16.to_be_bytes());
        let clamped = segment.clone();
        tcp::clamp_mss(&mut segment, 1300);
        assert_eq!(segment, clamped, "never more");
    }
}

#[test]
fn options_that_name_no_segment_size_stay_as_they_are() {
    for options in [
        &[][..],
        &[0, 2, 4, 5],
        &[2, 3, 5, 0xb4],
        &[8, 0, 2, 4],
        &[8, 1, 2, 4],
        &[8, 40, 2, 4],
        &[1, 1, 2, 4],
        &[3, 3, 7, 2],
    ] {
        let mut segment = syn_with(options);
        let before = segment.clone();
        tcp::clamp_mss(&mut segment, 100);
        assert_eq!(segment, before, "{options:?}");
    }
    let mut cut = syn_with(&[2, 4, 5, 0xb4]);
    cut.truncate(tcp::HEADER_LEN + 3);
    let before = cut.clone();
    tcp::clamp_mss(&mut cut, 100);
    assert_eq!(cut, before);
}
