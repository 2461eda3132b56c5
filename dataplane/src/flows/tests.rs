//! Flows as they are made, followed and ended.

use weir_layout::NONE;
use weir_layout::adjacency::next_hop;
use weir_layout::control::PathId;
use weir_shm::flows::FlowTable4;
use weir_wire::family::V6;

use weir_wire::protocol;
use weir_wire::tcp::Segment;

use super::*;
use weir_wire::key::{FlowKey4, FlowKey6};

const SECRET: [u64; 2] = [3, 5];
const HOST: End = End { adjacency: 170, inside: Some(Adjacency { mac: [2; 6], port: 0 }) };

fn new_flow(proto: u8) -> NewFlow {
    let (lan, site) = ([10, 0, 0, 1], [198, 51, 100, 1]);
    let first = FlowKey4::new(lan, site, [1, 1], [2, 2], proto);
    let translated = FlowKey4::new([192, 0, 2, 1], site, [9, 9], [2, 2], proto);
    NewFlow {
        first,
        translated,
        hashes: hashes(&first, &translated),
        uplink: 1,
        initiator: HOST,
        responder: End { adjacency: next_hop(PathId::v4(1)), inside: None },
        worker: 0,
        is_mapped: false,
        now: 1000,
    }
}

fn hashes(first: &FlowKey4, translated: &FlowKey4) -> [u64; 2] {
    [*first, translated.reversed()].map(|key| key.hash(SECRET))
}

struct Pair {
    table: FlowTable4,
    forward: u32,
    back: u32,
    proto: u8,
}

impl Pair {
    fn new(proto: u8) -> Self {
        let table = FlowTable4::anonymous(64).unwrap();
        let forward = create(&table, &new_flow(proto)).unwrap();
        let back = table.slot(forward).action().peer;
        Self { table, forward, back, proto }
    }

    /// A packet, of TCP the next segment of its direction, with `len` bytes of data.
    fn see_data(&self, index: u32, flags: u8, len: u32) {
        let slot = self.table.slot(index);
        self.see_at(index, flags, slot.next_seq(), len);
    }

    /// A packet, of TCP a segment at `seq`.
    fn see_at(&self, index: u32, flags: u8, seq: u32, len: u32) {
        let peer = self.table.slot(index).action().peer;
        self.see_acking(index, flags, seq, len, self.table.slot(peer).next_seq());
    }

    /// One that acknowledges this.
    fn see_acking(&self, index: u32, flags: u8, seq: u32, len: u32, ack: u32) {
        let slot = self.table.slot(index);
        let (action, segment) = (slot.action(), Segment::new(seq, len, flags));
        let ack = (flags & tcp::flag::ACK != 0).then_some(ack);
        let header = Header { flags, seq, ack, segment };
        let header = (self.proto == tcp::PROTOCOL).then_some(&header);
        track(&self.table, index, &action, header);
        if header.is_some() && flags & tcp::flag::RST == 0 {
            slot.track_sequence(segment, ack, self.table.slot(action.peer));
        }
        slot.count(60 + u64::from(len), 1000);
    }

    fn see(&self, index: u32, flags: u8) {
        self.see_data(index, flags, 0);
    }

    fn state(&self) -> FlowState {
        let (a, b) = (self.table.slot(self.forward).action(), self.table.slot(self.back).action());
        assert_eq!(a.flow_state, b.flow_state);
        a.flow_state
    }

    fn offered(&self) -> bool {
        let (a, b) = (self.table.slot(self.forward).action(), self.table.slot(self.back).action());
        assert_eq!(a.flags & flag::OFFLOAD, b.flags & flag::OFFLOAD);
        a.flags & flag::OFFLOAD != 0
    }

    fn handshake(&self) {
        self.see(self.forward, tcp::flag::SYN);
        self.see(self.back, tcp::flag::SYN | tcp::flag::ACK);
        self.see(self.forward, tcp::flag::ACK);
    }
}

#[test]
fn each_direction_undoes_the_other() {
    let pair = Pair::new(17);
    let (out, back) =
        (pair.table.slot(pair.forward).read().unwrap(), pair.table.slot(pair.back).read().unwrap());
    assert_eq!((out.rewrite.src, out.rewrite.sport), (back.key.dst(), back.key.dport()));
    assert_eq!((back.rewrite.dst, back.rewrite.dport), (out.key.src(), out.key.sport()));
    assert_eq!((out.peer, back.peer), (pair.back, pair.forward));
    assert_eq!((out.adjacency, back.adjacency), (next_hop(PathId::v4(1)), HOST.adjacency));
}

#[test]
fn an_ipv6_flow_is_made_found_followed_and_retired() {
    let table = FlowTable::<V6>::anonymous(64).unwrap();
    let (lan, site) = ([0x20; 16], [0x24; 16]);
    let key = |src, dst, [sport, dport]: [u16; 2]| {
        let [sport, dport] = [sport, dport].map(u16::to_be_bytes);
        FlowKey6::new(src, dst, sport, dport, tcp::PROTOCOL)
    };
    let (first, translated) = (key(lan, site, [5, 443]), key([0x26; 16], site, [5, 443]));
    let answer = translated.reversed();
    let hashes = [first, answer].map(|key| key.hash(SECRET));
    let new = NewFlow::<V6> {
        first,
        translated,
        hashes,
        uplink: 1,
        initiator: HOST,
        responder: End {
            adjacency: next_hop(PathId::new(1, weir_layout::Family::V6)),
            inside: None,
        },
        worker: 3,
        is_mapped: true,
        now: 1000,
    };
    let forward = create(&table, &new).unwrap();
    let back = table.find(hashes[1], &answer).unwrap();
    assert_eq!(table.find(hashes[0], &first), Some(forward));
    let (out, home) = (table.slot(forward).read().unwrap(), table.slot(back).read().unwrap());
    assert_eq!((out.rewrite.src, home.rewrite.dst), ([0x26; 16], lan));
    assert_eq!((out.adjacency, home.adjacency), (new.responder.adjacency, HOST.adjacency));
    assert_eq!((out.peer, out.state_owner.worker()), (back, 3));
    const SYN_ACK: u8 = tcp::flag::SYN | tcp::flag::ACK;
    for (index, flags) in [(forward, tcp::flag::SYN), (back, SYN_ACK), (forward, tcp::flag::ACK)] {
        let action = table.slot(index).action();
        let segment = Segment::new(0, 0, flags);
        track(&table, index, &action, Some(&Header { flags, seq: 0, ack: None, segment }));
    }
    let action = table.slot(forward).action();
    assert_eq!(action.flow_state, FlowState::Established);
    assert_ne!(action.flags & flag::OFFLOAD, 0);
    assert_eq!(idle_ms(&table, forward, 1500), 500);
    close(&table, forward);
    assert!(has_ended(&table.slot(back).action()));
    for index in [forward, back] {
        table.retire(index);
    }
    assert_eq!(table.find(hashes[1], &answer), None);
}

#[test]
fn a_flow_begins_inside_or_outside_or_stays_inside() {
    const OTHER: End = End { adjacency: 200, inside: Some(Adjacency { mac: [4; 6], port: 2 }) };
    const FAR: End = End { adjacency: next_hop(PathId::v4(1)), inside: None };
    for (initiator, responder, uplink) in [(HOST, FAR, 1), (FAR, HOST, 1), (HOST, OTHER, NONE)] {
        let table = FlowTable4::anonymous(64).unwrap();
        let new = NewFlow { initiator, responder, uplink, ..new_flow(17) };
        let forward = table.slot(create(&table, &new).unwrap()).read().unwrap();
        let back = table.slot(forward.peer).read().unwrap();
        let initiated = [forward, back].map(|entry| entry.flags & flag::INITIATED != 0);
        assert_eq!(initiated, [true, false]);
        for (entry, from, to) in [(forward, initiator, responder), (back, responder, initiator)] {
            assert_eq!((entry.adjacency, entry.uplink), (to.adjacency, uplink));
            let inside = from.inside.map(|from| mark(from.to_word(), entry.peer));
            assert_eq!(entry.flags & flag::INSIDE != 0, inside.is_some());
            assert_eq!(entry.mark, inside.unwrap_or(0));
        }
    }
}

#[test]
fn udp_is_offered_when_both_directions_were_seen() {
    let pair = Pair::new(17);
    pair.see(pair.forward, 0);
    assert!(!pair.offered());
    pair.see(pair.back, 0);
    assert!(pair.offered());
}

#[test]
fn tcp_is_established_by_the_third_packet() {
    let pair = Pair::new(tcp::PROTOCOL);
    pair.see(pair.forward, tcp::flag::SYN);
    pair.see(pair.back, tcp::flag::SYN | tcp::flag::ACK);
    assert_eq!(pair.state(), FlowState::Opening);
    assert!(!pair.offered());
    pair.see(pair.forward, tcp::flag::ACK);
    assert_eq!(pair.state(), FlowState::Established);
    assert!(pair.offered());
}

#[test]
fn one_fin_leaves_a_half_open_connection_alive() {
    let pair = Pair::new(tcp::PROTOCOL);
    pair.handshake();
    pair.see(pair.forward, tcp::flag::FIN | tcp::flag::ACK);
    pair.see(pair.back, tcp::flag::ACK);
    assert_eq!(pair.state(), FlowState::Established);
    pair.see(pair.back, tcp::flag::FIN | tcp::flag::ACK);
    assert_eq!(pair.state(), FlowState::Closing);
    assert!(!pair.offered());
}

#[test]
fn a_reset_closes_and_a_new_syn_opens_again() {
    let pair = Pair::new(tcp::PROTOCOL);
    pair.handshake();
    pair.see(pair.back, tcp::flag::RST);
    assert_eq!(pair.state(), FlowState::Closing);
    pair.handshake();
    assert_eq!(pair.state(), FlowState::Established);
    assert!(pair.offered());
}

const ACK: u8 = tcp::flag::ACK;
const FIN: u8 = tcp::flag::FIN | ACK;
const RST: u8 = tcp::flag::RST;

/// A connection that has come to numbers of its own in both directions.
fn connection() -> Pair {
    let pair = Pair::new(tcp::PROTOCOL);
    pair.see_at(pair.forward, tcp::flag::SYN, 0xffff_ff00, 0);
    pair.see_at(pair.back, tcp::flag::SYN | ACK, 0x7000_0000, 0);
    pair.see(pair.forward, ACK);
    pair.see_data(pair.forward, ACK, 300);
    pair.see_data(pair.back, ACK, 1000);
    assert!(pair.offered());
    pair
}

#[test]
fn a_reset_or_a_pair_of_fins_with_guessed_numbers_ends_nothing() {
    let pair = connection();
    for index in [pair.forward, pair.back] {
        let next = pair.table.slot(index).next_seq();
        for off in [1, 1 << 12, 1 << 30, 1 << 31, 1u32.wrapping_neg()] {
            pair.see_at(index, RST, next.wrapping_add(off), 0);
        }
        for off in [1 << 21, 1 << 30, 1 << 31, (1u32 << 21).wrapping_neg()] {
            pair.see_at(index, RST | ACK, next.wrapping_add(off), 0);
            pair.see_at(index, FIN, next.wrapping_add(off), 0);
        }
    }
    assert!(pair.state() == FlowState::Established && pair.offered());
}

#[test]
fn a_fin_or_reset_counts_though_much_that_is_under_way_has_not_arrived() {
    for (mebibytes, counts) in [(2, true), (60, true), (70, false)] {
        for flags in [FIN, RST | ACK] {
            let pair = connection();
            let arrived = pair.table.slot(pair.forward).next_seq();
            (0..mebibytes).for_each(|_| pair.see_data(pair.forward, ACK, 1 << 20));
            // Behind some that were lost.
            let end = pair.table.slot(pair.back).next_seq().wrapping_add(1000);
            pair.see_acking(pair.back, flags, end, 0, arrived);
            pair.see(pair.forward, FIN);
            assert_eq!(pair.state() == FlowState::Closing, counts, "{mebibytes} MiB");
        }
    }
}

#[test]
fn segments_guessed_all_over_the_numbers_move_nothing() {
    const STEP: u32 = tcp::REACH - 1000;
    for flags in [0, ACK] {
        let pair = connection();
        for (index, peer) in [(pair.forward, pair.back), (pair.back, pair.forward)] {
            let [next, known] = [index, peer].map(|index| pair.table.slot(index).next_seq());
            let mut seq = next.wrapping_add(12_345);
            for _ in 0..u32::MAX / STEP + 2 {
                seq = seq.wrapping_add(STEP);
                pair.see_acking(index, flags, seq, 1, known.wrapping_add(1 << 27));
            }
            assert_eq!(pair.table.slot(index).next_seq(), next);
            pair.see_at(index, RST, seq.wrapping_add(1), 0);
        }
        assert!(pair.state() == FlowState::Established && pair.offered());
    }
}

#[test]
fn a_long_fat_upload_is_followed_behind_its_holes_and_so_is_what_answers_it() {
    let pair = connection();
    let [arrived, answered] =
        [pair.forward, pair.back].map(|index| pair.table.slot(index).next_seq());
    // The network before the gateway loses a mebibyte of every four.
    for n in 0..15 {
        pair.see_at(pair.forward, ACK, arrived.wrapping_add((n * 4 + 1) << 20), 3 << 20);
    }
    let sent = arrived.wrapping_add(60 << 20);
    assert_eq!(pair.table.slot(pair.forward).next_seq(), sent);
    // Of what the server says, some is lost as well, and all that has arrived there is old.
    pair.see_acking(pair.back, ACK, answered.wrapping_add(100_000), 1000, arrived);
    let end = answered.wrapping_add(101_000);
    assert_eq!(pair.table.slot(pair.back).next_seq(), end);
    // What was lost is sent again, then the rest.
    pair.see_at(pair.forward, ACK, arrived, 1 << 20);
    assert_eq!(pair.table.slot(pair.forward).next_seq(), sent);
    pair.see_data(pair.forward, FIN, 1000);
    pair.see_acking(pair.back, FIN, end, 0, arrived);
    assert_eq!(pair.state(), FlowState::Closing);
}

#[test]
fn a_reset_of_the_connection_ends_it_from_either_side_and_at_any_time() {
    for flags in [RST, RST | ACK] {
        for from_outside in [false, true] {
            let pair = connection();
            pair.see(if from_outside { pair.back } else { pair.forward }, flags);
            assert_eq!(pair.state(), FlowState::Closing);
        }
    }
    let refused = Pair::new(tcp::PROTOCOL);
    refused.see_at(refused.forward, tcp::flag::SYN, 7, 0);
    refused.see_at(refused.back, RST, 0, 0);
    assert_eq!(refused.state(), FlowState::Opening, "it acknowledges nothing");
    refused.see_at(refused.back, RST | ACK, 0, 0);
    assert_eq!(refused.state(), FlowState::Closing);
}

#[test]
fn what_goes_on_in_both_directions_after_a_reset_is_established_again() {
    for len in [0, 100] {
        let pair = connection();
        pair.see(pair.back, RST);
        // What was under way to the host that was reset.
        (0..3).for_each(|_| pair.see_data(pair.back, ACK, 100));
        assert_eq!(pair.state(), FlowState::Closing);
        pair.see_data(pair.forward, ACK, len);
        assert!(pair.state() == FlowState::Established && pair.offered());
    }
}

#[test]
fn what_goes_on_in_both_directions_after_fins_is_established_again() {
    let pair = connection();
    let before = [pair.forward, pair.back].map(|index| pair.table.slot(index).next_seq());
    pair.see(pair.forward, FIN);
    pair.see(pair.back, FIN);
    // Each acknowledges what the other said last, not its own end.
    pair.see_at(pair.forward, ACK, before[0], 0);
    assert_eq!(pair.state(), FlowState::Closing);
    pair.see_at(pair.back, ACK, before[1], 500);
    assert!(pair.state() == FlowState::Established && pair.offered());
    pair.see(pair.forward, FIN);
    assert!(pair.state() == FlowState::Established, "the guessed ones are forgotten");
}

#[test]
fn the_last_segments_of_a_connection_leave_it_closed() {
    let pair = connection();
    pair.see_data(pair.forward, FIN, 10);
    pair.see(pair.back, ACK);
    pair.see(pair.back, FIN);
    let fin = pair.table.slot(pair.back).next_seq().wrapping_sub(1);
    for _ in 0..3 {
        pair.see(pair.forward, ACK);
        pair.see_at(pair.back, FIN, fin, 0);
        pair.see(pair.back, ACK);
    }
    assert_eq!(pair.state(), FlowState::Closing);
}

#[test]
fn either_direction_keeps_a_flow_alive() {
    let pair = Pair::new(17);
    let timeouts = Timeouts::DEFAULT;
    let expired = |now| {
        let entry = pair.table.slot(pair.forward).read().unwrap();
        idle_ms(&pair.table, pair.forward, now)
            >= timeout_ms(&timeouts, 17, entry.state_owner.state())
    };
    assert!(!expired(300_999));
    assert!(expired(301_000));
    pair.table.slot(pair.back).count(100, 200_000);
    assert!(!expired(301_000));
    assert!(expired(500_000));
}

#[test]
fn no_timeout_is_by_default_below_what_its_protocols_rfc_asks() {
    let t = Timeouts::DEFAULT;
    assert!(t.tcp_established >= 7440 && t.tcp_opening.min(t.tcp_closing) >= 240, "RFC 5382");
    assert!(t.udp >= 300, "RFC 4787 REQ-5c");
    assert!(t.icmp >= 60, "RFC 5508");
}

#[test]
fn each_state_has_its_timeout() {
    let t =
        Timeouts { tcp_opening: 1, tcp_established: 2, tcp_closing: 3, udp: 4, icmp: 5, other: 6 };
    let of = |proto, state| timeout_ms(&t, proto, state);
    assert_eq!(of(tcp::PROTOCOL, FlowState::Opening), 1000);
    assert_eq!(of(tcp::PROTOCOL, FlowState::Established), 2000);
    assert_eq!(of(tcp::PROTOCOL, FlowState::Closing), 3000);
    assert_eq!(of(17, FlowState::Stateless), 4000);
    assert_eq!(of(icmp::PROTOCOL, FlowState::Stateless), 5000);
    assert_eq!(of(protocol::GRE, FlowState::Stateless), 6000);
}

#[test]
fn a_full_table_leaves_nothing_half_made() {
    let table = FlowTable4::anonymous(64).unwrap();
    let made = (0..100u8)
        .filter(|n| {
            let mut new = new_flow(17);
            let from = |key: FlowKey4, sport| {
                FlowKey4::new(key.src(), key.dst(), sport, key.dport(), key.proto())
            };
            (new.first, new.translated) = (from(new.first, [1, *n]), from(new.translated, [9, *n]));
            new.hashes = hashes(&new.first, &new.translated);
            create(&table, &new).is_some()
        })
        .count();
    let entries: Vec<_> =
        (0..64).filter_map(|index| Some((index, table.slot(index).read()?))).collect();
    assert!((24..=32).contains(&made) && entries.len() == 2 * made, "{made}");
    for (index, entry) in entries {
        assert_eq!(table.slot(entry.peer).read().unwrap().peer, index);
    }
}
