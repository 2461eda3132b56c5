//! What leaves in the kernel tier, and what it leaves to the user tier.

use weir_layout::adjacency::{Adjacency, mark};
use weir_layout::control::{ControlHalf, OnDataplaneLoss, PortRole, Tier, path_state};
use weir_layout::control::{Mac, PathId};
use weir_layout::counters::{Counter, place};
use weir_layout::flow::flag;
use weir_layout::{Family, NONE};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::flows::Entry4;
use weir_shm::map::Access;
use weir_wire::parse::parse;
use weir_wire::rewrite::apply4;
use weir_wire::{checksum, icmp, tcp, udp};

use crate::fixture::*;
use weir_wire::key::FlowKey4;

const ABORTED: u32 = 0;
const SENDER: Adjacency = Adjacency { mac: THEIRS, port: 0 };
const REDIRECT: u32 = 4;
const FORWARDED: (u32, Counter) = (REDIRECT, Counter::XdpForwarded);
const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);

fn fixture(test: &str, change: impl FnOnce(&mut ControlHalf)) -> Fixture {
    fixture_at(test, PortRole::Lan, change)
}

fn fixture_at(test: &str, role: PortRole, change: impl FnOnce(&mut ControlHalf)) -> Fixture {
    let mut f = Fixture::with(test, role, OnDataplaneLoss::Drop, change);
    f.can_transmit();
    f
}

/// A frame from the host to the site, with payload enough for any header.
fn frame(proto: u8, tcp_flags: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, proto, 0, 0];
    ip.extend(HOST);
    ip.extend(SITE);
    let mut l4 = vec![0; 32];
    match proto {
        icmp::PROTOCOL => (l4[0], l4[4], l4[5]) = (icmp::ECHO_REQUEST, 0x12, 0x34),
        _ => l4[..4].copy_from_slice(&[0x12, 0x34, 0, 53]),
    }
    match proto {
        tcp::PROTOCOL => (l4[12], l4[13]) = (0x50, tcp_flags),
        udp::PROTOCOL => l4[5] = 32,
        _ => {}
    }
    l4[30] = 0xab;
    ip[3] = 20 + l4.len() as u8;
    let sum = checksum::finish(checksum::sum(&ip));
    ip[10..12].copy_from_slice(&sum);
    let pseudo = if proto == icmp::PROTOCOL { 0 } else { checksum::pseudo4(HOST, SITE, proto, 32) };
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(&l4)));
    let at = match proto {
        tcp::PROTOCOL => 16,
        udp::PROTOCOL => 6,
        _ => 2,
    };
    l4[at..at + 2].copy_from_slice(&sum);
    [&OURS[..], &THEIRS, &[8, 0], &ip, &l4].concat()
}

fn tagged(mut frame: Vec<u8>, vlan: u8) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

/// The flow of a frame as translated to the uplink, offered to the kernel tier.
fn offered(frame: &[u8]) -> Entry4 {
    let p = parse(frame).unwrap();
    let port = NAT_PORT.to_be_bytes();
    let from = FlowKey4::new(p.src, p.dst, p.sport, p.dport, p.proto);
    let to = FlowKey4::new(WAN_ADDRESS, p.dst, port, p.dport, p.proto);
    let flags = flag::OFFLOAD | flag::NAT | flag::SEEN | flag::INSIDE | flag::INITIATED;
    Entry4 { flags, mark: mark(SENDER.to_word(), 0), ..entry(&from, &to) }
}

/// The entry as one that leads to a LAN host.
fn inward(f: &Fixture, entry: &Entry4, mac: [u8; 6]) -> Entry4 {
    let table = Adjacencies::open(&f.pins, Access::Write, KEY).unwrap();
    let adjacency = table.learn(Adjacency { mac, port: OTHER_SIDE }).unwrap();
    Entry4 { adjacency, flags: entry.flags & !flag::INSIDE, ..*entry }
}

/// The frame as the user tier would send it, without a tag.
fn rewritten(frame: &[u8], entry: &Entry4) -> Vec<u8> {
    let p = parse(frame).unwrap();
    let mut frame = frame.to_vec();
    apply4(&mut frame, p.l3.into(), Some(p.proto), &entry.rewrite);
    [&NEXT_HOP[..], &OURS, &[8, 0], &frame[usize::from(p.l3)..]].concat()
}

#[test]
fn packets_of_offered_flows_leave_as_the_user_tier_would_send_them() {
    let mut f = fixture("offered", |_| ());
    for (proto, flags) in [(udp::PROTOCOL, 0), (tcp::PROTOCOL, tcp::flag::ACK), (icmp::PROTOCOL, 0)]
    {
        let frame = frame(proto, flags);
        let entry = offered(&frame);
        let slot = f.insert(entry);
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), FORWARDED, "protocol {proto}");
        assert_eq!(sent, rewritten(&frame, &entry), "protocol {proto}");
        let after = f.flows.slot(slot).read().unwrap();
        assert_eq!((after.packets, after.bytes), (1, 52));
        assert_ne!(after.last_seen, 0);
    }
    let uplink = f.counters.path(PathId::v4(0));
    assert_eq!((uplink.tx_packets, uplink.tx_bytes, uplink.rx_packets), (3, 3 * 52, 0));
}

#[test]
fn a_ping_does_not_leave_by_a_flow_of_replies_nor_a_reply_by_one_of_pings() {
    let local = (PASS, Counter::XdpPassLocal);
    for (role, kind, ends, otherwise) in [
        (PortRole::Lan, icmp::ECHO_REQUEST, [HOST, SITE], TRANSIT),
        (PortRole::Uplink, icmp::ECHO_REPLY, [SITE, WAN_ADDRESS], local),
    ] {
        let other = icmp::ECHO_REQUEST ^ icmp::ECHO_REPLY ^ kind;
        for id in [77, 0] {
            let mut f = fixture_at("echo", role, |_| ());
            let of_flow = echo(kind, ends, id);
            let entry = offered(&of_flow);
            let flags = entry.flags & !flag::INSIDE | flag::side(role as u8);
            f.insert(Entry4 { flags, ..entry });
            assert_eq!(f.run(&of_flow), FORWARDED);
            assert_eq!(f.run(&echo(other, ends, id)), otherwise, "{id}");
        }
    }
}

#[test]
fn a_group_sends_nothing_by_a_flow_from_either_side() {
    let martian = (1, Counter::XdpDropMartian);
    for (role, ends) in [(PortRole::Lan, [HOST, SITE]), (PortRole::Uplink, [SITE, WAN_ADDRESS])] {
        let mut f = fixture_at("group", role, |_| ());
        let mut frame = udp(ends[0], 4000, ends[1], 53);
        let entry = offered(&frame);
        let flags = entry.flags & !flag::INSIDE | flag::side(role as u8);
        f.insert(Entry4 { flags, ..entry });
        assert_eq!(f.run(&frame), FORWARDED);
        frame[6] |= 1;
        assert_eq!(f.run(&frame), martian);
    }
}

/// Sets the sequence number; the frame's checksum is nobody's concern here.
fn with_seq(mut frame: Vec<u8>, seq: u32) -> Vec<u8> {
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame
}

#[test]
fn segments_with_nothing_new_are_counted_and_the_sequence_number_stays_ahead() {
    let mut f = fixture("sequence", |_| ());
    let plain = frame(tcp::PROTOCOL, tcp::flag::ACK);
    let len = 52 - 40;
    let slot = f.insert(Entry4 { next_seq: u32::MAX - 5, ..offered(&plain) });
    // Across the wrap: new, the same again, an older one, two that are nowhere near, and new once
    // more.
    for seq in [u32::MAX - 5, u32::MAX - 5, u32::MAX - 100, 1 << 30, 3 << 30, 6] {
        assert_eq!(f.run(&with_seq(plain.clone(), seq)), FORWARDED);
    }
    assert_eq!(f.flows.slot(slot).read().unwrap().next_seq, 6 + len);
    let uplink = f.counters.path(PathId::v4(0));
    assert_eq!((uplink.segments, uplink.retransmitted), (4, 2));
    let p = parse(&plain).unwrap();
    let resent = f.counters.resent(PathId::v4(0));
    let of = |address| place(u32::from_ne_bytes(address));
    assert_eq!((resent.users[of(p.src)], resent.remotes[of(p.dst)]), (2, 2));
}

#[test]
fn a_segment_behind_a_hole_counts_by_what_it_acknowledges() {
    let mut f = fixture("hole", |_| ());
    let plain = frame(tcp::PROTOCOL, tcp::flag::ACK);
    const PEER: u32 = 1 << 20;
    let back = FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), tcp::PROTOCOL);
    let peer = f.insert(Entry4 { next_seq: PEER, ..entry(&back, &back) });
    let mark = mark(SENDER.to_word(), peer);
    let slot = f.insert(Entry4 { next_seq: 1000, peer, mark, ..offered(&plain) });
    let next = |f: &Fixture| f.flows.slot(slot).read().unwrap().next_seq;
    let acking = |seq: u32, ack: u32| {
        let mut frame = with_seq(plain.clone(), seq);
        frame[42..46].copy_from_slice(&ack.to_be_bytes());
        frame
    };
    let mut without = acking(5000, PEER);
    without[47] = tcp::flag::PSH;
    for frame in [acking(5000, PEER + (1 << 27)), acking(5000, PEER.wrapping_sub(1 << 27)), without]
    {
        assert_eq!(f.run(&frame), FORWARDED, "its receiver judges");
        assert_eq!(next(&f), 1000);
    }
    assert_eq!(f.counters.path(PathId::v4(0)).segments, 0);
    assert_eq!(f.run(&acking(5000, PEER)), FORWARDED);
    assert_eq!(next(&f), 5012);
    assert_eq!(f.run(&acking(5000, PEER)), FORWARDED);
    let uplink = f.counters.path(PathId::v4(0));
    assert_eq!((uplink.segments, uplink.retransmitted), (2, 1));
}

#[test]
fn what_the_user_tier_writes_leaves_untouched_by_the_device_of_its_queue() {
    let mut f = Fixture::with("transmit", PortRole::Lan, OnDataplaneLoss::Drop, |_| ());
    let frame = frame(udp::PROTOCOL, 0);
    assert_eq!(f.run_transmit(&frame).0, ABORTED, "there is no such device");
    f.can_transmit();
    assert_eq!(f.run_transmit(&frame), (REDIRECT, frame));
}

#[test]
fn a_udp_packet_without_a_checksum_keeps_none() {
    let mut f = fixture("zero", |_| ());
    let mut frame = frame(udp::PROTOCOL, 0);
    frame[40..42].fill(0);
    f.insert(offered(&frame));
    let (action, _, sent) = f.run_for_frame(&frame);
    assert_eq!((action, &sent[40..42]), (REDIRECT, &[0, 0][..]));
}

#[test]
fn code_points_and_congestion_marks_pass_as_they_are() {
    let mut f = fixture("marks", |_| ());
    let plain = frame(udp::PROTOCOL, 0);
    f.insert(offered(&plain));
    for tos in [1, 2, 3, 46 << 2 | 3, 0xff] {
        let mut frame = plain.clone();
        frame[15] = tos;
        let sum = checksum::Delta::of([0x45, 0], [0x45, tos]).apply([frame[24], frame[25]]);
        frame[24..26].copy_from_slice(&sum);
        let (action, _, sent) = f.run_for_frame(&frame);
        assert_eq!((action, sent[15], sent[22]), (REDIRECT, tos, frame[22] - 1));
        assert!(checksum::is_valid(checksum::sum(&sent[14..34])));
    }
}

#[test]
fn options_of_tcp_pass_as_they_are() {
    let mut f = fixture("options", |_| ());
    let plain = frame(tcp::PROTOCOL, tcp::flag::ACK);
    f.insert(offered(&plain));
    // Unknown, multipath (30), authentication (29), fast open (34), SACK blocks, a length of zero.
    for options in [
        [253, 4, 1, 2, 254, 8, 3, 4, 5, 6, 7, 8],
        [30, 12, 0, 0x81, 9, 8, 7, 6, 5, 4, 3, 2],
        [29, 4, 7, 8, 34, 8, 1, 1, 2, 3, 5, 8],
        [1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 19],
        [30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let mut frame = plain.clone();
        frame[46] = 0x80;
        frame[54..66].copy_from_slice(&options);
        let (action, _, sent) = f.run_for_frame(&frame);
        assert_eq!((action, &sent[54..]), (REDIRECT, &frame[54..]));
    }
}

#[test]
fn a_datagram_whose_sum_becomes_zero_leaves_with_ones() {
    let mut f = fixture("ones", |_| ());
    let plain = frame(udp::PROTOCOL, 0);
    let entry = offered(&plain);
    f.insert(entry);
    let rest = rewritten(&plain, &entry);
    // The two bytes at 42, which are zero, take up what the sum lacks.
    let mut frame = plain.clone();
    frame[42..44].copy_from_slice(&rest[40..42]);
    let sum = checksum::Delta::of([0, 0], [rest[40], rest[41]]).apply_udp([frame[40], frame[41]]);
    frame[40..42].copy_from_slice(&sum);
    let (action, _, sent) = f.run_for_frame(&frame);
    assert_eq!((action, &sent[40..42]), (REDIRECT, &[0xff; 2][..]));
}

#[test]
fn a_packet_to_the_lan_leaves_to_the_neighbour_learned() {
    let mut f = fixture_at("lan", PortRole::Uplink, |_| ());
    let mac = [2, 9, 9, 9, 9, 9];
    let frame = frame(udp::PROTOCOL, 0);
    let entry = inward(&f, &offered(&frame), mac);
    f.insert(entry);
    let (action, counter, sent) = f.run_for_frame(&frame);
    assert_eq!((action, counter), FORWARDED);
    assert_eq!(sent[..6], mac);
    let uplink = f.counters.path(PathId::v4(0));
    assert_eq!((uplink.tx_packets, uplink.rx_packets, uplink.rx_bytes), (0, 1, 52));
}

#[test]
fn a_packet_from_the_wrong_side_is_not_of_the_flow() {
    let plain = frame(udp::PROTOCOL, 0);
    let outward = offered(&plain);
    let stranger = (DROP, Counter::XdpDropMartian);
    for (role, leads_in, expected) in [
        (PortRole::Lan, false, FORWARDED),
        (PortRole::Lan, true, TRANSIT),
        (PortRole::Uplink, true, FORWARDED),
        (PortRole::Uplink, false, stranger),
    ] {
        let mut f = fixture_at("side", role, |_| ());
        let entry = if leads_in { inward(&f, &outward, THEIRS) } else { outward };
        f.insert(entry);
        assert_eq!(f.run(&plain), expected);
    }
}

#[test]
fn a_flow_that_stays_inside_leaves_by_its_lan_port_on_no_uplinks_account() {
    let mut f = fixture("hairpin", |_| ());
    f.writer().set_path_state(PathId::v4(0), 0);
    let plain = frame(udp::PROTOCOL, 0);
    let table = Adjacencies::open(&f.pins, Access::Write, KEY).unwrap();
    let mac = [2, 9, 9, 9, 9, 9];
    let adjacency = table.learn(Adjacency { mac, port: 1 }).unwrap();
    f.insert(Entry4 { adjacency, uplink: NONE, ..offered(&plain) });
    let (action, counter, sent) = f.run_for_frame(&plain);
    assert_eq!((action, counter), FORWARDED);
    assert_eq!((&sent[..6], &sent[12..16]), (&mac[..], &[0x81, 0, 0, 7][..]));
    let counted = |uplink| {
        f.counters.path(PathId::v4(uplink)).tx_packets
            + f.counters.path(PathId::v4(uplink)).rx_packets
    };
    assert_eq!((0..64).map(counted).sum::<u64>(), 0);
}

#[test]
fn a_packet_of_a_host_that_moved_is_the_user_tiers() {
    let mut f = fixture("moved", |_| ());
    let mut plain = frame(udp::PROTOCOL, 0);
    f.insert(offered(&plain));
    assert_eq!(f.run(&plain), FORWARDED);
    plain[11] = 9;
    assert_eq!(f.run(&plain), TRANSIT);
    plain[6..12].copy_from_slice(&THEIRS);
    assert_eq!(f.run(&plain), FORWARDED);
}

#[test]
fn tags_are_added_changed_and_removed() {
    for (from, to) in [(0, 7), (7, 0), (7, 7), (0, 0)] {
        let port = OTHER_SIDE + u8::from(to == 7);
        let mut f = fixture("tags", |half| half.uplinks[0].port = port);
        let plain = frame(tcp::PROTOCOL, tcp::flag::ACK);
        let entry = offered(&plain);
        let mark = mark(Adjacency { port: u8::from(from == 7), ..SENDER }.to_word(), 0);
        f.insert(Entry4 { mark, ..entry });
        let sent = if from == 0 { plain.clone() } else { tagged(plain.clone(), from) };
        let (action, counter, out) = f.run_for_frame(&sent);
        assert_eq!((action, counter), FORWARDED);
        let expected = rewritten(&plain, &entry);
        assert_eq!(out, if to == 0 { expected } else { tagged(expected, to) }, "{from} to {to}");
    }
}

#[test]
fn what_the_user_tier_has_to_see_is_left_to_it_untouched() {
    let mut f = fixture("left", |_| ());
    let plain = frame(tcp::PROTOCOL, tcp::flag::ACK);
    let slot = f.insert(offered(&plain));
    let fixed = |change: &dyn Fn(&mut [u8])| {
        let mut frame = plain.clone();
        change(&mut frame[14..34]);
        frame[24..26].fill(0);
        let sum = checksum::finish(checksum::sum(&frame[14..34]));
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    let cases = [
        ("SYN", frame(tcp::PROTOCOL, tcp::flag::SYN)),
        ("FIN", frame(tcp::PROTOCOL, tcp::flag::FIN | tcp::flag::ACK)),
        ("RST", frame(tcp::PROTOCOL, tcp::flag::RST)),
        ("TTL", fixed(&|ip| ip[8] = 1)),
        ("first fragment", fixed(&|ip| ip[6] = 0x20)),
        ("later fragment", fixed(&|ip| ip[7] = 1)),
        ("other flow", fixed(&|ip| ip[15] = 99)),
    ];
    for (what, frame) in cases {
        let (action, counter, out) = f.run_for_frame(&frame);
        assert_eq!((action, counter), TRANSIT, "{what}");
        assert!(out == frame, "{what}");
    }
    assert_eq!(f.flows.slot(slot).read().unwrap().packets, 0);
    assert_eq!(f.run(&plain), FORWARDED);
}

#[test]
fn a_flow_that_is_not_offered_is_the_user_tiers() {
    let mut f = fixture("not-offered", |_| ());
    let frame = frame(udp::PROTOCOL, 0);
    let entry = offered(&frame);
    f.insert(Entry4 { flags: entry.flags & !flag::OFFLOAD, ..entry });
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn a_retired_flow_is_the_user_tiers() {
    let mut f = fixture("retired", |_| ());
    let frame = frame(udp::PROTOCOL, 0);
    let slot = f.insert(offered(&frame));
    assert_eq!(f.run(&frame), FORWARDED);
    f.flows.retire(slot);
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn one_word_takes_an_uplinks_flows_to_the_user_tier_and_back() {
    let mut f = fixture("state", |_| ());
    let frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    let writer = f.writer();
    for (state, expected) in [(0, TRANSIT), (path_state::USABLE, FORWARDED)] {
        writer.set_path_state(PathId::v4(0), state);
        assert_eq!(f.run(&frame), expected);
    }
}

#[test]
fn a_packet_beyond_the_ports_mtu_is_the_user_tiers() {
    let mut f = fixture("mtu", |half| half.ports[usize::from(OTHER_SIDE)].mtu = 51);
    let frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn an_unknown_next_hop_is_the_user_tiers() {
    let mut f = fixture("next-hop", |half| {
        half.uplinks[0].path_mut(Family::V4).next_hop_mac = Mac::NONE;
    });
    let frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn a_device_that_cannot_transmit_for_xdp_is_the_user_tiers() {
    let mut f = Fixture::lan("transmit");
    let frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn the_user_tier_alone_if_so_configured() {
    let mut f = fixture("user", |half| half.tier = Tier::User as u8);
    let frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    assert_eq!(f.run(&frame), TRANSIT);
}

#[test]
fn a_frame_for_another_host_is_left_alone_even_if_its_flow_is_known() {
    let mut f = fixture("promiscuous", |_| ());
    let mut frame = frame(udp::PROTOCOL, 0);
    f.insert(offered(&frame));
    frame[5] = 9;
    assert_eq!(f.run(&frame), (PASS, Counter::XdpPassOtherHost));
}

/// Every slot of a group that shares the tag is looked at.
#[test]
fn flows_are_found_in_a_table_as_full_as_it_was_made_for() {
    let mut f = fixture("full", |_| ());
    let plain = frame(udp::PROTOCOL, 0);
    let numbered = |n: u16| {
        let mut frame = plain.clone();
        frame[34..36].copy_from_slice(&n.to_be_bytes());
        frame[40..42].fill(0);
        frame
    };
    let count = (f.flows.capacity() * 5 / 6) as u16;
    for n in 0..count {
        f.insert(offered(&numbered(n)));
    }
    let left = (0..count).filter(|n| f.run(&numbered(*n)) != FORWARDED).count();
    // Those in a spill group, and third namesakes.
    assert!(left <= 5, "{left} of {count}");
}
