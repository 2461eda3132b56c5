//! Protocols without ports: GRE, ESP, SCTP and others, by their addresses alone.

use std::collections::HashSet;

use etherparse::{Icmpv4Type, IpNumber, PacketBuilder};
use weir_dataplane::engine::Engine;
use weir_layout::Family;
use weir_layout::control::{
    Address, BUCKETS, Name, OwnPeer, Rule, RuleAction, Selection, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_shm::flows::Entry4;
use weir_wire::family::{Family as _, V6};
use weir_wire::protocol::*;
use weir_wire::{checksum, parse};

use super::gateway::*;
use super::icmp::with_ttl;
use super::nat66;
use super::packets6::{HOST6, SERVER6};

const OTHER_HOST: [u8; 4] = [10, 77, 0, 3];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
/// What translation leaves right.
const TRANSLATED: [u8; 8] = [IPIP, IPV6, GRE, ESP, NO_NEXT_HEADER, SCTP, 115, 253];
/// What it does not.
const CHECKED: [u8; 5] = [DCCP, AH, MOBILITY, UDP_LITE, HIP];

fn packet(
    [from, to]: [[u8; 6]; 2],
    [src, dst]: [[u8; 4]; 2],
    proto: u8,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to).ipv4(src, dst, 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, IpNumber(proto), payload).unwrap();
    frame
}

fn packet6(macs: [[u8; 6]; 2], [src, dst]: [[u8; 16]; 2], proto: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs[0], macs[1]).ipv6(src, dst, 64);
    let mut frame = Vec::new();
    builder.write(&mut frame, IpNumber(proto), b"any bytes").unwrap();
    frame
}

fn out(proto: u8) -> Vec<u8> {
    from_host((HOST_MAC, HOST), SERVER, proto)
}

pub fn from_host((mac, src): ([u8; 6], [u8; 4]), dst: [u8; 4], proto: u8) -> Vec<u8> {
    packet([mac, device_mac(LAN)], [src, dst], proto, b"any bytes")
}

/// From a server by an uplink's device.
pub fn back(device: u8, dst: [u8; 4], proto: u8) -> Vec<u8> {
    packet([next_hop_mac(device - 1), device_mac(device)], [SERVER, dst], proto, b"other bytes")
}

/// Source and destination, of a packet whose header is right.
pub fn ends(frame: &[u8]) -> [[u8; 4]; 2] {
    let p = parse::parse(frame).unwrap();
    [p.src, p.dst]
}

/// All new flows go by one uplink that translates.
fn one_uplink() -> Gateway {
    let mut gateway = Gateway::new();
    gateway.set_state(1, 0);
    gateway.publish(BUCKETS);
    gateway
}

/// The type and code that a host is told, and nothing else.
fn told(gateway: &mut Gateway, frame: &[u8]) -> [u8; 2] {
    let (device, error) = one(gateway.send(LAN, frame));
    assert_eq!((device, ends(&error)[0], error[23]), (LAN, GATEWAY, 1));
    [error[34], error[35]]
}

#[test]
fn by_an_uplink_that_translates_the_address_alone_changes_both_ways() {
    for proto in TRANSLATED {
        let mut gateway = Gateway::new();
        for _ in 0..3 {
            let (device, sent) = one(gateway.send(LAN, &out(proto)));
            let outside = external(device - 1);
            assert_eq!(ends(&sent), [outside, SERVER]);
            assert_eq!((sent[22], &sent[34..]), (63, &out(proto)[34..]), "protocol {proto}");
            let answer = back(device, outside, proto);
            let (to, got) = one(gateway.send(device, &answer));
            assert_eq!((to, ends(&got), &got[..6]), (LAN, [SERVER, HOST], &HOST_MAC[..]));
            assert_eq!((got[22], &got[34..]), (63, &answer[34..]), "protocol {proto}");
        }
        assert_eq!(gateway.count(Counter::FlowsCreated), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn by_an_own_prefix_nothing_changes_whatever_the_protocol_covers() {
    for proto in TRANSLATED.into_iter().chain(CHECKED) {
        let mut gateway = Gateway::new();
        gateway.route_only();
        let frame = from_host((HOST_MAC, OWN), SERVER, proto);
        let (device, sent) = one(gateway.send(LAN, &frame));
        assert_eq!((device, ends(&sent), &sent[34..]), (3, [OWN, SERVER], &frame[34..]));
        let (to, got) = one(gateway.send(device, &back(device, OWN, proto)));
        assert_eq!((to, ends(&got)), (LAN, [SERVER, OWN]));
        assert_eq!(gateway.engines[0].flows(), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn nobody_outside_gets_in_by_a_protocol_that_no_flow_waits_for() {
    let mut gateway = Gateway::new();
    let (device, _) = one(gateway.send(LAN, &out(GRE)));
    let outside = external(device - 1);
    let stranger = |src| {
        let macs = [next_hop_mac(device - 1), device_mac(device)];
        packet(macs, [src, outside], GRE, b"bytes")
    };
    assert!(gateway.send(device, &stranger([198, 51, 100, 99])).is_empty());
    for proto in [IPIP, ESP, SCTP] {
        assert!(gateway.send(device, &back(device, outside, proto)).is_empty());
    }
    assert!(gateway.send(3, &back(3, OWN, GRE)).is_empty());
    assert_eq!(gateway.count(Counter::DropNoFlow), 5);
    gateway.assert_conserved();
}

#[test]
fn one_host_has_an_address_for_a_remote_and_another_host_is_refused_and_the_first_goes_on() {
    let mut gateway = one_uplink();
    one(gateway.send(LAN, &out(ESP)));
    let other = from_host((OTHER_MAC, OTHER_HOST), SERVER, ESP);
    assert_eq!(told(&mut gateway, &other), [3, 1], "for now");
    assert_eq!(gateway.count(Counter::DropNoPort), 1);
    let (_, got) = one(gateway.send(1, &back(1, external(0), ESP)));
    assert_eq!(ends(&got), [SERVER, HOST]);
    // By another protocol, and to another remote, it may.
    one(gateway.send(LAN, &from_host((OTHER_MAC, OTHER_HOST), SERVER, GRE)));
    let elsewhere = from_host((OTHER_MAC, OTHER_HOST), [198, 51, 100, 2], ESP);
    assert_eq!(ends(&one(gateway.send(LAN, &elsewhere)).1)[0], external(0));
    // And this, when the first is gone.
    gateway.now += 601_000;
    age(&mut gateway);
    let (_, sent) = one(gateway.send(LAN, &other));
    assert_eq!(ends(&sent), [external(0), SERVER]);
    gateway.assert_conserved();
}

#[test]
fn a_remote_that_goes_on_keeps_no_place_for_a_host_that_has_left() {
    let mut gateway = one_uplink();
    one(gateway.send(LAN, &out(GRE)));
    for _ in 0..2 {
        gateway.now += 299_000;
        one(gateway.send(1, &back(1, external(0), GRE)));
        age(&mut gateway);
    }
    assert_eq!(flows(&gateway), 1, "what a host only hears it hears so long");
    gateway.now += 3_000;
    one(gateway.send(1, &back(1, external(0), GRE)));
    age(&mut gateway);
    assert_eq!(flows(&gateway), 0);
    let (_, sent) = one(gateway.send(LAN, &from_host((OTHER_MAC, OTHER_HOST), SERVER, GRE)));
    assert_eq!(ends(&sent), [external(0), SERVER]);
    // With an own prefix there is no place to keep: either end does.
    let mut gateway = Gateway::new();
    gateway.route_only();
    one(gateway.send(LAN, &from_host((HOST_MAC, OWN), SERVER, GRE)));
    for _ in 0..4 {
        gateway.now += 299_000;
        one(gateway.send(3, &back(3, OWN, GRE)));
        age(&mut gateway);
    }
    assert_eq!(flows(&gateway), 1);
    gateway.assert_conserved();
}

#[test]
fn a_second_host_takes_another_address_of_the_pool_and_a_third_another_uplink() {
    let mut gateway = Gateway::new();
    let second = [203, 0, 113, 77];
    (gateway.path(0).pool_len, gateway.path(0).pool[1]) = (2, Address::v4(second));
    gateway.publish(BUCKETS);
    let hosts: Vec<_> =
        (0..4u8).map(|n| ([2, 0, 0, 0, 0, 0x20 + n], [10, 77, 0, 20 + n])).collect();
    let mut seen = HashSet::new();
    for host in &hosts[..3] {
        let (device, sent) = one(gateway.send(LAN, &from_host(*host, SERVER, GRE)));
        let [outside, _] = ends(&sent);
        assert!(seen.insert((device, outside)));
        let (_, got) = one(gateway.send(device, &back(device, outside, GRE)));
        assert_eq!(ends(&got)[1], host.1);
    }
    let expected = [(1, external(0)), (1, second), (2, external(1))];
    assert_eq!(seen, HashSet::from(expected));
    assert_eq!(told(&mut gateway, &from_host(hosts[3], SERVER, GRE)), [3, 1]);
    gateway.assert_conserved();
}

#[test]
fn no_flow_without_ports_takes_one() {
    let mut gateway = Gateway::with(1, 1 << 12);
    (gateway.path(0).nat_lo, gateway.path(0).nat_hi) = (20_000, 20_000);
    gateway.publish(BUCKETS);
    gateway.set_state(1, 0);
    for proto in TRANSLATED {
        one(gateway.send(LAN, &out(proto)));
    }
    let other = udp(OTHER_MAC, device_mac(LAN), (OTHER_HOST, 5000), (SERVER, 53));
    let (_, sent) = one(gateway.send(LAN, &other));
    assert_eq!(see(&sent).sport, 20_000);
}

#[test]
fn what_covers_its_addresses_is_refused_where_they_change_and_leaves_where_they_do_not() {
    for proto in CHECKED {
        let mut gateway = Gateway::new();
        assert_eq!(told(&mut gateway, &out(proto)), [3, 2], "protocol {proto}");
        assert_eq!(gateway.count(Counter::DropProtocol), 1);
        assert_eq!(gateway.engines[0].flows(), 0);
        // One of the policy that does not translate takes it.
        gateway.half.policies[0].members[2] = gateway.half.policies[1].members[0];
        gateway.half.policies[0].member_count = 3;
        gateway.publish(BUCKETS);
        let (device, sent) = one(gateway.send(LAN, &from_host((HOST_MAC, OWN), SERVER, proto)));
        assert_eq!((device, ends(&sent)[0]), (3, OWN));
        gateway.assert_conserved();
    }
}

#[test]
fn what_is_of_one_link_or_reserved_is_never_forwarded() {
    let mut gateway = Gateway::new();
    for proto in [0, IGMP, 58, EIGRP, OSPF, PIM, VRRP, 255] {
        assert!(gateway.send(LAN, &out(proto)).is_empty(), "protocol {proto}");
    }
    assert_eq!(gateway.count(Counter::DropProtocol), 8);
    assert_eq!(gateway.count(Counter::FlowsCreated), 0);
    gateway.assert_conserved();
}

#[test]
fn a_packet_without_payload_is_forwarded_and_one_cut_short_is_not() {
    let mut gateway = Gateway::new();
    let empty = packet([HOST_MAC, device_mac(LAN)], [HOST, SERVER], ESP, b"");
    let (_, sent) = one(gateway.send(LAN, &empty));
    assert_eq!((sent.len(), ends(&sent)[1]), (34, SERVER));
    assert!(gateway.send(LAN, &out(ESP)[..40]).is_empty());
    assert_eq!(gateway.count(Counter::DropMalformed), 1);
}

#[test]
fn flows_spread_by_source_destination_and_protocol_and_each_stays_where_it_is() {
    let mut gateway = Gateway::with(1, 1 << 14);
    let uplinks = |gateway: &mut Gateway, selection: Selection| {
        policies(gateway, |policy| policy.selection = selection as u8);
        let mut count = [0; 2];
        for n in 0..1000u16 {
            let dst = [198, 18, (n >> 8) as u8, n as u8];
            let frame = from_host((HOST_MAC, HOST), dst, [GRE, SCTP][selection as usize % 2]);
            let (device, _) = one(gateway.send(LAN, &frame));
            assert_eq!(one(gateway.send(LAN, &frame)).0, device);
            count[usize::from(device) - 1] += 1;
        }
        count
    };
    let [a, b] = uplinks(&mut gateway, Selection::Flow);
    assert!(a > 350 && b > 350, "{a} {b}");
    let [a, b] = uplinks(&mut gateway, Selection::Source);
    assert!(a == 0 || b == 0, "{a} {b}");
}

/// What a router outside says of a packet that left by a device: too big.
fn too_big(device: u8, about: &[u8]) -> Vec<u8> {
    let needed =
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 };
    let builder = PacketBuilder::ethernet2(next_hop_mac(device - 1), device_mac(device))
        .ipv4([192, 0, 2, 9], about[26..30].try_into().unwrap(), 60)
        .icmpv4(Icmpv4Type::DestinationUnreachable(needed));
    let mut frame = Vec::new();
    builder.write(&mut frame, &about[14..]).unwrap();
    frame
}

/// The addresses of the packet that an error quotes, whose checksums are right.
fn quoted(frame: &[u8]) -> [[u8; 4]; 2] {
    assert!(checksum::is_valid(checksum::sum(&frame[34..])));
    assert!(checksum::is_valid(checksum::sum(&frame[42..62])));
    [frame[54..58].try_into().unwrap(), frame[58..62].try_into().unwrap()]
}

#[test]
fn an_error_about_a_flow_reaches_its_host_however_little_it_quotes() {
    for bytes in [0, 4, 8, 9] {
        let mut gateway = Gateway::new();
        let (device, sent) = one(gateway.send(LAN, &out(GRE)));
        let (to, got) = one(gateway.send(device, &too_big(device, &sent[..34 + bytes])));
        assert_eq!((to, ends(&got)[1], got[34], got[35]), (LAN, HOST, 3, 4));
        assert_eq!(quoted(&got), [HOST, SERVER]);
        assert_eq!(got[62..], out(GRE)[34..34 + bytes]);
        // About nobody's packet.
        let others = packet([HOST_MAC, [2; 6]], [external(device - 1), OWN], GRE, b"12345678");
        assert!(gateway.send(device, &too_big(device, &others)).is_empty());
        assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn an_error_from_the_host_leaves_in_the_uplinks_terms() {
    let mut gateway = Gateway::new();
    let (device, _) = one(gateway.send(LAN, &out(SCTP)));
    let outside = external(device - 1);
    let (_, got) = one(gateway.send(device, &back(device, outside, SCTP)));
    let builder = PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64);
    let unreachable = etherparse::icmpv4::DestUnreachableHeader::Protocol;
    let mut frame = Vec::new();
    let builder = builder.icmpv4(Icmpv4Type::DestinationUnreachable(unreachable));
    builder.write(&mut frame, &got[14..42]).unwrap();
    let (to, sent) = one(gateway.send(LAN, &frame));
    assert_eq!((to, ends(&sent)), (device, [outside, SERVER]));
    assert_eq!(quoted(&sent), [SERVER, outside]);
}

#[test]
fn the_last_hop_and_a_packet_that_is_too_large_are_answered() {
    let mut gateway = Gateway::new();
    assert_eq!(told(&mut gateway, &with_ttl(out(GRE), 1)), [11, 0]);
    assert_eq!(gateway.engines[0].flows(), 0);
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
    gateway.publish(BUCKETS / 2);
    let large = packet([HOST_MAC, device_mac(LAN)], [HOST, SERVER], GRE, &[7; 1400]);
    assert_eq!(told(&mut gateway, &large), [3, 4]);
    one(gateway.send(LAN, &out(GRE)));
    assert_eq!(told(&mut gateway, &large), [3, 4], "of a flow too");
    assert_eq!(told(&mut gateway, &with_ttl(out(GRE), 1)), [11, 0]);
    gateway.assert_conserved();
}

/// The packet in two fragments.
fn split(frame: &[u8]) -> [Vec<u8>; 2] {
    let part = |range: std::ops::Range<usize>, word: u16| {
        let mut part = frame[..34].to_vec();
        part.extend_from_slice(&frame[34 + range.start..34 + range.end]);
        let mut ip = weir_wire::ipv4::Packet::new_unchecked(&mut part[14..34]);
        ip.set_total_len(20 + range.len() as u16);
        ip.set_ident(7);
        ip.set_fragment(word);
        ip.fill_checksum();
        part
    };
    [part(0..8, 0x2000), part(8..frame.len() - 34, 1)]
}

#[test]
fn fragments_follow_their_first_both_ways() {
    let mut gateway = Gateway::new();
    let [first, later] = split(&out(ESP));
    let (device, sent) = one(gateway.send(LAN, &first));
    let outside = external(device - 1);
    assert_eq!((ends(&sent), &sent[34..]), ([outside, SERVER], &first[34..]));
    let (to, sent) = one(gateway.send(LAN, &later));
    assert_eq!((to, ends(&sent), &sent[34..]), (device, [outside, SERVER], &later[34..]));
    for fragment in split(&back(device, outside, ESP)) {
        let (to, got) = one(gateway.send(device, &fragment));
        assert_eq!((to, ends(&got), &got[34..]), (LAN, [SERVER, HOST], &fragment[34..]));
    }
    gateway.assert_conserved();
}

#[test]
fn a_first_fragment_of_what_is_of_one_link_is_not_forwarded_either() {
    let mut gateway = Gateway::new();
    let [first, later] = split(&out(OSPF));
    assert!(gateway.send(LAN, &first).is_empty() && gateway.send(LAN, &later).is_empty());
    assert_eq!(gateway.count(Counter::DropProtocol), 1);
    assert_eq!(gateway.count(Counter::DropFragment), 1);
}

#[test]
fn when_its_uplink_goes_down_a_flow_goes_on_by_another() {
    let mut gateway = Gateway::new();
    let (first, _) = one(gateway.send(LAN, &out(GRE)));
    gateway.set_state(first - 1, 0);
    assert!(sweep(&mut gateway).is_empty(), "there is nothing to tell anybody");
    let (device, sent) = one(gateway.send(LAN, &out(GRE)));
    assert_eq!((device, ends(&sent)[0]), (3 - first, external(2 - first)));
    assert_eq!(gateway.engines[0].flows(), 1);
    assert_eq!(gateway.count(Counter::FlowsMoved), 1);
    gateway.set_state(first - 1, path_state::USABLE);
    assert_eq!(one(gateway.send(LAN, &out(GRE))).0, device, "and stays there");
    gateway.assert_conserved();
}

#[test]
fn rules_steer_and_deny_by_the_protocols_number_and_end_what_is_there() {
    let about = |proto, action: RuleAction| Rule {
        name: Name::new("tunnels"),
        protocol: proto,
        action: action as u8,
        ..Rule::any(1)
    };
    let publish = |gateway: &mut Gateway, rule| {
        (gateway.half.rules[0], gateway.half.rule_count) = (rule, 1);
        gateway.publish(BUCKETS / 2);
    };
    let mut gateway = Gateway::new();
    publish(&mut gateway, about(GRE, RuleAction::Policy));
    assert_eq!(one(gateway.send(LAN, &out(GRE))).0, 3);
    assert_ne!(one(gateway.send(LAN, &out(ESP))).0, 3);
    assert_eq!(gateway.engines[0].flows(), 2);
    publish(&mut gateway, about(GRE, RuleAction::Reject));
    assert!(sweep(&mut gateway).is_empty(), "no reset");
    assert_eq!(gateway.engines[0].flows(), 1);
    assert_eq!(told(&mut gateway, &out(GRE)), [3, 13]);
    publish(&mut gateway, about(GRE, RuleAction::Drop));
    assert!(gateway.send(LAN, &out(GRE)).is_empty());
    assert_eq!(gateway.count(Counter::DropRule), 2);
    gateway.assert_conserved();
}

#[test]
fn a_host_that_tries_every_protocol_and_remote_leaves_room_for_others() {
    let mut gateway = Gateway::with(1, 1 << 10);
    let mut begun = 0;
    for n in 0..4000u16 {
        let proto = TRANSLATED[usize::from(n) % TRANSLATED.len()];
        let dst = [198, 18, (n >> 8) as u8, n as u8];
        let sent = gateway.send(LAN, &from_host((HOST_MAC, HOST), dst, proto));
        begun += usize::from(sent.iter().any(|(device, _)| *device != LAN));
    }
    assert!(begun < 500, "{begun}");
    assert!(gateway.count(Counter::DropTableFull) > 3000);
    let other = from_host((OTHER_MAC, OTHER_HOST), SERVER, GRE);
    assert_ne!(one(gateway.send(LAN, &other)).0, LAN);
    gateway.assert_conserved();
}

#[test]
fn the_limits_of_a_host_hold() {
    let mut gateway = Gateway::new();
    gateway.half.flows_per_host = 2;
    gateway.publish(BUCKETS / 2);
    one(gateway.send(LAN, &out(GRE)));
    one(gateway.send(LAN, &udp_out(4000, 53)));
    assert_eq!(told(&mut gateway, &out(ESP)), [3, 1]);
    assert_eq!(gateway.count(Counter::DropHostLimit), 1);
}

#[test]
fn no_two_workers_give_an_address_to_two_hosts_for_one_remote() {
    let mut gateway = Gateway::with(4, 1 << 14);
    gateway.publish(BUCKETS);
    gateway.set_state(1, 0);
    for n in 0..64u8 {
        let dst = [198, 18, 0, n];
        let hosts = [(HOST_MAC, HOST), (OTHER_MAC, OTHER_HOST)];
        let sent = hosts.map(|host| gateway.send_to(n % 4, LAN, &from_host(host, dst, ESP)));
        assert_eq!(sent.map(|sent| one(sent).0), [1, LAN], "the second is told");
        let answer = packet([next_hop_mac(0), device_mac(1)], [dst, external(0)], ESP, b"back");
        let (_, got) = one(gateway.send_to((n + 1) % 4, 1, &answer));
        assert_eq!(ends(&got)[1], HOST);
    }
    restart(&mut gateway, 3, BUCKETS);
    for n in 0..64u8 {
        let answer =
            packet([next_hop_mac(0), device_mac(1)], [[198, 18, 0, n], external(0)], ESP, b"back");
        assert_eq!(ends(&one(gateway.send_to(n % 3, 1, &answer)).1)[1], HOST);
        let other = from_host((OTHER_MAC, OTHER_HOST), [198, 18, 0, n], ESP);
        assert_eq!(one(gateway.send_to(n % 3, LAN, &other)).0, LAN, "adopted, and still there");
    }
    gateway.assert_conserved();
}

#[test]
fn workers_of_another_number_have_the_flows_about_whose_remotes_they_decide() {
    let mut gateway = Gateway::with(4, 1 << 14);
    gateway.publish(BUCKETS);
    let owners = |gateway: &mut Gateway| -> Vec<_> {
        for n in 0..64u8 {
            one(gateway.send_to(n % 3, LAN, &from_host((HOST_MAC, HOST), [198, 18, 0, n], ESP)));
        }
        let table = &gateway.regions.flows;
        let entries = (0..table.capacity()).filter_map(|at| table.slot(at).read());
        let forward = entries.filter(|entry| entry.flags & flag::INITIATED != 0);
        let owner = |entry: Entry4| (entry.key.dst(), entry.state_owner.worker());
        let mut owners: Vec<_> = forward.map(owner).collect();
        owners.sort_unstable();
        owners
    };
    assert_eq!(owners(&mut gateway).len(), 64);
    restart(&mut gateway, 3, BUCKETS);
    let adopted = owners(&mut gateway);
    gateway.now += 601_000;
    (0..16).for_each(|_| _ = age(&mut gateway));
    assert_eq!(gateway.engines.iter().map(Engine::flows).sum::<u64>(), 0);
    assert_eq!(owners(&mut gateway), adopted, "as they would decide");
}

#[test]
fn no_direction_is_offered_to_the_kernel_tier() {
    let mut gateway = Gateway::new();
    for proto in TRANSLATED {
        let (device, _) = one(gateway.send(LAN, &out(proto)));
        one(gateway.send(device, &back(device, external(device - 1), proto)));
        one(gateway.send(LAN, &out(proto)));
    }
    let table = &gateway.regions.flows;
    let entries: Vec<_> = (0..table.capacity()).filter_map(|at| table.slot(at).read()).collect();
    assert_eq!(entries.len(), 2 * TRANSLATED.len());
    assert!(entries.iter().all(|entry| entry.flags & flag::OFFLOAD == 0));
}

/// The gateway itself speaks with the server by a protocol, from this address.
fn speak(gateway: &mut Gateway, local: [u8; 4], protocol: u8) {
    let (local, remote) = (Address::v4(local), Address::v4(SERVER));
    gateway.half.own_peers[0] =
        OwnPeer { local, remote, protocol, family: Family::V4.index() as u8, reserved: [0; 6] };
    gateway.half.own_peer_count = 1;
    gateway.publish(BUCKETS);
}

#[test]
fn a_host_does_not_get_the_address_by_which_the_gateway_itself_speaks_with_the_remote() {
    let mut gateway = Gateway::new();
    speak(&mut gateway, external(0), GRE);
    let (device, sent) = one(gateway.send(LAN, &out(GRE)));
    assert_eq!((device, ends(&sent)[0]), (2, external(1)), "another uplink's");
    assert_eq!(one(gateway.send(LAN, &out(ESP))).0, 1, "by another protocol it does");
    let elsewhere = from_host((HOST_MAC, HOST), [198, 51, 100, 2], GRE);
    assert_eq!(one(gateway.send(LAN, &elsewhere)).0, 1, "and to another remote");
    gateway.set_state(1, 0);
    let other = from_host((OTHER_MAC, OTHER_HOST), SERVER, GRE);
    assert_eq!(told(&mut gateway, &other), [3, 1]);
    gateway.assert_conserved();
}

#[test]
fn a_host_loses_the_address_by_which_the_gateway_begins_to_speak_with_its_remote() {
    let mut gateway = one_uplink();
    one(gateway.send(LAN, &out(GRE)));
    one(gateway.send(LAN, &out(ESP)));
    speak(&mut gateway, [0; 4], GRE);
    assert!(sweep(&mut gateway).is_empty());
    assert_eq!(gateway.engines[0].flows(), 1, "that of ESP stays");
    assert!(gateway.send(1, &back(1, external(0), GRE)).is_empty());
    assert_eq!(told(&mut gateway, &out(GRE)), [3, 1]);
    gateway.assert_conserved();
}

#[test]
fn of_ipv6_the_address_alone_changes_too_and_what_covers_it_is_refused() {
    for proto in TRANSLATED {
        let mut gateway = nat66::gateway();
        let frame = packet6([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], proto);
        let (device, sent) = one(gateway.send(LAN, &frame));
        let outside = nat66::external6(device - 1);
        let p = parse::parse6(&sent).unwrap();
        assert_eq!((p.src, p.dst, &sent[54..]), (outside, SERVER6, &frame[54..]));
        let macs = [next_hop_mac(device - 1), device_mac(device)];
        let (to, got) = one(gateway.send(device, &packet6(macs, [SERVER6, outside], proto)));
        assert_eq!((to, parse::parse6(&got).unwrap().dst), (LAN, HOST6));
        gateway.assert_conserved();
    }
    for proto in CHECKED {
        let mut gateway = nat66::gateway();
        let frame = packet6([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], proto);
        let (device, error) = one(gateway.send(LAN, &frame));
        assert_eq!((device, error[20], error[54], error[55]), (LAN, V6::ICMP, 1, 1));
        assert_eq!(gateway.count(Counter::DropProtocol), 1);
    }
}

#[test]
fn a_header_that_is_not_walked_is_a_protocol_and_one_without_a_next_header_too() {
    let mut gateway = Gateway::new();
    gateway.serve_ipv6();
    for proto in [AH, NO_NEXT_HEADER, MOBILITY, HIP, 140, 253] {
        let frame = packet6([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], proto);
        let (device, sent) = one(gateway.send(LAN, &frame));
        assert_eq!((device == LAN, &sent[54..]), (false, &frame[54..]));
        let behind = super::packets6::with_options(&frame);
        assert_eq!(one(gateway.send(LAN, &behind)).0, device, "behind options it is the same flow");
    }
    assert_eq!(gateway.count(Counter::FlowsCreated), 6);
    let other = packet6([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], 1);
    assert!(gateway.send(LAN, &other).is_empty(), "ICMP of the other family");
    gateway.assert_conserved();
}
