//! LANs with an address of each provider: which uplink carries which source, and what is told to who
//! has none.

use etherparse::PacketBuilder;
use weir_layout::Family;
use weir_layout::control::{
    BUCKETS, ComeHome, Mac, OnUplinkDown, PathId, PathPrefix, Prefix, Translate, path_state,
};
use weir_layout::counters::Counter;
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::parse6;
use weir_wire::{npt, tcp};

use super::gateway::*;
use super::packets6::{SERVER6, assert_only_replies_return, see6};

/// The prefix that the provider of an uplink delegates; 9: nobody does.
fn prefix(uplink: u8) -> [u8; 16] {
    [0x20, 1, 0, 2, 0, uplink + 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The host's address in it.
fn host(uplink: u8) -> [u8; 16] {
    let mut address = prefix(uplink);
    address[15] = 2;
    address
}

/// An address that no provider routes: a unique local one, or one of documents.
const UNROUTED: [[u8; 16]; 2] = [
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
];

/// A gateway whose first two uplinks carry each the prefix of its provider. The LAN has these, one
/// that nobody delegates, and two that nobody routes.
fn gateway() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    let unrouted = UNROUTED.map(|address| [&address[..15], &[0]].concat().try_into().unwrap());
    let lans = [[prefix(0), prefix(1), prefix(9)].as_slice(), &unrouted].concat();
    for (index, address) in lans.into_iter().enumerate() {
        gateway.half.lan_prefixes[3 + index] =
            Prefix { address, family: 6, length: 48, ..Prefix::ANY };
        gateway.half.lan_prefix_ports[3 + index] = LAN;
    }
    gateway.half.lan_prefix_count = 8;
    for uplink in 0..2 {
        by_source(&mut gateway, uplink);
    }
    gateway.publish(BUCKETS / 2);
    gateway
}

/// The uplink carries the prefix of its provider.
fn by_source(gateway: &mut Gateway, uplink: u8) {
    let path = gateway.half.uplinks[usize::from(uplink)].path_mut(Family::V6);
    path.translate = Translate::Source as u8;
    delegate(gateway, uplink, uplink);
}

/// The provider of an uplink delegates this prefix too.
fn delegate(gateway: &mut Gateway, uplink: u8, of: u8) {
    let half = &mut gateway.half;
    let unused = PathPrefix::UNUSED;
    half.path_prefixes[half.path_prefix_count as usize] =
        PathPrefix { outside: prefix(of), outside_len: 48, uplink, ..unused };
    half.path_prefix_count += 1;
}

fn set_state(gateway: &Gateway, uplink: u8, state: u32) {
    gateway.writer.set_path_state(PathId::new(uplink, Family::V6), state);
}

fn udp6(src: [u8; 16], sport: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv6(src, SERVER6, 64);
    let mut frame = Vec::new();
    builder.udp(sport, 443).write(&mut frame, b"payload").unwrap();
    frame
}

fn tcp6(src: [u8; 16], sport: u16, syn: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv6(src, SERVER6, 64);
    let builder = builder.tcp(sport, 443, 1000, 4096);
    let builder = if syn { builder.syn() } else { builder.ack(77) };
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    frame
}

/// The frame is the error of a host whose source no provider takes.
fn assert_refused((device, error): (u8, Vec<u8>), host: [u8; 16]) {
    let p = parse6(&error).unwrap();
    assert_eq!((device, p.dst), (LAN, host));
    assert_eq!(error[p.l4.into()..][..2], V6::FOREIGN_SOURCE);
}

#[test]
fn every_source_leaves_by_its_owner_whatever_its_bucket() {
    // All buckets name one of them, or each half of them.
    for share in [0, BUCKETS / 2, BUCKETS] {
        let mut gateway = gateway();
        gateway.publish(share);
        for (sport, owner) in (1000..1010).flat_map(|sport| [(sport, 0), (sport, 1)]) {
            assert_eq!(one(gateway.send(LAN, &udp6(host(owner), sport))).0, owner + 1);
        }
        gateway.assert_conserved();
    }
}

#[test]
fn a_source_that_no_provider_delegates_is_refused_and_so_is_a_unique_local_one() {
    let mut gateway = gateway();
    let local = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    for source in [host(9), local] {
        assert_refused(one(gateway.send(LAN, &udp6(source, 1000))), source);
    }
    assert_eq!((gateway.count(Counter::DropForeignSource), gateway.engines[0].flows()), (2, 0));
    gateway.assert_conserved();
}

#[test]
fn an_uplink_with_an_own_prefix_beside_carries_that_and_none_that_another_delegates() {
    let mut gateway = gateway();
    let path = gateway.half.uplinks[1].path_mut(Family::V6);
    path.translate = Translate::None as u8;
    gateway.half.path_prefix_count = 1;
    gateway.publish(BUCKETS / 2);
    for sport in 1000..1010 {
        assert_eq!(one(gateway.send(LAN, &udp6(host(0), sport))).0, 1);
        assert_eq!(one(gateway.send(LAN, &udp6(host(9), sport))).0, 2);
    }
    set_state(&gateway, 0, 0);
    assert_refused(one(gateway.send(LAN, &udp6(host(0), 2000))), host(0));
    gateway.assert_conserved();
}

#[test]
fn what_no_provider_routes_back_leaves_by_none() {
    let mut gateway = gateway();
    for uplink in 0..2 {
        gateway.half.uplinks[uplink].path_mut(Family::V6).translate = Translate::None as u8;
    }
    gateway.half.path_prefix_count = 0;
    gateway.publish(BUCKETS / 2);
    for source in UNROUTED {
        assert_refused(one(gateway.send(LAN, &udp6(source, 1000))), source);
    }
    assert_eq!(gateway.engines[0].flows(), 0);
    gateway.assert_conserved();
}

#[test]
fn without_its_owner_a_source_is_refused_and_the_others_go_on() {
    let mut gateway = gateway();
    let devices = [0, 1].map(|owner| one(gateway.send(LAN, &udp6(host(owner), 1000))).0);
    assert_eq!(devices, [1, 2]);
    set_state(&gateway, 0, 0);
    assert_refused(one(gateway.send(LAN, &udp6(host(0), 1000))), host(0));
    assert_refused(one(gateway.send(LAN, &udp6(host(0), 1001))), host(0));
    assert_refused(one(gateway.send(LAN, &tcp6(host(0), 1002, true))), host(0));
    assert_eq!(one(gateway.send(LAN, &udp6(host(1), 1000))).0, 2);
    set_state(&gateway, 0, path_state::USABLE);
    assert_eq!(one(gateway.send(LAN, &udp6(host(0), 1000))).0, 1, "its owner is back");
    gateway.assert_conserved();
}

#[test]
fn with_all_uplinks_down_there_is_no_route_from_any_source() {
    let mut gateway = gateway();
    (0..2).for_each(|uplink| set_state(&gateway, uplink, 0));
    let (_, error) = one(gateway.send(LAN, &udp6(host(0), 1000)));
    assert_eq!(error[parse6(&error).unwrap().l4.into()..][..2], V6::NO_ROUTE);
}

#[test]
fn connections_of_an_owner_that_went_down_are_reset_at_both_ends() {
    let mut gateway = gateway();
    for owner in [0, 1] {
        one(gateway.send(LAN, &tcp6(host(owner), 1000, true)));
    }
    set_state(&gateway, 0, 0);
    let resets = sweep(&mut gateway);
    let mut seen: Vec<_> = resets
        .iter()
        .map(|(device, frame)| {
            let p = parse6(frame).unwrap();
            assert_ne!(p.tcp_flags & tcp::flag::RST, 0);
            (*device, p.src, p.dst)
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(LAN, SERVER6, host(0)), (1, host(0), SERVER6)]);
    assert_eq!(one(gateway.send(LAN, &tcp6(host(1), 1000, false))).0, 2);
    gateway.assert_conserved();
}

#[test]
fn a_connection_is_reset_by_its_own_packet_or_kept_as_its_policy_says() {
    for (cut, answered) in [(OnUplinkDown::Reset, true), (OnUplinkDown::Keep, false)] {
        let mut gateway = gateway();
        gateway.half.policies[0].on_uplink_down = cut as u8;
        gateway.publish(BUCKETS / 2);
        one(gateway.send(LAN, &tcp6(host(0), 1000, true)));
        set_state(&gateway, 0, 0);
        let (device, frame) = one(gateway.send(LAN, &tcp6(host(0), 1000, false)));
        let reset = parse6(&frame).unwrap().tcp_flags & tcp::flag::RST != 0;
        assert_eq!((device == LAN, reset), (answered, answered), "{cut:?}");
        gateway.assert_conserved();
    }
}

#[test]
fn a_flow_moves_to_another_owner_of_its_prefix_and_connections_outlive_that() {
    let mut gateway = gateway();
    delegate(&mut gateway, 1, 0);
    gateway.publish(BUCKETS);
    assert_eq!(one(gateway.send(LAN, &tcp6(host(0), 1000, true))).0, 1);
    set_state(&gateway, 0, 0);
    assert!(sweep(&mut gateway).is_empty());
    let (device, frame) = one(gateway.send(LAN, &tcp6(host(0), 1000, false)));
    assert_eq!((device, parse6(&frame).unwrap().src), (2, host(0)));
    gateway.assert_conserved();
}

#[test]
fn flows_end_when_their_source_is_delegated_no_more() {
    let mut gateway = gateway();
    for owner in [0, 1] {
        one(gateway.send(LAN, &udp6(host(owner), 1000)));
    }
    sweep(&mut gateway);
    gateway.half.path_prefixes[0].outside = prefix(7);
    gateway.publish(BUCKETS / 2);
    sweep(&mut gateway);
    assert_eq!(gateway.engines[0].flows(), 1);
    assert_refused(one(gateway.send(LAN, &udp6(host(0), 1000))), host(0));
    gateway.assert_conserved();
}

#[test]
fn an_idle_flow_stays_on_its_owner_while_that_is_emptied_or_of_a_worse_tier() {
    let mut gateway = gateway();
    gateway.half.policies[0].members[1].tier = 2;
    (gateway.half.policies[0].idle_s, gateway.half.policies[0].home_per_second) = (10, 1000);
    let steering = gateway.half.policies[0].steering_mut(Family::V6);
    (steering.active_tier, steering.come_home) = (1, ComeHome::All as u8);
    gateway.publish(BUCKETS);
    assert_eq!(one(gateway.send(LAN, &udp6(host(1), 1000))).0, 2);
    set_state(&gateway, 1, path_state::USABLE | path_state::DRAINING);
    gateway.now += 11_000;
    age(&mut gateway);
    assert_eq!((gateway.count(Counter::FlowsMoved), gateway.engines[0].flows()), (0, 1));
    assert_eq!(one(gateway.send(LAN, &udp6(host(1), 1001))).0, 2, "there is no other");
}

#[test]
fn a_source_whose_owner_is_down_is_rescued_by_the_uplink_that_may() {
    let mut gateway = gateway();
    let pair = PathPrefix {
        inside: prefix(1),
        outside: prefix(0),
        inside_len: 48,
        outside_len: 48,
        adjustment: npt::adjustment(prefix(1), prefix(0)),
        uplink: 0,
        ..PathPrefix::UNUSED
    };
    let count = gateway.half.path_prefix_count as usize;
    gateway.half.path_prefixes[count] = pair;
    gateway.half.path_prefix_count += 1;
    gateway.publish(BUCKETS / 2);
    let outside = npt::outward(&pair, host(1)).unwrap();
    let sent = |(device, frame): (u8, Vec<u8>)| (device, see6(&frame).src);
    for flow in [udp6(host(1), 7), tcp6(host(1), 7, true)] {
        assert_eq!(sent(one(gateway.send(LAN, &flow))), (2, host(1)), "its owner is there");
    }
    set_state(&gateway, 1, 0);
    assert_eq!(sweep(&mut gateway).len(), 2, "the connection has another address");
    for flow in [udp6(host(1), 7), tcp6(host(1), 8, true)] {
        assert_eq!(sent(one(gateway.send(LAN, &flow))), (1, outside));
    }
    assert_eq!(sent(one(gateway.send(LAN, &udp6(host(0), 9)))), (1, host(0)), "its own stay");
    gateway.publish(BUCKETS / 2);
    assert!(sweep(&mut gateway).is_empty(), "what is rescued stays so");
    set_state(&gateway, 1, path_state::USABLE);
    assert_eq!(sent(one(gateway.send(LAN, &udp6(host(1), 10)))), (2, host(1)));
    set_state(&gateway, 0, 0);
    assert_eq!(sweep(&mut gateway).len(), 2);
    assert_eq!(
        sent(one(gateway.send(LAN, &udp6(host(1), 7)))),
        (2, host(1)),
        "back with its owner"
    );
    assert_refused(one(gateway.send(LAN, &udp6(host(0), 9))), host(0));
    gateway.assert_conserved();
}

#[test]
fn a_ping_from_outside_is_of_no_flow_though_a_host_pings_with_its_identifier() {
    assert_only_replies_return(gateway, host(0));
}

#[test]
fn what_answers_without_a_flow_leaves_by_the_owner_of_its_source() {
    let mut gateway = gateway();
    for owner in [0, 1] {
        let builder =
            PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv6(host(owner), SERVER6, 64);
        let mut frame = Vec::new();
        builder.icmpv6_echo_reply(7, 1).write(&mut frame, b"payload").unwrap();
        assert_eq!(one(gateway.send(LAN, &frame)).0, owner + 1);
    }
    assert_eq!(gateway.engines[0].flows(), 0);
}

#[test]
fn an_uplink_outside_the_policy_does_not_stand_in_for_it() {
    let mut gateway = gateway();
    let path = gateway.half.uplinks[2].path_mut(Family::V6);
    path.next_hop_mac = Mac::new(next_hop_mac(2));
    by_source(&mut gateway, 2);
    set_state(&gateway, 2, path_state::USABLE);
    gateway.half.lan_prefixes[5].address = prefix(2);
    gateway.publish(BUCKETS / 2);
    assert_refused(one(gateway.send(LAN, &udp6(host(2), 1000))), host(2));
}
