//! The kernel tier's view of a packet against the parser of both tiers.

use proptest::prelude::*;
use weir_wire::layout::flow::FlowKey4;
use weir_wire::parse::{Kind, parse};
use weir_wire::plain::{self, Ip4};
use weir_wire::rewrite::{apply4, compile4};
use weir_wire::{checksum, tcp};

const L3: usize = 14;

fn word(frame: &[u8], at: usize) -> u64 {
    frame.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()).into())
}

fn recognise(frame: &[u8]) -> Option<(Ip4, u64)> {
    let ip = Ip4([14, 18, 22, 26, 30].map(|at| word(frame, at)));
    let [first, second, fourth] = [34, 38, 46].map(|at| word(frame, at));
    let is_plain = ip.is_plain((frame.len() - L3) as u64)
        && plain::is_plain(ip.proto(), first, second, fourth, u64::from(ip.total()) - 20);
    is_plain.then(|| (ip, plain::ports(ip.proto(), first, second)))
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
            p.kind == Kind::Flow && p.ttl > 1 && p.tcp_flags & EVENTS == 0
        });
        let seen = recognise(&frame).map(|(ip, ports)| (plain::key(&ip, ports), L3 as u16 + ip.total()));
        let expected = parsed.map(|p| {
            (FlowKey4::new(p.src, p.dst, p.sport, p.dport, p.proto).words(), p.end)
        });
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn rewrites_as_the_user_tier_does(frame in frame(), to in any::<[u8; 12]>()) {
        let Some((ip, _)) = recognise(&frame) else { return Ok(()) };
        let p = parse(&frame).unwrap();
        let from = FlowKey4::new(p.src, p.dst, p.sport, p.dport, p.proto);
        let [a, b, c, d, e, f, g, h, i, j, k, l] = to;
        let dport = if p.proto == 1 { [i, j] } else { [k, l] };
        let rewrite =
            compile4(&from, &FlowKey4::new([a, b, c, d], [e, f, g, h], [i, j], dport, p.proto));
        let mut expected = frame.clone();
        apply4(&mut expected, L3, Some(34), p.proto, &rewrite);
        let mut ours = frame.clone();
        let word = ip.next_ttl_word(rewrite.l3_delta) as u32;
        ours[22..26].copy_from_slice(&word.to_le_bytes());
        ours[26..30].copy_from_slice(&rewrite.src);
        ours[30..34].copy_from_slice(&rewrite.dst);
        let at = match p.proto { 6 => 50, 17 => 40, _ => 36 };
        let field = u16::from_le_bytes([ours[at], ours[at + 1]]);
        let field = plain::next_checksum(p.proto, field, rewrite.l4_delta);
        ours[at..at + 2].copy_from_slice(&field.to_le_bytes());
        if p.proto == 1 {
            ours[38..40].copy_from_slice(&rewrite.sport);
        } else {
            ours[34..36].copy_from_slice(&rewrite.sport);
            ours[36..38].copy_from_slice(&rewrite.dport);
        }
        prop_assert_eq!(ours, expected);
    }
}
