//! Hosts and providers that leave to their devices what a fresh veth device takes: checksums that
//! are begun, segments that are yet to be cut. So do containers, virtual machines and bridges.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use weir_kit::plan::{self, Lan, Offloads, Plan};
use weir_kit::server::{self, ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, udp_flows};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const COMMANDS: [&str; 2] = ["ethtool -K port0 gro off", "ethtool -K eth0 tso off gso off"];
const WEIGHTS: [u16; 3] = [5, 3, 2];

fn site(lan: Lan, offloads: Offloads, hosts: usize) -> Topology {
    Topology::build(Plan { lan, offloads, ..Plan::new(3, hosts) }).unwrap()
}

/// Ping, UDP and TCP of real programs, both ways.
fn all_works(topology: &Topology) {
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(topology, &Weir::configuration(topology, &WEIGHTS)).unwrap();
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 5).unwrap().received, 5);
        let url = server::content_url(SERVER, 3_000_000);
        let download = clients::curl(&host.netns, &url).unwrap();
        assert_eq!(download.sha256, clients::sha256(&server::content(3_000_000)).unwrap());
    }
    let report = udp_flows::run(&topology.hosts, ECHO, 100).unwrap();
    let all = 100 * topology.hosts.len();
    assert_eq!((report.sent, report.answered, report.wrong), (all, all, 0));
    for reverse in [false, true] {
        // One server for each: it is busy for a moment after a test.
        let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
        let load = iperf::Load { seconds: 1, streams: 4, reverse };
        let sent = iperf::tcp(&topology.hosts[0].netns, SERVER, load).unwrap();
        assert!(sent.bytes > 1_000_000, "{sent:?}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn hosts_on_fresh_devices_reach_the_internet() {
    all_works(&site(Lan::Direct, Offloads::Fresh, 2));
}

#[test]
fn hosts_on_fresh_devices_reach_the_internet_where_the_kernel_tier_forwards() {
    all_works(&site(Lan::Direct, Offloads::FreshWithGro, 2));
}

#[test]
fn hosts_behind_a_bridge_of_fresh_devices_reach_the_internet() {
    all_works(&site(Lan::Switched, Offloads::Fresh, 2));
}

/// Makes the LAN's interface one of this kind, above the device that was there, and types what
/// `weir check` says.
fn works_as_check_says(kind: &str) {
    let topology = site(Lan::Direct, Offloads::Fresh, 1);
    let (gateway, host) = (&topology.gateway, &topology.hosts[0].netns);
    let address = plan::lan_gateway(0);
    let (link, master) = match kind {
        "bridge" => ("", "master lan0"),
        _ => ("link port0", ""),
    };
    gateway
        .ip(&format!(
            "link set lan0 down\n\
             link set lan0 name port0\n\
             addr flush dev port0\n\
             link add lan0 {link} type {kind}\n\
             link set port0 {master} up\n\
             link set lan0 up\n\
             addr add {address}/16 dev lan0\n"
        ))
        .unwrap();
    // Else it answers for an address of the device above it.
    gateway.sysctl(&[("net/ipv4/conf/port0/arp_ignore", "1")]).unwrap();
    let file = topology.run.file_directory().unwrap().join("check.toml");
    std::fs::write(&file, Weir::configuration(&topology, &WEIGHTS)).unwrap();
    let weir = Weir::prepare(&topology, &Weir::configuration(&topology, &WEIGHTS)).unwrap();
    let said = gateway.output(&mut weir.cli(&["check", file.to_str().unwrap()]).unwrap()).unwrap();
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    for (netns, command) in [gateway, host].into_iter().zip(COMMANDS) {
        assert!(said.contains(command), "{said}");
        netns.output(Command::new("sh").args(["-c", command])).unwrap();
    }
    drop(weir);
    all_works(&topology);
}

#[test]
fn a_lan_port_that_is_a_bridge_works_once_the_commands_of_check_are_typed() {
    works_as_check_says("bridge");
}

#[test]
fn a_lan_port_that_is_a_macvlan_works_once_the_commands_of_check_are_typed() {
    works_as_check_says("macvlan");
}
