//! Prefixes that providers delegate, by real programs: a DHCPv6 server of each provider (Kea), the
//! gateway's client (dhcpcd) with the hook that weir ships, and Linux hosts that make addresses of
//! what they are told. rdisc6 reads what they are told too, and knows nothing of weir.

use std::net::Ipv6Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use weir_api::{DelegatedView, Request};
use weir_kit::delegation::{self, Server};
use weir_kit::ipv6::{self, SERVER, of_pool};
use weir_kit::plan::Plan;
use weir_kit::probed::QUICK;
use weir_kit::process::Process;
use weir_kit::slaac::Standing::{Absent, Deprecated, Preferred};
use weir_kit::slaac::{self, Own, Standing};
use weir_kit::topology::{Host, Topology};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, nginx, wait};
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};

const PROVIDERS: usize = 2;
/// A site whose uplinks have this for `ipv6`.
fn configuration(topology: &Topology, lan: &str, ipv6: &str) -> String {
    let (lan, ipv6) = (format!("{lan}\n"), format!("ipv6 = {{ {ipv6} }}\n"));
    Weir::configuration_with(topology, &[1; PROVIDERS], &lan, |_| ipv6.clone())
}

/// A site by source, with providers that delegate, a client that asks, and hosts that have heard.
struct Site {
    topology: Topology,
    weir: Weir,
    servers: Vec<Server>,
    _client: Process,
}

const BY_SOURCE: &str = "translate = \"source\", prefixes = \"delegated\"";

fn site(hosts: usize) -> Site {
    // A router whose port is cut would forget its addresses with it.
    let plan = Plan { lines: vec![0], ..Plan::new(PROVIDERS, hosts) };
    let topology = Topology::build(plan).unwrap();
    ipv6::add_pools(&topology).unwrap();
    let lan = "prefixes = [\"10.77.0.0/16\"]\nra = {}";
    let weir = Weir::start(&topology, &configuration(&topology, lan, BY_SOURCE)).unwrap();
    let server = |it| Server::start(&topology, it, &of_pool(it, 1)).unwrap();
    let servers = (0..PROVIDERS).map(server).collect();
    let client = delegation::client(&topology, &weir, true).unwrap();
    let site = Site { topology, weir, servers, _client: client };
    site.weir.wait_until_usable_in(Family::V6, &[0, 1]).with_context(|| site.words()).unwrap();
    for host in &site.topology.hosts {
        site.wait_for(host, &[(0, 1, Preferred), (1, 1, Preferred)]);
        for provider in 0..PROVIDERS {
            let own = site.own(host, provider, 1);
            site.wait_for_answers(host, own.address);
        }
    }
    site
}

/// The LAN's part of a provider's prefix.
fn part(provider: usize, number: u8) -> String {
    of_pool(provider, number).replace("00::/56", "01::/64")
}

impl Site {
    /// What is to be known where something does not come about.
    fn words(&self) -> String {
        let directory = self.topology.run.file_directory().unwrap();
        let read = |name: &str| {
            let text = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(30).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            format!("{name}:\n{}\n", lines.join("\n"))
        };
        let logs = ["dhcpcd/log", "kea0/log", "kea1/log", "weir-control.log"].map(read).concat();
        let mut routes = Command::new("ip");
        let routes = self.topology.gateway.output(routes.args(["-6", "route"]));
        let uplinks = self.weir.cli(&["uplinks"]).unwrap().output();
        let text = |output: Result<std::process::Output>| {
            output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned()).unwrap_or_default()
        };
        format!("{logs}{}\n{}", text(routes), text(uplinks.map_err(Into::into)))
    }

    fn wait_for(&self, host: &Host, wanted: &[(usize, u8, Standing)]) {
        let is = |(provider, number, wanted): &(usize, u8, Standing)| {
            Ok(slaac::standing(host, &part(*provider, *number))? == *wanted)
        };
        wait::until("a host to obey", wait::BOUND, || {
            let all: Result<Vec<bool>> = wanted.iter().map(is).collect();
            Ok(all?.iter().all(|it| *it).then_some(()))
        })
        .with_context(|| format!("wanted {wanted:?}\n{}", self.words()))
        .unwrap();
    }

    fn own(&self, host: &Host, provider: usize, number: u8) -> Own {
        slaac::own(host, &part(provider, number)).unwrap().expect("an address")
    }

    fn wait_for_answers(&self, host: &Host, from: Ipv6Addr) {
        wait::until("answers from the Internet", wait::BOUND, || {
            Ok(ping(host, Some(from)).then_some(()))
        })
        .with_context(|| self.words())
        .unwrap();
    }

    /// Waits until three seconds have passed since the host heard the last advertisement: the link may
    /// have another.
    fn wait_for_silence(&self, host: &Host, provider: usize) {
        wait::until("no advertisements", wait::BOUND, || {
            Ok((self.own(host, provider, 1).valid_s <= 5400 - 4).then_some(()))
        })
        .unwrap();
    }
}

/// Is a question answered that a host asks, from this address or from the one that it chooses?
fn ping(host: &Host, from: Option<Ipv6Addr>) -> bool {
    let ping = match from {
        Some(from) => clients::ping_from(&host.netns, from, SERVER, 1),
        None => clients::ping(&host.netns, SERVER, 1),
    };
    // A host that has no address yet cannot ask.
    ping.is_ok_and(|ping| ping.received == 1)
}

/// The prefixes of an uplink.
fn prefixes(views: &[DelegatedView], uplink: usize) -> Vec<String> {
    views[uplink].prefixes.iter().map(|it| it.prefix.to_string()).collect()
}

#[test]
fn a_lost_provider_has_its_prefix_deprecated_and_preferred_when_it_is_back() {
    let site = site(1);
    let host = &site.topology.hosts[0];
    let told = slaac::ask(host).unwrap();
    for provider in 0..PROVIDERS {
        let line = format!("Prefix : {} On-link : Yes", part(provider, 1));
        assert!(told.contains(&line), "{line}: {told}");
    }
    assert!(told.contains("Router lifetime : 2700"), "{told}");
    site.wait_for_silence(host, 0);
    let cut = site.topology.providers[0].cutter().unwrap();
    let at = Instant::now();
    cut().unwrap();
    site.wait_for(host, &[(0, 1, Deprecated), (1, 1, Preferred)]);
    let deprecated = at.elapsed();
    wait::until("a new connection", wait::BOUND, || Ok(ping(host, None).then_some(()))).unwrap();
    let elsewhere = at.elapsed();
    println!("deprecated after {deprecated:?}, a new connection after {elsewhere:?}");
    let told = slaac::ask(host).unwrap();
    assert!(told.contains("Router lifetime : 2700"), "another provider is left: {told}");
    assert_eq!(prefixes(&site.weir.delegated().unwrap(), 0), [of_pool(0, 1)], "it is its still");

    site.topology.providers[0].set_carrier(true).unwrap();
    site.wait_for(host, &[(0, 1, Preferred), (1, 1, Preferred)]);
    site.wait_for_answers(host, site.own(host, 0, 1).address);
    for provider in &site.topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_prefix_that_changes_in_use_is_replaced_at_once_and_a_host_that_slept_learns_it_when_it_wakes()
{
    let mut site = site(2);
    let directory = site.topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&site.topology.internet, &directory).unwrap();
    std::fs::write(directory.join("files/large"), vec![7; 64 << 20]).unwrap();
    let [host, sleeper] = &site.topology.hosts[..] else { panic!("two hosts") };
    sleeper.netns.nft(ASLEEP).unwrap();
    let own = site.own(host, 0, 1);
    // What waits in its buffer is read, at the rate, before a reset is seen.
    host.netns.sysctl(&[("net/ipv4/tcp_rmem", "4096 65536 65536")]).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--limit-rate", "100k", "--output", "/dev/null"]);
    curl.args(["--interface", &own.address.to_string()]);
    curl.arg(format!("http://[{SERVER}]:{}/large", nginx::PORT));
    let mut download = host.netns.spawn(curl.stderr(Stdio::piped())).unwrap();
    wait::until("a connection", wait::BOUND, || {
        let mut ss = Command::new("ss");
        let output = host.netns.output(ss.args(["-6", "-t", "-n", "state", "established"]))?;
        Ok(String::from_utf8(output.stdout)?.contains(&own.address.to_string()).then_some(()))
    })
    .unwrap();

    for number in [2, 3] {
        site.servers[0].delegate(&of_pool(0, number)).unwrap();
        let (host, before) = (&site.topology.hosts[0], number - 1);
        site.wait_for(host, &[(0, number, Preferred), (0, before, Deprecated), (1, 1, Preferred)]);
        site.wait_for_answers(host, site.own(host, 0, number).address);
        assert_eq!(prefixes(&site.weir.delegated().unwrap(), 0), [of_pool(0, number)]);
    }
    let status =
        wait::until("the end of the download", wait::BOUND, || Ok(download.child().try_wait()?));
    assert!(!status.unwrap().success(), "its address is nobody's");
    let [host, sleeper] = &site.topology.hosts[..] else { panic!("two hosts") };
    site.wait_for(host, &[(0, 1, Deprecated), (0, 2, Deprecated)]);

    assert_eq!(slaac::standing(sleeper, &part(0, 1)).unwrap(), Preferred, "it has heard nothing");
    sleeper.netns.nft("delete table ip6 asleep").unwrap();
    let told = slaac::ask(sleeper).unwrap();
    for number in [1, 2] {
        let line = format!(
            "Prefix : {} On-link : Yes Autonomous address conf.: Yes Valid time : 0",
            part(0, number)
        );
        assert!(told.contains(&line), "{line}: {told}");
    }
    site.wait_for(sleeper, &[(0, 1, Deprecated), (0, 2, Absent), (0, 3, Preferred)]);
    site.wait_for_answers(sleeper, site.own(sleeper, 0, 3).address);
    for provider in &site.topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_path_whose_prefix_its_provider_routes_no_more_is_down_though_the_link_is_well() {
    let topology = Topology::build(Plan::new(PROVIDERS, 1)).unwrap();
    ipv6::add_pools(&topology).unwrap();
    let target = format!(
        "[health]\n{QUICK}\
         targets = [{{ name = \"server\", probe = \"icmp\", address = \"{SERVER}\" }}]\n"
    );
    let file = configuration(&topology, "", BY_SOURCE) + &target;
    let weir = Weir::start(&topology, &file).unwrap();
    for provider in 0..PROVIDERS {
        let own = part(provider, 1).replace("/64", "1/64");
        topology.gateway.ip(&format!("addr add {own} dev lan0 nodad\n")).unwrap();
        weir.request(&set(provider, &of_pool(provider, 1), 3600)).unwrap();
    }
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    route_only(&topology, 0, &of_pool(0, 2));
    wait::until("the path to be down", wait::BOUND, || {
        let state = weir.control()?.path_state(PathId::new(0, Family::V6));
        Ok((state & path_state::USABLE == 0).then_some(()))
    })
    .unwrap();
    weir.wait_until_usable_in(Family::V6, &[1]).unwrap();
    route_only(&topology, 0, &of_pool(0, 1));
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
}

/// A host that hears nothing of routers.
const ASLEEP: &str = "table ip6 asleep {
    chain input {
        type filter hook input priority 0
        icmpv6 type nd-router-advert drop
    }
}";

const INSIDE: &str = "prefixes = [\"10.77.0.0/16\", \"fd00:2:0:100::/64\"]";
const NPT: &str = "translate = \"npt66\", prefix = \"delegated\"";

/// A site whose LAN's prefix is translated to what is delegated.
fn translated() -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(PROVIDERS, 1)).unwrap();
    ipv6::add_pools(&topology).unwrap();
    let inside = ipv6::inside(ipv6::LAN_GATEWAY);
    topology.gateway.ip(&format!("addr add {inside}/64 dev lan0 nodad\n")).unwrap();
    let own = ipv6::inside(ipv6::host(0));
    let lines = format!("addr add {own}/64 dev eth0 nodad\nroute add default via {inside}\n");
    topology.hosts[0].netns.ip(&lines).unwrap();
    let weir = Weir::start(&topology, &configuration(&topology, INSIDE, NPT)).unwrap();
    (topology, weir)
}

fn set(uplink: usize, prefix: &str, valid_s: u32) -> Request {
    let (uplink, prefix) = (UPLINKS[uplink].to_owned(), prefix.parse().unwrap());
    Request::SetPrefix { uplink, prefix, valid_s: Some(valid_s), preferred_s: Some(valid_s) }
}

/// Has a provider route none of its prefixes to the gateway but this.
fn route_only(topology: &Topology, provider: usize, prefix: &str) {
    let via = ipv6::link(provider, 2);
    let lines = format!(
        "route replace unreachable {}\nroute replace {prefix} via {via}\n",
        ipv6::pool(provider)
    );
    topology.providers[provider].netns.ip(&lines).unwrap();
}

#[test]
fn a_lans_prefix_is_translated_to_what_is_delegated_by_the_client_and_its_hook() {
    let (topology, weir) = translated();
    let mut servers: Vec<_> =
        (0..PROVIDERS).map(|it| Server::start(&topology, it, &of_pool(it, 1)).unwrap()).collect();
    let _client = delegation::client(&topology, &weir, false).unwrap();
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let host = &topology.hosts[0];
    wait::until("answers", wait::BOUND, || Ok(ping(host, None).then_some(()))).unwrap();
    for (provider, server) in servers.iter_mut().enumerate() {
        server.delegate(&of_pool(provider, 2)).unwrap();
        wait::until("another prefix", wait::BOUND, || {
            let known = prefixes(&weir.delegated()?, provider);
            Ok((known == [of_pool(provider, 2)]).then_some(()))
        })
        .unwrap();
        // What comes to the one before goes nowhere.
        route_only(&topology, provider, &of_pool(provider, 2));
    }
    wait::until("answers to the new prefixes", wait::BOUND, || {
        Ok(((0..8).all(|_| ping(host, None))).then_some(()))
    })
    .unwrap();
    for provider in &topology.providers {
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_prefix_outlives_the_process_and_takes_the_path_down_when_its_time_is_over() {
    let (topology, mut weir) = translated();
    let view = |weir: &Weir| prefixes(&weir.delegated().unwrap(), 0);
    assert_eq!(view(&weir), [""; 0]);
    weir.request(&set(0, &of_pool(0, 1), 3600)).unwrap();
    weir.request(&set(1, &of_pool(1, 1), 3600)).unwrap();
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let refused = weir.request(&set(1, &of_pool(0, 1), 3600)).unwrap_err().to_string();
    assert!(refused.contains("weir prefix fiber del"), "{refused}");
    let longer = Request::SetPrefix {
        uplink: "fiber".into(),
        prefix: of_pool(0, 1).parse().unwrap(),
        valid_s: Some(1),
        preferred_s: None,
    };
    assert!(weir.request(&longer).unwrap_err().to_string().contains("preferred for longer"));

    weir.kill_control();
    weir.start_control().unwrap();
    assert_eq!(view(&weir), [of_pool(0, 1)]);
    weir.wait_until_usable_in(Family::V6, &[0, 1]).unwrap();
    let host = &topology.hosts[0];
    wait::until("answers", wait::BOUND, || Ok(ping(host, None).then_some(()))).unwrap();

    weir.request(&set(0, &of_pool(0, 1), 1)).unwrap();
    wait::until("the end of a prefix", wait::BOUND, || Ok((view(&weir).is_empty()).then_some(())))
        .unwrap();
    assert!(weir.log("weir-control").contains("was not renewed and has ended"));
    wait::until("answers by the other", wait::BOUND, || {
        Ok(((0..8).all(|_| ping(host, None))).then_some(()))
    })
    .unwrap();
    assert_eq!(topology.providers[0].foreign_sources().unwrap(), 0);
    weir.check_conservation().unwrap();
}
