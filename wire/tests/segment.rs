//! Where TCP segments stand in their stream, read in full and from whole words.

use proptest::prelude::*;
use weir_wire::plain::{Ip4, segment};
use weir_wire::tcp::{Place, REACH, Segment, flag};

#[test]
fn syn_and_fin_take_a_number_each() {
    assert_eq!(Segment::new(7, 0, flag::SYN), Segment { end: 8, has_data: false });
    assert_eq!(Segment::new(7, 3, flag::FIN | flag::ACK), Segment { end: 11, has_data: true });
    assert_eq!(Segment::new(u32::MAX, 1, 0).end, 0);
}

#[test]
fn only_what_ends_behind_all_before_it_is_new() {
    let segment = Segment::new(100, 10, 0);
    assert_eq!([109, u32::MAX].map(|next| segment.place(next)), [Place::New; 2]);
    assert_eq!([110, 111].map(|next| segment.place(next)), [Place::Again; 2]);
}

#[test]
fn what_is_farther_off_than_a_window_is_neither_new_nor_sent_again() {
    let place = |end: u32| Segment::new(end, 0, 0).place(1000);
    assert_eq!((place(1000 + REACH), place(1001 + REACH)), (Place::New, Place::Outside));
    let before = 1000u32.wrapping_sub(REACH);
    assert_eq!((place(before.wrapping_add(1)), place(before)), (Place::Again, Place::Outside));
    assert_eq!(place(1000 + (1 << 31)), Place::Outside);
}

proptest! {
    #[test]
    fn words_and_fields_give_the_same_segment(seq: u32, data in 0u16..1400, words in 5u8..=15) {
        let header = u16::from(words) * 4;
        let total = 20 + header + data;
        let first = 0x45 | u64::from(total.swap_bytes()) << 16;
        let ip = Ip4([first, 0, 0x0640, 0, 0]);
        let (second, fourth) = (u64::from(seq.swap_bytes()), u64::from(words) << 4);
        prop_assert_eq!(segment(&ip, second, fourth), Segment::new(seq, data.into(), 0));
    }
}
