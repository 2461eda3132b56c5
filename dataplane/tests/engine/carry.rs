//! Packets of a family that needs no flows.

use weir_layout::Family;
use weir_layout::adjacency::Adjacency;
use weir_layout::control::{
    BUCKETS, Mac, OnUplinkDown, PathId, PathPrefix, Selection, Translate, path_state,
};
use weir_layout::counters::Counter;
use weir_wire::bucket::{self, Fields};
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::parse6;
use weir_wire::tcp;

use super::gateway::*;
use super::packets6::{HOST6, SERVER6, packet, see6};

const ESP: u8 = 50;
const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 0, 0x33];

/// A gateway whose IPv6 needs no flows.
fn gateway() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    gateway.half.stateless[Family::V6.index()].active = 1;
    gateway.half.stateless[Family::V6.index()].selection = Selection::Flow as u8;
    gateway.publish(BUCKETS / 2);
    gateway
}

fn from_lan(src: [u8; 16], proto: u8, hops: u8, len: usize) -> Vec<u8> {
    packet([HOST_MAC, device_mac(LAN)], [src, SERVER6], (proto, false), hops, len)
}

/// A packet for the LAN's host by an uplink, as XDP hands it over.
fn handed(device: u8, to: Adjacency, hops: u8) -> Vec<u8> {
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    let mut frame = packet(macs, [SERVER6, HOST6], (UDP, true), hops, 8);
    frame[..8].copy_from_slice(&to.to_word().to_le_bytes());
    frame
}

fn with_flags(flags: u8) -> Vec<u8> {
    let mut frame = from_lan(HOST6, TCP, 64, 8);
    frame[67] = flags;
    frame
}

fn down(gateway: &Gateway, uplink: u8) {
    gateway.writer.set_path_state(PathId::new(uplink, Family::V6), 0);
}

#[test]
fn a_packet_leaves_by_its_bucket_and_nothing_is_made() {
    let mut gateway = gateway();
    for sport in 0..100u16 {
        for proto in [UDP, TCP] {
            let mut frame = from_lan(HOST6, proto, 64, 8);
            frame[54..56].copy_from_slice(&sport.to_be_bytes());
            let addresses = [HOST6, SERVER6].map(|address| V6::digest(KEY, &address));
            let fields =
                Fields { addresses, proto, ports: u32::from(sport) << 16 | 443, label: 0, host: 0 };
            let bucket = bucket::of(bucket::hash(KEY, Selection::Flow, &fields));
            let uplink = u8::from(usize::from(bucket) >= BUCKETS / 2);
            let (device, sent) = one(gateway.send(LAN, &frame));
            assert_eq!(device, uplink + 1);
            assert_eq!(sent[..12], [next_hop_mac(uplink), device_mac(device)].concat());
            frame[21] -= 1;
            assert_eq!(sent[12..], frame[12..]);
        }
    }
    assert_eq!(gateway.engines[0].flows(), 0);
    let packets =
        |uplink| gateway.regions.counters.path(PathId::new(uplink, Family::V6)).tx_packets;
    assert_eq!(packets(0) + packets(1), 200);
    gateway.assert_conserved();
}

#[test]
fn where_it_is_asked_for_the_flow_label_says_the_bucket_and_a_fragment_has_it_too() {
    let mut gateway = gateway();
    let selection = Selection::FlowLabel as u8;
    gateway.half.stateless[Family::V6.index()].selection = selection;
    gateway.half.policies[0].selection = selection;
    gateway.publish(BUCKETS / 2);
    let mut left_by = |label: u8, sport: u8, is_fragment: bool| {
        let mut frame = from_lan(HOST6, UDP, 64, 8);
        (frame[17], frame[55]) = (label, sport);
        if is_fragment {
            frame.splice(54..54, [UDP, 0, 0, 8 | 1, 0, 0, 0, sport]);
            (frame[20], frame[19]) = (44, frame[19] + 8);
        }
        one(gateway.send(LAN, &frame)).0
    };
    let by: Vec<_> = (1..100).map(|label| left_by(label, 0, false)).collect();
    assert!(by.contains(&1) && by.contains(&2), "{by:?}");
    for (label, device) in (1..100).zip(by) {
        assert_eq!(left_by(label, 9, false), device);
        assert_eq!(left_by(label, 9, true), device);
    }
    let without: Vec<_> = (0..100).map(|sport| left_by(0, sport, false)).collect();
    assert!(without.contains(&1) && without.contains(&2), "{without:?}");
}

#[test]
fn what_begins_ends_or_knows_no_connection_leaves_all_the_same() {
    let mut gateway = gateway();
    for flags in [tcp::flag::SYN, tcp::flag::FIN | tcp::flag::ACK, tcp::flag::RST, tcp::flag::ACK] {
        one(gateway.send(LAN, &with_flags(flags)));
    }
    one(gateway.send(LAN, &from_lan(HOST6, V6::ICMP, 64, 8)));
    let mut esp = from_lan(HOST6, UDP, 64, 8);
    esp[20] = ESP;
    one(gateway.send(LAN, &esp));
    // Too big, about a packet that came in.
    let mut error = from_lan(HOST6, V6::ICMP, 64, 60);
    error[54] = 2;
    error[62] = 0x60;
    one(gateway.send(LAN, &error));
    assert_eq!(gateway.engines[0].flows(), 0);
    gateway.assert_conserved();
}

#[test]
fn fragments_of_a_datagram_leave_by_one_uplink_though_one_alone_has_ports() {
    let mut gateway = gateway();
    let fragment = |offset: u8, sport: u8| {
        let mut frame = from_lan(HOST6, UDP, 64, 8);
        frame[55] = sport;
        frame.splice(54..54, [UDP, 0, 0, offset | 1, 0, 0, 0, 9]);
        (frame[20], frame[19]) = (44, frame[19] + 8);
        frame
    };
    let devices: Vec<_> = (0..20)
        .flat_map(|sport| [fragment(0, sport), fragment(8, sport)])
        .map(|frame| one(gateway.send(LAN, &frame)).0)
        .collect();
    assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
    gateway.assert_conserved();
}

#[test]
fn later_fragments_follow_the_first_though_options_hide_their_protocol() {
    let mut gateway = gateway();
    // What stands behind a first fragment's header is read; of later ones its number alone is known.
    let fragment = |offset: u8, next: u8| {
        let mut frame = from_lan(HOST6, UDP, 64, 8);
        frame.splice(54..54, [next, 0, 0, offset | 1, 0, 0, 0, 9]);
        (frame[20], frame[19]) = (44, frame[19] + 8);
        frame
    };
    let first = one(gateway.send(LAN, &fragment(0, UDP))).0;
    for next in [43, 60, 135, 139, 140] {
        assert_eq!(one(gateway.send(LAN, &fragment(8, next))).0, first, "header {next}");
    }
    gateway.assert_conserved();
}

#[test]
fn what_an_uplink_brought_goes_where_xdp_says() {
    let mut gateway = gateway();
    let host = Adjacency { mac: SOMEBODY, port: LAN };
    for device in [1, 2] {
        let frame = handed(device, host, 64);
        let (to, sent) = one(gateway.send(device, &frame));
        assert_eq!((to, &sent[..6], &sent[6..12]), (LAN, &SOMEBODY[..], &device_mac(LAN)[..]));
        let p = see6(&sent);
        assert_eq!((p.dst, p.ttl), (HOST6, 63));
        let path = PathId::new(device - 1, Family::V6);
        assert_eq!(gateway.regions.counters.path(path).rx_packets, 1);
    }
    assert_eq!(gateway.engines[0].flows(), 0);
    gateway.assert_conserved();
}

#[test]
fn a_checksum_that_is_only_begun_is_made_whole_either_way() {
    let mut gateway = gateway();
    let begin = |mut frame: Vec<u8>, [src, dst]: [[u8; 16]; 2]| {
        let sum = V6::pseudo(&src, &dst, UDP, (frame.len() - 54) as u16);
        frame[60..62].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let host = Adjacency { mac: SOMEBODY, port: LAN };
    let out = begin(from_lan(HOST6, UDP, 64, 8), [HOST6, SERVER6]);
    let back = begin(handed(1, host, 64), [SERVER6, HOST6]);
    for (device, frame) in [(LAN, out), (1, back)] {
        see6(&one(gateway.send(device, &frame)).1);
    }
}

#[test]
fn what_comes_without_a_word_of_xdps_goes_nowhere() {
    let mut gateway = gateway();
    let macs = [next_hop_mac(0), device_mac(1)];
    let plain = packet(macs, [SERVER6, HOST6], (UDP, true), 64, 8);
    let back = handed(1, Adjacency { mac: SOMEBODY, port: 2 }, 64);
    let itself = handed(1, Adjacency { mac: device_mac(1), port: LAN }, 64);
    let nowhere = handed(1, Adjacency { mac: SOMEBODY, port: 63 }, 64);
    let last_hop = handed(1, Adjacency { mac: SOMEBODY, port: LAN }, 1);
    for frame in [plain, back, itself, nowhere, last_hop] {
        assert!(gateway.send(1, &frame).is_empty(), "{frame:02x?}");
    }
    assert_eq!(gateway.count(Counter::DropNoFlow), 5);
    gateway.assert_conserved();
}

#[test]
fn a_frame_to_a_virtual_router_of_the_uplink_is_none_that_xdp_marked() {
    // An address whose last bytes look like a LAN port and a word in use.
    let virtual_router = Mac::new([LAN, 1, 0x5e, 0, 1, 9]);
    let mut gateway = gateway();
    gateway.half.ports[1].virtual_macs[1] = virtual_router;
    gateway.publish(BUCKETS / 2);
    let sender = [LAN, 1, 0, 0, 0, 0x44];
    let frame = packet([sender, virtual_router.bytes()], [SERVER6, HOST6], (UDP, true), 64, 8);
    assert!(gateway.send(1, &frame).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 1);
    gateway.assert_conserved();
}

#[test]
fn a_source_that_has_another_address_outside_does_not_leave_as_it_is() {
    let mut gateway = gateway();
    for uplink in &mut gateway.half.uplinks {
        uplink.path_mut(Family::V6).translate = Translate::Napt as u8;
    }
    gateway.publish(BUCKETS / 2);
    assert!(gateway.send(LAN, &from_lan(HOST6, UDP, 64, 8)).is_empty());
    assert_eq!(gateway.count(Counter::DropUntranslatable), 1);
    gateway.assert_conserved();
}

#[test]
fn who_sends_what_cannot_leave_is_told_why() {
    let mut gateway = gateway();
    let told = |gateway: &mut Gateway, frame: &[u8]| {
        let (device, error) = one(gateway.send(LAN, frame));
        let p = see6(&error);
        assert_eq!((device, p.dst), (LAN, HOST6));
        let l4 = usize::from(p.l4);
        [error[l4], error[l4 + 1]]
    };
    assert_eq!(told(&mut gateway, &from_lan(HOST6, UDP, 1, 8)), V6::TIME_EXCEEDED);
    assert_eq!(told(&mut gateway, &from_lan(HOST6, UDP, 64, 1500)), V6::TOO_BIG);
    (0..2).for_each(|uplink| down(&gateway, uplink));
    assert_eq!(told(&mut gateway, &with_flags(tcp::flag::ACK)), V6::NO_ROUTE);
    assert!(gateway.send(LAN, &from_lan(SERVER6, UDP, 64, 8)).is_empty());
    assert_eq!(gateway.count(Counter::DropSource), 1);
    gateway.assert_conserved();
}

#[test]
fn nobody_is_told_about_an_error() {
    let mut gateway = gateway();
    assert_eq!(gateway.send(LAN, &from_lan(HOST6, UDP, 1, 8)).len(), 1);
    let about = packet([HOST_MAC, HOST_MAC], [SERVER6, HOST6], (UDP, true), 60, 8);
    let builder = etherparse::PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN))
        .ipv6(HOST6, SERVER6, 1)
        .icmpv6(etherparse::Icmpv6Type::PacketTooBig { mtu: 1280 });
    let mut error = Vec::new();
    builder.write(&mut error, &about[14..]).unwrap();
    assert!(gateway.send(LAN, &error).is_empty());
    assert_eq!(gateway.count(Counter::DropTtl), 2);
    gateway.assert_conserved();
}

#[test]
fn where_an_uplink_goes_down_its_packets_take_another_at_once() {
    let mut gateway = gateway();
    down(&gateway, 0);
    for sport in 0..50 {
        let mut frame = from_lan(HOST6, UDP, 64, 8);
        frame[55] = sport;
        assert_eq!(one(gateway.send(LAN, &frame)).0, 2);
    }
    gateway.assert_conserved();
}

/// Each provider has a prefix of its own, and the host an address of the first.
fn by_source() -> Gateway {
    let mut gateway = gateway();
    for uplink in 0..2u8 {
        let path = gateway.half.uplinks[usize::from(uplink)].path_mut(Family::V6);
        path.translate = Translate::Source as u8;
        let mut outside = HOST6;
        (outside[7], outside[15]) = (0x77 + uplink, 0);
        let prefix = PathPrefix { outside, outside_len: 64, uplink, ..PathPrefix::UNUSED };
        gateway.half.path_prefixes[usize::from(uplink)] = prefix;
    }
    gateway.half.path_prefix_count = 2;
    gateway.publish(BUCKETS / 2);
    gateway
}

#[test]
fn a_source_leaves_by_its_provider_and_its_connections_end_with_it() {
    let mut gateway = by_source();
    for sport in 0..50 {
        let mut frame = from_lan(HOST6, UDP, 64, 8);
        frame[55] = sport;
        assert_eq!(one(gateway.send(LAN, &frame)).0, 1);
    }
    down(&gateway, 0);
    for frame in [from_lan(HOST6, UDP, 64, 8), with_flags(tcp::flag::SYN)] {
        let (_, error) = one(gateway.send(LAN, &frame));
        assert_eq!(error[parse6(&error).unwrap().l4.into()..][..2], V6::FOREIGN_SOURCE);
    }
    let (device, reset) = one(gateway.send(LAN, &with_flags(tcp::flag::ACK)));
    let p = see6(&reset);
    assert_eq!((device, p.src, p.dst), (LAN, SERVER6, HOST6));
    assert_ne!(p.tcp_flags & tcp::flag::RST, 0);
    assert!(gateway.send(LAN, &with_flags(tcp::flag::RST)).is_empty(), "none for a reset");
    for says in [OnUplinkDown::Keep, OnUplinkDown::Drop] {
        gateway.half.policies[0].on_uplink_down = says as u8;
        gateway.publish(BUCKETS / 2);
        assert!(gateway.send(LAN, &with_flags(tcp::flag::ACK)).is_empty());
    }
    assert_eq!(gateway.count(Counter::DropUplinkDown), 2);
    gateway.writer.set_path_state(PathId::new(0, Family::V6), path_state::USABLE);
    assert_eq!(one(gateway.send(LAN, &with_flags(tcp::flag::ACK))).0, 1, "it is back");
    gateway.assert_conserved();
}

#[test]
fn flows_of_before_are_let_be_and_go_on_where_they_are_needed_again() {
    let mut gateway = gateway();
    let set = |gateway: &mut Gateway, active| {
        gateway.half.stateless[Family::V6.index()].active = active;
        gateway.publish(BUCKETS / 2);
    };
    set(&mut gateway, 0);
    let (device, _) = one(gateway.send(LAN, &from_lan(HOST6, UDP, 64, 8)));
    assert_eq!(gateway.engines[0].flows(), 1);
    set(&mut gateway, 1);
    assert_eq!(one(gateway.send(LAN, &from_lan(HOST6, UDP, 64, 8))).0, device);
    set(&mut gateway, 0);
    assert_eq!(one(gateway.send(LAN, &from_lan(HOST6, UDP, 64, 8))).0, device);
    assert_eq!(gateway.engines[0].flows(), 1);
    gateway.assert_conserved();
}
