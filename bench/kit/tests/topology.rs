//! The bench proves itself: with plain Linux forwarding and nftables masquerade in the gateway,
//! every client works from every host, and every uplink carries flows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use weir_kit::capture::{Capture, Tally};
use weir_kit::line::{Direction, Impairment};
use weir_kit::plan::{Lan, Plan, Uplink};
use weir_kit::server::{self, ECHO_PORT, Server};
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::udp_flows::{self, UdpReport};
use weir_kit::{clients, iperf, nginx, wait};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const UDP: u8 = 17;

/// Three providers, four hosts, and Linux as the load balancer.
fn balanced(plan: Plan) -> Topology {
    let topology = Topology::build(plan).unwrap();
    masquerade(&topology);
    topology
}

/// Translates by masquerade, and deals new flows to the uplinks in turn. A connection mark keeps a
/// flow on its uplink: masquerade ends connections whose route changes.
fn masquerade(topology: &Topology) {
    let gateway = &topology.gateway;
    gateway
        .nft(&format!(
            "table ip balance {{
                chain deal {{
                    type filter hook prerouting priority mangle
                    iifname \"lan*\" ct mark 0 ct mark set numgen inc mod {} offset 1
                    iifname \"lan*\" meta mark set ct mark
                }}
                chain out {{
                    type nat hook postrouting priority srcnat
                    oifname \"wan*\" masquerade
                }}
            }}\n",
            topology.providers.len()
        ))
        .unwrap();
    for provider in &topology.providers {
        let (mark, next_hop) = (provider.index + 1, provider.next_hop);
        gateway
            .ip(&format!(
                "rule add fwmark {mark} table {mark}\n\
                 route add default via {next_hop} table {mark}\n"
            ))
            .unwrap();
    }
}

/// Captures what passes between the gateway and every provider.
fn watch(topology: &Topology) -> Vec<Capture> {
    let start = |netns| Capture::start(netns, TOWARDS_GATEWAY).unwrap();
    topology.providers.iter().map(|provider| start(&provider.netns)).collect()
}

/// The tallies of captures, none of which found fault with anything.
fn sound(captures: Vec<Capture>) -> Vec<Tally> {
    let tallies: Vec<_> = captures.into_iter().map(|capture| capture.stop().unwrap()).collect();
    for tally in &tallies {
        assert_eq!(tally.faulty, 0, "{:?}", tally.faults);
    }
    tallies
}

fn assert_no_foreign_sources(topology: &Topology) {
    for provider in &topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0, "{}", provider.interface());
    }
}

#[test]
fn every_host_reaches_every_server() {
    let topology = balanced(Plan::new(3, 4));
    for host in &topology.hosts {
        for &server in &topology.servers {
            let ping = clients::ping(&host.netns, server, 5).unwrap();
            assert_eq!((ping.sent, ping.received), (5, 5), "{} to {server}", host.address);
        }
    }
    assert_no_foreign_sources(&topology);
}

#[test]
fn hosts_on_ports_of_their_own_reach_the_servers() {
    let topology = balanced(Plan { lan: Lan::Direct, queues: 2, ..Plan::new(2, 3) });
    assert_eq!(topology.lan_ports(), ["lan0", "lan1", "lan2"]);
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 3).unwrap().received, 3, "{}", host.address);
    }
}

#[test]
fn downloads_arrive_unchanged() {
    let topology = balanced(Plan::new(3, 2));
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    let content = server::content(3_000_001);
    let expected = clients::sha256(&content).unwrap();
    std::fs::write(directory.join("files/blob"), &content).unwrap();
    let captures = watch(&topology);

    for host in &topology.hosts {
        let urls = [
            server::content_url(SERVER, content.len()),
            format!("http://{SERVER}:{}/blob", nginx::PORT),
        ];
        for url in urls {
            let download = clients::curl(&host.netns, &url).unwrap();
            assert_eq!((download.bytes, &download.sha256), (content.len(), &expected), "{url}");
        }
        let missing = format!("http://{SERVER}:{}/missing", nginx::PORT);
        assert!(clients::curl(&host.netns, &missing).is_err());
    }

    let frames: u64 = sound(captures).iter().map(|tally| tally.frames).sum();
    assert!(frames > 0, "the captures saw nothing");
}

#[test]
fn iperf3_moves_tcp_and_udp() {
    let topology = balanced(Plan::new(3, 1));
    let _server = iperf::serve(&topology.internet, SERVER).unwrap();
    let host = &topology.hosts[0].netns;
    let load = iperf::Load { seconds: 1, streams: 2, reverse: false };

    for reverse in [false, true] {
        let tcp = iperf::tcp(host, SERVER, iperf::Load { reverse, ..load }).unwrap();
        assert!(tcp.bytes > 1_000_000, "{tcp:?}");
    }
    let udp = iperf::udp(host, SERVER, load, 1_000_000).unwrap();
    assert!(udp.packets > 0 && udp.lost < udp.packets, "{udp:?}");
}

#[test]
fn udp_flows_are_answered_and_spread_over_all_uplinks() {
    let topology = balanced(Plan::new(3, 4));
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let captures = watch(&topology);

    let report = udp_flows::run(&topology.hosts, ECHO, 500).unwrap();

    assert_eq!(report, UdpReport { sent: 2000, answered: 2000, wrong: 0 });
    let tallies = sound(captures);
    let flows: Vec<_> = tallies.iter().map(|tally| tally.flows_to(SERVER, UDP).len()).collect();
    assert_eq!(flows.iter().sum::<usize>(), 2000, "{flows:?}");
    for (provider, (tally, &flows)) in topology.providers.iter().zip(tallies.iter().zip(&flows)) {
        assert!(flows.abs_diff(2000 / 3) <= 1, "{} has {flows} of 2000", provider.interface());
        let sources: Vec<_> = tally.sources_to(SERVER).into_keys().collect();
        assert_eq!(sources, provider.addresses);
    }
    assert_no_foreign_sources(&topology);
}

#[test]
fn parallel_tcp_connections_stay_intact() {
    let topology = balanced(Plan::new(3, 4));
    let _server = Server::start(&topology.internet, SERVER).unwrap();

    let load = TcpLoad::start(&topology.hosts, ECHO, 25, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();
    let report = load.stop().unwrap();

    assert_eq!(report.broken, Vec::<String>::new());
    assert_eq!(report.intact, 100);
    assert!(report.rounds >= 100);
}

#[test]
fn tcp_connections_that_lose_their_provider_are_reported_broken() {
    let topology = balanced(Plan::new(1, 1));
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let load = TcpLoad::start(&topology.hosts, ECHO, 5, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();

    topology.providers[0].set_black_hole(true).unwrap();

    // Every connection is now somewhere in a round that cannot end well.
    wait::until("the echo to stop", wait::BOUND, || {
        let before = load.rounds();
        std::thread::sleep(Duration::from_millis(500));
        Ok((load.rounds() == before).then_some(()))
    })
    .unwrap();
    let report = load.stop().unwrap();
    assert_eq!((report.intact, report.broken.len()), (0, 5), "{report:?}");
}

#[test]
fn a_source_of_another_provider_is_dropped_and_counted() {
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    let [provider, other] = &topology.providers[..] else { panic!("two providers were asked for") };
    let capture = Capture::start(&provider.netns, "internet").unwrap();
    // The route of the lowest metric leads to the first provider, whatever the source.
    for source in [other.addresses[0], provider.addresses[0]] {
        let sent = topology.gateway.run(|| UdpSocket::bind((source, 0))?.send_to(b"here", ECHO));
        assert_eq!(sent.unwrap().unwrap(), 4);
    }

    wait::until("the foreign source to be counted", wait::BOUND, || {
        Ok((provider.foreign_sources()? == 1).then_some(()))
    })
    .unwrap();
    let own = provider.addresses[0];
    assert_eq!(capture.stop().unwrap().sources_to(SERVER), BTreeMap::from([(own, 1)]));
    assert_eq!(other.foreign_sources().unwrap(), 0);
}

#[test]
fn packets_of_an_upload_are_not_merged_on_the_way() {
    let topology = balanced(Plan::new(1, 1));
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let captures = watch(&topology);
    let content = server::content(2_000_000);

    let echoed = topology.hosts[0].netns.run(|| -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(ECHO)?;
        stream.set_read_timeout(Some(wait::BOUND))?;
        let mut writer = stream.try_clone()?;
        let mut echoed = vec![0; content.len()];
        std::thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&content));
            stream.read_exact(&mut echoed)
        })?;
        Ok(echoed)
    });

    assert!(echoed.unwrap().unwrap() == content, "the echo differs");
    // A merged packet would be longer than what a capture takes whole, and so faulty.
    sound(captures);
}

#[test]
fn every_address_of_an_uplink_is_accepted_and_answered() {
    let uplinks = vec![Uplink { addresses: 3, mtu: 1400 }; 2];
    let topology = Topology::build(Plan { uplinks, ..Plan::new(2, 1) }).unwrap();
    let addresses = &topology.providers[0].addresses;
    assert_eq!(addresses.len(), 3);
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    for &address in addresses {
        let answer = topology.gateway.run(|| {
            let socket = UdpSocket::bind((address, 0))?;
            socket.set_read_timeout(Some(wait::BOUND))?;
            socket.send_to(b"here", ECHO)?;
            socket.recv(&mut [0; 16])
        });
        assert_eq!(answer.unwrap().unwrap(), 4, "{address}");
    }
}

#[test]
fn the_owned_prefix_is_routed_by_every_provider() {
    let topology = Topology::build(Plan { owned_prefix: true, ..Plan::new(2, 2) }).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    for provider in &topology.providers {
        let route = format!("route replace default via {} metric 1\n", provider.next_hop);
        topology.gateway.ip(&route).unwrap();
        for host in &topology.hosts {
            let answer = host.netns.run(|| {
                let socket = UdpSocket::bind((host.owned.unwrap(), 0))?;
                socket.set_read_timeout(Some(wait::BOUND))?;
                socket.send_to(b"here", ECHO)?;
                socket.recv(&mut [0; 16])
            });
            assert_eq!(answer.unwrap().unwrap(), 4, "{} by {}", host.address, provider.index);
        }
    }
    assert_no_foreign_sources(&topology);
}

#[test]
fn a_provider_can_fail_and_recover() {
    let topology = balanced(Plan::new(1, 1));
    let (host, provider) = (&topology.hosts[0].netns, &topology.providers[0]);
    let received = || clients::ping(host, SERVER, 2).unwrap().received;

    provider.set_black_hole(true).unwrap();
    assert_eq!(received(), 0);
    let router = clients::ping(&topology.gateway, provider.next_hop, 2).unwrap();
    assert_eq!(router.received, 2, "the router itself must answer");
    provider.set_black_hole(false).unwrap();
    assert_eq!(received(), 2);

    let link = || {
        let mut command = Command::new("ip");
        let output =
            topology.gateway.output(command.args(["-br", "link", "show", "wan0"])).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    provider.set_carrier(false).unwrap();
    assert!(link().contains("NO-CARRIER"), "{}", link());
    provider.set_carrier(true).unwrap();
    assert!(link().contains("LOWER_UP"), "{}", link());
}

#[test]
fn ports_of_the_gateway_have_their_macs_queues_and_mtu() {
    let uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
    let topology = Topology::build(Plan { uplinks, queues: 2, ..Plan::new(1, 1) }).unwrap();
    let mut command = Command::new("ip");
    let output = topology.gateway.output(command.args(["-d", "-j", "link", "show"])).unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let links: BTreeMap<_, _> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|link| (link["ifname"].as_str().unwrap(), link))
        .collect();
    let wan = links["wan0"];
    assert_eq!(wan["address"], "02:57:45:00:01:00");
    assert_eq!((&wan["mtu"], &wan["num_rx_queues"]), (&1400.into(), &2.into()));
    assert_eq!(links["lan0"]["num_tx_queues"], 2);
}

#[test]
fn impossible_plans_are_refused_before_anything_is_built() {
    let error = Topology::build(Plan::new(0, 1)).unwrap_err();
    assert!(error.to_string().contains("providers"), "{error:#}");
}

#[test]
fn a_line_loses_delays_and_dies_as_told_and_is_plain_again() {
    let topology = balanced(Plan { lines: vec![0], ..Plan::new(1, 1) });
    let (host, line) = (&topology.hosts[0].netns, topology.line(0));
    let received = |count| clients::ping(host, SERVER, count).unwrap().received;
    assert_eq!(received(50), 50);

    line.impair_both(Impairment::loss(50.0));
    let some = received(200);
    assert!((20..90).contains(&some), "a quarter comes back, not {some} of 200");
    for direction in Direction::BOTH {
        line.heal();
        let before = line.counts(direction);
        line.impair(direction, Impairment::dead());
        assert_eq!(received(3), 0, "{direction:?}");
        assert!(line.counts(direction).lost >= before.lost + 3);
    }
    line.heal();
    assert_eq!(received(50), 50);

    let delay = Duration::from_millis(40);
    line.impair_both(Impairment::delay(delay, Duration::ZERO));
    let sent = Instant::now();
    assert_eq!(received(1), 1);
    assert!(sent.elapsed() >= delay * 2);
}

#[test]
fn a_line_without_carrier_carries_nothing_and_goes_on_when_it_returns() {
    let topology = balanced(Plan { lines: vec![0], ..Plan::new(1, 1) });
    let (host, provider) = (&topology.hosts[0].netns, &topology.providers[0]);
    let received = |count| clients::ping(host, SERVER, count).unwrap().received;
    provider.set_carrier(false).unwrap();
    assert_eq!(received(2), 0);
    provider.set_carrier(true).unwrap();
    // The gateway may have given the router up meanwhile, and asks anew with the next packet.
    let carries = || Ok((received(1) == 1).then_some(()));
    wait::until("the line to carry again", wait::BOUND, carries).unwrap();
    assert_eq!(received(20), 20);
}
