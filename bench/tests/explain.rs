//! What is said of packets and changes is what becomes of them on the wire.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};

use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use weir_api::Request;
use weir_explain::capture::{Capture, Captured};
use weir_explain::explanation::{Explanation, Fate, Tier};
use weir_explain::{Question, Replica};
use weir_kit::ipv6::{self, Mode};
use weir_kit::long_flows::LongFlows;
use weir_kit::plan::Plan;
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir, tier};
use weir_kit::{udp_flows, wait};
use weir_layout::Family;
use weir_shm::Pins;

const WEIGHTS: [u16; 3] = [5, 3, 2];
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
/// Flows of each family.
const FLOWS: u16 = 40;
const FIRST_PORT: u16 = 31_000;

fn now() -> u32 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000) as u32
}

/// What `weir` prints as JSON under a command's name.
fn asked(topology: &Topology, weir: &Weir, arguments: &[&str], name: &str) -> Value {
    let mut command = weir.cli(arguments).unwrap();
    command.arg("--json");
    let output = topology.gateway.run(|| command.output().unwrap()).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_str::<Value>(&said).unwrap()[name].clone()
}

/// What is explained of each, on one copy of the gateway.
fn explain(topology: &Topology, questions: &[Question]) -> Vec<Explanation> {
    let pins = Pins::existing(topology.run.pin_directory().unwrap());
    let explained = topology.gateway.run(|| {
        let mut replica = Replica::pinned(&pins, now()).unwrap();
        questions.iter().map(|question| replica.explain(question).unwrap()).collect()
    });
    explained.unwrap()
}

fn begun(weir: &Weir) -> u64 {
    let of =
        |family| weir.paths(family).unwrap().iter().map(|path| path.flows_created).sum::<u64>();
    Family::ALL.map(of).iter().sum()
}

fn site() -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan::new(WEIGHTS.len(), 1)).unwrap();
    ipv6::add(&topology, 0).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let path = |uplink| Mode::None.path(uplink);
    let weir =
        Weir::start(&topology, &Weir::configuration_with(&topology, &WEIGHTS, "", path)).unwrap();
    for family in Family::ALL {
        weir.wait_until_usable_in(family, &[0, 1, 2]).unwrap();
    }
    (topology, server, weir)
}

#[test]
fn what_is_explained_of_a_flow_is_where_its_packets_go_and_asking_leaves_nothing() {
    let (topology, _server, weir) = site();
    let host = &topology.hosts[0];
    let sources: [IpAddr; 2] = [host.address.into(), ipv6::host(0).into()];
    let remotes: [SocketAddr; 2] = [ECHO.into(), SocketAddr::new(ipv6::SERVER.into(), ECHO_PORT)];
    let flows: Vec<[SocketAddr; 2]> = (0..2 * FLOWS)
        .map(|n| {
            let family = usize::from(n % 2);
            [SocketAddr::new(sources[family], FIRST_PORT + n), remotes[family]]
        })
        .collect();
    let question = |[from, to]: &[SocketAddr; 2]| {
        Question::read("udp", &from.to_string(), &to.to_string()).unwrap()
    };
    let questions: Vec<_> = flows.iter().map(question).collect();
    let before = begun(&weir);
    let explained = explain(&topology, &questions);
    assert_eq!(begun(&weir), before, "explaining begins no flow");
    let pins = topology.run.pin_directory().unwrap();
    let left = std::fs::read_dir(pins.parent().unwrap()).unwrap().map(|entry| entry.unwrap());
    let left: Vec<_> = left.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let own = pins.file_name().unwrap().to_string_lossy().into_owned() + "-explain";
    assert!(!left.iter().any(|name| name.starts_with(&own)), "{left:?}");

    let sockets: Vec<UdpSocket> = host
        .netns
        .run(|| {
            let open = |[from, to]: &[SocketAddr; 2]| {
                let socket = UdpSocket::bind(from).unwrap();
                socket.connect(to).unwrap();
                socket.send(b"whither").unwrap();
                socket
            };
            flows.iter().map(open).collect()
        })
        .unwrap();
    let all = before + u64::from(2 * FLOWS);
    let there = || Ok((begun(&weir) >= all).then_some(()));
    wait::until("the flows to begin", wait::BOUND, there).unwrap();
    let table =
        asked(&topology, &weir, &["flows", "--protocol", "udp", "--limit", "1000"], "flows");
    let mut by = [0; 3];
    for ([from, _], explained) in flows.iter().zip(&explained) {
        let mut entries = table["shown"].as_array().unwrap().iter();
        let entry = entries.find(|entry| entry["inside"] == from.to_string()).expect("its flow");
        let flow = explained.flow.as_ref().expect("a flow");
        assert_eq!(entry["uplink"], flow.uplink.as_deref().unwrap(), "{explained}");
        let outside = |text: &str| text.parse::<SocketAddr>().unwrap();
        let [said, is] = [&*flow.rewritten[0], entry["outside"].as_str().unwrap()].map(outside);
        assert_eq!(said.ip(), is.ip(), "{explained}");
        by[UPLINKS.iter().position(|uplink| entry["uplink"] == *uplink).unwrap()] += 1;
        assert!(matches!(explained.fate, Fate::Forwarded { .. }), "{explained}");
        assert!(matches!(explained.tier, Tier::User { .. }), "its first packet: {explained}");
    }
    assert!(by.iter().all(|flows| *flows > 0), "{by:?}");

    // They are answered, and established.
    for socket in sockets.iter().step_by(2) {
        socket.set_read_timeout(Some(wait::BOUND)).unwrap();
        socket.recv(&mut [0; 16]).unwrap();
    }
    let gateway = SocketAddr::new(topology.providers[0].addresses[0].into(), 9);
    let own = Question::read("udp", "198.51.100.9:9", &gateway.to_string()).unwrap();
    let from_afar = Question { from: Some("fiber".into()), ..own };
    let again = explain(&topology, &[question(&flows[0]), from_afar]);
    let kernel = matches!(again[0].tier, Tier::Kernel);
    assert_eq!(kernel, tier() == "kernel", "{}", again[0]);
    assert_eq!(again[0].flow.as_ref().map(|flow| flow.new), Some(false), "{}", again[0]);
    assert!(matches!(again[0].fate, Fate::Forwarded { .. }), "{}", again[0]);
    assert!(matches!(again[1].fate, Fate::Kernel), "{}", again[1]);
    let told = asked(
        &topology,
        &weir,
        &["explain", "udp", &flows[0][0].to_string(), &flows[0][1].to_string()],
        "explain",
    );
    assert_eq!(told["flow"]["uplink"], again[0].flow.as_ref().unwrap().uplink.as_deref().unwrap());
    weir.check_conservation().unwrap();
}

#[test]
fn what_a_change_is_said_to_do_it_then_does() {
    let (topology, _server, weir) = site();
    let mut flows = LongFlows::open(&topology.hosts[0], ECHO, 24).unwrap();
    udp_flows::run(&topology.hosts, ECHO, 50).unwrap();
    flows.ask();
    let by = || -> Vec<u64> {
        weir.paths(Family::V4).unwrap()[..3].iter().map(|path| path.flows_active).collect()
    };
    let before = by();
    let forecast = asked(&topology, &weir, &["what-if", "down", "fiber"], "what_if");
    assert_eq!(by(), before, "nothing is changed");
    assert!(weir.states().unwrap()[0] & weir_layout::control::path_state::USABLE != 0);
    let of_fiber = &forecast["flows"][0];
    assert_eq!(of_fiber["flows"], before[0], "{forecast}");
    assert_eq!(of_fiber["stay"], 0, "{forecast}");
    let breaks = of_fiber["breaks"].as_u64().unwrap();
    assert!(breaks > 0, "{forecast}");
    weir.request(&Request::Down { uplink: "fiber".into() }).unwrap();
    let alive = flows.ask();
    assert_eq!(alive.reset as u64, breaks, "{forecast}");
    assert_eq!(alive.udp, 24, "{forecast}");
    assert_shares(&weir, &forecast);
}

/// The shares that were foretold of the default policy in IPv4 are those that there are.
fn assert_shares(weir: &Weir, forecast: &Value) {
    let snapshot = weir.snapshot().unwrap();
    let table = snapshot.table(Family::V4, 0).unwrap();
    for share in forecast["shares"].as_array().unwrap() {
        let uplink = UPLINKS.iter().position(|uplink| share["uplink"] == *uplink);
        if share["family"] != "ipv4" || uplink.is_none() {
            continue;
        }
        let owned = table.iter().filter(|owner| Some(usize::from(**owner)) == uplink).count();
        let percent = (owned as f64 * 1000.0 / table.len() as f64).round() / 10.0;
        assert_eq!(share["after"], percent, "{forecast}");
    }
}

/// Fiber has another interface, which is not there, cable another weight.
#[test]
fn what_a_file_is_said_to_do_its_reload_then_does() {
    let (topology, _server, weir) = site();
    let mut flows = LongFlows::open(&topology.hosts[0], ECHO, 24).unwrap();
    flows.ask();
    let path = |uplink| Mode::None.path(uplink);
    let other = Weir::configuration_with(&topology, &[5, 9, 2], "", path);
    let interface = format!("interface = \"{}\"", topology.providers[0].interface());
    assert!(other.contains(&interface), "{other}");
    let other = other.replace(&interface, "interface = \"gone0\"");
    let file = topology.run.file_directory().unwrap().join("other.toml");
    std::fs::write(&file, &other).unwrap();
    let epoch = weir.snapshot().unwrap().half.epoch;
    let forecast = asked(&topology, &weir, &["what-if", file.to_str().unwrap()], "what_if");
    assert_eq!(weir.snapshot().unwrap().half.epoch, epoch, "nothing is changed");
    let sum = |key: &str| -> u64 {
        let flows = forecast["flows"].as_array().unwrap().iter();
        flows.map(|flows| flows[key].as_u64().unwrap()).sum()
    };
    assert_eq!(forecast["flows"][0]["stay"], 0, "{forecast}");
    assert!(sum("breaks") > 0 && sum("stay") > 0, "{forecast}");
    weir.reload(&other).unwrap();
    let alive = flows.ask();
    assert_eq!((alive.reset as u64, alive.udp), (sum("breaks"), 24), "{forecast}");
    assert_shares(&weir, &forecast);
}

#[test]
fn each_flow_of_a_capture_goes_where_it_is_explained_to_go() {
    let (topology, _server, weir) = site();
    let host = &topology.hosts[0];
    let file = topology.run.file_directory().unwrap().join("lan.pcap");
    let name = file.to_str().unwrap();
    let mut tcpdump = Command::new("tcpdump");
    // Each packet is in the file at once.
    tcpdump.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-i", "eth0", "-w", name]);
    let tcpdump = host.netns.spawn(tcpdump.stderr(Stdio::null())).unwrap();
    let read = || File::open(&file).ok().and_then(|file| Capture::read(file, 1000).ok());
    wait::until("the capture to begin", wait::BOUND, || Ok(read().map(|_| ()))).unwrap();
    let report = udp_flows::run(&topology.hosts, ECHO, usize::from(FLOWS)).unwrap();
    assert_eq!(report.answered, report.sent);
    let all = || {
        let of_server = |flow: &&Captured| flow.question.destination == IpAddr::from(SERVER);
        let seen = read()?.flows.iter().filter(of_server).map(|flow| flow.packets).sum::<u64>();
        (seen >= 2 * u64::from(FLOWS)).then_some(())
    };
    wait::until("the capture of all", wait::BOUND, || Ok(all())).unwrap();
    tcpdump.stop().unwrap();
    let explained = asked(&topology, &weir, &["explain", "--pcap", name], "explain");
    let table =
        asked(&topology, &weir, &["flows", "--protocol", "udp", "--limit", "1000"], "flows");
    let mut count = 0;
    for flow in explained["flows"].as_array().unwrap() {
        let explanation = &flow["explanation"];
        let Some(source) = explanation["packet"]["source"].as_str() else { continue };
        let mut entries = table["shown"].as_array().unwrap().iter();
        let Some(entry) = entries.find(|entry| entry["inside"] == source) else { continue };
        assert_eq!(entry["uplink"], explanation["fate"]["uplink"], "{flow}");
        assert_eq!(entry["outside"], explanation["fate"]["source"], "{flow}");
        assert_eq!(flow["packets"], 2, "{flow}");
        count += 1;
    }
    assert_eq!(count, FLOWS, "{explained}");
}
