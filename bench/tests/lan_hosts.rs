//! Where no packet needs a flow, XDP forwards to hosts of a LAN by what the kernel knows of them:
//! hosts that leave, and hosts that others take the place of.

use std::net::Ipv6Addr;
use std::process::Command;

use weir_kit::ipv6::Mode;
use weir_kit::plan::Plan;
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;

/// A site without flows, whose kernel begins to ask a second after it begins to doubt, and not five.
fn site() -> (Topology, Weir) {
    let (topology, weir) = Mode::Stateless.start(Plan::new(1, 2), &[1], "").unwrap();
    topology.gateway.sysctl(&[("net/ipv6/neigh/lan0/delay_first_probe_time", "1")]).unwrap();
    (topology, weir)
}

/// The kernel has not heard of a host for a while, which it knows.
fn make_stale(topology: &Topology, host: Ipv6Addr) {
    topology.gateway.ip(&format!("neigh change {host} dev lan0 nud stale\n")).unwrap();
}

/// What `ping` says of one question from the Internet.
fn ask(topology: &Topology, host: Ipv6Addr) -> String {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-c", "1", "-W", "1"]).arg(host.to_string());
    let output = topology.internet.run(|| ping.output()).unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks until the answer has these words.
fn ask_until(topology: &Topology, host: Ipv6Addr, words: &str) {
    let mut last = String::new();
    let found = wait::until(words, wait::BOUND, || {
        last = ask(topology, host);
        Ok(last.contains(words).then_some(()))
    });
    found.unwrap_or_else(|error| panic!("{error:#}: {last}"));
}

#[test]
fn a_host_that_is_gone_is_unreachable_within_seconds() {
    let (topology, weir) = site();
    let host = Mode::Stateless.host(1);
    ask_until(&topology, host, "1 received");
    topology.hosts[1].netns.ip("link set eth0 down\n").unwrap();
    make_stale(&topology, host);
    ask_until(&topology, host, "Address unreachable");
    weir.check_conservation().unwrap();
}

#[test]
fn a_host_in_the_place_of_another_is_found_within_seconds() {
    let (topology, weir) = site();
    let host = Mode::Stateless.host(1);
    ask_until(&topology, host, "1 received");
    // It says so to nobody.
    topology.hosts[1].netns.ip("link set eth0 address 02:00:00:00:00:99\n").unwrap();
    make_stale(&topology, host);
    ask_until(&topology, host, "1 received");
    weir.check_conservation().unwrap();
}
