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
use weir_kit::{clients, nginx, wait};
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};

const PROVIDERS: usize = 2;
const BYTES: usize = 3_000_000;
/// A host sends more than this many packets for that, though it acknowledge 64 KiB at a time.
const ANSWERS: u64 = 20;
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
    site_of(Mode::Source, gateway)
}

fn site_of(mode: Mode, gateway: &str) -> Site {
    let plan = Plan::new(PROVIDERS, 1);
    let (topology, weir) = mode.start(plan, &[1; PROVIDERS], gateway).unwrap();
    let directory = topology.run.file_directory().unwrap();
    let nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; BYTES]).unwrap();
    Site { topology, weir, directory, _nginx: nginx }
}

/// The host's address of a provider.
fn host(provider: usize) -> Ipv6Addr {
    ipv6::by(provider, ipv6::host(0))
}

impl Site {
    /// Is an echo request from this address answered?
    fn is_answered(&self, source: Ipv6Addr) -> bool {
        let ping = clients::ping_from(&self.topology.hosts[0].netns, source, SERVER, 1);
        ping.unwrap().received == 1
    }

    /// What curl says of a download from this address.
    fn download(&self, source: Ipv6Addr) -> Output {
        let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
        let netns = &self.topology.hosts[0].netns;
        clients::curl_from(netns, &source.to_string(), &url).unwrap()
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
fn every_source_leaves_by_its_provider_and_is_refused_without_it() {
    for mode in [Mode::Source, Mode::StatelessSource] {
        println!("{mode:?}");
        let site = site_of(mode, "");
        for provider in 0..PROVIDERS {
            let before = site.carried();
            let output = site.download(host(provider));
            assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
            let after = site.carried();
            for other in 0..PROVIDERS {
                let packets = after[other] - before[other];
                assert_eq!(packets > ANSWERS, other == provider, "{packets} by {other}");
            }
        }
        mode.check_entries(&site.weir).unwrap();
        site.weir.check_conservation().unwrap();
        site.weir.check_tier(10).unwrap();
        site.cut(0);
        wait::until("the host to be told", wait::BOUND, || {
            Ok(said(&site.download(host(0))).contains("Permission denied").then_some(()))
        })
        .unwrap();
        assert_eq!(site.download(host(1)).stdout.len(), BYTES);
        site.carried();
    }
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
        Ok(before.iter().zip(&after).all(|(before, after)| after - before > ANSWERS).then_some(()))
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
    assert!(after[1] > before[1] + ANSWERS && after[0] == before[0], "{before:?} {after:?}");
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_rescued_host_is_answered_where_no_lan_has_the_address_that_it_is_given() {
    let site = site("");
    let file = Mode::Source.configuration(&site.topology, &[1; PROVIDERS]);
    // The LAN has another subnet of the second provider than of the first.
    let lan = |subnet: u8| format!("2001:2:0:c1{subnet:02x}::");
    let gateway = &site.topology.gateway;
    let (old, new) = (ipv6::by(1, ipv6::LAN_GATEWAY), lan(5) + "1");
    gateway.ip(&format!("addr del {old}/64 dev lan0\naddr add {new}/64 dev lan0 nodad\n")).unwrap();
    // What clients of DHCPv6 enter for the parts that no LAN has (RFC 7084 WPD-5).
    let prefix = ipv6::delegated(1);
    gateway.ip(&format!("route add unreachable {prefix} dev lo\n")).unwrap();
    let file = file
        .replace("\"source\"", "\"source\", rescue = true")
        .replace(&(lan(0) + "/64"), &(lan(5) + "/64"));
    for prefix in [prefix.clone(), prefix.replace("/56", "/60")] {
        site.weir.reload(&file.replace(&ipv6::delegated(1), &prefix)).unwrap();
        site.cut(0);
        let before = site.carried();
        let output = site.download(host(0));
        assert_eq!(output.stdout.len(), BYTES, "{prefix}: {}", said(&output));
        let after = site.carried();
        assert!(after[1] > before[1] + ANSWERS && after[0] == before[0], "{before:?} {after:?}");
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn answers_to_an_address_that_the_gateway_has_no_more_leave_by_no_uplink() {
    let site = site("");
    let old = ipv6::by(1, ipv6::LAN_GATEWAY);
    let gateway = &site.topology.gateway;
    // More than one is on its way at any time.
    let mut ping = Command::new("ping");
    ping.args(["-q", "-f", "-l", "50", "-w", "5", "-I", &old.to_string(), &SERVER.to_string()]);
    let before = site.carried();
    let pinging = gateway.thread("ping", move || ping.output()).unwrap();
    wait::until("answers on their way", wait::BOUND, || {
        Ok((site.carried()[1] > before[1] + 1000).then_some(()))
    })
    .unwrap();
    gateway.ip(&format!("addr del {old}/64 dev lan0\n")).unwrap();
    let said = String::from_utf8(pinging.join().unwrap().unwrap().unwrap().stdout).unwrap();
    assert!(!said.contains(" 0% packet loss"), "{said}");
    site.carried();
}

#[test]
fn hosts_behind_a_router_of_the_lan_have_a_part_of_what_a_provider_delegates() {
    let site = site("");
    // The LAN's prefixes are those of its interface, as where they are delegated.
    let file = Mode::Source.configuration(&site.topology, &[1; PROVIDERS]);
    let lan = Mode::Source.lan(PROVIDERS).join("\", \"");
    site.weir.reload(&file.replace(&format!("prefixes = [\"{lan}\"]\n"), "")).unwrap();
    let inner = |provider: usize| ipv6::delegated(provider).replace("00::/56", "11::5");
    let part = |provider: usize| ipv6::delegated(provider).replace("00::/56", "10::/60");
    let (router, via) = (&site.topology.hosts[0].netns, host(0));
    for provider in 0..PROVIDERS {
        router.ip(&format!("addr add {}/128 dev lo nodad\n", inner(provider))).unwrap();
        let route = format!("route add {} via {via} dev lan0\n", part(provider));
        site.topology.gateway.ip(&route).unwrap();
        wait::until("answers to an inner host", wait::BOUND, || {
            Ok(site.is_answered(inner(provider).parse()?).then_some(()))
        })
        .unwrap();
        let before = site.carried();
        let output = site.download(inner(provider).parse().unwrap());
        assert_eq!(output.stdout.len(), BYTES, "{}", said(&output));
        let after = site.carried();
        assert!(after[provider] > before[provider] + ANSWERS, "{before:?} {after:?}");
        // But for how the download before ends.
        assert!(after[1 - provider] < before[1 - provider] + ANSWERS, "{before:?} {after:?}");
    }
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
        assert!(site.is_answered(host(0)));
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
    let each_has_its_provider = |site: &Site| {
        for provider in 0..PROVIDERS {
            let before = site.carried();
            assert!(site.is_answered(host(provider)));
            assert!(site.carried()[provider] > before[provider]);
        }
    };
    site.weir.kill_dataplane();
    each_has_its_provider(&site);
    site.weir.take_program_off().unwrap();
    each_has_its_provider(&site);
    site.cut(0);
    assert!(!site.is_answered(host(0)));
    assert!(site.is_answered(host(1)));
    site.carried();
}

#[test]
fn the_gateway_itself_sends_from_an_address_of_a_provider_by_that_provider() {
    let site = site("");
    let gateway = &site.topology.gateway;
    for provider in 0..PROVIDERS {
        let before = site.carried();
        let source = ipv6::by(provider, ipv6::LAN_GATEWAY);
        assert_eq!(clients::ping_from(gateway, source, SERVER, 3).unwrap().received, 3);
        assert!(site.carried()[provider] - before[provider] >= 3);
    }
}
