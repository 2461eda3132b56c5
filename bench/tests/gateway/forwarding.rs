//! What real clients and the gateway's own programs see.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use weir_api::Request;
use weir_kit::capture::Capture;
use weir_kit::plan::{self, Plan};
use weir_kit::server::{self, Server};
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, udp_flows};
use weir_layout::counters::Counter;

use super::{ECHO, SERVER, WEIGHTS, site, sound};

const TAP: &str = "weirtx0";

#[test]
fn real_clients_work_and_no_checksum_breaks() {
    let (topology, _server, weir) = site(Plan::new(3, 2));
    let captures = Capture::at_providers(&topology).unwrap();
    let lan = Capture::start(&topology.hosts[0].netns, "eth0").unwrap();
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 5).unwrap().received, 5);
        let url = server::content_url(SERVER, 3_000_000);
        let download = clients::curl(&host.netns, &url).unwrap();
        assert_eq!(download.sha256, clients::sha256(&server::content(3_000_000)).unwrap());
    }
    for reverse in [false, true] {
        // One server for each: it is busy for a moment after a test.
        let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
        let load = iperf::Load { seconds: 1, streams: 4, reverse };
        assert!(iperf::tcp(&topology.hosts[0].netns, SERVER, load).unwrap().bytes > 1_000_000);
    }
    let lan = lan.stop().unwrap();
    assert_eq!(lan.faulty, 0, "{:?}", lan.faults);
    sound(&topology, captures);
    weir.check_conservation().unwrap();
    weir.check_tier(10).unwrap();
}

#[test]
fn a_gateway_with_the_kernels_defaults_forwards_and_gets_them_back() {
    const SETTINGS: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv4/ip_local_port_range"];
    const DEFAULTS: [&str; 2] = ["0", "32768\t60999"];
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    let settings = || {
        let read = |key| std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap();
        let found = topology.gateway.run(|| SETTINGS.map(read)).unwrap();
        found.map(|text| text.trim().to_owned())
    };
    topology.gateway.sysctl(&[0, 1].map(|i| (SETTINGS[i], DEFAULTS[i]))).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let host = &topology.hosts[0].netns;
    let mut weir = Weir::start(&topology, &Weir::configuration(&topology, &[1, 1])).unwrap();
    assert_eq!(settings(), ["1", "1024\t16383"]);
    assert_eq!(clients::ping(host, SERVER, 3).unwrap().received, 3);
    let download = clients::curl(host, &server::content_url(SERVER, 1_000_000)).unwrap();
    assert_eq!(download.bytes, 1_000_000);
    weir.check_conservation().unwrap();
    weir.stop().unwrap();
    topology.gateway.output(&mut weir.cli(&["detach"]).unwrap()).unwrap();
    assert_eq!(settings(), DEFAULTS);
}

/// Frames that weir's tap device has taken.
fn written_to_tap(topology: &Topology) -> u64 {
    let arguments = ["-s", "-j", "link", "show", "dev", TAP];
    let output = topology.gateway.output(Command::new("ip").args(arguments)).unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
}

#[test]
fn what_the_user_tier_sends_goes_by_a_tap_device_and_without_one_by_its_sockets() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let new_flows = || udp_flows::run(&topology.hosts, ECHO, 100).unwrap().answered;
    assert_eq!(new_flows(), 100);
    assert!(written_to_tap(&topology) >= 200, "first packets and answers");
    topology.gateway.output(Command::new("ip").args(["link", "del", TAP])).unwrap();
    assert_eq!(new_flows(), 100);
    weir.check_conservation().unwrap();
}

#[test]
fn hops_beyond_the_gateway_show_in_a_trace() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let hop = |ttl: &str| {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-c", "1", "-W", "2", "-t", ttl, &SERVER.to_string()]);
        let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let (first, second) = (hop("1"), hop("2"));
    let exceeded = |from: Ipv4Addr| format!("From {from} icmp_seq=1 Time to live exceeded");
    assert!(first.contains(&exceeded(plan::lan_gateway(0))), "{first}");
    let hops: Vec<_> = topology.providers.iter().map(|p| exceeded(p.next_hop)).collect();
    assert!(hops.iter().any(|hop| second.contains(hop)), "{second}");
    weir.check_conservation().unwrap();
}

#[test]
fn the_gateways_own_traffic_is_untouched() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let host = &topology.hosts[0];
    let gateway = plan::lan_gateway(0);
    assert_eq!(clients::ping(&host.netns, gateway, 3).unwrap().received, 3);
    let _own = Server::start(&topology.gateway, gateway).unwrap();
    let download = clients::curl(&host.netns, &server::content_url(gateway, 100_000)).unwrap();
    assert_eq!(download.bytes, 100_000);
    for provider in &topology.providers {
        assert_eq!(clients::ping(&topology.gateway, provider.next_hop, 3).unwrap().received, 3);
        let url = server::content_url(SERVER, 100_000);
        let output = clients::curl_from(&topology.gateway, &provider.interface(), &url).unwrap();
        assert_eq!(output.stdout.len(), 100_000);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn the_gateways_own_traffic_follows_its_uplinks() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let way = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "20", "--output", "/dev/null"]);
        curl.args(["--write-out", "%{local_ip}", &server::content_url(SERVER, 1000)]);
        let printed = topology.gateway.output(&mut curl).unwrap().stdout;
        let address: Ipv4Addr = String::from_utf8(printed).unwrap().parse().unwrap();
        topology.providers.iter().position(|p| p.addresses.contains(&address)).unwrap()
    };
    let request = |request: Request| weir.request(&request).unwrap();
    assert_eq!(way(), 0);
    request(Request::Down { uplink: "fiber".into() });
    assert_eq!(way(), 1);
    request(Request::Up { uplink: "fiber".into() });
    assert_eq!(way(), 0);
}

#[test]
fn two_workers_share_the_work_and_hand_off() {
    let mut plan = Plan::new(3, 4);
    plan.queues = 2;
    let topology = Topology::build(plan).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &WEIGHTS);
    let configuration = configuration.replace("[gateway]\n", "[gateway]\nworkers = 2\n");
    let weir = Weir::start(&topology, &configuration).unwrap();
    let report = udp_flows::run(&topology.hosts, ECHO, 2000).unwrap();
    assert_eq!((report.answered, report.wrong), (8000, 0));
    let load = TcpLoad::start(&topology.hosts, ECHO, 100, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();
    assert_eq!(load.stop().unwrap().broken, Vec::<String>::new());
    assert!(weir.counters().unwrap().sum(Counter::UserHandoffOut) > 0);
    weir.check_conservation().unwrap();
}

#[test]
fn an_own_prefix_leaves_by_every_uplink_untranslated() {
    let mut plan = Plan::new(3, 2);
    plan.owned_prefix = true;
    let topology = Topology::build(plan).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let path = |_| "translate = \"none\"\n".into();
    let configuration = Weir::configuration_with(&topology, &[1, 1, 1], &plan::owned_line(), path);
    let weir = Weir::start(&topology, &configuration).unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    let host = &topology.hosts[0];
    let owned = host.owned.unwrap();
    for _ in 0..20 {
        let url = server::content_url(SERVER, 20_000);
        let output = clients::curl_from(&host.netns, &owned.to_string(), &url).unwrap();
        assert_eq!(output.stdout.len(), 20_000);
    }
    for capture in captures {
        let tally = capture.stop().unwrap();
        assert_eq!(tally.faulty, 0, "{:?}", tally.faults);
        let sources: Vec<_> = tally.sources_to(SERVER).into_keys().collect();
        assert!(sources.iter().all(|s| *s == owned), "{sources:?}");
    }
    let used = weir.uplinks().unwrap().iter().filter(|u| u.flows_created > 0).count();
    assert!(used >= 2, "twenty flows use more than one of three uplinks");
}
