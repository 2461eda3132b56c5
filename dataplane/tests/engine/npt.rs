//! Prefix translation: a host has another address by each uplink, and all else as it was.

use etherparse::{Icmpv6Type, PacketBuilder};
use weir_dataplane::engine::{Engine, Owner};
use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, PathId, PathPrefix, PortForward, Prefix, Translate};
use weir_layout::counters::Counter;
use weir_wire::family::{Family as _, V6};
use weir_wire::npt;
use weir_wire::parse::parse6;
use weir_wire::{icmpv6, tcp};

use super::gateway::*;
use super::packets6::{ROUTER6, SERVER6, assert_only_replies_return, packet, see6};
use super::services::{enter, service};

const INSIDE: [u8; 16] = [0xfd, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
const HOST6: [u8; 16] = [0xfd, 0, 0, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0x77];
/// What the uplinks' providers delegate.
const OUTSIDE: [[u8; 16]; 2] = [
    [0x20, 1, 0, 2, 0, 0, 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [0x20, 1, 0, 2, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
];

fn pair(uplink: u8, inside_len: u8, outside_len: u8) -> PathPrefix {
    let (mut inside, mut outside) = (INSIDE, OUTSIDE[usize::from(uplink)]);
    inside[usize::from(inside_len / 8)..].fill(0);
    outside[usize::from(outside_len / 8)..].fill(0);
    let adjustment = npt::adjustment(inside, outside);
    PathPrefix {
        inside,
        outside,
        inside_len,
        outside_len,
        adjustment,
        uplink,
        ..PathPrefix::UNUSED
    }
}

/// Uplinks 0 and 1 translate the LAN's prefix, each to its provider's.
fn gateway() -> Gateway {
    with([pair(0, 64, 56), pair(1, 64, 56)])
}

fn with(pairs: [PathPrefix; 2]) -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    for uplink in &mut gateway.half.uplinks[..2] {
        uplink.path_mut(Family::V6).translate = Translate::Npt as u8;
    }
    gateway.half.path_prefixes[..2].copy_from_slice(&pairs);
    gateway.half.path_prefix_count = 2;
    gateway.half.lan_prefixes[2] =
        Prefix { address: [0xfd; 16], family: 6, length: 8, ..Prefix::ANY };
    gateway.half.lan_prefixes[2].address[1..].fill(0);
    gateway.publish(BUCKETS / 2);
    gateway
}

fn out_from(source: [u8; 16], proto: u8) -> Vec<u8> {
    packet([HOST_MAC, device_mac(LAN)], [source, SERVER6], (proto, false), 64, 8)
}

fn out(proto: u8) -> Vec<u8> {
    out_from(HOST6, proto)
}

/// The host by the uplink on a device.
fn outside(device: u8) -> [u8; 16] {
    npt::outward(&pair(device - 1, 64, 56), HOST6).unwrap()
}

fn answer(proto: u8, device: u8) -> Vec<u8> {
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    packet(macs, [SERVER6, outside(device)], (proto, true), 64, 8)
}

fn set_state(gateway: &Gateway, device: u8, state: u32) {
    gateway.writer.set_path_state(PathId::new(device - 1, Family::V6), state);
}

#[test]
fn a_flow_leaves_from_its_providers_prefix_with_every_other_byte_as_it_was() {
    for proto in [UDP, TCP, V6::ICMP] {
        let mut gateway = gateway();
        let (device, frame) = one(gateway.send(LAN, &out(proto)));
        let p = see6(&frame);
        assert_eq!((p.src, p.dst), (outside(device), SERVER6));
        assert_eq!(frame[54..], out(proto)[54..], "protocol {proto}");
        let (back, frame) = one(gateway.send(device, &answer(proto, device)));
        let p = see6(&frame);
        assert_eq!((back, p.src, p.dst), (LAN, SERVER6, HOST6));
        assert_eq!(frame[54..], answer(proto, device)[54..], "protocol {proto}");
        assert_eq!(one(gateway.send(LAN, &out(proto))).0, device);
        assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (1, 0));
        gateway.assert_conserved();
    }
}

#[test]
fn a_ping_from_outside_is_of_no_flow_though_a_host_pings_with_its_identifier() {
    assert_only_replies_return(gateway, HOST6);
}

#[test]
fn a_host_that_would_have_an_address_of_the_gateway_has_none() {
    let mut gateway = gateway();
    gateway.half.kept[..2].copy_from_slice(&[1, 2].map(|device| Address(outside(device))));
    gateway.half.kept_count = 2;
    gateway.publish(BUCKETS / 2);
    let (device, told) = one(gateway.send(LAN, &out(UDP)));
    assert_eq!((device, see6(&told).proto), (LAN, V6::ICMP));
    assert_eq!((gateway.count(Counter::DropUntranslatable), gateway.engines[0].flows()), (1, 0));
    gateway.assert_conserved();
}

#[test]
fn a_wrong_checksum_stays_as_wrong_as_it_was() {
    let mut gateway = gateway();
    for proto in [UDP, TCP, V6::ICMP] {
        let mut frame = out(proto);
        *frame.last_mut().unwrap() ^= 1;
        for _ in 0..2 {
            let (_, sent) = one(gateway.send(LAN, &frame));
            assert_eq!(sent[54..], frame[54..], "protocol {proto}");
        }
    }
}

#[test]
fn a_host_without_an_address_at_the_provider_is_told() {
    let subnet = [0xfd, 0, 0, 1, 0, 2, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1];
    let other = [0xfd, 0, 0, 9, 0, 2, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1];
    let [policy, field] = [[icmpv6::UNREACHABLE, 5], [icmpv6::PARAMETER_PROBLEM, 0]];
    for (source, length, kind, rest) in
        [(subnet, 48, policy, 0u32), (other, 64, policy, 0), (INSIDE, 64, field, 8)]
    {
        let mut gateway = with([pair(0, length, 48), pair(1, length, 48)]);
        let (device, error) = one(gateway.send(LAN, &out_from(source, UDP)));
        let p = see6(&error);
        assert_eq!((device, p.dst), (LAN, source));
        assert_eq!(error[p.l4.into()..][..2], kind);
        assert_eq!(error[p.l4.into()..][4..8], rest.to_be_bytes());
        let reason = match source == other {
            true => Counter::DropForeignSource,
            false => Counter::DropUntranslatable,
        };
        assert_eq!((gateway.count(reason), gateway.engines[0].flows()), (1, 0));
        gateway.assert_conserved();
    }
}

#[test]
fn an_endpoint_has_one_address_whomever_it_talks_to() {
    let mut gateway = gateway();
    let macs = [HOST_MAC, device_mac(LAN)];
    let mut to = |last| {
        let mut server = SERVER6;
        server[15] = last;
        one(gateway.send(LAN, &packet(macs, [HOST6, server], (UDP, false), 64, 8))).0
    };
    let first = to(0);
    assert!((1..16).all(|last| to(last) == first));
}

#[test]
fn a_datagram_flow_goes_on_from_another_providers_prefix() {
    let mut gateway = gateway();
    let (first, _) = one(gateway.send(LAN, &out(UDP)));
    one(gateway.send(first, &answer(UDP, first)));
    set_state(&gateway, first, 0);
    assert!(sweep(&mut gateway).is_empty());
    let (second, frame) = one(gateway.send(LAN, &out(UDP)));
    assert_eq!((second, see6(&frame).src), (3 - first, outside(3 - first)));
    assert!(gateway.send(first, &answer(UDP, first)).is_empty(), "it is there no more");
    assert_eq!(one(gateway.send(second, &answer(UDP, second))).0, LAN);
    assert_eq!(gateway.count(Counter::FlowsMoved), 1);
    gateway.assert_conserved();
}

#[test]
fn a_connection_is_reset_at_both_ends_when_its_uplink_goes_down() {
    let mut gateway = gateway();
    let (first, _) = one(gateway.send(LAN, &out(TCP)));
    one(gateway.send(first, &answer(TCP, first)));
    set_state(&gateway, first, 0);
    let resets = sweep(&mut gateway);
    let ends: Vec<_> = resets.iter().map(|(device, frame)| (*device, see6(frame))).collect();
    assert_eq!(ends.len(), 2);
    for (device, p) in ends {
        assert_ne!(p.tcp_flags & tcp::flag::RST, 0);
        let expected = match device {
            LAN => (SERVER6, HOST6),
            _ => (outside(first), SERVER6),
        };
        assert_eq!((p.src, p.dst), expected);
    }
}

#[test]
fn a_flow_whose_entry_is_lost_goes_on_from_the_same_address() {
    let mut gateway = gateway();
    let (device, frame) = one(gateway.send(LAN, &out(TCP)));
    let source = see6(&frame).src;
    let mut later = self::gateway();
    let (again, frame) = one(later.send(LAN, &out(TCP)));
    assert_eq!((again, see6(&frame).src), (device, source));
    assert_eq!(one(later.send(device, &answer(TCP, device))).0, LAN);
}

#[test]
fn the_next_process_takes_translated_flows_over_without_mappings() {
    let mut gateway = gateway();
    let (device, _) = one(gateway.send(LAN, &out(UDP)));
    gateway.regions.prepare(&gateway.half);
    gateway.engines = vec![Engine::new(0, 1, &gateway.regions, [7, 8])];
    assert_eq!((gateway.engines[0].adopt(), gateway.engines[0].mappings()), (1, 0));
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(one(gateway.send(device, &answer(UDP, device))).0, LAN);
    assert_eq!(gateway.count(Counter::FlowsMoved), 0);
}

#[test]
fn an_error_of_either_side_quotes_the_packet_that_its_receiver_knows() {
    let mut gateway = gateway();
    let (device, sent) = one(gateway.send(LAN, &out(UDP)));
    let (_, delivered) = one(gateway.send(device, &answer(UDP, device)));
    let error = |macs: [[u8; 6]; 2], [src, dst]: [[u8; 16]; 2], about: &[u8]| {
        let builder = PacketBuilder::ethernet2(macs[0], macs[1])
            .ipv6(src, dst, 60)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
        let mut frame = Vec::new();
        builder.write(&mut frame, about).unwrap();
        frame
    };
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    let inward = error(macs, [ROUTER6, outside(device)], &sent[14..]);
    let (back, passed) = one(gateway.send(device, &inward));
    let p = see6(&passed);
    assert_eq!((back, p.src, p.dst), (LAN, ROUTER6, HOST6));
    // Quoted as it was sent, but for the hop that the gateway was.
    assert_eq!(passed[62..][8..40], out(UDP)[14..][8..40]);
    assert_eq!(passed[62..][40..], out(UDP)[14..][40..]);
    let outward = error([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], &delivered[14..]);
    let (there, passed) = one(gateway.send(LAN, &outward));
    let p = see6(&passed);
    assert_eq!((there, p.src, p.dst), (device, outside(device), SERVER6));
    assert_eq!(passed[62..][8..40], answer(UDP, device)[14..][8..40]);
    gateway.assert_conserved();
}

#[test]
fn an_uplink_with_another_prefix_keeps_no_flow_of_the_old_one() {
    let mut gateway = gateway();
    gateway.publish(BUCKETS);
    for proto in [UDP, TCP] {
        assert_eq!(one(gateway.send(LAN, &out(proto))).0, 1);
    }
    assert!(sweep(&mut gateway).is_empty());
    let mut renumbered = pair(0, 64, 56);
    renumbered.outside[6] = 0xc0;
    renumbered.adjustment = npt::adjustment(renumbered.inside, renumbered.outside);
    gateway.half.path_prefixes[0] = renumbered;
    gateway.publish(BUCKETS);
    assert_eq!(one(sweep(&mut gateway)).0, LAN, "the host alone is told");
    let (_, frame) = one(gateway.send(LAN, &out(UDP)));
    assert_eq!(see6(&frame).src, npt::outward(&renumbered, HOST6).unwrap());
}

/// A gateway whose first uplink translates an own prefix, a host of that, and what it is outside.
fn gateway_of_own_prefix() -> (Gateway, [u8; 16], [u8; 16]) {
    let mut gateway = gateway();
    let host = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0x77];
    let (mut inside, by) = (host, pair(0, 64, 56));
    inside[8..].fill(0);
    let own = PathPrefix { inside, adjustment: npt::adjustment(inside, by.outside), ..by };
    (gateway.half.path_prefixes[0], gateway.half.path_prefix_count) = (own, 1);
    gateway.half.lan_prefixes[2] = Prefix { address: inside, family: 6, length: 64, ..Prefix::ANY };
    let outside = npt::outward(&own, host).unwrap();
    (gateway, host, outside)
}

#[test]
fn a_path_that_begins_or_ceases_to_translate_keeps_no_flow_as_it_was() {
    let (mut gateway, host, outside) = gateway_of_own_prefix();
    let changes =
        [(Translate::None, host), (Translate::Npt, outside), (Translate::None, host)].into_iter();
    for (change, (translate, source)) in changes.enumerate() {
        gateway.half.uplinks[0].path_mut(Family::V6).translate = translate as u8;
        gateway.publish(BUCKETS);
        let resets: Vec<_> = sweep(&mut gateway).into_iter().map(|(device, _)| device).collect();
        assert_eq!(resets, [LAN][..usize::from(change != 0)], "the host alone is told");
        for (proto, port) in [(UDP, 0), (TCP, change)] {
            let mut frame = out_from(host, proto);
            frame[54 + 1] ^= port as u8;
            let (device, frame) = one(gateway.send(LAN, &frame));
            assert_eq!((device, parse6(&frame).unwrap().src), (1, source), "{translate:?} {proto}");
        }
        assert!(sweep(&mut gateway).is_empty());
    }
    gateway.assert_conserved();
}

#[test]
fn a_path_may_translate_an_own_prefix_beside_one_that_does_not() {
    let (mut gateway, host, outside) = gateway_of_own_prefix();
    gateway.half.uplinks[1].path_mut(Family::V6).translate = Translate::None as u8;
    for (share, device, source) in [(BUCKETS, 1, outside), (0, 2, host)] {
        gateway.publish(share);
        let frame = out_from(host, if device == 1 { UDP } else { TCP });
        let (leaves, frame) = one(gateway.send(LAN, &frame));
        assert_eq!((leaves, parse6(&frame).unwrap().src), (device, source));
    }
}

#[test]
fn a_service_is_asked_by_its_address_at_the_provider_and_the_providers_router_as_ever() {
    let asker = [&HOST6[..15], &[0x99]].concat().try_into().unwrap();
    let mut gateway = gateway();
    let forward = PortForward {
        inside: Address(HOST6),
        family: Family::V6.index() as u8,
        ..service(UDP, [443; 2], 443, 0b11)
    };
    enter(&mut gateway, forward);
    gateway.publish(BUCKETS);
    gateway.settle(Owner::At(HOST_MAC));
    let ask = |to, answers| packet([[2; 6], device_mac(LAN)], [asker, to], (UDP, answers), 64, 8);
    let (device, asked) = one(gateway.send(LAN, &ask(outside(1), false)));
    let seen = see6(&asked);
    assert_eq!((device, seen.dst), (LAN, HOST6));
    assert_eq!(seen.src, npt::outward(&pair(0, 64, 56), asker).unwrap());
    let macs = [HOST_MAC, device_mac(LAN)];
    let answer = packet(macs, [HOST6, seen.src], (UDP, true), 64, 8);
    let (device, answered) = one(gateway.send(LAN, &answer));
    let seen = see6(&answered);
    assert_eq!((device, seen.src, seen.dst), (LAN, outside(1), asker));
    // Another flow from the same port, by which the host would answer the same: it sees another.
    let (_, asked) = one(gateway.send(LAN, &ask(outside(2), false)));
    let other = see6(&asked);
    assert_eq!(other.src, npt::outward(&pair(0, 64, 56), asker).unwrap());
    assert_ne!(other.sport, 40_000u16.to_be_bytes());
    let mut answer = packet(macs, [HOST6, other.src], (UDP, true), 64, 8);
    answer[56..58].copy_from_slice(&other.sport);
    let (_, answered) = one(gateway.send(LAN, &answer));
    let p = parse6(&answered).unwrap();
    assert_eq!((p.src, p.dst, p.dport), (outside(2), asker, 40_000u16.to_be_bytes()));
    // Of the same prefix, but nobody's here: on the link of the provider's, perhaps.
    let mut router = outside(1);
    router[15] ^= 1;
    assert!(gateway.send(LAN, &ask(router, false)).is_empty(), "an open port, and not the host's");
    assert_eq!(one(gateway.send(LAN, &ask(router, true))).0, 1);
    gateway.assert_conserved();
}

#[test]
fn other_protocols_leave_from_their_providers_prefix_with_every_other_byte_as_it_was() {
    // DCCP, UDP-Lite and mobility have checksums of the pseudo-header, whose sum stays.
    for proto in [33, 41, 47, 50, 59, 132, 135, 136, 253] {
        let mut gateway = gateway();
        let packet = |macs: [[u8; 6]; 2], [src, dst]: [[u8; 16]; 2]| {
            let builder = PacketBuilder::ethernet2(macs[0], macs[1]).ipv6(src, dst, 64);
            let mut frame = Vec::new();
            builder.write(&mut frame, etherparse::IpNumber(proto), b"any bytes").unwrap();
            frame
        };
        let frame = packet([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6]);
        let (device, sent) = one(gateway.send(LAN, &frame));
        let p = parse6(&sent).unwrap();
        assert_eq!((p.src, p.dst), (outside(device), SERVER6));
        assert_eq!(sent[54..], frame[54..], "protocol {proto}");
        let macs = [next_hop_mac(device - 1), device_mac(device)];
        let answer = packet(macs, [SERVER6, outside(device)]);
        let (to, got) = one(gateway.send(device, &answer));
        assert_eq!((to, parse6(&got).unwrap().dst, &got[54..]), (LAN, HOST6, &answer[54..]));
        gateway.assert_conserved();
    }
}

#[test]
fn an_authentication_header_is_refused_by_a_prefix_that_changes() {
    let mut gateway = gateway();
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv6(HOST6, SERVER6, 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, etherparse::IpNumber(51), &[0; 24]).unwrap();
    let (device, error) = one(gateway.send(LAN, &frame));
    assert_eq!((device, error[54], error[55]), (LAN, 1, 1));
    assert_eq!(gateway.count(Counter::DropProtocol), 1);
    assert_eq!(flows(&gateway), 0);
}

#[test]
fn a_service_whose_checksum_the_prefix_leaves_right_is_asked_and_one_with_a_digest_is_not() {
    for proto in [33, 135, 136, 139, 47, 51] {
        let mut gateway = gateway();
        let forward = PortForward {
            inside: Address(HOST6),
            family: Family::V6.index() as u8,
            ..service(proto, [0; 2], 0, 0b11)
        };
        enter(&mut gateway, forward);
        gateway.publish(BUCKETS);
        gateway.settle(Owner::At(HOST_MAC));
        let macs = [next_hop_mac(0), device_mac(1)];
        let builder = PacketBuilder::ethernet2(macs[0], macs[1]).ipv6(SERVER6, outside(1), 64);
        let mut asked = Vec::new();
        // The last can be an authentication header: twelve bytes and a digest.
        let bytes = [59, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7];
        builder.write(&mut asked, etherparse::IpNumber(proto), &bytes).unwrap();
        let got = gateway.send(1, &asked);
        if proto == 51 {
            assert!(got.is_empty());
            assert_eq!(gateway.count(Counter::DropProtocol), 1);
            continue;
        }
        let (to, got) = one(got);
        assert_eq!((to, parse6(&got).unwrap().dst), (LAN, HOST6), "protocol {proto}");
        assert_eq!(got[54..], asked[54..], "protocol {proto}");
        gateway.assert_conserved();
    }
}
