//! Where the hosts of published services are, as the kernel says.
//!
//! Who asks for a service comes before its host has sent anything, so its hardware address is known
//! from no frame. Each worker asks the kernel about these hosts, each once a second or so, and the
//! kernel asks them. So the first packet finds its way, and a host that moved is found.

use std::net::IpAddr;

use weir_layout::adjacency::Adjacency;
use weir_layout::control::{Address, ControlHalf, IpAddress, MAX_PORT_FORWARDS};
use weir_wire::family::{Family, V4};

use super::claims::Owner;
use super::context::Context;

/// Hosts that the kernel is asked about in a tick.
const ASKED: usize = 3;
/// How often it is asked about each, milliseconds; sooner if a packet waits.
const PERIOD: u32 = 1000;

/// A host of a published service.
#[derive(Clone, Copy, Debug, Default)]
struct InsideHost {
    /// [`Family::index`].
    family: u8,
    address: Address,
    /// Where it is, if that is known.
    at: Option<Adjacency>,
    /// When the kernel was last asked, milliseconds.
    asked: u32,
    /// Somebody waits for it.
    wanted: bool,
}

impl InsideHost {
    fn is(&self, other: &Self) -> bool {
        (self.family, self.address) == (other.family, other.address)
    }

    /// Is the kernel to be asked? Not about the gateway itself.
    fn is_due(&self, now: u32) -> bool {
        let due = self.wanted || now.wrapping_sub(self.asked) >= PERIOD;
        due && self.address != Address::UNSPECIFIED
    }
}

/// Those of all services, by their numbers.
#[derive(Debug)]
pub(super) struct InsideHosts {
    hosts: Box<[InsideHost; MAX_PORT_FORWARDS]>,
    count: usize,
    /// The next to ask about.
    next: usize,
}

impl Default for InsideHosts {
    fn default() -> Self {
        let hosts = Box::new([InsideHost::default(); MAX_PORT_FORWARDS]);
        Self { hosts, count: 0, next: 0 }
    }
}

impl InsideHosts {
    /// Another state is published: its services may have other numbers.
    pub(super) fn refresh(&mut self, half: &ControlHalf) {
        let (before, forwards) = (*self.hosts, half.port_forwards());
        self.count = forwards.len();
        for (host, forward) in self.hosts.iter_mut().zip(forwards) {
            let new = InsideHost {
                family: forward.family,
                address: forward.inside,
                at: None,
                asked: 0,
                wanted: true,
            };
            *host = before.iter().find(|known| known.is(&new)).copied().unwrap_or(new);
        }
    }

    /// Where a service's host is. If that is not known it is asked for in the next tick.
    pub(super) fn find(&mut self, number: usize) -> Option<Adjacency> {
        let host = self.hosts[..self.count].get_mut(number)?;
        host.wanted |= host.at.is_none();
        host.at
    }

    /// Where the host with this address is, if that is known.
    pub(super) fn of<F: Family>(&self, address: &F::Address) -> Option<Adjacency> {
        let (family, address) = (F::FAMILY.index() as u8, address.to_address());
        let mut hosts = self.hosts[..self.count].iter();
        hosts.find(|host| (host.family, host.address) == (family, address))?.at
    }

    /// The one to ask about now: each in its turn.
    fn turn(&mut self, now: u32) -> Option<InsideHost> {
        let hosts = &self.hosts[..self.count];
        let due = |number: &usize| hosts[*number].is_due(now);
        let first = self.next.min(self.count);
        let number = (first..self.count).chain(0..first).find(due)?;
        self.next = number + 1;
        let host = hosts[number];
        self.change(&host, |host| (host.asked, host.wanted) = (now, false));
        Some(host)
    }

    /// Changes what is known of a host, for all its services.
    fn change(&mut self, of: &InsideHost, change: impl Fn(&mut InsideHost)) {
        self.hosts[..self.count].iter_mut().filter(|host| host.is(of)).for_each(change);
    }
}

impl Context {
    /// Asks where some of them are: see [`Engine::settle_claims`](super::Engine::settle_claims).
    pub(super) fn find_inside_hosts(&mut self, ask: &mut impl FnMut(u32, IpAddr) -> Owner) {
        for _ in 0..ASKED {
            let Some(host) = self.inside_hosts.turn(self.now) else { return };
            let InsideHost { family, address, .. } = host;
            let half = &self.snapshot.half;
            let (port, ip): (_, IpAddr) = if usize::from(family) == V4::FAMILY.index() {
                (half.port_behind(address.to_v4()), address.to_v4().into())
            } else {
                (half.port_behind(address.0), address.0.into())
            };
            let at = match port {
                Some(port) => match ask(half.ports[usize::from(port)].ifindex, ip) {
                    Owner::At(mac) => Some(Adjacency { mac, port }),
                    Owner::Nobody => None,
                    Owner::Asked | Owner::Unknown => continue,
                },
                // Its LAN's interface is missing.
                None => None,
            };
            self.inside_hosts.change(&host, |host| host.at = at);
        }
    }
}
