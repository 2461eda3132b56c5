//! Fragments that come before their first.

use std::collections::BTreeMap;

use weir_dataplane::early::{ROOM, WAIT_MS};
use weir_dataplane::fragments::LIFETIME_MS;
use weir_layout::control::{BUCKETS, Name, PortRole, Prefix, Rule, RuleAction};
use weir_layout::counters::Counter;
use weir_wire::parse::{Kind, parse, parse6};
use weir_wire::{ethernet, ipv4};

use super::fragments::fragments;
use super::gateway::*;
use super::packets6;
use super::robustness::Seeded;

/// The frame's packet in fragments that carry so many bytes each, the last perhaps less.
fn cut(frame: &[u8], ident: u16, size: usize) -> Vec<Vec<u8>> {
    let is_v4 = frame[12..14] == ethernet::IPV4.to_be_bytes();
    let (head, carried) = frame.split_at(if is_v4 { 34 } else { 54 });
    let last = carried.len().div_ceil(size) - 1;
    let piece = |(number, piece): (usize, &[u8])| {
        let (offset, more) = (number * size, number != last);
        let mut fragment = head.to_vec();
        if is_v4 {
            let mut ip = ipv4::Packet::new_unchecked(&mut fragment[14..]);
            let more = if more { ipv4::MORE_FRAGMENTS } else { 0 };
            ip.set_fragment(more | (offset / 8) as u16);
            ip.set_ident(ident);
            ip.set_total_len((20 + piece.len()) as u16);
            ip.fill_checksum();
        } else {
            fragment[18..20].copy_from_slice(&(8 + piece.len() as u16).to_be_bytes());
            let [high, low] = (offset as u16 | u16::from(more)).to_be_bytes();
            let [id_high, id_low] = ident.to_be_bytes();
            fragment.extend([fragment[20], 0, high, low, 0, 0, id_high, id_low]);
            fragment[20] = 44;
        }
        fragment.extend_from_slice(piece);
        fragment
    };
    carried.chunks(size).enumerate().map(piece).collect()
}

/// Identification of a fragment, and whether it is the first.
fn what(frame: &[u8]) -> (u32, bool) {
    let (ident, kind) = match frame[12..14] == ethernet::IPV4.to_be_bytes() {
        true => parse(frame).map(|p| (p.ident, p.kind)),
        false => parse6(frame).map(|p| (p.ident, p.kind)),
    }
    .unwrap();
    (ident & 0xffff, kind == Kind::Fragment { first: true })
}

/// A datagram of four fragments from the host, the first last.
fn reversed(ident: u16) -> Vec<Vec<u8>> {
    let mut pieces = cut(&large(HOST_MAC, (HOST, 40_000), 53), ident, 256);
    pieces.reverse();
    pieces
}

/// A datagram of a kilobyte to the server.
fn large(mac: [u8; 6], from: ([u8; 4], u16), port: u16) -> Vec<u8> {
    let to = (SERVER, port);
    let builder = etherparse::PacketBuilder::ethernet2(mac, device_mac(LAN));
    let mut frame = Vec::new();
    let bytes: Vec<u8> = (0..1000).map(|n| n as u8).collect();
    builder.ipv4(from.0, to.0, 64).udp(from.1, to.1).write(&mut frame, &bytes).unwrap();
    frame
}

/// Lets the engines' housekeeping run so many milliseconds later.
fn later(gateway: &mut Gateway, ms: u32) {
    gateway.now += ms;
    assert!(age(gateway).is_empty());
}

#[test]
fn what_came_before_its_first_leaves_behind_it_in_the_order_of_arrival() {
    let mut gateway = Gateway::new();
    let (_, ordered) = gateway.send(LAN, &large(HOST_MAC, (HOST, 40_000), 53)).remove(0);
    let mut pieces = reversed(7);
    let first = pieces.pop().unwrap();
    for piece in &pieces {
        assert!(gateway.send(LAN, piece).is_empty());
    }
    let sent: Vec<_> = gateway.send(LAN, &first).into_iter().map(|(_, frame)| frame).collect();
    let mut expected = cut(&ordered, 7, 256);
    expected[1..].reverse();
    assert_eq!(sent, expected);
    gateway.assert_conserved();
}

#[test]
fn a_fragment_whose_first_does_not_come_is_dropped_after_a_second() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    later(&mut gateway, WAIT_MS - 1);
    assert_eq!(gateway.count(Counter::DropFragmentWait), 0);
    later(&mut gateway, 1);
    assert_eq!(gateway.count(Counter::DropFragmentWait), 1);
    one(gateway.send(LAN, &first));
    gateway.assert_conserved();
}

#[test]
fn what_waits_goes_with_its_device_and_with_its_worker() {
    let mut gateway = Gateway::new();
    for (device, dropped) in [(LAN + 1, 0), (LAN, 2)] {
        assert!(gateway.send(LAN, &fragments()[1]).is_empty());
        gateway.engines[0].drop_waiting(|of| of == device);
        assert_eq!(gateway.count(Counter::DropFragmentWait), dropped);
    }
    assert!(gateway.send(LAN, &fragments()[1]).is_empty());
    gateway.engines[0].drop_waiting(|_| true);
    gateway.assert_conserved();
}

/// Those that waited, and those that come after it, are dropped with a first one.
fn all_are_dropped(mut gateway: Gateway, reason: Counter) {
    let [first, later] = fragments();
    for frame in [&later, &later, &first, &later] {
        let left = gateway.send(LAN, frame);
        assert!(left.iter().all(|(device, _)| *device == LAN), "but for what is told of it");
    }
    assert_eq!((gateway.count(reason), gateway.count(Counter::DropFragment)), (1, 3));
    gateway.assert_conserved();
}

#[test]
fn what_waited_for_a_first_that_is_dropped_is_dropped_with_it() {
    let mut denied = Gateway::new();
    let (name, action) = (Name::new("dns"), RuleAction::Drop as u8);
    denied.half.rules[0] = Rule { name, destination_ports: [53; 2], action, ..Rule::any(0) };
    denied.half.rule_count = 1;
    denied.publish(weir_layout::control::BUCKETS / 2);
    all_are_dropped(denied, Counter::DropRule);
    let no_uplink = Gateway::new();
    (0..3).for_each(|uplink| no_uplink.set_state(uplink, 0));
    all_are_dropped(no_uplink, Counter::DropNoUplink);
}

#[test]
fn after_a_second_a_dropped_first_says_nothing_of_its_identification() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    gateway.send(LAN, &first);
    (0..3).for_each(|uplink| gateway.set_state(uplink, weir_layout::control::path_state::USABLE));
    later(&mut gateway, WAIT_MS);
    assert!(gateway.send(LAN, &second).is_empty());
    assert_eq!(gateway.send(LAN, &first).len(), 2);
    gateway.assert_conserved();
}

#[test]
fn what_comes_in_by_an_uplink_waits_too_and_reaches_the_host_that_asked() {
    let mut gateway = Gateway::new();
    let (device, out) = gateway.send(LAN, &large(HOST_MAC, (HOST, 40_000), 53)).remove(0);
    let asked = see(&out);
    let mut answer = large(next_hop_mac(device - 1), (SERVER, 53), asked.sport);
    answer[..6].copy_from_slice(&device_mac(device));
    answer[30..34].copy_from_slice(&asked.src);
    ipv4::Packet::new_unchecked(&mut answer[14..34]).fill_checksum();
    let mut pieces = cut(&answer, 9, 256);
    pieces.reverse();
    let first = pieces.pop().unwrap();
    for piece in &pieces {
        assert!(gateway.send(device, piece).is_empty());
    }
    let sent = gateway.send(device, &first);
    assert_eq!(sent.len(), 4);
    assert_eq!(sent[0].1[36..38], 40_000u16.to_be_bytes());
    for (to, frame) in &sent {
        assert_eq!((*to, &frame[..6], &frame[30..34]), (LAN, &HOST_MAC[..], &HOST[..]));
    }
    gateway.assert_conserved();
}

#[test]
fn a_first_from_the_other_side_lets_none_go() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    let mut posed = first.clone();
    posed[..6].copy_from_slice(&device_mac(1));
    assert!(gateway.send(1, &posed).is_empty());
    assert_eq!(gateway.send(LAN, &first).len(), 2);
    gateway.assert_conserved();
}

/// A gateway whose port 3 is another LAN.
fn beside_guests(workers: u8) -> (Gateway, u8) {
    let mut gateway = Gateway::with(workers, 4096);
    gateway.half.ports[3].role = PortRole::Lan as u8;
    gateway.half.lan_prefixes[2] = Prefix::v4([10, 88, 0, 0], 16);
    gateway.half.lan_prefix_ports[2] = 3;
    gateway.half.lan_prefix_count = 3;
    gateway.publish(BUCKETS / 2);
    (gateway, 3)
}

#[test]
fn a_first_that_only_poses_as_its_source_decides_about_none_of_the_others() {
    for workers in 1..4 {
        let (mut gateway, guests) = beside_guests(workers);
        let [first, second] = fragments();
        // Of the host's flow, and of none.
        for port in [40_000u16, 40_001] {
            let mut posed = first.clone();
            posed[..6].copy_from_slice(&device_mac(guests));
            posed[6..12].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
            posed[34..36].copy_from_slice(&port.to_be_bytes());
            assert!(gateway.send(LAN, &second).is_empty());
            assert!(gateway.send(guests, &posed).is_empty());
            assert_eq!(gateway.send(LAN, &first).len(), 2, "it waits on");
            assert!(gateway.send(guests, &posed).is_empty());
            assert_eq!(gateway.send(LAN, &second).len(), 1, "it follows its own");
            gateway.now += LIFETIME_MS;
        }
        assert_eq!(gateway.count(Counter::DropSource), 4);
        gateway.assert_conserved();
    }
}

#[test]
fn a_first_in_the_name_of_a_server_decides_about_none_that_come_by_uplinks() {
    let mut gateway = Gateway::new();
    let (device, out) = gateway.send(LAN, &large(HOST_MAC, (HOST, 40_000), 53)).remove(0);
    let asked = see(&out);
    let mut answer = large(next_hop_mac(device - 1), (SERVER, 53), asked.sport);
    answer[..6].copy_from_slice(&device_mac(device));
    answer[30..34].copy_from_slice(&asked.src);
    ipv4::Packet::new_unchecked(&mut answer[14..34]).fill_checksum();
    let [first, second] = cut(&answer, 9, 512).try_into().unwrap();
    let mut posed = first.clone();
    posed[..12].copy_from_slice(&[device_mac(LAN), HOST_MAC].concat());
    assert!(gateway.send(device, &second).is_empty());
    assert!(gateway.send(LAN, &posed).is_empty());
    assert_eq!(gateway.send(device, &first).len(), 2);
    gateway.assert_conserved();
}

#[test]
fn a_fragment_waits_for_nobody_elses_first() {
    // Another identification, protocol, source and destination.
    let changes: [fn(&mut [u8]); 4] =
        [|ip| ip[4] ^= 1, |ip| ip[9] = 1, |ip| ip[15] ^= 1, |ip| ip[19] ^= 1];
    for change in changes {
        let mut gateway = Gateway::new();
        let [first, second] = fragments();
        let mut other = second.clone();
        change(&mut other[14..34]);
        ipv4::Packet::new_unchecked(&mut other[14..34]).fill_checksum();
        assert!(gateway.send(LAN, &other).is_empty());
        assert_eq!(gateway.send(LAN, &first).len(), 1);
        later(&mut gateway, WAIT_MS);
        assert_eq!(gateway.count(Counter::DropFragmentWait), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn a_source_that_is_not_behind_its_port_and_a_last_hop_wait_for_nothing() {
    let mut gateway = Gateway::new();
    // A byte of the source, and the time to live.
    for (at, byte, reason) in [(26, 9, Counter::DropSource), (22, 1, Counter::DropTtl)] {
        let [_, mut second] = fragments();
        second[at] = byte;
        ipv4::Packet::new_unchecked(&mut second[14..34]).fill_checksum();
        assert!(gateway.send(LAN, &second).is_empty());
        assert_eq!(gateway.count(reason), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn what_comes_twice_leaves_twice_and_the_last_first_says_how() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    for _ in 0..2 {
        assert!(gateway.send(LAN, &second).is_empty());
    }
    assert_eq!(gateway.send(LAN, &first).len(), 3);
    for frame in [&first, &second] {
        assert_eq!(gateway.send(LAN, frame).len(), 1);
    }
    gateway.assert_conserved();
}

#[test]
fn a_flood_of_one_host_takes_no_others_place() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    for ident in 1000..1000 + 4 * ROOM as u16 {
        let flood = cut(&large([2, 0, 0, 0, 9, 9], ([10, 77, 9, 9], 9), 9), ident, 512).remove(1);
        assert!(gateway.send(LAN, &flood).is_empty());
    }
    assert_eq!(gateway.send(LAN, &first).len(), 2);
    assert_eq!(gateway.count(Counter::DropFragmentWait), 3 * ROOM as u64 + 1);
    later(&mut gateway, WAIT_MS);
    gateway.assert_conserved();
}

#[test]
fn a_flood_of_strangers_takes_no_place_of_lans() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    for n in 0..4 * ROOM as u32 {
        let mut flood = cut(&large(next_hop_mac(0), ([198, 18, 0, 0], 9), 9), 1, 512).remove(1);
        flood[..6].copy_from_slice(&device_mac(1));
        flood[26..30].copy_from_slice(&(0xc612_0000 + n).to_be_bytes());
        flood[30..34].copy_from_slice(&external(0));
        ipv4::Packet::new_unchecked(&mut flood[14..34]).fill_checksum();
        assert!(gateway.send(1, &flood).is_empty());
    }
    assert_eq!(gateway.send(LAN, &first).len(), 2);
    later(&mut gateway, WAIT_MS);
    assert_eq!(gateway.count(Counter::DropFragmentWait), 4 * ROOM as u64);
    gateway.assert_conserved();
}

#[test]
fn no_fragment_changes_the_tcp_header_that_its_first_has_or_exceeds_the_longest_packet() {
    let mut gateway = Gateway::new();
    let mut frame = tcp_out(40_000, 443, 0x02);
    frame.extend([7; 100]);
    let first = cut(&frame, 1, 24).remove(0);
    let longest = (0xffff - 44) / 8;
    let words = [1, 2, 3, longest, longest + 1, 0x1fff];
    for (word, passes) in words.into_iter().zip([false, false, true, true, false, false]) {
        let mut later = first.clone();
        let mut ip = ipv4::Packet::new_unchecked(&mut later[14..34]);
        ip.set_fragment(ipv4::MORE_FRAGMENTS | word);
        ip.fill_checksum();
        assert!(gateway.send(LAN, &later).is_empty());
        let left = gateway.send(LAN, &first).len();
        assert_eq!(left, if passes { 2 } else { 1 }, "{word}");
        assert_eq!(gateway.send(LAN, &later).len(), usize::from(passes));
        gateway.now += LIFETIME_MS;
    }
    assert_eq!(gateway.count(Counter::DropMalformed), 8);
    gateway.assert_conserved();
}

/// A gateway with IPv6, and a datagram of a host's.
fn with_datagram6() -> (Gateway, Vec<u8>) {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    let macs = [HOST_MAC, device_mac(LAN)];
    let addresses = [packets6::HOST6, packets6::SERVER6];
    (gateway, packets6::packet(macs, addresses, (UDP, false), 64, 600))
}

#[test]
fn in_ipv6_no_fragment_says_by_its_next_header_that_it_changes_no_header_of_tcp() {
    let (mut gateway, whole) = with_datagram6();
    let [first, second] = cut(&whole, 1, 512).try_into().unwrap();
    let longest = (0xffff - (second.len() - 62) as u16) & !7;
    let offsets = [8, 16, 24, longest, longest + 8];
    for (offset, passes) in offsets.into_iter().zip([false, false, true, true, false]) {
        let mut later = second.clone();
        later[56..58].copy_from_slice(&offset.to_be_bytes());
        assert!(gateway.send(LAN, &later).is_empty());
        assert_eq!(gateway.send(LAN, &first).len(), if passes { 2 } else { 1 }, "{offset}");
        gateway.now += LIFETIME_MS;
    }
    assert_eq!(gateway.count(Counter::DropMalformed), 3);
    gateway.assert_conserved();
}

#[test]
fn an_atomic_fragment_of_ipv6_has_nothing_to_do_with_others_of_its_identification() {
    let (mut gateway, whole) = with_datagram6();
    let [first, second] = cut(&whole, 1, 512).try_into().unwrap();
    let atomic = cut(&whole, 1, 1024).remove(0);
    assert!(gateway.send(LAN, &second).is_empty());
    assert_eq!(gateway.send(LAN, &atomic).len(), 1);
    assert_eq!(gateway.send(LAN, &first).len(), 2);
    gateway.assert_conserved();
}

/// Datagrams of both families, from the host and to it, each of a flow that there is, with the device
/// that they come in by.
fn datagrams(gateway: &mut Gateway) -> Vec<(u8, Vec<u8>)> {
    let mut datagrams = Vec::new();
    for n in 0..4 {
        let there = large(HOST_MAC, (HOST, 40_000 + n), 53);
        let (device, out) = gateway.send(LAN, &there).remove(0);
        let asked = see(&out);
        let mut back = large(next_hop_mac(device - 1), (SERVER, 53), asked.sport);
        back[..6].copy_from_slice(&device_mac(device));
        back[30..34].copy_from_slice(&asked.src);
        ipv4::Packet::new_unchecked(&mut back[14..34]).fill_checksum();
        datagrams.extend([(LAN, there), (device, back)]);
    }
    let (host, server) = (packets6::HOST6, packets6::SERVER6);
    let there = |len| {
        let macs = [HOST_MAC, device_mac(LAN)];
        packets6::packet(macs, [host, server], (UDP, false), 64, len)
    };
    let back = |len| {
        let macs = [next_hop_mac(0), device_mac(1)];
        packets6::packet(macs, [server, host], (UDP, true), 64, len)
    };
    assert_eq!(gateway.send(LAN, &there(8)).len(), 1);
    datagrams.extend([1000, 600].map(|len| (LAN, there(len))));
    datagrams.extend([1000, 600].map(|len| (1, back(len))));
    datagrams
}

#[test]
fn in_whatever_order_fragments_come_the_same_leave_each_datagrams_first_before_its_others() {
    for (workers, seed) in (1..4).flat_map(|workers| (1..60).map(move |seed| (workers, seed))) {
        let mut random = Seeded(0x7765_6972 + seed);
        let mut gateway = Gateway::with(workers, 4096);
        gateway.serve_ipv6();
        let whole = datagrams(&mut gateway);
        let mut pieces = Vec::new();
        for (ident, (device, frame)) in (1..).zip(&whole) {
            let size = 8 * (3 + random.below(60));
            // No more than there is room for.
            let size = size.max(frame.len().div_ceil(8).next_multiple_of(8));
            pieces.extend(cut(frame, ident, size).into_iter().map(|piece| (*device, piece)));
        }
        let mut pass = |random: &mut Seeded, pieces: &[(u8, Vec<u8>)]| {
            gateway.now += LIFETIME_MS;
            let mut left = Vec::new();
            for (device, piece) in pieces {
                left.extend(gateway.send_to(random.below(workers.into()) as u8, *device, piece));
            }
            gateway.assert_conserved();
            left
        };
        let mut ordered = pass(&mut random, &pieces);
        assert_eq!(ordered.len(), pieces.len());
        for at in (1..pieces.len()).rev() {
            pieces.swap(at, random.below(at + 1));
        }
        let mut shuffled = pass(&mut random, &pieces);
        // Of each datagram its first, and then the others as they came.
        let mut expected = BTreeMap::<u32, Vec<&[u8]>>::new();
        for (_, piece) in &pieces {
            let (ident, first) = what(piece);
            let of = expected.entry(ident).or_default();
            of.insert(if first { 0 } else { of.len() }, &piece[piece.len() - 8..]);
        }
        let mut seen = BTreeMap::<u32, Vec<&[u8]>>::new();
        for (_, frame) in &shuffled {
            seen.entry(what(frame).0).or_default().push(&frame[frame.len() - 8..]);
        }
        assert_eq!(seen, expected, "{workers} workers, seed {seed}");
        ordered.sort();
        shuffled.sort();
        assert_eq!(shuffled, ordered, "{workers} workers, seed {seed}");
    }
}
