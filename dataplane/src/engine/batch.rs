//! A batch's stages, and the fast path: the next packet of an established flow.

use weir_layout::counters::Counter;
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::forward::{Egress, Ingress, may_leave};
use weir_wire::key::FlowKey;
use weir_wire::parse::{Parsed, Reject};
use weir_wire::plain::{Header, Packet};
use weir_wire::rewrite;

use super::BATCH;
use super::DropReason;
use super::context::{Context, Untagged, sender};
use super::prefetch::Prefetched;
use super::sessions::Sessions;
use crate::established;
use crate::packet::{Buffer, Output, Received};

/// A packet between the stages.
#[derive(Clone, Copy)]
pub(super) enum Stage<F: Family> {
    /// Perhaps the next of an established flow.
    Plain { plain: Packet<F>, hash: u64, slot: Option<u32> },
    /// Any other.
    Parsed(Work<F>),
    /// It ends here.
    Dropped(DropReason),
}

/// How a packet of an established flow leaves.
struct Departure<F: Family> {
    slot: u32,
    action: Action<F>,
    egress: Egress,
}

/// What the first stages found out about a packet that takes the slow path.
#[derive(Clone, Copy)]
pub(super) struct Work<F: Family> {
    pub(super) parsed: Parsed<F>,
    pub(super) port: u8,
    /// Who sent it: the word of its adjacency.
    pub(super) host: u64,
    pub(super) hash: u64,
    pub(super) slot: Option<u32>,
    /// The flow leaves its uplink, which is down.
    pub(super) leaves: bool,
    /// The flow it may begin.
    pub(super) new: Option<Prefetched<F>>,
}

impl Context {
    /// What takes the slow path after all.
    pub(super) fn slow_path<F: Family>(
        &self,
        plain: &Packet<F>,
        hash: u64,
        slot: Option<u32>,
        (frame, device): (&[u8], u8),
    ) -> Result<Work<F>, DropReason> {
        let untagged = self.untagged.get(usize::from(device)).copied().flatten();
        let Untagged { port, .. } = untagged.ok_or(Counter::DropPort)?;
        let host = sender(frame, port).to_word();
        let parsed = established::parsed(plain);
        Ok(Work { parsed, port, host, hash, slot, leaves: false, new: None })
    }
}

impl<F: Family> Work<F> {
    /// What a frame says that came in by a device.
    pub(super) fn read(cx: &Context, frame: &[u8], device: u8) -> Result<Self, DropReason> {
        let parsed = F::parse(frame).map_err(|reject| match reject {
            Reject::NotIp | Reject::Ipv4 | Reject::Ipv6 | Reject::StackedVlan => Counter::DropNotIp,
            _ => Counter::DropMalformed,
        })?;
        let half = &cx.snapshot.half;
        let device = half.devices.get(usize::from(device)).ok_or(Counter::DropPort)?;
        let port = half.port_of(device.ifindex, parsed.vlan).ok_or(Counter::DropPort)?;
        let hash = parsed.key().hash(cx.key);
        let host = sender(frame, port).to_word();
        Ok(Self { parsed, port, host, hash, slot: None, leaves: false, new: None })
    }
}

impl<F: Stored> Sessions<F> {
    /// Takes the first frames of a batch, so many, out of it and through the stages.
    pub(super) fn process<B: Buffer>(
        &mut self,
        cx: &mut Context,
        batch: &mut Vec<Received<B>>,
        mut left: usize,
        out: &mut impl Output<B>,
    ) {
        if let Some(stateless) = cx.snapshot.half.stateless(F::FAMILY) {
            let policy = stateless.policy;
            for received in batch.drain(..left) {
                if let Err(reason) = cx.carry::<F, B>(policy, received, out) {
                    cx.lane.add(reason, 1);
                }
            }
            return;
        }
        while left > 0 {
            let mut stages = [Stage::Dropped(Counter::DropNotIp); BATCH];
            let count = left.min(BATCH);
            left -= count;
            for (stage, received) in stages.iter_mut().zip(&batch[..count]) {
                *stage = self.classify(cx, received.frame.data(), received.device);
            }
            for stage in &stages[..count] {
                if let Stage::Plain { hash, .. } | Stage::Parsed(Work { hash, .. }) = stage {
                    self.table.prefetch_slot(*hash);
                }
            }
            let all_up = cx.usable_uplinks::<F>().len() == u32::from(cx.uplinks);
            let mut begin = false;
            for stage in &mut stages[..count] {
                let slot = match stage {
                    Stage::Plain { plain, hash, slot } => {
                        *slot = self.table.find(*hash, &FlowKey::from_words(plain.key()));
                        *slot
                    }
                    Stage::Parsed(work) => {
                        work.slot = self.table.find(work.hash, &work.parsed.key());
                        work.slot
                    }
                    Stage::Dropped(_) => continue,
                };
                begin |=
                    slot.is_none_or(|slot| !all_up && cx.leaves(&self.table.slot(slot).action()));
            }
            if begin {
                self.prefetch_new(cx, &mut stages[..count], batch);
            }
            for (stage, received) in stages.iter().zip(batch.drain(..count)) {
                if let Err(reason) = self.act(cx, stage, received, out) {
                    cx.lane.add(reason, 1);
                }
            }
        }
    }

    #[inline(always)]
    fn classify(&self, cx: &Context, frame: &[u8], device: u8) -> Stage<F> {
        if cx.untagged.get(usize::from(device)).is_some_and(Option::is_some)
            && let Some(plain) = established::read(frame)
        {
            let hash = F::hash(cx.key, &plain.key());
            self.table.prefetch_tags(hash);
            return Stage::Plain { plain, hash, slot: None };
        }
        self.parse(cx, frame, device).map_or_else(Stage::Dropped, Stage::Parsed)
    }

    fn parse(&self, cx: &Context, frame: &[u8], device: u8) -> Result<Work<F>, DropReason> {
        let work = Work::read(cx, frame, device)?;
        self.table.prefetch_tags(work.hash);
        Ok(work)
    }

    fn act<B: Buffer>(
        &mut self,
        cx: &mut Context,
        stage: &Stage<F>,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        match stage {
            Stage::Plain { plain, hash, slot } => {
                let leaves = slot.and_then(|slot| self.established(cx, plain, &received, slot));
                if let Some(departure) = leaves {
                    return self.forward(cx, plain, &departure, received.frame, out);
                }
                let sent = (received.frame.data(), received.device);
                let work = cx.slow_path(plain, *hash, *slot, sent)?;
                self.act_on(cx, &work, received, out)
            }
            Stage::Parsed(work) => self.act_on(cx, work, received, out),
            Stage::Dropped(reason) => Err(*reason),
        }
    }

    /// How the packet leaves, if that is the worker's to say and its flow is where it should be. An
    /// earlier packet of the batch may have ended the flow.
    #[inline(always)]
    fn established<B: Buffer>(
        &self,
        cx: &Context,
        plain: &Packet<F>,
        received: &Received<B>,
        slot: u32,
    ) -> Option<Departure<F>> {
        let Untagged { port, side } = (*cx.untagged.get(usize::from(received.device))?)?;
        let ingress = Ingress { side, sender: sender(received.frame.data(), port).to_word() };
        let entry = self.table.slot(slot);
        let action = entry.action();
        let egress = cx.egress(&action)?;
        let leaves = action.worker == cx.id
            && entry.holds(plain.key())
            && egress.link.vlan == 0
            && may_leave(plain.ip.total(), &ingress, &action.direction(), &egress);
        leaves.then_some(Departure { slot, action, egress })
    }

    #[inline(always)]
    fn forward<B: Buffer>(
        &self,
        cx: &Context,
        plain: &Packet<F>,
        departure: &Departure<F>,
        mut frame: B,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let Departure { slot, action, egress } = departure;
        let bytes = u64::from(plain.ip.total());
        let rewrite = F::rewrite_words(&action.rewrite);
        rewrite::frame::<F, { established::L3 }>(frame.data_mut(), plain, rewrite, &egress.link)
            .ok_or(Counter::DropMalformed)?;
        if let Some(segment) = plain.segment() {
            let (ends, _) = F::split(&plain.key());
            self.track_sequence(cx, *slot, action, segment, plain.acknowledged(), ends);
        }
        self.table.slot(*slot).count(bytes, cx.now);
        cx.transmit(egress, frame, F::path(action.uplink), bytes, out)
    }
}
