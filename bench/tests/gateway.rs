//! Weir on a gateway, end to end: real clients across namespaces, observed from outside.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::{Duration, Instant};

use weir_api::Request;
use weir_kit::capture::{Capture, Tally};
use weir_kit::plan::{self, Plan, Uplink};
use weir_kit::probed::TARGETS;
use weir_kit::server::{self, ECHO_PORT, Server};
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, iperf, udp_flows, wait};
use weir_layout::Family;
use weir_layout::control::path_state;
use weir_layout::counters::Counter;
use weir_shm::control::ControlRegion;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const TAP: &str = "weirtx0";
const WEIGHTS: [u16; 3] = [5, 3, 2];

fn site(plan: Plan) -> (Topology, Server, Weir) {
    let topology = Topology::build(plan).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &WEIGHTS);
    let weir = Weir::start(&topology, &configuration).unwrap();
    (topology, server, weir)
}

fn captures(topology: &Topology) -> Vec<Capture> {
    topology.providers.iter().map(|p| Capture::start(&p.netns, TOWARDS_GATEWAY).unwrap()).collect()
}

/// Ends the captures; every frame was sound, and left with an address of its own provider.
fn sound(topology: &Topology, captures: Vec<Capture>) -> Vec<Tally> {
    let tallies: Vec<_> = captures.into_iter().map(|c| c.stop().unwrap()).collect();
    for (provider, tally) in topology.providers.iter().zip(&tallies) {
        assert_eq!((tally.faulty, tally.lost), (0, 0), "{:?}", tally.faults);
        for source in tally.sources_to(SERVER).keys() {
            assert!(
                provider.addresses.contains(source),
                "{source} left by provider {}",
                provider.index
            );
        }
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    tallies
}

fn created(weir: &Weir) -> Vec<u64> {
    weir.uplinks().unwrap().iter().map(|u| u.flows_created).collect()
}

#[test]
fn real_clients_work_and_no_checksum_breaks() {
    let (topology, _server, weir) = site(Plan::new(3, 2));
    let captures = captures(&topology);
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
    let counters = weir.counters().unwrap();
    let (kernel, user) = (counters.sum(Counter::XdpForwarded), counters.sum(Counter::UserTx));
    match weir_kit::weir::tier().as_str() {
        "user" => assert_eq!(kernel, 0),
        _ => assert!(
            kernel > 10 * user,
            "{kernel} packets in the kernel tier, {user} in the user tier"
        ),
    }
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

#[test]
fn a_hundred_thousand_udp_flows_follow_the_weights() {
    let mut plan = Plan::new(3, 16);
    plan.uplinks = vec![Uplink { addresses: 4, mtu: 1500 }; 3];
    let (topology, _server, weir) = site(plan);
    let report = udp_flows::run(&topology.hosts, ECHO, 6250).unwrap();
    assert_eq!((report.sent, report.answered, report.wrong), (100_000, 100_000, 0));
    let created = created(&weir);
    let total: u64 = created.iter().sum();
    assert!(total >= 100_000);
    for (uplink, weight) in created.iter().zip([50.0, 30.0, 20.0]) {
        let share = *uplink as f64 * 100.0 / total as f64;
        assert!((share - weight).abs() < 1.0, "{created:?}");
    }
    for provider in &topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn two_thousand_connections_follow_the_weights() {
    let (topology, _server, weir) = site(Plan::new(3, 4));
    let load = TcpLoad::start(&topology.hosts, ECHO, 500, Duration::from_secs(120)).unwrap();
    load.wait_until_settled().unwrap();
    let created = created(&weir);
    let report = load.stop().unwrap();
    assert_eq!((report.intact, report.broken.len()), (2000, 0), "{:?}", report.broken.first());
    assert_eq!(created.iter().sum::<u64>(), 2000);
    for (uplink, weight) in created.iter().zip([50.0, 30.0, 20.0]) {
        let share = *uplink as f64 / 20.0;
        // Four standard deviations of 2000 draws.
        assert!((share - weight).abs() < 4.5, "{created:?}");
    }
    weir.check_conservation().unwrap();
}

/// 6500 TCP connections and 3500 UDP endpoints, for a minute.
#[test]
fn ten_thousand_flows_survive_ten_weight_changes_a_second() {
    let (topology, _server, weir) = site(Plan::new(3, 10));
    let load = TcpLoad::start(&topology.hosts, ECHO, 650, Duration::from_secs(150)).unwrap();
    load.wait_until_settled().unwrap();
    assert_eq!(udp_flows::run(&topology.hosts, ECHO, 350).unwrap().answered, 3500);
    let (before, settled) = (created(&weir), load.rounds());
    assert_eq!(before.iter().sum::<u64>(), 10_000);
    let start = Instant::now();
    for change in 0..600u32 {
        weir.weight(UPLINKS[(change % 3) as usize], 1 + change * 7 % 9).unwrap();
        let next = start + Duration::from_millis(100) * (change + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(load.rounds() > settled + 6500);
    let report = load.stop().unwrap();
    assert_eq!((report.intact, report.broken.len()), (6500, 0), "{:?}", report.broken.first());
    assert_eq!(udp_flows::run(&topology.hosts, ECHO, 350).unwrap().answered, 3500);
    assert_eq!(before, created(&weir), "no flow was made anew on another uplink");
    assert_eq!(weir.counters().unwrap().sum(Counter::FlowsMoved), 0);
    weir.check_conservation().unwrap();
}

#[test]
fn a_weight_change_is_obeyed_by_new_flows() {
    let (topology, _server, weir) = site(Plan::new(3, 2));
    for uplink in ["cable", "lte"] {
        weir.weight(uplink, 0).unwrap();
    }
    let before = weir.uplinks().unwrap();
    udp_flows::run(&topology.hosts, ECHO, 500).unwrap();
    let after = weir.uplinks().unwrap();
    let made: Vec<u64> =
        after.iter().zip(&before).map(|(a, b)| a.flows_created - b.flows_created).collect();
    assert_eq!(made[1..], [0, 0]);
    assert!(made[0] >= 1000);
}

#[test]
fn an_uplink_set_down_takes_no_new_flows_and_returns() {
    let (topology, _server, weir) = site(Plan::new(3, 2));
    let table = *weir.snapshot().unwrap().table(Family::V4, 0).unwrap();
    weir.request(&Request::Down { uplink: "cable".into() }).unwrap();
    let before = weir.uplinks().unwrap()[1].flows_created;
    let report = udp_flows::run(&topology.hosts, ECHO, 500).unwrap();
    assert_eq!(report.answered, 1000);
    assert_eq!(weir.uplinks().unwrap()[1].flows_created, before);
    weir.request(&Request::Up { uplink: "cable".into() }).unwrap();
    assert!(
        weir.snapshot().unwrap().table(Family::V4, 0) == Some(&table),
        "the same buckets come back"
    );
    udp_flows::run(&topology.hosts, SocketAddrV4::new(SERVER, ECHO_PORT), 900).unwrap();
    assert!(weir.uplinks().unwrap()[1].flows_created > before);
    weir.check_conservation().unwrap();
}

#[test]
fn nothing_stops_when_the_control_process_is_killed() {
    let (topology, _server, mut weir) = site(Plan::new(3, 2));
    weir.weight("fiber", 9).unwrap();
    let load = TcpLoad::start(&topology.hosts, ECHO, 50, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();
    let epoch = weir.snapshot().unwrap().half.epoch;
    weir.kill_control();
    let killed = load.rounds();
    wait::until("traffic to go on", wait::BOUND, || {
        Ok((load.rounds() > killed + 500).then_some(()))
    })
    .unwrap();
    assert_eq!(udp_flows::run(&topology.hosts, ECHO, 100).unwrap().answered, 200, "new flows too");
    weir.start_control().unwrap();
    let snapshot = weir.snapshot().unwrap();
    assert!(snapshot.half.epoch >= epoch);
    assert_eq!(snapshot.half.uplinks[0].weight, 9, "what was set at run time is adopted");
    let report = load.stop().unwrap();
    assert_eq!(report.broken, Vec::<String>::new());
}

#[test]
fn a_gigabyte_arrives_whole_while_the_control_process_dies_and_returns() {
    const BYTES: usize = 1_000_000_000;
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    let url = server::content_url(SERVER, BYTES);
    let download = std::thread::scope(|scope| {
        let netns = &topology.hosts[0].netns;
        let curl = scope.spawn(|| clients::curl(netns, &url));
        let received =
            |weir: &Weir| weir.uplinks().unwrap().iter().map(|u| u.rx_bytes).sum::<u64>();
        let wait_for = |weir: &Weir, bytes: u64| {
            wait::until("the transfer to go on", wait::BOUND, || {
                Ok((received(weir) > bytes).then_some(()))
            })
            .unwrap();
        };
        wait_for(&weir, 50_000_000);
        weir.kill_control();
        wait_for(&weir, 150_000_000);
        weir.start_control().unwrap();
        curl.join().unwrap().unwrap()
    });
    assert_eq!(download.bytes, BYTES);
    assert_eq!(download.sha256, clients::sha256(&server::content(BYTES)).unwrap());
    weir.check_conservation().unwrap();
}

#[test]
fn connections_and_host_traffic_survive_a_killed_dataplane() {
    let (topology, _server, mut weir) = site(Plan::new(3, 2));
    let load = TcpLoad::start(&topology.hosts, ECHO, 50, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();
    weir.kill_dataplane();
    let gateway = plan::lan_gateway(0);
    let ping = clients::ping(&topology.hosts[0].netns, gateway, 5).unwrap();
    assert_eq!(ping.received, 5, "the gateway itself stays reachable");
    weir.start_dataplane().unwrap();
    let restarted = load.rounds();
    wait::until("traffic to go on", wait::BOUND, || {
        Ok((load.rounds() > restarted + 500).then_some(()))
    })
    .unwrap();
    let report = load.stop().unwrap();
    assert_eq!(report.broken, Vec::<String>::new());
    assert!(weir.counters().unwrap().sum(Counter::FlowsAdopted) >= 100);
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

/// The kernel tier needs no process.
#[test]
fn an_established_flow_loses_nothing_while_the_dataplane_is_dead() {
    if weir_kit::weir::tier() != "kernel" {
        return;
    }
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    let ping = std::thread::scope(|scope| {
        let netns = &topology.hosts[0].netns;
        let ping = scope.spawn(|| clients::ping(netns, SERVER, 400));
        let forwarded = |weir: &Weir| weir.counters().unwrap().sum(Counter::XdpForwarded);
        let wait_for = |weir: &Weir, packets: u64| {
            let before = forwarded(weir);
            wait::until("the ping to go on", wait::BOUND, || {
                Ok((forwarded(weir) > before + packets).then_some(()))
            })
            .unwrap();
        };
        wait_for(&weir, 50);
        weir.kill_dataplane();
        wait_for(&weir, 200);
        weir.start_dataplane().unwrap();
        ping.join().unwrap().unwrap()
    });
    assert_eq!((ping.sent, ping.received), (400, 400));
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
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "20", "--output", "/dev/null"]);
        curl.args(["--interface", &provider.interface(), &url]);
        topology.gateway.output(&mut curl).unwrap();
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
    let (prefix, length) = plan::OWNED_PREFIX;
    let configuration = Weir::configuration(&topology, &[1, 1, 1])
        .replace(
            "interface = \"lan0\"\n",
            &format!("interface = \"lan0\"\nprefixes = [\"{prefix}/{length}\"]\n"),
        )
        .replace("weight = 1\n", "weight = 1\ntranslate = \"none\"\n");
    let weir = Weir::start(&topology, &configuration).unwrap();
    let captures = captures(&topology);
    let host = &topology.hosts[0];
    let owned = host.owned.unwrap();
    for _ in 0..20 {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "20", "--output", "/dev/null"]);
        curl.args(["--interface", &owned.to_string(), &server::content_url(SERVER, 20_000)]);
        host.netns.output(&mut curl).unwrap();
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

#[test]
fn a_weight_is_in_force_when_the_command_returns() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let started = Instant::now();
    let epoch = weir.weight("fiber", 1).unwrap();
    let region = ControlRegion::open(
        &weir_shm::Pins::existing(topology.run.pin_directory().unwrap()),
        weir_shm::map::Access::Read,
    )
    .unwrap();
    assert!(region.epoch() >= epoch, "published {:?} after the request", started.elapsed());
}

#[test]
fn the_command_line_reads_and_changes_a_running_weir() {
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    let run = |weir: &Weir, arguments: &[&str]| {
        let mut command = weir.cli(arguments).unwrap();
        let output = topology.gateway.run(|| command.output().unwrap()).unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    udp_flows::run(&topology.hosts, ECHO, 50).unwrap();
    let (code, text) = run(&weir, &["weight", "fiber", "1"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("weight of fiber is 1"), "{text}");
    assert_eq!(run(&weir, &["weight", "nobody", "1"]).0, 1);
    assert_eq!(run(&weir, &["weight", "fiber", "many"]).0, 2);
    weir.kill_control();
    assert_eq!(run(&weir, &["down", "fiber"]).0, 3);
    for command in ["status", "uplinks", "policies", "rules", "flows", "counters"] {
        // All are shown; the one that looks at the processes says that one is missing.
        let wanted = if command == "status" { 3 } else { 0 };
        let (code, text) = run(&weir, &[command]);
        assert_eq!(code, wanted, "{command} needs no control process");
        assert!(text.lines().count() > 1, "{text}");
        let (code, json) = run(&weir, &[command, "--json"]);
        assert_eq!(code, wanted);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["version"], 1);
        assert!(!json[command].is_null(), "{json}");
    }
    let (_, json) = run(&weir, &["uplinks", "--json"]);
    let uplinks: serde_json::Value = serde_json::from_str(&json).unwrap();
    let fiber = &uplinks["uplinks"][0];
    assert_eq!((&fiber["name"], &fiber["weight"]), (&"fiber".into(), &1.into()));
    let (_, json) = run(&weir, &["flows", "--json", "--limit", "7"]);
    let flows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(flows["flows"]["shown"].as_array().unwrap().len(), 7);
    let all = flows["flows"]["of"].as_u64().unwrap();
    assert!(
        run(&weir, &["flows", "--limit", "7"])
            .1
            .ends_with(&format!("\n7 of {all} flows; --limit shows more\n"))
    );
    assert_eq!(run(&weir, &["flows", "--uplink", "nobody"]).0, 1);
    assert_eq!(run(&weir, &["detach"]).0, 1, "not under a running dataplane");
    weir.kill_dataplane();
    let (code, text) = run(&weir, &["detach"]);
    assert_eq!(code, 0);
    assert!(text.contains("CONTROL") && text.contains("link-"), "{text}");
    assert_eq!(run(&weir, &["status"]).0, 3);
}

#[test]
fn a_detach_with_nothing_to_remove_names_the_interfaces_with_a_program() {
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    weir.kill_control();
    weir.kill_dataplane();
    let detach = weir.cli(&["detach"]).unwrap();
    // As `ip netns exec` would run it.
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"", "sh"]);
    apart.arg(detach.get_program()).args(detach.get_args());
    let output = topology.gateway.run(|| apart.output().unwrap()).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.starts_with("nothing to remove"), "{said}");
    let line = said.lines().find(|line| line.contains("an XDP program is on ")).expect(&said);
    let devices = topology.providers.iter().map(|provider| provider.interface());
    for device in devices {
        assert!(line.contains(&device), "{device}: {said}");
    }
}

#[test]
fn a_stopped_dataplane_is_told_from_one_that_forwards() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let status = || {
        let mut command = weir.cli(&["status", "--json"]).unwrap();
        let output = topology.gateway.run(|| command.output().unwrap()).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let dataplane = said["status"]["dataplane"].clone();
        (output.status.code(), dataplane["running"].clone(), dataplane["answering"].clone())
    };
    let until = |what: &str, wanted: (Option<i32>, serde_json::Value, serde_json::Value)| {
        let told = || Ok((status() == wanted).then_some(()));
        wait::until(what, wait::BOUND, told).unwrap();
    };
    until("a dataplane that answers", (Some(0), true.into(), true.into()));
    let [_, pid] = weir.processes().unwrap();
    let signal = |signal| {
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), signal)
    };
    signal(rustix::process::Signal::STOP).unwrap();
    until("a silent dataplane", (Some(3), true.into(), false.into()));
    signal(rustix::process::Signal::CONT).unwrap();
    until("a dataplane that answers again", (Some(0), true.into(), true.into()));
}

/// Probes every 100 ms of what is behind all providers; an uplink is back after half a second.
const HEALTH: &str = r#"
[health]
interval_ms = 100
up = 3
hold_down_ms = 500
"#;

fn probed_site() -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan::new(3, 4)).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &WEIGHTS) + HEALTH + TARGETS;
    let weir = Weir::start(&topology, &configuration).unwrap();
    until_states(&weir, "all uplinks to be well", |states| *states == [1; 3]);
    (topology, server, weir)
}

fn until_states(weir: &Weir, what: &str, wanted: impl Fn(&[u32]) -> bool) {
    wait::until(what, wait::BOUND, || Ok(wanted(&weir.states()?).then_some(()))).unwrap();
}

#[test]
fn a_black_hole_beyond_the_first_hop_takes_an_uplink_out_until_it_is_gone() {
    let (topology, _server, weir) = probed_site();
    topology.providers[0].set_black_hole(true).unwrap();
    until_states(&weir, "fiber to be out", |states| *states == [path_state::UNHEALTHY, 1, 1]);
    let report = udp_flows::run(&topology.hosts, ECHO, 500).unwrap();
    assert_eq!((report.answered, report.wrong), (2000, 0));
    assert_eq!(weir.uplinks().unwrap()[0].flows_created, 0);
    topology.providers[0].set_black_hole(false).unwrap();
    until_states(&weir, "fiber to be back", |states| *states == [1; 3]);
    let history = weir.history().unwrap();
    let of_fiber = history.iter().filter(|entry| entry.part.uplink() == Some("fiber"));
    let states: Vec<String> = of_fiber.map(|entry| entry.transition.to.to_string()).collect();
    assert_eq!(states, ["up", "down", "held down", "up"]);
    assert_eq!(history.len(), 6, "{history:?}");
}

#[test]
fn with_all_uplinks_dead_flows_stay_where_they_are_until_one_is_back() {
    let (topology, _server, weir) = probed_site();
    let last_resort = path_state::USABLE | path_state::UNHEALTHY | path_state::LAST_RESORT;
    for provider in &topology.providers {
        provider.set_black_hole(true).unwrap();
    }
    until_states(&weir, "the last resort", |states| *states == [last_resort; 3]);
    topology.providers[1].set_black_hole(false).unwrap();
    let wanted = [path_state::UNHEALTHY, 1, path_state::UNHEALTHY];
    until_states(&weir, "cable to be back alone", |states| *states == wanted);
    let report = udp_flows::run(&topology.hosts, ECHO, 100).unwrap();
    assert_eq!((report.answered, report.wrong), (400, 0));
}

#[test]
fn an_uplink_whose_carrier_returns_is_held_down_first() {
    let (topology, _server, weir) = probed_site();
    topology.providers[2].set_carrier(false).unwrap();
    until_states(&weir, "lte to lose its carrier", |s| s[2] & path_state::NO_CARRIER != 0);
    assert_eq!(weir.states().unwrap()[2] & path_state::USABLE, 0);
    topology.providers[2].set_carrier(true).unwrap();
    until_states(&weir, "lte to be back", |states| *states == [1; 3]);
    let history = weir.history().unwrap();
    let states: Vec<String> = history
        .iter()
        .filter(|entry| entry.part.uplink() == Some("lte"))
        .map(|entry| entry.transition.to.to_string())
        .collect();
    assert_eq!(states, ["up", "down", "held down", "up"]);
}
