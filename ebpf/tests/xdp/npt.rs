//! Prefix translation in the kernel tier, and who may speak to and for a provider's prefix.

use weir_layout::adjacency::{Adjacency, mark, next_hop};
use weir_layout::control::{PathId, host_class};
use weir_layout::flow::{FlowState, StateOwner, flag};
use weir_layout::{Family, NONE};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::hosts::{HostPrefixes, Hosts};
use weir_shm::map::Access;
use weir_wire::entry::NewDirection;
use weir_wire::family::{Family as _, V6};
use weir_wire::key::FlowKey6;
use weir_wire::parse::parse6;
use weir_wire::{icmpv6, tcp, udp};

use crate::fixture::*;
use crate::fixture6::*;

/// The host's address at the provider: of the same sum as its own.
const OUTSIDE6: [u8; 16] = [0x20, 1, 0, 3, 0, 0, 0, 0x76, 0, 0, 0, 0, 0, 0, 0, 2];
const PREFIX6: [u8; 16] = [0x20, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// With the provider's prefix.
fn delegated(f: Fixture) -> Fixture {
    let hosts: HostPrefixes<V6> = [
        ((LAN6, 64), host_class::LAN),
        ((GATEWAY6, 128), host_class::LOCAL),
        ((PREFIX6, 56), host_class::POOL),
    ]
    .into();
    Hosts::<V6>::open(&f.pins).unwrap().sync(&hosts).unwrap();
    f
}

/// Puts a direction in the table, whose packets leave as `to`.
fn insert(f: &Fixture, [from, to]: [&FlowKey6; 2], flags: u8, adjacency: u16) {
    let state_owner = StateOwner::new(FlowState::Stateless, 0);
    let mark = mark(Adjacency { mac: THEIRS, port: 0 }.to_word(), 0);
    let flags = flags | flag::NAT | flag::OFFLOAD | flag::SEEN;
    let new = NewDirection { flags, state_owner, uplink: 0, adjacency, mark, now: 0 };
    f.flows6.insert(from.hash(KEY), &new.words::<V6>(from, to)).unwrap();
}

/// The frame as the user tier would send it.
fn rewritten(frame: &[u8], new: &FlowKey6, to: [u8; 6]) -> Vec<u8> {
    let p = parse6(frame).unwrap();
    let mut frame = frame.to_vec();
    V6::apply(&mut frame, &p, Some(p.proto), &V6::compile(&p.key(), new));
    [&to[..], &OURS, &[0x86, 0xdd], &frame[usize::from(p.l3)..]].concat()
}

fn key_of(frame: &[u8]) -> FlowKey6 {
    parse6(frame).unwrap().key()
}

fn with_source(key: &FlowKey6, source: [u8; 16]) -> FlowKey6 {
    FlowKey6::new(source, key.dst(), key.sport(), key.dport(), key.proto())
}

#[test]
fn packets_of_translated_ipv6_flows_leave_as_the_user_tier_would_send_them() {
    let mut f = lan("npt-out");
    for proto in [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL] {
        let frame = out(proto);
        let key = key_of(&frame);
        let translated = with_source(&key, OUTSIDE6);
        let to = next_hop(PathId::new(0, Family::V6));
        insert(&f, [&key, &translated], flag::INSIDE | flag::INITIATED, to);
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), FORWARDED, "protocol {proto}");
        assert_eq!(sent, rewritten(&frame, &translated, NEXT_HOP), "protocol {proto}");
        assert_eq!(sent[54..], frame[54..], "protocol {proto}");
        assert_eq!(parse6(&sent).unwrap().src, OUTSIDE6);
    }
}

#[test]
fn a_port_that_is_translated_too_has_its_checksum_made_right() {
    let mut f = lan("npt-port");
    for proto in [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL] {
        let frame = out(proto);
        let key = key_of(&frame);
        let port = [0xc3, 0x50];
        let translated = FlowKey6::new(GATEWAY6, key.dst(), port, key.dport(), proto);
        let to = next_hop(PathId::new(0, Family::V6));
        insert(&f, [&key, &translated], flag::INSIDE | flag::INITIATED, to);
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), FORWARDED, "protocol {proto}");
        assert_eq!(sent, rewritten(&frame, &translated, NEXT_HOP), "protocol {proto}");
    }
}

#[test]
fn answers_to_a_providers_prefix_reach_the_host_of_their_flow() {
    let mut f = delegated(uplink("npt-answers"));
    let table = Adjacencies::open(&f.pins, Access::Write, KEY).unwrap();
    let mac = [2, 9, 9, 9, 9, 9];
    let adjacency = table.learn(Adjacency { mac, port: OTHER_SIDE }).unwrap();
    let frame = packet([SITE6, OUTSIDE6], udp::PROTOCOL, 64);
    let key = key_of(&frame);
    let back = FlowKey6::new(SITE6, HOST6, key.sport(), key.dport(), key.proto());
    insert(&f, [&key, &back], 0, adjacency);
    let (action, counter, sent) = f.run_for_frame(&frame);
    assert_eq!((action, counter), FORWARDED);
    assert_eq!(sent, rewritten(&frame, &back, mac));
}

#[test]
fn a_ping_to_a_providers_prefix_is_of_no_flow_that_waits_for_a_reply() {
    for id in [77, 0] {
        let mut f = delegated(uplink("npt-echo"));
        let reply = echo6(icmpv6::ECHO_REPLY, [SITE6, OUTSIDE6], id);
        let key = key_of(&reply);
        let back = FlowKey6::new(SITE6, HOST6, key.sport(), key.dport(), key.proto());
        insert(&f, [&key, &back], 0, next_hop(PathId::new(0, Family::V6)));
        assert_eq!(f.run(&reply), FORWARDED);
        let request = echo6(icmpv6::ECHO_REQUEST, [SITE6, OUTSIDE6], id);
        assert_eq!(f.run(&request), UNASKED, "{id}");
    }
}

#[test]
fn nobody_reaches_a_providers_prefix_without_a_flow_and_nobody_outside_has_an_address_of_it() {
    let mut f = delegated(uplink("npt-unasked"));
    let answer = packet([SITE6, OUTSIDE6], udp::PROTOCOL, 64);
    assert_eq!(f.run(&answer), UNASKED);
    let key = key_of(&answer);
    insert(&f, [&key, &with_source(&key, SITE6)], 0, NONE.into());
    assert_eq!(f.run(&answer), TRANSIT);
    assert_eq!(f.run(&packet([OUTSIDE6, HOST6], udp::PROTOCOL, 64)), MARTIAN);
    let mut f = delegated(lan("npt-hairpin"));
    assert_eq!(f.run(&packet([HOST6, OUTSIDE6], udp::PROTOCOL, 64)), UNASKED);
}

#[test]
fn what_a_flow_with_an_address_of_the_gateway_waits_for_is_the_user_tiers() {
    let mut f = uplink("npt-gateway");
    let answer = packet([SITE6, GATEWAY6], udp::PROTOCOL, 64);
    assert_eq!(f.run(&answer), KERNELS);
    let key = key_of(&answer);
    insert(&f, [&key, &key], 0, NONE.into());
    assert_eq!(f.run(&answer), TRANSIT);
}
