//! Several workers: one owner per flow, packets find it.

use std::collections::HashSet;

use super::fragments::fragments;
use super::gateway::*;
use weir_dataplane::engine::Engine;
use weir_dataplane::flows::{self, End, NewFlow};
use weir_dataplane::fragments::FragmentKey;
use weir_dataplane::handoff::{Handoff, Task};
use weir_dataplane::packet::{HeapFrame, Received};
use weir_dataplane::purpose::{assembler, decider};
use weir_dataplane::worker::take_over;
use weir_layout::Family;
use weir_layout::adjacency::{Adjacency, NEXT_HOPS, next_hop};
use weir_layout::control::{BUCKETS, PathId, path_state};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_wire::family::V4;
use weir_wire::ipv4;
use weir_wire::key::FlowKey4;
use weir_wire::protocol::TCP;
use weir_wire::tcp::flag::{RST, SYN};

#[test]
fn an_answer_at_the_wrong_worker_is_handed_to_the_owner() {
    let mut gateway = Gateway::with(3, 4096);
    for n in 0..60u16 {
        let sent = gateway.send_to((n % 3) as u8, LAN, &tcp_out(30_000 + n, 443, 0x02));
        let (device, out) = &sent[0];
        let back = gateway.send_to(((n + 1) % 3) as u8, *device, &answer_to(*device, out));
        assert_eq!((back.len(), back[0].0), (1, LAN));
    }
    assert_eq!(gateway.count(Counter::UserHandoffOut), 60);
    gateway.assert_conserved();
}

#[test]
fn workers_never_give_out_the_same_port() {
    let mut gateway = Gateway::with(4, 1 << 14);
    let mut seen = HashSet::new();
    for n in 0..2000u16 {
        let frame = udp(
            HOST_MAC,
            device_mac(LAN),
            ([10, 77, (n >> 8) as u8, n as u8], 40_000),
            (SERVER, 53),
        );
        let sent = gateway.send_to((n % 4) as u8, LAN, &frame);
        let s = see(&sent[0].1);
        assert!(seen.insert((s.src, s.sport)), "{s:?} twice");
    }
    gateway.assert_conserved();
}

#[test]
fn a_udp_endpoint_has_one_mapping_whichever_worker_meets_it() {
    let mut gateway = Gateway::with(4, 4096);
    for endpoint in 0..20u16 {
        let mut outside = HashSet::new();
        for n in 0..8 {
            let sent = gateway.send_to(n % 4, LAN, &udp_out(30_000 + endpoint, 100 + u16::from(n)));
            let s = see(&sent[0].1);
            outside.insert((sent[0].0, s.src, s.sport));
        }
        assert_eq!(outside.len(), 1);
    }
    gateway.assert_conserved();
}

#[test]
fn a_flow_that_was_handed_on_in_one_direction_only_has_one_worker_after_the_next_start() {
    let mut gateway = Gateway::with(2, 4096);
    gateway.send(LAN, &udp_out(40_000, 53)).remove(0);
    let table = gateway.regions.flows.clone();
    let both = || (0..table.capacity()).filter_map(|at| Some((at, table.slot(at).read()?)));
    let (at, back) = both().find(|(_, entry)| entry.flags & flag::INITIATED == 0).unwrap();
    let worker = back.state_owner.worker();
    table.slot(at).set_worker(1 - worker);
    restart(&mut gateway, 2, BUCKETS / 2);
    let workers: HashSet<u8> = both().map(|(_, entry)| entry.state_owner.worker()).collect();
    assert_eq!((both().count(), workers), (2, HashSet::from([worker])));
    assert_eq!(gateway.engines.iter().map(Engine::flows).sum::<u64>(), 1);
}

/// What the table's flows are answered to: protocol, address and port outside, and who answers.
fn answered_to(gateway: &Gateway) -> Vec<FlowKey4> {
    let table = &gateway.regions.flows;
    let entries = (0..table.capacity()).filter_map(|index| table.slot(index).read());
    let back = entries.filter(|entry| entry.flags & flag::INITIATED == 0);
    back.map(|entry| entry.key).collect()
}

#[test]
fn another_number_of_workers_gives_no_port_out_twice_and_loses_no_connection() {
    let mut gateway = Gateway::with(4, 1 << 14);
    let host = |n: u16| [10, 77, 1 + (n >> 8) as u8, n as u8];
    let frames = |n: u16| {
        let (from, to) = (HOST_MAC, device_mac(LAN));
        // Ports that each number of workers divides in another way, of few enough hosts to collide.
        let datagram = udp(from, to, (host(n % 40), 20_000 + n * 97), (SERVER, 53));
        let segment = tcp(from, to, (host(n), 40_000), (SERVER, 443), 0x02);
        (datagram, segment)
    };
    let mut connections = Vec::new();
    for n in 0..400 {
        let (datagram, segment) = frames(n);
        gateway.send_to((n % 4) as u8, LAN, &datagram);
        let (device, out) = gateway.send_to((n % 4) as u8, LAN, &segment).remove(0);
        connections.push((device, see(&out).sport));
    }
    for workers in [2, 3, 1, 4] {
        restart(&mut gateway, workers, BUCKETS / 2);
        for n in 0..400 {
            let (datagram, segment) = frames(n);
            assert_eq!(gateway.send(LAN, &datagram).len(), 1);
            let (device, out) = gateway.send(LAN, &segment).remove(0);
            assert_eq!((device, see(&out).sport), connections[usize::from(n)]);
        }
        let answered = answered_to(&gateway);
        assert_eq!(
            answered.iter().map(FlowKey4::words).collect::<HashSet<_>>().len(),
            answered.len()
        );
        let owned: u64 = gateway.engines.iter().map(Engine::flows).sum();
        let active: u64 =
            (0..3).map(|n| gateway.regions.counters.path(PathId::v4(n)).flows_active).sum();
        assert_eq!((owned, active), (800, 800), "{workers} workers");
    }
    gateway.assert_conserved();
}

#[test]
fn endpoints_outside_a_changed_range_of_ports_get_a_port_of_the_new_one() {
    let mut gateway = Gateway::with(2, 4096);
    let port = |gateway: &mut Gateway, sport: u16| {
        see(&gateway.send(LAN, &udp_out(sport, 53)).remove(0).1).sport
    };
    let before: Vec<_> = (30_000..30_040).map(|sport| port(&mut gateway, sport)).collect();
    assert!(before.iter().all(|port| (20_000..=60_000).contains(port)));
    let paths = gateway.half.uplinks.iter_mut().map(|uplink| uplink.path_mut(Family::V4));
    paths.for_each(|path| (path.nat_lo, path.nat_hi) = (50_000, 65_000));
    restart(&mut gateway, 2, BUCKETS / 2);
    for sport in 30_000..30_040 {
        assert!((50_000..=65_000).contains(&port(&mut gateway, sport)));
    }
}

#[test]
fn a_mapping_takes_no_flow_whose_answers_are_those_of_another() {
    let mut gateway = Gateway::new();
    gateway.publish(BUCKETS);
    let (_, out) = gateway.send(LAN, &udp_out(30_000, 53)).remove(0);
    let (outside, dport) = (see(&out).sport.to_be_bytes(), 54u16.to_be_bytes());
    let first = FlowKey4::new([10, 77, 9, 9], SERVER, [1, 1], dport, UDP);
    let translated = FlowKey4::new(external(0), SERVER, outside, dport, UDP);
    let host = Adjacency { mac: HOST_MAC, port: 0 };
    let other = NewFlow {
        first,
        translated,
        hashes: [first, translated.reversed()].map(|key| key.hash(KEY)),
        uplink: 0,
        initiator: End { adjacency: NEXT_HOPS as u16, inside: Some(host) },
        responder: End { adjacency: next_hop(PathId::v4(0)), inside: None },
        worker: 0,
        is_mapped: false,
        now: gateway.now,
    };
    flows::create(&gateway.regions.flows, &other).unwrap();
    assert_eq!(one(gateway.send(LAN, &udp_out(30_000, 54))).0, LAN, "its sender is told");
    assert_eq!(gateway.count(Counter::DropNoPort), 1);
}

#[test]
fn later_fragments_follow_their_first_to_its_worker() {
    let mut gateway = Gateway::with(3, 4096);
    let [first, later] = fragments();
    for worker in 0..3 {
        let device = gateway.send_to(worker, LAN, &first)[0].0;
        let sent = gateway.send_to(worker, LAN, &later);
        assert_eq!(sent.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [device]);
    }
    // All but the datagram's worker handed off both to it, and that to the flow's, if it is another.
    let others = gateway.count(Counter::UserHandoffOut);
    assert!(others == 4 || others == 10, "{others}");
    gateway.assert_conserved();
}

/// A SYN in two fragments that begins a connection anew, which another worker than its endpoint's has,
/// since that was before endpoints of TCP had mappings; the endpoint's worker and the other.
fn anew_at_another() -> (Gateway, [Vec<u8>; 2], [u8; 2]) {
    let mut gateway = Gateway::with(3, 4096);
    let decider = decider::<V4>(KEY, 3, TCP, &HOST, 40_000);
    let owner = (decider + 1) % 3;
    one(gateway.send_to(owner, LAN, &tcp_out(40_000, 443, SYN)));
    let mut reset = tcp_out(40_000, 443, RST);
    // Behind the SYN and its seven bytes.
    reset[38..42].copy_from_slice(&1008u32.to_be_bytes());
    one(gateway.send_to(owner, LAN, &reset));
    gateway.map_tcp(&[0, 1]);
    let datagram = |ident| {
        // The protocol is part of it.
        let ident = u32::from(TCP) << 16 | ident;
        FragmentKey::<V4> { outside: false, src: HOST, dst: SERVER, ident }
    };
    let ident = (1..).find(|ident| assembler(KEY, 3, &datagram(*ident)) == decider).unwrap();
    let whole = tcp_out(40_000, 443, SYN);
    let piece = |from: usize, to: usize, word: u16| {
        let mut frame = [&whole[..34], &whole[34 + from..34 + to]].concat();
        let mut ip = ipv4::Packet::new_unchecked(&mut frame[14..34]);
        ip.set_ident(ident as u16);
        ip.set_fragment(word);
        ip.set_total_len((20 + to - from) as u16);
        ip.fill_checksum();
        frame
    };
    (gateway, [piece(0, 24, ipv4::MORE_FRAGMENTS), piece(24, 27, 3)], [decider, owner])
}

#[test]
fn no_fragment_goes_round_between_a_worker_and_one_that_hands_its_first_back() {
    let (mut gateway, [first, later], [decider, _]) = anew_at_another();
    (0..3).for_each(|uplink| gateway.set_state(uplink, 0));
    gateway.send_to(decider, LAN, &first);
    assert_eq!((gateway.count(Counter::UserHandoffOut), flows_of_all(&gateway)), (2, 0));
    assert!(gateway.send_to(decider, LAN, &later).is_empty());
    assert_eq!(gateway.count(Counter::DropFragment), 1);
    assert_eq!(gateway.count(Counter::UserHandoffOut), 2, "it is known here");
    gateway.assert_conserved();
}

#[test]
fn no_fragment_goes_round_if_its_first_is_lost_on_the_way_back() {
    let (mut gateway, [first, later], [decider, owner]) = anew_at_another();
    let batch = |frame: &[u8]| vec![Received { frame: HeapFrame::new(frame), device: LAN }];
    let (now, wire) = (gateway.now, &mut gateway.wire);
    gateway.engines[usize::from(decider)].process(&mut batch(&first), now, wire);
    assert_eq!(wire.handed.pop_front().unwrap().0, owner);
    gateway.engines[usize::from(owner)].process_handed_off(&mut batch(&first), 0, now, wire);
    assert_eq!(wire.handed.pop_front().unwrap().0, decider);
    assert!(gateway.send_to(decider, LAN, &later).is_empty());
    assert_eq!(gateway.count(Counter::DropFragment), 1);
}

#[test]
fn a_connection_whose_uplink_is_down_is_handed_back_only_if_there_is_another_uplink() {
    let mut gateway = Gateway::with(3, 4096);
    let decider = decider::<V4>(KEY, 3, TCP, &HOST, 40_000);
    let owner = (decider + 1) % 3;
    let syn = tcp_out(40_000, 443, SYN);
    let (device, _) = one(gateway.send_to(owner, LAN, &syn));
    gateway.map_tcp(&[0, 1]);
    (0..2).for_each(|uplink| gateway.set_state(uplink, 0));
    gateway.send_to(owner, LAN, &syn);
    let moved = |gateway: &Gateway| gateway.count(Counter::FlowsMoved);
    assert_eq!((flows_of_all(&gateway), moved(&gateway)), (1, 0), "it stays");
    gateway.set_state(2 - device, path_state::USABLE);
    let (other, _) = one(gateway.send_to(owner, LAN, &syn));
    assert_ne!(other, device);
    assert_eq!((flows_of_all(&gateway), moved(&gateway)), (1, 1));
    gateway.assert_conserved();
}

fn flows_of_all(gateway: &Gateway) -> u64 {
    gateway.engines.iter().map(Engine::flows).sum()
}

#[test]
fn a_worker_takes_all_that_others_hand_to_it_in_a_turn() {
    let mut gateway = Gateway::with(4, 4096);
    let handoff = Handoff::new(4).unwrap();
    // Three workers with three devices, each a whole batch.
    for n in 0..3 * 3 * 64 {
        assert!(handoff.push(0, LAN, Task::Handle, &tcp_out(30_000 + n, 443, 0x02)));
    }
    let (engine, mut batch) = (&mut gateway.engines[0], Vec::new());
    let turn = |engine: &mut Engine, batch: &mut Vec<_>, wire: &mut Wire| {
        take_over(&handoff, 0, engine, batch, gateway.now, wire)
    };
    assert_eq!(turn(engine, &mut batch, &mut gateway.wire), 576);
    assert_eq!((gateway.wire.sent.len(), turn(engine, &mut batch, &mut gateway.wire)), (576, 0));
    gateway.assert_conserved();
}

#[test]
fn hardware_addresses_are_forgotten_when_no_worker_has_a_flow_to_them() {
    let mut gateway = Gateway::with(2, 4096);
    let stranger = Adjacency { mac: [6; 6], port: 0 };
    let unused = gateway.regions.adjacencies.learn(stranger).unwrap();
    let (device, out) = gateway.send(LAN, &udp_out(40_000, 53)).remove(0);
    let pass = |gateway: &mut Gateway, worker: usize| {
        gateway.engines[worker].refresh();
        gateway.engines[worker].age(4096, gateway.now, &mut gateway.wire);
    };
    for _ in 0..8 {
        gateway.now += 10_000;
        pass(&mut gateway, 0);
    }
    assert_eq!(gateway.regions.adjacencies.get(unused), Some(stranger));
    for _ in 0..8 {
        gateway.now += 10_000;
        pass(&mut gateway, 0);
        pass(&mut gateway, 1);
    }
    assert_eq!(gateway.regions.adjacencies.get(unused), None);
    let back = gateway.send(device, &answer_to(device, &out));
    assert_eq!(back[0].1[..6], HOST_MAC);
}
