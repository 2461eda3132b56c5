//! A batch's stages, and the fast path: the next packet of an established flow.

use weir_layout::counters::Counter;
use weir_layout::flow::FlowKey4;
use weir_shm::flows::Action4;
use weir_wire::family::V4;
use weir_wire::forward::{Egress, Ingress, may_leave};
use weir_wire::hash::{flow4, flow4_words};
use weir_wire::parse::{Parsed, Reject, parse};
use weir_wire::plain::Packet;
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
pub(super) enum Stage {
    /// Perhaps the next of an established flow.
    Plain { plain: Packet, hash: u64, slot: Option<u32> },
    /// Any other.
    Parsed(Work),
    /// It ends here.
    Dropped(DropReason),
}

/// How a packet of an established flow leaves.
struct Departure {
    slot: u32,
    action: Action4,
    egress: Egress,
}

/// What the first stages found out about a packet that takes the slow path.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) parsed: Parsed,
    pub(super) port: u8,
    pub(super) hash: u64,
    pub(super) slot: Option<u32>,
    /// The flow leaves its uplink, which is down.
    pub(super) leaves: bool,
    /// The flow it may begin.
    pub(super) new: Option<Prefetched>,
}

impl Context {
    /// What takes the slow path after all.
    pub(super) fn slow_path(
        &self,
        plain: &Packet,
        hash: u64,
        slot: Option<u32>,
        device: u8,
    ) -> Result<Work, DropReason> {
        let untagged = self.untagged.get(usize::from(device)).copied().flatten();
        let Untagged { port, .. } = untagged.ok_or(Counter::DropPort)?;
        Ok(Work { parsed: established::parsed(plain), port, hash, slot, leaves: false, new: None })
    }
}

impl Sessions<V4> {
    /// Takes a batch through the stages; leaves it empty.
    pub(super) fn process<B: Buffer>(
        &mut self,
        cx: &mut Context,
        batch: &mut Vec<Received<B>>,
        out: &mut impl Output<B>,
    ) {
        while !batch.is_empty() {
            let mut stages = [Stage::Dropped(Counter::DropNotIp); BATCH];
            let count = batch.len().min(BATCH);
            for (stage, received) in stages.iter_mut().zip(batch.iter()) {
                *stage = self.classify(cx, received.frame.data(), received.device);
            }
            for stage in &stages[..count] {
                if let Stage::Plain { hash, .. } | Stage::Parsed(Work { hash, .. }) = stage {
                    self.table.prefetch_slot(*hash);
                }
            }
            let all_up = cx.usable_uplinks().len() == u32::from(cx.uplinks);
            let mut begin = false;
            for stage in &mut stages[..count] {
                let slot = match stage {
                    Stage::Plain { plain, hash, slot } => {
                        *slot = self.table.find(*hash, &FlowKey4::from_words(plain.key()));
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
    fn classify(&self, cx: &Context, frame: &[u8], device: u8) -> Stage {
        if cx.untagged.get(usize::from(device)).is_some_and(Option::is_some)
            && let Some(plain) = established::read(frame)
        {
            let hash = flow4_words(cx.key, plain.key());
            self.table.prefetch_tags(hash);
            return Stage::Plain { plain, hash, slot: None };
        }
        self.parse(cx, frame, device).map_or_else(Stage::Dropped, Stage::Parsed)
    }

    fn parse(&self, cx: &Context, frame: &[u8], device: u8) -> Result<Work, DropReason> {
        let parsed = parse(frame).map_err(|reject| match reject {
            Reject::NotIp | Reject::Ipv4 | Reject::Ipv6 | Reject::StackedVlan => Counter::DropNotIp,
            _ => Counter::DropMalformed,
        })?;
        let half = &cx.snapshot.half;
        let device = half.devices.get(usize::from(device)).ok_or(Counter::DropPort)?;
        let port = half.port_of(device.ifindex, parsed.vlan).ok_or(Counter::DropPort)?;
        let hash = flow4(cx.key, &parsed.key());
        self.table.prefetch_tags(hash);
        Ok(Work { parsed, port, hash, slot: None, leaves: false, new: None })
    }

    fn act<B: Buffer>(
        &mut self,
        cx: &mut Context,
        stage: &Stage,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        match stage {
            Stage::Plain { plain, hash, slot } => {
                let leaves = slot.and_then(|slot| self.established(cx, plain, &received, slot));
                if let Some(departure) = leaves {
                    return self.forward(cx, plain, &departure, received.frame, out);
                }
                let work = cx.slow_path(plain, *hash, *slot, received.device)?;
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
        plain: &Packet,
        received: &Received<B>,
        slot: u32,
    ) -> Option<Departure> {
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
        plain: &Packet,
        departure: &Departure,
        mut frame: B,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let Departure { slot, action, egress } = departure;
        let bytes = u64::from(plain.ip.total());
        let rewrite = action.rewrite.words();
        rewrite::frame4::<{ established::L3 }>(frame.data_mut(), plain, rewrite, &egress.link)
            .ok_or(Counter::DropMalformed)?;
        if let Some(segment) = plain.segment() {
            let FlowKey4 { src, dst, .. } = FlowKey4::from_words(plain.key());
            self.track_sequence(cx, *slot, action, segment, plain.acknowledged(), [src, dst]);
        }
        self.table.slot(*slot).count(bytes, cx.now);
        cx.transmit(egress, frame, action.uplink, bytes, out)
    }
}
