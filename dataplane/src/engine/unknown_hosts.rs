//! Hosts that the table of hardware addresses has no room for.
//!
//! Any station of a LAN can fill it with addresses that it makes up. A quarter of it is kept for hosts
//! that the kernel has heard the ARP of: for each that finds the rest full, the worker asks who has
//! the packet's address, once a tick and for few, and enters who answers. So the host's next attempt
//! begins a flow. Asked about is the address and not the station, so packets in the host's name from
//! elsewhere help it too.

use std::net::IpAddr;

use weir_layout::adjacency::Adjacency;

use super::claims::Owner;
use super::context::Context;
use crate::purpose::Purpose;

/// Addresses that are asked about in a tick, at most.
const ASKED: usize = 16;

/// Addresses to ask about, with the LAN ports they came by.
#[derive(Debug, Default)]
pub(super) struct UnknownHosts([Option<(u8, IpAddr)>; ASKED]);

impl UnknownHosts {
    /// A packet of this address came by a port, and there was no room for its sender.
    pub(super) fn ask_about(&mut self, key: [u64; 2], port: u8, address: IpAddr) {
        let place = Purpose::Question.of_address(key, port, address) as usize % ASKED;
        self.0[place].get_or_insert((port, address));
    }
}

impl Context {
    /// Enters the hosts that were turned away and that `ask` knows: see
    /// [`Engine::settle_claims`](super::Engine::settle_claims).
    pub(super) fn learn_unknown_hosts(&mut self, ask: &mut impl FnMut(u32, IpAddr) -> Owner) {
        for place in &mut self.unknown_hosts.0 {
            let Some((port, address)) = place.take() else { continue };
            let interface = self.snapshot.half.ports[usize::from(port)].ifindex;
            if let Owner::At(mac) = ask(interface, address) {
                self.adjacencies.learn_known(Adjacency { mac, port });
            }
        }
    }
}
