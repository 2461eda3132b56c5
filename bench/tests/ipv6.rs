//! IPv6 with a prefix of one's own: untranslated, by any uplink, in both directions.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Range;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_api::UplinkView;
use weir_health::target::Status;
use weir_health::{Part, Reason, State};
use weir_kit::extended::{self, Headers};
use weir_kit::iperf::Load;
use weir_kit::ipv6::{self, Mode, SERVER, STRANGER, outbound};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::probed::{self, QUICK, is, told};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::{Host, TOWARDS_GATEWAY, Topology};
use weir_kit::weir::{Change, UPLINKS, Weir};
use weir_kit::{clients, iperf, nginx, process, wait};
use weir_layout::counters::Counter;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// Without entries, if whatever is for the LAN may come in.
const MODES: [Mode; 2] = [Mode::None, Mode::Stateless];

/// A site whose uplinks forward IPv6; what is for the LAN comes by the provider `inbound`.
fn site(plan: Plan, inbound: usize) -> (Topology, Weir) {
    site_of(Mode::None, plan, inbound)
}

fn site_of(mode: Mode, plan: Plan, inbound: usize) -> (Topology, Weir) {
    println!("{mode:?}");
    let (topology, weir) = mode.start(plan, &WEIGHTS, "").unwrap();
    ipv6::carry_by(&topology, inbound).unwrap();
    (topology, weir)
}

#[test]
fn connections_outlive_the_uplinks_that_carry_them() {
    // That all keep off an uplink of weight 2 in 10 has a chance of 0.8^100, below 1e-9.
    const CONNECTIONS: usize = 100;
    for mode in MODES {
        let (topology, weir) = site_of(mode, Plan::new(3, 2), 2);
        let _server = Server::start(&topology.internet, SERVER).unwrap();
        let (hosts, to) = (&topology.hosts[..1], (SERVER, ECHO_PORT));
        let load = TcpLoad::start(hosts, to, CONNECTIONS, 4 * wait::BOUND).unwrap();
        load.wait_until_settled().unwrap();
        assert!(outbound(&topology).unwrap().iter().all(|packets| *packets > 0));
        topology.providers[0].set_carrier(false).unwrap();
        let (before, rounds) = (outbound(&topology).unwrap(), load.rounds());
        wait::until("forty rounds of every connection", wait::BOUND, || {
            Ok((load.rounds() > rounds + 40 * CONNECTIONS).then_some(()))
        })
        .unwrap();
        let report = load.stop().unwrap();
        assert_eq!((report.intact, report.broken), (CONNECTIONS, Vec::new()));
        let after = outbound(&topology).unwrap();
        assert_eq!(after[0], before[0]);
        assert!(after[1] > before[1] + 100 && after[2] > before[2] + 100, "{before:?} {after:?}");
        mode.check_entries(&weir).unwrap();
        weir.check_conservation().unwrap();
        weir.check_tier(10).unwrap();
    }
}

#[test]
fn packets_with_extension_headers_reach_their_hosts_and_so_do_their_fragments() {
    for mode in MODES {
        let (topology, weir) = site_of(mode, Plan::new(3, 1), 1);
        let host = &topology.hosts[0].netns;
        let directory = topology.run.file_directory().unwrap();
        let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
        fs::write(directory.join("files/content"), vec![7; 300_000]).unwrap();
        let _server = extended::serve(&topology.internet, SERVER).unwrap();
        // The first large answer is lost: it shows the server the way back's MTU.
        extended::exchange(host, SERVER, Headers::Destination, 4000).unwrap();
        for headers in [Headers::Destination, Headers::HopByHop, Headers::Both] {
            for bytes in [100, 4000] {
                let back = extended::exchange(host, SERVER, headers, bytes).unwrap();
                assert_eq!(back, 20, "{headers:?}, {bytes} bytes");
            }
            let from = (SERVER, nginx::PORT);
            let bytes = extended::download(host, from, "/content", headers).unwrap();
            assert!(bytes > 300_000, "{headers:?}: {bytes} bytes");
        }
        let counters = weir.counters().unwrap();
        assert_eq!(counters.sum(Counter::DropOptions) + counters.sum(Counter::DropFragment), 0);
        mode.check_entries(&weir).unwrap();
        weir.check_conservation().unwrap();
    }
}

#[test]
fn nothing_comes_in_that_no_flow_asked_for() {
    let (topology, weir) = site(Plan::new(2, 2), 0);
    let host = &topology.hosts[0].netns;
    let heard = || ipv6::heard(&topology, ipv6::host(0)).unwrap();
    assert_eq!(heard(), 0);
    // The way is open for what is asked for.
    assert_eq!(clients::ping(host, STRANGER, 5).unwrap().received, 5);
    assert_eq!(heard(), 0);
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
    let before = outbound(&topology).unwrap();
    assert_eq!(clients::ping(&topology.internet, ipv6::host(0), 5).unwrap().received, 0);
    assert_eq!(outbound(&topology).unwrap(), before);
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
    for mode in MODES {
        let mut plan = Plan::new(1, 1);
        plan.uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
        let (topology, weir) = site_of(mode, plan, 0);
        let host = &topology.hosts[0].netns;
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-M", "do", "-s", "1400", "-c", "2", "-i", "0.2", "-W", "1"]);
        ping.arg(SERVER.to_string());
        let output = host.run(|| ping.output()).unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("mtu=1400") || told.contains("mtu: 1400"), "{told}");
        for reverse in [false, true] {
            let _iperf = iperf::serve(&topology.internet, SERVER).unwrap();
            let load = Load { seconds: 1, streams: 2, reverse };
            assert!(iperf::tcp(host, SERVER, load).unwrap().bytes > 1_000_000);
        }
        mode.check_entries(&weir).unwrap();
        weir.check_conservation().unwrap();
    }
}

#[test]
fn the_command_line_tells_flows_of_ipv6_and_the_paths_they_are_on() {
    let (topology, weir) = site(Plan::new(2, 1), 0);
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = process::output(&mut weir.cli(arguments).unwrap()).unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(clients::ping(&topology.hosts[0].netns, SERVER, 2).unwrap().received, 2);
    let host = ipv6::host(0).to_string();
    let flows = &json(&["flows", "--json", "--source", &host, "--protocol", "icmpv6"])["flows"];
    let shown = flows["shown"].as_array().unwrap();
    assert!(!shown.is_empty() && flows["of"] == shown.len(), "{flows}");
    for flow in shown {
        let destination = flow["destination"].as_str().unwrap();
        assert!(destination.starts_with(&format!("[{SERVER}]:")), "{flow}");
        assert!(flow["family"] == "ipv6" && flow["inside"] == flow["outside"], "{flow}");
    }
    let others = &json(&["flows", "--json", "--source", "10.77.0.2"])["flows"];
    assert_eq!(others["of"], 0, "{others}");
    let uplinks = &json(&["uplinks", "--json"])["uplinks"];
    let flows = |path: &serde_json::Value| path["new_flows"].as_u64().unwrap();
    let of_both = uplinks.as_array().unwrap().iter().map(|it| [flows(it), flows(&it["ipv6"])]);
    let [v4, v6] = of_both.fold([0, 0], |[a, b], [c, d]| [a + c, b + d]);
    assert!(v4 == 0 && v6 > 0, "{uplinks}");
}

/// Hosts of the Internet where nobody listens: they refuse, which is an answer, or are not reached.
const REMOTES: Range<u16> = 16..25;

/// Connections from each host to each of those in turn, until `over`.
fn connect(hosts: &[Host], over: impl Fn() -> bool + Sync) {
    let over = &over;
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(move || {
                let attempt = |remote| {
                    let to = SocketAddr::new(ipv6::remote(remote).into(), 4000);
                    let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
                };
                let attempts = REMOTES.cycle().take_while(|_| !over());
                host.netns.run(|| attempts.for_each(attempt)).unwrap();
            });
        }
    });
}

#[test]
fn a_path_that_answers_probes_and_no_users_is_degraded_in_its_family_alone() {
    const FIBER: usize = 0;
    let (topology, weir) = site(Plan::new(2, 2), 1);
    let remotes = REMOTES.map(|remote| format!("addr add {}/128 dev lo\n", ipv6::remote(remote)));
    topology.internet.ip(&remotes.collect::<String>()).unwrap();
    let health = format!(
        "[health]\n{QUICK}\
         [health.passive]\nwindow_ms = 3000\n\
         [[health.targets]]\nname = \"v4\"\nprobe = \"icmp\"\naddress = \"198.51.100.1\"\n\
         [[health.targets]]\nname = \"v6\"\nprobe = \"icmp\"\naddress = \"{SERVER}\"\n"
    );
    let file = Mode::None.configuration(&topology, &WEIGHTS);
    weir.reload(&format!("{file}\n{health}")).unwrap();
    let history = |part: &Part| -> Vec<Change> {
        let entries = weir.history().unwrap().into_iter();
        entries.filter(|entry| entry.part == *part).collect()
    };
    let ipv6 = |uplink: usize| Part::Ipv6(UPLINKS[uplink].into());
    let all = [FIBER, 1].map(|uplink| [Part::Uplink(UPLINKS[uplink].into()), ipv6(uplink)]);
    for part in all.as_flattened() {
        wait::until(&format!("{part} to be up"), wait::BOUND, || {
            Ok(is(&history(part), State::Up).then_some(()))
        })
        .unwrap();
    }
    let before = all.as_flattened().iter().map(|part| history(part).len()).collect::<Vec<_>>();
    let end = Instant::now() + wait::BOUND;
    let degraded = || is(&history(&ipv6(FIBER)), State::Degraded);
    let (first, last) = (ipv6::remote(REMOTES.start), ipv6::remote(REMOTES.end - 1));
    topology.providers[FIBER]
        .netns
        .nft(&format!("add rule inet bench forward ip6 daddr {first}-{last} drop\n"))
        .unwrap();
    connect(&topology.hosts, || Instant::now() >= end || degraded());
    let fiber = history(&ipv6(FIBER));
    let reason = fiber.last().unwrap().transition.reason;
    assert!(
        is(&fiber, State::Degraded) && matches!(reason, Reason::PassiveSyn { .. }),
        "{}",
        told(&fiber)
    );
    topology.providers[FIBER].set_black_hole(false).unwrap();
    wait::until("it to be up again", wait::BOUND, || {
        Ok(is(&history(&ipv6(FIBER)), State::Up).then_some(()))
    })
    .unwrap();
    let after = all.as_flattened().iter().map(|part| history(part).len());
    let changes: Vec<_> = after.zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(changes, [0, 2, 0, 0], "{}", told(&weir.history().unwrap()));
    weir.check_conservation().unwrap();
}

/// The first uplink's link has a unique local prefix beside the provider's, as the provider's
/// router advertises it; the second's has addresses of the link alone.
#[test]
fn the_gateway_itself_sends_from_no_address_that_a_provider_refuses() {
    let topology = Topology::build(Plan::new(2, 1)).unwrap();
    ipv6::add(&topology, 1).unwrap();
    topology.gateway.ip("addr add fd00:1::2/64 dev wan0 nodad\n").unwrap();
    let next_hop = ipv6::link(1, 1);
    topology
        .gateway
        .ip(&format!(
            "route del default via {next_hop} dev wan1\n\
             addr del {}/64 dev wan1\n\
             addr add fe80::2/64 dev wan1 nodad\n\
             route add default via fe80::1 dev wan1 metric 101\n",
            ipv6::link(1, 2)
        ))
        .unwrap();
    let lan = ipv6::PREFIX;
    topology.providers[1]
        .netns
        .ip(&format!(
            "addr add fe80::1/64 dev {TOWARDS_GATEWAY} nodad\n\
             route replace {lan} via fe80::2 dev {TOWARDS_GATEWAY}\n"
        ))
        .unwrap();
    let path = |provider| {
        let (path, target) = (Mode::None.path(provider), ipv6::transit(provider, 1));
        format!(
            "{path}health = {{ interval_ms = 200, targets = [\
             {{ name = \"beyond\", probe = \"icmp\", address = \"{target}\" }}] }}\n"
        )
    };
    let lan = Mode::None.lan_line(2);
    let text = Weir::configuration_with(&topology, &WEIGHTS, &lan, path);
    let weir = Weir::start(&topology, &text).unwrap();
    wait::until("answers to probes of both paths", wait::BOUND, || {
        let health = weir.health()?;
        let answers = |uplink: &UplinkView| {
            let path = uplink.ipv6.as_ref();
            path.is_some_and(|path| path.targets[0].status == Status::Answering)
        };
        Ok(health.iter().all(answers).then_some(()))
    })
    .unwrap();
    assert_eq!(clients::ping(&topology.hosts[0].netns, SERVER, 20).unwrap().received, 20);
    outbound(&topology).unwrap();
}
