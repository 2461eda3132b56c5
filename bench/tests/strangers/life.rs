//! A provider's neighbour, another provider, a guest LAN and a spoofing host try all they can while
//! real clients work, at every moment of the gateway's life. On every leg, what they sent is seen
//! where they sent it, once each, and nothing of it anywhere else.

use std::collections::BTreeMap;

use weir_kit::capture::{Capture, Tally};
use weir_kit::frame::{self, Flow};
use weir_kit::netns::Netns;
use weir_kit::plan::{Lan, Plan};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, udp_flows};
use weir_layout::counters::Counter;

use crate::attempts::{MARK, Stranger, by_a_lan, by_a_provider};
use crate::{ECHO, SERVER, site};

/// The legs: hosts, then providers, each with its namespace and device.
fn legs(topology: &Topology) -> Vec<(&Netns, &'static str)> {
    let hosts = topology.hosts.iter().map(|host| (&host.netns, "eth0"));
    hosts.chain(topology.providers.iter().map(|p| (&p.netns, TOWARDS_GATEWAY))).collect()
}

/// Those who try, one on each leg.
fn strangers(topology: &Topology) -> Vec<Stranger> {
    let [host, guest] = [0, 1].map(|n| topology.hosts[n].address);
    let beside = |address: std::net::Ipv4Addr| {
        let [a, b, c, _] = address.octets();
        std::net::Ipv4Addr::new(a, b, c, 200)
    };
    let who = [
        ("a spoofing host", by_a_lan(0, beside(host), &[guest, beside(guest)])),
        ("a guest LAN", by_a_lan(1, beside(guest), &[host, beside(host)])),
        ("a provider's neighbour", by_a_provider(0, 1, &[host, guest])),
        ("another provider", by_a_provider(1, 0, &[host, guest])),
    ];
    let legs = legs(topology).into_iter().zip(who);
    legs.map(|((netns, device), (name, frames))| {
        let station = Station::on(netns, device).unwrap();
        Stranger { name, station, frames }
    })
    .collect()
}

/// Flows with the strangers' mark, and their packets.
fn marked(flows: impl IntoIterator<Item = (Flow, u64)>) -> BTreeMap<Flow, u64> {
    let mut marked = BTreeMap::new();
    let is_marked = |flow: &Flow| flow.source_port == MARK || flow.destination_port == MARK;
    for (flow, packets) in flows.into_iter().filter(|(flow, _)| is_marked(flow)) {
        *marked.entry(flow).or_default() += packets;
    }
    marked
}

/// Runs `moment`, which lets the strangers try `rounds` times, with a capture on every leg.
fn while_nothing_passes(
    topology: &Topology,
    strangers: &mut [Stranger],
    rounds: u64,
    moment: impl FnOnce(&mut dyn FnMut()),
) {
    let legs = legs(topology).into_iter();
    let captures = legs.map(|(netns, device)| Capture::start(netns, device).unwrap());
    let captures: Vec<_> = captures.collect();
    let mut tried = 0;
    moment(&mut || {
        strangers.iter_mut().for_each(Stranger::try_all);
        tried += 1;
    });
    assert_eq!(tried, rounds);
    for (stranger, capture) in strangers.iter().zip(captures) {
        let Tally { flows, faulty, faults, .. } = capture.stop().unwrap();
        let sent: Vec<_> = stranger.frames.iter().map(|sent| frame::read(sent)).collect();
        let broken = sent.iter().filter(|read| read.is_err()).count() as u64;
        let sound = sent.into_iter().filter_map(|read| Some((read.ok()??, rounds)));
        assert_eq!(marked(flows), marked(sound), "where {} sends", stranger.name);
        assert_eq!(faulty, broken * rounds, "where {} sends: {faults:?}", stranger.name);
    }
    let foreign = |p: &weir_kit::topology::Provider| p.foreign_sources().unwrap();
    assert_eq!(topology.providers.iter().map(foreign).sum::<u64>(), 0);
}

#[test]
fn nothing_comes_in_or_leaks_out_at_any_moment_of_the_gateways_life() {
    let (topology, _server, configuration) = site(Plan { lan: Lan::Direct, ..Plan::new(2, 2) });
    let mut strangers = strangers(&topology);
    let hosts = &topology.hosts;
    let asks = || hosts.iter().map(|host| clients::ping(&host.netns, SERVER, 3).unwrap().received);
    let clients_work = || {
        assert_eq!(udp_flows::run(hosts, ECHO, 50).unwrap().answered, 100);
    };
    let mut weir = Weir::prepare(&topology, &configuration).unwrap();
    weir.start_control().unwrap();
    while_nothing_passes(&topology, &mut strangers, 1, |all_try| {
        all_try();
        assert_eq!(asks().sum::<usize>(), 0, "without a dataplane");
    });
    weir.start_dataplane().unwrap();
    weir.wait_until_usable(&[0, 1]).unwrap();
    while_nothing_passes(&topology, &mut strangers, 3, |all_try| {
        for _ in 0..3 {
            clients_work();
            all_try();
        }
        clients_work();
    });
    let counters = weir.counters().unwrap();
    for reason in [
        Counter::XdpDropNoFlow,
        Counter::XdpDropForeign,
        Counter::XdpDropMartian,
        Counter::XdpDropMalformed,
        Counter::DropSource,
        Counter::DropTtl,
    ] {
        assert!(counters.sum(reason) > 0, "{reason:?}");
    }
    weir.check_conservation().unwrap();
    while_nothing_passes(&topology, &mut strangers, 4, |all_try| {
        weir.kill_control();
        all_try();
        clients_work();
        weir.start_control().unwrap();
        all_try();
        weir.kill_dataplane();
        all_try();
        asks().for_each(drop);
        weir.start_dataplane().unwrap();
        all_try();
        clients_work();
    });
    while_nothing_passes(&topology, &mut strangers, 2, |all_try| {
        weir.stop().unwrap();
        all_try();
        asks().for_each(drop);
        // As by an operator, or a new device in an old one's place.
        weir.take_program_off().unwrap();
        all_try();
        assert_eq!(asks().sum::<usize>(), 0);
    });
}
