//! No input makes a view or a parser panic, and what the parsers accept lies inside the frame.

mod common;

use std::collections::HashMap;

use common::{fix_ipv4_checksum, parse6_by_parts, samples};
use weir_wire::family::{Family, V6};
use weir_wire::parse::{HEAD_LEN, Kind, Parsed, Reject, parse, parse_head, parse6};
use weir_wire::{ethernet, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp};

/// Calls every getter and setter of every view on `data`, whatever it holds.
fn exercise(data: &[u8]) {
    let buffer = &mut data.to_vec()[..];

    let mut frame = ethernet::Frame::new_unchecked(&mut *buffer);
    let _ = (frame.dst(), frame.src(), frame.ethertype(), frame.vlan(), frame.is_stacked());
    let _ = (frame.payload_offset(), frame.payload());
    frame.set_dst([1; 6]);
    frame.set_src([2; 6]);
    frame.set_ethertype(3);
    frame.set_vlan(4);

    buffer.copy_from_slice(data);
    let mut packet = ipv4::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.version(), packet.header_len(), packet.has_options(), packet.options());
    let _ = (packet.dscp(), packet.ecn(), packet.total_len(), packet.ident());
    let _ = (packet.dont_fragment(), packet.more_fragments(), packet.fragment_offset());
    let _ = (packet.is_fragment(), packet.ttl(), packet.protocol(), packet.checksum());
    let _ = (packet.src(), packet.dst(), packet.verify_checksum(), packet.payload());
    let _ = (packet.pseudo_header(), packet.payload_mut());
    packet.fill_checksum();
    packet.set_dscp(255);
    packet.set_total_len(1);
    packet.set_ident(2);
    packet.set_fragment(3);
    packet.set_ttl(4);
    packet.set_protocol(5);
    packet.set_src([6; 4]);
    packet.set_dst([7; 4]);
    packet.set_header_len(usize::MAX);

    buffer.copy_from_slice(data);
    let mut packet = ipv6::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.version(), packet.traffic_class(), packet.dscp(), packet.ecn());
    let _ = (packet.flow_label(), packet.payload_len(), packet.next_header());
    let _ = (packet.hop_limit(), packet.src(), packet.dst());
    let _ = (packet.payload().len(), packet.pseudo_header(), packet.payload_mut());
    packet.set_traffic_class(255);
    packet.set_payload_len(1);
    packet.set_next_header(2);
    packet.set_hop_limit(3);
    packet.set_src([4; 16]);
    packet.set_dst([5; 16]);

    buffer.copy_from_slice(data);
    let mut packet = tcp::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.sport(), packet.dport(), packet.seq(), packet.ack(), packet.header_len());
    let _ = (packet.flags(), packet.window(), packet.checksum(), packet.options());
    let _ = (packet.payload(), packet.verify_checksum(1));
    packet.fill_checksum(0xffff);
    packet.set_sport([1; 2]);
    packet.set_dport([2; 2]);
    packet.set_seq(3);
    packet.set_ack(4);
    packet.set_flags(5);
    packet.set_window(6);
    packet.set_header_len(usize::MAX);

    buffer.copy_from_slice(data);
    let mut packet = udp::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.sport(), packet.dport(), packet.len(), packet.checksum());
    let _ = (packet.payload(), packet.verify_checksum(1));
    packet.fill_checksum(0xffff);
    packet.set_sport([1; 2]);
    packet.set_dport([2; 2]);
    packet.set_len(3);

    buffer.copy_from_slice(data);
    let mut packet = icmp::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.kind(), packet.code(), packet.checksum(), packet.is_error());
    let _ = (packet.is_echo(), packet.ident(), packet.seq(), packet.payload());
    let _ = (packet.verify_checksum(), packet.payload_mut());
    packet.fill_checksum();
    packet.set_kind(1, 2);
    packet.set_ident([3; 2]);
    packet.set_seq(4);

    buffer.copy_from_slice(data);
    let mut packet = icmpv6::Packet::new_unchecked(&mut *buffer);
    let _ = (packet.kind(), packet.code(), packet.checksum(), packet.is_error());
    let _ = (packet.is_echo(), packet.ident(), packet.seq(), packet.mtu(), packet.payload());
    let _ = (packet.verify_checksum(1), packet.payload_mut());
    packet.fill_checksum(0xffff);
    packet.set_kind(1, 2);
    packet.set_ident([3; 2]);
    packet.set_seq(4);
    packet.set_mtu(5);
}

fn check_offsets<F: Family>(parsed: &Parsed<F>, frame: &[u8]) {
    assert!(parsed.l3 == 14 || parsed.l3 == 18);
    assert!(parsed.l3 < parsed.l4 && parsed.l4 <= parsed.end);
    assert!(usize::from(parsed.end) <= frame.len());
}

/// What our own views say of a frame that the parser accepts.
fn check_views4(parsed: &Parsed, frame: &[u8]) {
    let link = ethernet::Frame::new_checked(frame).unwrap();
    assert_eq!(link.payload_offset(), usize::from(parsed.l3));
    assert!(link.ethertype() == ethernet::IPV4 && !link.is_stacked());
    let ip = ipv4::Packet::new_checked(link.payload()).unwrap();
    assert_eq!((ip.src(), ip.dst(), ip.protocol()), (parsed.src, parsed.dst, parsed.proto));
    if parsed.kind == Kind::Flow {
        let ports = match parsed.proto {
            tcp::PROTOCOL => {
                let segment = tcp::Packet::new_checked(ip.payload()).unwrap();
                (segment.sport(), segment.dport())
            }
            udp::PROTOCOL => {
                let datagram = udp::Packet::new_checked(ip.payload()).unwrap();
                (datagram.sport(), datagram.dport())
            }
            proto if protocol::is_portless(proto) => ([0; 2], [0; 2]),
            _ => {
                let message = icmp::Packet::new_checked(ip.payload()).unwrap();
                assert!(message.is_echo());
                (message.ident(), [0, message.kind()])
            }
        };
        assert_eq!(ports, (parsed.sport, parsed.dport));
    }
}

/// What an error quotes lies inside it.
fn check_quoted(parsed: &Parsed<V6>, frame: &[u8]) {
    if parsed.kind == Kind::IcmpError
        && let Some(quoted) = V6::quoted(frame, parsed)
    {
        let read = if protocol::is_portless(quoted.key.proto()) { 0 } else { 8 };
        assert!(quoted.l4 >= parsed.l4 + 48 && quoted.l4 + read <= parsed.end);
    }
}

fn check(frame: &[u8]) -> [Result<Kind, Reject>; 2] {
    let (four, six) = (parse(frame), parse6(frame));
    let head = &frame[..frame.len().min(HEAD_LEN)];
    assert_eq!(parse_head(head, frame.len()), four);
    assert_eq!(parse6_by_parts(frame), six);
    if let Ok(parsed) = &four {
        check_offsets(parsed, frame);
        check_views4(parsed, frame);
    }
    if let Ok(parsed) = &six {
        check_offsets(parsed, frame);
        check_quoted(parsed, frame);
    }
    [four.map(|parsed| parsed.kind), six.map(|parsed| parsed.kind)]
}

#[test]
fn any_bytes_are_harmless_to_views_and_parsers() {
    bolero::check!().with_iterations(20_000).with_max_len(300).for_each(|data: &[u8]| {
        exercise(data);
        let _ = check(data);
    });
}

/// xorshift64*: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % bound
    }
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>, l3: usize) {
    const EDGES: [u8; 8] = [0, 1, 0x40, 0x45, 0x7f, 0x80, 0xfe, 0xff];
    for _ in 0..random.below(4) {
        let at = random.below(frame.len());
        frame[at] = match random.below(3) {
            0 => frame[at] ^ 1 << random.below(8),
            1 => EDGES[random.below(EDGES.len())],
            _ => random.below(256) as u8,
        };
    }
    if random.below(2) == 0 && frame.get(l3).is_some_and(|byte| byte >> 4 == 4) {
        fix_ipv4_checksum(frame, l3);
    }
    match random.below(6) {
        0 => frame.truncate(random.below(frame.len())),
        1 => frame.resize(frame.len() + random.below(60), 0xaa),
        _ => {}
    }
}

/// How many broken frames: ten million, or as many as `make fuzz` asks for.
fn frames() -> usize {
    std::env::var("WEIR_FUZZ_FRAMES").map_or(10_000_000, |number| number.parse().unwrap())
}

#[test]
fn ten_million_broken_frames_are_harmless() {
    let mut samples: Vec<_> = samples().iter().map(|spec| (spec.build(), spec.l3())).collect();
    // The one length that takes a frame longer than an IP packet can be.
    let (mut giant, l3) = samples[0].clone();
    giant.resize(65_600, 0);
    giant[l3 + 2..l3 + 4].fill(0xff);
    fix_ipv4_checksum(&mut giant, l3);
    assert_eq!(check(&giant)[0], Err(Reject::BadLength));

    let mut random = Random(0x7765_6972);
    let mut seen: HashMap<Result<Kind, Reject>, u32> = HashMap::new();
    for round in 0..frames() {
        let index = random.below(samples.len());
        let (sample, l3) = &mut samples[index];
        let mut frame = sample.clone();
        mutate(&mut random, &mut frame, *l3);
        for outcome in check(&frame) {
            *seen.entry(outcome).or_default() += 1;
        }
        if round % 16 == 0 {
            exercise(frame.get(*l3..).unwrap_or(&frame));
        }
    }
    let kinds = [
        Kind::Flow,
        Kind::IcmpError,
        Kind::Fragment { first: true },
        Kind::Fragment { first: false },
        Kind::Options,
        Kind::OtherProtocol,
    ];
    let rejects = [
        Reject::NotIp,
        Reject::Ipv4,
        Reject::Ipv6,
        Reject::StackedVlan,
        Reject::Truncated,
        Reject::BadHeader,
        Reject::BadLength,
        Reject::BadChecksum,
    ];
    for outcome in kinds.map(Ok).into_iter().chain(rejects.map(Err)) {
        let count = seen.get(&outcome).copied().unwrap_or(0);
        assert!(count >= 100, "{outcome:?} only {count} times: the corpus misses it");
    }
}
