//! Weir on a gateway, end to end: real clients across namespaces, observed from outside.

mod commands;
mod forwarding;
mod health;
mod processes;
mod weights;

use std::net::{Ipv4Addr, SocketAddrV4};

use weir_kit::capture::{Capture, Tally};
use weir_kit::plan::Plan;
use weir_kit::server::{ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const WEIGHTS: [u16; 3] = [5, 3, 2];

fn site(plan: Plan) -> (Topology, Server, Weir) {
    let topology = Topology::build(plan).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let configuration = Weir::configuration(&topology, &WEIGHTS);
    let weir = Weir::start(&topology, &configuration).unwrap();
    (topology, server, weir)
}

/// Ends the captures; every frame was sound, and left with an address of its own provider.
fn sound(topology: &Topology, captures: Vec<Capture>) -> Vec<Tally> {
    let tallies: Vec<_> = captures.into_iter().map(|c| c.stop().unwrap()).collect();
    for (provider, tally) in topology.providers.iter().zip(&tallies) {
        assert_eq!(tally.faulty, 0, "{:?}", tally.faults);
        for source in tally.sources_to(SERVER).keys() {
            assert!(
                provider.addresses.contains(source),
                "{source} left by provider {}",
                provider.index
            );
        }
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    tallies
}

fn created(weir: &Weir) -> Vec<u64> {
    weir.uplinks().unwrap().iter().map(|u| u.flows_created).collect()
}
