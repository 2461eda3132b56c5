//! IPv6: what leaves in the kernel tier, what is the user tier's, and what stays the kernel's.

use etherparse::PacketBuilder;
use weir_layout::adjacency::{Adjacency, NEXT_HOPS, next_hop};
use weir_layout::control::{BUCKETS, PathId, PortRole, path_state};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::{Family, NONE};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::map::Access;
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::parse6;
use weir_wire::{icmpv6, tcp, udp};

use crate::fixture::*;
use crate::fixture6::*;

const LINK: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const DOCUMENTS: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// As [`insert`], of one that is offered and leads to the uplink.
fn offer(f: &Fixture, frame: &[u8]) -> u32 {
    let flags = flag::OFFLOAD | flag::SEEN | flag::INSIDE | flag::INITIATED;
    insert(f, frame, flags, next_hop(PathId::new(0, Family::V6)))
}

/// The frame as the user tier would send it, without a tag.
fn rewritten(frame: &[u8], to: [u8; 6]) -> Vec<u8> {
    let p = parse6(frame).unwrap();
    let mut frame = frame.to_vec();
    V6::apply(&mut frame, &p, Some(p.proto), &V6::compile(&p.key(), &p.key()));
    [&to[..], &OURS, &[0x86, 0xdd], &frame[usize::from(p.l3)..]].concat()
}

/// Has the ports, which have IPv6, have none.
fn take_ipv6_away(f: &Fixture) {
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    for port in &mut half.ports {
        port.ipv6 = 0;
    }
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
}

/// One fragment header in front of the frame's transport.
pub fn fragmented(frame: &[u8], next: u8, offset: u8, ident: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.splice(54..54, [next, 0, 0, offset | 1, 0, 0, 0, ident]);
    (frame[20], frame[19]) = (44, frame[19] + 8);
    frame
}

#[test]
fn packets_of_offered_ipv6_flows_leave_as_the_user_tier_would_send_them() {
    let mut f = lan("six-offered");
    for proto in [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL] {
        let frame = out(proto);
        let slot = offer(&f, &frame);
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), FORWARDED, "protocol {proto}");
        assert_eq!(sent, rewritten(&frame, NEXT_HOP), "protocol {proto}");
        let after = f.flows6.slot(slot).read().unwrap();
        assert_eq!(after.bytes, frame.len() as u64 - 14);
        assert_ne!(after.last_seen, 0);
    }
    assert_eq!(f.counters.path(PathId::new(0, Family::V6)).tx_packets, 3);
}

#[test]
fn answers_of_offered_ipv6_flows_go_to_their_host_with_its_tag() {
    let mut f = uplink("six-answers");
    let table = Adjacencies::open(&f.pins, Access::Write, KEY).unwrap();
    let mac = [2, 9, 9, 9, 9, 9];
    let adjacency = table.learn(Adjacency { mac, port: OTHER_SIDE + 1 }).unwrap();
    assert!(usize::from(adjacency) >= NEXT_HOPS);
    let frame = packet([SITE6, HOST6], udp::PROTOCOL, 64);
    insert(&f, &frame, flag::OFFLOAD | flag::SEEN, adjacency);
    let (action, counter, sent) = f.run_for_frame(&frame);
    assert_eq!((action, counter), FORWARDED);
    assert_eq!(sent, tagged(rewritten(&frame, mac), 7));
    assert_eq!(f.counters.path(PathId::new(0, Family::V6)).rx_packets, 1);
}

#[test]
fn a_ping_of_ipv6_is_of_no_flow_of_replies_nor_a_reply_of_one_of_pings() {
    for (role, kind, ends, otherwise) in [
        (PortRole::Lan, icmpv6::ECHO_REQUEST, [HOST6, SITE6], TRANSIT),
        (PortRole::Uplink, icmpv6::ECHO_REPLY, [SITE6, HOST6], UNASKED),
    ] {
        for id in [77, 0] {
            let mut f = fixture("six-echo", role, true);
            let of_flow = echo6(kind, ends, id);
            let flags = flag::OFFLOAD | flag::SEEN | flag::side(role as u8);
            insert(&f, &of_flow, flags, next_hop(PathId::new(0, Family::V6)));
            assert_eq!(f.run(&of_flow), FORWARDED);
            let other = icmpv6::ECHO_REQUEST ^ icmpv6::ECHO_REPLY ^ kind;
            assert_eq!(f.run(&echo6(other, ends, id)), otherwise, "{id}");
        }
    }
}

#[test]
fn an_icmpv6_error_is_about_the_message_that_it_quotes() {
    for id in [77, 0] {
        let mut f = uplink("six-quoted-echo");
        insert(&f, &echo6(icmpv6::ECHO_REPLY, [SITE6, HOST6], id), 0, NONE.into());
        let about = |kind| error(&echo6(kind, [HOST6, SITE6], id)[14..]);
        assert_eq!(f.run(&about(icmpv6::ECHO_REQUEST)), TRANSIT);
        assert_eq!(f.run(&about(icmpv6::ECHO_REPLY)), UNASKED, "{id}");
    }
}

#[test]
fn a_tagged_ipv6_frame_leaves_without_its_tag() {
    let mut f = lan("six-tagged");
    let frame = out(udp::PROTOCOL);
    let flags = flag::OFFLOAD | flag::SEEN | flag::INSIDE;
    let key = parse6(&frame).unwrap().key();
    let to = next_hop(PathId::new(0, Family::V6));
    insert_from(&f, &key, flags, to, Adjacency { port: 1, ..SENDER });
    let (action, counter, sent) = f.run_for_frame(&tagged(frame.clone(), 7));
    assert_eq!((action, counter), FORWARDED);
    assert_eq!(sent, rewritten(&frame, NEXT_HOP));
}

#[test]
fn what_the_user_tier_has_to_see_of_ipv6_is_left_to_it_untouched() {
    let mut f = lan("six-left");
    let plain = out(tcp::PROTOCOL);
    let slot = offer(&f, &plain);
    let changed = |at: usize, to: u8| {
        let mut frame = plain.clone();
        frame[at] = to;
        frame
    };
    let cases = [
        ("SYN", changed(67, tcp::flag::SYN)),
        ("RST", changed(67, tcp::flag::RST)),
        ("last hop", packet([HOST6, SITE6], tcp::PROTOCOL, 1)),
        ("another flow", packet([HOST6, SITE6], udp::PROTOCOL, 64)),
        ("destination options", extended(&plain, &[60])),
    ];
    for (what, frame) in cases {
        let (action, counter, sent) = f.run_for_frame(&frame);
        assert_eq!((action, counter), TRANSIT, "{what}");
        assert!(sent == frame, "{what}");
    }
    assert_eq!(f.flows6.slot(slot).read().unwrap().bytes, 0);
    f.writer().set_path_state(PathId::new(0, Family::V6), 0);
    assert_eq!(f.run(&plain), TRANSIT, "its path is down");
    f.writer().set_path_state(PathId::new(0, Family::V6), path_state::USABLE);
    assert_eq!(f.run(&plain), FORWARDED);
    f.flows6.retire(slot);
    assert_eq!(f.run(&plain), TRANSIT, "its flow has ended");
}

#[test]
fn without_a_path_of_ipv6_all_of_it_is_the_kernels() {
    for role in [PortRole::Lan, PortRole::Uplink] {
        let mut f = fixture("six-unserved", role, false);
        let (there, back) = (out(udp::PROTOCOL), packet([SITE6, HOST6], udp::PROTOCOL, 64));
        offer(&f, &there);
        for frame in [there, back, packet([HOST6, DOCUMENTS], udp::PROTOCOL, 64)] {
            let (action, counter, after) = f.run_for_frame(&frame);
            assert_eq!((action, counter), KERNELS);
            assert!(after == frame);
        }
    }
}

#[test]
fn of_a_lans_packets_those_of_its_own_prefix_to_the_world_are_the_user_tiers() {
    let mut f = lan("six-lan");
    let mut run = |src, dst| f.run(&packet([src, dst], udp::PROTOCOL, 64));
    assert_eq!(run(HOST6, SITE6), TRANSIT);
    assert_eq!(run(HOST6, GATEWAY6), (PASS, Counter::XdpPassLocal));
    for source in [SITE6, GATEWAY6, HOST6] {
        assert_eq!(run(source, HOST6), (PASS, Counter::XdpPassKernelRoute));
    }
    assert_eq!(run(LINK, SITE6), KERNELS);
    assert_eq!(run(HOST6, LINK), KERNELS);
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(run(HOST6, group), KERNELS);
    assert_eq!(run([0; 16], group), KERNELS);
    let site = [0xfd, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for nobodys in [DOCUMENTS, site, [0x3f, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] {
        assert_eq!(run(HOST6, nobodys), MARTIAN);
    }
    let mut promiscuous = out(udp::PROTOCOL);
    promiscuous[5] ^= 1;
    assert_eq!(f.run(&promiscuous), KERNELS);
    let solicitation = PacketBuilder::ethernet2(THEIRS, [0x33, 0x33, 0xff, 0, 0, 1])
        .ipv6(LINK, group, 255)
        .icmpv6_raw(135, 0, [0; 4]);
    let mut frame = Vec::new();
    solicitation.write(&mut frame, &HOST6).unwrap();
    assert_eq!(f.run(&frame), KERNELS);
}

#[test]
fn from_an_uplink_only_what_a_flow_waits_for_reaches_a_served_lan() {
    let mut f = uplink("six-uplink");
    let answer = packet([SITE6, HOST6], udp::PROTOCOL, 64);
    assert_eq!(f.run(&answer), UNASKED);
    insert(&f, &answer, 0, NONE.into());
    assert_eq!(f.run(&answer), TRANSIT);
    assert_eq!(f.run(&packet([SITE6, HOST6], tcp::PROTOCOL, 64)), UNASKED);
    for pair in [[GATEWAY6, HOST6], [HOST6, GATEWAY6], [HOST6, SITE6]] {
        assert_eq!(f.run(&packet(pair, udp::PROTOCOL, 64)), MARTIAN);
    }
    assert_eq!(f.run(&packet([SITE6, GATEWAY6], udp::PROTOCOL, 64)), KERNELS);
}

#[test]
fn what_an_uplink_sends_for_nobody_is_dropped() {
    let mut f = uplink("six-nobody");
    let frame = packet([SITE6, SITE6], udp::PROTOCOL, 64);
    assert_eq!(f.run(&frame), (DROP, Counter::XdpDropForeign));
    let mut others = frame.clone();
    others[5] ^= 1;
    assert_eq!(f.run(&others), KERNELS);
    take_ipv6_away(&f);
    assert_eq!(f.run(&frame), KERNELS, "the uplink has no path of IPv6");
}

#[test]
fn what_a_lan_sends_in_anothers_name_is_dropped() {
    let mut f = lan("six-source");
    for source in [SITE6, GATEWAY6, DOCUMENTS] {
        assert_eq!(f.run(&packet([source, SITE6], udp::PROTOCOL, 64)), MARTIAN);
    }
    take_ipv6_away(&f);
    assert_eq!(f.run(&packet([SITE6, SITE6], udp::PROTOCOL, 64)), KERNELS, "no prefix of IPv6");
    assert_eq!(f.run(&out(udp::PROTOCOL)), KERNELS);
}

#[test]
fn an_address_that_nobody_has_does_not_travel() {
    let compatible = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (test, role) in [("six-stray-lan", PortRole::Lan), ("six-stray-wan", PortRole::Uplink)] {
        let mut f = fixture(test, role, true);
        let mut run = |src, dst| f.run(&packet([src, dst], udp::PROTOCOL, 64));
        for nobodys in [[0; 16], compatible] {
            assert_eq!(run(nobodys, HOST6), MARTIAN);
            assert_eq!(run(SITE6, nobodys), MARTIAN);
        }
        assert_eq!(run(group, HOST6), MARTIAN);
        for of_link in [group, LINK] {
            assert_eq!(run(SITE6, of_link), KERNELS);
            assert_eq!(run([0; 16], of_link), KERNELS);
        }
        assert_eq!(run(LINK, HOST6), KERNELS);
    }
}

#[test]
fn nobody_beyond_an_uplink_speaks_to_the_link_in_the_name_of_this_side() {
    let mut f = uplink("six-poses");
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let to_group = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
        frame
    };
    for source in [HOST6, GATEWAY6] {
        for frame in [
            packet([source, LINK], udp::PROTOCOL, 64),
            packet([source, group], udp::PROTOCOL, 64),
            to_group(packet([source, group], icmpv6::PROTOCOL, 255)),
            to_group(packet([source, GATEWAY6], tcp::PROTOCOL, 64)),
        ] {
            assert_eq!(f.run(&frame), MARTIAN, "{frame:02x?}");
            assert_eq!(f.run(&tagged(frame, 7)), MARTIAN);
        }
        let mut solicitation = packet([source, LINK], icmpv6::PROTOCOL, 255);
        solicitation[54] = 135;
        assert_eq!(f.run(&solicitation), KERNELS);
        assert_eq!(f.run(&tagged(to_group(solicitation.clone()), 7)), KERNELS);
        solicitation[21] = 254;
        assert_eq!(f.run(&solicitation), MARTIAN, "it has passed a router");
    }
    for other in [SITE6, LINK] {
        assert_eq!(f.run(&packet([other, group], udp::PROTOCOL, 64)), KERNELS);
        assert_eq!(f.run(&to_group(packet([other, GATEWAY6], udp::PROTOCOL, 64))), KERNELS);
    }
    let mut f = lan("six-poses-lan");
    assert_eq!(f.run(&packet([HOST6, group], udp::PROTOCOL, 64)), KERNELS);
}

#[test]
fn malformed_ipv6_is_left_to_no_kernel_that_forwards() {
    let whole = packet([SITE6, HOST6], tcp::PROTOCOL, 64);
    let mut offset = whole.clone();
    offset[66] = 0x40;
    let mut options = extended(&whole, &[60]);
    options[55] = 200;
    let first = fragmented(&whole, 60, 0, 1);
    let cases = [
        ("a data offset of four words", offset),
        ("less than its length", whole[..whole.len() - 1].to_vec()),
        ("no room for its header", whole[..50].to_vec()),
        ("options beyond its end", options),
        ("a first fragment without all headers", first),
    ];
    for (test, role) in [("six-broken-lan", PortRole::Lan), ("six-broken-wan", PortRole::Uplink)] {
        let mut f = fixture(test, role, true);
        for (what, frame) in &cases {
            assert_eq!(f.run(frame), (DROP, Counter::XdpDropMalformed), "{what}");
            let mut others = frame.clone();
            others[5] ^= 1;
            assert_eq!(f.run(&others), KERNELS, "{what}, for another");
        }
        if role == PortRole::Lan {
            take_ipv6_away(&f);
            assert_eq!(f.run(&cases[0].1), KERNELS);
        }
    }
}

#[test]
fn a_flow_is_found_behind_extension_headers() {
    let mut f = uplink("six-extended");
    let chains: [&[u8]; 4] = [&[60], &[0, 60, 43, 60], &[43], &[60; 8]];
    for proto in [udp::PROTOCOL, tcp::PROTOCOL, icmpv6::PROTOCOL] {
        let answer = packet([SITE6, HOST6], proto, 64);
        for chain in chains {
            assert_eq!(f.run(&extended(&answer, chain)), UNASKED, "{proto} behind {chain:?}");
        }
        insert(&f, &answer, 0, NONE.into());
        for chain in chains {
            let frame = extended(&answer, chain);
            assert_eq!(f.run(&frame), TRANSIT, "{proto} behind {chain:?}");
            assert_eq!(f.run(&tagged(frame, 7)), TRANSIT, "{proto} behind {chain:?}, tagged");
        }
    }
    let answer = packet([SITE6, HOST6], udp::PROTOCOL, 64);
    for chain in [&[60; 9][..], &[60, 0], &[44, 44], &[51], &[135]] {
        assert_eq!(f.run(&extended(&answer, chain)), UNASKED, "{chain:?} is not walked");
    }
    let mut type_0 = extended(&answer, &[43]);
    type_0[56] = 0;
    assert_eq!(f.run(&type_0), UNASKED);
}

#[test]
fn an_own_prefix_that_is_reached_from_outside_gets_no_headers_that_are_not_walked() {
    let mut f = uplink("six-inbound");
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    half.uplinks[0].path_mut(Family::V6).inbound = 1;
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
    let asked = packet([SITE6, HOST6], udp::PROTOCOL, 64);
    assert_eq!(f.run(&extended(&asked, &[60; 8])), (PASS, Counter::XdpPassKernelRoute));
    let mut type_0 = extended(&asked, &[43]);
    type_0[56] = 0;
    for frame in [type_0, extended(&asked, &[60; 9]), extended(&asked, &[44, 44])] {
        assert_eq!(f.run(&frame), UNASKED);
    }
}

#[test]
fn what_a_group_sends_is_dropped() {
    for (test, role) in [("six-group-lan", PortRole::Lan), ("six-group-wan", PortRole::Uplink)] {
        let mut f = fixture(test, role, true);
        let mut frame = match role {
            PortRole::Lan => out(udp::PROTOCOL),
            _ => packet([SITE6, HOST6], udp::PROTOCOL, 64),
        };
        insert(&f, &packet([SITE6, HOST6], udp::PROTOCOL, 64), 0, NONE.into());
        assert_eq!(f.run(&frame), TRANSIT);
        for source in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            frame[6..12].copy_from_slice(&source);
            assert_eq!(f.run(&frame), MARTIAN);
        }
    }
}

#[test]
fn from_a_lan_extension_headers_are_the_user_tiers() {
    let mut f = lan("six-extended-lan");
    for chain in [&[60][..], &[0, 60], &[60; 8], &[60; 9], &[51]] {
        assert_eq!(f.run(&extended(&out(udp::PROTOCOL), chain)), TRANSIT, "{chain:?}");
    }
    let to_gateway = packet([HOST6, GATEWAY6], udp::PROTOCOL, 64);
    for chain in [&[60][..], &[60; 9]] {
        assert_eq!(f.run(&extended(&to_gateway, chain)), (PASS, Counter::XdpPassLocal));
    }
}

#[test]
fn an_icmpv6_error_about_a_flow_is_the_user_tiers_and_any_other_nobodys() {
    let mut f = uplink("six-error");
    let mut sent = out(udp::PROTOCOL);
    insert(&f, &packet([SITE6, HOST6], udp::PROTOCOL, 64), 0, NONE.into());
    // The answer's ports are the other way round.
    (sent[54], sent[55], sent[56], sent[57]) = (0, 53, 0x0f, 0xa0);
    assert_eq!(f.run(&error(&sent[14..])), TRANSIT);
    for chain in [&[60][..], &[0, 43, 60]] {
        let about = extended(&sent, chain);
        assert_eq!(f.run(&error(&about[14..])), TRANSIT, "about a packet with {chain:?}");
        assert_eq!(f.run(&extended(&error(&about[14..]), chain)), TRANSIT, "both with {chain:?}");
    }
    assert_eq!(f.run(&error(&fragmented(&sent, 17, 0, 1)[14..])), TRANSIT);
    assert_eq!(f.run(&error(&fragmented(&sent, 17, 8, 1)[14..])), UNASKED);
    sent[57] ^= 1;
    assert_eq!(f.run(&error(&sent[14..])), UNASKED);
    assert_eq!(f.run(&error(&sent[14..60])), UNASKED);
}

#[test]
fn later_fragments_of_ipv6_go_where_their_first_went() {
    let mut f = uplink("six-fragments");
    let whole = packet([SITE6, HOST6], udp::PROTOCOL, 64);
    insert(&f, &whole, 0, NONE.into());
    let fragment = |offset: u8, ident: u8, port: u8| {
        let mut frame = whole.clone();
        frame[57] = port;
        fragmented(&frame, udp::PROTOCOL, offset, ident)
    };
    assert_eq!(f.run(&fragment(0, 5, 53)), TRANSIT);
    assert_eq!(f.run(&fragment(8, 5, 53)), TRANSIT);
    assert_eq!(f.run(&fragment(0, 5, 54)), UNASKED);
    // That of another waits for its first, but for what may be the gateway's own.
    assert_eq!(f.run(&fragment(8, 6, 53)), TRANSIT);
    let mut of_gateway = fragment(8, 6, 53);
    of_gateway[38..54].copy_from_slice(&GATEWAY6);
    assert_eq!(f.run(&of_gateway), KERNELS);
    // Options before the fragment header are in each; those behind it only in the first, and what
    // the others name as their next header does not count.
    let mut first = extended(&whole, &[60]);
    first = extended(&fragmented(&first, 60, 0, 9), &[60]);
    let later = |ident| extended(&fragmented(&whole, 99, 8, ident), &[60]);
    assert_eq!(f.run(&first), TRANSIT);
    assert_eq!(f.run(&later(9)), TRANSIT);
}
