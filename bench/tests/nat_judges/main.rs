//! What programs that are not ours find out about the NAT from behind it.
//!
//! | module | judge |
//! |---|---|
//! | `coturn` | coturn's `turnutils_natdiscovery` (RFC 5780): mapping, filtering |
//! | `vovida` | Vovida's `stun` (RFC 3489): mapping, filtering, hairpinning |
//! | `tcp` | servers, by where they see connections of one port come from |
//!
//! A NAT that keeps ports looks endpoint-independent whatever it does, until others have the same
//! port at the same servers: so they send from it first.

mod coturn;
mod tcp;
mod vovida;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use weir_kit::plan::{self, Plan};
use weir_kit::topology::Topology;
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::control::path_state;

/// Where STUN servers answer, at each of their addresses.
const PORTS: [u16; 2] = [3478, 3479];

struct Site {
    topology: Topology,
    weir: Weir,
}

impl Site {
    /// Two hosts behind two uplinks that let in so much.
    fn with(filtering: &str) -> Self {
        let topology = Topology::build(Plan::new(2, 2)).unwrap();
        let file = Weir::configuration_with(&topology, &[1, 1], "", |_| filtering.into());
        Self::start(topology, &file)
    }

    /// The same, where hosts may ask for ports.
    fn with_port_mapping() -> Self {
        let topology = Topology::build(Plan::new(2, 2)).unwrap();
        let lan = "port_mapping = true";
        let file = Weir::configuration_with(&topology, &[1, 1], lan, |_| String::new());
        Self::start(topology, &file)
    }

    fn start(topology: Topology, file: &str) -> Self {
        let add = |address| format!("addr add {address}/16 dev eth0\n");
        let addresses: String = others(&topology).map(add).collect();
        topology.hosts[1].netns.ip(&addresses).unwrap();
        let weir = Weir::start(&topology, file).unwrap();
        Self { topology, weir }
    }

    /// The first host asks by NAT-PMP for a port, the same outside and inside.
    fn ask_for(&self, port: u16) {
        self.ask_for_outside(port, port);
    }

    /// The same for another one outside.
    fn ask_for_outside(&self, inside: u16, outside: u16) {
        let host = &self.topology.hosts[0];
        let gateway = plan::lan_gateway(host.port).to_string();
        let ports = [outside, inside].map(|port| port.to_string());
        let mut natpmpc = Command::new("natpmpc");
        natpmpc.args(["-g", &gateway, "-a", &ports[0], &ports[1], "udp", "600"]);
        let output = host.netns.output(&mut natpmpc).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("Mapped public port {outside} ")), "{said}");
    }

    /// The second host sends from this port to all that a judge asks, by so many addresses that by
    /// each uplink one has the port.
    fn collide(&self, port: u16) {
        let send = || {
            for address in others(&self.topology) {
                let socket = UdpSocket::bind((address, port)).unwrap();
                let to = servers().into_iter().flat_map(|server| PORTS.map(|port| (server, port)));
                for to in to {
                    socket.send_to(b"first", to).unwrap();
                }
            }
        };
        self.topology.hosts[1].netns.run(send).unwrap();
    }

    /// Cuts the first provider off, and waits until nothing leaves by it.
    fn cut_the_first(&self) {
        self.topology.providers[0].set_carrier(false).unwrap();
        wait::until("the carrier to be missed", wait::BOUND, || {
            Ok((self.weir.states()?[0] & path_state::USABLE == 0).then_some(()))
        })
        .unwrap();
    }
}

/// A host that begins flows all the time, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<anyhow::Result<usize>>,
}

impl Load {
    fn start(site: &Site) -> Self {
        let (stop, host) = (Arc::new(AtomicBool::new(false)), &site.topology.hosts[1]);
        let (stopped, address) = (stop.clone(), host.address);
        let sender = host.netns.thread("load", move || {
            let mut sent = 0;
            // Ports that no judge has a use for.
            for port in (10_000..30_000).cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let socket = UdpSocket::bind((address, port)).unwrap();
                for server in servers() {
                    sent += usize::from(socket.send_to(b"load", (server, 9)).is_ok());
                }
                std::thread::sleep(Duration::from_micros(500));
            }
            sent
        });
        Self { stop, sender: sender.unwrap() }
    }

    /// Ends it; both uplinks had much of it.
    fn stop(self, site: &Site) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.sender.join().unwrap().unwrap() > 1000);
        let [first, second, ..] = site.weir.uplinks().unwrap()[..] else { panic!("two uplinks") };
        assert!(first.flows_created > 100 && second.flows_created > 100, "both have flows");
    }
}

/// Further addresses of the second host. An endpoint has one uplink: by chance all have the same
/// once in eight million times.
fn others(topology: &Topology) -> impl Iterator<Item = Ipv4Addr> {
    let port = topology.hosts[1].port;
    (20..44).map(move |host| plan::host_address(port, host))
}

/// The addresses of the STUN server, by which it is asked.
fn servers() -> [Ipv4Addr; 2] {
    [0, 1].map(plan::server_address)
}
