//! What RFC 4787, 5382 and 1812 ask of a NAT, as real hosts and servers see it: `docs/conformance.md`.

use std::process::Command;

use weir_kit::clients;
use weir_kit::plan::{self, Plan};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_layout::counters::Counter;

/// A site whose uplink takes less than its LAN.
fn narrow() -> Topology {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    let provider = &topology.providers[0];
    provider.netns.ip(&format!("link set {TOWARDS_GATEWAY} mtu 1400\n")).unwrap();
    topology.gateway.ip(&format!("link set {} mtu 1400\n", provider.interface())).unwrap();
    topology
}

/// A host pings with so many bytes, in packets that may be split or not; what it is told.
fn ping(topology: &Topology, bytes: usize, may_split: bool) -> String {
    let mut ping = Command::new("ping");
    let split = if may_split { "dont" } else { "do" };
    ping.args(["-n", "-c", "10", "-i", "0.05", "-W", "2", "-M", split]);
    ping.args(["-s", &bytes.to_string(), &plan::server_address(0).to_string()]);
    let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
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
    assert!(told.contains("mtu=1400") || told.contains("mtu: 1400"), "{told}");
    assert_eq!(topology.providers[0].foreign_sources().unwrap(), 0);
    weir.check_conservation().unwrap();
    assert_eq!(
        clients::ping(&topology.hosts[0].netns, plan::server_address(0), 5).unwrap().received,
        5
    );
}
