//! Hosts of LANs ask for a published service by the address that it has outside.

use weir_layout::Family;
use weir_layout::control::host_class::{LAN, LOCAL as OWN_ADDRESS, POOL as OF_POOL, of_uplink};
use weir_layout::control::{Address, BUCKETS, OnDataplaneLoss, PortRole, Translate};
use weir_layout::counters::Counter;
use weir_shm::hosts::{Hosts, Hosts4};
use weir_wire::family::V6;
use weir_wire::key::FlowKey4;
use weir_wire::parse::parse6;

use crate::fixture::*;
use crate::fixture6::{self, HOST6, LAN6};
use crate::services::{UDP, enter, fragment};

const ASKER: [u8; 4] = [10, 77, 0, 9];
const DNS: u16 = 5353;
/// The user tier's, and none is attached.
const ASKED: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
const LOCAL: (u32, Counter) = (PASS, Counter::XdpPassLocal);
const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);

/// Behind a LAN's port, with a service of the host's at the first uplink's two addresses, of which the
/// gateway has one itself.
fn published(test: &str, loss: OnDataplaneLoss) -> Fixture {
    let f = Fixture::with(test, PortRole::Lan, loss, |half| {
        let path = half.uplinks[0].path_mut(Family::V4);
        (path.pool_len, path.pool[1]) = (2, Address::v4(POOL));
        enter(half, HOST, UDP, [DNS; 2], 0b1);
        enter(half, HOST, UDP, [DNS + 1; 2], 0b10);
        enter(half, [0; 4], UDP, [DNS + 2; 2], 0b1);
    });
    let hosts = [
        ((LAN_ADDRESS, 32), OWN_ADDRESS),
        ((WAN_ADDRESS, 32), of_uplink(OWN_ADDRESS, 0)),
        (([10, 77, 0, 0], 16), LAN),
        ((POOL, 32), of_uplink(OF_POOL, 0)),
    ];
    Hosts4::open(&f.pins).unwrap().sync(&hosts.into()).unwrap();
    f
}

fn ask(address: [u8; 4], port: u16) -> Vec<u8> {
    udp(ASKER, 5000, address, port)
}

#[test]
fn what_asks_in_a_lan_for_a_published_port_is_the_user_tiers_and_all_else_stays_what_it_was() {
    let mut f = published("hairpin", OnDataplaneLoss::Drop);
    for (address, otherwise) in [(WAN_ADDRESS, LOCAL), (POOL, UNASKED)] {
        assert_eq!(f.run(&ask(address, DNS)), ASKED);
        assert_eq!(f.run(&ask(address, DNS + 1)), otherwise, "another uplink's");
        assert_eq!(f.run(&ask(address, DNS + 2)), otherwise, "the gateway's own");
        assert_eq!(f.run(&ask(address, DNS + 3)), otherwise, "nobody's");
    }
    assert_eq!(f.run(&ask(LAN_ADDRESS, DNS)), LOCAL, "the gateway's address in the LAN");
}

#[test]
fn what_answers_by_the_address_outside_is_the_user_tiers_and_what_is_told_of_it() {
    let mut f = published("hairpin-answer", OnDataplaneLoss::Drop);
    for (number, (address, otherwise)) in (0..).zip([(WAN_ADDRESS, LOCAL), (POOL, UNASKED)]) {
        let answer = udp(HOST, 53, address, NAT_PORT);
        let told = unreachable(address, &udp(address, NAT_PORT, HOST, 53)[14..]);
        let later = fragment(answer.clone(), number, 2);
        assert_eq!([&answer, &told].map(|frame| f.run(frame)), [otherwise; 2]);
        // It may be of an answer: a worker waits for its first, where no kernel does.
        assert_eq!(f.run(&later), if otherwise == UNASKED { ASKED } else { otherwise });
        let (sport, dport) = (53u16.to_be_bytes(), NAT_PORT.to_be_bytes());
        f.add_flow(FlowKey4::new(HOST, address, sport, dport, UDP));
        let first = fragment(answer.clone(), number, 0);
        for frame in [&answer, &told, &first, &later] {
            assert_eq!(f.run(frame), ASKED);
        }
    }
}

#[test]
fn where_the_kernel_stands_in_it_sends_nothing_to_an_address_that_nobody_has() {
    let mut f = published("hairpin-kernel", OnDataplaneLoss::Kernel);
    assert_eq!(f.run(&ask(POOL, DNS)), UNASKED);
    assert_eq!(f.run(&ask(WAN_ADDRESS, DNS)), (PASS, Counter::XdpPassNoDataplane));
    let _socket = f.can_receive();
    for address in [POOL, WAN_ADDRESS] {
        assert_ne!(f.run(&ask(address, DNS)).1, Counter::XdpDropNoFlow);
        assert_ne!(f.run(&ask(address, DNS)).1, Counter::XdpPassLocal);
    }
}

#[test]
fn the_same_holds_for_ipv6_by_an_address_and_by_a_prefix() {
    const OUTSIDE: [u8; 16] = [0x20, 1, 0, 3, 0, 0, 0, 0x76, 0, 0, 0, 0, 0, 0, 0, 2];
    let asker = [&LAN6[..15], &[9]].concat().try_into().unwrap();
    for translate in [Translate::Napt, Translate::Npt] {
        let mut f = fixture6::lan(&format!("hairpin6-{translate:?}"));
        let mut writer = f.writer();
        let mut half = writer.region().snapshot().unwrap().half;
        enter(&mut half, [10; 4], UDP, [53; 2], 0b1);
        let forward = &mut half.port_forwards[0];
        (forward.family, forward.inside) = (Family::V6.index() as u8, Address(HOST6));
        half.open_ports.fill(&half.port_forwards[..1]);
        let path = half.uplinks[0].path_mut(Family::V6);
        path.translate = translate as u8;
        (path.pool_len, path.pool[0]) = (1, Address(OUTSIDE));
        writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
        let prefix = match translate {
            Translate::Napt => ((OUTSIDE, 128), of_uplink(OWN_ADDRESS, 0)),
            _ => (
                ([&OUTSIDE[..6], &[0; 10]].concat().try_into().unwrap(), 48),
                of_uplink(OF_POOL, 0),
            ),
        };
        let otherwise = if translate == Translate::Napt { LOCAL } else { UNASKED };
        let hosts = [((LAN6, 64), LAN), prefix];
        Hosts::<V6>::open(&f.pins).unwrap().sync(&hosts.into()).unwrap();
        let ask = fixture6::packet([asker, OUTSIDE], UDP, 64);
        assert_eq!(f.run(&ask), ASKED, "{translate:?}");
        let mut other = ask.clone();
        other[57] = 54;
        assert_eq!(f.run(&other), otherwise, "another port");
        assert_eq!(f.run(&fixture6::packet([fixture6::SITE6, OUTSIDE], UDP, 64)), otherwise);
        let answer = other;
        let key = parse6(&answer).unwrap().key();
        fixture6::insert_from(&f, &key, 0, 0, fixture6::SENDER);
        assert_eq!(f.run(&answer), ASKED, "a flow's");
    }
}
