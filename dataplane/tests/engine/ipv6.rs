//! Flows of IPv6: as those of IPv4 behind an own prefix, from end to end untranslated.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{Icmpv6Type, PacketBuilder};
use weir_dataplane::engine::{Engine, Owner};
use weir_dataplane::packet::{HeapFrame, Received};
use weir_layout::control::{BUCKETS, PathId, Selection, path_state};
use weir_layout::counters::Counter;
use weir_layout::{Family, NONE};
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::{Kind, parse6};
use weir_wire::{checksum, tcp};

use super::gateway::*;
use super::packets6::*;

/// Behind the uplinks.
const UPLINKS: [u8; 2] = [1, 2];

fn gateway() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    gateway
}

#[test]
fn a_flow_leaves_as_it_is_and_its_answers_return_by_either_uplink() {
    for proto in [UDP, TCP, V6::ICMP] {
        let mut gateway = gateway();
        let (first, frame) = one(gateway.send(LAN, &out(proto)));
        assert!(UPLINKS.contains(&first));
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&next_hop_mac(first - 1)[..], &device_mac(first)[..])
        );
        assert_eq!(frame[12..], one_hop_on(&out(proto))[12..]);
        for uplink in UPLINKS {
            let frame = answer(proto, uplink);
            let (device, back) = one(gateway.send(uplink, &frame));
            assert_eq!((device, &back[..6]), (LAN, &HOST_MAC[..]));
            assert_eq!(back[12..], one_hop_on(&frame)[12..]);
        }
        let (again, frame) = one(gateway.send(LAN, &out(proto)));
        assert_eq!((again, &frame[12..]), (first, &one_hop_on(&out(proto))[12..]));
        assert_eq!((gateway.engines[0].flows(), gateway.engines[0].mappings()), (1, 0));
        gateway.assert_conserved();
    }
}

#[test]
fn both_families_go_through_in_one_batch_each_in_its_order() {
    let mut gateway = gateway();
    gateway.publish(BUCKETS);
    let frames: Vec<_> =
        (0..9).map(|n| if n % 2 == 0 { udp_out(40_000 + n, 53) } else { out(UDP) }).collect();
    let mut batch: Vec<_> =
        frames.iter().map(|f| Received { frame: HeapFrame::new(f), device: LAN }).collect();
    gateway.engines[0].process(&mut batch, gateway.now, &mut gateway.wire);
    let sent = std::mem::take(&mut gateway.wire.sent);
    let (four, six): (Vec<_>, Vec<_>) = sent.iter().partition(|(_, frame)| frame[12] == 8);
    let ports: Vec<_> = four.iter().map(|(_, frame)| see(frame).sport).collect();
    assert_eq!((ports, six.len()), ((0..5).map(|n| 40_000 + 2 * n).collect(), 4));
    assert!(batch.is_empty());
    gateway.assert_conserved();
}

#[test]
fn nothing_comes_in_that_no_flow_asked_for() {
    let mut gateway = gateway();
    for proto in [UDP, TCP, V6::ICMP] {
        assert!(gateway.send(1, &answer(proto, 1)).is_empty());
        let macs = [next_hop_mac(0), device_mac(1)];
        assert!(gateway.send(1, &packet(macs, [SERVER6, HOST6], (proto, false), 64, 8)).is_empty());
    }
    assert_eq!((gateway.count(Counter::DropNoFlow), gateway.engines[0].flows()), (6, 0));
    gateway.assert_conserved();
}

#[test]
fn a_ping_from_outside_is_of_no_flow_though_a_host_pings_with_its_identifier() {
    assert_only_replies_return(gateway, HOST6);
}

#[test]
fn a_source_that_is_not_behind_its_port_begins_no_flow() {
    let mut gateway = gateway();
    let macs = [HOST_MAC, device_mac(LAN)];
    assert!(gateway.send(LAN, &packet(macs, [ROUTER6, SERVER6], (UDP, false), 64, 8)).is_empty());
    assert_eq!((gateway.count(Counter::DropSource), gateway.engines[0].flows()), (1, 0));
}

#[test]
fn without_a_path_in_the_family_no_flow_begins() {
    let mut gateway = Gateway::new();
    assert!(gateway.send(LAN, &out(UDP)).is_empty());
    assert_eq!(gateway.engines[0].flows(), 0);
    assert_eq!(one(gateway.send(LAN, &udp_out(40_000, 53))).1[12], 8);
    gateway.assert_conserved();
}

#[test]
fn a_flow_ends_when_it_has_been_idle() {
    let mut gateway = gateway();
    one(gateway.send(LAN, &out(UDP)));
    let mut age = |ms| {
        gateway.now += ms;
        gateway.engines[0].age(4096, gateway.now, &mut gateway.wire);
        gateway.engines[0].flows()
    };
    assert_eq!((age(299_000), age(2_000)), (1, 0));
    assert_eq!(gateway.regions.counters.sum(Counter::FlowsExpired), 1);
}

#[test]
fn a_flow_stays_on_its_uplink_whatever_label_its_packets_have() {
    let mut gateway = gateway();
    gateway.half.policies[0].selection = Selection::FlowLabel as u8;
    gateway.publish(BUCKETS / 2);
    let devices: Vec<_> = (0..100)
        .map(|label| {
            let mut frame = out(TCP);
            frame[17] = label;
            one(gateway.send(LAN, &frame)).0
        })
        .collect();
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
    assert_eq!(gateway.engines[0].flows(), 1);
}

#[test]
fn a_flow_leaves_an_uplink_that_is_down_with_its_next_packet() {
    for proto in [UDP, TCP] {
        let mut gateway = gateway();
        let (first, _) = one(gateway.send(LAN, &out(proto)));
        one(gateway.send(first, &answer(proto, first)));
        let path = PathId::new(first - 1, Family::V6);
        gateway.writer.set_path_state(path, 0);
        assert!(!gateway.engines[0].sweep(&mut gateway.wire));
        let (second, frame) = one(gateway.send(LAN, &out(proto)));
        assert_eq!((second, &frame[12..]), (3 - first, &one_hop_on(&out(proto))[12..]));
        assert_eq!(gateway.count(Counter::FlowsMoved), 1);
        // Its path in the other family is not concerned.
        let devices = (0..64).map(|n| one(gateway.send(LAN, &udp_out(30_000 + n, 53))).0);
        assert!(devices.into_iter().any(|device| device == first));
    }
}

#[test]
fn an_idle_flow_leaves_a_path_that_is_being_emptied() {
    let mut gateway = gateway();
    gateway.half.policies[0].idle_s = 10;
    gateway.publish(BUCKETS);
    assert_eq!(one(gateway.send(LAN, &out(UDP))).0, 1);
    gateway.publish(0);
    let state = path_state::USABLE | path_state::DRAINING;
    gateway.writer.set_path_state(PathId::new(0, Family::V6), state);
    gateway.now += 11_000;
    gateway.engines[0].refresh();
    gateway.engines[0].age(4096, gateway.now, &mut gateway.wire);
    assert_eq!(gateway.count(Counter::FlowsMoved), 1);
    assert_eq!(one(gateway.send(LAN, &out(UDP))).0, 2);
}

#[test]
fn the_next_process_takes_the_flows_over() {
    let mut gateway = gateway();
    let (first, _) = one(gateway.send(LAN, &out(TCP)));
    one(gateway.send(LAN, &udp_out(40_000, 53)));
    gateway.regions.prepare(&gateway.half);
    gateway.engines = vec![Engine::new(0, 1, &gateway.regions, [7, 8])];
    assert_eq!(gateway.engines[0].adopt(), 2);
    let active = Family::ALL.map(|family| {
        let of = |n| gateway.regions.counters.path(PathId::new(n, family)).flows_active;
        (0..3).map(of).sum::<u64>()
    });
    assert_eq!(active, [1, 1]);
    assert_eq!(one(gateway.send(first, &answer(TCP, first))).0, LAN);
}

#[test]
fn a_packet_at_its_last_hop_is_answered_and_so_is_one_that_is_too_big() {
    for (hops, len, kind) in [(1, 8, V6::TIME_EXCEEDED), (64, 1400, V6::TOO_BIG)] {
        let mut gateway = gateway();
        gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
        gateway.publish(BUCKETS / 2);
        let macs = [HOST_MAC, device_mac(LAN)];
        let frame = packet(macs, [HOST6, SERVER6], (UDP, false), hops, len);
        let (device, error) = one(gateway.send(LAN, &frame));
        let p = see6(&error);
        assert_eq!((device, p.dst, p.kind), (LAN, HOST6, Kind::IcmpError));
        assert_eq!(p.src, gateway.half.own_address(LAN, Family::V6).0);
        let message = &error[p.l4.into()..p.end.into()];
        assert_eq!(message[..2], kind);
        if kind == V6::TOO_BIG {
            assert_eq!(message[4..8], 1280u32.to_be_bytes());
            assert_eq!(usize::from(p.end - p.l3), 1280, "as much as every link carries");
        }
        assert_eq!(message[8..], frame[14..][..message.len() - 8]);
        assert_eq!(gateway.engines[0].flows(), 0);
        gateway.assert_conserved();
    }
}

#[test]
fn an_error_reaches_the_host_that_sent_the_packet_it_is_about() {
    let mut gateway = gateway();
    let (device, sent) = one(gateway.send(LAN, &out(UDP)));
    let error = |about: &[u8]| {
        let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
            .ipv6(ROUTER6, HOST6, 60)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
        let mut frame = Vec::new();
        builder.write(&mut frame, about).unwrap();
        frame
    };
    let frame = error(&sent[14..]);
    let (back, passed) = one(gateway.send(device, &frame));
    assert_eq!((back, &passed[..6]), (LAN, &HOST_MAC[..]));
    assert_eq!(passed[12..], one_hop_on(&frame)[12..]);
    assert!(gateway.send(device, &error(&answer(UDP, device)[14..])).is_empty());
    let mut damaged = frame;
    damaged[60] ^= 1;
    assert!(gateway.send(device, &damaged).is_empty());
    assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 2);
    gateway.assert_conserved();
}

#[test]
fn whose_a_flow_is_that_comes_from_elsewhere_the_kernel_is_asked_by_its_address() {
    let mut gateway = gateway();
    one(gateway.send(LAN, &out(UDP)));
    let moved = [2, 0, 0, 0, 0, 0x99];
    let frame = packet([moved, device_mac(LAN)], [HOST6, SERVER6], (UDP, false), 64, 8);
    let (device, _) = one(gateway.send(LAN, &frame));
    let mut asked = NONE.into();
    gateway.engines[0].settle_claims(|interface, address| {
        assert_eq!(address, IpAddr::from(Ipv6Addr::from(HOST6)));
        asked = interface;
        Owner::At(moved)
    });
    assert_eq!(asked, 100);
    assert_eq!(one(gateway.send(device, &answer(UDP, device))).1[..6], moved);
}

#[test]
fn a_reset_closes_a_connection_and_the_next_begins_another() {
    let mut gateway = gateway();
    let flagged = |flags| {
        let mut frame = out(TCP);
        let old = [frame[66], std::mem::replace(&mut frame[67], flags)];
        let sum = checksum::Delta::of(old, [frame[66], flags]).apply([frame[70], frame[71]]);
        frame[70..72].copy_from_slice(&sum);
        frame
    };
    one(gateway.send(LAN, &flagged(tcp::flag::SYN)));
    one(gateway.send(LAN, &flagged(tcp::flag::RST | tcp::flag::ACK)));
    one(gateway.send(LAN, &flagged(tcp::flag::SYN)));
    assert_eq!(gateway.count(Counter::FlowsCreated), 2);
    assert_eq!(gateway.engines[0].flows(), 1);
}

#[test]
fn what_is_neither_echo_nor_an_error_is_nobodys() {
    let mut gateway = gateway();
    let mut frame = out(V6::ICMP);
    frame[54] = 133;
    assert!(gateway.send(LAN, &frame).is_empty());
    assert_eq!(gateway.count(Counter::DropProtocol), 1);
}

#[test]
fn extension_headers_go_with_the_packets_of_their_flow() {
    for proto in [UDP, TCP, V6::ICMP] {
        let mut gateway = gateway();
        let frame = with_options(&out(proto));
        let (first, left) = one(gateway.send(LAN, &frame));
        assert_eq!(left[12..], one_hop_on(&frame)[12..]);
        assert_eq!(one(gateway.send(LAN, &out(proto))).0, first, "with or without");
        for uplink in UPLINKS {
            let frame = with_options(&answer(proto, uplink));
            let (device, back) = one(gateway.send(uplink, &frame));
            assert_eq!((device, &back[..6]), (LAN, &HOST_MAC[..]));
            assert_eq!(back[12..], one_hop_on(&frame)[12..]);
        }
        assert_eq!(gateway.engines[0].flows(), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn headers_that_are_not_walked_are_dropped_and_counted() {
    let mut gateway = gateway();
    let routing = [UDP, 0, 0, 0, 0, 0, 0, 0];
    assert!(gateway.send(LAN, &extended(&out(UDP), 43, &routing)).is_empty());
    let many = (0..9).fold(out(UDP), |frame, _| with_options(&frame));
    assert!(gateway.send(LAN, &many).is_empty());
    assert_eq!((gateway.count(Counter::DropOptions), gateway.engines[0].flows()), (2, 0));
    let cut = extended(&out(UDP), 60, &[UDP, 200, 0, 0, 0, 0, 0, 0]);
    assert!(gateway.send(LAN, &cut).is_empty());
    assert_eq!(gateway.count(Counter::DropMalformed), 1);
    gateway.assert_conserved();
}

#[test]
fn fragments_follow_their_first_whatever_headers_it_has_behind_the_fragment_header() {
    let mut gateway = gateway();
    let fragment = |offset: u8, next| [next, 0, 0, offset | 1, 1, 2, 3, 4];
    // Options in each before the fragment header, and in the first behind it.
    let first = extended(&with_options(&out(UDP)), 44, &fragment(0, 60));
    let first = with_options(&first);
    let later = with_options(&extended(&out(UDP), 44, &fragment(48, 99)));
    assert!(gateway.send(LAN, &later).is_empty());
    let sent = gateway.send(LAN, &first);
    let (device, left) = &sent[0];
    assert_eq!(left[12..], one_hop_on(&first)[12..]);
    assert_eq!((sent[1].0, &sent[1].1[12..]), (*device, &one_hop_on(&later)[12..]));
    let (behind, left) = one(gateway.send(LAN, &later));
    assert_eq!((behind, &left[12..]), (*device, &one_hop_on(&later)[12..]));
    gateway.assert_conserved();
}

#[test]
fn a_checksum_left_to_the_device_is_completed_behind_extension_headers() {
    for proto in [UDP, TCP] {
        let mut gateway = gateway();
        let whole = out(proto);
        let p = parse6(&whole).unwrap();
        let at = if proto == TCP { 70 } else { 60 };
        let mut begun = whole.clone();
        let pseudo = V6::pseudo(&p.src, &p.dst, proto, p.end - p.l4);
        begun[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let (_, left) = one(gateway.send(LAN, &with_options(&begun)));
        assert_eq!(left[12..], one_hop_on(&with_options(&whole))[12..]);
    }
}

#[test]
fn errors_quote_and_are_taken_with_extension_headers() {
    let mut gateway = gateway();
    let (device, _) = one(gateway.send(LAN, &with_options(&out(UDP))));
    let expired =
        with_options(&packet([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], (UDP, false), 1, 8));
    let (_, error) = one(gateway.send(LAN, &expired));
    let p = see6(&error);
    assert_eq!((p.kind, p.dst), (Kind::IcmpError, HOST6));
    assert_eq!(error[usize::from(p.l4) + 8..p.end.into()], expired[14..]);
    let sent = with_options(&out(UDP));
    let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
        .ipv6(ROUTER6, HOST6, 60)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
    let mut frame = Vec::new();
    builder.write(&mut frame, &sent[14..]).unwrap();
    for frame in [with_options(&frame), frame] {
        let (back, passed) = one(gateway.send(device, &frame));
        assert_eq!((back, &passed[12..]), (LAN, &one_hop_on(&frame)[12..]));
    }
    gateway.assert_conserved();
}

#[test]
fn extension_headers_count_towards_the_mtu() {
    let mut gateway = gateway();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
    gateway.publish(BUCKETS / 2);
    let macs = [HOST_MAC, device_mac(LAN)];
    // With its options it does not fit.
    let frame = with_options(&packet(macs, [HOST6, SERVER6], (UDP, false), 64, 1280 - 40 - 8 - 15));
    let (_, error) = one(gateway.send(LAN, &frame));
    let p = see6(&error);
    assert_eq!(error[p.l4.into()..][..2], V6::TOO_BIG);
    let frame = with_options(&packet(macs, [HOST6, SERVER6], (UDP, false), 64, 1280 - 40 - 8 - 16));
    assert_eq!(one(gateway.send(LAN, &frame)).1.len(), 14 + 1280);
}
