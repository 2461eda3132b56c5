//! What others may do to a gateway and the hosts behind it, by real packets, with captures on the
//! legs where nothing may show.
//!
//! | module | who |
//! |---|---|
//! | `life` | a provider's neighbour, another provider, a guest LAN and a spoofing host, all at once, at every moment of the gateway's life |
//! | `attempts` | what these send |
//! | `spoofing` | others who take part in real flows |
//! | `services` | strangers with a question to the gateway itself |
//! | `pools` | strangers who ask for an address that the gateway does not hold |
//! | `own_prefix` | strangers who may come in: to an own prefix |
//! | `unnamed` | strangers who ask for networks that the file does not name |
//! | `virtual_routers` | hosts that know the gateway by another hardware address |

mod attempts;
mod life;
mod own_prefix;
mod pools;
mod services;
mod spoofing;
mod unnamed;
mod virtual_routers;

use std::net::{Ipv4Addr, SocketAddrV4};

use weir_kit::netns::Netns;
use weir_kit::plan::{Plan, Port};
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);

/// A site with a server in its Internet, and a configuration for it.
fn site(plan: Plan) -> (Topology, Server, String) {
    let weights = vec![1; plan.uplinks.len()];
    let topology = Topology::build(plan).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &weights);
    (topology, server, configuration)
}

/// A network of the gateway's behind a bridge, both addresses of one /24, with a host.
fn network_behind(topology: &Topology, bridge: &str, address: Ipv4Addr, host: Ipv4Addr) -> Netns {
    let (netns, gateway) = (topology.run.tag().netns(bridge), &topology.gateway);
    let (inner, outer) = (netns.name(), gateway.name());
    let link = format!(
        "netns add {inner}\n\
         link add {bridge}p netns {outer} type veth peer name eth0 netns {inner}\n"
    );
    topology.run.ip(&link).unwrap();
    let up =
        format!("addr add {host}/24 dev eth0\nlink set eth0 up\nroute add default via {address}\n");
    netns.ip(&up).unwrap();
    gateway
        .ip(&format!(
            "link add {bridge} type bridge\naddr add {address}/24 dev {bridge}\n\
             link set {bridge} up\nlink set {bridge}p master {bridge} up\n"
        ))
        .unwrap();
    netns
}

/// The bytes of a port's hardware address.
fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// What `write` writes.
fn written<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame).unwrap();
    frame
}
