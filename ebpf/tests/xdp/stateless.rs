//! Packets that leave without a flow: from a LAN by their bucket, to a LAN by the kernel's neighbours.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};
use weir_layout::Family;
use weir_layout::adjacency::next_hop;
use weir_layout::control::{
    Address, BUCKETS, ControlHalf, Mac, Name, Origin, PathId, PortRole, Selection, Tier,
    host_class, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_shm::hosts::Hosts;
use weir_wire::bucket::{self, Fields};
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::parse6;
use weir_wire::{icmpv6, tcp, udp};

use crate::fixture::*;
use crate::fixture6::*;

const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Of the LAN, and nobody's that the kernel knows.
const UNKNOWN6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 9];
const KERNEL_ROUTE: (u32, Counter) = (PASS, Counter::XdpPassKernelRoute);
const ESP: u8 = 50;
const PROTOCOLS: [u8; 4] = [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL, ESP];

/// A fixture whose IPv6 needs no flows, with two uplinks, of which this many buckets name the first.
fn fixture_of(
    test: &str,
    role: PortRole,
    share: usize,
    change: impl FnOnce(&mut ControlHalf),
) -> Fixture {
    let f = fixture(test, role, true);
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    let mut second = half.uplinks[0];
    second.name = Name::new("cable");
    second.path_mut(Family::V6).next_hop_mac = Mac::new(SECOND);
    half.uplinks[1] = second;
    let lan_port = if role == PortRole::Lan { 0 } else { OTHER_SIDE };
    let stateless = &mut half.stateless[Family::V6.index()];
    (stateless.active, stateless.selection) = (1, Selection::Flow as u8);
    stateless.remembers = 1;
    stateless.origins[0] = Origin::new(GATEWAY6, 128, lan_port, 0);
    stateless.origins[1] = Origin::new(LAN6, 64, lan_port, 0b11);
    stateless.count = 2;
    change(&mut half);
    let mut table = [1; BUCKETS];
    table[..share].fill(0);
    writer.publish(&mut half, [&[], &[&table]]);
    writer.set_path_state(PathId::new(1, Family::V6), path_state::USABLE);
    f
}

/// The second uplink's next hop.
const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn lan_with(test: &str, share: usize) -> Fixture {
    fixture_of(test, PortRole::Lan, share, |_| ())
}

/// A packet of any protocol; TCP with these flags.
fn any(pair: [[u8; 16]; 2], proto: u8) -> Vec<u8> {
    let mut frame = packet(pair, if proto == ESP { udp::PROTOCOL } else { proto }, 64);
    frame[20] = proto;
    frame
}

fn carried(f: &Fixture, uplink: u8) -> u64 {
    f.counters.path(PathId::new(uplink, Family::V6)).tx_packets
}

/// A namespace with a LAN whose host the kernel knows. The calling thread is in it from now on.
struct Lan(String);

impl Lan {
    fn new(test: &str) -> Self {
        let lan = Self(format!("weir-ebpf-{}-{test}", std::process::id()));
        ip(&format!("netns add {}", lan.0));
        let namespace = File::open(format!("/run/netns/{}", lan.0)).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        ip("link set lo up");
        ip("link add lan0 type veth peer name far0");
        ip("link set far0 up");
        ip("link set lan0 up");
        ip("addr add 2001:2:0:77::1/64 dev lan0 nodad");
        ip("neigh add 2001:2:0:77::2 lladdr 02:00:00:00:00:10 dev lan0");
        lan.forward(true);
        lan
    }

    fn forward(&self, on: bool) {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", u8::from(on).to_string()).unwrap();
    }

    /// An uplink's fixture, with this LAN behind the other side.
    fn fixture(&self, test: &str) -> Fixture {
        let shown = Command::new("ip").args(["-o", "link", "show", "lan0"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let index = shown.split(':').next().unwrap().parse().unwrap();
        fixture_of(test, PortRole::Uplink, BUCKETS, |half| {
            half.ports[0].ifindex = 1;
            half.ports[usize::from(OTHER_SIDE)].ifindex = index;
            assert!(half.insert_port_slot(index, 0, OTHER_SIDE));
            half.uplinks[0].path_mut(Family::V6).inbound = 1;
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

#[test]
fn packets_from_a_lan_leave_by_their_bucket_whether_they_begin_or_end_a_connection() {
    let mut f = lan_with("less-lan", BUCKETS);
    let mut frames: Vec<_> = PROTOCOLS.iter().map(|proto| any([HOST6, SITE6], *proto)).collect();
    for flags in [tcp::flag::SYN, tcp::flag::FIN | tcp::flag::ACK, tcp::flag::RST] {
        let mut frame = out(tcp::PROTOCOL);
        frame[67] = flags;
        frames.push(frame);
    }
    for frame in &frames {
        let (action, counter, sent) = f.run_for_frame(frame);
        assert_eq!((action, counter), FORWARDED, "{frame:02x?}");
        assert_eq!(sent, forwarded(frame, NEXT_HOP));
    }
    assert_eq!(carried(&f, 0), frames.len() as u64);
}

#[test]
fn a_syn_whose_segment_size_is_to_be_clamped_is_the_user_tiers() {
    let mut f = lan_with("less-clamp", BUCKETS);
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    half.uplinks[0].clamp_mss = 1440;
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
    let segment = |flags, words: u8| {
        let mut frame = out(tcp::PROTOCOL);
        (frame[66], frame[67]) = (words << 4, flags);
        frame
    };
    const SYN: u8 = tcp::flag::SYN;
    assert_eq!(f.run(&segment(SYN, 6)), FORWARDED, "nobody is there who could");
    let _socket = f.can_receive();
    let users = (4, Counter::XdpToUser);
    assert_eq!(f.run(&segment(SYN, 6)), users);
    assert_eq!(f.run(&segment(SYN | tcp::flag::ACK, 6)), users);
    assert_eq!(f.run(&segment(SYN, 5)), FORWARDED, "it names none");
    assert_eq!(f.run(&segment(tcp::flag::ACK, 6)), FORWARDED);
}

/// The frame as a router sends it on.
fn forwarded(frame: &[u8], to: [u8; 6]) -> Vec<u8> {
    let mut sent = [&to[..], &OURS, &frame[12..]].concat();
    sent[21] -= 1;
    sent
}

#[test]
fn a_packet_takes_the_bucket_that_its_addresses_and_ports_say() {
    let mut f = lan_with("less-bucket", BUCKETS / 3);
    let mut expected = [0, 0];
    for sport in 0..200u16 {
        for proto in [udp::PROTOCOL, tcp::PROTOCOL] {
            let mut frame = packet([HOST6, SITE6], proto, 64);
            frame[54..56].copy_from_slice(&sport.to_be_bytes());
            assert_eq!(f.run(&frame), FORWARDED);
            let addresses = [HOST6, SITE6].map(|address| V6::digest(KEY, &address));
            let fields =
                Fields { addresses, proto, ports: u32::from(sport) << 16 | 53, label: 0, host: 0 };
            let hash = bucket::hash(KEY, Selection::Flow, &fields);
            expected[usize::from(usize::from(bucket::of(hash)) >= BUCKETS / 3)] += 1;
        }
    }
    assert_eq!([carried(&f, 0), carried(&f, 1)], expected);
    assert!(expected.iter().all(|packets| *packets > 50), "{expected:?}");
}

#[test]
fn where_it_is_asked_for_a_packet_takes_the_bucket_of_its_flow_label() {
    let mut f = fixture_of("less-label", PortRole::Lan, BUCKETS / 3, |half| {
        half.stateless[Family::V6.index()].selection = Selection::FlowLabel as u8;
    });
    let mut expected = [0, 0];
    for label in 1..200u8 {
        let addresses = [HOST6, SITE6].map(|address| V6::digest(KEY, &address));
        let fields =
            Fields { addresses, proto: 0, ports: 0, label: 0xa_0000 | u32::from(label), host: 0 };
        let hash = bucket::hash(KEY, Selection::FlowLabel, &fields);
        let uplink = usize::from(usize::from(bucket::of(hash)) >= BUCKETS / 3);
        for sport in 0..2 {
            let mut frame = out(udp::PROTOCOL);
            (frame[15], frame[17], frame[55]) = (frame[15] | 0xa, label, sport);
            assert_eq!(f.run(&frame), FORWARDED);
            expected[uplink] += 1;
        }
    }
    assert_eq!([carried(&f, 0), carried(&f, 1)], expected);
    assert!(expected.iter().all(|packets| *packets > 50), "{expected:?}");
}

#[test]
fn where_the_path_of_a_bucket_is_down_packets_take_another() {
    let mut f = lan_with("less-down", BUCKETS / 2);
    f.writer().set_path_state(PathId::new(0, Family::V6), 0);
    for sport in 0..100 {
        let mut frame = out(udp::PROTOCOL);
        frame[55] = sport;
        assert_eq!(f.run(&frame), FORWARDED);
    }
    assert_eq!([carried(&f, 0), carried(&f, 1)], [0, 100]);
    f.writer().set_path_state(PathId::new(1, Family::V6), 0);
    assert_eq!(f.run(&out(udp::PROTOCOL)), TRANSIT, "none is left: the user tier says so");
}

#[test]
fn a_source_leaves_by_the_uplinks_that_may_carry_it() {
    let mut f = fixture_of("less-source", PortRole::Lan, BUCKETS, |half| {
        let other = Origin::new(HOST6, 127, 1, 0b01);
        let origins = &mut half.stateless[Family::V6.index()];
        origins.origins[1] = Origin::new(HOST6, 127, 0, 0b10);
        origins.origins[2] = other;
        origins.count = 3;
    });
    assert_eq!(f.run(&out(udp::PROTOCOL)), FORWARDED);
    assert_eq!([carried(&f, 0), carried(&f, 1)], [0, 1], "whatever its bucket");
    assert_eq!(f.run(&tagged(out(udp::PROTOCOL), 7)), FORWARDED);
    assert_eq!([carried(&f, 0), carried(&f, 1)], [1, 1], "behind another port");
    assert_eq!(f.run(&any([UNKNOWN6, SITE6], udp::PROTOCOL)), TRANSIT, "no origin of its own");
    f.writer().set_path_state(PathId::new(1, Family::V6), 0);
    assert_eq!(f.run(&out(udp::PROTOCOL)), TRANSIT, "its uplink is down");
}

#[test]
fn a_source_that_the_kernel_has_elsewhere_within_a_lans_prefix_leaves_by_no_uplink() {
    let mut f = fixture_of("less-vpn", PortRole::Lan, BUCKETS, |half| {
        let origins = &mut half.stateless[Family::V6.index()];
        origins.origins[1] = Origin::new(VPN6, 128, 0, 0);
        origins.origins[2] = Origin::new(LAN6, 48, 0, 0b11);
        origins.count = 3;
    });
    assert_eq!(f.run(&any([VPN6, SITE6], udp::PROTOCOL)), MARTIAN);
    assert_eq!(f.run(&any([HOST6, SITE6], udp::PROTOCOL)), FORWARDED);
}

#[test]
fn what_cannot_leave_at_once_is_left_untouched() {
    let mut f = lan_with("less-left", BUCKETS);
    let plain = out(udp::PROTOCOL);
    let mut large = out(udp::PROTOCOL);
    large.resize(14 + 1501, 0);
    large[18..20].copy_from_slice(&1461u16.to_be_bytes());
    let mut begun = plain.clone();
    let p = parse6(&plain).unwrap();
    let sum = V6::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4);
    begun[60..62].copy_from_slice(&sum.to_be_bytes());
    let mut sound = plain.clone();
    sound[60..62].copy_from_slice(&(sum ^ 1).to_be_bytes());
    let mut short = plain.clone();
    short[58..60].copy_from_slice(&7u16.to_be_bytes());
    let cases = [
        ("last hop", packet([HOST6, SITE6], udp::PROTOCOL, 1), TRANSIT),
        ("destination options", extended(&plain, &[60]), TRANSIT),
        ("fragment", extended(&plain, &[44]), TRANSIT),
        ("larger than the link takes", large, TRANSIT),
        ("a checksum left to a device", begun, TRANSIT),
        ("any other checksum", sound, FORWARDED),
        ("a length below its header's", short, (DROP, Counter::XdpDropMalformed)),
        ("another's source", any([SITE6, SITE6], udp::PROTOCOL), MARTIAN),
        ("the gateway's source", any([GATEWAY6, SITE6], udp::PROTOCOL), MARTIAN),
        ("to the gateway", any([HOST6, GATEWAY6], udp::PROTOCOL), (PASS, Counter::XdpPassLocal)),
        ("within the LANs", any([HOST6, UNKNOWN6], udp::PROTOCOL), KERNEL_ROUTE),
    ];
    for (what, frame, outcome) in cases {
        let (action, counter, after) = f.run_for_frame(&frame);
        assert_eq!((action, counter), outcome, "{what}");
        assert!(outcome == FORWARDED || after == frame, "{what}");
    }
}

#[test]
fn what_the_kernel_has_a_prefix_of_stays_however_long_that_is() {
    let mut f = lan_with("less-lengths", BUCKETS);
    let mut hosts = Hosts::<V6>::open(&f.pins).unwrap();
    let lan = ((LAN6, 64), host_class::LAN);
    let site = u128::from_be_bytes(SITE6);
    for length in (3..=128).step_by(5).chain([16, 32, 40, 41, 48, 56, 57, 64, 65]) {
        let prefix = (site & u128::MAX << (128 - length)).to_be_bytes();
        let kernels = ((prefix, length as u8), host_class::KERNEL);
        hosts.sync(&[lan, kernels].into()).unwrap();
        assert_eq!(f.run(&out(udp::PROTOCOL)), KERNEL_ROUTE, "/{length}");
        hosts.sync(&[lan].into()).unwrap();
        assert_eq!(f.run(&out(udp::PROTOCOL)), FORWARDED, "/{length}");
    }
}

#[test]
fn what_is_no_ipv4_by_its_type_is_not_forwarded_as_such() {
    let mut f = Fixture::lan("less-type");
    f.can_transmit();
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    let stateless = &mut half.stateless[Family::V4.index()];
    stateless.active = 1;
    let Address(host) = Address::from(IpAddr::from(HOST));
    stateless.origins[0] = Origin::new(host, 32, 0, 1);
    stateless.count = 1;
    half.uplinks[0].path_mut(Family::V4).next_hop_mac = Mac::new(SECOND);
    writer.publish(&mut half, [&[&[0; BUCKETS]], &[]]);
    let frame = udp(HOST, 1000, SITE, 53);
    assert_eq!(f.run(&frame), FORWARDED);
    assert_eq!(f.run(&tagged(frame.clone(), 0)), FORWARDED);
    let other = [0x88, 0xb5];
    let mut plain = frame.clone();
    plain[12..14].copy_from_slice(&other);
    assert_eq!(f.run(&plain), (PASS, Counter::XdpPassNotIp));
    let mut inner = tagged(frame, 0);
    inner[16..18].copy_from_slice(&other);
    assert_eq!(f.run(&inner), (PASS, Counter::XdpPassNotIp));
}

#[test]
fn an_entry_of_a_flow_says_nothing_where_none_is_needed() {
    let mut f = lan_with("less-entry", 0);
    let frame = out(udp::PROTOCOL);
    let flags = flag::OFFLOAD | flag::SEEN | flag::INSIDE | flag::INITIATED;
    insert(&f, &frame, flags, next_hop(PathId::new(0, Family::V6)));
    assert_eq!(f.run(&frame), FORWARDED);
    assert_eq!([carried(&f, 0), carried(&f, 1)], [0, 1]);
}

#[test]
fn in_the_user_tier_the_worker_forwards() {
    let mut f =
        fixture_of("less-user", PortRole::Lan, BUCKETS, |half| half.tier = Tier::User as u8);
    assert_eq!(f.run(&out(udp::PROTOCOL)), TRANSIT);
}

#[test]
fn what_an_uplink_brings_for_a_host_goes_to_where_the_kernel_knows_it() {
    let lan = Lan::new("known");
    let mut f = lan.fixture("less-known");
    for proto in PROTOCOLS {
        let frame = any([SITE6, HOST6], proto);
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), FORWARDED, "protocol {proto}");
        assert_eq!(sent, forwarded(&frame, HOST_MAC), "protocol {proto}");
    }
    assert_eq!(f.counters.path(PathId::new(0, Family::V6)).rx_packets, PROTOCOLS.len() as u64);
    ip("neigh replace 2001:2:0:77::2 lladdr 02:00:00:00:00:11 dev lan0");
    let frame = any([SITE6, HOST6], udp::PROTOCOL);
    let moved = forwarded(&frame, [2, 0, 0, 0, 0, 0x11]);
    until(|| f.run_for_frame(&frame).2 == moved);
}

/// Waits for what the program sees when it asks the kernel again.
fn until(mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(10), "it does not come to hold");
    }
}

/// Publishes the same again, with a change.
fn publish(f: &Fixture, change: impl FnOnce(&mut ControlHalf)) {
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    change(&mut half);
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
}

#[test]
fn a_publication_has_the_kernel_asked_again_and_so_is_it_where_more_than_the_host_counts() {
    let lan = Lan::new("again");
    let mut f = lan.fixture("less-again");
    let frame = any([SITE6, HOST6], udp::PROTOCOL);
    let went_to = |f: &mut Fixture, last: u8| {
        ip(&format!("neigh replace 2001:2:0:77::2 lladdr 02:00:00:00:00:{last:02x} dev lan0"));
        f.run_for_frame(&frame).2[5]
    };
    assert_eq!(went_to(&mut f, 0x10), 0x10);
    publish(&f, |_| ());
    assert_eq!(went_to(&mut f, 0x11), 0x11);
    publish(&f, |half| half.stateless[Family::V6.index()].remembers = 0);
    for last in [0x12, 0x13] {
        assert_eq!(went_to(&mut f, last), last);
    }
}

#[test]
fn what_a_lans_hosts_have_the_kernel_route_into_it_is_not_of_the_lan() {
    let lan = Lan::new("advertised");
    let mut f = lan.fixture("less-advertised");
    ip("route add 2607::/16 dev lan0");
    ip("neigh add 2607::1 lladdr 02:00:00:00:00:10 dev lan0");
    let mut other = [0; 16];
    (other[0], other[1], other[15]) = (0x26, 7, 1);
    let frame = any([SITE6, other], udp::PROTOCOL);
    assert_eq!(f.run(&frame), (DROP, Counter::XdpDropForeign));
}

#[test]
fn of_hosts_that_nobody_knows_the_kernel_gets_as_many_as_it_can_ask_for() {
    const UNKNOWN_HOST: (u32, Counter) = (DROP, Counter::XdpDropUnknownHost);
    // What is known of hosts is known by CPU.
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first).unwrap();
    let lan = Lan::new("sweep");
    let mut f = lan.fixture("less-sweep");
    let known = any([SITE6, HOST6], udp::PROTOCOL);
    assert_eq!(f.run(&known), FORWARDED);
    ip("neigh del 2001:2:0:77::2 dev lan0");
    let mut to = 0u16;
    let mut sweep = |f: &mut Fixture| {
        to = to.wrapping_add(1);
        let mut host = UNKNOWN6;
        host[12..14].copy_from_slice(&to.to_be_bytes());
        f.run(&any([SITE6, host], udp::PROTOCOL))
    };
    let since = Instant::now();
    let mut passed = 0;
    until(|| {
        let outcome = sweep(&mut f);
        assert!(outcome == KERNEL_ROUTE || outcome == UNKNOWN_HOST, "{outcome:?}");
        passed += u128::from(outcome == KERNEL_ROUTE);
        outcome == UNKNOWN_HOST
    });
    let windows = since.elapsed().as_millis() / 256 + 2;
    assert!((1..=48 * windows).contains(&passed), "{passed} in {windows} windows");
    // One that it knew before it is asked for at once, and then it is like any other.
    let outcome = loop {
        until(|| sweep(&mut f) == UNKNOWN_HOST);
        let outcome = f.run(&known);
        if outcome != FORWARDED {
            break outcome;
        }
    };
    assert_eq!(outcome, KERNEL_ROUTE);
    until(|| {
        until(|| sweep(&mut f) == UNKNOWN_HOST);
        f.run(&known) == UNKNOWN_HOST
    });
    until(|| sweep(&mut f) == KERNEL_ROUTE);
}

#[test]
fn what_an_uplink_brings_for_a_host_that_nobody_knows_is_the_kernels() {
    let lan = Lan::new("unknown");
    let mut f = lan.fixture("less-unknown");
    let frame = any([SITE6, UNKNOWN6], udp::PROTOCOL);
    let (action, counter, after) = f.run_for_frame(&frame);
    assert_eq!((action, counter), KERNEL_ROUTE);
    assert!(after == frame);
    let known = any([SITE6, HOST6], udp::PROTOCOL);
    assert_eq!(f.run(&packet([SITE6, HOST6], udp::PROTOCOL, 1)), KERNEL_ROUTE, "last hop");
    assert_eq!(f.run(&known), FORWARDED);
    ip("link set lan0 mtu 1280");
    let mut large = known.clone();
    large.resize(14 + 1400, 0);
    large[18..20].copy_from_slice(&1360u16.to_be_bytes());
    until(|| f.run(&large) == KERNEL_ROUTE);
    assert_eq!(f.run(&known), FORWARDED, "a shorter one");
    assert_eq!(f.run(&large), KERNEL_ROUTE, "what is known of it is how long a packet may be");
    lan.forward(false);
    until(|| f.run(&known) == KERNEL_ROUTE);
}

#[test]
fn what_an_uplink_sends_in_the_name_of_this_side_or_to_it_is_as_with_flows() {
    let lan = Lan::new("names");
    let mut f = lan.fixture("less-names");
    for pair in [[GATEWAY6, HOST6], [HOST6, GATEWAY6], [UNKNOWN6, HOST6], [HOST6, SITE6]] {
        assert_eq!(f.run(&any(pair, udp::PROTOCOL)), MARTIAN);
    }
    assert_eq!(f.run(&any([SITE6, GATEWAY6], udp::PROTOCOL)), KERNELS);
    assert_eq!(f.run(&any([SITE6, SITE6], udp::PROTOCOL)), (DROP, Counter::XdpDropForeign));
    // By the VPN it would have come encrypted: the kernel judges.
    assert_eq!(f.run(&any([VPN6, HOST6], udp::PROTOCOL)), KERNEL_ROUTE);
    let mut type_0 = extended(&any([SITE6, HOST6], udp::PROTOCOL), &[43]);
    type_0[56] = 0;
    assert_eq!(f.run(&type_0), UNASKED);
    // Without a worker that takes it.
    let options = extended(&any([SITE6, HOST6], udp::PROTOCOL), &[60]);
    assert_eq!(f.run(&options), KERNEL_ROUTE);
}

#[test]
fn what_an_uplink_brings_for_a_vlan_leaves_with_its_tag() {
    let lan = Lan::new("vlan");
    let mut f = lan.fixture("less-vlan");
    publish(&f, |half| half.ports[usize::from(OTHER_SIDE)].vlan = 7);
    let frame = any([SITE6, HOST6], udp::PROTOCOL);
    let (action, counter, sent) = f.run_for_frame(&frame);
    assert_eq!((action, counter), FORWARDED);
    assert_eq!(sent, tagged(forwarded(&frame, HOST_MAC), 7));
}
