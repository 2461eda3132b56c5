//! A prefix of one's own that may be reached from outside by every uplink: no packet needs a flow.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::process::Command;
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_kit::extended::{self, Headers};
use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, SERVER, STRANGER};
use weir_kit::plan::{Offloads, Plan, Uplink};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, nginx, process, wait};
use weir_layout::Family;
use weir_layout::counters::Counter;

const WEIGHTS: [u16; 3] = [5, 3, 2];
/// What the file says of each uplink's IPv6.
const OPEN: &str = "ipv6 = { translate = \"none\", inbound = true }";
/// Ports of a flow each.
const PORTS: std::ops::Range<u16> = 10_000..50_000;

/// A site whose LAN has a prefix that every provider carries; what comes for it comes by `inbound`.
fn site(plan: Plan, inbound: usize, ipv6: &str) -> (Topology, Weir) {
    let topology = Topology::build(plan).unwrap();
    ipv6::add(&topology, inbound).unwrap();
    let weir = Weir::start(&topology, &configuration(&topology, ipv6)).unwrap();
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

fn configuration(topology: &Topology, ipv6: &str) -> String {
    const LAN: &str = "interface = \"lan0\"\nprefixes = [\"10.0.0.0/16\", \"2001:2:0:100::/64\"]\n";
    Weir::configuration(topology, &WEIGHTS)
        .replace("interface = \"lan0\"\n", LAN)
        .replace("weight = ", &format!("{ipv6}\nweight = "))
}

/// Packets from the LAN that each provider has carried; none had a source that it refuses.
fn outbound(topology: &Topology) -> Vec<u64> {
    let carried = topology.providers.iter().map(|provider| ipv6::carried(provider).unwrap());
    let carried: Vec<_> = carried.collect();
    assert!(carried.iter().all(|it| it.foreign == 0), "{carried:?}");
    carried.iter().map(|it| it.outbound).collect()
}

/// Flows of IPv6 that were ever made, and those that the command line tells of.
fn flows(weir: &Weir) -> (u64, u64) {
    let made = weir.paths(Family::V6).unwrap().iter().map(|it| it.flows_created).sum();
    let output = process::output(&mut weir.cli(&["flows", "--json"]).unwrap());
    let flows: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    (made, flows["flows"]["of"].as_u64().unwrap())
}

/// The sums hold, and packets left by the tier that is under test.
fn check_tier(weir: &Weir) {
    weir.check_conservation().unwrap();
    let counters = weir.counters().unwrap();
    let (kernel, user) = (counters.sum(Counter::XdpForwarded), counters.sum(Counter::UserTx));
    match weir_kit::weir::tier().as_str() {
        "user" => assert!(kernel == 0 && user > 1000, "{user} in the user tier"),
        _ => assert!(kernel > 100 * user, "{kernel} in the kernel tier, {user} in the user tier"),
    }
}

#[test]
fn real_clients_work_without_a_flow_whichever_way_their_answers_come_by() {
    let (topology, weir) = site(Plan::new(3, 2), 1, OPEN);
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
    assert_eq!(flows(&weir), (0, 0));
    check_tier(&weir);
}

#[test]
fn connections_outlive_the_uplinks_that_carry_them() {
    let (topology, weir) = site(Plan::new(3, 2), 2, OPEN);
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let lan = topology.hosts[0].netns.clone();
    let load = Load { seconds: 4, streams: 16, reverse: false };
    let transfer = std::thread::spawn(move || iperf::tcp(&lan, SERVER, load));
    wait::until("packets by every provider", wait::BOUND, || {
        Ok(outbound(&topology).iter().all(|packets| *packets > 100).then_some(()))
    })
    .unwrap();
    topology.providers[0].set_carrier(false).unwrap();
    let before = outbound(&topology);
    assert!(transfer.join().unwrap().unwrap().bytes > 1_000_000);
    let after = outbound(&topology);
    assert_eq!(after[0], before[0]);
    assert!(after[1] > before[1] + 100 && after[2] > before[2] + 100, "{before:?} {after:?}");
    assert_eq!(flows(&weir), (0, 0));
    check_tier(&weir);
}

#[test]
fn forty_thousand_flows_follow_the_weights() {
    let (topology, weir) = site(Plan::new(3, 1), 0, OPEN);
    let before = outbound(&topology);
    let send = || {
        for port in PORTS {
            // Nothing tells the sender how much the gateway keeps up with.
            if port % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let from = SocketAddrV6::new(ipv6::host(0), port, 0, 0);
            let socket = UdpSocket::bind(from).unwrap();
            // Nobody listens, and what is told of that is no matter.
            let _ = socket.send_to(b"?", (STRANGER, 9));
        }
    };
    topology.hosts[0].netns.run(send).unwrap();
    let after = outbound(&topology);
    let packets: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let total: u64 = packets.iter().sum();
    assert!(total > PORTS.len() as u64 * 9 / 10, "{packets:?}");
    for (packets, weight) in packets.iter().zip([50.0, 30.0, 20.0]) {
        let share = *packets as f64 * 100.0 / total as f64;
        assert!((share - weight).abs() < 1.0, "{packets} of {total}");
    }
    assert_eq!(flows(&weir), (0, 0));
    check_tier(&weir);
}

/// What a stranger hears of a host that it asks unasked: so many of ten.
fn heard(topology: &Topology, host: Ipv6Addr) -> u64 {
    let mut ping = Command::new("ping");
    ping.args(["-6", "-n", "-q", "-i", "0.05", "-W", "2", "-c", "10", "-I"]);
    ping.arg(STRANGER.to_string()).arg(host.to_string());
    let output = topology.internet.run(|| ping.output()).unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let (before, _) = told.split_once(" received").unwrap_or_else(|| panic!("{told}"));
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_host_that_the_kernel_does_not_know_yet_is_reached_with_the_first_packet() {
    let (topology, weir) = site(Plan::new(3, 2), 1, OPEN);
    topology.gateway.ip("neigh flush dev lan0\n").unwrap();
    for index in 0..2 {
        assert_eq!(heard(&topology, ipv6::host(index)), 10, "host {index}");
    }
    // It has another hardware address, and says so.
    let moved = "link set eth0 down\nlink set eth0 address 02:99:00:00:00:01\nlink set eth0 up\n";
    let again = format!(
        "addr replace {}/64 dev eth0 nodad\nroute replace default via {}\n",
        ipv6::host(0),
        ipv6::LAN_GATEWAY
    );
    topology.hosts[0].netns.ip(moved).unwrap();
    topology.hosts[0].netns.ip(&again).unwrap();
    let ping = clients::ping(&topology.hosts[0].netns, ipv6::LAN_GATEWAY, 3).unwrap();
    assert_eq!(ping.received, 3);
    assert_eq!(heard(&topology, ipv6::host(0)), 10, "it has moved");
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
}

#[test]
fn packets_with_extension_headers_and_fragments_pass_both_ways() {
    let (topology, weir) = site(Plan::new(3, 1), 1, OPEN);
    let host = &topology.hosts[0].netns;
    let _server = extended::serve(&topology.internet, SERVER).unwrap();
    // The first large answer is lost: it shows the server the way back's MTU.
    extended::exchange(host, SERVER, Headers::Destination, 4000).unwrap();
    for headers in [Headers::Destination, Headers::HopByHop, Headers::Both] {
        for bytes in [100, 4000] {
            let back = extended::exchange(host, SERVER, headers, bytes).unwrap();
            assert_eq!(back, 20, "{headers:?}, {bytes} bytes");
        }
    }
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
}

#[test]
fn a_smaller_mtu_of_an_uplink_is_told_to_the_host() {
    let mut plan = Plan::new(1, 1);
    plan.uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
    let (topology, weir) = site(plan, 0, OPEN);
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    for reverse in [false, true] {
        let load = Load { seconds: 1, streams: 2, reverse };
        let sent = iperf::tcp(&topology.hosts[0].netns, SERVER, load).unwrap();
        assert!(sent.bytes > 1_000_000);
    }
    assert_eq!(flows(&weir), (0, 0));
    check_tier(&weir);
}

#[test]
fn hosts_that_leave_checksums_to_their_devices_are_served() {
    let (topology, weir) = site(Plan { offloads: Offloads::Fresh, ..Plan::new(2, 1) }, 0, OPEN);
    let host = &topology.hosts[0].netns;
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; 3_000_000]).unwrap();
    let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
    assert_eq!(clients::curl(host, &url).unwrap().bytes, 3_000_000);
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let load = Load { seconds: 1, streams: 4, reverse: false };
    assert!(iperf::tcp(host, SERVER, load).unwrap().bytes > 1_000_000);
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
}

#[test]
fn with_pin_or_without_inbound_flows_have_entries_as_ever() {
    let pinned = OPEN.replace(" }", ", pin = true }");
    let closed = OPEN.replace(", inbound = true", "");
    let (topology, weir) = site(Plan::new(2, 1), 0, &pinned);
    let ping = || {
        let ping = clients::ping(&topology.hosts[0].netns, SERVER, 3).unwrap();
        assert_eq!(ping.received, 3);
        flows(&weir)
    };
    let (made, there) = ping();
    assert!(made > 0 && there > 0, "{made} made, {there} there");
    for (file, more) in [(OPEN, false), (&closed, true), (OPEN, false), (&pinned, true)] {
        weir.reload(&configuration(&topology, file)).unwrap();
        wait::until("what the file says", wait::BOUND, || {
            let stateless = weir.snapshot()?.half.stateless(Family::V6).is_some();
            Ok((stateless != more).then_some(()))
        })
        .unwrap();
        let before = flows(&weir).0;
        assert_eq!(ping().0 > before, more, "{file}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_connection_survives_that_its_packets_need_flows_no_more_and_then_again() {
    let pinned = OPEN.replace(" }", ", pin = true }");
    let (topology, weir) = site(Plan::new(3, 1), 1, &pinned);
    let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
    let lan = topology.hosts[0].netns.clone();
    let load = Load { seconds: 4, streams: 8, reverse: false };
    let transfer = std::thread::spawn(move || iperf::tcp(&lan, SERVER, load));
    wait::until("flows", wait::BOUND, || Ok((flows(&weir).1 >= 8).then_some(()))).unwrap();
    for file in [OPEN, &pinned] {
        let before: u64 = outbound(&topology).iter().sum();
        weir.reload(&configuration(&topology, file)).unwrap();
        wait::until("more packets", wait::BOUND, || {
            let now: u64 = outbound(&topology).iter().sum();
            Ok((now > before + 100).then_some(()))
        })
        .unwrap();
    }
    assert!(transfer.join().unwrap().unwrap().bytes > 1_000_000);
    weir.check_conservation().unwrap();
}

/// The LAN has a prefix of each provider.
#[test]
fn every_source_leaves_by_its_provider_and_is_refused_without_it() {
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    ipv6::add_by_source(&topology).unwrap();
    let lans = [0, 1].map(|it| format!("\"{}/64\"", ipv6::by(it, Ipv6Addr::UNSPECIFIED)));
    let lan = format!("interface = \"lan0\"\nprefixes = [\"10.0.0.0/16\", {}]\n", lans.join(", "));
    let mut text = Weir::configuration(&topology, &[1; 2]).replace("interface = \"lan0\"\n", &lan);
    for (provider, name) in weir_kit::weir::UPLINKS[..2].iter().enumerate() {
        let name = format!("name = \"{name}\"\n");
        let prefix = ipv6::delegated(provider);
        let ipv6 = format!(
            "ipv6 = {{ translate = \"source\", prefixes = [\"{prefix}\"], inbound = true }}\n"
        );
        text = text.replace(&name, &(name.clone() + &ipv6));
    }
    let weir = Weir::start(&topology, &text).unwrap();
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; 3_000_000]).unwrap();
    let download = |provider: usize| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--verbose", "--fail", "--noproxy", "*", "--max-time", "30"]);
        curl.args(["--interface", &ipv6::by(provider, ipv6::host(0)).to_string()]);
        curl.arg(format!("http://[{SERVER}]:{}/content", nginx::PORT));
        topology.hosts[0].netns.run(|| curl.output()).unwrap().unwrap()
    };
    for provider in 0..2 {
        wait::until("a download", wait::BOUND, || {
            Ok((download(provider).stdout.len() == 3_000_000).then_some(()))
        })
        .unwrap();
        let before = outbound(&topology);
        assert_eq!(download(provider).stdout.len(), 3_000_000);
        let after = outbound(&topology);
        for other in 0..2 {
            let packets = after[other] - before[other];
            assert_eq!(packets > 100, other == provider, "{packets} by {other}");
        }
    }
    assert_eq!(flows(&weir), (0, 0));
    check_tier(&weir);
    topology.providers[0].set_carrier(false).unwrap();
    wait::until("the host to be told", wait::BOUND, || {
        let told = String::from_utf8_lossy(&download(0).stderr).into_owned();
        Ok(told.contains("Permission denied").then_some(()))
    })
    .unwrap();
    assert_eq!(download(1).stdout.len(), 3_000_000);
    outbound(&topology);
    weir.check_conservation().unwrap();
}

#[test]
fn a_neighbour_beyond_an_uplink_speaks_to_the_link_in_no_name_of_this_side() {
    const PORT: u16 = 9999;
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (topology, weir) = site(Plan::new(1, 1), 0, OPEN);
    let service = topology.gateway.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)));
    let service = service.unwrap().unwrap();
    service.set_read_timeout(Some(wait::BOUND)).unwrap();
    let router = ipv6::link(0, 1);
    let frame = |source: Ipv6Addr| {
        let step = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [0x33, 0x33, 0, 0, 0, 1])
            .ipv6(source.octets(), ALL_NODES.octets(), 64)
            .udp(PORT, PORT);
        let mut frame = Vec::new();
        step.write(&mut frame, &source.octets()).unwrap();
        frame
    };
    let mut outside = Station::on(&topology.providers[0].netns, TOWARDS_GATEWAY).unwrap();
    let martians = || weir.counters().unwrap().sum(Counter::XdpDropMartian);
    let before = martians();
    for source in [ipv6::host(0), ipv6::LAN_GATEWAY, router] {
        outside.send(&frame(source)).unwrap();
    }
    let mut heard = [0; 16];
    let (_, from) = service.recv_from(&mut heard).unwrap();
    assert_eq!((from.ip(), heard), (router.into(), router.octets()));
    assert_eq!(martians() - before, 2);
    weir.check_conservation().unwrap();
}
