//! What coturn's `turnutils_natdiscovery` (RFC 5780) finds out about the NAT from behind it.
//!
//! A NAT that keeps ports looks endpoint-independent to it whatever it does, until another host has
//! the same port at the same servers: so one sends from it first.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};

use weir_kit::listeners;
use weir_kit::plan::{self, Plan};
use weir_kit::process::Process;
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::control::path_state;

const PORTS: [u16; 2] = [3478, 3479];

struct Site {
    topology: Topology,
    weir: Weir,
    _stun: Process,
}

impl Site {
    /// Two hosts behind two uplinks that let in so much, and a server with two addresses.
    fn with(filtering: &str) -> Self {
        let topology = Topology::build(Plan::new(2, 2)).unwrap();
        let file = Weir::configuration_with(&topology, &[1, 1], "", |_| filtering.into());
        let weir = Weir::start(&topology, &file).unwrap();
        let mut command = Command::new("turnserver");
        command.args(["-n", "-z", "-S", "--no-tls", "--no-dtls", "--no-cli", "-l", "stdout"]);
        command.args(["-p", "3478", "--alt-listening-port=3479", "-b", "/dev/null"]);
        command.args(["--pidfile", "/dev/null"]);
        for server in servers() {
            command.args(["-L", &server.to_string()]);
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let stun = topology.internet.spawn(&mut command).unwrap();
        PORTS.iter().for_each(|port| listeners::wait_for_udp(&topology.internet, *port).unwrap());
        Self { topology, weir, _stun: stun }
    }

    /// What is found out from a port that another host uses already: `-m` mapping, `-f` filtering.
    fn verdict(&self, what: &str, port: u16) -> String {
        let [host, other] = &self.topology.hosts[..] else { panic!("two hosts") };
        other
            .netns
            .run(|| {
                let socket = UdpSocket::bind((other.address, port)).unwrap();
                let to = servers().into_iter().flat_map(|server| PORTS.map(|port| (server, port)));
                for to in to {
                    socket.send_to(b"first", to).unwrap();
                }
            })
            .unwrap();
        let mut judge = Command::new("turnutils_natdiscovery");
        judge.args([what, "-L", &host.address.to_string(), "-l", &port.to_string()]);
        judge.arg(servers()[0].to_string());
        let output = host.netns.run(|| judge.output()).unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let verdict = said.lines().find(|line| line.contains("NAT with"));
        verdict.unwrap_or_else(|| panic!("no verdict: {said}")).trim().to_owned()
    }
}

impl Site {
    /// Cuts the first provider off, and waits until nothing leaves by it.
    fn cut_the_first(&self) {
        self.topology.providers[0].set_carrier(false).unwrap();
        wait::until("the carrier to be missed", wait::BOUND, || {
            Ok((self.weir.states()?[0] & path_state::USABLE == 0).then_some(()))
        })
        .unwrap();
    }
}

fn servers() -> [Ipv4Addr; 2] {
    [0, 1].map(plan::server_address)
}

#[test]
fn the_mapping_is_independent_of_the_destination_over_two_uplinks_and_after_the_loss_of_one() {
    let site = Site::with("");
    const INDEPENDENT: &str = "NAT with Endpoint Independent Mapping!";
    for port in 40_000..40_004 {
        assert_eq!(site.verdict("-m", port), INDEPENDENT);
    }
    site.cut_the_first();
    for port in 40_000..40_004 {
        assert_eq!(site.verdict("-m", port), INDEPENDENT);
    }
    site.weir.check_conservation().unwrap();
}

#[test]
fn the_filtering_is_what_the_file_says() {
    for (filtering, verdict) in [
        ("", "NAT with Address and Port Dependent Filtering!"),
        ("filtering = \"address\"", "NAT with Address Dependent Filtering!"),
        ("filtering = \"endpoint\"", "NAT with Endpoint Independent Filtering!"),
    ] {
        let site = Site::with(filtering);
        for port in [40_000, 40_001] {
            assert_eq!(site.verdict("-f", port), verdict);
        }
        site.cut_the_first();
        assert_eq!(site.verdict("-f", 40_002), verdict);
        site.weir.check_conservation().unwrap();
    }
}
