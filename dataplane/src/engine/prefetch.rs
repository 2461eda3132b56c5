//! What a new flow will need, asked for while others of its batch are still on their way.
//!
//! A flow is made of half a dozen places in memory that have nothing to do with each other: both
//! directions' tags and slots, the endpoint's mapping, the external port's. One after the other
//! they would be as many cache misses; prefetched, those of a batch are one. A flow that leaves an
//! uplink is an old one that ends and a new one, twice as many. What is prefetched is only asked for:
//! whether it comes to pass is decided when it is the packet's turn. Only the uplink is decided here,
//! and kept if it can still be used by then.
//!
//! The walks over the table look ahead in the same way, a few groups.

use weir_layout::flow::{GROUP, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::parse::Kind;

use super::admit::{EgressChoice, Source};
use super::batch::{Stage, Work};
use super::context::Context;
use super::sessions::{Sessions, has_mapping, translated};
use super::slow_path::traffic_of;
use crate::mappings::Hashed;
use crate::nat::{Endpoint, External};
use crate::packet::{Buffer, Received};
use crate::steering;

/// Times that a port is drawn for an endpoint whose own is taken.
const DRAWS: usize = 2;

/// What is prefetched of a flow.
#[derive(Clone, Copy)]
pub(super) struct Prefetched<F: Family> {
    /// The rule that lets it begin.
    pub(super) rule: Option<u8>,
    pub(super) endpoint: Hashed<Endpoint<F>>,
    /// Where it goes if the endpoint has no mapping.
    pub(super) choice: Option<EgressChoice<F>>,
    /// What it will perhaps look like outside.
    external: Option<External<F>>,
    /// Hash of the packets that answer.
    answers: u64,
}

impl<F: Stored> Sessions<F> {
    /// Prepares for the packets that begin a flow, or take theirs to another uplink, stage by stage
    /// over the batch.
    #[cold]
    pub(super) fn prefetch_new<B: Buffer>(
        &mut self,
        cx: &mut Context,
        stages: &mut [Stage<F>],
        batch: &[Received<B>],
    ) {
        let leaves = |slot| cx.leaves(&self.table.slot(slot).action());
        for (stage, received) in stages.iter_mut().zip(batch) {
            if let Stage::Plain { plain, hash, slot } = stage
                && slot.is_none_or(leaves)
            {
                let sent = (received.frame.data(), received.device);
                let work = cx.slow_path(plain, *hash, *slot, sent);
                *stage = work.map_or_else(Stage::Dropped, Stage::Parsed);
            }
            if let Stage::Parsed(work) = stage {
                work.leaves = work.slot.is_some_and(leaves);
            }
        }
        for_each_new(stages, |work| self.prefetch_endpoint(cx, work));
        for_each_new(stages, |work| self.prefetch_mapping(work));
        for_each_new(stages, |work| self.prefetch_egress(cx, work));
        for _ in 0..DRAWS {
            for_each_new(stages, |work| self.prefetch_another_port(cx, work));
        }
        for_each_new(stages, |work| self.prefetch_answers(cx, work));
        for_each_new(stages, |work| self.prefetch_slots(work));
    }

    /// Asks for where the endpoint's mapping will be looked for, of a packet that may begin a flow,
    /// and for what ends with the one it has.
    fn prefetch_endpoint(&self, cx: &Context, work: &mut Work<F>) {
        if let Some(slot) = work.slot {
            let forward = self.table.slot(slot);
            self.table.prefetch_entry(forward.action().peer);
            if let Some(entry) = forward.read()
                && has_mapping(&cx.snapshot.half, &entry)
            {
                self.mappings.prefetch_external(&self.external_of(&entry));
            }
        }
        let p = &work.parsed;
        if p.kind != Kind::Flow || cx.is_uplink(work.port) {
            return;
        }
        let traffic = traffic_of(work);
        let ruling = steering::ruling(&cx.snapshot.half, &cx.control, &traffic);
        if ruling.action.denies() {
            return;
        }
        let endpoint = self.endpoint(ruling.policy, &traffic);
        if self.mappings.maps(p.proto) {
            self.mappings.prefetch(&endpoint);
        }
        work.new = Some(Prefetched {
            rule: ruling.rule,
            endpoint,
            choice: None,
            external: None,
            answers: 0,
        });
    }

    /// Asks for the endpoint's mapping.
    fn prefetch_mapping(&self, work: &mut Work<F>) {
        if let Some(Prefetched { endpoint, .. }) = work.new
            && self.mappings.maps(endpoint.of.proto)
        {
            self.mappings.prefetch_mapping(&endpoint);
        }
    }

    /// Decides where the flow goes, and asks for the external port.
    fn prefetch_egress(&mut self, cx: &mut Context, work: &mut Work<F>) {
        let traffic = traffic_of(work);
        let Some(new) = &mut work.new else { return };
        let mapping = self.mapping_of(&new.endpoint);
        if let Some(mapping) =
            mapping.filter(|mapping| self.is_in_force(cx, &new.endpoint.of, mapping))
        {
            new.external = Some(mapping.external);
            return;
        }
        let Ok(uplink) = self.choose_uplink(cx, new.endpoint.of.policy, &traffic) else { return };
        new.choice = self.egress_by(cx, uplink, &work.parsed.key()).ok();
        match new.choice.map(|choice| choice.source) {
            Some(Source::Port(first, _) | Source::Service(first)) => {
                new.external = Some(first.of);
                if self.mappings.maps(first.of.proto) {
                    self.mappings.prefetch_external(&first);
                }
            }
            Some(Source::Address(address) | Source::Pool(address)) => {
                let (proto, port) = (traffic.proto, traffic.sport);
                new.external = Some(External { proto, address, port });
            }
            Some(Source::Same | Source::Mapped(_) | Source::Agreed(_) | Source::None(_)) | None => {
            }
        }
    }

    /// Draws another port for an endpoint, and asks for that, when the first is taken.
    fn prefetch_another_port(&mut self, cx: &mut Context, work: &mut Work<F>) {
        let Some(Prefetched { choice: Some(choice), external, .. }) = &mut work.new else { return };
        let maps = cx.snapshot.half.maps(F::path(choice.uplink), work.parsed.proto);
        let Source::Port(first, slice) = &mut choice.source else { return };
        if !maps || self.mappings.is_free(first) {
            return;
        }
        let port = slice.draw_like(first.of.port, &mut cx.random);
        *first = self.mappings.external(External { port, ..first.of });
        self.mappings.prefetch_external(first);
        *external = Some(first.of);
    }

    /// Asks for where the answers' entry will be looked for.
    fn prefetch_answers(&self, cx: &Context, work: &mut Work<F>) {
        let Some(new) = &mut work.new else { return };
        let key = work.parsed.key();
        let outside = new.external.map_or(key, |external| translated(&key, &external));
        new.answers = outside.reversed().hash(cx.key);
        self.table.prefetch_tags(new.answers);
        self.table.prefetch_spills(new.answers);
    }

    /// Asks for the slots that the entries will take.
    fn prefetch_slots(&self, work: &mut Work<F>) {
        if let Some(Prefetched { answers, .. }) = work.new {
            self.table.prefetch_free(work.hash);
            self.table.prefetch_free(answers);
        }
    }

    /// Asks for the other direction of those entries in a group.
    pub(super) fn prefetch_peers(&self, group: u32, which: impl Fn(&Action<F>) -> bool) {
        let group = group % self.table.capacity();
        if self.table.is_group_free(group) {
            return;
        }
        for index in group..group + GROUP {
            let slot = self.table.slot(index);
            let action = slot.action();
            if slot.is_valid() && which(&action) {
                self.table.prefetch_entry(action.peer);
            }
        }
    }

    /// Asks for where the mappings of the flows in a group will be.
    pub(super) fn prefetch_mappings(&self, cx: &Context, group: u32) {
        let group = group % self.table.capacity();
        if self.table.is_group_free(group) {
            return;
        }
        let entries = (group..group + GROUP).filter_map(|index| self.table.slot(index).read());
        for entry in entries.filter(|entry| entry.flags & flag::INITIATED != 0) {
            if has_mapping(&cx.snapshot.half, &entry) {
                self.mappings.prefetch(&self.endpoint_of(cx, &entry));
                self.mappings.prefetch_external(&self.external_of(&entry));
            }
        }
    }
}

fn for_each_new<F: Family>(stages: &mut [Stage<F>], mut then: impl FnMut(&mut Work<F>)) {
    for stage in stages {
        if let Stage::Parsed(work) = stage
            && (work.slot.is_none() || work.leaves)
        {
            then(work);
        }
    }
}
