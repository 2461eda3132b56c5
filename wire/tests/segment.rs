//! Where TCP segments stand in their stream, read in full and from whole words.

use proptest::prelude::*;
use weir_wire::plain::{Ip4, segment};
use weir_wire::tcp::{Segment, flag};

#[test]
fn syn_and_fin_take_a_number_each() {
    assert_eq!(Segment::new(7, 0, flag::SYN), Segment { end: 8, has_data: false, begins: true });
    assert_eq!(
        Segment::new(7, 3, flag::FIN | flag::ACK),
        Segment { end: 11, has_data: true, begins: false }
    );
    assert_eq!(Segment::new(u32::MAX, 1, 0).end, 0);
}

#[test]
fn only_what_ends_behind_all_before_it_is_new() {
    let segment = Segment::new(100, 10, 0);
    assert!(segment.is_new(109) && segment.is_new(u32::MAX));
    assert!(!segment.is_new(110) && !segment.is_new(111));
}

#[test]
fn a_syn_is_new_whatever_was_before_it() {
    let syn = Segment::new(7, 0, flag::SYN);
    assert!(syn.is_new(8) && syn.is_new(1000) && syn.is_new(u32::MAX));
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
