//! Packets that are sent on without a flow: what answers a packet that came in without one.
//!
//! An own prefix may be reached from outside (`inbound = true`), by the kernel's routes. Its hosts
//! answer by this way. A SYN-ACK or a datagram begins a flow; an echo reply, the reset of a closed
//! port and an ICMP error do not, and leave as by any router: unchanged but for their time to live,
//! by the uplink that their bucket names. Where that translates, nobody can have asked.

use weir_layout::NONE;
use weir_layout::adjacency::next_hop;
use weir_layout::control::Path;
use weir_layout::flow::{FlowState, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::parse::Kind;

use super::DropReason;
use super::batch::Work;
use super::complete;
use super::context::Context;
use super::fragments::fragment_key;
use super::sessions::Sessions;
use super::slow_path::traffic_of;
use crate::fragments::Verdict;
use crate::packet::{Buffer, Output, Received};
use crate::steering::{self, Traffic};

impl Context {
    /// How it leaves under a policy; `None`: by no uplink that sends it on as it is.
    fn stateless_action<F: Family>(
        &self,
        policy: u8,
        traffic: &Traffic<F>,
        work: &Work<F>,
    ) -> Option<Action<F>> {
        let half = &self.snapshot.half;
        let uplink = steering::uplink(half, &self.control, self.key, policy, traffic).ok()?;
        let path = F::path(uplink);
        let key = work.parsed.key();
        (!half.readdresses(path, work.parsed.src)).then(|| Action {
            rewrite: F::compile(&key, &key),
            adjacency: next_hop(path),
            mark: 0,
            peer: 0,
            flags: flag::INSIDE,
            flow_state: FlowState::Stateless,
            worker: self.id,
            uplink,
        })
    }

    /// May all that no flow asked for come in by the port?
    pub(super) fn lets_in<F: Family>(&self, port: u8) -> bool {
        let half = &self.snapshot.half;
        let uplink = half.ports.get(usize::from(port)).map_or(NONE, |port| port.uplink);
        half.path(F::path(uplink)).is_some_and(Path::lets_in_all)
    }
}

impl<F: Stored> Sessions<F> {
    /// Sends a packet on that has no flow and begins none, for this reason.
    pub(super) fn forward_stateless<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        reason: DropReason,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let from_host = !cx.is_uplink(work.port) && cx.snapshot.half.is_behind(work.port, p.src);
        // What asks for an address here that nobody has would come back.
        if !from_host || cx.asked_inside(work).is_some() {
            return Err(reason);
        }
        let traffic = traffic_of(work);
        let ruling = cx.admits(work, &traffic, &received, out)?;
        let action = cx.stateless_action(ruling.policy, &traffic, work).ok_or(reason)?;
        cx.check_mtu(work, cx.port_toward(action.adjacency), false, &received, out)?;
        if let Kind::Fragment { .. } = p.kind {
            self.fragments.remember(fragment_key(cx, work), Verdict::Forwarded(action), cx.now);
        }
        let Received { mut frame, .. } = received;
        if p.kind == Kind::Flow {
            complete::complete(frame.data_mut(), p);
        }
        cx.clamp_mss(frame.data_mut(), p, action.uplink);
        F::apply(frame.data_mut(), p, None, &action.rewrite);
        cx.send(frame, p, &action, out)
    }
}
