//! A prefix of one's own that may be reached from outside by every uplink: no packet needs a flow.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, Mode, SERVER, STRANGER, outbound};
use weir_kit::plan::{Offloads, Plan};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::station::Station;
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, iperf, nginx, process, wait};
use weir_layout::Family;
use weir_layout::control::Origin;
use weir_layout::counters::Counter;

const WEIGHTS: [u16; 3] = [5, 3, 2];
/// Ports of two flows each.
const PORTS: std::ops::Range<u16> = 10_000..50_000;

/// A site whose LAN has a prefix that every provider carries; what comes for it comes by `inbound`.
fn site(plan: Plan, inbound: usize) -> (Topology, Weir) {
    let (topology, weir) = Mode::Stateless.start(plan, &WEIGHTS, "").unwrap();
    ipv6::carry_by(&topology, inbound).unwrap();
    (topology, weir)
}

/// Its file; with entries by `pin`, and likewise where `inbound` is not said.
fn files(topology: &Topology) -> [String; 3] {
    let open = Mode::Stateless.configuration(topology, &WEIGHTS);
    let pinned = open.replace("inbound = true", "inbound = true, pin = true");
    let closed = Mode::None.configuration(topology, &WEIGHTS);
    [open, pinned, closed]
}

/// Has weir read another file, and waits until packets need flows, or none.
fn reload(weir: &Weir, file: &str, stateless: bool) {
    weir.reload(file).unwrap();
    wait::until("what the file says", wait::BOUND, || {
        let is = weir.snapshot()?.half.stateless(Family::V6).is_some();
        Ok((is == stateless).then_some(()))
    })
    .unwrap();
}

/// Packets from the LAN by all providers.
fn sent(topology: &Topology) -> u64 {
    outbound(topology).unwrap().iter().sum()
}

/// Flows of IPv6 that were ever made, and those that the command line tells of.
fn flows(weir: &Weir) -> (u64, u64) {
    let made = weir.paths(Family::V6).unwrap().iter().map(|it| it.flows_created).sum();
    let output = process::output(&mut weir.cli(&["flows", "--json"]).unwrap());
    let flows: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    (made, flows["flows"]["of"].as_u64().unwrap())
}

#[test]
fn eighty_thousand_flows_follow_the_weights() {
    let (topology, weir) = site(Plan::new(3, 1), 0);
    let before = outbound(&topology).unwrap();
    let send = || {
        for port in PORTS {
            // Nothing tells the sender how much the gateway keeps up with.
            if port % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let from = SocketAddrV6::new(ipv6::host(0), port, 0, 0);
            let socket = UdpSocket::bind(from).unwrap();
            // Nobody listens, and what is told of that is no matter.
            for to in [9, 10] {
                let _ = socket.send_to(b"?", (STRANGER, to));
            }
        }
    };
    topology.hosts[0].netns.run(send).unwrap();
    let after = outbound(&topology).unwrap();
    let packets: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let total: u64 = packets.iter().sum();
    assert!(total > 2 * PORTS.len() as u64 * 9 / 10, "{packets:?}");
    for (packets, weight) in packets.iter().zip([50.0, 30.0, 20.0]) {
        let share = *packets as f64 * 100.0 / total as f64;
        // Over five standard deviations of so many draws.
        assert!((share - weight).abs() < 1.0, "{packets} of {total}");
    }
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
    weir.check_tier(100).unwrap();
}

#[test]
fn a_host_that_the_kernel_does_not_know_yet_is_reached_with_the_first_packet() {
    let (topology, weir) = site(Plan::new(3, 2), 1);
    // The routers beyond have neighbours of their own to find.
    ipv6::wait_until_heard(&topology, ipv6::host(0)).unwrap();
    topology.gateway.ip("neigh flush dev lan0\n").unwrap();
    for index in 0..2 {
        assert_eq!(ipv6::heard(&topology, ipv6::host(index)).unwrap(), 10, "host {index}");
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
    // Where it was is remembered for a second.
    ipv6::wait_until_heard(&topology, ipv6::host(0)).unwrap();
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
}

#[test]
fn a_sweep_over_the_lan_leaves_the_kernels_table_room_for_hosts_that_are_there() {
    const ADDRESSES: u16 = 40_000;
    let (topology, weir) = site(Plan::new(1, 2), 0);
    assert_eq!(ipv6::heard(&topology, ipv6::host(0)).unwrap(), 10);
    let begun = Instant::now();
    let sweep = || {
        let socket = UdpSocket::bind(SocketAddrV6::new(STRANGER, 0, 0, 0)).unwrap();
        for number in 1..=ADDRESSES {
            let host = Ipv6Addr::from(u128::from(ipv6::host(0)) | u128::from(number) << 32);
            socket.send_to(b"anybody?", (host, 9)).unwrap();
        }
    };
    topology.internet.run(sweep).unwrap();
    let mut show = Command::new("ip");
    show.args(["-6", "neigh", "show", "dev", "lan0"]);
    let shown = topology.gateway.output(&mut show).unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let asked = shown.lines().filter(|line| line.contains("INCOMPLETE") || line.contains("FAILED"));
    // At most 48 in each 256 ms, and each CPU one more.
    let bound = (begun.elapsed().as_millis() / 256 + 2) * 52;
    let asked = asked.count() as u128;
    assert!((1..=bound).contains(&asked), "{asked} entries, {bound} at most");
    let dropped = weir.counters().unwrap().sum(Counter::XdpDropUnknownHost);
    assert!(dropped > u64::from(ADDRESSES / 2), "{dropped}");
    assert_eq!(ipv6::heard(&topology, ipv6::host(0)).unwrap(), 10, "it was known a moment ago");
    // Of what the kernel may be asked at once the sweep has had all.
    ipv6::wait_until_heard(&topology, ipv6::host(1)).unwrap();
    weir.check_conservation().unwrap();
}

#[test]
fn hosts_that_leave_checksums_to_their_devices_are_served() {
    let (topology, weir) = site(Plan { offloads: Offloads::Fresh, ..Plan::new(2, 1) }, 0);
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
    let (topology, weir) = site(Plan::new(2, 1), 0);
    let [open, pinned, closed] = files(&topology);
    let ping = || {
        let ping = clients::ping(&topology.hosts[0].netns, SERVER, 3).unwrap();
        assert_eq!(ping.received, 3);
        flows(&weir)
    };
    assert_eq!(ping(), (0, 0));
    for (file, entries) in [(&closed, true), (&open, false), (&pinned, true), (&open, false)] {
        reload(&weir, file, !entries);
        let before = flows(&weir).0;
        let (made, there) = ping();
        assert_eq!(made > before, entries, "{file}");
        assert!(!entries || there > 0, "{file}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_connection_survives_that_its_packets_need_flows_no_more_and_then_again() {
    const CONNECTIONS: usize = 8;
    let (topology, weir) = site(Plan::new(3, 1), 1);
    let [open, pinned, _] = files(&topology);
    reload(&weir, &pinned, false);
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let to = (SERVER, ECHO_PORT);
    let load = TcpLoad::start(&topology.hosts, to, CONNECTIONS, 4 * wait::BOUND).unwrap();
    load.wait_until_settled().unwrap();
    assert!(flows(&weir).1 >= CONNECTIONS as u64);
    for (file, stateless) in [(&open, true), (&pinned, false)] {
        reload(&weir, file, stateless);
        let before = sent(&topology);
        let more = || Ok((sent(&topology) > before + 100).then_some(()));
        wait::until("more packets", wait::BOUND, more).unwrap();
    }
    let report = load.stop().unwrap();
    assert_eq!((report.intact, report.broken), (CONNECTIONS, Vec::new()));
    weir.check_conservation().unwrap();
}

#[test]
fn a_neighbour_beyond_an_uplink_speaks_to_the_link_in_no_name_of_this_side() {
    const PORT: u16 = 9999;
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (topology, weir) = site(Plan::new(1, 1), 0);
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

#[test]
fn a_source_that_the_kernel_has_by_a_vpn_within_a_lans_prefix_leaves_by_no_uplink() {
    const AT_VPN: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x100, 5, 0, 0, 2);
    let (topology, weir) = site(Plan::new(2, 1), 0);
    topology
        .gateway
        .ip("link add vpn0 type veth peer name vpn1\nlink set vpn0 up\nlink set vpn1 up\n")
        .unwrap();
    topology.gateway.ip("route add 2001:2:0:100:5::/80 dev vpn0\n").unwrap();
    let address = format!("addr add {AT_VPN}/128 dev eth0 nodad\n");
    topology.hosts[0].netns.ip(&address).unwrap();
    wait::until("the VPN's part to be no source", wait::BOUND, || {
        let (snapshot, source) = (weir.snapshot()?, Origin::new(AT_VPN.octets(), 128, 0, 0));
        let origins = snapshot.half.stateless(Family::V6).map(|it| it.origins().to_vec());
        let found = origins.into_iter().flatten().find(|it| it.is_of(it.port, source.address));
        Ok(found.is_some_and(|it| it.carriers == 0).then_some(()))
    })
    .unwrap();
    let send = |from: Ipv6Addr| {
        let send = || {
            let socket = UdpSocket::bind(SocketAddrV6::new(from, 0, 0, 0)).unwrap();
            (0..10).for_each(|_| _ = socket.send_to(b"?", (STRANGER, 9)).unwrap());
        };
        topology.hosts[0].netns.run(send).unwrap();
    };
    let martians = || weir.counters().unwrap().sum(Counter::XdpDropMartian);
    let before = (martians(), sent(&topology));
    send(AT_VPN);
    wait::until("drops", wait::BOUND, || Ok((martians() >= before.0 + 10).then_some(()))).unwrap();
    assert!(sent(&topology) < before.1 + 10, "probes alone");
    send(ipv6::host(0));
    let more = || Ok((sent(&topology) >= before.1 + 10).then_some(()));
    wait::until("packets from the LAN's part", wait::BOUND, more).unwrap();
    assert_eq!(flows(&weir), (0, 0));
    weir.check_conservation().unwrap();
}
