//! The kernel tier's view of a packet against the parser of both tiers.

use proptest::prelude::*;
use weir_layout::control::Mac;
use weir_wire::checksum::{self, Delta};
use weir_wire::extensions;
use weir_wire::family::{Family, V4, V6};
use weir_wire::key::FlowKey4;
use weir_wire::parse::{Kind, Parsed, parse, parse6};
use weir_wire::plain::{Header, Ip4, Ip6, Packet};
use weir_wire::protocol;
use weir_wire::rewrite::{self, LinkHeader, Rewrite, TAGGED, UNTAGGED, apply4, compile4};
use weir_wire::stateless::Bare;
use weir_wire::tcp;

const L3: usize = UNTAGGED;

fn word(frame: &[u8], at: usize) -> u64 {
    frame.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()).into())
}

fn recognise(frame: &[u8]) -> Option<Packet> {
    let ip = Ip4([14, 18, 22, 26, 30].map(|at| word(frame, at)));
    let packet = Packet { ip, transport: [34, 38, 42, 46].map(|at| word(frame, at)) };
    packet.is_plain((frame.len() - L3) as u64).then_some(packet)
}

fn transport(frame: &[u8], proto: u8, icmp: u8, l4: usize) -> [u64; 4] {
    match proto {
        6 => [0, 4, 12, 16].map(|at| word(frame, l4 + at)),
        proto if proto == 17 || proto == icmp => [word(frame, l4), word(frame, l4 + 4), 0, 0],
        _ => [0; 4],
    }
}

/// The headers of a packet without a flow, and its ports if it leaves at once.
fn bare(frame: &[u8]) -> (Bare, Option<u32>) {
    let ip = Ip4([14, 18, 22, 26, 30].map(|at| word(frame, at)));
    let bare = Bare { ip, transport: transport(frame, ip.proto(), 1, 34) };
    (bare, bare.ports((frame.len() - L3) as u64))
}

fn bare6(frame: &[u8]) -> (Bare<V6>, Option<u32>) {
    let ip = Ip6::read(&frame[L3..]);
    let bare = Bare { ip, transport: transport(frame, ip.proto(), 58, 54) };
    (bare, bare.ports((frame.len() - L3) as u64))
}

/// The packet's transport behind a header of IPv6, perhaps with hop-by-hop options.
fn as_ipv6(frame: &[u8], p: &Parsed, hop_by: bool) -> Vec<u8> {
    let payload = &frame[p.l4.into()..p.end.into()];
    let mut six = vec![0; 54];
    six[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    (six[20], six[21]) = (p.proto, p.ttl);
    six[22..38].fill(p.src[0] | 1);
    six[38..54].fill(p.dst[3] | 1);
    if hop_by {
        six[20] = 0;
        six.extend([p.proto, 0, 1, 4, 0, 0, 0, 0]);
    }
    six.extend(payload);
    let len = (six.len() - 54) as u16;
    six[18..20].copy_from_slice(&len.to_be_bytes());
    six
}

/// The frame with each field changed by itself.
fn rewritten(frame: &[u8], p: &Parsed, new: &Rewrite<[u8; 4]>) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[22] -= 1;
    let l3_delta = Delta::from_raw(new.l3_delta);
    let field = l3_delta.apply([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&field);
    frame[26..30].copy_from_slice(&new.src);
    frame[30..34].copy_from_slice(&new.dst);
    let l4_delta = Delta::from_raw(new.l4_delta);
    let at = match p.proto {
        6 => 50,
        17 => 40,
        _ => 36,
    };
    let field = [frame[at], frame[at + 1]];
    let field = if p.proto == 17 { l4_delta.apply_udp(field) } else { l4_delta.apply(field) };
    frame[at..at + 2].copy_from_slice(&field);
    if p.proto == 1 {
        frame[38..40].copy_from_slice(&new.sport);
    } else {
        frame[34..36].copy_from_slice(&new.sport);
        frame[36..38].copy_from_slice(&new.dport);
    }
    frame
}

prop_compose! {
    /// Frames of which most are plain, and every check fails now and then.
    fn frame()(
        proto in prop_oneof![Just(1u8), Just(6), Just(17), any::<u8>()],
        version in prop_oneof![9 => Just(0x45u8), 1 => any::<u8>()],
        fragment in prop_oneof![5 => Just(0u16), 5 => Just(0x4000), 1 => any::<u16>()],
        ttl in prop_oneof![1 => Just(1u8), 9 => any::<u8>()],
        addresses in any::<[u8; 8]>(),
        mut l4 in prop::collection::vec(any::<u8>(), 20..60),
        kind in prop_oneof![Just(0u8), Just(8), any::<u8>()],
        offset in prop_oneof![5 => Just(0x50u8), 1 => any::<u8>()],
        flags in prop_oneof![5 => Just(tcp::flag::ACK), 1 => any::<u8>()],
        udp_len in prop_oneof![5 => Just(None), 1 => any::<u16>().prop_map(Some)],
        wrong_total in prop_oneof![9 => Just(0i32), 1 => -40..40],
        break_checksum in prop_oneof![9 => Just(0u8), 1 => any::<u8>()],
        padding in 0usize..8,
    ) -> Vec<u8> {
        match proto {
            1 => l4[0] = kind,
            6 => (l4[12], l4[13]) = (offset, flags),
            17 => {
                let len = udp_len.unwrap_or(l4.len() as u16);
                l4[4..6].copy_from_slice(&len.to_be_bytes());
            }
            _ => {}
        }
        let mut ip = vec![0; 20];
        (ip[0], ip[8], ip[9]) = (version, ttl, proto);
        let total = (20 + l4.len() as i32 + wrong_total).max(0) as u16;
        ip[2..4].copy_from_slice(&total.to_be_bytes());
        ip[6..8].copy_from_slice(&fragment.to_be_bytes());
        ip[12..20].copy_from_slice(&addresses);
        let sum = checksum::finish(checksum::sum(&ip));
        ip[10..12].copy_from_slice(&sum);
        ip[11] ^= break_checksum;
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend(l4);
        frame.extend(vec![0; padding]);
        frame
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn recognises_exactly_the_plain_packets_of_the_parser(frame in frame()) {
        const EVENTS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;
        let parsed = parse(&frame).ok().filter(|p| {
            let told_apart = p.kind == Kind::Flow && !protocol::is_portless(p.proto);
            told_apart && p.ttl > 1 && p.tcp_flags & EVENTS == 0
        });
        let seen = recognise(&frame).map(|packet| (packet.key(), L3 as u16 + packet.ip.total()));
        let expected = parsed.map(|p| (p.key().words(), p.end));
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn without_a_flow_what_the_parser_finds_whole_leaves_but_for_errors_and_begun_checksums(
        mut frame in frame(),
        begun: bool,
        hop_by: bool,
        other: u16,
    ) {
        let expected = |p: &Parsed, frame: &[u8]| {
            let at = usize::from(p.l4) + if p.proto == 6 { 16 } else { 6 };
            let field = frame.get(at..at + 2).map(|field| [field[0], field[1]]);
            let sum = V4::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4).to_be_bytes();
            let has_sum = matches!(p.proto, 6 | 17) && field == Some(sum);
            let other = p.kind == Kind::OtherProtocol && p.proto != 1;
            (p.ttl > 1 && (p.kind == Kind::Flow && !has_sum || other))
                .then(|| u32::from_be_bytes([p.sport[0], p.sport[1], p.dport[0], p.dport[1]]))
        };
        if let (true, Ok(p)) = (begun, parse(&frame)) && matches!(p.proto, 6 | 17) {
            let at = usize::from(p.l4) + if p.proto == 6 { 16 } else { 6 };
            let sum = V4::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4);
            if let Some(field) = frame.get_mut(at..at + 2) {
                field.copy_from_slice(&sum.to_be_bytes());
            }
        }
        let p = parse(&frame).ok();
        prop_assert_eq!(bare(&frame).1, p.as_ref().and_then(|p| expected(p, &frame)));
        // The same behind a header of IPv6.
        let icmp = matches!(frame[23], 1 | 58);
        let Some(p) = p.filter(|_| bare(&frame).1.is_some() && !icmp) else {
            return Ok(());
        };
        let six = as_ipv6(&frame, &p, hop_by);
        let ports = bare6(&six).1;
        let whole = parse6(&six).ok().filter(|_| !hop_by);
        let ports_of = |p: &Parsed<V6>| {
            u32::from_be_bytes([p.sport[0], p.sport[1], p.dport[0], p.dport[1]])
        };
        let extended = extensions::is_walked(p.proto);
        let sum_of = |p: &Parsed<V6>| V6::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4);
        // By chance its checksum may look as if it were only begun.
        let is_begun = |p: &Parsed<V6>| {
            let at = usize::from(p.l4) + if p.proto == 6 { 16 } else { 6 };
            matches!(p.proto, 6 | 17) && six.get(at..at + 2) == Some(&sum_of(p).to_be_bytes())
        };
        let expected = whole.as_ref().filter(|p| !extended && !is_begun(p)).map(ports_of);
        prop_assert_eq!(ports, expected);
        if let (Some(_), Some(p)) = (ports, whole) && matches!(p.proto, 6 | 17) {
            let sum = sum_of(&p);
            let is_sum = |field: u16| bare6(&six).0.ip.is_pseudo(field.swap_bytes().into());
            prop_assert!(is_sum(sum) && !is_sum(!sum));
            prop_assert_eq!(is_sum(other), other == sum);
        }
    }

    #[test]
    fn both_ways_rewrite_the_same_fields(frame in frame(), to in any::<[u8; 12]>()) {
        let Some(packet) = recognise(&frame) else { return Ok(()) };
        let p = parse(&frame).unwrap();
        let [a, b, c, d, e, f, g, h, i, j, k, l] = to;
        let dport = if p.proto == 1 { [i, j] } else { [k, l] };
        let to = FlowKey4::new([a, b, c, d], [e, f, g, h], [i, j], dport, p.proto);
        let new = compile4(&p.key(), &to);
        let expected = rewritten(&frame, &p, &new);

        let mut ours = frame.clone();
        apply4(&mut ours, L3, Some(p.proto), &new);
        prop_assert_eq!(&ours, &expected);

        let mut link =
            LinkHeader { destination: Mac::new([2; 6]), source: Mac::new([4; 6]), vlan: 0 };
        let mut ours = frame.clone();
        rewrite::frame::<V4, UNTAGGED>(&mut ours[..], &packet, V4::rewrite_words(&new), &link).unwrap();
        let packet_alone = &expected[L3..];
        prop_assert_eq!(ours, [&[2; 6][..], &[4; 6], &[8, 0], packet_alone].concat());

        link.vlan = 0x123;
        let mut ours = [&[0; 4], &frame[..]].concat();
        rewrite::frame::<V4, TAGGED>(&mut ours[..], &packet, V4::rewrite_words(&new), &link).unwrap();
        let header = [&[2; 6][..], &[4; 6], &[0x81, 0, 1, 0x23, 8, 0]].concat();
        prop_assert_eq!(ours, [&header, packet_alone].concat());
    }
}
