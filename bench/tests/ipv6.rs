//! IPv6 with a prefix of one's own: untranslated, by any uplink, in both directions.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, SERVER, STRANGER};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, nginx, probed, wait};
use weir_layout::Family;
use weir_layout::counters::Counter;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// The LAN of a site, for both families.
const LAN: &str = "interface = \"lan0\"\nprefixes = [\"10.0.0.0/16\", \"2001:2:0:100::/64\"]\n";

/// A site whose uplinks forward IPv6; what is for the LAN comes by the provider `inbound`.
fn site(plan: Plan, inbound: usize) -> (Topology, Weir) {
    let topology = Topology::build(plan).unwrap();
    ipv6::add(&topology, inbound).unwrap();
    let weir = Weir::start(&topology, &configuration(&topology)).unwrap();
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

/// As for IPv4, with IPv6 on each uplink.
fn configuration(topology: &Topology) -> String {
    Weir::configuration(topology, &WEIGHTS)
        .replace("interface = \"lan0\"\n", LAN)
        .replace("weight = ", "ipv6 = { translate = \"none\" }\nweight = ")
}

/// Packets from the LAN that each provider has carried; none had a source that it refuses.
fn outbound(topology: &Topology) -> Vec<u64> {
    let carried = topology.providers.iter().map(|provider| ipv6::carried(provider).unwrap());
    let carried: Vec<_> = carried.collect();
    assert!(carried.iter().all(|it| it.foreign == 0), "{carried:?}");
    carried.iter().map(|it| it.outbound).collect()
}

#[test]
fn real_clients_work_by_every_uplink_whichever_their_answers_come_by() {
    let (topology, weir) = site(Plan::new(3, 2), 1);
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
fn connections_outlive_the_uplinks_that_carry_them() {
    let (topology, weir) = site(Plan::new(3, 2), 2);
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let lan = topology.hosts[0].netns.clone();
    let load = Load { seconds: 4, streams: 16, reverse: false };
    let transfer = std::thread::spawn(move || iperf::tcp(&lan, SERVER, load));
    std::thread::sleep(Duration::from_secs(1));
    topology.providers[0].set_carrier(false).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let packets = outbound(&topology);
    let before = packets[0];
    assert!(before > 100, "before its carrier went: {packets:?}");
    assert!(transfer.join().unwrap().unwrap().bytes > 1_000_000);
    assert_eq!(outbound(&topology)[0], before);
    weir.check_conservation().unwrap();
}

#[test]
fn nothing_comes_in_that_no_flow_asked_for() {
    let (topology, weir) = site(Plan::new(2, 2), 0);
    let host = &topology.hosts[0].netns;
    let from = |source: std::net::Ipv6Addr| {
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-q", "-i", "0.05", "-W", "1", "-c", "5", "-I"]);
        ping.arg(source.to_string()).arg(ipv6::host(0).to_string());
        let output = topology.internet.run(|| ping.output()).unwrap().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = from(STRANGER);
    assert!(told.contains(" 0 received"), "{told}");
    // The way is open for what is asked for.
    assert_eq!(clients::ping(host, STRANGER, 5).unwrap().received, 5);
    let told = from(STRANGER);
    assert!(told.contains(" 0 received"), "{told}");
    weir.check_conservation().unwrap();
}

#[test]
fn the_kernel_beside_it_forwards_nothing_between_lans_and_uplinks() {
    let (topology, mut weir) = site(Plan::new(2, 1), 0);
    let host = &topology.hosts[0].netns;
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 5);
    weir.kill_dataplane();
    weir.take_program_off().unwrap();
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 0);
    let before = outbound(&topology);
    assert_eq!(clients::ping(&topology.internet, ipv6::host(0), 5).unwrap().received, 0);
    assert_eq!(outbound(&topology), before);
    // The gateway itself is asked as ever.
    assert_eq!(clients::ping(host, ipv6::LAN_GATEWAY, 5).unwrap().received, 5);
}

#[test]
fn who_connects_while_no_uplink_is_left_hears_at_once_that_there_is_no_route() {
    let (topology, weir) = site(Plan::new(2, 1), 0);
    let connect = |server: IpAddr| {
        let to = (server, nginx::PORT).into();
        topology.hosts[0].netns.run(|| TcpStream::connect_timeout(&to, wait::BOUND)).unwrap()
    };
    topology.providers.iter().for_each(|provider| provider.set_carrier(false).unwrap());
    wait::until("no uplink to be left", wait::BOUND, || {
        let half = weir.snapshot()?.half;
        let none = half.policies[0].steering.iter().all(|steering| steering.active_tier == 0);
        Ok(none.then_some(()))
    })
    .unwrap();
    for server in [SERVER.into(), probed::SERVER.into()] {
        assert_eq!(connect(server).unwrap_err().kind(), ErrorKind::NetworkUnreachable, "{server}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_smaller_mtu_of_an_uplink_is_told_to_the_host() {
    let mut plan = Plan::new(1, 1);
    plan.uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
    let (topology, weir) = site(plan, 0);
    let mut ping = Command::new("ping");
    ping.args(["-6", "-n", "-M", "do", "-s", "1400", "-c", "2", "-i", "0.2", "-W", "1"]);
    ping.arg(SERVER.to_string());
    let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("mtu=1400") || told.contains("mtu: 1400"), "{told}");
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let load = Load { seconds: 1, streams: 2, reverse: false };
    assert!(iperf::tcp(&topology.hosts[0].netns, SERVER, load).unwrap().bytes > 1_000_000);
    weir.check_conservation().unwrap();
}
