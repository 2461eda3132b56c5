//! A real packet per view, taken apart and put together.

use weir_wire::parse::Error;
use weir_wire::{ethernet, icmp, icmpv6, ipv4, ipv6, tcp, udp};

/// TCP data with timestamps, ECT(1), as scapy writes it and tshark accepts it.
#[rustfmt::skip]
const TCP_FRAME: [u8; 71] = [
    0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, 0x02, 0x00, 0x5e, 0x20, 0x00, 0x02, 0x08, 0x00,
    0x45, 0xb9, 0x00, 0x39, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x31, 0x6e,
    0xc0, 0x00, 0x02, 0x0a, 0xc6, 0x33, 0x64, 0x14,
    0xc0, 0x00, 0x01, 0xbb, 0x01, 0x02, 0x03, 0x04, 0x0a, 0x0b, 0x0c, 0x0d, 0x80, 0x18, 0x01, 0xf5,
    0xd0, 0xd4, 0x00, 0x00,
    0x01, 0x01, 0x08, 0x0a, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88,
    0x47, 0x45, 0x54, 0x20, 0x2f,
];

/// UDP on VLAN 100, priority 3.
#[rustfmt::skip]
const UDP_FRAME: [u8; 51] = [
    0x02, 0x00, 0x5e, 0x10, 0x00, 0x01, 0x02, 0x00, 0x5e, 0x20, 0x00, 0x02,
    0x81, 0x00, 0x60, 0x64, 0x08, 0x00,
    0x45, 0x00, 0x00, 0x21, 0x00, 0x01, 0x00, 0x00, 0x3f, 0x11, 0x8f, 0x79,
    0xc0, 0x00, 0x02, 0x0a, 0xc6, 0x33, 0x64, 0x14,
    0x14, 0xe9, 0x00, 0x35, 0x00, 0x0d, 0xfc, 0x8b, 0x77, 0x65, 0x69, 0x72, 0x21,
];

#[rustfmt::skip]
const ECHO: [u8; 16] = [
    0x08, 0x00, 0x61, 0x91, 0x04, 0xd2, 0x00, 0x07, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
];

#[rustfmt::skip]
const ECHO6_PACKET: [u8; 55] = [
    0x6b, 0x81, 0x23, 0x45, 0x00, 0x0f, 0x3a, 0xff,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01,
    0x20, 0x01, 0x0d, 0xb8, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02,
    0x80, 0x00, 0x8e, 0x39, 0x04, 0xd2, 0x00, 0x07, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67,
];

const SRC_MAC: [u8; 6] = [2, 0, 0x5e, 0x20, 0, 2];
const DST_MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 1];

#[test]
fn ethernet_is_taken_apart() {
    let frame = ethernet::Frame::new_checked(&TCP_FRAME[..]).unwrap();
    assert_eq!((frame.dst(), frame.src()), (DST_MAC, SRC_MAC));
    assert_eq!((frame.ethertype(), frame.vlan()), (ethernet::IPV4, None));
    assert_eq!(frame.payload(), &TCP_FRAME[14..]);

    let frame = ethernet::Frame::new_checked(&UDP_FRAME[..]).unwrap();
    assert_eq!((frame.ethertype(), frame.vlan()), (ethernet::IPV4, Some(100)));
    assert!(frame.is_tagged() && !frame.is_stacked());
    assert_eq!(frame.payload(), &UDP_FRAME[18..]);
}

#[test]
fn ethernet_is_put_together() {
    let mut bytes = [0; 18];
    let mut frame = ethernet::Frame::new_unchecked(&mut bytes);
    frame.set_dst(DST_MAC);
    frame.set_src(SRC_MAC);
    frame.set_vlan(100);
    frame.set_ethertype(ethernet::IPV4);
    let mut expected = *UDP_FRAME.first_chunk::<18>().unwrap();
    expected[14] = 0; // priority
    assert_eq!(bytes, expected);

    let mut frame = ethernet::Frame::new_unchecked([0; 14]);
    frame.set_ethertype(ethernet::ARP);
    assert_eq!((frame.ethertype(), frame.payload_offset()), (ethernet::ARP, 14));
}

#[test]
fn ethernet_with_a_second_tag_is_stacked() {
    for (at, ethertype) in [(16, 0x8100u16), (16, 0x88a8), (12, 0x88a8), (12, 0x9100)] {
        let mut bytes = UDP_FRAME;
        bytes[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
        assert!(ethernet::Frame::new_checked(bytes).unwrap().is_stacked());
    }
}

#[test]
fn ethernet_cut_in_its_header_or_tag_is_truncated() {
    for (bytes, len) in [(&TCP_FRAME[..], 13), (&UDP_FRAME[..], 17)] {
        assert_eq!(ethernet::Frame::new_checked(&bytes[..len]).unwrap_err(), Error::Truncated);
    }
}

#[test]
fn ipv4_is_taken_apart() {
    let packet = ipv4::Packet::new_checked(&TCP_FRAME[14..]).unwrap();
    assert_eq!((packet.version(), packet.header_len(), packet.total_len()), (4, 20, 57));
    assert!(!packet.has_options() && packet.options().is_empty());
    assert_eq!((packet.dscp(), packet.ecn()), (46, 1));
    assert_eq!(packet.ident(), 0x1c46);
    assert!(packet.dont_fragment() && !packet.more_fragments() && !packet.is_fragment());
    assert_eq!((packet.ttl(), packet.protocol()), (64, tcp::PROTOCOL));
    assert_eq!((packet.src(), packet.dst()), ([192, 0, 2, 10], [198, 51, 100, 20]));
    assert_eq!(packet.checksum(), [0x31, 0x6e]);
    assert!(packet.verify_checksum());
    assert_eq!(packet.payload(), &TCP_FRAME[34..]);
}

#[test]
fn ipv4_is_put_together() {
    let mut bytes = [0; 57];
    bytes[1] = 1; // ECT(1), which set_dscp leaves
    let mut packet = ipv4::Packet::new_unchecked(&mut bytes);
    packet.set_header_len(20);
    packet.set_dscp(46);
    packet.set_total_len(57);
    packet.set_ident(0x1c46);
    packet.set_fragment(ipv4::DONT_FRAGMENT);
    packet.set_ttl(64);
    packet.set_protocol(tcp::PROTOCOL);
    packet.set_src([192, 0, 2, 10]);
    packet.set_dst([198, 51, 100, 20]);
    packet.fill_checksum();
    packet.payload_mut().copy_from_slice(&TCP_FRAME[34..]);
    assert_eq!(bytes, TCP_FRAME[14..]);
}

#[test]
fn ipv4_options_and_fragments_are_seen() {
    let mut bytes = [0; 28];
    let mut packet = ipv4::Packet::new_unchecked(&mut bytes);
    packet.set_header_len(24);
    packet.set_total_len(28);
    packet.set_fragment(ipv4::MORE_FRAGMENTS | 185);
    bytes[20..24].fill(1);
    bytes[24..].fill(2);
    let packet = ipv4::Packet::new_checked(bytes).unwrap();
    assert!(packet.has_options() && packet.is_fragment() && packet.more_fragments());
    assert_eq!((packet.options(), packet.payload()), (&[1; 4][..], &[2; 4][..]));
    assert_eq!(packet.fragment_offset(), 1480);
}

#[test]
fn ipv4_payload_excludes_padding() {
    let mut bytes = [0xaa; 80];
    bytes[..57].copy_from_slice(&TCP_FRAME[14..]);
    assert_eq!(ipv4::Packet::new_checked(bytes).unwrap().payload(), &TCP_FRAME[34..]);
}

#[test]
fn ipv4_with_a_flipped_bit_fails_its_checksum() {
    for bit in 0..160 {
        let mut bytes = *TCP_FRAME[14..].first_chunk::<20>().unwrap();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let packet = ipv4::Packet::new_header(bytes);
        assert!(packet.is_err() || !packet.unwrap().verify_checksum(), "bit {bit}");
    }
}

#[test]
fn ipv4_that_contradicts_itself_is_malformed() {
    for (at, value) in [(0, 0x65), (0, 0x44), (3, 19)] {
        let mut bytes = *TCP_FRAME[14..].first_chunk::<57>().unwrap();
        bytes[at] = value;
        assert_eq!(ipv4::Packet::new_checked(bytes).unwrap_err(), Error::Malformed);
    }
}

#[test]
fn ipv4_cut_short_is_truncated_but_its_header_may_stand() {
    let bytes = &TCP_FRAME[14..];
    assert_eq!(ipv4::Packet::new_checked(&bytes[..56]).unwrap_err(), Error::Truncated);
    assert_eq!(ipv4::Packet::new_header(&bytes[..19]).unwrap_err(), Error::Truncated);
    let packet = ipv4::Packet::new_header(&bytes[..28]).unwrap();
    assert_eq!(packet.payload(), &bytes[20..28]);
}

#[test]
fn ipv6_is_taken_apart() {
    let packet = ipv6::Packet::new_checked(&ECHO6_PACKET[..]).unwrap();
    assert_eq!((packet.version(), packet.payload_len()), (6, 15));
    assert_eq!((packet.traffic_class(), packet.dscp(), packet.ecn()), (0xb8, 46, 0));
    assert_eq!(packet.flow_label(), 0x12345);
    assert_eq!((packet.next_header(), packet.hop_limit()), (icmpv6::PROTOCOL, 255));
    assert_eq!(packet.src(), ECHO6_PACKET[8..24]);
    assert_eq!(packet.dst(), ECHO6_PACKET[24..40]);
    assert_eq!(packet.payload(), &ECHO6_PACKET[40..]);
}

#[test]
fn ipv6_is_put_together() {
    let mut bytes = [0; 55];
    let mut packet = ipv6::Packet::new_unchecked(&mut bytes);
    packet.set_traffic_class(0xb8);
    packet.set_payload_len(15);
    packet.set_next_header(icmpv6::PROTOCOL);
    packet.set_hop_limit(255);
    packet.set_src(*ECHO6_PACKET[8..].first_chunk().unwrap());
    packet.set_dst(*ECHO6_PACKET[24..].first_chunk().unwrap());
    packet.payload_mut().copy_from_slice(&ECHO6_PACKET[40..]);
    let mut expected = ECHO6_PACKET;
    expected[1..4].copy_from_slice(&[0x80, 0, 0]); // flow label
    assert_eq!(bytes, expected);
}

#[test]
fn ipv6_that_is_cut_or_of_another_version_is_refused() {
    assert_eq!(ipv6::Packet::new_checked(&ECHO6_PACKET[..54]).unwrap_err(), Error::Truncated);
    assert_eq!(ipv6::Packet::new_header(&ECHO6_PACKET[..39]).unwrap_err(), Error::Truncated);
    assert_eq!(ipv6::Packet::new_header(&ECHO6_PACKET[..48]).unwrap().payload().len(), 8);
    let mut bytes = ECHO6_PACKET;
    bytes[0] = 0x4b;
    assert_eq!(ipv6::Packet::new_checked(bytes).unwrap_err(), Error::Malformed);
}

#[test]
fn tcp_is_taken_apart() {
    let ip = ipv4::Packet::new_checked(&TCP_FRAME[14..]).unwrap();
    let segment = tcp::Packet::new_checked(ip.payload()).unwrap();
    assert_eq!((segment.sport(), segment.dport()), (49152u16.to_be_bytes(), [1, 0xbb]));
    assert_eq!((segment.seq(), segment.ack()), (0x0102_0304, 0x0a0b_0c0d));
    assert_eq!(segment.flags(), tcp::flag::PSH | tcp::flag::ACK);
    assert_eq!((segment.header_len(), segment.window()), (32, 501));
    assert_eq!((segment.options(), segment.payload()), (&TCP_FRAME[54..66], &b"GET /"[..]));
    assert_eq!(segment.checksum(), [0xd0, 0xd4]);
    assert!(segment.verify_checksum(ip.pseudo_header()));
    assert!(!segment.verify_checksum(ip.pseudo_header() + 1));
}

#[test]
fn tcp_is_put_together() {
    let ip = ipv4::Packet::new_checked(&TCP_FRAME[14..]).unwrap();
    let mut bytes = [0; 37];
    bytes[20..].copy_from_slice(&TCP_FRAME[54..]);
    let mut segment = tcp::Packet::new_unchecked(&mut bytes);
    segment.set_sport(49152u16.to_be_bytes());
    segment.set_dport(443u16.to_be_bytes());
    segment.set_seq(0x0102_0304);
    segment.set_ack(0x0a0b_0c0d);
    segment.set_header_len(32);
    segment.set_flags(tcp::flag::PSH | tcp::flag::ACK);
    segment.set_window(501);
    segment.fill_checksum(ip.pseudo_header());
    assert_eq!(bytes, TCP_FRAME[34..]);
}

#[test]
fn tcp_that_is_cut_or_has_no_room_for_its_header_is_refused() {
    let bytes = &TCP_FRAME[34..];
    for len in [19, 31] {
        assert_eq!(tcp::Packet::new_checked(&bytes[..len]).unwrap_err(), Error::Truncated);
    }
    let mut bytes = bytes.to_vec();
    bytes[12] = 0x40;
    assert_eq!(tcp::Packet::new_checked(bytes).unwrap_err(), Error::Malformed);
}

#[test]
fn udp_is_taken_apart() {
    let ip = ipv4::Packet::new_checked(&UDP_FRAME[18..]).unwrap();
    let datagram = udp::Packet::new_checked(ip.payload()).unwrap();
    assert_eq!((datagram.sport(), datagram.dport()), (5353u16.to_be_bytes(), [0, 53]));
    assert_eq!((datagram.len(), datagram.payload()), (13, &b"weir!"[..]));
    assert_eq!(datagram.checksum(), [0xfc, 0x8b]);
    assert!(datagram.verify_checksum(ip.pseudo_header()));
    assert!(!datagram.verify_checksum(ip.pseudo_header() + 1));
}

#[test]
fn udp_is_put_together() {
    let ip = ipv4::Packet::new_checked(&UDP_FRAME[18..]).unwrap();
    let mut bytes = [0; 13];
    bytes[8..].copy_from_slice(b"weir!");
    let mut datagram = udp::Packet::new_unchecked(&mut bytes);
    datagram.set_sport(5353u16.to_be_bytes());
    datagram.set_dport(53u16.to_be_bytes());
    datagram.set_len(13);
    datagram.fill_checksum(ip.pseudo_header());
    assert_eq!(bytes, UDP_FRAME[38..]);
}

#[test]
fn udp_without_a_checksum_passes_and_a_computed_zero_is_ones() {
    let mut datagram = udp::Packet::new_checked([0, 1, 0, 2, 0, 8, 0, 0]).unwrap();
    assert!(datagram.verify_checksum(0x1234));
    datagram.fill_checksum(0xffff - 11);
    assert_eq!(datagram.checksum(), [0xff, 0xff]);
    assert!(datagram.verify_checksum(0xffff - 11));
}

#[test]
fn udp_ignores_what_follows_its_length() {
    let ip = ipv4::Packet::new_checked(&UDP_FRAME[18..]).unwrap();
    let mut bytes = ip.payload().to_vec();
    bytes.push(0xaa);
    let datagram = udp::Packet::new_checked(bytes).unwrap();
    assert_eq!(datagram.payload(), b"weir!");
    assert!(datagram.verify_checksum(ip.pseudo_header()));
}

#[test]
fn udp_that_is_cut_or_shorter_than_its_header_is_refused() {
    let bytes = &UDP_FRAME[38..];
    for len in [7, 12] {
        assert_eq!(udp::Packet::new_checked(&bytes[..len]).unwrap_err(), Error::Truncated);
    }
    for length in [0, 7] {
        let mut bytes = bytes.to_vec();
        bytes[5] = length;
        assert_eq!(udp::Packet::new_checked(bytes).unwrap_err(), Error::Malformed);
    }
}

#[test]
fn icmp_is_taken_apart() {
    let message = icmp::Packet::new_checked(&ECHO[..]).unwrap();
    assert_eq!((message.kind(), message.code()), (icmp::ECHO_REQUEST, 0));
    assert!(message.is_echo() && !message.is_error() && message.verify_checksum());
    assert_eq!((message.ident(), message.seq()), ([4, 0xd2], 7));
    assert_eq!((message.checksum(), message.payload()), ([0x61, 0x91], &b"abcdefgh"[..]));
    assert_eq!(icmp::Packet::new_checked(&ECHO[..7]).unwrap_err(), Error::Truncated);
}

#[test]
fn icmp_is_put_together() {
    let mut bytes = [0; 16];
    let mut message = icmp::Packet::new_unchecked(&mut bytes);
    message.set_kind(icmp::ECHO_REQUEST, 0);
    message.set_ident([4, 0xd2]);
    message.set_seq(7);
    message.payload_mut().copy_from_slice(b"abcdefgh");
    message.fill_checksum();
    assert_eq!(bytes, ECHO);
}

#[test]
fn icmp_errors_are_the_five_types_of_rfc_1122() {
    let errors: Vec<u8> = (0..=255).filter(|kind| icmp::is_error(*kind)).collect();
    assert_eq!(errors, [3, 4, 5, 11, 12]);
}

#[test]
fn icmpv6_is_taken_apart() {
    let ip = ipv6::Packet::new_checked(&ECHO6_PACKET[..]).unwrap();
    let message = icmpv6::Packet::new_checked(ip.payload()).unwrap();
    assert_eq!((message.kind(), message.code()), (icmpv6::ECHO_REQUEST, 0));
    assert!(message.is_echo() && !message.is_error());
    assert_eq!((message.ident(), message.seq()), ([4, 0xd2], 7));
    assert_eq!((message.checksum(), message.payload()), ([0x8e, 0x39], &b"abcdefg"[..]));
    assert!(message.verify_checksum(ip.pseudo_header()));
    assert!(!message.verify_checksum(ip.pseudo_header() + 1));
    assert_eq!(icmpv6::Packet::new_checked(&ECHO[..7]).unwrap_err(), Error::Truncated);
}

#[test]
fn icmpv6_is_put_together() {
    let ip = ipv6::Packet::new_checked(&ECHO6_PACKET[..]).unwrap();
    let mut bytes = [0; 15];
    let mut message = icmpv6::Packet::new_unchecked(&mut bytes);
    message.set_kind(icmpv6::ECHO_REQUEST, 0);
    message.set_ident([4, 0xd2]);
    message.set_seq(7);
    message.payload_mut().copy_from_slice(b"abcdefg");
    message.fill_checksum(ip.pseudo_header());
    assert_eq!(bytes, ECHO6_PACKET[40..]);
}

#[test]
fn icmpv6_carries_an_mtu() {
    let mut message = icmpv6::Packet::new_checked([0; 8]).unwrap();
    message.set_kind(icmpv6::PACKET_TOO_BIG, 0);
    message.set_mtu(0x0001_0578);
    assert!(message.is_error());
    assert_eq!(message.mtu(), 0x0001_0578);
}
