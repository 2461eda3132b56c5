//! Addresses and routes of the gateway that are not those of the Internet: whose they are, and who
//! may be sent by which.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Command, Stdio};
use std::time::Duration;

use weir_health::target::Status;
use weir_kit::capture::{Capture, Tally};
use weir_kit::long_flows::LongFlows;
use weir_kit::plan::{Lan, Plan};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::udp_flows::Sender;
use weir_kit::weir::Weir;
use weir_kit::{clients, udp_flows, wait};
use weir_layout::control::{host_class, path_state};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const ICMP: u8 = 1;
/// A modem's page, on a network that an uplink leads to.
const MODEM: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 1);
const AT_MODEM: SocketAddrV4 = SocketAddrV4::new(MODEM, ECHO_PORT);

fn site(plan: Plan) -> (Topology, Server, Weir) {
    let weights = vec![1; plan.uplinks.len()];
    let topology = Topology::build(plan).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &weights)).unwrap();
    (topology, server, weir)
}

fn stop(captures: Vec<Capture>) -> Vec<Tally> {
    captures.into_iter().map(|capture| capture.stop().unwrap()).collect()
}

/// Waits until a prefix has this class, 0 for none.
fn until_class(weir: &Weir, prefix: ([u8; 4], u8), class: u32) {
    wait::until(&format!("class {class} of {prefix:?}"), wait::BOUND, || {
        let found = weir.hosts()?.get(&prefix).copied().unwrap_or(0);
        Ok((found == class).then_some(()))
    })
    .unwrap();
}

#[test]
fn addresses_that_are_for_the_link_alone_are_no_sources() {
    let (topology, _server, weir) = site(Plan::new(2, 3));
    // The network of a modem's page, one of RFC 3927, a virtual address, one that is given up.
    topology
        .gateway
        .ip("addr add 192.168.100.2/24 dev wan0\n\
             addr add 169.254.9.9/16 dev wan0\n\
             addr add 100.64.0.77/32 dev wan0\n\
             addr add 100.64.0.78/24 dev wan0 valid_lft 1000 preferred_lft 0\n")
        .unwrap();
    until_class(&weir, ([100, 64, 0, 78], 32), host_class::LOCAL);
    let captures = Capture::at_providers(&topology).unwrap();
    let report = udp_flows::run(&topology.hosts, ECHO, 200).unwrap();
    assert_eq!((report.sent, report.answered), (600, 600));
    for (provider, tally) in topology.providers.iter().zip(stop(captures)) {
        let sources = tally.sources_to(SERVER);
        let sources: Vec<_> = sources.keys().collect();
        assert_eq!(sources, provider.addresses.iter().collect::<Vec<_>>());
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn what_the_kernel_sends_by_no_uplink_leaves_by_none() {
    const SITE_B: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
    const REFUSED: [Ipv4Addr; 3] =
        [Ipv4Addr::new(172, 16, 0, 1), Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(192, 0, 2, 77)];
    let (topology, _server, weir) = site(Plan::new(2, 1));
    let (gateway, internet) = (&topology.gateway, &topology.internet);
    let link = format!(
        "link add vpn0 netns {} type veth peer name vpn0 netns {}\n",
        gateway.name(),
        internet.name()
    );
    topology.run.ip(&link).unwrap();
    let host = &topology.hosts[0];
    internet
        .ip(&format!(
            "addr add {SITE_B}/32 dev lo\naddr add 10.99.0.2/24 dev vpn0\nlink set vpn0 up\n\
             route add {} via 10.99.0.1\n",
            host.address
        ))
        .unwrap();
    // A VPN's table as strongSwan has it, with what it leaves out, and routes that refuse.
    gateway
        .ip("addr add 10.99.0.1/24 dev vpn0\n\
             link set vpn0 up\n\
             rule add priority 220 lookup 220\n\
             route add 172.20.0.0/16 via 10.99.0.2 dev vpn0 table 220\n\
             route add 198.51.100.0/24 via 10.99.0.2 dev vpn0 table 220\n\
             route add throw 198.51.100.1/32 table 220\n\
             rule add to 192.0.2.64/26 prohibit\n\
             route add unreachable 172.16.0.0/12\n\
             route add blackhole 203.0.113.0/24\n")
        .unwrap();
    until_class(&weir, ([203, 0, 113, 0], 24), host_class::KERNEL);
    until_class(&weir, ([172, 20, 0, 0], 16), host_class::KERNEL);
    until_class(&weir, ([192, 0, 2, 64], 26), host_class::KERNEL);
    let captures = Capture::at_providers(&topology).unwrap();
    let by_vpn = clients::ping(&host.netns, SITE_B, 5).unwrap();
    assert_eq!(by_vpn.received, 5);
    for address in REFUSED {
        assert_eq!(clients::ping(&host.netns, address, 5).unwrap().received, 0);
    }
    // Left out of the VPN.
    assert_eq!(udp_flows::run(&topology.hosts, ECHO, 50).unwrap().answered, 50);
    for tally in stop(captures) {
        assert!(!tally.sources_to(SERVER).is_empty());
        for address in REFUSED.into_iter().chain([SITE_B]) {
            assert_eq!(tally.flows_to(address, ICMP).len(), 0, "{address} at a provider");
        }
    }
    weir.check_conservation().unwrap();
}

/// As a DHCP client that renews: the same address and route, some time later.
fn renew(topology: &Topology, away: Duration) {
    let provider = &topology.providers[0];
    let (address, next_hop) = (provider.addresses[0], provider.next_hop);
    let device = provider.interface();
    topology.gateway.ip(&format!("addr del {address}/24 dev {device}\n")).unwrap();
    std::thread::sleep(away);
    let back = format!(
        "addr add {address}/24 dev {device}\n\
         route replace default via {next_hop} dev {device} metric 100\n"
    );
    topology.gateway.ip(&back).unwrap();
}

#[test]
fn an_address_that_is_away_for_a_moment_ends_no_flow_and_is_no_flap() {
    const FLOWS: usize = 20;
    let (topology, _server, weir) = site(Plan::new(2, 1));
    let mut flows = LongFlows::open(&topology.hosts[0], ECHO, FLOWS).unwrap();
    let all = |flows: &mut LongFlows, when: &str| {
        let alive = flows.ask();
        assert_eq!((alive.tcp, alive.udp, alive.reset), (FLOWS, FLOWS, 0), "{when}");
    };
    all(&mut flows, "before");
    let known = weir.history().unwrap().len();
    for away in [0, 50, 900] {
        renew(&topology, Duration::from_millis(away));
        all(&mut flows, &format!("{away} ms without it"));
    }
    // The route alone.
    topology.gateway.ip("route del default dev wan0\n").unwrap();
    all(&mut flows, "without a route");
    renew(&topology, Duration::ZERO);
    all(&mut flows, "after all");
    let history = weir.history().unwrap();
    assert_eq!(history.len(), known, "{history:?}");
    weir.check_conservation().unwrap();
}

#[test]
fn a_command_that_uses_an_uplink_sends_nothing_by_another_while_weir_control_restarts() {
    const PINGS: usize = 60;
    let (topology, _server, mut weir) = site(Plan::new(2, 1));
    let captures = Capture::at_providers(&topology).unwrap();
    let count = PINGS.to_string();
    let arguments =
        ["use", "cable", "--", "ping", "-n", "-q", "-i", "0.1", "-W", "2", "-c", &count];
    let mut command = weir.cli(&arguments).unwrap();
    command.arg(SERVER.to_string()).stdout(Stdio::piped());
    let mut ping = topology.gateway.spawn(&mut command).unwrap();
    // From then on nothing is asked of the control process.
    let name = format!("/proc/{}/comm", ping.child().id());
    wait::until("the command to have begun", wait::BOUND, || {
        Ok((std::fs::read_to_string(&name)? == "ping\n").then_some(()))
    })
    .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    weir.kill_control();
    std::thread::sleep(Duration::from_millis(500));
    weir.start_control().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    weir.stop_control().unwrap();
    std::thread::sleep(Duration::from_millis(1000));
    weir.start_control().unwrap();
    assert!(ping.child().wait().unwrap().success());
    let tallies = stop(captures);
    let echoes = |tally: &Tally| tally.flows_to(SERVER, ICMP).len();
    assert_eq!(tallies.iter().map(echoes).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(tallies[1].sources_to(SERVER).values().sum::<u64>(), PINGS as u64);
    weir.check_conservation().unwrap();
}

#[test]
fn what_one_uplink_leads_to_is_reached_by_it_alone() {
    /// A telephone server that the provider routes.
    const SIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
    let (topology, _server, weir) = site(Plan::new(2, 2));
    let provider = &topology.providers[0];
    let next_hop = provider.next_hop;
    let modem = format!("addr add {MODEM}/24 dev {TOWARDS_GATEWAY}\naddr add {SIP}/32 dev lo\n");
    provider.netns.ip(&modem).unwrap();
    let on_link = format!("iifname {TOWARDS_GATEWAY} ip saddr 192.168.100.0/24 accept");
    provider.netns.nft(&format!("insert rule inet bench ingress {on_link}\n")).unwrap();
    topology
        .gateway
        .ip(&format!(
            "addr add 192.168.100.2/24 dev wan0\n\
             route add 203.0.113.0/24 via {next_hop} dev wan0\n"
        ))
        .unwrap();
    until_class(&weir, ([192, 168, 100, 0], 24), host_class::NEAR);
    until_class(&weir, ([203, 0, 113, 0], 24), host_class::NEAR);
    topology.gateway.wait_for_rules(&["192.168.100.0/24", "203.0.113.0/24"]).unwrap();
    let ports: Vec<_> = [MODEM, SIP].map(|a| Server::start(&provider.netns, a).unwrap()).into();
    let captures = Capture::at_providers(&topology).unwrap();
    for host in &topology.hosts {
        for address in [MODEM, SIP, next_hop] {
            assert_eq!(clients::ping(&host.netns, address, 5).unwrap().received, 5, "{address}");
        }
    }
    for address in [MODEM, SIP] {
        let echo = SocketAddrV4::new(address, ECHO_PORT);
        let report = udp_flows::run(&topology.hosts, echo, 100).unwrap();
        assert_eq!((report.sent, report.answered), (200, 200), "{address}");
    }
    drop(ports);
    let tallies = stop(captures);
    let sources = |address| tallies[0].sources_to(address).into_keys().collect::<Vec<_>>();
    assert_eq!(sources(MODEM), [Ipv4Addr::new(192, 168, 100, 2)]);
    assert_eq!(sources(SIP), provider.addresses);
    for address in [MODEM, SIP] {
        assert!(tallies[1].sources_to(address).is_empty(), "{address} by the other provider");
    }
    // Others do not get there by the gateway, nor from there to a LAN.
    let ([near, far], host) = ([provider, &topology.providers[1]], &topology.hosts[0]);
    let at_near = Capture::start(&near.netns, TOWARDS_GATEWAY).unwrap();
    let at_host = Capture::start(&host.netns, "eth0").unwrap();
    for (from, prefix, to) in
        [(far, "192.168.100.0/24", MODEM), (near, "10.0.0.0/16", host.address)]
    {
        let route = format!("route add {prefix} via {}\n", from.addresses[0]);
        from.netns.ip(&route).unwrap();
        assert_eq!(clients::ping(&from.netns, to, 5).unwrap().received, 0, "{to}");
    }
    assert!(at_near.stop().unwrap().sources_to(MODEM).is_empty());
    assert!(at_host.stop().unwrap().sources_to(host.address).is_empty());
    weir.check_conservation().unwrap();
}

#[test]
fn who_asks_from_another_uplinks_link_is_answered_by_the_uplink_that_it_asks() {
    let (topology, _server, weir) = site(Plan::new(2, 1));
    let [asked, other] = [&topology.providers[0], &topology.providers[1]];
    let [a, b, c, _] = other.next_hop.octets();
    let asker = Ipv4Addr::new(a, b, c, 99);
    asked.netns.ip(&format!("addr add {asker}/32 dev lo\n")).unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    // Sent by the kernel itself, and by a socket of the gateway's that names the address.
    let answers = clients::ping_from(&asked.netns, asker, asked.addresses[0], 3).unwrap();
    let gateway = &topology.gateway;
    let asks = clients::ping_from(gateway, asked.addresses[0], asker, 3).unwrap();
    assert_eq!([answers.received, asks.received], [3, 3]);
    // What is from the other's address, or from none, finds its link as before.
    let near = clients::ping_from(gateway, other.addresses[0], other.next_hop, 3).unwrap();
    assert_eq!(near.received, 3);
    assert_eq!(clients::ping(gateway, other.next_hop, 3).unwrap().received, 3);
    let tallies = stop(captures);
    assert!(tallies[1].sources_to(asker).is_empty(), "by its link");
    assert_eq!(tallies[0].sources_to(asker).into_keys().collect::<Vec<_>>(), asked.addresses);
    weir.check_conservation().unwrap();
}

/// A site with two hosts, each in a LAN of its own, of which each may have so many flows; and a
/// modem that the first uplink leads to.
fn beside_a_modem(limit: usize) -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan { lan: Lan::Direct, ..Plan::new(2, 2) }).unwrap();
    let file = Weir::configuration(&topology, &[1, 1]);
    let weir =
        Weir::start(&topology, &format!("[limits]\nflows_per_host = {limit}\n{file}")).unwrap();
    let provider = &topology.providers[0];
    provider.netns.ip(&format!("addr add {MODEM}/24 dev {TOWARDS_GATEWAY}\n")).unwrap();
    let on_link = format!("iifname {TOWARDS_GATEWAY} ip saddr 192.168.100.0/24 accept");
    provider.netns.nft(&format!("insert rule inet bench ingress {on_link}\n")).unwrap();
    topology.gateway.ip("addr add 192.168.100.2/24 dev wan0\n").unwrap();
    until_class(&weir, ([192, 168, 100, 0], 24), host_class::NEAR);
    topology.gateway.wait_for_rules(&["192.168.100.0/24"]).unwrap();
    let modem = Server::start(&provider.netns, MODEM).unwrap();
    (topology, modem, weir)
}

#[test]
fn a_host_takes_no_more_of_the_kernels_ports_to_what_an_uplink_leads_to_than_it_may_have_flows() {
    const LIMIT: usize = 50;
    let (topology, _modem, weir) = beside_a_modem(LIMIT);
    let [greedy, other] = [&topology.hosts[..1], &topology.hosts[1..]];
    let report = udp_flows::run(greedy, AT_MODEM, 6 * LIMIT).unwrap();
    assert!((1..=LIMIT).contains(&report.answered), "{}", report.answered);
    let report = udp_flows::run(other, AT_MODEM, LIMIT / 2).unwrap();
    assert_eq!(report.answered, report.sent, "others have theirs");
    weir.check_conservation().unwrap();
}

#[test]
fn who_sends_in_the_name_of_another_lans_host_takes_nothing_of_what_that_may_have() {
    const LIMIT: usize = 50;
    let (topology, _modem, weir) = beside_a_modem(LIMIT);
    let [liar, victim] = [&topology.hosts[0], &topology.hosts[1]];
    liar.netns.ip(&format!("addr add {}/32 dev lo\n", victim.address)).unwrap();
    let at_modem = Capture::start(&topology.providers[0].netns, TOWARDS_GATEWAY).unwrap();
    let sender = Sender { netns: &liar.netns, source: victim.address.into(), flows: 3 * LIMIT };
    assert_eq!(udp_flows::run_by(&[sender], AT_MODEM.into(), 20_000).unwrap().answered, 0);
    assert!(at_modem.stop().unwrap().sources_to(MODEM).is_empty());
    // One after the other: of two that begin at once from one port, to which the kernel gives one
    // port outside on either processor, it drops one (nf_conntrack's clash).
    for host in &topology.hosts {
        let report = udp_flows::run(std::slice::from_ref(host), AT_MODEM, LIMIT / 2).unwrap();
        assert_eq!(report.answered, report.sent, "each has its own");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_command_that_uses_an_uplink_sends_nothing_by_the_device_of_another() {
    let (topology, _server, weir) = site(Plan::new(2, 1));
    // Takes what a bound socket believes to be on the link.
    let proxy = [(format!("net/ipv4/conf/{TOWARDS_GATEWAY}/proxy_arp"), "1")];
    let proxy = proxy.each_ref().map(|(key, value)| (key.as_str(), *value));
    topology.providers[0].netns.sysctl(&proxy).unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    let ping = |device: &str| {
        let ping = ["use", "cable", "--", "ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1"];
        let mut command = weir.cli(&ping).unwrap();
        command.args(["-I", device]).arg(SERVER.to_string());
        topology.gateway.output(&mut command).is_ok()
    };
    assert!(!ping("wan0"));
    assert!(ping("wan1"));
    let tallies = stop(captures);
    let echoes = |tally: &Tally| tally.sources_to(SERVER).values().sum::<u64>();
    assert_eq!(tallies.iter().map(echoes).collect::<Vec<_>>(), [0, 3]);
    weir.check_conservation().unwrap();
}

#[test]
fn a_vpn_that_takes_what_the_gateway_sends_takes_no_probes_and_no_commands() {
    const PROBED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    let topology = Topology::build(Plan { servers: 2, ..Plan::new(2, 1) }).unwrap();
    let _server = Server::start(&topology.internet, SERVER).unwrap();
    let target = format!(
        "[health]\ninterval_ms = 100\ntimeout_ms = 1000\nwindow = 1000\n\
         [[health.targets]]\nname = \"probed\"\nprobe = \"icmp\"\naddress = \"{PROBED}\"\n"
    );
    let configuration = Weir::configuration(&topology, &[1, 1]) + &target;
    let weir = Weir::start(&topology, &configuration).unwrap();
    let gateway = &topology.gateway;
    // As wg-quick has them, without priorities: before all rules there are.
    gateway
        .ip("link add wg0 type veth peer name far-wg0\n\
             addr add 10.66.0.1/32 dev wg0\n\
             link set far-wg0 up\n\
             link set wg0 arp off up\n\
             rule add not fwmark 51820 table 51820\n\
             rule add table main suppress_prefixlength 0\n\
             route add default dev wg0 table 51820\n")
        .unwrap();
    let rules = || {
        let output = gateway.output(Command::new("ip").args(["rule", "show"]))?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    wait::until("weir's rules to go first", wait::BOUND, || {
        let rules = rules()?;
        let first = rules.lines().find(|rule| !rule.contains("lookup local"));
        Ok(first.is_some_and(|rule| rule.contains("fwmark 0x776569")).then_some(()))
    })
    .unwrap();
    let (providers, vpn) =
        (Capture::at_providers(&topology).unwrap(), Capture::start(gateway, "wg0").unwrap());
    let use_cable = || {
        let ping = ["use", "cable", "--", "ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1"];
        let mut command = weir.cli(&ping).unwrap();
        assert!(gateway.output(command.arg(SERVER.to_string())).is_ok());
    };
    use_cable();
    let answers = |uplink: usize| {
        let target = &weir.health().unwrap()[uplink].ipv4.targets[0];
        assert_eq!((target.status, target.figures.loss_percent.window), (Status::Answering, 0.0));
        target.figures.probes
    };
    let before = [0, 1].map(answers);
    wait::until("more answers", wait::BOUND, || {
        Ok((0..2).all(|uplink| answers(uplink) > before[uplink] + 3).then_some(()))
    })
    .unwrap();
    // As wg-quick goes down.
    gateway.ip("rule del table 51820\n").unwrap();
    while rules().unwrap().contains("from all lookup main suppress_prefixlength 0") {
        gateway.ip("rule del table main suppress_prefixlength 0\n").unwrap();
    }
    use_cable();
    let echoes = |tally: &Tally, to| tally.sources_to(to).values().sum::<u64>();
    let at_vpn = vpn.stop().unwrap();
    assert_eq!([SERVER, PROBED].map(|to| echoes(&at_vpn, to)), [0, 0]);
    let tallies = stop(providers);
    assert_eq!([0, 1].map(|n| echoes(&tallies[n], SERVER)), [0, 6]);
    assert!(tallies.iter().all(|tally| echoes(tally, PROBED) > 0));
    let usable = |state: &u32| state & path_state::USABLE != 0;
    assert!(weir.states().unwrap()[..2].iter().all(usable));
    weir.check_conservation().unwrap();
}
