//! Where rules are asked about what an uplink brings: whatever may begin a flow is the user tier's.

use weir_layout::Family;
use weir_layout::control::{BUCKETS, OnDataplaneLoss, PortRole, Translate, inbound};
use weir_layout::counters::Counter;
use weir_shm::allowances::Allowances;
use weir_wire::{icmpv6, tcp, udp};

use crate::fixture::*;
use crate::fixture6::{HOST6, SITE6, VPN6, echo6, packet};
use crate::services::{TRANSIT, UNASKED, fragment, tcp_from};
use crate::{fixture6, services};

const PORT: u16 = 4711;

/// An uplink whose paths leave hosts their ports, and are reached so.
fn uplink(test: &str, inbound: u8) -> Fixture {
    Fixture::with(test, PortRole::Uplink, OnDataplaneLoss::Drop, |half| {
        let path = half.uplinks[0].path_mut(Family::V4);
        (path.translate, path.inbound) = (Translate::None as u8, inbound);
    })
}

#[test]
fn whatever_may_begin_a_flow_with_a_host_is_the_user_tiers_and_nothing_else() {
    for inbound in [inbound::RULED, inbound::RULED | inbound::OPEN] {
        let mut f = uplink("rules", inbound);
        for frame in [
            tcp_from(SITE, OWN, PORT),
            udp(SITE, 5000, OWN, PORT),
            echo(8, [SITE, OWN], 7),
            fragment(udp(SITE, 5000, OWN, PORT), 1, 0),
            fragment(udp(SITE, 5000, OWN, PORT), 1, 2),
            // It waits for its first.
            fragment(udp(SITE, 5000, OWN, PORT), 9, 2),
        ] {
            assert_eq!(f.run(&frame), TRANSIT, "{frame:?}");
        }
        let mut segment = tcp_from(SITE, OWN, PORT);
        segment[47] = 0x10;
        for (what, frame) in [
            ("a segment of a connection", segment),
            ("an answer", echo(0, [SITE, OWN], 7)),
            ("an error", unreachable(OWN, &udp(OWN, 1, SITE, 2)[14..])),
            ("who the kernel has a way of its own to", udp(VPN, 5000, OWN, PORT)),
        ] {
            assert_eq!(f.run(&frame), UNASKED, "{what}");
        }
        assert_eq!(f.run(&udp(SITE, 5000, WAN_ADDRESS, PORT)), services::LOCAL);
        let by_kernel = (PASS, Counter::XdpPassKernelRoute);
        assert_eq!(f.run(&udp(SITE, 5000, VPN, PORT)), by_kernel);
        assert_eq!(f.run(&udp(OWN, 5000, OWN, PORT)), (DROP, Counter::XdpDropMartian));
    }
    let mut f = uplink("rules-none", inbound::OPEN);
    assert_eq!(f.run(&udp(SITE, 5000, OWN, PORT)), (PASS, Counter::XdpPassKernelRoute));
}

#[test]
fn what_a_lan_sends_is_none_of_these_rules() {
    let mut f = Fixture::with("rules-lan", PortRole::Lan, OnDataplaneLoss::Drop, |half| {
        let path = half.uplinks[0].path_mut(Family::V4);
        (path.translate, path.inbound) = (Translate::None as u8, inbound::RULED);
    });
    let to_lan = f.run(&udp(HOST, 5000, OWN, PORT));
    assert_eq!(to_lan, (PASS, Counter::XdpPassKernelRoute));
}

#[test]
fn all_that_an_uplink_brings_so_has_one_allowance() {
    let mut f = uplink("rules-crowd", inbound::RULED);
    let _socket = f.can_receive();
    Allowances::open(&f.pins).unwrap().set(0, 0, 1);
    for source in 0..1000u16 {
        let [high, low] = source.to_be_bytes();
        f.run(&udp([193, 5, high, low], 5000, OWN, PORT));
    }
    let counted = |counter| f.counters.sum(counter);
    let (up, crowded) = (counted(Counter::XdpToUser), counted(Counter::XdpDropCrowded));
    assert_eq!(up + crowded, 1000);
    assert!(crowded > 500, "{crowded}");
}

#[test]
fn in_ipv6_it_is_the_same() {
    for inbound in [inbound::RULED, inbound::RULED | inbound::OPEN] {
        let mut f = fixture6::fixture("rules-six", PortRole::Uplink, true);
        let mut writer = f.writer();
        let mut half = writer.region().snapshot().unwrap().half;
        half.uplinks[0].path_mut(Family::V6).inbound = inbound;
        writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
        let mut syn = packet([SITE6, HOST6], tcp::PROTOCOL, 64);
        assert_eq!(f.run(&syn), UNASKED, "a segment of a connection");
        syn[67] = 2;
        assert_eq!(f.run(&syn), TRANSIT);
        assert_eq!(f.run(&packet([SITE6, HOST6], udp::PROTOCOL, 64)), TRANSIT);
        let ends = [SITE6, HOST6];
        assert_eq!(f.run(&echo6(icmpv6::ECHO_REQUEST, ends, 7)), TRANSIT);
        assert_eq!(f.run(&echo6(icmpv6::ECHO_REPLY, ends, 7)), UNASKED);
        assert_eq!(f.run(&packet([VPN6, HOST6], udp::PROTOCOL, 64)), UNASKED);
        let to_gateway = packet([SITE6, fixture6::GATEWAY6], udp::PROTOCOL, 64);
        assert_eq!(f.run(&to_gateway), fixture6::KERNELS);
    }
}
