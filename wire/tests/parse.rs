//! What the hot path's parser makes of each kind of frame.

mod common;

use common::{Spec, Transport, fix_ipv4_checksum};
use weir_wire::parse::{HEAD_LEN, Kind, Reject, parse, parse_head, parse6};

const TCP: Transport = Transport::Tcp { flags: 0x12, option_words: 2 };

fn v4(transport: Transport) -> Spec {
    Spec::new(false, transport)
}

fn v6(transport: Transport) -> Spec {
    Spec::new(true, transport)
}

/// An IPv4 frame with one byte at an offset from `l3` changed, and the header checksum right.
fn patched(spec: &Spec, at: usize, value: u8) -> Vec<u8> {
    let mut frame = spec.build();
    frame[spec.l3() + at] = value;
    fix_ipv4_checksum(&mut frame, spec.l3());
    frame
}

#[test]
fn a_tcp_segment_is_a_flow() {
    let parsed = parse(&v4(TCP).build()).unwrap();
    assert_eq!((parsed.vlan, parsed.l3, parsed.l4, parsed.end), (0, 14, 34, 34 + 28 + 7));
    assert_eq!((parsed.src, parsed.dst), ([192, 0, 2, 10], [198, 51, 100, 20]));
    assert_eq!((parsed.sport, parsed.dport), (49152u16.to_be_bytes(), 443u16.to_be_bytes()));
    assert_eq!((parsed.proto, parsed.tcp_flags), (6, 0x12));
    assert_eq!((parsed.ttl, parsed.dscp, parsed.kind), (64, 46, Kind::Flow));
}

#[test]
fn an_ipv6_tcp_segment_is_a_flow() {
    let spec = v6(TCP);
    let parsed = parse6(&spec.build()).unwrap();
    assert_eq!((parsed.vlan, parsed.l3, parsed.l4, parsed.end), (0, 14, 54, 54 + 28 + 7));
    assert_eq!((parsed.src, parsed.dst), (spec.src, spec.dst));
    assert_eq!((parsed.sport, parsed.dport), (49152u16.to_be_bytes(), 443u16.to_be_bytes()));
    assert_eq!((parsed.proto, parsed.tcp_flags), (6, 0x12));
    assert_eq!((parsed.ttl, parsed.dscp, parsed.kind), (64, 46, Kind::Flow));
}

#[test]
fn echo_has_its_identifier_and_its_type_for_ports() {
    for (transport, kinds) in [(Transport::EchoRequest, [8, 128]), (Transport::EchoReply, [0, 129])]
    {
        let spec = Spec { sport: 0x1234, ..v4(transport.clone()) };
        let parsed = parse(&spec.build()).unwrap();
        assert_eq!((parsed.sport, parsed.dport), ([0x12, 0x34], [0, kinds[0]]));
        assert_eq!(parsed.kind, Kind::Flow);
        let parsed = parse6(&Spec { sport: 0x1234, ..v6(transport) }.build()).unwrap();
        assert_eq!((parsed.sport, parsed.dport), ([0x12, 0x34], [0, kinds[1]]));
        assert_eq!(parsed.kind, Kind::Flow);
    }
}

#[test]
fn ethernet_padding_is_past_the_end() {
    for v6 in [false, true] {
        let spec = Spec { padding: 11, ..Spec::new(v6, Transport::Udp) };
        let frame = spec.build();
        let end = if v6 { parse6(&frame).unwrap().end } else { parse(&frame).unwrap().end };
        assert_eq!(usize::from(end), frame.len() - 11);
    }
}

#[test]
fn one_vlan_tag_is_taken() {
    let parsed = parse(&Spec { vlan: Some(4094), ..v4(TCP) }.build()).unwrap();
    assert_eq!((parsed.vlan, parsed.l3, parsed.l4), (4094, 18, 38));
    let parsed = parse6(&Spec { vlan: Some(4094), ..v6(TCP) }.build()).unwrap();
    assert_eq!((parsed.vlan, parsed.l3, parsed.l4), (4094, 18, 58));
}

#[test]
fn a_vlan_identifier_is_free_of_priority_bits() {
    let mut frame = Spec { vlan: Some(1), ..v4(TCP) }.build();
    frame[14] |= 0xf0;
    assert_eq!(parse(&frame).unwrap().vlan, 1);
}

#[test]
fn a_priority_tag_is_vlan_zero() {
    let parsed = parse(&Spec { vlan: Some(0), ..v4(TCP) }.build()).unwrap();
    assert_eq!((parsed.vlan, parsed.l3), (0, 18));
}

#[test]
fn stacked_and_service_tags_are_rejected() {
    let frame = Spec { vlan: Some(1), ..v4(TCP) }.build();
    for (at, ethertype) in [(16, 0x8100u16), (16, 0x88a8), (12, 0x88a8), (12, 0x9100)] {
        let mut frame = frame.clone();
        frame[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(parse(&frame), Err(Reject::StackedVlan));
        assert_eq!(parse6(&frame), Err(Reject::StackedVlan));
    }
}

#[test]
fn what_is_not_ip_is_named_so() {
    let mut frame = v4(TCP).build();
    for ethertype in [0x0806u16, 0x88cc, 60] {
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        assert_eq!(parse(&frame), Err(Reject::NotIp));
        assert_eq!(parse6(&frame), Err(Reject::NotIp));
    }
}

#[test]
fn the_other_family_is_named() {
    assert_eq!(parse(&v6(TCP).build()), Err(Reject::Ipv6));
    assert_eq!(parse6(&v4(TCP).build()), Err(Reject::Ipv4));
}

#[test]
fn every_cut_is_truncated() {
    for transport in [TCP, Transport::Udp, Transport::EchoRequest, Transport::Other(47)] {
        let frame = v4(transport.clone()).build();
        let frame6 = v6(transport).build();
        for len in 0..frame.len() {
            assert_eq!(parse(&frame[..len]), Err(Reject::Truncated), "{len} bytes");
        }
        for len in 0..frame6.len() {
            assert_eq!(parse6(&frame6[..len]), Err(Reject::Truncated), "{len} bytes");
        }
    }
}

#[test]
fn a_transport_header_cut_by_the_ip_length_is_truncated() {
    for (transport, header) in [(TCP, 28), (Transport::Udp, 8), (Transport::EchoRequest, 8)] {
        let mut frame = v4(transport.clone()).build();
        frame[17] = 20 + header - 1;
        fix_ipv4_checksum(&mut frame, 14);
        assert_eq!(parse(&frame), Err(Reject::Truncated));
        let mut frame = v6(transport).build();
        frame[19] = header - 1;
        assert_eq!(parse6(&frame), Err(Reject::Truncated));
    }
}

#[test]
fn a_wrong_version_is_a_bad_header() {
    assert_eq!(parse(&patched(&v4(TCP), 0, 0x65)), Err(Reject::BadHeader));
    let mut frame = v6(TCP).build();
    frame[14] = 0x40;
    assert_eq!(parse6(&frame), Err(Reject::BadHeader));
}

#[test]
fn a_header_length_below_five_words_is_a_bad_header() {
    assert_eq!(parse(&patched(&v4(TCP), 0, 0x44)), Err(Reject::BadHeader));
}

#[test]
fn a_total_length_below_the_header_is_a_bad_length() {
    assert_eq!(parse(&patched(&v4(TCP), 3, 19)), Err(Reject::BadLength));
}

#[test]
fn an_end_beyond_sixteen_bits_is_a_bad_length() {
    let mut frame = v4(Transport::Other(47)).build();
    frame.resize(70_000, 0);
    frame[16..18].copy_from_slice(&[0xff, 0xff]);
    fix_ipv4_checksum(&mut frame, 14);
    assert_eq!(parse(&frame), Err(Reject::BadLength));
    frame[16..18].copy_from_slice(&(u16::MAX - 14).to_be_bytes());
    fix_ipv4_checksum(&mut frame, 14);
    assert_eq!(parse(&frame).unwrap().end, u16::MAX);
}

#[test]
fn a_wrong_header_checksum_is_rejected() {
    let mut frame = v4(TCP).build();
    frame[14 + 10] ^= 1;
    assert_eq!(parse(&frame), Err(Reject::BadChecksum));
}

#[test]
fn ipv4_options_go_to_the_slow_path() {
    let spec = Spec { ip_option_words: 2, ..v4(TCP) };
    let parsed = parse(&spec.build()).unwrap();
    assert_eq!((parsed.kind, parsed.l4), (Kind::Options, 14 + 28));
    assert_eq!((parsed.sport, parsed.dport), ([0; 2], [0; 2]));
}

#[test]
fn a_first_fragment_has_ports() {
    let fragment = Some((0, true));
    let parsed = parse(&Spec { fragment, ..v4(TCP) }.build()).unwrap();
    assert_eq!((parsed.kind, parsed.tcp_flags), (Kind::Fragment { first: true }, 0x12));
    assert_eq!(parsed.dport, 443u16.to_be_bytes());
    let parsed = parse6(&Spec { fragment, ..v6(TCP) }.build()).unwrap();
    assert_eq!((parsed.kind, parsed.tcp_flags), (Kind::Fragment { first: true }, 0x12));
    assert_eq!((parsed.dport, parsed.l4, parsed.proto), (443u16.to_be_bytes(), 62, 6));
}

#[test]
fn a_later_fragment_has_none() {
    for more in [false, true] {
        let fragment = Some((1, more));
        let parsed = parse(&Spec { fragment, ..v4(TCP) }.build()).unwrap();
        assert_eq!((parsed.kind, parsed.dport), (Kind::Fragment { first: false }, [0; 2]));
        let parsed = parse6(&Spec { fragment, ..v6(TCP) }.build()).unwrap();
        assert_eq!((parsed.kind, parsed.dport), (Kind::Fragment { first: false }, [0; 2]));
    }
}

#[test]
fn a_first_fragment_may_hold_less_than_the_datagram() {
    let fragment = Some((0, true));
    let mut frame = Spec { fragment, ..v4(Transport::Udp) }.build();
    frame[38..40].copy_from_slice(&3000u16.to_be_bytes());
    assert_eq!(parse(&frame).unwrap().kind, Kind::Fragment { first: true });
}

#[test]
fn a_first_fragment_may_split_tcp_options() {
    let mut frame = Spec { fragment: Some((0, true)), ..v4(TCP) }.build();
    frame[17] = 20 + 24;
    fix_ipv4_checksum(&mut frame, 14);
    assert_eq!(parse(&frame).unwrap().kind, Kind::Fragment { first: true });
}

#[test]
fn a_first_fragment_that_splits_the_transport_header_is_truncated() {
    let fragment = Some((0, true));
    let mut frame = Spec { fragment, ..v4(TCP) }.build();
    frame[17] = 20 + 8;
    fix_ipv4_checksum(&mut frame, 14);
    assert_eq!(parse(&frame), Err(Reject::Truncated));
    let mut frame = Spec { fragment, ..v6(TCP) }.build();
    frame[19] = 8 + 8;
    assert_eq!(parse6(&frame), Err(Reject::Truncated));
}

#[test]
fn a_cut_ipv6_fragment_header_is_truncated() {
    let mut frame = Spec { fragment: Some((1, true)), ..v6(TCP) }.build();
    frame[19] = 7;
    assert_eq!(parse6(&frame), Err(Reject::Truncated));
}

#[test]
fn an_atomic_ipv6_fragment_is_the_whole_packet() {
    let parsed = parse6(&Spec { fragment: Some((0, false)), ..v6(TCP) }.build()).unwrap();
    assert_eq!((parsed.kind, parsed.ident), (Kind::Flow, 0));
}

#[test]
fn an_icmp_error_with_its_inner_header_is_an_error() {
    let payload = v4(Transport::Udp).build()[14..42].to_vec();
    let parsed = parse(&Spec { payload, ..v4(Transport::IcmpError) }.build()).unwrap();
    assert_eq!((parsed.kind, parsed.sport), (Kind::IcmpError, [0; 2]));
    let payload = v6(Transport::Udp).build()[14..].to_vec();
    let parsed = parse6(&Spec { payload, ..v6(Transport::IcmpError) }.build()).unwrap();
    assert_eq!((parsed.kind, parsed.sport), (Kind::IcmpError, [0; 2]));
}

#[test]
fn an_icmpv6_error_of_an_unknown_type_is_an_error() {
    let payload = v6(Transport::Udp).build()[14..].to_vec();
    let mut frame = Spec { payload, ..v6(Transport::IcmpError) }.build();
    for kind in [0, 5, 127] {
        frame[54] = kind;
        assert_eq!(parse6(&frame).unwrap().kind, Kind::IcmpError);
    }
}

#[test]
fn an_icmp_error_without_its_inner_header_is_truncated() {
    let payload = v4(Transport::Udp).build()[14..33].to_vec();
    let frame = Spec { payload, padding: 30, ..v4(Transport::IcmpError) }.build();
    assert_eq!(parse(&frame), Err(Reject::Truncated));
    let payload = v6(Transport::Udp).build()[14..53].to_vec();
    let frame = Spec { payload, padding: 30, ..v6(Transport::IcmpError) }.build();
    assert_eq!(parse6(&frame), Err(Reject::Truncated));
}

#[test]
fn an_icmp_error_about_the_other_family_is_a_bad_header() {
    let payload = v6(Transport::Udp).build()[14..].to_vec();
    let frame = Spec { payload: payload.clone(), ..v4(Transport::IcmpError) }.build();
    assert_eq!(parse(&frame), Err(Reject::BadHeader));
    let payload = v4(TCP).build()[14..].to_vec();
    let frame = Spec { payload, ..v6(Transport::IcmpError) }.build();
    assert_eq!(parse6(&frame), Err(Reject::BadHeader));
}

#[test]
fn other_protocols_have_flows_without_ports() {
    for proto in [4, 33, 41, 47, 50, 51, 59, 132, 135, 136, 139, 140, 253, 254] {
        for payload in [vec![], vec![0xff; 3], vec![0xff; 64]] {
            let spec = Spec { payload: payload.clone(), ..v4(Transport::Other(proto)) };
            let parsed = parse(&spec.build()).unwrap();
            assert_eq!((parsed.kind, parsed.proto), (Kind::Flow, proto));
            assert_eq!((parsed.sport, parsed.dport), ([0; 2], [0; 2]));
            let spec = Spec { payload, ..v6(Transport::Other(proto)) };
            let parsed = parse6(&spec.build()).unwrap();
            assert_eq!((parsed.kind, parsed.proto), (Kind::Flow, proto));
            assert_eq!((parsed.sport, parsed.dport), ([0; 2], [0; 2]));
        }
    }
}

#[test]
fn what_flows_do_not_have_is_named_so() {
    let timestamp = patched(&v4(Transport::EchoRequest), 20, 13);
    assert_eq!(parse(&timestamp).unwrap().kind, Kind::OtherProtocol);
    let mut solicitation = v6(Transport::EchoRequest).build();
    solicitation[54] = 135;
    assert_eq!(parse6(&solicitation).unwrap().kind, Kind::OtherProtocol);
    for proto in [2, 88, 89, 103, 112, 255] {
        let parsed = parse(&v4(Transport::Other(proto)).build()).unwrap();
        assert_eq!((parsed.kind, parsed.proto), (Kind::OtherProtocol, proto));
        let parsed = parse6(&v6(Transport::Other(proto)).build()).unwrap();
        assert_eq!((parsed.kind, parsed.proto), (Kind::OtherProtocol, proto));
    }
    for (spec, proto) in [(v4(Transport::Other(58)), 58), (v4(Transport::Other(0)), 0)] {
        let parsed = parse(&spec.build()).unwrap();
        assert_eq!((parsed.kind, parsed.proto), (Kind::OtherProtocol, proto));
    }
    let parsed = parse6(&v6(Transport::Other(1)).build()).unwrap();
    assert_eq!((parsed.kind, parsed.proto), (Kind::OtherProtocol, 1));
}

#[test]
fn a_tcp_data_offset_below_five_words_is_a_bad_header() {
    assert_eq!(parse(&patched(&v4(TCP), 20 + 12, 0x40)), Err(Reject::BadHeader));
}

#[test]
fn tcp_options_beyond_the_packet_are_truncated() {
    assert_eq!(parse(&patched(&v4(TCP), 20 + 12, 0xf0)), Err(Reject::Truncated));
}

#[test]
fn a_udp_length_that_cannot_be_is_a_bad_length() {
    let spec = v4(Transport::Udp);
    for length in [0, 7, 8 + 7 + 1] {
        assert_eq!(parse(&patched(&spec, 20 + 5, length)), Err(Reject::BadLength));
    }
    assert_eq!(parse(&patched(&spec, 20 + 5, 8)).unwrap().kind, Kind::Flow);
}

#[test]
fn the_head_of_a_frame_is_enough() {
    for spec in common::samples() {
        let spec = Spec { padding: 1000, ..spec };
        let frame = spec.build();
        let head = &frame[..HEAD_LEN];
        assert_eq!(parse_head(head, frame.len()), parse(&frame));
        assert_eq!(common::parse6_by_parts(&frame), parse6(&frame));
    }
}
