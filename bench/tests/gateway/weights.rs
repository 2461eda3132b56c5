//! New flows follow the weights.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use weir_api::Request;
use weir_kit::plan::{Plan, Uplink};
use weir_kit::server::ECHO_PORT;
use weir_kit::tcp_load::TcpLoad;
use weir_kit::udp_flows;
use weir_kit::weir::UPLINKS;
use weir_layout::Family;
use weir_layout::counters::Counter;

use super::{ECHO, SERVER, created, site};

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
        // Almost six standard deviations of 2000 draws; more flows are looked at more closely above.
        assert!((share - weight).abs() < 6.5, "{created:?}");
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
