//! Multipath TCP (RFC 8684): a host with an address for each provider has a subflow by each.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;

use rustix::net::{self, AddressFamily, SocketType};
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan};
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, wait};
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};

const PROVIDERS: usize = 2;
const PORT: u16 = 5001;
const BYTES: usize = 6 << 20;
/// A provider's rate towards the Internet: seconds for one alone, so that both are worth having.
const RATE: &str = "16mbit";

/// A site whose host has an address for each provider.
struct Site {
    topology: Topology,
    weir: Weir,
    family: Family,
    /// The host's, by provider.
    sources: [IpAddr; PROVIDERS],
    server: IpAddr,
}

impl Site {
    /// Both providers delegate prefixes, which the LAN has.
    fn of_delegated_prefixes() -> Self {
        let plan = Plan::new(PROVIDERS, 1);
        let (topology, weir) = Mode::Source.start(plan, &[1; PROVIDERS], "").unwrap();
        let sources = [0, 1].map(|provider| ipv6::by(provider, ipv6::host(0)).into());
        Self { topology, weir, family: Family::V6, sources, server: ipv6::SERVER.into() }.ready()
    }

    /// A LAN with two prefixes of IPv4; rules say which uplink each leaves by, translated.
    fn of_lan_prefixes() -> Self {
        let topology = Topology::build(Plan::new(PROVIDERS, 1)).unwrap();
        let second = Ipv4Addr::new(172, 20, 0, 2);
        topology.gateway.ip("addr add 172.20.0.1/24 dev lan0\n").unwrap();
        topology.hosts[0].netns.ip(&format!("addr add {second}/24 dev eth0\n")).unwrap();
        let mut file = Weir::configuration(&topology, &[1; PROVIDERS]);
        for (name, prefix) in UPLINKS.iter().zip(["10.0.0.0/16", "172.20.0.0/24"]) {
            file += &format!(
                "\n[[policy]]\nname = \"by-{name}\"\nmembers = [{{ uplink = \"{name}\" }}]\n\
                 [[rule]]\nsource = \"{prefix}\"\npolicy = \"by-{name}\"\n"
            );
        }
        let weir = Weir::start(&topology, &file).unwrap();
        let sources = [topology.hosts[0].address, second].map(IpAddr::from);
        let server = plan::server_address(0).into();
        Self { topology, weir, family: Family::V4, sources, server }.ready()
    }

    /// Waits until all providers answer, and lets the host use what it has.
    fn ready(self) -> Self {
        self.weir.wait_until_usable_in(self.family, &[0, 1]).unwrap();
        for provider in 0..PROVIDERS {
            let router = &self.topology.providers[provider].netns;
            let shaped =
                format!("qdisc add dev internet root tbf rate {RATE} burst 32k latency 50ms");
            router.output(Command::new("tc").args(shaped.split(' '))).unwrap();
        }
        for source in self.sources {
            wait::until("answers from the Internet", wait::BOUND, || {
                let ping = clients::ping_from(self.host(), source, self.server, 1)?;
                Ok((ping.received == 1).then_some(()))
            })
            .unwrap();
        }
        for netns in [self.host(), &self.topology.internet] {
            mptcp(netns, "limits set subflow 2");
        }
        mptcp(self.host(), &format!("endpoint add {} dev eth0 subflow", self.sources[1]));
        self
    }

    fn host(&self) -> &Netns {
        &self.topology.hosts[0].netns
    }

    fn wait_until_down(&self, provider: usize) {
        wait::until("the path to be down", wait::BOUND, || {
            let state = self.weir.control()?.path_state(PathId::new(provider as u8, self.family));
            Ok((state & path_state::USABLE == 0).then_some(()))
        })
        .unwrap();
    }

    /// Bytes that left by each provider. What it did not delegate, or translate to, none has let by.
    fn sent(&self) -> Vec<u64> {
        for provider in &self.topology.providers {
            assert_eq!(provider.foreign_sources().unwrap(), 0);
        }
        if self.family == Family::V6 {
            ipv6::outbound(&self.topology).unwrap();
        }
        let paths = self.weir.paths(self.family).unwrap();
        paths.iter().take(PROVIDERS).map(|path| path.tx_bytes).collect()
    }

    /// Sends `BYTES` from the first address to the server, all of which arrive.
    fn transfer(&self, meanwhile: impl FnOnce()) {
        let listener = self.topology.internet.run(|| multipath(self.server, PORT)).unwrap();
        net::listen(&listener, 1).unwrap();
        let client = self.host().run(|| multipath(self.sources[0], 0)).unwrap();
        net::connect(&client, &SocketAddr::new(self.server, PORT)).unwrap();
        let mut server = TcpStream::from(net::accept(&listener).unwrap());
        let sender = std::thread::spawn(move || {
            let mut client = TcpStream::from(client);
            client.write_all(&vec![7; BYTES])?;
            client.shutdown(Shutdown::Write)
        });
        let receiver = std::thread::spawn(move || io::copy(&mut server, &mut io::sink()));
        meanwhile();
        sender.join().unwrap().unwrap();
        assert_eq!(receiver.join().unwrap().unwrap(), BYTES as u64);
        self.weir.check_conservation().unwrap();
    }
}

fn mptcp(netns: &Netns, arguments: &str) {
    netns.output(Command::new("ip").arg("mptcp").args(arguments.split(' '))).unwrap();
}

/// A socket of multipath TCP at this address.
fn multipath(address: IpAddr, port: u16) -> OwnedFd {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = net::socket(family, SocketType::STREAM, Some(net::ipproto::MPTCP)).unwrap();
    net::bind(&socket, &SocketAddr::new(address, port)).unwrap();
    socket
}

/// Half of what goes by both if they add up, and nothing or all of it if they do not.
fn adds_up(site: &Site) {
    let before = site.sent();
    site.transfer(|| ());
    let sent: Vec<_> = site.sent().iter().zip(&before).map(|(now, then)| now - then).collect();
    assert!(sent.iter().all(|sent| *sent > BYTES as u64 / 4), "{sent:?} of {BYTES}");
}

fn outlives_the_loss_of_either(build: fn() -> Site) {
    for lost in 0..PROVIDERS {
        let site = build();
        let before = site.sent();
        site.transfer(|| {
            wait::until("much by each provider", wait::BOUND, || {
                let sent = site.sent();
                let mut both = sent.iter().zip(&before);
                Ok(both.all(|(now, before)| now - before > 100_000).then_some(()))
            })
            .unwrap();
            site.topology.providers[lost].set_carrier(false).unwrap();
            site.wait_until_down(lost);
        });
        site.sent();
    }
}

#[test]
fn the_rates_of_providers_add_up_by_their_delegated_prefixes() {
    adds_up(&Site::of_delegated_prefixes());
}

#[test]
fn the_rates_of_providers_add_up_by_rules_for_prefixes_of_ipv4() {
    adds_up(&Site::of_lan_prefixes());
}

#[test]
fn a_connection_by_delegated_prefixes_outlives_the_loss_of_either_provider() {
    outlives_the_loss_of_either(Site::of_delegated_prefixes);
}

#[test]
fn a_connection_by_rules_for_prefixes_of_ipv4_outlives_the_loss_of_either_provider() {
    outlives_the_loss_of_either(Site::of_lan_prefixes);
}
