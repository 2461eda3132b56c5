//! Networks behind interfaces that the file does not name: a VPN's, of containers, of management.
//! Strangers ask for their hosts; their hosts go on by rules of their own.

use std::net::Ipv4Addr;
use std::time::Duration;

use weir_kit::capture::Capture;
use weir_kit::netns::Netns;
use weir_kit::plan::Plan;
use weir_kit::server::{HTTP_PORT, Server};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, server};

use crate::attempts::{MARK, Stranger, by_a_provider};
use crate::{SERVER, network_behind, site};

const VPN: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 7);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

/// A VPN's network and one of containers, each with a host.
fn networks(topology: &Topology) -> [Netns; 2] {
    [
        network_behind(topology, "vpn0", Ipv4Addr::new(10, 8, 0, 1), VPN),
        network_behind(topology, "docker0", Ipv4Addr::new(172, 17, 0, 1), CONTAINER),
    ]
}

/// How many kinds of packets of the stranger's come to these hosts while it tries all.
fn came(hosts: &[Netns], stranger: &mut Stranger) -> usize {
    let captures = hosts.iter().map(|host| Capture::start(host, "eth0").unwrap());
    let captures: Vec<_> = captures.collect();
    stranger.try_all();
    // A busy kernel forwards some of them a little later.
    std::thread::sleep(Duration::from_millis(200));
    let tallies = captures.into_iter().map(|capture| capture.stop().unwrap());
    let marked = |flow: &&weir_kit::frame::Flow| flow.destination_port == MARK;
    tallies.map(|tally| tally.flows.keys().filter(marked).count()).sum()
}

#[test]
fn strangers_do_not_reach_networks_that_the_file_does_not_name() {
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let hosts = networks(&topology);
    let frames = by_a_provider(0, 1, &[VPN, CONTAINER, topology.hosts[0].address]);
    let station = Station::on(&topology.providers[0].netns, TOWARDS_GATEWAY).unwrap();
    let mut stranger = Stranger { name: "a provider's neighbour", station, frames };
    let mut came = || came(&hosts, &mut stranger);
    assert!(came() >= 6, "without weir, of a gateway that forwards");
    topology.gateway.sysctl(&[("net/ipv4/ip_forward", "0")]).unwrap();
    assert_eq!(came(), 0, "of one that does not");
    let mut weir = Weir::prepare(&topology, &configuration).unwrap();
    weir.start_control().unwrap();
    let forwards = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    assert_eq!(topology.gateway.run(forwards).unwrap(), "1\n");
    assert_eq!(came(), 0, "without a dataplane");
    weir.start_dataplane().unwrap();
    weir.wait_until_usable(&[0, 1]).unwrap();
    assert_eq!(came(), 0, "with both");
    weir.check_conservation().unwrap();
    weir.kill_control();
    weir.kill_dataplane();
    assert_eq!(came(), 0, "of XDP alone");
    weir.take_program_off().unwrap();
    assert_eq!(came(), 0, "of the table alone");
    topology.gateway.nft("flush ruleset\n").unwrap();
    assert!(came() >= 6, "of neither");
}

#[test]
fn containers_and_vpn_clients_go_on_by_rules_of_their_own() {
    const PUBLISHED: u16 = 8080;
    const BYTES: usize = 100_000;
    let (topology, _server, configuration) = site(Plan::new(2, 1));
    let hosts = networks(&topology);
    topology
        .gateway
        .nft(&format!(
            "table ip engine {{\n\
             chain prerouting {{\ntype nat hook prerouting priority dstnat\n\
             fib daddr type local tcp dport {PUBLISHED} dnat to {CONTAINER}:{HTTP_PORT}\n}}\n\
             chain postrouting {{\ntype nat hook postrouting priority srcnat\n\
             ip saddr 172.17.0.0/24 oifname != docker0 masquerade\n\
             ip saddr 10.8.0.0/24 oifname {{ wan0, wan1 }} masquerade\n}}\n}}\n"
        ))
        .unwrap();
    topology.gateway.sysctl(&[("net/ipv4/ip_forward", "0")]).unwrap();
    let weir = Weir::start(&topology, &configuration).unwrap();
    let _published = Server::start(&hosts[1], CONTAINER).unwrap();
    let lan = &topology.hosts[0];
    for host in &hosts {
        assert_eq!(clients::ping(host, SERVER, 3).unwrap().received, 3);
        assert_eq!(clients::ping(host, lan.address, 3).unwrap().received, 3);
        let download = clients::curl(host, &server::content_url(SERVER, BYTES)).unwrap();
        assert_eq!(download.bytes, BYTES);
    }
    for address in [VPN, CONTAINER] {
        assert_eq!(clients::ping(&lan.netns, address, 3).unwrap().received, 3);
    }
    for provider in &topology.providers {
        let published = format!("http://{}:{PUBLISHED}/{BYTES}", provider.addresses[0]);
        assert_eq!(clients::curl(&topology.internet, &published).unwrap().bytes, BYTES);
    }
    for provider in &topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}
