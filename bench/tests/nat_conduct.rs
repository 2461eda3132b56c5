//! What RFC 4787, 5382, 6888, 7857 and 1812 ask of a NAT, as real hosts and servers see it:
//! `docs/conformance.md`.

use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

use weir_kit::clients;
use weir_kit::ipv6::{Mode, SERVER};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan, Uplink};
use weir_kit::server::{self, ECHO_PORT, HTTP_PORT, Server};
use weir_kit::tcp_load::TcpLoad;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::udp_flows;
use weir_kit::weir::Weir;
use weir_layout::counters::Counter;

/// A site whose uplink takes less than its LAN.
fn narrow() -> Topology {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    let provider = &topology.providers[0];
    provider.netns.ip(&format!("link set {TOWARDS_GATEWAY} mtu {MTU}\n")).unwrap();
    topology.gateway.ip(&format!("link set {} mtu {MTU}\n", provider.interface())).unwrap();
    topology
}

/// A host pings with so many bytes, in packets that may be split or not; what it is told.
fn ping(topology: &Topology, bytes: usize, may_split: bool) -> String {
    let mut ping = Command::new("ping");
    let split = if may_split { "dont" } else { "do" };
    ping.args(["-n", "-c", "10", "-l", "10", "-i", "2", "-W", "2", "-M", split]);
    ping.args(["-s", &bytes.to_string(), &plan::server_address(0).to_string()]);
    let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

const MTU: u32 = 1400;

/// Counts SYNs, and answers to them, that come by a device, and those that name what [`MTU`] has
/// room for by IPv4, and by IPv6.
fn watch_sizes(netns: &Netns, device: &str) {
    netns
        .nft(&format!(
            "table inet judge {{\n\
             counter syns {{ }}\ncounter four {{ }}\ncounter six {{ }}\n\
             chain sizes {{\n\
             meta nfproto ipv4 tcp option maxseg size 1360 counter name four\n\
             meta nfproto ipv6 tcp option maxseg size 1340 counter name six\n}}\n\
             chain seen {{\ntype filter hook prerouting priority -300\n\
             iifname \"{device}\" tcp flags & syn == syn counter name syns jump sizes\n}}\n}}\n"
        ))
        .unwrap();
}

/// What was counted.
fn sizes(netns: &Netns) -> [u64; 3] {
    ["syns", "four", "six"].map(|name| netns.nft_counter("inet judge", name).unwrap())
}

const BYTES: usize = 1_000_000;

#[test]
fn both_ends_of_a_connection_name_segments_that_a_narrow_uplink_has_room_for() {
    for (line, clamps) in [("", true), ("clamp_mss = \"off\"", false)] {
        let topology = narrow();
        let file = Weir::configuration_with(&topology, &[1], "", |_| line.into());
        let weir = Weir::start(&topology, &file).unwrap();
        let _server = Server::start(&topology.internet, plan::server_address(0)).unwrap();
        let (host, router) = (&topology.hosts[0].netns, &topology.providers[0].netns);
        watch_sizes(host, "eth0");
        watch_sizes(router, TOWARDS_GATEWAY);
        let url = server::content_url(plan::server_address(0), BYTES);
        assert_eq!(clients::curl(host, &url).unwrap().bytes, BYTES);
        for netns in [host, router] {
            let [all, named, _] = sizes(netns);
            assert!(all > 0 && named == if clamps { all } else { 0 }, "{line}: {named} of {all}");
        }
        if clamps {
            assert_eq!(weir.counters().unwrap().sum(Counter::DropTooBig), 0);
        }
        weir.check_conservation().unwrap();
    }
}

#[test]
fn so_they_do_of_ipv6_whatever_the_uplink_does_with_addresses() {
    for mode in Mode::ALL.into_iter().chain([Mode::Stateless, Mode::StatelessSource]) {
        println!("{mode:?}");
        let mut plan = Plan::new(1, 1);
        plan.uplinks = vec![Uplink { addresses: 1, mtu: MTU }];
        let (topology, weir) = mode.start(plan, &[1], "").unwrap();
        let _server = Server::start(&topology.internet, SERVER).unwrap();
        let (host, router) = (&topology.hosts[0].netns, &topology.providers[0].netns);
        watch_sizes(host, "eth0");
        watch_sizes(router, TOWARDS_GATEWAY);
        let url = |address| format!("http://[{address}]:{HTTP_PORT}/{BYTES}");
        assert_eq!(clients::curl(host, &url(SERVER)).unwrap().bytes, BYTES);
        // From outside, where a host is reached without being asked.
        let inside = mode.host(0);
        let _inside = Server::start(host, inside).unwrap();
        if !mode.has_entries() {
            assert_eq!(clients::curl(&topology.internet, &url(inside)).unwrap().bytes, BYTES);
        }
        for netns in [host, router] {
            let [all, _, named] = sizes(netns);
            assert!(all > 0 && named == all, "{named} of {all}");
        }
        assert_eq!(weir.counters().unwrap().sum(Counter::DropTooBig), 0);
        mode.check_entries(&weir).unwrap();
        weir.check_conservation().unwrap();
    }
}

#[test]
fn what_a_narrow_uplink_cannot_take_whole_leaves_in_fragments_unless_it_says_otherwise() {
    let topology = narrow();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1])).unwrap();
    let sent = |weir: &Weir| weir.counters().unwrap().sum(Counter::UserOriginated);
    let before = sent(&weir);
    assert!(ping(&topology, 1450, true).contains(" 10 received"));
    assert_eq!(sent(&weir) - before, 10, "each in two");
    // The host's own fragments are of 1500 bytes, and are split again.
    assert!(ping(&topology, 3500, true).contains(" 10 received"));
    assert!(sent(&weir) - before >= 30);
    let told = ping(&topology, 1450, false);
    assert!(told.contains("mtu = 1400"), "{told}");
    assert_eq!(topology.providers[0].foreign_sources().unwrap(), 0);
    weir.check_conservation().unwrap();
    assert_eq!(
        clients::ping(&topology.hosts[0].netns, plan::server_address(0), 5).unwrap().received,
        5
    );
}

/// A site of two uplinks, and who echoes on the Internet.
fn two_uplinks(hosts: usize) -> (Topology, Server, SocketAddrV4) {
    let topology = Topology::build(Plan::new(2, hosts)).unwrap();
    let echo = SocketAddrV4::new(plan::server_address(0), ECHO_PORT);
    let server = Server::start(&topology.internet, *echo.ip()).unwrap();
    (topology, server, echo)
}

#[test]
fn a_host_begins_as_many_flows_as_the_file_says_until_the_file_says_otherwise() {
    const HOSTS: usize = 2;
    const LIMIT: usize = 40;
    const OVER: usize = 10;
    let (topology, _server, echo) = two_uplinks(HOSTS);
    let file = Weir::configuration(&topology, &[1, 1]);
    let limited = format!("[limits]\nflows_per_host = {LIMIT}\n{file}");
    let weir = Weir::start(&topology, &limited).unwrap();
    weir.wait_until_usable(&[0, 1]).unwrap();
    let refused = || weir.counters().unwrap().sum(Counter::DropHostLimit);
    let of_each = udp_flows::run(&topology.hosts, echo, LIMIT + OVER).unwrap();
    assert_eq!((of_each.answered, of_each.wrong), (HOSTS * LIMIT, 0));
    assert_eq!(refused(), (HOSTS * OVER) as u64);
    // What there is goes on.
    assert_eq!(udp_flows::run(&topology.hosts, echo, LIMIT).unwrap().answered, HOSTS * LIMIT);
    weir.reload(&file).unwrap();
    let before = refused();
    let all = udp_flows::run(&topology.hosts, echo, LIMIT + OVER).unwrap();
    assert_eq!((all.answered, refused()), (HOSTS * (LIMIT + OVER), before));
    weir.check_conservation().unwrap();
}

#[test]
fn a_host_begins_no_more_flows_in_a_second_than_the_file_says_and_others_begin_theirs() {
    const RATE: usize = 10;
    const FLOWS: usize = 300;
    let (topology, _server, echo) = two_uplinks(2);
    let (eager, other) = topology.hosts.split_at(1);
    let file = Weir::configuration(&topology, &[1, 1]);
    let limited = format!("[limits]\nnew_flows_per_host = {RATE}\n{file}");
    let weir = Weir::start(&topology, &limited).unwrap();
    weir.wait_until_usable(&[0, 1]).unwrap();
    let refused = || weir.counters().unwrap().sum(Counter::DropHostRate);
    let of_eager = udp_flows::run(eager, echo, FLOWS).unwrap();
    assert!(of_eager.answered >= RATE && of_eager.wrong == 0, "{of_eager:?}");
    assert_eq!(refused(), (of_eager.sent - of_eager.answered) as u64);
    assert!(refused() > 0);
    assert_eq!(udp_flows::run(other, echo, RATE).unwrap().answered, RATE);
    weir.reload(&file).unwrap();
    let before = refused();
    let all = udp_flows::run_from(eager, echo, FLOWS, 30_000).unwrap();
    assert_eq!((all.answered, refused()), (FLOWS, before));
    weir.check_conservation().unwrap();
}

#[test]
fn flows_take_another_uplink_where_the_first_has_no_port_left() {
    const PORTS: u64 = 64;
    const HOSTS: usize = 4;
    const EACH: usize = 25;
    let (topology, _server, echo) = two_uplinks(HOSTS);
    // As good as all go by the first.
    let file = Weir::configuration(&topology, &[1000, 1]);
    let range = format!("[gateway]\nnat_ports = \"20000-{}\"", 20_000 + PORTS - 1);
    let weir = Weir::start(&topology, &file.replacen("[gateway]", &range, 1)).unwrap();
    weir.wait_until_usable(&[0, 1]).unwrap();
    let created = || weir.uplinks().unwrap().iter().map(|u| u.flows_created).collect::<Vec<_>>();
    let udp = udp_flows::run(&topology.hosts, echo, EACH).unwrap();
    assert_eq!((udp.answered, udp.wrong), (HOSTS * EACH, 0));
    let by_udp = created();
    assert!(by_udp[0] <= PORTS && by_udp[0] > PORTS / 2, "{by_udp:?}");
    let load = TcpLoad::start(&topology.hosts, echo, EACH, Duration::from_secs(60)).unwrap();
    load.wait_until_settled().unwrap();
    let all = created();
    let tcp = load.stop().unwrap();
    assert_eq!((tcp.intact, tcp.broken.len()), (HOSTS * EACH, 0), "{:?}", tcp.broken.first());
    assert!(all[0] - by_udp[0] <= PORTS && all[0] - by_udp[0] > PORTS / 2, "{all:?}");
    for provider in &topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    assert_eq!(weir.counters().unwrap().sum(Counter::DropNoPort), 0);
    weir.check_conservation().unwrap();
}
