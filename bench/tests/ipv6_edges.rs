//! What others say to the gateway of IPv6, and what a change of the file leaves behind.

use std::net::Ipv6Addr;
use std::process::Command;
use std::time::Duration;

use weir_kit::ipv6::{self, Mode, SERVER, outbound};
use weir_kit::netns::Netns;
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, wait};
use weir_layout::Family;
use weir_layout::counters::Counter;

/// Advertises these prefixes by an interface, in the words of radvd.conf(5), until it is dropped.
fn advertise(topology: &Topology, of: &Netns, interface: &str, prefixes: &str) -> Process {
    let directory = topology.run.file_directory().unwrap();
    let [file, pid] = ["conf", "pid"].map(|it| directory.join(format!("{}.{it}", of.name())));
    let text = format!(
        "interface {interface} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
         AdvDefaultLifetime 0; {prefixes} }};\n"
    );
    std::fs::write(&file, text).unwrap();
    of.sysctl(&[("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    let mut radvd = Command::new("radvd");
    radvd.args(["--nodaemon", "--logmethod", "stderr", "--config"]).arg(&file);
    of.spawn(radvd.arg("--pidfile").arg(pid)).unwrap()
}

/// The site's file, with this of each uplink's path. The LAN's prefix is that of its interface.
fn configuration(topology: &Topology, path: &str) -> String {
    let weights = vec![1; topology.providers.len()];
    Weir::configuration_with(topology, &weights, "", |_| path.into())
}

/// A site whose providers all carry the LAN's own prefix.
fn with_own_prefix(hosts: usize) -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(1, hosts)).unwrap();
    Mode::None.lay(&topology).unwrap();
    let file = configuration(&topology, &Mode::None.path(0));
    let weir = Weir::start(&topology, &file).unwrap();
    weir.wait_until_usable_in(Family::V6, &[0]).unwrap();
    ipv6::wait_for_answers(&topology, ipv6::host(0)).unwrap();
    (topology, weir)
}

/// Waits until the gateway's kernel has a route to this by an interface.
fn wait_for_route(topology: &Topology, to: &str, interface: &str) {
    wait::until("the route that was advertised", wait::BOUND, || {
        let mut ip = Command::new("ip");
        ip.args(["-6", "route", "show", "dev", interface]);
        let shown = topology.gateway.output(&mut ip)?.stdout;
        Ok(String::from_utf8_lossy(&shown).contains(to).then_some(()))
    })
    .unwrap();
}

fn wait_for_log(weir: &Weir, words: &str) {
    wait::until(words, wait::BOUND, || Ok(weir.log("weir-control").contains(words).then_some(())))
        .unwrap();
}

#[test]
fn what_a_providers_router_says_to_be_on_its_link_is_taken_from_no_lan() {
    let (topology, weir) = with_own_prefix(2);
    topology.gateway.sysctl(&[("net/ipv6/conf/wan0/accept_ra", "2")]).unwrap();
    let hosts = "2001:2:0:100:0:0:1:0/112";
    let prefix = format!("prefix {hosts} {{ AdvOnLink on; AdvAutonomous off; }};");
    let provider = &topology.providers[0].netns;
    let _radvd = advertise(&topology, provider, TOWARDS_GATEWAY, &prefix);
    wait_for_route(&topology, "2001:2:0:100::1:0/112", "wan0");
    wait_for_log(
        &weir,
        "to 2001:2:0:100::1:0/112 by wan0 leads into 2001:2:0:100::/64 of LAN lan0",
    );
    for host in &topology.hosts {
        assert_eq!(clients::ping(&host.netns, SERVER, 20).unwrap().received, 20);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn what_a_host_of_a_lan_advertises_is_no_network_of_the_lan() {
    let (topology, weir) = with_own_prefix(2);
    topology.gateway.sysctl(&[("net/ipv6/conf/lan0/accept_ra", "2")]).unwrap();
    // A host that believes it is beyond help.
    topology.hosts[0].netns.sysctl(&[("net/ipv6/conf/eth0/accept_ra", "0")]).unwrap();
    // The network of the provider's link, of which the gateway makes an address, and the server's.
    let prefixes = "prefix 2001:2:0:a0::/64 { }; prefix 2001:2:0:ff::/64 { AdvAutonomous off; };";
    let _radvd = advertise(&topology, &topology.hosts[1].netns, "eth0", prefixes);
    wait_for_route(&topology, "2001:2:0:a0::/64", "lan0");
    wait_for_route(&topology, "2001:2:0:ff::/64", "lan0");
    // A file that is read anew is derived from all that there is.
    weir.reload(&configuration(&topology, &Mode::None.path(0))).unwrap();
    let prefixes = weir.snapshot().unwrap().half.lan_prefixes().to_vec();
    assert_eq!(prefixes.iter().filter(|net| net.family == 6).count(), 1, "{prefixes:?}");
    for _ in 0..3 {
        weir.wait_until_usable_in(Family::V6, &[0]).unwrap();
        assert_eq!(clients::ping(&topology.hosts[0].netns, SERVER, 20).unwrap().received, 20);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn what_the_gateway_answers_from_a_translated_prefix_leaves_by_its_uplink() {
    let (topology, weir) = Mode::Npt66.start(Plan::new(2, 1), &[1; 2], "").unwrap();
    let own = |provider| ipv6::by(provider, Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 1));
    let ping = |provider, count| {
        clients::ping(&topology.internet, own(provider), count).map(|ping| ping.received)
    };
    for provider in 0..2 {
        topology.gateway.ip(&format!("addr add {}/128 dev lo\n", own(provider))).unwrap();
        wait::until("an answer", wait::BOUND, || Ok((ping(provider, 1)? == 1).then_some(())))
            .unwrap();
        let before = outbound(&topology).unwrap();
        assert_eq!(ping(provider, 10).unwrap(), 10);
        let after = outbound(&topology).unwrap();
        let by = |of: usize| after[of] - before[of];
        assert!(by(provider) >= 10 && by(1 - provider) < 10, "{before:?} {after:?}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_flow_that_was_not_translated_is_so_from_the_moment_that_the_file_says_it() {
    let (topology, weir) = with_own_prefix(1);
    // The provider takes both prefixes, and counts those of the LAN's own.
    let (prefix, via) = (ipv6::delegated(0), ipv6::link(0, 2));
    let provider = &topology.providers[0].netns;
    provider.ip(&format!("route add {prefix} via {via}\n")).unwrap();
    provider.nft(&format!("insert rule ip6 bench ingress ip6 saddr {prefix} accept\n")).unwrap();
    let back = ipv6::transit(0, 1);
    topology.internet.ip(&format!("route add {prefix} via {back} dev isp0\n")).unwrap();
    let host = topology.hosts[0].netns.clone();
    let carried = || ipv6::carried(&topology.providers[0]).unwrap().outbound;
    let before = carried();
    let ping = std::thread::spawn(move || clients::ping(&host, SERVER, 1000));
    wait::until("a flow", wait::BOUND, || Ok((carried() > before + 20).then_some(()))).unwrap();
    let inside = format!(", inside = \"{}\" }}", ipv6::PREFIX);
    let translated = Mode::Npt66.path(0).replace(" }", &inside);
    weir.reload(&configuration(&topology, &translated)).unwrap();
    let moved = || weir.counters().unwrap().sum(Counter::FlowsMoved);
    // Flows of before have moved too, perhaps: until nothing more comes as it was.
    wait::until("the flow to move", wait::BOUND, || {
        let now = carried();
        std::thread::sleep(Duration::from_millis(100));
        Ok((moved() > 0 && carried() == now).then_some(()))
    })
    .unwrap();
    assert!(!ping.is_finished());
    let before = carried();
    let received = ping.join().unwrap().unwrap().received;
    assert!(received > 950, "{received} of 1000 were answered");
    assert_eq!(carried(), before, "it has the provider's address");
    weir.check_conservation().unwrap();
}

#[test]
fn a_unique_local_destination_that_nobody_has_is_answered_where_the_kernel_has_it_unreachable() {
    let (topology, weir) = with_own_prefix(1);
    let ping = || {
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-c", "1", "-W", "1", "fd99::1"]);
        let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!ping().contains("unreachable"), "dropped in silence");
    topology.gateway.ip("route add unreachable fc00::/7\n").unwrap();
    wait::until("an error from the gateway", wait::BOUND, || {
        Ok(ping().contains("Destination unreachable").then_some(()))
    })
    .unwrap();
    assert_eq!(clients::ping(&topology.hosts[0].netns, SERVER, 10).unwrap().received, 10);
    weir.check_conservation().unwrap();
}
