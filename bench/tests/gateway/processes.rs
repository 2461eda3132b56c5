//! Either process is killed, stopped, and started again.

use std::time::Duration;

use weir_kit::plan::{self, Plan};
use weir_kit::server;
use weir_kit::tcp_load::TcpLoad;
use weir_kit::weir::Weir;
use weir_kit::{clients, udp_flows, wait};
use weir_layout::counters::Counter;

use super::{ECHO, SERVER, site};

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

/// The kernel tier needs no process.
#[test]
fn an_established_flow_loses_nothing_while_the_dataplane_is_dead() {
    // A hundred a second: for longer than a busy machine takes for the restart.
    const PINGS: usize = 1000;
    if weir_kit::weir::tier() != "kernel" {
        return;
    }
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    let ping = std::thread::scope(|scope| {
        let netns = &topology.hosts[0].netns;
        let ping = scope.spawn(|| clients::ping(netns, SERVER, PINGS));
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
    assert_eq!((ping.sent, ping.received), (PINGS, PINGS));
    weir.check_conservation().unwrap();
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
