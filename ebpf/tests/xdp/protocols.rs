//! Protocols without ports: the user tier's if a flow has their addresses.

use etherparse::{IpNumber, PacketBuilder};
use weir_layout::control::{OnDataplaneLoss, PortRole, inbound};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::{Family, NONE};
use weir_wire::parse::{parse, parse6};
use weir_wire::protocol::{AH, ESP, GRE, IGMP, IPIP, IPV6, OSPF, SCTP};

use crate::fixture::*;
use crate::fixture6::{self, HOST6, SENDER, SITE6};
use crate::services;

const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);
const LOCAL: (u32, Counter) = (PASS, Counter::XdpPassLocal);
const PROTOCOLS: [u8; 6] = [IPIP, IPV6, GRE, ESP, AH, SCTP];

fn packet([src, dst]: [[u8; 4]; 2], proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(src, dst, 64);
    builder.write(&mut frame, IpNumber(proto), payload).unwrap();
    frame
}

fn packet6(ends: [[u8; 16]; 2], proto: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv6(ends[0], ends[1], 64);
    builder.write(&mut frame, IpNumber(proto), b"any bytes").unwrap();
    frame
}

#[test]
fn from_an_uplink_they_are_transit_if_a_flow_waits_for_them_and_else_the_gateways_or_nobodys() {
    for proto in PROTOCOLS {
        for (dst, otherwise) in [(WAN_ADDRESS, LOCAL), (OWN, UNASKED), (POOL, UNASKED)] {
            let mut f = Fixture::uplink("portless");
            // However short.
            for payload in [&[][..], &[7; 4], &[7; 100]] {
                assert_eq!(f.run(&packet([SITE, dst], proto, payload)), otherwise);
            }
            f.add_flow(parse(&packet([SITE, dst], proto, &[])).unwrap().key());
            for payload in [&[][..], &[7; 4], &[7; 100]] {
                assert_eq!(f.run(&packet([SITE, dst], proto, payload)), TRANSIT);
            }
            let other = packet([[198, 51, 100, 9], dst], proto, &[7; 20]);
            assert_eq!(f.run(&other), otherwise, "of another remote");
            assert_eq!(f.run(&packet([SITE, dst], 253, &[7; 20])), otherwise, "another protocol");
        }
    }
}

#[test]
fn an_error_about_one_is_transit_if_it_is_about_a_flow_however_little_it_quotes() {
    let mut f = Fixture::uplink("portless-error");
    f.add_flow(parse(&packet([SITE, WAN_ADDRESS], GRE, &[])).unwrap().key());
    let about = packet([WAN_ADDRESS, SITE], GRE, &[7; 8]);
    for end in [34, 38, 42] {
        assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about[14..end])), TRANSIT, "{end}");
    }
    let about = packet([WAN_ADDRESS, SITE], ESP, &[7; 8]);
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about[14..])), LOCAL);
}

#[test]
fn what_is_of_one_link_is_of_no_flow() {
    for proto in [IGMP, OSPF] {
        let mut f = Fixture::uplink("portless-link");
        let frame = packet([SITE, WAN_ADDRESS], proto, &[7; 20]);
        f.add_flow(parse(&frame).unwrap().key());
        assert_eq!(f.run(&frame), LOCAL);
    }
}

#[test]
fn from_a_lan_they_are_transit() {
    let mut f = Fixture::lan("portless-lan");
    for proto in PROTOCOLS {
        assert_eq!(f.run(&packet([HOST, SITE], proto, b"bytes")), TRANSIT);
        assert_eq!(f.run(&packet([HOST, LAN_ADDRESS], proto, b"bytes")), LOCAL);
    }
}

#[test]
fn of_ipv6_they_are_transit_from_a_lan_and_from_an_uplink_if_a_flow_waits_for_them() {
    for proto in PROTOCOLS {
        let mut f = fixture6::lan("portless-six-lan");
        assert_eq!(f.run(&packet6([HOST6, SITE6], proto)), TRANSIT);
        let mut f = fixture6::uplink("portless-six");
        let frame = packet6([SITE6, HOST6], proto);
        assert_eq!(f.run(&frame), UNASKED);
        let key = parse6(&frame).unwrap().key();
        fixture6::insert_from(&f, &key, flag::SEEN, NONE.into(), SENDER);
        assert_eq!(f.run(&frame), TRANSIT);
        let about = packet6([HOST6, SITE6], proto);
        assert_eq!(f.run(&fixture6::error(&about[14..])), TRANSIT);
    }
}

/// A service of a host by a protocol.
fn published(test: &str, role: PortRole, ruled: bool) -> Fixture {
    Fixture::with(test, role, OnDataplaneLoss::Drop, |half| {
        services::enter(half, HOST, GRE, [0; 2], 1);
        if ruled {
            half.uplinks[0].path_mut(Family::V4).inbound |= inbound::RULED;
        }
    })
}

#[test]
fn what_asks_for_a_published_one_is_transit_and_all_else_stays_what_it_was() {
    for ruled in [false, true] {
        let mut f = published("portless-service", PortRole::Uplink, ruled);
        for payload in [&[][..], &[7; 4], &[7; 100]] {
            assert_eq!(f.run(&packet([SITE, WAN_ADDRESS], GRE, payload)), TRANSIT);
        }
        let first = services::fragment(packet([SITE, WAN_ADDRESS], GRE, &[7; 16]), 9, 0);
        let later = services::fragment(packet([SITE, WAN_ADDRESS], GRE, &[7; 16]), 9, 2);
        assert_eq!([f.run(&first), f.run(&later)], [TRANSIT; 2]);
        assert_eq!(f.run(&packet([SITE, WAN_ADDRESS], ESP, &[7; 4])), LOCAL, "another protocol");
        assert_eq!(f.run(&packet([SITE, OWN], GRE, &[7; 4])), UNASKED, "another address");
    }
    let mut f = published("portless-service-lan", PortRole::Lan, false);
    assert_eq!(f.run(&packet([HOST, LAN_ADDRESS], GRE, &[7; 4])), LOCAL);
}
