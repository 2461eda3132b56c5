//! IPv6 with a prefix of each provider in the LAN: every source by the uplink that owns it.

use std::fs;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::process::{Command, Output};

use weir_kit::ipv6::{self, Mode, SERVER};
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{nginx, wait};
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};

const PROVIDERS: usize = 2;
const BYTES: usize = 3_000_000;
const LARGE: u64 = 16 << 20;

/// A site with a host that has an address of each provider, and a server with a file.
struct Site {
    topology: Topology,
    weir: Weir,
    /// What the server serves is below it.
    directory: PathBuf,
    _nginx: Process,
}

fn site(gateway: &str) -> Site {
    let plan = Plan::new(PROVIDERS, 1);
    let (topology, weir) = Mode::Source.start(plan, &[1; PROVIDERS], gateway).unwrap();
    let directory = topology.run.file_directory().unwrap();
    let nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; BYTES]).unwrap();
    let site = Site { topology, weir, directory, _nginx: nginx };
    // The routers beyond have neighbours of their own to find.
    for provider in 0..PROVIDERS {
        wait::until("answers from the Internet", wait::BOUND, || {
            let ping = site.ping(host(provider));
            Ok(ping.status.success().then_some(()))
        })
        .unwrap();
    }
    site
}

/// The host's address of a provider.
fn host(provider: usize) -> Ipv6Addr {
    ipv6::by(provider, ipv6::host(0))
}

impl Site {
    fn command(&self, command: &mut Command) -> Output {
        self.topology.hosts[0].netns.run(|| command.output()).unwrap().unwrap()
    }

    /// One echo request from this address.
    fn ping(&self, source: Ipv6Addr) -> Output {
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-c", "1", "-W", "1", "-I", &source.to_string()]);
        self.command(ping.arg(SERVER.to_string()))
    }

    /// What curl says of a download from this address.
    fn download(&self, source: Ipv6Addr) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--verbose", "--fail", "--noproxy", "*", "--max-time", "30"]);
        curl.args(["--interface", &source.to_string()]);
        self.command(curl.arg(format!("http://[{SERVER}]:{}/content", nginx::PORT)))
    }

    /// Packets from its own prefix that each provider has carried; none had another source.
    fn carried(&self) -> Vec<u64> {
        ipv6::outbound(&self.topology).unwrap()
    }

    /// Cuts a provider off, and waits until its path is out of use.
    fn cut(&self, provider: usize) {
        self.topology.providers[provider].set_carrier(false).unwrap();
        wait::until("the path to be down", wait::BOUND, || {
            let state = self.weir.control()?.path_state(PathId::new(provider as u8, Family::V6));
            Ok((state & path_state::USABLE == 0).then_some(()))
        })
        .unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_source_leaves_by_the_provider_that_it_is_of() {
    let site = site("");
    for provider in 0..PROVIDERS {
        let before = site.carried();
        let output = site.download(host(provider));
        assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
        let after = site.carried();
        for other in 0..PROVIDERS {
            let packets = after[other] - before[other];
            assert_eq!(packets > 100, other == provider, "{packets} by {other}");
        }
    }
    site.weir.check_conservation().unwrap();
    site.weir.check_tier().unwrap();
}

#[test]
fn a_lost_provider_ends_its_connections_and_its_addresses_are_refused_at_once() {
    let site = site("");
    let (lost, left) = (host(0), host(1));
    // More than a socket has room for.
    for (file, bytes) in [("endless", 1 << 30), ("large", LARGE)] {
        fs::File::create(site.directory.join("files").join(file)).unwrap().set_len(bytes).unwrap();
    }
    let slow = |source: Ipv6Addr, file: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]);
        curl.args(["--limit-rate", "4M", "--interface", &source.to_string()]);
        curl.arg(format!("http://[{SERVER}]:{}/{file}", nginx::PORT));
        site.topology.hosts[0].netns.thread("curl", move || curl.output()).unwrap()
    };
    let before = site.carried();
    let (of_lost, of_left) = (slow(lost, "endless"), slow(left, "large"));
    wait::until("both transfers to be under way", wait::BOUND, || {
        let after = site.carried();
        Ok(before.iter().zip(&after).all(|(before, after)| after - before > 20).then_some(()))
    })
    .unwrap();
    site.cut(0);
    let ended = of_lost.join().unwrap().unwrap().unwrap();
    assert!(said(&ended).contains("reset by peer"), "{}", said(&ended));
    let refused = site.download(lost);
    assert!(said(&refused).contains("Permission denied"), "{}", said(&refused));
    let output = site.download(left);
    assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
    assert_eq!(of_left.join().unwrap().unwrap().unwrap().stdout.len() as u64, LARGE);
    site.carried();
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_host_that_goes_on_from_a_lost_providers_address_is_rescued_by_another() {
    let site = site("");
    let file = Mode::Source.configuration(&site.topology, &[1; PROVIDERS]);
    site.weir.reload(&file.replace("\"source\"", "\"source\", rescue = true")).unwrap();
    site.cut(0);
    let before = site.carried();
    let output = site.download(host(0));
    assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
    let after = site.carried();
    assert!(after[1] > before[1] + 100 && after[0] == before[0], "{before:?} {after:?}");
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_prefix_of_two_lines_is_carried_by_both_and_by_one_for_the_other() {
    let site = site("");
    let (shared, other) = (ipv6::delegated(0), ipv6::delegated(1));
    // Another line of the same provider.
    let takes =
        format!("iifname {TOWARDS_GATEWAY} ip6 saddr {shared} counter name outbound accept");
    let provider = &site.topology.providers[1].netns;
    provider.nft(&format!("insert rule ip6 bench ingress {takes}\n")).unwrap();
    provider.ip(&format!("route add {shared} via {}\n", ipv6::link(1, 2))).unwrap();
    let file = Mode::Source.configuration(&site.topology, &[1; PROVIDERS]);
    site.weir.reload(&file.replace(&other, &shared)).unwrap();
    site.weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let before = site.carried();
    for _ in 0..30 {
        assert!(site.ping(host(0)).status.success());
    }
    let after = site.carried();
    assert!(after.iter().zip(&before).all(|(after, before)| after > before), "{after:?}");
    site.cut(0);
    let back = format!("route replace {shared} via {} dev isp1\n", ipv6::transit(1, 1));
    site.topology.internet.ip(&back).unwrap();
    let output = site.download(host(0));
    assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
    site.carried();
    site.weir.check_conservation().unwrap();
}

#[test]
fn where_the_kernel_stands_in_it_sends_every_source_by_its_provider_or_not_at_all() {
    let mut site = site("on_dataplane_loss = \"kernel\"\n");
    site.weir.kill_dataplane();
    site.weir.take_program_off().unwrap();
    for provider in 0..PROVIDERS {
        let before = site.carried();
        assert!(site.ping(host(provider)).status.success());
        assert!(site.carried()[provider] > before[provider]);
    }
    site.cut(0);
    assert!(!site.ping(host(0)).status.success());
    assert!(site.ping(host(1)).status.success());
    site.carried();
}

#[test]
fn the_gateway_itself_sends_from_an_address_of_a_provider_by_that_provider() {
    let site = site("");
    let gateway = &site.topology.gateway;
    for provider in 0..PROVIDERS {
        let before = site.carried();
        let mut ping = Command::new("ping");
        let source = ipv6::by(provider, ipv6::LAN_GATEWAY).to_string();
        ping.args(["-6", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", "-I", &source]);
        let output = gateway.output(ping.arg(SERVER.to_string())).unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(" 3 received"), "{told}");
        assert!(site.carried()[provider] - before[provider] >= 3);
    }
}
