//! Both address families of a LAN host by one uplink (`selection = "host"`).

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::{Plan, Port};
use weir_kit::station::Station;
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::Family;

const WEIGHTS: [u16; 3] = [5, 3, 2];
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Hosts that are looked at one by one, and all.
const WATCHED: u16 = 64;
const HOSTS: u16 = 3500;

/// A datagram of each family from a host with a hardware address of its own.
fn datagrams(gateway: [u8; 6], host: u16) -> [Vec<u8>; 2] {
    let [high, low] = host.to_be_bytes();
    let mac = [2, 0, 0, 7, high, low];
    let from = |packet: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Vec::new();
        packet(&mut frame);
        frame
    };
    let four = Ipv4Addr::new(10, 0, 100 + high, low);
    let six = Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 2, 0, host);
    let link = || PacketBuilder::ethernet2(mac, gateway);
    let four = from(&|frame| {
        let packet = link().ipv4(four.octets(), SERVER.octets(), 64).udp(4000, 9);
        packet.write(frame, b"four").unwrap();
    });
    let six = from(&|frame| {
        let packet = link().ipv6(six.octets(), ipv6::SERVER.octets(), 64).udp(6000, 9);
        packet.write(frame, b"six").unwrap();
    });
    [four, six]
}

/// Flows that have begun by each uplink, by family.
fn begun(weir: &Weir) -> [Vec<u64>; 2] {
    Family::ALL.map(|family| {
        let paths = weir.paths(family).unwrap();
        paths[..WEIGHTS.len()].iter().map(|path| path.flows_created).collect()
    })
}

/// Waits until so many more have begun in each family, and says by which uplinks.
fn since(weir: &Weir, before: &[Vec<u64>; 2], flows: u64) -> [Vec<u64>; 2] {
    wait::until("the flows to begin", wait::BOUND, || {
        let mut now = begun(weir);
        for (now, before) in now.iter_mut().flatten().zip(before.iter().flatten()) {
            *now -= before;
        }
        Ok(now.iter().all(|of| of.iter().sum::<u64>() >= flows).then_some(now))
    })
    .unwrap()
}

#[test]
fn a_host_takes_one_uplink_in_both_families_and_hosts_take_them_by_weight() {
    let topology = Topology::build(Plan::new(WEIGHTS.len(), 1)).unwrap();
    ipv6::add(&topology, 0).unwrap();
    let path = |uplink| Mode::None.path(uplink);
    let text = Weir::configuration_with(&topology, &WEIGHTS, "", path)
        .replace("selection = \"flow\"", "selection = \"host\"");
    let weir = Weir::start(&topology, &text).unwrap();
    for family in Family::ALL {
        weir.wait_until_usable_in(family, &[0, 1, 2]).unwrap();
    }
    let mac = Port::GatewayLan(0).mac();
    let mac: Vec<_> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mac = mac.try_into().unwrap();
    let mut station = Station::on(&topology.hosts[0].netns, "eth0").unwrap();
    for host in 0..WATCHED {
        let before = begun(&weir);
        for frame in datagrams(mac, host) {
            station.send(&frame).unwrap();
        }
        let [four, six] = since(&weir, &before, 1);
        assert_eq!(four, six, "host {host}");
    }
    let before = begun(&weir);
    for host in WATCHED..HOSTS {
        for frame in datagrams(mac, host) {
            station.send(&frame).unwrap();
        }
        if host % 50 == 0 {
            since(&weir, &before, u64::from(host - WATCHED));
        }
    }
    let hosts = u64::from(HOSTS - WATCHED);
    let [four, six] = since(&weir, &before, hosts);
    assert_eq!(four, six);
    for (flows, weight) in four.iter().zip(WEIGHTS) {
        let expected = hosts * u64::from(weight) / 10;
        // Almost six standard deviations of so many draws.
        assert!(flows.abs_diff(expected) < hosts / 20, "{four:?}");
    }
    weir.check_conservation().unwrap();
}
