//! Packets of a family that needs no flows: each is forwarded by what it says, as XDP does it
//! (`ebpf/src/stateless.rs`). The worker gets those that XDP leaves to it, in the user tier all.
//!
//! What an uplink brought for a LAN comes with the adjacency that it leaves by in its first eight
//! bytes ([`weir_layout::adjacency`]): XDP has asked the kernel, and left to that what it would not
//! forward. From a LAN the published state says all.

use weir_layout::adjacency::{Adjacency, next_hop};
use weir_layout::control::{OnUplinkDown, PortRole};
use weir_layout::counters::Counter;
use weir_wire::family::Family;
use weir_wire::parse::Kind;
use weir_wire::plain::Header;
use weir_wire::tcp;

use super::DropReason;
use super::batch::Work;
use super::complete;
use super::context::Context;
use super::slow_path::{opens, traffic_of};
use crate::answer;
use crate::packet::{Buffer, Output, Received};
use crate::steering::{self, Refusal, Traffic};

impl Context {
    /// Forwards a frame under the policy of all packets.
    pub(super) fn carry<F: Family, B: Buffer>(
        &mut self,
        policy: u8,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let frame = received.frame.data();
        let work = Work::<F>::read(self, frame, received.device)?;
        let p = &work.parsed;
        match p.kind {
            Kind::Options => return Err(Counter::DropOptions),
            Kind::IcmpError if frame.get(usize::from(p.l4)).copied().is_some_and(F::is_advice) => {
                return Err(Counter::DropIcmpRedirect);
            }
            _ => {}
        }
        if self.is_uplink(work.port) {
            self.carry_inward(&work, received, out)
        } else {
            self.carry_outward(policy, &work, received, out)
        }
    }

    /// From a LAN to the world.
    fn carry_outward<F: Family, B: Buffer>(
        &mut self,
        policy: u8,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        if p.ttl <= 1 {
            return Err(self.answer_expired(work, &received, out));
        }
        if !self.snapshot.half.is_behind(work.port, p.src) {
            return Err(Counter::DropSource);
        }
        let mut traffic = traffic_of(work);
        match p.kind {
            Kind::Flow => {}
            // One alone has ports, and behind options its protocol, and all go the same way.
            Kind::Fragment { .. } => traffic = Traffic { proto: 0, sport: 0, dport: 0, ..traffic },
            _ => traffic = Traffic { sport: 0, dport: 0, ..traffic },
        }
        let half = &self.snapshot.half;
        let uplink = steering::uplink(half, &self.control, self.key, policy, &traffic)
            .map_err(|refusal| self.turn_away(policy, work, refusal, &received, out))?;
        if self.snapshot.half.readdresses(F::path(uplink), p.src) {
            return Err(Counter::DropUntranslatable);
        }
        let port = self.port_of(uplink);
        self.check_mtu(work, port, false, &received, out)?;
        let next_hop = self.adjacencies.get(next_hop(F::path(uplink)));
        self.pass_on(work, received, next_hop, uplink, out)
    }

    /// From an uplink to a LAN, as XDP says.
    fn carry_inward<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let half = &self.snapshot.half;
        let head = received.frame.data().first_chunk();
        let adjacency = head.and_then(|head| Adjacency::from_word(u64::from_le_bytes(*head)));
        // Without, it came before XDP saw the same state.
        let adjacency = adjacency.ok_or(Counter::DropNoFlow)?;
        let came = &half.ports[usize::from(work.port)];
        let mut own = std::iter::once(&came.mac).chain(&came.virtual_macs);
        let unmarked = own.any(|own| own.bytes() == adjacency.mac);
        let port = half.ports.get(usize::from(adjacency.port));
        let is_lan = port.is_some_and(|port| port.role == PortRole::Lan as u8);
        if !is_lan || unmarked || work.parsed.ttl <= 1 {
            return Err(Counter::DropNoFlow);
        }
        let uplink = came.uplink;
        self.pass_on(work, received, Some(adjacency), uplink, out)
    }

    /// Sends a packet on as it is, by an adjacency, and counts it on the uplink's path. A checksum that
    /// its sender left to a device is made whole.
    fn pass_on<F: Family, B: Buffer>(
        &self,
        work: &Work<F>,
        mut received: Received<B>,
        to: Option<Adjacency>,
        uplink: u8,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let (p, path) = (&work.parsed, F::path(uplink));
        let egress = to.and_then(|to| self.egress_to(to, path)).ok_or(Counter::DropUplinkDown)?;
        let frame = received.frame.data_mut();
        if p.kind == Kind::Flow {
            complete::complete(frame, p);
        }
        self.clamp_mss(frame, p, uplink);
        let ip = F::Header::read(frame.get(p.l3.into()..).unwrap_or(&[]));
        F::hop(frame, p.l3.into(), &ip).ok_or(Counter::DropMalformed)?;
        self.leave(received.frame, p, &egress, path, out)
    }

    /// Tells who sent a packet that no uplink takes it. A connection whose provider is gone, and whose
    /// address is that provider's, ends: its host gets a reset.
    fn turn_away<F: Family, B: Buffer>(
        &mut self,
        policy: u8,
        work: &Work<F>,
        refusal: Refusal,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> DropReason {
        let p = &work.parsed;
        let connected = p.kind == Kind::Flow && p.proto == tcp::PROTOCOL && !opens(p);
        if refusal != Refusal::Source || !connected {
            return self.refuse(work, refusal, received, out);
        }
        if self.on_uplink_down(policy) != OnUplinkDown::Reset {
            return Counter::DropUplinkDown;
        }
        if let Some(reset) = answer::tcp_reset::<F>(received.frame.data(), p) {
            self.originate(received.device, reset.data(), out);
        }
        Counter::DropAnswered
    }
}
