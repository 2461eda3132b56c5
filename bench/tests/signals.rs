//! What must not be taken for a fault of a link, on the wire: a firewall of the gateway itself,
//! hosts that scan and inject, routers that answer no pings; and what must.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use weir_api::TargetView;
use weir_health::target::Status;
use weir_health::{ProbeError, Reason, State};
use weir_kit::pests::Pests;
use weir_kit::plan::{self, Plan, Port};
use weir_kit::probed::{ECHO, Probed, QUICK, SERVER, is, told};
use weir_kit::server::Server;
use weir_kit::station::Station;
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::Topology;
use weir_kit::weir::{Change, UPLINKS, Weir};
use weir_kit::{udp_flows, wait};
use weir_layout::counters::Counter;

const FIBER: usize = 0;

fn target(weir: &Weir, uplink: usize, target: usize) -> TargetView {
    weir.health().unwrap()[uplink].ipv4.targets[target].clone()
}

fn history_of(weir: &Weir, uplink: usize) -> Vec<Change> {
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
    let states = site.weir.health().unwrap().into_iter().map(|uplink| uplink.ipv4.state);
    assert_eq!(states.take(2).collect::<Vec<_>>(), [State::Up; 2]);
    // And when it is lifted the link is probed as before.
    site.topology.gateway.nft("delete table ip forbid\n").unwrap();
    let answered = || Ok((target(&site.weir, FIBER, 0).figures.probes > 5).then_some(()));
    wait::until("answers", wait::BOUND, answered).unwrap();
}

#[test]
fn answers_that_the_gateways_own_firewall_drops_are_told_from_a_dead_link() {
    const CABLE: usize = 1;
    let site = Probed::start(2, 1, QUICK).unwrap();
    let is_down = |history: &[Change]| {
        let reason = history.last().map(|entry| entry.transition.reason);
        is(history, State::Down) && matches!(reason, Some(Reason::TargetsFailed { .. }))
    };
    let errors = |uplink| [0, 1].map(|n| target(&site.weir, uplink, n).error);
    let words = |uplink| format!("the targets of uplink {uplink} answer, but this machine drops");
    let told = |uplink| site.weir.log("weir-control").matches(&words(uplink)).count();
    site.topology.providers[CABLE].set_black_hole(true).unwrap();
    site.until(CABLE, "to be down", is_down).unwrap();
    let gateway = &site.topology.gateway;
    let without_state = "table ip strict {\nchain input {\n\
        type filter hook input priority 0; policy drop;\n\
        iifname { lo, lan0 } accept\n}\n}\n";
    for times in 1..=2 {
        gateway.nft(without_state).unwrap();
        site.until(FIBER, "to be down", is_down).unwrap();
        let dropped = || Ok((errors(FIBER) == [Some(ProbeError::Dropped); 2]).then_some(()));
        wait::until("ping and TCP to be told", wait::BOUND, dropped).unwrap();
        let said = || Ok((told("fiber") == times).then_some(()));
        wait::until("a line in the log", wait::BOUND, said).unwrap();
        gateway.nft("delete table ip strict\n").unwrap();
        site.until(FIBER, "to be up", |history| is(history, State::Up)).unwrap();
        assert_eq!(told("fiber"), times, "{}", site.weir.log("weir-control"));
    }
    assert_eq!(errors(CABLE), [Some(ProbeError::Timeout); 2]);
    assert_eq!(told("cable"), 0, "{}", site.weir.log("weir-control"));
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

/// Hosts that are not there: those that the kernel takes for neighbours all the same, and others.
const KNOWN: Range<u8> = 1..5;
const UNKNOWN: Range<u8> = 5..9;

/// Address and hardware address of one.
fn made_up(topology: &Topology, host: u8) -> (Ipv4Addr, [u8; 6]) {
    let [a, b, ..] = topology.hosts[0].address.octets();
    ([a, b, 200, host].into(), [6, 0, 0, 0, 0, host])
}

/// The first packets of their connections, from these ports on, with their sources. Nobody listens
/// where they go: the servers refuse, which is an answer.
fn connections(
    topology: &Topology,
    hosts: Range<u8>,
    first_port: u16,
) -> Vec<(SocketAddrV4, Vec<u8>)> {
    let gateway = Port::GatewayLan(0).mac();
    let gateway: Vec<_> = gateway.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    let gateway = gateway.try_into().unwrap();
    let mut connections = Vec::new();
    for host in hosts {
        let (address, mac) = made_up(topology, host);
        for (server, n) in (1..10).flat_map(|server| (0..10).map(move |n| (server, n))) {
            let source = SocketAddrV4::new(address, first_port + 100 * server as u16 + n);
            let step = PacketBuilder::ethernet2(mac, gateway)
                .ipv4(address.octets(), plan::server_address(server).octets(), 64)
                .tcp(source.port(), 4000, 1, 1000)
                .syn();
            let mut frame = Vec::new();
            step.write(&mut frame, &[]).unwrap();
            connections.push((source, frame));
        }
    }
    connections
}

#[test]
fn what_no_server_answers_and_what_unknown_hosts_send_condemns_no_link() {
    let topology = Topology::build(Plan { servers: 10, ..Plan::new(2, 1) }).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let health = format!("{QUICK}[health.passive]\nwindow_ms = 3000\n");
    let weir = Weir::start(&topology, &Probed::configuration(&topology, &health)).unwrap();
    let site = Probed { weir, server, topology };
    for uplink in 0..2 {
        site.until(uplink, "to be up", |entries| is(entries, State::Up)).unwrap();
    }
    for host in KNOWN {
        let (address, mac) = made_up(&site.topology, host);
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        let neighbour = format!("neigh add {address} lladdr {mac} dev lan0 nud permanent\n");
        site.topology.gateway.ip(&neighbour).unwrap();
    }
    let mut station = Station::on(&site.topology.hosts[0].netns, "eth0").unwrap();
    let created = || site.weir.counters().unwrap().sum(Counter::FlowsCreated);
    let mut made = created();
    let mut send = |connections: &[(SocketAddrV4, Vec<u8>)]| {
        for (_, frame) in connections {
            station.send(frame).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        made += connections.len() as u64;
        wait::until("all to begin", wait::BOUND, || Ok((created() >= made).then_some(()))).unwrap();
    };
    let nothing_changes = || {
        // A second until they are judged, and a window.
        std::thread::sleep(Duration::from_secs(5));
        for uplink in 0..2 {
            let history = site.history(uplink).unwrap();
            assert!(history.len() == 1 && is(&history, State::Up), "{}", told(&history));
        }
    };
    let mut known = connections(&site.topology, KNOWN, 5000);
    send(&known);
    // Once more, by the same uplinks. What goes by the first has a checksum that is wrong.
    let mut wrong = 0;
    for (source, frame) in &mut known {
        if site.weir.flow(*source).unwrap()[0].uplink == FIBER as u8 {
            frame[50] ^= 1;
            wrong += 1;
        }
    }
    assert!((100..260).contains(&wrong), "{wrong} of {}", known.len());
    send(&known);
    nothing_changes();
    // With checksums that are right, and a first uplink that loses them.
    let provider = &site.topology.providers[FIBER].netns;
    provider.nft("add rule inet bench forward tcp dport 4000 drop\n").unwrap();
    send(&connections(&site.topology, UNKNOWN, 5000));
    nothing_changes();
    send(&connections(&site.topology, KNOWN, 6000));
    let degraded = |entries: &[Change]| is(entries, State::Degraded);
    let history = site.until(FIBER, "to be degraded", degraded).unwrap();
    let reason = &history.last().unwrap().transition.reason;
    assert!(matches!(reason, Reason::PassiveSyn { .. }), "{}", told(&history));
    site.weir.check_conservation().unwrap();
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
