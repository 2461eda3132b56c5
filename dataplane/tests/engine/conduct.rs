//! What RFC 4787, 5382 and 5508 ask of a NAT's conduct.

use etherparse::PacketBuilder;
use weir_layout::control::{BUCKETS, path_state};
use weir_layout::counters::Counter;
use weir_wire::checksum::{self, Delta};
use weir_wire::tcp::flag::{ACK, FIN, PSH, RST, SYN};

use super::gateway::*;

/// An ICMP error of a router beyond the uplink, about a packet that left by it.
fn error_about(device: u8, out: &[u8], [kind, code]: [u8; 2]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
        .ipv4([100, 64, 0, 1], external(device - 1), 60)
        .icmpv4_raw(kind, code, [0; 4]);
    let mut error = Vec::new();
    builder.write(&mut error, &out[14..]).unwrap();
    error
}

/// The frame of an error with another quoted packet, and its checksum.
fn quoting(mut error: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut error);
    let total = (error.len() - 14) as u16;
    error[16..18].copy_from_slice(&total.to_be_bytes());
    for (from, to, field) in [(14, 34, 24), (34, error.len(), 36)] {
        error[field..field + 2].fill(0);
        let sum = checksum::finish(checksum::sum(&error[from..to]));
        error[field..field + 2].copy_from_slice(&sum);
    }
    error
}

/// Where the quoted packet begins in a frame.
const QUOTED: usize = 42;

#[test]
fn no_kind_of_icmp_error_ends_or_refreshes_a_flow() {
    let unreachable = (0..16).map(|code| [3, code]);
    let kinds: Vec<_> = unreachable.chain([[11, 0], [11, 1], [12, 0], [4, 0], [5, 0]]).collect();
    for frame in [
        udp_out(40_000, 53),
        tcp_out(40_000, 443, SYN),
        ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 40_000, true),
    ] {
        let mut gateway = Gateway::new();
        let (device, out) = one(gateway.send(LAN, &frame));
        gateway.now += 59_000;
        for kind in &kinds {
            gateway.send(device, &error_about(device, &out, *kind));
        }
        assert_eq!(flows(&gateway), 1, "it is there");
        assert_eq!(see(&one(gateway.send(device, &answer_to(device, &out))).1).dst, HOST);
        let mut gateway = Gateway::new();
        let (device, out) = one(gateway.send(LAN, &frame));
        gateway.now += 299_999;
        gateway.send(device, &error_about(device, &out, [3, 1]));
        gateway.now += 1;
        age(&mut gateway);
        assert_eq!(flows(&gateway), 0, "it is as old as without");
    }
}

#[test]
fn an_error_passes_by_its_own_checksum_and_that_of_the_header_it_quotes_alone() {
    let mut gateway = Gateway::new();
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 33_434)));
    let error = error_about(device, &out, [3, 3]);
    let mut broken = error.clone();
    broken[36] ^= 1;
    assert!(gateway.send(device, &broken).is_empty(), "its own");
    let header = quoting(error.clone(), |frame| frame[QUOTED + 10] ^= 1);
    assert!(gateway.send(device, &header).is_empty(), "that of the quoted header");
    assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 2);
    let transport = quoting(error, |frame| frame[QUOTED + 26] ^= 1);
    assert_eq!(see(&one(gateway.send(device, &transport)).1).dst, HOST, "no further one");
}

/// A segment of the remote end of a connection that left so.
fn back(device: u8, out: &[u8], flags: u8) -> Vec<u8> {
    let seen = see(out);
    tcp(
        next_hop_mac(device - 1),
        device_mac(device),
        (seen.dst, seen.dport),
        (seen.src, seen.sport),
        flags,
    )
}

#[test]
fn two_ends_that_open_at_once_have_one_connection() {
    let mut gateway = Gateway::new();
    let (device, syn) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    let theirs = one(gateway.send(device, &back(device, &syn, SYN)));
    assert_eq!((theirs.0, see(&theirs.1).dst), (LAN, HOST), "theirs crosses ours");
    one(gateway.send(LAN, &tcp_out(40_000, 443, SYN | ACK)));
    one(gateway.send(device, &back(device, &syn, SYN | ACK)));
    one(gateway.send(LAN, &tcp_out(40_000, 443, ACK)));
    gateway.now += 300_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1, "it is established");
    assert_eq!(gateway.count(Counter::FlowsCreated), 1);
    gateway.assert_conserved();
}

#[test]
fn syns_and_their_answers_pass_again_and_with_data() {
    let mut gateway = Gateway::new();
    for _ in 0..3 {
        let (device, syn) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
        assert_eq!(syn[54..], *b"payload");
        for _ in 0..2 {
            let (to, answer) = one(gateway.send(device, &back(device, &syn, SYN | ACK)));
            assert_eq!((to, &answer[54..]), (LAN, &b"payload"[..]));
        }
    }
    assert_eq!(gateway.count(Counter::FlowsCreated), 1);
}

#[test]
fn a_connection_that_one_end_has_closed_carries_the_others_data_for_two_hours() {
    let mut gateway = Gateway::new();
    let (device, syn) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
    gateway.send(device, &back(device, &syn, SYN | ACK));
    gateway.send(LAN, &tcp_out(40_000, 443, FIN | ACK));
    gateway.now += 7_439_000;
    age(&mut gateway);
    assert_eq!(one(gateway.send(device, &back(device, &syn, ACK | PSH))).0, LAN);
    gateway.now += 7_439_000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1);
}

#[test]
fn a_closed_connections_ports_serve_the_next_and_its_last_segments_pass_for_four_minutes() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    for end in [FIN | ACK, RST | ACK] {
        let (device, syn) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
        gateway.send(device, &back(device, &syn, SYN | ACK));
        gateway.send(LAN, &tcp_out(40_000, 443, end));
        gateway.send(device, &back(device, &syn, end));
        gateway.now += 239_000;
        age(&mut gateway);
        assert_eq!(one(gateway.send(device, &back(device, &syn, ACK))).0, LAN);
        let (_, next) = one(gateway.send(LAN, &tcp_out(40_000, 443, SYN)));
        assert_eq!(see(&next).sport, see(&syn).sport);
        assert_eq!(flows(&gateway), 1);
    }
}

#[test]
fn every_option_of_tcp_passes_as_it_is() {
    // Unknown ones, multipath (30), authentication (29) and fast open (34) with contents of chance.
    let options: [&[u8]; 5] = [
        &[253, 8, 1, 2, 3, 4, 5, 6],
        &[30, 12, 0, 0x81, 9, 8, 7, 6, 5, 4, 3, 2],
        &[29, 4, 7, 8, 34, 10, 1, 1, 2, 3, 5, 8, 13, 21, 1, 1],
        &[
            254, 40, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7, 8,
            9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0,
        ],
        &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1],
    ];
    for options in options {
        let mut gateway = Gateway::new();
        let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN))
            .ipv4(HOST, SERVER, 64)
            .tcp(40_000, 443, 1000, 4096)
            .syn()
            .options_raw(options)
            .unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        let (_, out) = one(gateway.send(LAN, &frame));
        see(&out);
        assert_eq!(out[54..], frame[54..]);
    }
}

#[test]
fn a_datagram_without_a_checksum_leaves_without() {
    let mut gateway = Gateway::new();
    let mut frame = udp_out(40_000, 53);
    frame[40..42].fill(0);
    let (_, out) = one(gateway.send(LAN, &frame));
    assert_eq!(out[40..42], [0; 2]);
    // And one whose sum becomes zero leaves with ones.
    let mut gateway = Gateway::new();
    let (_, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let rest = u16::from_be_bytes([out[40], out[41]]);
    let mut frame = udp_out(40_000, 53);
    let old = [frame[42], frame[43]];
    let [high, low] = checksum_of(u16::from_be_bytes(old), rest);
    frame[42..44].copy_from_slice(&[high, low]);
    let sum = Delta::of(old, [high, low]).apply_udp([frame[40], frame[41]]);
    frame[40..42].copy_from_slice(&sum);
    let mut gateway = Gateway::new();
    let (_, out) = one(gateway.send(LAN, &frame));
    assert_eq!(out[40..42], [0xff; 2]);
}

/// `word` plus `rest` in ones' complement: in place of the word it makes the checksum zero.
fn checksum_of(word: u16, rest: u16) -> [u8; 2] {
    let (sum, carry) = word.overflowing_add(rest);
    (sum + u16::from(carry)).to_be_bytes()
}

/// The SYN of a host with this hardware address's last byte.
fn syn_of(host: u8, n: u16) -> Vec<u8> {
    let mac = [2, 0, 0, 0, 0, host];
    tcp(mac, device_mac(LAN), ([10, 77, 1, host], 20_000 + n), (SERVER, 443), SYN)
}

#[test]
fn a_host_that_floods_the_table_leaves_room_for_others_and_ends_no_flow_of_theirs() {
    const SLOTS: u32 = 1 << 16;
    let mut gateway = Gateway::with(1, SLOTS);
    let begins = |gateway: &mut Gateway, host, n| {
        gateway.send(LAN, &syn_of(host, n)).iter().any(|(device, _)| *device != LAN)
    };
    assert!((0..20u16).all(|n| begins(&mut gateway, 1, n)));
    let flood = (0..40_000).filter(|n| begins(&mut gateway, 2, *n)).count() as u64;
    let all = u64::from(SLOTS) / 2;
    assert!(flood <= all * 5 / 6 && flood > all * 3 / 4, "{flood} of {all}");
    assert!((20..120).filter(|n| begins(&mut gateway, 1, *n)).count() >= 99, "of another");
    assert!((0..100).filter(|n| begins(&mut gateway, 3, *n)).count() >= 99, "of a third");
    assert_eq!(gateway.count(Counter::FlowsExpired), 0);
    gateway.now += 240_000;
    gateway.engines[0].age(SLOTS, gateway.now, &mut gateway.wire);
    assert_eq!(flows(&gateway), 0);
    assert!((0..1000u16).all(|n| begins(&mut gateway, 2, n)), "what ended is free again");
    gateway.assert_conserved();
}

#[test]
fn a_host_begins_as_many_flows_in_a_second_as_the_file_says_by_all_workers() {
    const RATE: u16 = 20;
    let mut gateway = Gateway::with(2, SLOTS);
    gateway.half.new_flows_per_host = RATE.into();
    gateway.publish(BUCKETS);
    gateway.now -= gateway.now % 1000;
    for second in 0..3 {
        let syn = |n: u16| syn_of(2, 100 * second + n);
        for n in 0..RATE {
            assert_eq!(one(gateway.send_to(n as u8 % 2, LAN, &syn(n))).0, 1, "{second} {n}");
        }
        let (device, told) = one(gateway.send(LAN, &syn(RATE)));
        assert_eq!((device, &told[34..36]), (LAN, &[3, 1][..]));
        assert_eq!(one(gateway.send(LAN, &syn(0))).0, 1, "of a flow");
        assert_eq!(one(gateway.send(LAN, &syn_of(3, second))).0, 1, "of another host");
        gateway.now += 1000;
    }
    assert_eq!(gateway.count(Counter::DropHostRate), 3);
    gateway.assert_conserved();
}

#[test]
fn a_host_has_as_many_flows_as_the_file_says_by_all_workers_and_no_more() {
    const LIMIT: u16 = 50;
    let mut gateway = Gateway::with(2, SLOTS);
    gateway.half.flows_per_host = LIMIT.into();
    gateway.publish(BUCKETS);
    let udp = |n: u16| {
        udp([2, 0, 0, 0, 0, 2], device_mac(LAN), ([10, 77, 1, 2], 20_000 + n), (SERVER, 53))
    };
    let sent: Vec<_> = (0..40)
        .flat_map(|n| [syn_of(2, n), udp(n)])
        .enumerate()
        .map(|(n, frame)| one(gateway.send_to(n as u8 / 2 % 2, LAN, &frame)))
        .collect();
    let (left, told) = sent.split_at(LIMIT.into());
    assert!(left.iter().all(|(device, _)| *device == 1));
    assert!(told.iter().all(|(device, frame)| (*device, &frame[34..36]) == (LAN, &[3, 1])));
    assert_eq!(gateway.count(Counter::DropHostLimit), told.len() as u64);
    for n in 0..LIMIT / 2 {
        for of_old in [syn_of(2, n), udp(n)] {
            assert_eq!(one(gateway.send(LAN, &of_old)).0, 1, "what it has goes on");
        }
        assert_eq!(one(gateway.send(LAN, &syn_of(3, n))).0, 1, "of another host");
    }
    gateway.now += 1000 * (gateway.half.timeouts.udp + 1);
    age(&mut gateway);
    assert!((0..LIMIT).all(|n| one(gateway.send(LAN, &syn_of(2, 100 + n))).0 == 1), "anew");
    assert_eq!(one(gateway.send(LAN, &syn_of(2, 200))).0, LAN);
    gateway.assert_conserved();
}

#[test]
fn flows_that_leave_a_dead_uplink_are_within_a_limit_that_was_lowered() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let sent = |gateway: &mut Gateway, n: u16| one(gateway.send(LAN, &udp_out(30_000 + n, 53))).0;
    assert!((0..10).all(|n| sent(&mut gateway, n) == 1));
    gateway.half.flows_per_host = 5;
    gateway.publish(BUCKETS);
    gateway.set_state(0, path_state::NO_CARRIER);
    assert!((0..10).all(|n| sent(&mut gateway, n) == 2), "none of them ends for that");
    assert_eq!(sent(&mut gateway, 10), LAN);
}

#[test]
fn who_is_refused_for_want_of_room_is_told_softly() {
    let mut gateway = Gateway::with(1, 64);
    let told = |gateway: &mut Gateway, n| {
        let (device, frame) = one(gateway.send(LAN, &syn_of(2, n)));
        (device == LAN).then(|| [frame[34], frame[35]])
    };
    let answers: Vec<_> = (0..50).filter_map(|n| told(&mut gateway, n)).collect();
    assert!(answers.len() > 10 && answers.iter().all(|kind| *kind == [3, 1]), "{answers:?}");
    assert_eq!(gateway.count(Counter::DropTableFull), answers.len() as u64);
    gateway.assert_conserved();
}

#[test]
fn a_pool_that_is_not_contiguous_is_used_and_nothing_beside_it() {
    let mut gateway = Gateway::new();
    let pool = [5, 9, 200, 201].map(|last| [203, 0, 113, last]);
    let path = gateway.path(0);
    path.pool_len = 4;
    for (place, address) in path.pool.iter_mut().zip(pool) {
        *place = weir_layout::control::Address::v4(address);
    }
    gateway.publish(BUCKETS);
    let mut sources = std::collections::HashSet::new();
    for n in 0..200 {
        let frame = udp(HOST_MAC, device_mac(LAN), ([10, 77, 1, n], 40_000), (SERVER, 53));
        sources.insert(see(&one(gateway.send(LAN, &frame)).1).src);
    }
    assert_eq!(sources, pool.into());
}

#[test]
fn a_host_whose_address_has_no_port_left_takes_another_of_the_pool() {
    let mut gateway = Gateway::new();
    let path = gateway.path(0);
    (path.nat_lo, path.nat_hi) = (50_000, 50_019);
    path.pool_len = 2;
    path.pool[1] = weir_layout::control::Address::v4([203, 0, 113, 99]);
    gateway.publish(BUCKETS);
    let mut sources = std::collections::HashMap::new();
    for n in 0..30u16 {
        let (device, out) = one(gateway.send(LAN, &udp_out(30_000 + n, 53)));
        if device != LAN {
            *sources.entry(see(&out).src).or_insert(0) += 1;
        }
    }
    assert_eq!(sources.len(), 2, "{sources:?}");
    assert!(sources.values().any(|n| *n >= 16), "the first was used up before: {sources:?}");
}

/// The segment size that a SYN names.
fn mss(frame: &[u8]) -> u16 {
    see(frame);
    assert_eq!(frame[54..56], [2, 4]);
    u16::from_be_bytes([frame[56], frame[57]])
}

/// A SYN of the host, or the answer to one that left so, that names a segment size.
fn naming(size: u16, answers: Option<&[u8]>) -> Vec<u8> {
    let (link, src, dst) = match answers {
        None => ([HOST_MAC, device_mac(LAN)], (HOST, 40_000), (SERVER, 443)),
        Some(out) => {
            let seen = see(out);
            ([next_hop_mac(0), device_mac(1)], (SERVER, 443), (seen.src, seen.sport))
        }
    };
    let builder = PacketBuilder::ethernet2(link[0], link[1])
        .ipv4(src.0, dst.0, 64)
        .tcp(src.1, dst.1, 1000, 4096)
        .syn()
        .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(size)])
        .unwrap();
    let builder = if answers.is_some() { builder.ack(1001) } else { builder };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

#[test]
fn both_ends_hear_of_segments_that_the_uplink_has_room_for_and_of_none_larger_than_they_named() {
    for (clamp, named, heard) in [(0, 1460, 1460), (1360, 1460, 1360), (1360, 1200, 1200)] {
        let mut gateway = Gateway::new();
        gateway.half.uplinks[0].clamp_mss = clamp;
        gateway.publish(BUCKETS);
        let (device, syn) = one(gateway.send(LAN, &naming(named, None)));
        assert_eq!((device, mss(&syn)), (1, heard));
        let (device, answer) = one(gateway.send(device, &naming(named, Some(&syn))));
        assert_eq!((device, mss(&answer)), (LAN, heard));
    }
}
