//! What Vovida's `stun` (RFC 3489) says of mapping, filtering and hairpinning.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};

use weir_kit::netns::Netns;
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{listeners, plan, wait};

use super::{Load, PORTS, Site, servers};

/// `stund` at two addresses of a namespace.
fn serve(netns: &Netns, [first, second]: [Ipv4Addr; 2]) -> Process {
    let mut command = Command::new("stund");
    command.args(["-h", &first.to_string(), "-a", &second.to_string()]);
    command.args(["-p", &PORTS[0].to_string(), "-o", &PORTS[1].to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let server = netns.spawn(&mut command).unwrap();
    PORTS.iter().for_each(|port| listeners::wait_for_udp(netns, *port).unwrap());
    server
}

/// The verdict on a port of the first host: its mapping, and whether it hears itself by the address
/// outside. The filtering is that of the next port.
fn verdict(site: &Site, port: u16) -> String {
    let mut judge = Command::new("stun");
    judge.args([&servers()[0].to_string(), "-p", &port.to_string()]);
    let output = site.topology.hosts[0].netns.run(|| judge.output()).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let verdict = said.lines().find_map(|line| line.strip_prefix("Primary: "));
    verdict.unwrap_or_else(|| panic!("no verdict: {said}")).trim().to_owned()
}

/// Who a server sees, at this address, that asks from a port of the first host; `None`: it does not
/// answer.
fn seen_by(site: &Site, server: SocketAddrV4, port: u16) -> Option<SocketAddrV4> {
    // By itself it waits for ever.
    let mut judge = Command::new("timeout");
    judge.args(["1", "stun", &server.to_string(), "1", "-v", "-p", &port.to_string()]);
    let output = site.topology.hosts[0].netns.run(|| judge.output()).unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines().find_map(|line| line.strip_prefix("MappedAddress = "))?.trim().parse().ok()
}

/// The same of one that others use too, so that it cannot be kept.
fn verdict_on_collision(site: &Site, port: u16) -> String {
    [port, port + 1].iter().for_each(|port| site.collide(*port));
    verdict(site, port)
}

#[test]
fn vovidas_client_finds_the_filtering_of_the_file_by_both_uplinks_under_load_and_after_a_loss() {
    for (filtering, expected) in [
        ("", "Independent Mapping, Port Dependent Filter, random port, no hairpin"),
        (
            "filtering = \"address\"",
            "Independent Mapping, Address Dependent Filter, random port, no hairpin",
        ),
        (
            "filtering = \"endpoint\"",
            "Independent Mapping, Independent Filter, random port, no hairpin",
        ),
    ] {
        let site = Site::with(filtering);
        let _server = serve(&site.topology.internet, servers());
        assert_eq!(verdict_on_collision(&site, 40_000), expected);
        let load = Load::start(&site);
        assert_eq!(verdict_on_collision(&site, 40_010), expected);
        site.cut_the_first();
        assert_eq!(verdict_on_collision(&site, 40_020), expected);
        load.stop(&site);
        site.weir.check_conservation().unwrap();
    }
}

#[test]
fn a_server_in_the_lan_sees_who_asks_by_the_address_outside_as_one_in_the_internet_does() {
    let topology = Topology::build(Plan::new(2, 2)).unwrap();
    let host = &topology.hosts[1];
    // A server of STUN has two addresses.
    let other = plan::host_address(host.port, 7);
    host.netns.ip(&format!("addr add {other}/16 dev eth0\n")).unwrap();
    let _inside = serve(&host.netns, [host.address, other]);
    let _outside = serve(&topology.internet, servers());
    let file = Weir::configuration(&topology, &[1, 1]);
    let entry = format!("name = \"stun\"\nprotocol = \"udp\"\nports = {}\n", PORTS[0]);
    let file = format!("{file}[[publish]]\n{entry}to = \"{}\"\n", host.address);
    let site = Site::start(topology, &file);
    let by_world = SocketAddrV4::new(servers()[0], PORTS[0]);
    for (provider, port) in [(0, 40_000), (1, 40_010), (0, 40_020), (1, 40_030)] {
        let address = site.topology.providers[provider].addresses[0];
        let by_lan = SocketAddrV4::new(address, PORTS[0]);
        site.collide(port);
        let answered = || Ok(seen_by(&site, by_lan, port));
        let seen = wait::until("the server in the LAN", wait::BOUND, answered).unwrap();
        assert_eq!(Some(seen), seen_by(&site, by_world, port), "asked by provider {provider}");
        assert_ne!(seen.port(), port);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_port_that_its_host_has_used_and_asked_for_will_hairpin() {
    let site = Site::with_port_mapping();
    let _server = serve(&site.topology.internet, servers());
    let by_world = SocketAddrV4::new(servers()[0], PORTS[0]);
    let is_kept = |port: &u16| seen_by(&site, by_world, *port).unwrap().port() == *port;
    let port = (40_000..40_100).step_by(2).find(is_kept).unwrap();
    assert_eq!(
        verdict(&site, port),
        "Independent Mapping, Port Dependent Filter, preserves ports, no hairpin"
    );
    [port, port + 1].iter().for_each(|port| site.ask_for(*port));
    wait::until("the port to hairpin", wait::BOUND, || {
        let said = verdict(&site, port);
        let wanted = "Independent Mapping, Independent Filter, preserves ports, will hairpin";
        Ok((said == wanted).then_some(()))
    })
    .unwrap();
    site.weir.check_conservation().unwrap();
}

#[test]
fn what_a_host_sends_from_a_port_that_it_asked_for_leaves_by_that_port() {
    let site = Site::with_port_mapping();
    let _server = serve(&site.topology.internet, servers());
    // The ports that it would have by itself are others', by each uplink.
    for [inside, outside] in [[41_000, 20_007], [41_010, 60_007]] {
        site.collide(inside);
        site.ask_for_outside(inside, outside);
        for server in servers() {
            let seen = seen_by(&site, SocketAddrV4::new(server, PORTS[0]), inside).unwrap();
            assert_eq!(seen.port(), outside, "from {inside}, as {server} sees it");
        }
    }
    site.weir.check_conservation().unwrap();
}
