//! Fragments go where their first goes, in whatever order they come.
//!
//! A later one that comes before its first waits for it ([`Early`](crate::early)), and leaves after it:
//! by its rewrite, or to the worker that it was handed off to. Queues may share a datagram's fragments,
//! so all of them go by one worker. Nothing is put together here: what overlaps, or comes twice, is the
//! receiver's to judge (RFC 5722, RFC 8200 §4.5). But no fragment may change the header that a rule has
//! seen in the first (RFC 1858, RFC 3128), and none belongs behind the longest packet.

use weir_layout::Family as Ip;
use weir_layout::counters::Counter;
use weir_shm::flows::Stored;
use weir_wire::family::Family;
use weir_wire::parse::Parsed;
use weir_wire::words::Source;
use weir_wire::{ipv4, ipv6, tcp};

use super::DropReason;
use super::batch::Work;
use super::context::{Context, sender};
use super::sessions::Sessions;
use crate::fragments::{FragmentKey, Verdict};
use crate::packet::{Buffer, Output, Received};
use crate::purpose::{Purpose, assembler};

/// Length of a fragment header of IPv6 (RFC 8200 §4.5).
const FRAGMENT_HEADER: u16 = 8;

impl Context {
    /// The worker by which the datagram's fragments go, if it is another one and they have not been
    /// there.
    fn assembler<F: Family>(&self, key: &FragmentKey<F>) -> Option<u8> {
        if self.workers == 1 || self.handed_off {
            return None;
        }
        let worker = assembler(self.key, self.workers, key);
        (worker != self.id).then_some(worker)
    }

    /// Is this the worker by which the datagram's fragments go?
    fn assembles<F: Family>(&self, key: &FragmentKey<F>) -> bool {
        self.workers == 1 || assembler(self.key, self.workers, key) == self.id
    }
}

impl<F: Stored> Sessions<F> {
    /// A first fragment. What becomes of it becomes of those that waited for it.
    pub(super) fn first_fragment<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let key = fragment_key(cx, work);
        // What only poses as its source decides about none of the others, nor about where they go. A flow
        // knows its host.
        if !key.outside && work.slot.is_none() && !cx.snapshot.half.is_behind(work.port, key.src) {
            return Err(Counter::DropSource);
        }
        if let Some(worker) = cx.assembler(&key) {
            return cx.hand_off(worker, received, out);
        }
        let done = self.flow(cx, work, received, out);
        match done {
            Err(Counter::DropSource) => return done,
            Err(_) => self.fragments.refuse(key, cx.now),
            Ok(()) => {}
        }
        self.release(cx, &key, out);
        done
    }

    /// A later fragment: follows its first, or waits for it.
    pub(super) fn later_fragment<B: Buffer>(
        &mut self,
        cx: &Context,
        work: &Work<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        if !is_in_place(received.frame.data(), &work.parsed) {
            return Err(Counter::DropMalformed);
        }
        let key = fragment_key(cx, work);
        if let Some(worker) = cx.assembler(&key) {
            return cx.hand_off(worker, received, out);
        }
        match self.fragments.recall(&key, cx.now) {
            Some(verdict) => follow(cx, work, verdict, received, out),
            None => self.wait(cx, work, &key, &received),
        }
    }

    /// Keeps a copy of a fragment whose first is not there.
    fn wait<B: Buffer>(
        &mut self,
        cx: &Context,
        work: &Work<F>,
        key: &FragmentKey<F>,
        received: &Received<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        if !key.outside && !cx.snapshot.half.is_behind(work.port, p.src) {
            return Err(Counter::DropSource);
        }
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        // All that is outside comes from the next hop's hardware address.
        let source = if key.outside { F::digest(cx.key, &p.src).into() } else { work.host };
        let source = Purpose::Early.hash(cx.key, source);
        let frame = (received.device, received.frame.data());
        let lost = self.early.keep(key, source, frame, cx.now);
        cx.lane.add(Counter::DropFragmentWait, lost);
        Ok(())
    }

    /// Lets the fragments follow that waited for a first one, which has just been decided about.
    fn release<B: Buffer>(&mut self, cx: &Context, key: &FragmentKey<F>, out: &mut impl Output<B>) {
        let verdict = self.fragments.recall(key, cx.now);
        while let Some((device, bytes)) = self.early.take(key) {
            let frame = out.allocate().and_then(|mut frame| frame.set_data(bytes).then_some(frame));
            let released = match (frame, verdict) {
                (_, None) => Err(Counter::DropFragment),
                (None, _) => Err(Counter::DropNoFrame),
                (Some(frame), Some(verdict)) => Work::read(cx, frame.data(), device)
                    .and_then(|work| follow(cx, &work, verdict, Received { frame, device }, out)),
            };
            if let Err(reason) = released {
                cx.lane.add(reason, 1);
            }
        }
    }

    /// See [`Engine::drop_waiting`](super::Engine::drop_waiting).
    pub(super) fn drop_waiting(&mut self, cx: &Context, by: &mut impl FnMut(u8) -> bool) {
        cx.lane.add(Counter::DropFragmentWait, self.early.drop_of(by));
    }
}

/// What became of its first becomes of a later fragment.
fn follow<F: Family, B: Buffer>(
    cx: &Context,
    work: &Work<F>,
    verdict: Verdict<F>,
    received: Received<B>,
    out: &mut impl Output<B>,
) -> Result<(), DropReason> {
    let p = &work.parsed;
    let action = match verdict {
        Verdict::Forwarded(action) => action,
        // No other worker hands it on, or two that name each other would hand it back and forth.
        Verdict::HandedOff(worker) if cx.assembles(&fragment_key(cx, work)) => {
            return cx.hand_off(worker, received, out);
        }
        Verdict::HandedOff(_) => return Err(Counter::DropFragment),
        Verdict::Dropped => return Err(Counter::DropFragment),
    };
    cx.check_side(work, &action, sender(received.frame.data(), work.port))?;
    if p.ttl <= 1 {
        return Err(Counter::DropTtl);
    }
    let Received { mut frame, .. } = received;
    F::apply(frame.data_mut(), p, None, &action.rewrite);
    cx.send(frame, p, &action, out)
}

/// Belongs a later fragment behind its first's transport header, and before the end of the longest
/// packet? In IPv6 the first alone says what it is (RFC 8200 §4.5), so each may be of TCP.
fn is_in_place<F: Family>(frame: &[u8], p: &Parsed<F>) -> bool {
    let word = |at| frame.bytes::<2>(at).map_or(0, u16::from_be_bytes);
    // `head`: bytes before the data that count in the length of the whole.
    let (offset, head, may_be_tcp) = match F::FAMILY {
        Ip::V4 => {
            let offset = (word(p.l3 + 6) & ipv4::FRAGMENT_OFFSET) << 3;
            (offset, p.l4 - p.l3, p.proto == tcp::PROTOCOL)
        }
        Ip::V6 => {
            // The fragment header ends where the data begins, and is not part of the whole.
            let offset = word(p.l4 - 6) & ipv6::FRAGMENT_OFFSET;
            (offset, p.l4 - p.l3 - ipv6::HEADER_LEN as u16 - FRAGMENT_HEADER, true)
        }
    };
    let in_header = may_be_tcp && usize::from(offset) < tcp::HEADER_LEN;
    !in_header && offset.checked_add(head).is_some_and(|at| at.checked_add(p.end - p.l4).is_some())
}

pub(super) fn fragment_key<F: Family>(cx: &Context, work: &Work<F>) -> FragmentKey<F> {
    let p = &work.parsed;
    FragmentKey { outside: cx.is_uplink(work.port), src: p.src, dst: p.dst, ident: p.ident }
}
