//! Which frames are the kernel's, and which the user tier's.

use etherparse::PacketBuilder;
use weir_wire::layout::control::{OnDataplaneLoss, PortRole};
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::FlowKey4;

use crate::fixture::*;

const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);

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
fn transit_goes_to_the_kernel_if_so_configured() {
    let mut f = Fixture::new("kernel", PortRole::Lan, OnDataplaneLoss::Kernel);
    assert_eq!(f.run(&udp(HOST, 1, SITE, 2)), (PASS, Counter::XdpPassNoDataplane));
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
fn nat_ports_of_an_uplink_are_transit_and_others_the_kernels() {
    let mut f = Fixture::uplink("nat");
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, NAT_PORT)), TRANSIT);
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, 16_384)), TRANSIT);
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, 16_383)), (PASS, Counter::XdpPassLocal));
    assert_eq!(f.run(&udp(SITE, 53, LAN_ADDRESS, NAT_PORT)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn a_ping_answer_is_transit_if_a_flow_waits_for_it() {
    let mut f = Fixture::uplink("echo");
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), (PASS, Counter::XdpPassLocal));
    let id = 77u16.to_be_bytes();
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, id, id, 1));
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), TRANSIT);
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 78)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn an_icmp_error_about_a_nat_port_is_transit() {
    let mut f = Fixture::uplink("error");
    let about = |port| udp(WAN_ADDRESS, port, SITE, 53)[14..].to_vec();
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(NAT_PORT))), TRANSIT);
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(1024))), (PASS, Counter::XdpPassLocal));
}

#[test]
fn own_prefixes_are_transit_once_a_flow_exists() {
    let mut f = Fixture::uplink("own");
    let back = udp(SITE, 53, OWN, 5000);
    assert_eq!(f.run(&back), (PASS, Counter::XdpPassKernelRoute));
    f.add_flow(FlowKey4::new(SITE, OWN, 53u16.to_be_bytes(), 5000u16.to_be_bytes(), 17));
    assert_eq!(f.run(&back), TRANSIT);
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
fn strangers_from_an_uplink_are_the_kernels() {
    let mut f = Fixture::uplink("foreign");
    assert_eq!(f.run(&udp(SITE, 53, [9, 9, 9, 9], 5000)), (PASS, Counter::XdpPassForeign));
    assert_eq!(f.run(&udp(SITE, 53, VPN, 5000)), (PASS, Counter::XdpPassKernelRoute));
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
