//! What must not be taken for a fault of a link, on the wire: a firewall of the gateway itself,
//! hosts that scan and inject, routers that answer no pings; and what must.

use std::time::{Duration, Instant};

use weir_bench::pests::Pests;
use weir_bench::plan::Plan;
use weir_bench::probed::{ECHO, Probed, is, told};
use weir_bench::tcp_load::TcpLoad;
use weir_bench::topology::Topology;
use weir_bench::weir::{UPLINKS, Weir};
use weir_bench::{udp_flows, wait};
use weir_control::health::target::Status;
use weir_control::health::{Entry, ProbeError, Reason, State};
use weir_control::monitor::TargetView;

const QUICK: &str = "interval_ms = 100\nup = 3\nhold_down_ms = 500\nwindow = 20\n";
const FIBER: usize = 0;

fn target(weir: &Weir, uplink: usize, target: usize) -> TargetView {
    weir.health().unwrap()[uplink].targets[target].clone()
}

fn history_of(weir: &Weir, uplink: usize) -> Vec<Entry> {
    let mut entries = weir.history().unwrap();
    entries.retain(|entry| entry.part.uplink() == Some(UPLINKS[uplink]));
    entries
}

#[test]
fn probes_that_the_gateways_own_firewall_drops_say_nothing_of_the_link() {
    let mut site = Probed::start(2, 1, QUICK).unwrap();
    let answer = |weir: &Weir| {
        let answers = |uplink| target(weir, uplink, 0).status == Status::Answering;
        Ok((0..2).all(answers).then_some(()))
    };
    wait::until("pings to be answered", wait::BOUND, || answer(&site.weir)).unwrap();
    let gateway = &site.topology.gateway;
    let rules = "add table ip forbid\n\
        add chain ip forbid output { type filter hook output priority 0; }\n\
        add rule ip forbid output ip protocol icmp drop\n";
    gateway.nft(rules).unwrap();
    let forbidden = |weir: &Weir| {
        let all = (0..2).all(|uplink| target(weir, uplink, 0).error == Some(ProbeError::Local(1)));
        Ok(all.then_some(()))
    };
    wait::until("EPERM to be told", wait::BOUND, || forbidden(&site.weir)).unwrap();
    // Thirty intervals, ten times what makes a target failed.
    std::thread::sleep(Duration::from_secs(3));
    for uplink in 0..2 {
        let history = site.history(uplink).unwrap();
        assert!(history.len() == 1 && is(&history, State::Up), "{}", told(&history));
        let ping = target(&site.weir, uplink, 0);
        assert_eq!((ping.status, ping.figures.loss_percent.window), (Status::Answering, 0.0));
    }
    // Nothing but such targets, and a control process that knows nothing yet.
    let base = Weir::configuration(&site.topology, &[1; UPLINKS.len()]);
    let ping =
        "[[health.targets]]\nname = \"ping\"\nprobe = \"icmp\"\naddress = \"198.51.100.1\"\n";
    site.weir.reload(&format!("{base}\n[health]\n{QUICK}\n{ping}")).unwrap();
    site.weir.kill_control();
    site.weir.start_control().unwrap();
    wait::until("EPERM to be told again", wait::BOUND, || forbidden(&site.weir)).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let states = site.weir.health().unwrap().into_iter().map(|uplink| uplink.state);
    assert_eq!(states.take(2).collect::<Vec<_>>(), [State::Up; 2]);
    // And when it is lifted the link is probed as before.
    site.topology.gateway.nft("delete table ip forbid\n").unwrap();
    let answered = || Ok((target(&site.weir, FIBER, 0).figures.probes > 5).then_some(()));
    wait::until("answers", wait::BOUND, answered).unwrap();
}

#[test]
fn hosts_that_scan_seek_peers_and_inject_change_no_state() {
    let site = Probed::start(2, 6, QUICK).unwrap();
    let (hosts, pests) = site.topology.hosts.split_at(3);
    let pests = Pests::start(&site.topology, pests, ECHO).unwrap();
    let load = TcpLoad::start(hosts, ECHO, 20, Duration::from_secs(120)).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        assert_eq!(udp_flows::run(hosts, ECHO, 20).unwrap().answered, 60);
        std::thread::sleep(Duration::from_millis(200));
    }
    let report = pests.stop().unwrap();
    println!("{report:?}");
    assert!(report.connections > 100 && report.injected > 20, "{report:?}");
    for uplink in 0..2 {
        let history = site.history(uplink).unwrap();
        assert!(history.len() == 1 && is(&history, State::Up), "{}", told(&history));
    }
    assert_eq!(load.stop().unwrap().broken, Vec::<String>::new());
}

/// A site without targets.
fn unwatched() -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    let base = Weir::configuration(&topology, &[1; UPLINKS.len()]);
    let weir = Weir::start(&topology, &format!("{base}\n[health]\n{QUICK}")).unwrap();
    (topology, weir)
}

#[test]
fn without_targets_the_next_hop_is_probed_and_down_when_it_answers_nothing() {
    let (topology, weir) = unwatched();
    let status = |wanted| {
        let hop = target(&weir, FIBER, 0);
        assert_eq!((hop.target.as_str(), hop.judged), ("next hop", false));
        Ok((hop.status == wanted).then_some(()))
    };
    wait::until("answers", wait::BOUND, || status(Status::Answering)).unwrap();
    let provider = &topology.providers[FIBER].netns;
    // A router that does not answer pings is there.
    let deaf = "add table ip deaf\n\
        add chain ip deaf input { type filter hook input priority 0; }\n\
        add rule ip deaf input icmp type echo-request drop\n";
    provider.nft(deaf).unwrap();
    wait::until("no answers", wait::BOUND, || status(Status::Failed)).unwrap();
    // It is asked for its hardware address, three times a second apart at most.
    std::thread::sleep(Duration::from_secs(5));
    let history = history_of(&weir, FIBER);
    assert!(is(&history, State::Up), "{}", told(&history));
    // One that does not answer that either is gone.
    provider.nft("delete table ip deaf\n").unwrap();
    wait::until("answers again", wait::BOUND, || status(Status::Answering)).unwrap();
    let dead = "add table netdev dead\n\
        add chain netdev dead ingress { type filter hook ingress device \"gw\" priority 0; }\n\
        add rule netdev dead ingress drop\n";
    provider.nft(dead).unwrap();
    let down = || Ok(is(&history_of(&weir, FIBER), State::Down).then_some(()));
    wait::until("fiber to be down", wait::BOUND, down).unwrap();
    let history = history_of(&weir, FIBER);
    let last = history.last().unwrap();
    assert_eq!(last.transition.reason, Reason::NextHop, "{}", told(&history));
    provider.nft("delete table netdev dead\n").unwrap();
    let up = || Ok(is(&history_of(&weir, FIBER), State::Up).then_some(()));
    wait::until("fiber to be up again", wait::BOUND, up).unwrap();
    let neighbour = history_of(&weir, 1);
    assert!(is(&neighbour, State::Up), "{}", told(&neighbour));
}
