//! Which new flows are evidence of their uplink.
//!
//! What only looks like the connection of a user is made with ease: a station sends by hardware
//! addresses that it makes up, and packets that no server answers. So a flow counts if the kernel
//! has heard the ARP or ND of its host, and if its first packet is one that is answered: with a
//! checksum that is right, and with time to live enough for the way.
//!
//! A worker asks the kernel about hosts that it does not know, once a tick and for few, and
//! remembers those that it finds; the kernel does not go and look for them, but for one of IPv6 a
//! second. So a host's first flow says nothing yet, unless the host was told an error before. Who
//! sends in the name of a host that is there, or answers ARP for one that is not, is not told from it.

use std::net::IpAddr;

use weir_layout::adjacency::Adjacency;
use weir_shm::flows::Stored;
use weir_wire::family::Family;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::{tcp, udp};

use super::claims::Owner;
use super::complete;
use super::context::Context;
use super::sessions::Sessions;
use crate::purpose::Purpose;

/// Hosts that are remembered; a new one takes the place of one with the same hash.
const PLACES: usize = 4096;
/// Addresses that are asked about in a tick, at most.
const ASKED: usize = 4;
/// Of these places the last, for hosts that have flows alone. A station that makes up hosts, each of
/// which is told an error, takes all others.
const KEPT: usize = ASKED - 1;
/// Hosts begin with 64 or more, and traces of routes with few.
const ENOUGH_TTL: u8 = 32;

/// Hosts that the kernel knows, and those that it is to be asked about.
#[derive(Debug)]
pub(super) struct KnownHosts {
    key: [u64; 2],
    known: Box<[u64]>,
    asked: [Option<(u8, IpAddr)>; ASKED],
}

impl KnownHosts {
    pub(super) fn new(key: [u64; 2]) -> Self {
        Self { key, known: vec![0; PLACES].into(), asked: [None; ASKED] }
    }

    /// Has the kernel said that the host is there?
    pub(super) fn knows(&self, host: Adjacency) -> bool {
        self.known[self.place(host)] == host.to_word()
    }

    fn place(&self, host: Adjacency) -> usize {
        Purpose::KnownHost.hash(self.key, host.to_word()) as usize % PLACES
    }

    /// The kernel is to be asked about this address of a LAN port, whose host has flows or not.
    pub(super) fn ask_about(&mut self, port: u8, address: IpAddr, has_flows: bool) {
        // As in a burst of new flows, for all but its first.
        if self.asked.iter().all(Option::is_some) {
            return;
        }
        let place = Purpose::Question.of_address(self.key, port, address) as usize % KEPT;
        let is_taken = self.asked[place].is_some_and(|other| other != (port, address));
        let place = if is_taken && has_flows { KEPT } else { place };
        self.asked[place].get_or_insert((port, address));
    }

    fn insert(&mut self, host: Adjacency) {
        let place = self.place(host);
        self.known[place] = host.to_word();
    }
}

impl Context {
    /// Finds out about hosts that began flows, or were told of an error, and were not known: see
    /// [`Engine::ask_about_hosts`](super::Engine::ask_about_hosts).
    pub(super) fn ask_about_hosts(&mut self, mut ask: impl FnMut(u32, IpAddr) -> Owner) {
        for place in 0..ASKED {
            let Some((port, address)) = self.known_hosts.asked[place].take() else { continue };
            let interface = self.snapshot.half.ports[usize::from(port)].ifindex;
            if let Owner::At(mac) = ask(interface, address) {
                self.known_hosts.insert(Adjacency { mac, port });
            }
        }
    }
}

impl<F: Stored> Sessions<F> {
    /// Takes note of a flow that the packet began, given its forward slot and its host with its index
    /// in the table of adjacencies, if it is evidence.
    pub(super) fn observe(
        &mut self,
        cx: &mut Context,
        slot: u32,
        (host, index): (Adjacency, u16),
        p: &Parsed<F>,
        frame: &[u8],
    ) {
        if !cx.known_hosts.knows(host) {
            cx.known_hosts.ask_about(host.port, p.src.into(), true);
        } else if p.ttl >= ENOUGH_TTL && self.observer.has_room(index) && is_sound(frame, p) {
            self.observer.observe(&self.table, slot, index, cx.now);
        }
    }
}

/// Will the receiver take the packet: is its checksum right, absent, or left to its device? Of one in
/// fragments nobody knows.
fn is_sound<F: Family>(frame: &[u8], p: &Parsed<F>) -> bool {
    let whole = usize::from(p.l4)..usize::from(p.end);
    let Some(segment) = frame.get(whole).filter(|_| p.kind == Kind::Flow) else { return false };
    let pseudo = F::pseudo(&p.src, &p.dst, p.proto, p.end - p.l4);
    let right = match p.proto {
        tcp::PROTOCOL => tcp::Packet::new_unchecked(segment).verify_checksum(pseudo),
        udp::PROTOCOL => udp::Packet::new_unchecked(segment).verify_checksum(pseudo),
        _ => false,
    };
    right || complete::is_begun(segment, p)
}
