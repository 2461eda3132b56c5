//! What would begin a flow from outside: whom it is for inside, and whether it may.
//!
//! Rules about uplinks come first. They see the packet as its host would: with the host's address and
//! port, whatever it was sent to. Then whoever has the port says: a published service to whom it is
//! open; where hosts keep their ports, the rule that accepts it, or an uplink that lets in what no rule
//! denies.

use weir_layout::NONE;
use weir_layout::control::{Path, RuleAction, RuleFrom, Translate};
use weir_layout::counters::Counter;
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::key::{FlowKey, echo_ports};
use weir_wire::parse::Parsed;
use weir_wire::{tcp, udp};

use super::DropReason;
use super::batch::Work;
use super::context::Context;
use super::published::{Asked, Entrance};
use crate::steering::{self, Ruling, Traffic};

/// Why a packet that asks for a host begins no flow.
pub(super) enum Refused {
    /// A rule denies it.
    ByRule(Ruling),
    /// Something else does.
    Because(DropReason),
}

impl Context {
    /// Whom a packet without a flow asks for that came by an uplink; `None`: nobody here, or nobody that
    /// it may ask by any of what is said above.
    pub(super) fn asked<F: Family>(&self, work: &Work<F>) -> Option<Result<Asked<F>, Refused>> {
        let ports = &self.snapshot.half.ports;
        let port = ports.get(usize::from(work.port)).filter(|port| port.is_uplink())?;
        let path = self.snapshot.half.path(F::path(port.uplink))?;
        let (asked, is_open) = match self.asked_at(port.uplink, &work.parsed) {
            Some(service) => service,
            None => (self.asked_itself(port.uplink, path, &work.parsed)?, true),
        };
        let ruling = self.ruling_outside(work, &asked.inside);
        if ruling.action.denies() {
            return Some(Err(Refused::ByRule(ruling)));
        }
        let accepts = path.is_open() || ruling.action == RuleAction::Accept;
        if matches!(asked.by, Entrance::Host) && !accepts {
            return None;
        }
        let takes_new = steering::takes_new(&self.control, F::path(port.uplink));
        Some(match (is_open, takes_new) {
            (false, _) => Err(Refused::Because(Counter::DropPublishSource)),
            (true, false) => Err(Refused::Because(Counter::DropUplinkDown)),
            (true, true) => Ok(Asked { rule: ruling.rule, ..asked }),
        })
    }

    /// The host that a packet asks by an address which leads to it with all its ports, where rules are
    /// asked about that.
    fn asked_itself<F: Family>(&self, uplink: u8, path: &Path, p: &Parsed<F>) -> Option<Asked<F>> {
        let [_, echo] = echo_ports(F::ECHO_REQUEST, p.sport);
        let begins = matches!(p.proto, tcp::PROTOCOL | udp::PROTOCOL)
            || p.proto == F::ICMP && p.dport == echo;
        if !path.is_ruled() || !begins {
            return None;
        }
        let host = self.inward::<F>(uplink, p.dst);
        let is_hosts = self.keeps_ports::<F>(uplink, host, p.dst)
            && self.snapshot.half.port_behind(host).is_some();
        let inside = FlowKey::new(p.src, host, p.sport, p.dport, p.proto);
        is_hosts.then_some(Asked { by: Entrance::Host, rule: None, uplink, inside })
    }

    /// Has a host this address by an uplink, with all its ports?
    fn keeps_ports<F: Family>(&self, uplink: u8, host: F::Address, address: F::Address) -> bool {
        let path = self.snapshot.half.path(F::path(uplink));
        path.is_some_and(|path| path.translation() != Translate::Napt)
            && self.is_outside::<F>(uplink, host, address)
    }

    /// What rules about uplinks say of a packet that an uplink brought, which is this for its host.
    pub(super) fn ruling_outside<F: Family>(&self, work: &Work<F>, inside: &FlowKey<F>) -> Ruling {
        let traffic = Traffic { dscp: work.parsed.dscp, ..traffic_to(work.port, inside) };
        steering::ruling(&self.snapshot.half, &self.control, &traffic)
    }

    /// Would a flow that began outside begin now, given its entry of what came in? Where a code point
    /// decides, which no entry keeps, or its uplink has no interface for now, it would.
    pub(super) fn is_still_let_in<F: Family>(&self, entry: &Entry<F>) -> bool {
        let (half, uplink) = (&self.snapshot.half, entry.uplink);
        let (asked, to) = (&entry.key, entry.translated());
        let inside =
            FlowKey::<F>::new(asked.src(), to.dst(), asked.sport(), to.dport(), asked.proto());
        let port = self.port_of(uplink);
        if port == NONE {
            return true;
        }
        let traffic = traffic_to(port, &inside);
        let Some(ruling) = steering::ruling_by_address(half, &self.control, &traffic) else {
            return true;
        };
        if ruling.action.denies() {
            return false;
        }
        let accepts =
            |path: &Path| path.is_open() || path.is_ruled() && ruling.action == RuleAction::Accept;
        let by_itself = || {
            asked.dport() == to.dport()
                && half.path(F::path(uplink)).is_some_and(accepts)
                && self.keeps_ports::<F>(uplink, to.dst(), asked.dst())
        };
        self.is_still_published(uplink, entry) || by_itself()
    }
}

/// What steering knows of what comes in by an uplink's port and is this for its host.
fn traffic_to<F: Family>(in_port: u8, inside: &FlowKey<F>) -> Traffic<F> {
    Traffic {
        from: RuleFrom::Uplink,
        in_port,
        host: 0,
        src: inside.src(),
        dst: inside.dst(),
        sport: u16::from_be_bytes(inside.sport()),
        dport: u16::from_be_bytes(inside.dport()),
        proto: inside.proto(),
        dscp: 0,
        label: 0,
    }
}
