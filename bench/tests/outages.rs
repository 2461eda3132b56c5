//! A link that never rests, links that are all gone, and a configuration that changes.

use std::time::{Duration, Instant};

use weir_health::State;
use weir_kit::capture::Capture;
use weir_kit::long_flows::LongFlows;
use weir_kit::plan::Plan;
use weir_kit::probed::{ECHO, Probed, QUICK, SERVER, is, told};
use weir_kit::server::Server;
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, process, udp_flows, wait};
use weir_layout::control::path_state;
use weir_layout::counters::Counter;

const ICMP: u8 = 1;

/// [`QUICK`], with an uplink that flaps held down for four seconds at most.
fn quick() -> String {
    format!("{QUICK}hold_down_max_ms = 4000\n")
}

fn until_states(site: &Probed, what: &str, wanted: [u32; 3]) {
    wait::until(what, wait::BOUND, || Ok((site.weir.states()? == wanted).then_some(()))).unwrap();
}

fn resident(site: &Probed) -> [u64; 2] {
    site.weir.processes().unwrap().map(|pid| process::resident(pid).unwrap())
}

#[test]
fn a_thousand_changes_of_carrier_in_a_minute_cost_the_other_uplinks_nothing() {
    const CHANGES: u32 = 1000;
    const PINGS: usize = 5500;
    let site = Probed::start(3, 4, &quick()).unwrap();
    let (hosts, fiber) = (&site.topology.hosts, &site.topology.providers[0]);
    let load = TcpLoad::start(hosts, ECHO, 25, Duration::from_secs(180)).unwrap();
    load.wait_until_settled().unwrap();
    // Connections of fiber end with it; what is looked at begins after that.
    fiber.set_carrier(false).unwrap();
    site.until(0, "to be down", |history| is(history, State::Down)).unwrap();
    drop(load);
    let load = TcpLoad::start(hosts, ECHO, 25, Duration::from_secs(180)).unwrap();
    load.wait_until_settled().unwrap();
    udp_flows::run(hosts, ECHO, 25).unwrap();
    let made = || site.weir.counters().unwrap().sum(Counter::FlowsCreated);
    let (flows, memory, known) = (made(), resident(&site), site.history(0).unwrap().len());
    std::thread::scope(|scope| {
        let pings: Vec<_> = hosts
            .iter()
            .map(|host| scope.spawn(|| clients::ping(&host.netns, SERVER, PINGS).unwrap()))
            .collect();
        let start = Instant::now();
        for change in 0..CHANGES {
            fiber.set_carrier(change % 2 == 0).unwrap();
            let next = start + Duration::from_millis(60) * (change + 1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        println!("{CHANGES} changes in {:?}", start.elapsed());
        for ping in pings {
            let ping = ping.join().unwrap();
            assert_eq!((ping.sent, ping.received), (PINGS, PINGS), "a flow of another uplink");
        }
    });
    let history = site.history(0).unwrap();
    println!("{} of them are in the history", history.len() - known);
    let hold = site.weir.health().unwrap()[0].ipv4.hold_down_ms;
    assert_eq!(hold, 4000, "held down for as long as it is at most");
    let used = history[known..].iter().filter(|entry| entry.transition.to.usable()).count();
    assert_eq!(used, 0, "{}", told(&history));
    let grown: Vec<i64> =
        resident(&site).iter().zip(memory).map(|(now, then)| *now as i64 - then as i64).collect();
    println!("memory grew by {grown:?} bytes, the table by {} flows", made() - flows);
    assert!(grown.iter().all(|bytes| *bytes < 16 << 20), "{grown:?}");
    assert!(made() - flows <= hosts.len() as u64, "flows were made anew");
    let report = load.stop().unwrap();
    assert_eq!((report.intact, report.broken), (100, Vec::new()));

    fiber.set_carrier(true).unwrap();
    site.until(0, "to be up again", |history| is(history, State::Up)).unwrap();
    for uplink in [1, 2] {
        let history = site.history(uplink).unwrap();
        assert_eq!(history.len(), 1, "{}", told(&history));
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn with_all_uplinks_silent_flows_stay_and_all_goes_on_when_one_is_back() {
    let site = Probed::start(3, 1, &quick()).unwrap();
    let (hosts, processes) = (&site.topology.hosts, site.weir.processes().unwrap());
    let mut flows = LongFlows::open(&hosts[0], ECHO, 30).unwrap();
    let alive = flows.ask();
    assert_eq!((alive.tcp, alive.udp), (30, 30));
    let fail = |uplink: usize, on| site.topology.providers[uplink].set_black_hole(on).unwrap();
    std::thread::scope(|scope| {
        (0..3).for_each(|uplink| drop(scope.spawn(move || fail(uplink, true))));
    });
    let last_resort = path_state::USABLE | path_state::UNHEALTHY | path_state::LAST_RESORT;
    until_states(&site, "the last resort", [last_resort; 3]);
    let counters = site.weir.counters().unwrap();
    let of = |counter| counters.sum(counter);
    let before = [of(Counter::FlowsReset), of(Counter::FlowsMoved), of(Counter::DropNoUplink)];
    assert_eq!(before[..2], [0, 0], "none was cut or moved as they fell silent one by one");
    let made = of(Counter::FlowsCreated);
    assert_eq!(udp_flows::run(hosts, ECHO, 20).unwrap().answered, 0);
    assert_eq!(of(Counter::FlowsCreated) - made, 20, "new flows still have an uplink");
    let after = [of(Counter::FlowsReset), of(Counter::FlowsMoved), of(Counter::DropNoUplink)];
    assert_eq!(after, before, "nothing is cut, moved or refused");

    fail(1, false);
    let alone = [path_state::UNHEALTHY, path_state::USABLE, path_state::UNHEALTHY];
    until_states(&site, "cable to be back alone", alone);
    let alive = flows.ask();
    assert_eq!((alive.tcp + alive.reset, alive.udp), (30, 30), "{alive:?}");
    assert!(alive.tcp > 0, "those of cable go on: {alive:?}");

    [0, 2].into_iter().for_each(|uplink| fail(uplink, false));
    until_states(&site, "all to be up", [path_state::USABLE; 3]);
    assert_eq!(udp_flows::run(hosts, ECHO, 50).unwrap().answered, 50);
    assert_eq!(site.weir.processes().unwrap(), processes);
    site.weir.check_conservation().unwrap();
}

#[test]
fn with_all_uplinks_cut_new_flows_are_refused_until_one_is_back() {
    let site = Probed::start(3, 1, &quick()).unwrap();
    let hosts = &site.topology.hosts;
    for provider in &site.topology.providers {
        provider.set_carrier(false).unwrap();
    }
    wait::until("no uplink to be usable", wait::BOUND, || {
        let cut =
            |state: &u32| state & path_state::NO_CARRIER != 0 && state & path_state::USABLE == 0;
        Ok(site.weir.states()?.iter().all(cut).then_some(()))
    })
    .unwrap();
    assert_eq!(udp_flows::run(hosts, ECHO, 20).unwrap().answered, 0);
    let refused = site.weir.counters().unwrap().sum(Counter::DropNoUplink);
    assert!(refused >= 20, "{refused}");
    site.topology.providers[2].set_carrier(true).unwrap();
    site.until(2, "to be up again", |history| is(history, State::Up)).unwrap();
    assert_eq!(udp_flows::run(hosts, ECHO, 20).unwrap().answered, 20);
    site.weir.check_conservation().unwrap();
}

/// The first to answer takes what begins then. The other's flows are neither reset nor moved before it
/// has answered or failed to.
#[test]
fn at_a_cold_start_flows_by_the_uplink_that_answers_later_stay() {
    const PATIENT: &str = "interval_ms = 200\ntimeout_ms = 1000\ndown = 50\n\
        targets = [{ name = \"ping\", probe = \"icmp\", address = \"198.51.100.1\" }]\n";
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let set_deaf = |uplink: usize, on: bool| {
        let rule = if on { "add rule inet bench forward meta l4proto icmp drop\n" } else { "" };
        let rules = format!("flush chain inet bench forward\n{rule}");
        topology.providers[uplink].netns.nft(&rules).unwrap();
    };
    (0..2).for_each(|uplink| set_deaf(uplink, true));
    let base = Weir::configuration(&topology, &[1, 1]);
    let mut weir = Weir::prepare(&topology, &format!("{base}\n[health]\n{PATIENT}")).unwrap();
    weir.start_control().unwrap();
    weir.start_dataplane().unwrap();
    let until = |what: &str, wanted: [u32; 2]| {
        let are = || Ok((weir.states()?[..2] == wanted).then_some(()));
        wait::until(what, wait::BOUND, are).unwrap();
    };
    let silent = path_state::USABLE | path_state::UNHEALTHY;
    until("the last resort", [silent | path_state::LAST_RESORT; 2]);
    let mut flows = LongFlows::open(&topology.hosts[0], ECHO, 30).unwrap();
    assert_eq!((flows.ask().tcp, flows.ask().udp), (30, 30));
    let by = |uplink: usize| weir.uplinks().unwrap()[uplink].flows_created;
    assert!(by(0) > 0 && by(1) > 0, "both are the last resort");

    set_deaf(0, false);
    until("fiber to answer", [path_state::USABLE, silent]);
    assert_eq!((flows.ask().tcp, flows.ask().udp), (30, 30));
    let before = by(1);
    assert_eq!(udp_flows::run(&topology.hosts, ECHO, 20).unwrap().answered, 20);
    assert_eq!(by(1), before, "what begins now takes the one that answers");
    set_deaf(1, false);
    until("cable to answer", [path_state::USABLE; 2]);
    assert_eq!((flows.ask().tcp, flows.ask().udp), (30, 30));
    let counters = weir.counters().unwrap();
    assert_eq!([Counter::FlowsReset, Counter::FlowsMoved].map(|it| counters.sum(it)), [0, 0]);
    weir.check_conservation().unwrap();
    drop(server);
}

/// Probes leave every 30 s, but a prober that starts sends its first within three.
#[test]
fn a_reload_restarts_no_probe_whose_definition_is_unchanged() {
    const SLOW: &str = "interval_ms = 30000\n";
    let site = Probed::start(2, 1, SLOW).unwrap();
    let captures = Capture::at_providers(&site.topology).unwrap();
    let probed = |uplink: usize| site.weir.health().unwrap()[uplink].ipv4.targets[0].figures.probes;
    assert_eq!([probed(0), probed(1)], [1, 1]);
    let changed = r#"weight = 2
[uplink.health]
interval_ms = 31000
[[uplink.health.targets]]
name = "ping"
probe = "icmp"
address = "198.51.100.1"
"#;
    let configuration = Probed::configuration(&site.topology, SLOW);
    let (fiber, cable) = configuration.split_once("\"cable\"").unwrap();
    let cable = cable.replacen("weight = 1\n", changed, 1);
    site.weir.reload(&format!("{fiber}\"cable\"{cable}")).unwrap();
    wait::until("cable to be probed anew", wait::BOUND, || Ok((probed(1) == 2).then_some(())))
        .unwrap();
    // One that started with it would have sent by now.
    std::thread::sleep(Duration::from_millis(3200));
    let probes: Vec<_> = captures
        .into_iter()
        .map(|capture| capture.stop().unwrap().flows_to(SERVER, ICMP).len())
        .collect();
    assert_eq!(probes, [0, 1]);
    assert_eq!(probed(0), 1, "what is known of an unchanged target is kept");
    for uplink in [0, 1] {
        let history = site.history(uplink).unwrap();
        assert_eq!(history.len(), 1, "{}", told(&history));
    }
}
