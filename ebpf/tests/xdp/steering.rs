//! Which frames are the kernel's, and which the user tier's.

use std::net::UdpSocket;

use etherparse::PacketBuilder;
use weir_layout::Family;
use weir_layout::control::{
    Filtering, MAX_VIRTUAL_MACS, Mac, OnDataplaneLoss, PortRole, host_class,
};
use weir_layout::counters::Counter;
use weir_shm::hosts::Hosts4;
use weir_wire::ipv4;
use weir_wire::parse::parse;

use crate::fixture::*;
use crate::fragments::fragment;
use weir_wire::key::FlowKey4;

const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);
const MARTIAN: (u32, Counter) = (DROP, Counter::XdpDropMartian);

#[test]
fn before_anything_is_published_all_is_the_kernels() {
    let mut f = Fixture::unpublished("unpublished");
    assert_eq!(f.run(&udp(HOST, 1, SITE, 2)), (PASS, Counter::XdpPassUnconfigured));
}

#[test]
fn transit_is_dropped_while_no_dataplane_is_attached() {
    assert_eq!(Fixture::lan("drop").run(&udp(HOST, 1, SITE, 2)), TRANSIT);
}

#[test]
fn what_the_kernel_has_a_prefix_of_is_no_transit_however_long_that_is() {
    let mut f = Fixture::lan("lengths");
    let mut hosts = Hosts4::open(&f.pins).unwrap();
    let frame = udp(HOST, 1, SITE, 2);
    for length in 1..=32 {
        let prefix = (u32::from_be_bytes(SITE) & u32::MAX << (32 - length)).to_be_bytes();
        let kernels = ((prefix, length as u8), host_class::KERNEL);
        hosts.sync(&[((HOST, 32), host_class::LAN), kernels].into()).unwrap();
        assert_eq!(f.run(&frame), (PASS, Counter::XdpPassKernelRoute), "/{length}");
        hosts.sync(&[((HOST, 32), host_class::LAN)].into()).unwrap();
        assert_eq!(f.run(&frame), TRANSIT, "/{length}");
    }
}

#[test]
fn transit_goes_to_the_kernel_if_so_configured() {
    let mut f = Fixture::new("kernel", PortRole::Lan, OnDataplaneLoss::Kernel);
    assert_eq!(f.run(&udp(HOST, 1, SITE, 2)), (PASS, Counter::XdpPassNoDataplane));
}

#[test]
fn what_comes_for_a_lan_is_the_kernels_where_it_stands_in_and_no_socket_is_there() {
    for (stands_in, becomes) in [
        (OnDataplaneLoss::Kernel, (PASS, Counter::XdpPassNoDataplane)),
        (OnDataplaneLoss::Drop, UNASKED),
    ] {
        let mut f = Fixture::new("stands-in", PortRole::Uplink, stands_in);
        assert_eq!(f.run(&udp(SITE, 53, OWN, 5000)), becomes);
        assert_eq!(f.run(&udp(SITE, 53, POOL, 5000)), UNASKED);
    }
}

#[test]
fn the_gateways_own_addresses_are_the_kernels() {
    let mut f = Fixture::lan("local");
    assert_eq!(f.run(&udp(HOST, 1, LAN_ADDRESS, 53)), (PASS, Counter::XdpPassLocal));
    assert_eq!(f.run(&udp(HOST, 1, WAN_ADDRESS, NAT_PORT)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn lan_and_vpn_prefixes_are_the_kernels() {
    let mut f = Fixture::lan("routes");
    for dst in [[10, 77, 3, 3], OWN, VPN] {
        assert_eq!(f.run(&udp(HOST, 1, dst, 2)), (PASS, Counter::XdpPassKernelRoute));
    }
}

#[test]
fn arp_and_ipv6_are_the_kernels() {
    let mut f = Fixture::lan("other");
    let mut arp = vec![0; 60];
    arp[..6].copy_from_slice(&[0xff; 6]);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(f.run(&arp), (PASS, Counter::XdpPassNotIp));
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv6([1; 16], [2; 16], 64).udp(1, 2);
    let mut ipv6 = Vec::new();
    builder.write(&mut ipv6, &[]).unwrap();
    assert_eq!(f.run(&ipv6), (PASS, Counter::XdpPassIpv6));
}

#[test]
fn broadcast_and_multicast_are_the_kernels() {
    let mut f = Fixture::lan("group");
    let mut dhcp = udp([0; 4], 68, [255; 4], 67);
    dhcp[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(f.run(&dhcp), (PASS, Counter::XdpPassGroup));
    assert_eq!(f.run(&udp(HOST, 1, [224, 0, 0, 5], 2)), (PASS, Counter::XdpPassGroup));
}

/// The frame to everybody on the link.
fn to_everybody(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].fill(0xff);
    frame
}

#[test]
fn from_an_uplink_nothing_for_one_address_of_this_side_comes_to_everybody() {
    let group = (PASS, Counter::XdpPassGroup);
    let mut f = Fixture::uplink("group-one");
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    for dst in [WAN_ADDRESS, LAN_ADDRESS, OWN, VPN, POOL] {
        for port in [NAT_PORT, 80] {
            assert_eq!(f.run(&to_everybody(udp(SITE, 53, dst, port))), MARTIAN, "{dst:?}");
        }
        let lease = udp(SITE, 67, dst, 68);
        assert_eq!(f.run(&to_everybody(lease)), group, "{dst:?}");
    }
    let mut redirect = unreachable(WAN_ADDRESS, &udp(WAN_ADDRESS, 1, SITE, 53)[14..]);
    redirect[34] = 5;
    assert_eq!(f.run(&to_everybody(redirect)), MARTIAN);
    // The last address of the uplink's network.
    assert_eq!(f.run(&to_everybody(udp(SITE, 137, [203, 0, 113, 255], 137))), group);
    let mut f = Fixture::lan("group-one-lan");
    assert_eq!(f.run(&to_everybody(udp(HOST, 1, LAN_ADDRESS, 53))), group, "the kernel's to judge");
}

#[test]
fn nobody_beyond_an_uplink_speaks_to_a_group_in_the_name_of_this_side() {
    let mut f = Fixture::uplink("group-source");
    for dst in [[224, 0, 0, 251], [239, 255, 255, 250], [255; 4]] {
        for source in [HOST, OWN, LAN_ADDRESS, WAN_ADDRESS] {
            assert_eq!(f.run(&to_everybody(udp(source, 5353, dst, 5353))), MARTIAN);
            assert_eq!(f.run(&udp(source, 5353, dst, 5353)), MARTIAN, "by the gateway's address");
        }
        for source in [SITE, POOL, [0; 4]] {
            let frame = to_everybody(udp(source, 67, dst, 68));
            assert_eq!(f.run(&frame), (PASS, Counter::XdpPassGroup), "{source:?}");
        }
    }
}

#[test]
fn frames_for_another_host_are_left_alone() {
    let mut frame = udp(HOST, 1, SITE, 2);
    frame[5] = 9;
    assert_eq!(Fixture::lan("mac").run(&frame), (PASS, Counter::XdpPassOtherHost));
}

#[test]
fn a_vlan_is_a_port_of_its_own() {
    let mut f = Fixture::lan("vlan");
    let mut tagged = udp(HOST, 1, SITE, 2);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(f.run(&tagged), TRANSIT);
    tagged[15] = 8;
    assert_eq!(f.run(&tagged), (PASS, Counter::XdpPassPort));
}

#[test]
fn a_frame_with_two_tags_of_which_the_kernel_would_not_count_one_is_dropped() {
    let mut f = Fixture::uplink("tags");
    let tagged = |tags: &[u8]| {
        let mut frame = udp(SITE, 1, HOST, 2);
        frame.splice(12..12, tags.iter().copied());
        frame
    };
    for tags in [
        [0x81, 0, 0, 0, 0x81, 0, 0, 0],
        [0x81, 0, 0xe0, 0, 0x81, 0, 0, 7],
        [0x81, 0, 0, 7, 0x81, 0, 0, 0],
        [0x88, 0xa8, 0, 0, 0x81, 0, 0, 7],
        [0x88, 0xa8, 0, 7, 0x81, 0, 0, 0],
    ] {
        let malformed = (DROP, Counter::XdpDropMalformed);
        assert_eq!(f.run(&tagged(&tags)), malformed, "{tags:02x?}");
    }
    assert_eq!(f.run(&tagged(&[0x88, 0xa8, 0, 0])), (DROP, Counter::XdpDropMalformed));
    // Of devices that are no ports of ours.
    for tags in [&[0x81, 0, 0, 7, 0x81, 0, 0, 8][..], &[0x88, 0xa8, 0, 7]] {
        assert_eq!(f.run(&tagged(tags)), (PASS, Counter::XdpPassNotIp), "{tags:02x?}");
    }
}

#[test]
fn what_no_flow_waits_for_is_the_kernels_whatever_its_port() {
    let mut f = Fixture::uplink("nat");
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, NAT_PORT)), TRANSIT);
    for (dst, port) in [(WAN_ADDRESS, 51_820), (WAN_ADDRESS, 16_384), (LAN_ADDRESS, NAT_PORT)] {
        assert_eq!(f.run(&udp(SITE, 53, dst, port)), (PASS, Counter::XdpPassLocal));
    }
}

#[test]
fn a_datagram_that_a_mapping_may_let_in_is_transit_unless_a_socket_has_its_port() {
    for (filtering, open) in [
        (Filtering::AddressAndPort, false),
        (Filtering::Address, true),
        (Filtering::Endpoint, true),
    ] {
        let role = PortRole::Uplink;
        let mut f = Fixture::with("open", role, OnDataplaneLoss::Drop, |half| {
            half.uplinks[0].filtering = filtering as u8;
        });
        // As a resolver's, which the control process has yet to hear of.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let bound = socket.local_addr().unwrap().port();
        let local = (PASS, Counter::XdpPassLocal);
        let mut becomes = |src, dst, port| f.run(&udp(src, 53, dst, port));
        let free = if bound == NAT_PORT { NAT_PORT + 1 } else { NAT_PORT };
        assert_eq!(becomes(SITE, WAN_ADDRESS, free), if open { TRANSIT } else { local });
        assert_eq!(becomes(SITE, POOL, free), UNASKED, "no address of the uplink's");
        assert_eq!(becomes(SITE, LAN_ADDRESS, free), local, "nor this");
        assert_eq!(becomes(VPN, WAN_ADDRESS, free), local, "the kernel has its own way there");
        assert_eq!(becomes(SITE, WAN_ADDRESS, bound), local, "a socket has it");
        assert_eq!(becomes(SITE, WAN_ADDRESS, 16_383), local, "no port of translation");
        assert_eq!(becomes(SITE, OWN, free), UNASKED, "nobody's mapping");
        assert_eq!(f.run(&echo_reply(WAN_ADDRESS, free)), local, "not of UDP");
        let datagram = udp(SITE, 53, WAN_ADDRESS, free);
        for at in [0, 3] {
            let fragment = fragment(&datagram, 7, at);
            assert_eq!(f.run(&fragment), local);
        }
    }
}

#[test]
fn a_ping_answer_is_transit_if_a_flow_waits_for_it() {
    let mut f = Fixture::uplink("echo");
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), (PASS, Counter::XdpPassLocal));
    f.add_flow(parse(&echo_reply(WAN_ADDRESS, 77)).unwrap().key());
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), TRANSIT);
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 78)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn a_ping_is_of_no_flow_that_waits_for_a_reply_nor_an_error_about_a_reply() {
    let local = (PASS, Counter::XdpPassLocal);
    for id in [77, 0] {
        for (dst, otherwise) in [(WAN_ADDRESS, local), (OWN, UNASKED)] {
            let mut f = Fixture::uplink("request");
            let reply = echo_reply(dst, id);
            f.add_flow(parse(&reply).unwrap().key());
            assert_eq!(f.run(&reply), TRANSIT);
            assert_eq!(f.run(&echo(8, [SITE, dst], id)), otherwise);
            let about = |kind| echo(kind, [dst, SITE], id)[14..].to_vec();
            assert_eq!(f.run(&unreachable(dst, &about(8))), TRANSIT);
            assert_eq!(f.run(&unreachable(dst, &about(0))), otherwise);
        }
    }
}

#[test]
fn an_icmp_error_is_transit_if_it_is_about_a_flow() {
    let mut f = Fixture::uplink("error");
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    let about = |port| udp(WAN_ADDRESS, port, SITE, 53)[14..].to_vec();
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(NAT_PORT))), TRANSIT);
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(40_001))), (PASS, Counter::XdpPassLocal));
}

#[test]
fn an_icmp_error_about_what_no_flow_sends_is_the_kernels_though_it_looks_alike() {
    let mut f = Fixture::uplink("alike");
    let local = (PASS, Counter::XdpPassLocal);
    f.add_flow(parse(&echo_reply(WAN_ADDRESS, 77)).unwrap().key());
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    let query = |kind| {
        let builder = PacketBuilder::ipv4(WAN_ADDRESS, SITE, 64);
        let mut packet = Vec::new();
        builder.icmpv4_raw(kind, 0, [0, 77, 0, 1]).write(&mut packet, &[]).unwrap();
        packet
    };
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &query(8))), TRANSIT);
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &query(13))), local, "a timestamp");
    let about = udp(WAN_ADDRESS, NAT_PORT, SITE, 53)[14..].to_vec();
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about)), TRANSIT);
    let mut later = about.clone();
    later[7] = 185;
    later[10..12].fill(0);
    ipv4::Packet::new_unchecked(&mut later[..20]).fill_checksum();
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &later)), local, "a later fragment");
    let mut damaged = about;
    damaged[10] ^= 1;
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &damaged)), local, "a wrong checksum");
}

#[test]
fn a_redirect_or_a_source_quench_from_an_uplink_is_dropped_whoever_it_is_for() {
    let mut f = Fixture::uplink("advice");
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    for port in [NAT_PORT, 40_001] {
        let mut error = unreachable(WAN_ADDRESS, &udp(WAN_ADDRESS, port, SITE, 53)[14..]);
        for kind in [4, 5] {
            error[34] = kind;
            assert_eq!(f.run(&error), (DROP, Counter::XdpDropRedirect));
        }
    }
}

#[test]
fn own_prefixes_are_transit_once_a_flow_exists_and_closed_before() {
    let mut f = Fixture::uplink("own");
    let back = udp(SITE, 53, OWN, 5000);
    let about = udp(OWN, 5000, SITE, 53)[14..].to_vec();
    for frame in [back.clone(), echo_reply(OWN, 9), unreachable(OWN, &about)] {
        assert_eq!(f.run(&frame), UNASKED);
    }
    f.add_flow(FlowKey4::new(SITE, OWN, 53u16.to_be_bytes(), 5000u16.to_be_bytes(), 17));
    assert_eq!(f.run(&back), TRANSIT);
    assert_eq!(f.run(&unreachable(OWN, &about)), TRANSIT);
}

#[test]
fn an_uplink_that_says_so_reaches_the_lans_by_the_kernel() {
    let mut f = Fixture::with("inbound", PortRole::Uplink, OnDataplaneLoss::Drop, |half| {
        half.uplinks[0].path_mut(Family::V4).inbound = 1;
    });
    assert_eq!(f.run(&udp(SITE, 53, OWN, 5000)), (PASS, Counter::XdpPassKernelRoute));
    assert_eq!(f.run(&udp(SITE, 53, POOL, 5000)), UNASKED);
}

#[test]
fn an_address_of_a_pool_that_nobody_has_leads_nowhere() {
    let mut f = Fixture::uplink("pool");
    assert_eq!(f.run(&udp(SITE, 53, POOL, 80)), UNASKED);
    f.add_flow(FlowKey4::new(SITE, POOL, [0, 53], NAT_PORT.to_be_bytes(), 17));
    assert_eq!(f.run(&udp(SITE, 53, POOL, NAT_PORT)), TRANSIT);
    assert_eq!(Fixture::lan("pool-lan").run(&udp(HOST, 1, POOL, 80)), UNASKED);
}

#[test]
fn a_flow_is_found_behind_all_that_share_its_tag() {
    let mut f = Fixture::uplink("behind");
    let key = |port: u16| FlowKey4::new(SITE, OWN, [0, 53], port.to_be_bytes(), 17);
    for other in 1..8 {
        f.insert_as(entry(&key(other), &key(other)), &key(5000));
    }
    f.add_flow(key(5000));
    assert_eq!(f.run(&udp(SITE, 53, OWN, 5000)), TRANSIT);
}

#[test]
fn from_an_uplink_nothing_goes_on_to_others_but_by_the_kernels_routes() {
    let mut f = Fixture::uplink("foreign");
    let foreign = (DROP, Counter::XdpDropForeign);
    assert_eq!(f.run(&udp(SITE, 53, [9, 9, 9, 9], 5000)), foreign);
    assert_eq!(f.run(&udp(SITE, 53, VPN, 5000)), (PASS, Counter::XdpPassKernelRoute));
    for name in [HOST, LAN_ADDRESS, POOL] {
        let spoofed = udp(name, 53, VPN, 5000);
        assert_eq!(f.run(&spoofed), (DROP, Counter::XdpDropMartian), "{name:?}");
    }
}

#[test]
fn a_lease_reaches_the_gateway_before_it_has_the_address() {
    let mut f = Fixture::uplink("lease");
    for address in [[203, 0, 113, 99], POOL] {
        let lease = udp(SITE, 67, address, 68);
        assert_eq!(f.run(&lease), (PASS, Counter::XdpPassForeign), "{address:?}");
    }
    // A provider's private network may be a LAN's too; the gateway itself serves no uplink.
    assert_eq!(f.run(&udp(HOST, 67, POOL, 68)), (PASS, Counter::XdpPassForeign));
    assert_eq!(f.run(&udp(LAN_ADDRESS, 67, POOL, 68)), MARTIAN);
    assert_eq!(f.run(&udp(SITE, 67, OWN, 68)), UNASKED, "a host's");
}

#[test]
fn nobody_beyond_an_uplink_has_an_address_of_this_side() {
    let mut f = Fixture::uplink("inside-out");
    f.add_flow(FlowKey4::new(HOST, OWN, [0, 53], [0, 80], 17));
    for source in [HOST, OWN, WAN_ADDRESS, LAN_ADDRESS, POOL] {
        assert_eq!(f.run(&udp(source, 53, WAN_ADDRESS, 80)), MARTIAN);
        assert_eq!(f.run(&udp(source, 53, OWN, 80)), MARTIAN);
        assert_eq!(f.run(&udp(source, 53, VPN, 80)), MARTIAN);
    }
}

#[test]
fn addresses_that_nobody_has_on_a_wire_are_refused() {
    for role in [PortRole::Lan, PortRole::Uplink] {
        let mut f = Fixture::new("martians", role, OnDataplaneLoss::Drop);
        for nobody in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [240, 0, 0, 1], [255, 1, 1, 1]] {
            assert_eq!(f.run(&udp(nobody, 1, SITE, 2)), MARTIAN, "{nobody:?}");
            assert_eq!(f.run(&udp(SITE, 1, nobody, 2)), MARTIAN, "{nobody:?}");
        }
        assert_eq!(f.run(&udp([224, 0, 0, 1], 1, SITE, 2)), MARTIAN);
        assert_eq!(f.run(&udp([255; 4], 1, SITE, 2)), MARTIAN);
        let mut group = udp(HOST, 1, SITE, 2);
        for source in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            group[6..12].copy_from_slice(&source);
            assert_eq!(f.run(&group), MARTIAN);
        }
    }
}

#[test]
fn malformed_packets_for_the_gateway_are_dropped_and_others_left_alone() {
    let bad_length = |frame: &mut Vec<u8>| frame[39] = 3;
    let bad_checksum = |frame: &mut Vec<u8>| frame[24] ^= 1;
    for role in [PortRole::Lan, PortRole::Uplink] {
        let mut f = Fixture::new("malformed", role, OnDataplaneLoss::Drop);
        for damage in [bad_length as fn(&mut Vec<u8>), bad_checksum] {
            let mut frame = udp(HOST, 1, SITE, 2);
            damage(&mut frame);
            assert_eq!(f.run(&frame), (DROP, Counter::XdpDropMalformed));
            frame[5] = 9;
            assert_eq!(f.run(&frame), (PASS, Counter::XdpPassMalformed));
            frame.splice(12..12, [0x81, 0, 0, 8]);
            assert_eq!(f.run(&frame), (PASS, Counter::XdpPassPort), "another VLAN's");
        }
        let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(HOST, SITE, 64).tcp(1, 2, 3, 4);
        let mut tcp = Vec::new();
        builder.write(&mut tcp, &[]).unwrap();
        tcp[20] = 0x20;
        tcp[16..18].copy_from_slice(&36u16.to_be_bytes());
        tcp[24..26].fill(0);
        ipv4::Packet::new_unchecked(&mut tcp[14..34]).fill_checksum();
        let tiny = (DROP, Counter::XdpDropMalformed);
        assert_eq!(f.run(&tcp[..14 + 36]), tiny, "a first fragment without its whole TCP header");
    }
}

#[test]
fn a_virtual_routers_hardware_address_is_the_gateways() {
    let router = |id| [0, 0, 0x5e, 0, 1, id];
    let mut f = Fixture::with("vrrp", PortRole::Lan, OnDataplaneLoss::Drop, |half| {
        for (mac, id) in half.ports[0].virtual_macs.iter_mut().zip(1..) {
            *mac = Mac::new(router(id));
        }
    });
    let mut frame = udp(HOST, 1, SITE, 2);
    assert_eq!(f.run(&frame), TRANSIT);
    for id in 1..=MAX_VIRTUAL_MACS as u8 {
        frame[..6].copy_from_slice(&router(id));
        assert_eq!(f.run(&frame), TRANSIT);
    }
    frame[5] += 1;
    assert_eq!(f.run(&frame), (PASS, Counter::XdpPassOtherHost));
}

#[test]
fn frames_of_every_length_are_counted_once() {
    for role in [PortRole::Lan, PortRole::Uplink] {
        let mut f = Fixture::new("lengths", role, OnDataplaneLoss::Drop);
        for frame in [
            udp(HOST, 1, SITE, 2),
            unreachable(WAN_ADDRESS, &udp(WAN_ADDRESS, NAT_PORT, SITE, 53)[14..]),
        ] {
            // A test run takes no frame shorter than an Ethernet header.
            for len in 14..=frame.len() {
                f.run(&frame[..len]);
            }
        }
    }
}
