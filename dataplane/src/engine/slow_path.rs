//! The slow path: a packet that begins, changes or ends a flow, or has to be looked at in full.

use weir_layout::NONE;
use weir_layout::control::RuleFrom;
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::{protocol, tcp};

use super::DropReason;
use super::admit::Elsewhere;
use super::batch::Work;
use super::context::{Context, began_inside, host_moved, sender};
use super::fragments::fragment_key;
use super::let_in::LetIn;
use super::outside::Refused;
use super::published::{Asked, is_asked};
use super::sessions::Sessions;
use crate::flows::{self, Header};
use crate::fragments::Verdict;
use crate::packet::{Buffer, Output, Received};
use crate::steering::Traffic;
use weir_wire::key::FlowKey;

/// What becomes of a packet of a protocol that flows have.
enum Step<F: Family> {
    /// It is of the flow in this slot, and leaves as that says.
    Follow { slot: u32, action: Action<F>, unconfirmed: bool },
    /// It is another worker's.
    HandOff(u8),
    /// It has no flow, and begins none for this reason.
    Stateless(DropReason),
}

impl<F: Stored> Sessions<F> {
    pub(super) fn act_on<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        match work.parsed.kind {
            Kind::Flow => self.flow(cx, work, received, out),
            Kind::Fragment { first: true } => self.first_fragment(cx, work, received, out),
            Kind::Fragment { first: false } => self.later_fragment(cx, work, received, out),
            Kind::IcmpError => self.icmp_error(cx, work, received, out),
            Kind::Options => Err(Counter::DropOptions),
            Kind::OtherProtocol => Err(Counter::DropProtocol),
        }
    }

    /// A packet of a protocol that flows have, or a first fragment of one.
    pub(super) fn flow<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let key = p.key();
        // A fragment may be of any protocol, and of any kind of message; only echo has an identifier
        // to go by.
        if !protocol::has_flows::<F>(p.proto) {
            return Err(Counter::DropProtocol);
        }
        if p.proto == F::ICMP && !is_echo(p, received.frame.data()) {
            return Err(Counter::DropProtocol);
        }
        // An earlier packet of the batch may have made or ended the flow.
        let found = work.slot.filter(|slot| self.table.slot(*slot).holds(key.words()));
        let step = match found.or_else(|| self.table.find(work.hash, &key)) {
            Some(slot) => self.next(cx, work, &key, slot, &received, out)?,
            None => self.first(cx, work, &key, &received, out)?,
        };
        match step {
            Step::Follow { slot, action, unconfirmed } => {
                self.follow(cx, work, (slot, action), unconfirmed, received, out)
            }
            Step::HandOff(worker) => self.hand_off_first(cx, worker, work, received, out),
            Step::Stateless(reason) => self.forward_stateless(cx, work, reason, received, out),
        }
    }

    /// What becomes of a packet without a flow.
    fn first<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        key: &FlowKey<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<Step<F>, DropReason> {
        if let Some(worker) = cx.decider(work) {
            return Ok(Step::HandOff(worker));
        }
        if let Some(asked) = cx.asked(work) {
            return self.first_asked(cx, work, asked, received, out);
        }
        match self.let_in(cx, work) {
            Some(LetIn::Here(slot)) => {
                let action = self.table.slot(slot).action();
                return Ok(Step::Follow { slot, action, unconfirmed: false });
            }
            Some(LetIn::With(worker)) => return Ok(Step::HandOff(worker)),
            Some(LetIn::Denied(ruling)) => return Err(cx.deny(work, &ruling, received, out)),
            None => {}
        }
        // No flow begins for a packet that goes no further.
        if work.parsed.ttl <= 1 {
            return Err(cx.answer_expired(work, received, out));
        }
        if let Some(reason) = cx.begins_none(work, received.frame.data()) {
            return Ok(Step::Stateless(reason));
        }
        if cx.is_lost(&work.parsed) {
            cx.send_reset(work, received, out);
            return Err(Counter::DropNotSyn);
        }
        let slot = self.begin(cx, work, key, received, out)?;
        Ok(self.begun(slot))
    }

    /// What becomes of a packet without a flow that asks for a host from outside.
    fn first_asked<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        asked: Result<Asked<F>, Refused>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<Step<F>, DropReason> {
        // Anybody could send another segment than a first.
        if work.parsed.proto == tcp::PROTOCOL && !opens(&work.parsed) {
            return Err(Counter::DropNotSyn);
        }
        let asked = match asked {
            Ok(asked) => asked,
            Err(Refused::ByRule(ruling)) => return Err(cx.deny(work, &ruling, received, out)),
            Err(Refused::Because(reason)) => return Err(reason),
        };
        if let Some(worker) = cx.decider_outside(&work.parsed) {
            return Ok(Step::HandOff(worker));
        }
        if work.parsed.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let place = self.place_asked(cx, &asked)?;
        let slot = self.begin_asked(cx, work, &asked, &place)?;
        Ok(self.begun(slot))
    }

    /// What becomes of a packet whose flow has just begun in `slot`.
    fn begun(&self, slot: u32) -> Step<F> {
        Step::Follow { slot, action: self.table.slot(slot).action(), unconfirmed: false }
    }

    /// What becomes of a packet whose flow is in `slot`.
    fn next<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        key: &FlowKey<F>,
        slot: u32,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<Step<F>, DropReason> {
        let p = &work.parsed;
        let action = self.table.slot(slot).action();
        let host = sender(received.frame.data(), work.port);
        cx.check_side(work, &action, host)?;
        if action.worker != cx.id {
            return Ok(Step::HandOff(action.worker));
        }
        if p.ttl <= 1 {
            let translated = action.flags & flag::NAT != 0;
            cx.send_icmp_error(work, translated, received, out, F::TIME_EXCEEDED, 0);
            return Err(Counter::DropTtl);
        }
        let ended = opens(p) && flows::has_ended(&action);
        let asks = ended && cx.is_uplink(work.port) || self.follows_sender(cx, &action, work);
        match if asks { cx.asked(work) } else { None } {
            Some(Ok(asked)) => {
                if let Ok(place) = self.place_asked(cx, &asked) {
                    let initiated = action.flags & flag::INITIATED != 0;
                    self.remove(cx, if initiated { slot } else { action.peer });
                    let slot = self.begin_asked(cx, work, &asked, &place)?;
                    return Ok(self.begun(slot));
                }
            }
            Some(Err(Refused::ByRule(ruling))) if ended => {
                return Err(cx.deny(work, &ruling, received, out));
            }
            Some(Err(_)) | None => {}
        }
        // Who was asked inside asks nobody by what is over, either.
        let answers = action.uplink == NONE && action.flags & flag::INITIATED == 0;
        if ended && (answers || cx.is_uplink(work.port) && !cx.lets_in::<F>(work.port)) {
            return Err(Counter::DropNoFlow);
        }
        // What begins anew is its endpoint's worker's to decide, which a mapping has made another.
        let moves = || {
            let (_, elsewhere) = cx.leads(work, &action);
            matches!(elsewhere, Elsewhere::Unchanged | Elsewhere::Readdressed)
        };
        let anew = began_inside(&action) && opens(p) && (ended || cx.leaves(&action) && moves());
        if anew && let Some(worker) = cx.decider(work) {
            self.remove(cx, slot);
            cx.lane.add(Counter::FlowsMoved, u64::from(!ended));
            return Ok(Step::HandOff(worker));
        }
        let (slot, action) = if ended && began_inside(&action) {
            self.remove(cx, slot);
            let slot = self.begin(cx, work, key, received, out)?;
            (slot, self.table.slot(slot).action())
        } else if cx.leaves(&action) {
            let slot = self.leave_uplink(cx, work, key, slot, &action, received, out)?;
            (slot, self.table.slot(slot).action())
        } else {
            (slot, action)
        };
        let unconfirmed = host_moved(&action, host) && !self.claim(cx, slot, &action, host);
        Ok(Step::Follow { slot, action, unconfirmed })
    }

    /// Follows the flow, given its slot and what that says, by a packet of it, and forwards that.
    /// `unconfirmed`: another than its host may have sent it.
    fn follow<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        (slot, mut action): (u32, Action<F>),
        unconfirmed: bool,
        mut received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let port = cx.port_toward(action.adjacency);
        // What leads nowhere lives on: its interface may come back.
        if port != NONE {
            cx.check_mtu(work, port, action.flags & flag::NAT != 0, &received, out)?;
        }
        self.complete(slot, &mut action, p, received.frame.data_mut());
        cx.clamp_mss(received.frame.data_mut(), p, action.uplink);
        let header = (p.proto == tcp::PROTOCOL).then(|| header_of(p, received.frame.data()));
        self.hear(&action);
        flows::track(&self.table, slot, &action, header.as_ref());
        if p.kind != Kind::Flow {
            self.fragments.remember(fragment_key(cx, work), Verdict::Forwarded(action), cx.now);
        }
        let entry = self.table.slot(slot);
        if let Some(Header { segment, flags, seq, ack }) = header
            && flags & tcp::flag::RST == 0
        {
            // In the name of who asked from outside others may send one too.
            let counts = !is_asked(action.flags) || entry.next_seq() == 0;
            if flags & tcp::flag::SYN != 0
                && entry.meta().flow_state == FlowState::Opening
                && counts
            {
                entry.set_next_seq(seq);
            }
            self.track_sequence(cx, slot, &action, segment, ack, [p.src, p.dst]);
        }
        let Received { mut frame, .. } = received;
        F::apply(frame.data_mut(), p, Some(p.proto), &action.rewrite);
        // Of the flow's own host: whether that is silent counts. And what was let in and is not
        // answered keeps no mapping (RFC 4787 REQ-6, RFC 7857 §7).
        let unheard = unconfirmed || self.is_unanswered(&action);
        let seen = if unheard { entry.last_seen() } else { cx.now };
        entry.count((p.end - p.l3).into(), seen);
        cx.send(frame, p, &action, out)
    }

    /// Hands over a packet of a flow; if it is a first fragment, the later ones will follow it.
    fn hand_off_first<B: Buffer>(
        &mut self,
        cx: &Context,
        worker: u8,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        if work.parsed.kind != Kind::Flow {
            self.fragments.remember(fragment_key(cx, work), Verdict::HandedOff(worker), cx.now);
        }
        cx.hand_off(worker, received, out)
    }
}

/// What steering knows of a packet from a LAN.
pub(super) fn traffic_of<F: Family>(work: &Work<F>) -> Traffic<F> {
    let p = &work.parsed;
    Traffic {
        from: RuleFrom::Lan,
        in_port: work.port,
        host: work.host,
        src: p.src,
        dst: p.dst,
        sport: u16::from_be_bytes(p.sport),
        dport: u16::from_be_bytes(p.dport),
        proto: p.proto,
        dscp: p.dscp,
        label: p.label,
    }
}

/// Is it the first segment of a TCP connection?
pub(super) fn opens<F: Family>(p: &Parsed<F>) -> bool {
    const OTHERS: u8 = tcp::flag::ACK | tcp::flag::FIN | tcp::flag::RST;
    p.proto == tcp::PROTOCOL && p.tcp_flags & (tcp::flag::SYN | OTHERS) == tcp::flag::SYN
}

/// Is the ICMP message a request or reply of echo?
fn is_echo<F: Family>(p: &Parsed<F>, frame: &[u8]) -> bool {
    let kind = frame.get(usize::from(p.l4));
    kind.is_some_and(|kind| *kind == F::ECHO_REQUEST || *kind == F::ECHO_REPLY)
}

fn header_of<F: Family>(p: &Parsed<F>, frame: &[u8]) -> Header {
    let header = tcp::Packet::new_unchecked(frame.get(usize::from(p.l4)..).unwrap_or(&[]));
    let len = usize::from(p.end - p.l4).saturating_sub(header.header_len());
    let (seq, flags) = (header.seq(), p.tcp_flags);
    let ack = (flags & tcp::flag::ACK != 0).then(|| header.ack());
    Header { flags, seq, ack, segment: tcp::Segment::new(seq, len as u32, flags) }
}
