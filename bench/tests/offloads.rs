//! Hosts and providers that leave to their devices what a fresh veth device takes: checksums that
//! are begun, segments that are yet to be cut. So do containers, virtual machines and bridges.

use std::net::{Ipv4Addr, SocketAddrV4};

use weir_bench::plan::{Lan, Offloads, Plan};
use weir_bench::server::{self, ECHO_PORT, Server};
use weir_bench::topology::Topology;
use weir_bench::weir::Weir;
use weir_bench::{clients, iperf, udp_flows};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const WEIGHTS: [u16; 3] = [5, 3, 2];

/// Ping, UDP and TCP of real programs, both ways.
fn all_works(lan: Lan, offloads: Offloads) {
    let topology = Topology::build(Plan { lan, offloads, ..Plan::new(3, 2) }).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &WEIGHTS)).unwrap();
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 5).unwrap().received, 5);
        let url = server::content_url(SERVER, 3_000_000);
        let download = clients::curl(&host.netns, &url).unwrap();
        assert_eq!(download.sha256, clients::sha256(&server::content(3_000_000)).unwrap());
    }
    let report = udp_flows::run(&topology.hosts, ECHO, 100).unwrap();
    assert_eq!((report.sent, report.answered, report.wrong), (200, 200, 0));
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
    all_works(Lan::Direct, Offloads::Fresh);
}

#[test]
fn hosts_on_fresh_devices_reach_the_internet_where_the_kernel_tier_forwards() {
    all_works(Lan::Direct, Offloads::FreshWithGro);
}

#[test]
fn hosts_behind_a_bridge_of_fresh_devices_reach_the_internet() {
    all_works(Lan::Switched, Offloads::Fresh);
}
