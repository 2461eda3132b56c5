//! Translation of IPv6: an inside prefix that no provider carries, and one of each provider's, or one
//! address of that.

use std::fs;
use std::process::Command;
use std::time::Duration;

use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, SERVER, STRANGER};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, nginx, wait};
use weir_layout::Family;
use weir_layout::counters::Counter;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// The LAN of a site: of IPv4 what its interface has.
const LAN: &str = "interface = \"lan0\"\nprefixes = [\"fd00:2:0:100::/64\"]\n";

/// What an uplink's path translates to, of its provider's prefix.
type Path = fn(&str) -> String;

/// The prefix.
const PREFIX: Path = |prefix| format!("translate = \"npt66\", prefix = \"{prefix}\"");
/// Ports of one address.
const ADDRESS: Path = |prefix| {
    let address = prefix.replace("/56", "1");
    format!("translate = \"nat66\", addresses = [\"{address}\"]")
};

/// A site whose uplinks translate so; `more` is of the whole gateway.
fn site(plan: Plan, path: Path, more: &str) -> (Topology, Weir) {
    let topology = Topology::build(plan).unwrap();
    ipv6::add_delegated(&topology).unwrap();
    let gateway = format!("[gateway]\n{more}");
    let configuration = configuration(&topology, path).replace("[gateway]\n", &gateway);
    let weir = Weir::start(&topology, &configuration).unwrap();
    let uplinks: Vec<_> = (0..topology.providers.len()).collect();
    weir.wait_until_usable_in(Family::V6, &uplinks).unwrap();
    // The routers beyond have neighbours of their own to find.
    wait::until("answers from the Internet", wait::BOUND, || {
        let ping = clients::ping(&topology.hosts[0].netns, SERVER, 1)?;
        Ok((ping.received == 1).then_some(()))
    })
    .unwrap();
    (topology, weir)
}

fn configuration(topology: &Topology, path: Path) -> String {
    let mut text = Weir::configuration(topology, &WEIGHTS).replace("interface = \"lan0\"\n", LAN);
    for provider in &topology.providers {
        let interface = format!("interface = \"{}\"\n", provider.interface());
        let path = format!("ipv6 = {{ {} }}\n", path(&ipv6::delegated(provider.index)));
        text = text.replace(&interface, &(interface.clone() + &path));
    }
    text
}

/// Packets that each provider has carried from the LAN; none had a source that is not the provider's.
fn outbound(topology: &Topology) -> Vec<u64> {
    let carried = topology.providers.iter().map(|provider| ipv6::carried(provider).unwrap());
    let carried: Vec<_> = carried.collect();
    assert!(carried.iter().all(|it| it.foreign == 0), "{carried:?}");
    carried.iter().map(|it| it.outbound).collect()
}

/// What a host's ping with these arguments says.
fn ping(topology: &Topology, arguments: &[&str]) -> String {
    let mut ping = Command::new("ping");
    ping.args(["-6", "-n", "-i", "0.2", "-W", "1"]).args(arguments).arg(SERVER.to_string());
    let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn real_clients_work_by_every_uplink_from_its_providers_prefix() {
    real_clients_work_by_every_uplink(PREFIX);
}

#[test]
fn real_clients_work_by_every_uplink_from_one_address_of_its_provider() {
    real_clients_work_by_every_uplink(ADDRESS);
}

fn real_clients_work_by_every_uplink(path: Path) {
    let (topology, weir) = site(Plan::new(3, 2), path, "");
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; 3_000_000]).unwrap();
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 20).unwrap().received, 20);
        for _ in 0..10 {
            let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
            assert_eq!(clients::curl(&host.netns, &url).unwrap().bytes, 3_000_000);
        }
    }
    let lan = &topology.hosts[0].netns;
    for reverse in [false, true] {
        let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
        let load = Load { seconds: 1, streams: 8, reverse };
        assert!(iperf::tcp(lan, SERVER, load).unwrap().bytes > 1_000_000);
    }
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let load = Load { seconds: 1, streams: 4, reverse: false };
    assert!(iperf::udp(lan, SERVER, load, 1_000_000).unwrap().packets > 100);
    let packets = outbound(&topology);
    assert!(packets.iter().all(|packets| *packets > 100), "{packets:?}");
    weir.check_conservation().unwrap();
    let counters = weir.counters().unwrap();
    let (kernel, user) = (counters.sum(Counter::XdpForwarded), counters.sum(Counter::UserTx));
    match weir_kit::weir::tier().as_str() {
        "user" => assert_eq!(kernel, 0),
        _ => assert!(kernel > 10 * user, "{kernel} in the kernel tier, {user} in the user tier"),
    }
}

#[test]
fn who_is_on_the_way_is_heard_of_and_large_datagrams_pass_in_fragments() {
    for path in [PREFIX, ADDRESS] {
        routers_and_fragments(path);
    }
}

fn routers_and_fragments(path: Path) {
    let mut plan = Plan::new(1, 1);
    plan.uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
    let (topology, weir) = site(plan, path, "");
    let gateway = ipv6::inside(ipv6::LAN_GATEWAY).to_string();
    assert!(ping(&topology, &["-c", "1", "-t", "1"]).contains(&gateway));
    let router = format!("From {}", ipv6::link(0, 1));
    let told = ping(&topology, &["-c", "1", "-t", "2"]);
    assert!(told.contains(&router) && told.contains("Time exceeded"), "{told}");
    let told = ping(&topology, &["-c", "2", "-M", "do", "-s", "1400"]);
    assert!(told.contains("mtu=1400") || told.contains("mtu: 1400"), "{told}");
    // The first shows the server what the way back carries.
    ping(&topology, &["-c", "1", "-s", "4000"]);
    let told = ping(&topology, &["-c", "5", "-s", "4000"]);
    assert!(told.contains(" 5 received"), "{told}");
    outbound(&topology);
    weir.check_conservation().unwrap();
}

#[test]
fn after_a_cut_hosts_go_on_from_another_providers_prefix() {
    hosts_go_on_after_a_cut(PREFIX);
}

#[test]
fn after_a_cut_hosts_go_on_from_an_address_of_another_provider() {
    hosts_go_on_after_a_cut(ADDRESS);
}

fn hosts_go_on_after_a_cut(path: Path) {
    let (topology, weir) = site(Plan::new(2, 1), path, "");
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; 300_000]).unwrap();
    let host = &topology.hosts[0].netns;
    // Each has an identifier of its own, so that they go by both uplinks.
    let pings = std::array::from_fn::<_, 16, _>(|_| {
        let host = host.clone();
        std::thread::spawn(move || clients::ping(&host, SERVER, 300))
    });
    std::thread::sleep(Duration::from_secs(1));
    topology.providers[0].set_carrier(false).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let before = outbound(&topology);
    assert!(before.iter().all(|packets| *packets > 50), "before its carrier went: {before:?}");
    let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
    assert_eq!(clients::curl(host, &url).unwrap().bytes, 300_000);
    for ping in pings {
        let received = ping.join().unwrap().unwrap().received;
        assert!(received > 200, "{received} of 300 were answered");
    }
    let after = outbound(&topology);
    assert_eq!(after[0], before[0]);
    assert!(after[1] > before[1] + 100, "{before:?} {after:?}");
    weir.check_conservation().unwrap();
}

#[test]
fn nobody_outside_reaches_a_host_that_did_not_ask() {
    let (topology, weir) = site(Plan::new(2, 1), PREFIX, "");
    let asked = clients::ping(&topology.hosts[0].netns, STRANGER, 5).unwrap();
    assert_eq!(asked.received, 5, "the way is open for what is asked for");
    let inbound = |provider: usize| ipv6::carried(&topology.providers[provider]).unwrap().inbound;
    for provider in 0..2 {
        let before = inbound(provider);
        let prefix = ipv6::delegated(provider);
        let someone = prefix.replace("/56", "1");
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-q", "-i", "0.05", "-W", "1", "-c", "5", &someone]);
        let output = topology.internet.run(|| ping.output()).unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(" 0 received"), "{told}");
        assert_eq!(inbound(provider), before + 5);
    }
    outbound(&topology);
    weir.check_conservation().unwrap();
}

#[test]
fn the_kernel_that_stands_in_sends_no_inside_source_to_a_provider() {
    let stands_in = "on_dataplane_loss = \"kernel\"\n";
    let (topology, mut weir) = site(Plan::new(2, 1), PREFIX, stands_in);
    let host = &topology.hosts[0].netns;
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 5);
    weir.kill_dataplane();
    weir.take_program_off().unwrap();
    let before = outbound(&topology);
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 0);
    assert_eq!(outbound(&topology), before);
    // The gateway itself is asked as ever.
    assert_eq!(clients::ping(host, ipv6::inside(ipv6::LAN_GATEWAY), 5).unwrap().received, 5);
}
