//! Ports that hosts of LANs ask for, by clients that are not ours: natpmpc (NAT-PMP) and crab_nat
//! (PCP). Two providers, and two hosts, each in a LAN of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::process::Command;
use std::time::Duration;

use crab_nat::pcp::{BaseMapRequest, Failure};
use crab_nat::{
    GatewayAddress, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
};
use serde_json::Value;
use weir_kit::ipv6::{self, Mode};
use weir_kit::long_flows::{Alive, LongFlows};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Lan, Plan};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::{Host, Topology};
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::control::path_state;
use weir_wire::npt;

const PROVIDERS: usize = 2;
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SERVER_PORT: u16 = 5351;
const CLIENT_PORT: u16 = 5350;
/// The port outside that the echo is to have.
const ECHO: u16 = 20_007;
/// What silence is taken for none.
const SILENCE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);

struct Site {
    topology: Topology,
    weir: Weir,
    _server: Server,
}

impl Site {
    /// With these keys of `[port_mapping]`. Hosts of the first LAN may ask.
    fn with(keys: &str) -> Self {
        let plan = Plan { lan: Lan::Direct, ..Plan::new(PROVIDERS, 2) };
        let topology = Topology::build(plan).unwrap();
        let host = &topology.hosts[0];
        let server = Server::start(&host.netns, host.address).unwrap();
        let lan = "port_mapping = true";
        let none = |_| String::new();
        let text = Weir::configuration_with(&topology, &[2, 1], lan, none);
        let weir = Weir::start(&topology, &format!("{text}[port_mapping]\n{keys}\n")).unwrap();
        Self { topology, weir, _server: server }
    }

    fn host(&self) -> &Host {
        &self.topology.hosts[0]
    }

    /// What natpmpc says on a host.
    fn natpmpc(&self, host: &Host, arguments: &[&str]) -> String {
        let gateway = plan::lan_gateway(host.port).to_string();
        let mut command = Command::new("natpmpc");
        command.args(["-g", &gateway]).args(arguments);
        let output = host.netns.output(&mut command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Maps the host's echo of UDP by NAT-PMP.
    fn map_echo(&self, lifetime: &str) {
        let (outside, inside) = (ECHO.to_string(), ECHO_PORT.to_string());
        let said = self.natpmpc(self.host(), &["-a", &outside, &inside, "udp", lifetime]);
        assert!(said.contains(&format!("Mapped public port {ECHO} ")), "{said}");
    }

    /// Maps the host's echo of TCP by PCP.
    fn map_echo_of_tcp(&self) -> PortMapping {
        let host = self.host();
        let server = plan::lan_gateway(host.port).into();
        let ask = async || map(server, host.address.into(), InternetProtocol::Tcp, ECHO_PORT).await;
        let mapping = pcp(&host.netns, ask).unwrap();
        assert_eq!(outside_of(&mapping), self.outside(0));
        mapping
    }

    /// The outside of the echo.
    fn outside(&self, provider: usize) -> SocketAddr {
        (self.topology.providers[provider].addresses[0], ECHO).into()
    }

    /// Does a client in the Internet reach the echo by a provider?
    fn echoes(&self, provider: usize) -> bool {
        let to = self.outside(provider);
        asks(&self.topology.internet, CLIENT.into(), to, b"question").as_deref()
            == Some(b"question")
    }

    fn wait_for_echo(&self, provider: usize) {
        let reached = || Ok(self.echoes(provider).then_some(()));
        wait::until("the port to be reached", wait::BOUND, reached).unwrap();
    }

    /// What `weir publish` says of the ports that hosts have.
    fn told(&self) -> Vec<Value> {
        let mut command = self.weir.cli(&["--json", "publish"]).unwrap();
        let output = self.topology.gateway.output(&mut command).unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        json["publish"].as_array().unwrap().clone()
    }
}

/// The answer to a datagram; none: silence.
fn asks(netns: &Netns, from: IpAddr, to: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    let asked = netns.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket.send_to(datagram, to).unwrap();
        let mut answer = [0; 1100];
        let (length, by) = socket.recv_from(&mut answer).ok()?;
        (by == to).then(|| answer[..length].to_vec())
    });
    asked.unwrap()
}

/// Runs what a client of PCP does, in a namespace.
fn pcp<T: Send>(netns: &Netns, client: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client())
    };
    netns.run(run).unwrap()
}

/// A reload does not wait for sockets: hosts of IPv6 are answered a moment after.
fn until_served(gateway: &Netns) {
    let served = || {
        let mut sockets = Command::new("ss");
        sockets.args(["-H", "-6", "-u", "-l", "-n", "sport", "=", &format!(":{SERVER_PORT}")]);
        Ok((!gateway.output(&mut sockets)?.stdout.is_empty()).then_some(()))
    };
    wait::until("the socket of PCP", wait::BOUND, served).unwrap();
}

fn gateway(address: impl Into<IpAddr>) -> GatewayAddress {
    match address.into() {
        IpAddr::V4(address) => GatewayAddress::IpV4(address),
        IpAddr::V6(address) => GatewayAddress::IpV6(address, None),
    }
}

/// A port that a client of PCP asks for.
async fn map(
    server: IpAddr,
    client: IpAddr,
    protocol: InternetProtocol,
    inside: u16,
) -> Result<PortMapping, Failure> {
    let inside = NonZeroU16::new(inside).unwrap();
    let request = BaseMapRequest::new(gateway(server), client, protocol, inside);
    let (external_port, lifetime_seconds) = (NonZeroU16::new(ECHO), Some(600));
    let options =
        PortMappingOptions { external_port, lifetime_seconds, ..PortMappingOptions::default() };
    crab_nat::pcp::port_mapping(request, None, None, options).await
}

fn outside_of(mapping: &PortMapping) -> SocketAddr {
    match mapping.mapping_type() {
        PortMappingType::Pcp { external_ip, .. } => {
            SocketAddr::new(external_ip, mapping.external_port().get())
        }
        PortMappingType::NatPmp => panic!("it was asked for by PCP"),
    }
}

#[test]
fn a_host_has_a_port_by_every_uplink_until_it_says_that_it_needs_it_no_more() {
    let mut site = Site::with("");
    site.map_echo("600");
    let said = site.natpmpc(site.host(), &[]);
    assert!(said.contains(&site.outside(0).ip().to_string()), "{said}");
    (0..PROVIDERS).for_each(|provider| site.wait_for_echo(provider));
    let other = &site.topology.hosts[1];
    let hairpin = || {
        let answer = asks(&other.netns, other.address.into(), site.outside(1), b"question");
        Ok(answer.map(drop))
    };
    wait::until("the other LAN to reach it", wait::BOUND, hairpin).unwrap();
    let mapping = site.map_echo_of_tcp();
    for provider in 0..PROVIDERS {
        let to = site.outside(provider);
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        site.topology.internet.run(connect).unwrap().unwrap();
    }
    let told = site.told();
    let names: Vec<_> = told.iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["nat-pmp:0", "pcp:1"]);
    assert!(told.iter().all(|of| (1..=600).contains(&of["left_s"].as_u64().unwrap())), "{told:?}");
    // Another process goes on with what this one granted.
    site.weir.kill_control();
    assert!(site.echoes(0));
    site.weir.start_control().unwrap();
    site.map_echo("600");
    assert!(site.echoes(1));
    let unmap = ["unmap", "nat-pmp:0"];
    let output = site.topology.gateway.output(&mut site.weir.cli(&unmap).unwrap()).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!site.echoes(0) && !site.echoes(1));
    let netns = &site.host().netns;
    pcp(netns, async || mapping.try_drop().await.map_err(|(error, _)| error)).unwrap();
    assert_eq!(site.told().len(), 0);
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_port_that_is_not_renewed_is_shut() {
    let site = Site::with("max_lifetime = \"3s\"");
    site.map_echo("600");
    site.wait_for_echo(0);
    let shut = || Ok((!site.echoes(0)).then_some(()));
    wait::until("the port to be shut", wait::BOUND, shut).unwrap();
    assert_eq!(site.told().len(), 0);
    site.weir.check_conservation().unwrap();
}

#[test]
fn who_may_not_ask_is_not_answered_and_a_flood_takes_nothing_from_others() {
    let site = Site::with("");
    let [host, other] = &site.topology.hosts[..] else { panic!("two hosts") };
    let server = |host: &Host| SocketAddr::from((plan::lan_gateway(host.port), SERVER_PORT));
    let address = [0, 0];
    let ask = |host: &Host, to| asks(&host.netns, host.address.into(), to, &address);
    let answered = || Ok(ask(host, server(host)).map(drop));
    wait::until("the gateway to answer", wait::BOUND, answered).unwrap();
    let outside = SocketAddr::new(site.outside(0).ip(), SERVER_PORT);
    assert_eq!(ask(other, server(other)), None, "its LAN may not");
    assert_eq!(ask(other, server(host)), None, "nor by the other's server");
    assert_eq!(ask(host, outside), None, "by an address outside");
    let provider = &site.topology.providers[0];
    let neighbour = |to| asks(&provider.netns, provider.next_hop.into(), to, &address);
    assert_eq!(neighbour(outside), None);
    let own = provider.addresses[0];
    let lan = plan::lan_gateway(host.port);
    provider.netns.ip(&format!("route add {lan}/32 via {own}\n")).unwrap();
    assert_eq!(neighbour(server(host)), None, "from a provider's link");
    // A flood of one host leaves another of the same LAN its answers.
    let [a, b, c, _] = host.address.octets();
    let other = Ipv4Addr::new(a, b, c, 77);
    host.netns.ip(&format!("addr add {other}/24 dev eth0\n")).unwrap();
    let flood = host.netns.thread("flood", {
        let (from, to) = (host.address, server(host));
        move || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            (0..200_000).filter(|_| socket.send_to(&address, to).is_ok()).count()
        }
    });
    let mut answered = 0;
    let flood = flood.unwrap();
    while !flood.is_finished() {
        let answer = asks(&host.netns, other.into(), server(host), &address);
        answered += usize::from(answer.is_some());
    }
    assert!(answered > 0 && flood.join().unwrap().unwrap() > 0);
    let states = site.weir.states().unwrap();
    assert!(states[..PROVIDERS].iter().all(|word| word & path_state::USABLE != 0));
    let refused = pcp(&host.netns, async || {
        let another = IpAddr::from([10, 99, 99, 99]);
        map(server(host).ip(), another, InternetProtocol::Udp, ECHO_PORT).await.unwrap_err()
    });
    assert!(format!("{refused:?}").contains("AddressMismatch"), "{refused:?}");
    site.weir.check_conservation().unwrap();
}

#[test]
fn hosts_are_told_when_the_address_outside_is_another_and_ask_again() {
    let site = Site::with("");
    let host = site.host();
    let server: IpAddr = plan::lan_gateway(host.port).into();
    site.map_echo("600");
    let mut mapping = site.map_echo_of_tcp();
    (0..PROVIDERS).for_each(|provider| site.wait_for_echo(provider));
    let client =
        Host { netns: site.topology.internet.clone(), address: CLIENT, owned: None, port: 0 };
    let by_the_other = SocketAddrV4::new(site.topology.providers[1].addresses[0], ECHO);
    let mut flows = LongFlows::open(&client, by_the_other, 10).unwrap();
    let bind = || UdpSocket::bind(("0.0.0.0", CLIENT_PORT)).unwrap();
    let heard = host.netns.run(bind).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    site.topology.providers[0].set_carrier(false).unwrap();
    let other = site.outside(1).ip();
    let mut told = BTreeSet::new();
    while told.len() < 2 {
        let mut message = [0; 100];
        let (length, from) = heard.recv_from(&mut message).unwrap();
        assert_eq!(from, SocketAddr::new(server, SERVER_PORT));
        let epoch = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        match (message[0], length) {
            // PCP: ANNOUNCE, with an epoch that has just begun.
            (2, 24) if epoch(8) < 5 => drop(told.insert(2)),
            (0, 12)
                if IpAddr::from([message[8], message[9], message[10], message[11]]) == other =>
            {
                told.insert(0);
            }
            _ => {}
        }
    }
    let renewed = pcp(&host.netns, async || {
        mapping.renew().await.unwrap();
        mapping
    });
    assert_eq!(outside_of(&renewed), site.outside(1), "the same port");
    assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 }, "what came by the other goes on");
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_host_of_ipv6_has_its_own_port_opened_or_one_that_is_translated() {
    for mode in Mode::ALL {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &[2, 1], "").unwrap();
        let text = mode.configuration(&topology, &[2, 1]);
        weir.reload(&text.replacen("[[lan]]", "[[lan]]\nport_mapping = true", 1)).unwrap();
        until_served(&topology.gateway);
        let host = &topology.hosts[0].netns;
        let address = mode.hosts(0, PROVIDERS)[0];
        let server = mode.lan_gateways(PROVIDERS)[0];
        // A port of its own that may be opened: well-known ones may not.
        let port = 20_000;
        let echo = host.run(|| UdpSocket::bind((address, port))).unwrap().unwrap();
        std::thread::spawn(move || {
            let mut question = [0; 16];
            while let Ok((length, from)) = echo.recv_from(&mut question) {
                let _ = echo.send_to(&question[..length], from);
            }
        });
        let mapping = pcp(host, async || {
            map(server.into(), address.into(), InternetProtocol::Udp, port).await.unwrap()
        });
        let outside = match mode {
            Mode::Nat66 => ipv6::by(0, "::1".parse().unwrap()),
            Mode::Npt66 => {
                let half = weir.snapshot().unwrap().half;
                npt::outward(half.prefixes_of(0).next().unwrap(), address.octets()).unwrap().into()
            }
            _ => address,
        };
        let told = outside_of(&mapping);
        assert_eq!(told.ip(), IpAddr::from(outside), "{mode:?}");
        let translated = mode == Mode::Nat66;
        assert_eq!(told.port(), if translated { ECHO } else { port });
        let reached = || {
            let answer = asks(&topology.internet, ipv6::SERVER.into(), told, b"question");
            Ok(answer.filter(|answer| answer == b"question").map(drop))
        };
        wait::until("the port to be reached", wait::BOUND, reached).unwrap();
        pcp(host, async || mapping.try_drop().await.map_err(|(error, _)| error).unwrap());
        assert!(reached().unwrap().is_none());
        weir.check_conservation().unwrap();
    }
}
