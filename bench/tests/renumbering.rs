//! Router advertisements, and the real hosts that obey them: what a LAN is told while its prefixes
//! and its uplinks change. What is sent is read by rdisc6 too, which knows nothing of weir.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use weir_kit::ipv6::{self, Mode, SERVER};
use weir_kit::netns::Netns;
use weir_kit::plan::Plan;
use weir_kit::process::Process;
use weir_kit::slaac::Standing::{Absent, Deprecated, Preferred};
use weir_kit::slaac::{Standing, ask, default_router, own, standing};
use weir_kit::topology::{Host, Topology};
use weir_kit::weir::Weir;
use weir_kit::{clients, wait};
use weir_layout::Family;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// The LAN, and how it is renumbered.
const PREFIXES: [&str; 3] = ["2001:2:0:100::/64", "2001:2:0:101::/64", "2001:2:0:102::/64"];

const RA: &str = "ra = { dns = [\"2001:2:0:ff::53\", \"2001:2:0:ff::54\"], \
                  search = [\"example.net\", \"lan\"], mtu = 1480, routes = [\"2001:2:0:300::/56\"] }";

/// The file of a site whose LAN has this prefix.
fn configuration(topology: &Topology, prefix: &str) -> String {
    let lan = format!("prefixes = [\"10.77.0.0/16\", \"{prefix}\"]\n{RA}\n");
    Weir::configuration_with(topology, &WEIGHTS, &lan, |uplink| Mode::None.path(uplink))
}

/// A site whose hosts have no address of IPv6 but what they make themselves.
fn site(providers: usize, hosts: usize) -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(providers, hosts)).unwrap();
    ipv6::add(&topology, 0).unwrap();
    for (index, host) in topology.hosts.iter().enumerate() {
        let own = ipv6::host(index);
        let lines =
            format!("addr del {own}/64 dev eth0\nroute del default via {}\n", ipv6::LAN_GATEWAY);
        host.netns.ip(&lines).unwrap();
    }
    let weir = Weir::start(&topology, &configuration(&topology, PREFIXES[0])).unwrap();
    let uplinks: Vec<_> = (0..providers).collect();
    weir.wait_until_usable_in(Family::V6, &uplinks).unwrap();
    (topology, weir)
}

/// Waits until a host has these addresses.
fn wait_for(host: &Host, wanted: &[(&str, Standing)]) {
    let found = wait::until("a host to obey", wait::BOUND, || {
        let is = |(prefix, wanted): &(&str, Standing)| Ok(standing(host, prefix)? == *wanted);
        let all: Result<Vec<bool>> = wanted.iter().map(is).collect();
        Ok(all?.iter().all(|it| *it).then_some(()))
    });
    let has = || PREFIXES.map(|prefix| (prefix, standing(host, prefix)));
    found.with_context(|| format!("wanted {wanted:?}, it has {:?}", has())).unwrap();
}

fn wait_for_default_route(host: &Host, wanted: bool) {
    wait::until("a host's default route", wait::BOUND, || {
        Ok((default_router(host)?.is_some() == wanted).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_host_makes_its_address_and_reaches_the_internet_and_another_program_reads_the_same() {
    let (topology, weir) = site(2, 1);
    let host = &topology.hosts[0];
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    wait_for_default_route(host, true);
    wait::until("answers from the Internet", wait::BOUND, || {
        Ok((clients::ping(&host.netns, SERVER, 1)?.received == 1).then_some(()))
    })
    .unwrap();
    let told = ask(host).unwrap();
    for line in [
        "Hop limit : 64",
        "Stateful address conf. : No",
        "Router lifetime : 2700",
        "MTU : 1480 bytes (valid)",
        "Prefix : 2001:2:0:100::/64 On-link : Yes Autonomous address conf.: Yes Valid time : 5400",
        "Pref. time : 2700",
        "Route : 2001:2:0:300::/56",
        "Route lifetime : 5400",
        "Recursive DNS server : 2001:2:0:ff::53 Recursive DNS server : 2001:2:0:ff::54",
        "DNS servers lifetime : 5400",
        "DNS search list : example.net DNS search list lifetime: 5400",
        "DNS search list : lan DNS search list lifetime: 5400",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_lan_that_is_renumbered_twice_has_both_old_prefixes_deprecated() {
    let (topology, weir) = site(2, 2);
    let [host, sleeper] = &topology.hosts[..] else { panic!("two hosts") };
    for host in &topology.hosts {
        wait_for(host, &[(PREFIXES[0], Preferred)]);
    }
    sleeper.netns.nft(ASLEEP).unwrap();
    weir.reload(&configuration(&topology, PREFIXES[1])).unwrap();
    wait_for(host, &[(PREFIXES[0], Deprecated), (PREFIXES[1], Preferred)]);
    weir.reload(&configuration(&topology, PREFIXES[2])).unwrap();
    let last = [(PREFIXES[0], Deprecated), (PREFIXES[1], Deprecated), (PREFIXES[2], Preferred)];
    wait_for(host, &last);
    assert_eq!(standing(sleeper, PREFIXES[0]).unwrap(), Preferred, "it has heard nothing");
    sleeper.netns.nft("delete table ip6 asleep").unwrap();
    // As a host does when it wakes up.
    ask(sleeper).unwrap();
    wait_for(
        sleeper,
        &[(PREFIXES[0], Deprecated), (PREFIXES[1], Absent), (PREFIXES[2], Preferred)],
    );
}

/// A host that hears nothing of routers.
const ASLEEP: &str = "table ip6 asleep {
    chain input {
        type filter hook input priority 0
        icmpv6 type nd-router-advert drop
    }
}";

#[test]
fn a_gateway_that_no_uplink_is_left_to_is_no_default_router_until_one_is_back() {
    let (topology, _weir) = site(2, 1);
    let host = &topology.hosts[0];
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    wait_for_default_route(host, true);
    topology.providers[0].set_carrier(false).unwrap();
    assert!(ask(host).unwrap().contains("Router lifetime : 2700"), "another is left");
    topology.providers[1].set_carrier(false).unwrap();
    wait_for_default_route(host, false);
    assert_eq!(standing(host, PREFIXES[0]).unwrap(), Preferred, "it is of no provider");
    topology.providers[1].set_carrier(true).unwrap();
    wait_for_default_route(host, true);
}

/// Has the advertisements that a host hears written to a file.
fn dump(topology: &Topology, host: &Host) -> (Process, PathBuf) {
    let heard = topology.run.file_directory().unwrap().join("heard");
    let mut dump = Command::new("radvdump");
    let dump = host.netns.spawn(dump.stdout(std::fs::File::create(&heard).unwrap()));
    (dump.unwrap(), heard)
}

#[test]
fn a_restart_withdraws_nothing_and_ends_the_prefix_that_changed_meanwhile() {
    let (topology, mut weir) = site(2, 1);
    let host = &topology.hosts[0];
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    wait_for_default_route(host, true);
    let (_dump, heard) = dump(&topology, host);
    weir.stop_control().unwrap();
    weir.start_control().unwrap();
    let messages = wait::until("advertisements after the start", wait::BOUND, || {
        let text = std::fs::read_to_string(&heard)?;
        Ok((text.matches("AdvDefaultLifetime").count() >= 3).then_some(text))
    });
    let messages = messages.unwrap();
    for line in messages.lines().filter(|line| line.contains("Lifetime")) {
        assert!(!line.trim_end().ends_with(" 0;"), "{messages}");
    }
    weir.kill_control();
    weir.write(&configuration(&topology, PREFIXES[1])).unwrap();
    weir.start_control().unwrap();
    wait_for(host, &[(PREFIXES[0], Deprecated), (PREFIXES[1], Preferred)]);
}

/// Another router, which advertises the LAN's first prefix by an interface until it is dropped.
fn radvd(topology: &Topology, of: &Netns, interface: &str) -> Process {
    let directory = topology.run.file_directory().unwrap();
    let file = directory.join("radvd.conf");
    let text = format!(
        "interface {interface} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
         AdvDefaultLifetime 600; prefix {} {{ }}; }};\n",
        PREFIXES[0]
    );
    std::fs::write(&file, text).unwrap();
    of.sysctl(&[("net/ipv6/conf/all/forwarding", "1")]).unwrap();
    let mut radvd = Command::new("radvd");
    radvd.args(["--nodaemon", "--logmethod", "stderr", "--config"]).arg(&file);
    of.spawn(radvd.arg("--pidfile").arg(directory.join("radvd.pid"))).unwrap()
}

#[test]
fn another_router_in_the_lan_is_told_of_and_keeps_its_prefix() {
    let (topology, weir) = site(2, 2);
    let [host, router] = &topology.hosts[..] else { panic!("two hosts") };
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    let _radvd = radvd(&topology, &router.netns, "eth0");
    wait::until("weir to have heard it", wait::BOUND, || {
        Ok(weir
            .log("weir-control")
            .contains("advertises itself as a router in LAN lan0")
            .then_some(()))
    })
    .unwrap();
    // What the other router offers is not ended when this gateway offers it no more.
    weir.reload(&configuration(&topology, PREFIXES[1])).unwrap();
    wait_for(host, &[(PREFIXES[0], Preferred), (PREFIXES[1], Preferred)]);
    let told = weir.advertised().unwrap().remove(0).prefixes;
    assert_eq!(told.iter().map(|it| it.prefix.to_string()).collect::<Vec<_>>(), [PREFIXES[1]]);
}

#[test]
fn an_advertisement_that_hosts_pass_over_keeps_no_prefix_from_being_ended() {
    let (topology, weir) = site(2, 2);
    let [host, liar] = &topology.hosts[..] else { panic!("two hosts") };
    for host in &topology.hosts {
        wait_for(host, &[(PREFIXES[0], Preferred)]);
    }
    wait_for_default_route(liar, true);
    let gateway = default_router(liar).unwrap().unwrap();
    let own = own(liar, PREFIXES[0]).unwrap().unwrap().address.to_string();
    // To the gateway alone, to routers alone, and from no address of the link (RFC 4861 §6.1.2).
    for (from, to) in [("::", &*gateway), ("::", "ff02::2"), (&own, "ff02::1")] {
        let mut python = Command::new("python3");
        python.args(["-c", LIE, from, to, PREFIXES[0].trim_end_matches("/64")]);
        liar.netns.output(&mut python).unwrap();
    }
    weir.reload(&configuration(&topology, PREFIXES[1])).unwrap();
    wait_for(host, &[(PREFIXES[0], Deprecated), (PREFIXES[1], Preferred)]);
}

/// Tells somebody that this host offers a prefix.
const LIE: &str = "
import socket, struct, sys
source, to, prefix = sys.argv[1:]
index = socket.if_nametoindex('eth0')
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.bind((source, 0))
header = struct.pack('!BBHBBHII', 134, 0, 0, 64, 0, 1800, 0, 0)
option = struct.pack('!BBBBIII', 3, 4, 64, 0xc0, 5400, 2700, 0)
message = header + option + socket.inet_pton(socket.AF_INET6, prefix)
s.sendto(message, (to, 0, 0, index))
";

/// Waits until a host has heard so many advertisements.
fn wait_for_advertisements(host: &Host, wanted: u64) {
    wait::until("advertisements", wait::BOUND, || {
        let counters =
            host.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6"))??;
        let counter =
            |line: &str| line.strip_prefix("Icmp6InRouterAdvertisements")?.trim().parse().ok();
        let heard: u64 = counters.lines().find_map(counter).context("no counter")?;
        Ok((heard >= wanted).then_some(()))
    })
    .unwrap();
}

#[test]
fn another_sender_on_the_gateway_is_told_of_and_takes_no_router_along_when_it_is_stopped() {
    let (topology, weir) = site(1, 1);
    let host = &topology.hosts[0];
    // Those of weir's start, which are sent whoever else sends.
    wait_for_advertisements(host, 3);
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    assert_eq!(weir.advertised().unwrap().remove(0).trouble, None);
    let radvd = radvd(&topology, &topology.gateway, "lan0");
    wait::until("weir to have heard it", wait::BOUND, || {
        let trouble = weir.advertised()?.remove(0).trouble;
        Ok(trouble.filter(|text| text.contains("another program of the gateway's")))
    })
    .unwrap();
    assert!(!weir.log("weir-control").contains("advertises itself as a router"));
    let (_dump, heard) = dump(&topology, host);
    let wait_for_lifetimes = |what: &str, wanted: &[&str]| {
        wait::until(what, wait::BOUND, || {
            let text = std::fs::read_to_string(&heard)?;
            let mut lifetimes =
                text.lines().filter_map(|line| line.trim().strip_prefix("AdvDefaultLifetime "));
            Ok(wanted.iter().all(|it| lifetimes.any(|told| told == *it)).then_some(()))
        })
        .unwrap();
    };
    wait_for_lifetimes("one of its messages", &["600;"]);
    // Its last one says that the gateway is no router any more (RFC 4861 §6.2.5).
    radvd.stop().unwrap();
    wait_for_lifetimes("its last message, and weir's", &["0;", "2700;"]);
    wait_for_default_route(host, true);
}

#[test]
fn hosts_that_are_to_lease_addresses_make_none_and_end_those_that_they_made() {
    let (topology, weir) = site(1, 1);
    let host = &topology.hosts[0];
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    let leased = |prefix: &str| {
        let lease = "ra = { managed = true, autonomous = false, ";
        configuration(&topology, prefix).replace("ra = { ", lease)
    };
    weir.reload(&leased(PREFIXES[0])).unwrap();
    wait_for(host, &[(PREFIXES[0], Deprecated)]);
    weir.reload(&leased(PREFIXES[1])).unwrap();
    let told = ask(host).unwrap();
    for line in [
        "Stateful address conf. : Yes",
        "Router lifetime : 2700",
        "Prefix : 2001:2:0:101::/64 On-link : Yes Autonomous address conf.: No Valid time : 5400",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    wait_for(host, &[(PREFIXES[0], Deprecated), (PREFIXES[1], Absent)]);
    wait_for_default_route(host, true);
}

#[test]
fn of_a_lans_wider_prefix_hosts_are_offered_the_gateways_own_part() {
    let (topology, weir) = site(1, 1);
    let host = &topology.hosts[0];
    wait_for(host, &[(PREFIXES[0], Preferred)]);
    weir.reload(&configuration(&topology, "2001:2:0:100::/60")).unwrap();
    let told = ask(host).unwrap();
    assert!(told.contains("Router lifetime : 2700"), "{told}");
    let part =
        "Prefix : 2001:2:0:100::/64 On-link : Yes Autonomous address conf.: Yes Valid time : 5400";
    assert!(told.contains(part), "{told}");
}
