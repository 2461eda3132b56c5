//! What XDP makes of broken frames of IPv6, against what the parser of the user tier says of them.
//!
//! To the parser a frame is one slice; the program reads it in parts, where they are.

use std::collections::BTreeMap;

use weir_layout::NONE;
use weir_layout::control::PortRole;
use weir_layout::counters::Counter;
use weir_wire::family::{Family as _, V6};
use weir_wire::ipv6::{is_group, is_link_local, is_unicast};
use weir_wire::parse::{Kind, Parsed6, Reject, parse6, vlan_of};
use weir_wire::{icmpv6, tcp, udp};

use crate::fixture::*;
use crate::fixture6::*;

/// xorshift64*: the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % bound
    }
}

/// Packets of a flow, errors about one, and the same behind extension headers.
fn samples(protocols: &[u8]) -> Vec<Vec<u8>> {
    let chains: [&[u8]; 6] = [&[], &[60], &[0, 43, 60], &[60; 8], &[44, 60], &[43, 44]];
    let mut samples = Vec::new();
    for proto in protocols {
        let answer = packet([SITE6, HOST6], *proto, 64);
        let asked = packet([HOST6, SITE6], *proto, 64);
        for chain in chains {
            samples.push(extended(&answer, chain));
            samples.push(tagged(extended(&answer, chain), 7));
            samples.push(extended(&error(&extended(&asked, chain)[14..]), chain));
        }
    }
    samples
}

/// Changes up to three bytes behind the hardware addresses, or where the frame ends.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = 14 + random.below(frame.len() - 14);
        frame[at] = match random.below(3) {
            0 => frame[at] ^ 1 << random.below(8),
            1 => [0, 6, 17, 43, 44, 58, 60, 255][random.below(8)],
            _ => random.below(256) as u8,
        };
    }
    match random.below(8) {
        0 => frame.truncate(14 + random.below(frame.len() - 14)),
        1 => frame.resize(frame.len() + random.below(60), 0xaa),
        _ => {}
    }
}

/// Is the packet, or what it quotes, of a flow whose packets from outside have this key?
fn is_of(p: &Parsed6, frame: &[u8], is_known: impl Fn(&Parsed6) -> bool) -> bool {
    match p.kind {
        Kind::Flow | Kind::Fragment { first: true } => is_known(p),
        Kind::IcmpError => V6::quoted(frame, p).is_some_and(|quoted| {
            let key = quoted.key.reversed();
            let [src, dst] = key.addresses();
            let (sport, dport, proto) = (key.sport(), key.dport(), key.proto());
            is_known(&Parsed6 { src, dst, sport, dport, proto, ..*p })
        }),
        _ => false,
    }
}

/// What becomes of a frame from an uplink, for our hardware address.
fn expected(frame: &[u8], is_known: impl Fn(&Parsed6) -> bool) -> Option<(u32, Counter)> {
    if !matches!(vlan_of(frame), 0 | 7) {
        return None;
    }
    let p = match parse6(frame) {
        Ok(p) if frame[6] & 1 == 0 => p,
        // No frame of IPv6.
        Err(Reject::NotIp | Reject::Ipv4 | Reject::StackedVlan) => return None,
        // Where a tag is cut there is no telling.
        Err(_) if frame.len() < 18 => return None,
        Ok(_) => return Some(MARTIAN),
        Err(_) if frame[6] & 1 != 0 => return Some(MARTIAN),
        Err(_) => return Some((DROP, Counter::XdpDropMalformed)),
    };
    let served = |address: &[u8; 16]| address[..8] == LAN6[..8];
    let discovery = frame[usize::from(p.l3) + 6] == icmpv6::PROTOCOL
        && p.ttl == 255
        && matches!(frame[usize::from(p.l3) + 40], 133..=137);
    let outcome = if is_group(p.dst) || is_link_local(p.dst) || is_link_local(p.src) {
        if served(&p.src) && !discovery { MARTIAN } else { KERNELS }
    } else if !is_unicast(p.src) || !is_unicast(p.dst) || served(&p.src) {
        MARTIAN
    } else if !served(&p.dst) {
        (DROP, Counter::XdpDropForeign)
    } else if p.kind == (Kind::Fragment { first: false }) {
        // It depends on those before it.
        return None;
    } else if is_of(&p, frame, is_known) {
        TRANSIT
    } else if p.dst == GATEWAY6 {
        KERNELS
    } else {
        UNASKED
    };
    Some(outcome)
}

#[test]
fn the_program_reads_broken_frames_as_the_parser_does() {
    let mut f = fixture("six-differential", PortRole::Uplink, true);
    let protocols = [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL];
    let mut flows = Vec::new();
    for proto in protocols {
        let answer = packet([SITE6, HOST6], proto, 64);
        insert(&f, &answer, 0, NONE.into());
        flows.push(parse6(&answer).unwrap().key());
    }
    // What the errors are about has its ports the other way round.
    for proto in protocols {
        let key = parse6(&packet([HOST6, SITE6], proto, 64)).unwrap().key().reversed();
        if !flows.contains(&key) {
            insert_from(&f, &key, 0, NONE.into(), SENDER);
            flows.push(key);
        }
    }
    let samples = samples(&protocols);
    let mut random = Random(0x7765_6972);
    let mut seen = BTreeMap::<Counter, u32>::new();
    for _ in 0..20_000 {
        let mut frame = samples[random.below(samples.len())].clone();
        mutate(&mut random, &mut frame);
        let Some(expected) = expected(&frame, |p| flows.contains(&p.key())) else { continue };
        assert_eq!(f.run(&frame), expected, "{frame:02x?}");
        *seen.entry(expected.1).or_default() += 1;
    }
    for counter in [
        Counter::XdpDropMalformed,
        Counter::XdpDropForeign,
        Counter::XdpDropNoDataplane,
        Counter::XdpDropNoFlow,
    ] {
        assert!(seen.get(&counter).is_some_and(|count| *count > 100), "{seen:?}");
    }
}
