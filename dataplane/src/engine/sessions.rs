//! The flows of a worker, and what belongs to them.

use weir_layout::NONE;
use weir_layout::adjacency::Adjacency;
use weir_layout::control::{ControlHalf, RuleFrom, Translate, Uplink};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, flag, flows_for};
use weir_layout::nat_log::Event;
use weir_shm::counters::PathCounter;
use weir_shm::flows::{Action, FlowTable, Stored};
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::rewrite::Rewrite;
use weir_wire::tcp::{self, Place};

use super::Regions;
use super::aging::Passes;
use super::agreed::Agreements;
use super::claims::Claims;
use super::context::Context;
use super::published::is_asked;
use super::sweep::Sweep;
use crate::early::Early;
use crate::fragments::Fragments;
use crate::heavy::Heavy;
use crate::mappings::{Hashed, Mappings};
use crate::nat::{Endpoint, External};
use crate::observer::Observer;
use crate::permits::Permits;
use crate::shares::Shares;
use crate::steering::{self, Traffic};
use weir_wire::key::FlowKey;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Sessions<F: Stored> {
    pub(super) table: FlowTable<F>,
    pub(super) mappings: Mappings<F>,
    pub(super) fragments: Fragments<F>,
    pub(super) early: Early<F>,
    /// Who may come in by mappings.
    pub(super) permits: Permits<F>,
    /// Flows that were let in and whose hosts have not been heard.
    pub(super) unheard: u64,
    /// What hosts have agreed on with servers.
    pub(super) agreements: Agreements,
    /// Flows of each host.
    pub(super) shares: Shares,
    /// Flows of other workers, as of the last tick.
    pub(super) elsewhere: u64,
    /// Flows that are the worker's.
    pub(super) flows: u64,
    /// Those of them that stay inside.
    pub(super) inside: u64,
    pub(super) claims: Claims,
    pub(super) heavy: Heavy,
    pub(super) observer: Observer,
    /// Where the aging walk is.
    pub(super) cursor: u32,
    pub(super) passes: Passes,
    pub(super) sweep: Sweep,
}

impl<F: Stored> Sessions<F> {
    /// Of worker `id`, in this table. `entropy` is a secret of this process.
    pub(super) fn new(id: u8, regions: &Regions, table: FlowTable<F>, entropy: [u64; 2]) -> Self {
        Self {
            table,
            mappings: Mappings::new(entropy, 0),
            fragments: Fragments::new(entropy),
            early: Early::default(),
            permits: Permits::default(),
            unheard: 0,
            agreements: regions.agreements[F::FAMILY.index()].clone(),
            shares: Shares::new(regions.host_flows.clone()),
            elsewhere: 0,
            flows: 0,
            inside: 0,
            claims: Claims::default(),
            heavy: Heavy::new(regions.hash_key),
            observer: Observer::new(id, F::FAMILY, regions.hash_key, regions.observations.clone()),
            cursor: 0,
            passes: Passes::default(),
            sweep: Sweep::default(),
        }
    }

    /// Makes room for the mappings of the worker's share of flows, where a path makes any. Once TCP has
    /// some, it may have them for as long as the worker lives: flows keep what they have.
    pub(super) fn expect_mappings(&mut self, cx: &Context) {
        if cx.snapshot.half.maps_tcp != 0 {
            self.mappings.map_tcp();
        }
        let makes_any = |uplink: &Uplink| uplink.path(F::FAMILY).translation() == Translate::Napt;
        if cx.snapshot.half.uplinks.iter().any(makes_any) {
            let flows = flows_for(self.table.capacity()) as usize;
            self.mappings.reserve(flows / usize::from(cx.workers));
        }
    }

    /// Counts a flow that was made, on its uplink if it has one, and for whom: index of the adjacency of
    /// its first sender.
    pub(super) fn count_new(&mut self, cx: &Context, uplink: u8, sender: u16) {
        self.flows += 1;
        if uplink == NONE {
            self.count_inside(cx, self.inside + 1);
        }
        self.shares.add(sender);
        cx.lane.add(Counter::FlowsCreated, 1);
        cx.lane.add_path(F::path(uplink), PathCounter::FlowsCreated, 1);
        cx.lane.add_path(F::path(uplink), PathCounter::FlowsActive, 1);
    }

    /// So many of its flows stay inside now.
    pub(super) fn count_inside(&mut self, cx: &Context, flows: u64) {
        self.inside = flows;
        cx.lane.set_inside(F::FAMILY, flows);
    }

    /// Ends a flow, given its forward slot.
    pub(super) fn remove(&mut self, cx: &Context, forward: u32) {
        let slot = self.table.slot(forward);
        if !slot.is_valid() {
            return;
        }
        let (meta, action) = (slot.meta(), slot.action());
        self.shares.remove(self.table.slot(action.peer).action().adjacency);
        self.hear(&action);
        if meta.is_mapped {
            let external = external_of(meta.proto, &action.rewrite);
            let ended = self.mappings.release(&self.mappings.external(external));
            if let Some((endpoint, mapping)) = ended.filter(|_| cx.nat_log.is_on()) {
                self.tell_of_end(cx, &endpoint, &mapping);
            }
        } else if cx.nat_log.is_on() {
            self.tell_of_flow(cx, Event::End, forward);
        }
        self.table.retire(forward);
        self.table.retire(action.peer);
        self.flows -= 1;
        if meta.uplink == NONE {
            self.count_inside(cx, self.inside - 1);
        }
        cx.lane.add_path(F::path(meta.uplink), PathCounter::FlowsActive, 1u64.wrapping_neg());
    }
}

impl<F: Stored> Sessions<F> {
    /// Follows the sequence numbers of a TCP direction by a segment, from and to these addresses.
    #[inline]
    pub(super) fn track_sequence(
        &self,
        cx: &Context,
        slot: u32,
        action: &Action<F>,
        segment: tcp::Segment,
        ack: Option<u32>,
        [src, dst]: [F::Address; 2],
    ) {
        let place =
            self.table.slot(slot).track_sequence(segment, ack, self.table.slot(action.peer));
        // Of what began outside and is not proven, anybody could send segments.
        let proven = !is_asked(action.flags) || action.flow_state == FlowState::Established;
        if !segment.has_data || place == Place::Outside || !proven {
            return;
        }
        cx.lane.add_path(F::path(action.uplink), PathCounter::Segments, 1);
        if place == Place::Again {
            let (user, remote) = match action.direction().is_from_inside() {
                true => (src, dst),
                false => (action.rewrite.dst, src),
            };
            cx.lane.add_resent(F::path(action.uplink), F::fold(&user), F::fold(&remote));
        }
    }

    /// What steering knows of a flow by its entry, which does not keep the code point of its
    /// packets, nor their label.
    pub(super) fn traffic_in(&self, cx: &Context, forward: &Entry<F>) -> Traffic<F> {
        let host = cx.adjacencies.get(self.table.slot(forward.peer).action().adjacency);
        Traffic {
            from: RuleFrom::Lan,
            in_port: host.map_or(NONE, |host| host.port),
            host: host.map_or(0, Adjacency::to_word),
            src: forward.key.src(),
            dst: forward.key.dst(),
            sport: u16::from_be_bytes(forward.key.sport()),
            dport: u16::from_be_bytes(forward.key.dport()),
            proto: forward.key.proto(),
            dscp: 0,
            label: 0,
        }
    }

    /// The endpoint whose mapping the flow uses, if it uses one.
    pub(super) fn endpoint_of(&self, cx: &Context, forward: &Entry<F>) -> Hashed<Endpoint<F>> {
        let traffic = self.traffic_in(cx, forward);
        self.endpoint(steering::policy(&cx.snapshot.half, &cx.control, &traffic), &traffic)
    }

    /// The endpoint that sends it, under a policy.
    pub(super) fn endpoint(&self, policy: u8, traffic: &Traffic<F>) -> Hashed<Endpoint<F>> {
        let Traffic { proto, src: address, sport: port, .. } = *traffic;
        self.mappings.endpoint(Endpoint { proto, policy, address, port })
    }

    /// The external port that the flow uses.
    pub(super) fn external_of(&self, forward: &Entry<F>) -> Hashed<External<F>> {
        self.mappings.external(external_of(forward.key.proto(), &forward.rewrite))
    }
}

/// Does the flow, given its forward entry, hold its endpoint's mapping by an uplink that still has such?
pub(super) fn has_mapping<F: Family>(half: &ControlHalf, forward: &Entry<F>) -> bool {
    let path = half.path(F::path(forward.uplink));
    forward.state_owner.is_mapped()
        && path.is_some_and(|path| path.translation() == Translate::Napt)
}

/// Has a flow a port of its uplink's, given the flags of its forward entry? One that began outside was
/// asked for at a published one.
pub(super) const fn uses_port(flags: u8) -> bool {
    flags & flag::NAT != 0 && !is_asked(flags)
}

/// What a flow of this protocol looks like outside, whose packets from inside are rewritten so.
pub(super) fn external_of<F: Family>(proto: u8, rewrite: &Rewrite<F::Address>) -> External<F> {
    External { proto, address: rewrite.src, port: u16::from_be_bytes(rewrite.sport) }
}

/// The key after source translation.
pub(super) fn translated<F: Family>(key: &FlowKey<F>, external: &External<F>) -> FlowKey<F> {
    let port = external.port.to_be_bytes();
    FlowKey::new(external.address, key.dst(), port, key.dport(), key.proto())
}

#[cfg(test)]
mod tests {
    use weir_layout::adjacency::{NEXT_HOPS, next_hop};
    use weir_layout::control::PathId;
    use weir_wire::family::{V4, V6};
    use weir_wire::key::{FlowKey4, FlowKey6};
    use weir_wire::udp;

    use super::*;
    use crate::flows::{self, End, NewFlow};

    const KEY: [u64; 2] = [3, 5];

    fn a_flow_that_ends_frees_its_slots_and_its_mapping<F: Stored>(
        first: FlowKey<F>,
        translated: FlowKey<F>,
    ) {
        let regions = Regions::anonymous(64, KEY).unwrap();
        let cx = Context::new(0, 1, &regions, KEY);
        let table = FlowTable::<F>::anonymous(64).unwrap();
        let mut sessions = Sessions::new(0, &regions, table, KEY);
        let keys = [first, translated.reversed()];
        let hashes = keys.map(|key| key.hash(KEY));
        let host = Adjacency { mac: [2; 6], port: 0 };
        let new = NewFlow::<F> {
            first,
            translated,
            hashes,
            uplink: 1,
            initiator: End { adjacency: NEXT_HOPS as u16, inside: Some(host) },
            responder: End { adjacency: next_hop(PathId::v4(1)), inside: None },
            worker: 0,
            is_mapped: true,
            now: 1000,
        };
        let forward = flows::create(&sessions.table, &new).unwrap();
        let External { proto, address, port } =
            external_of::<F>(udp::PROTOCOL, &sessions.table.slot(forward).action().rewrite);
        let endpoint = sessions.mappings.endpoint(Endpoint { proto, policy: 0, address, port });
        let external = sessions.mappings.external(External { proto, address, port });
        sessions.mappings.make(&endpoint, 1, &external);
        sessions.flows = 1;
        for _ in 0..2 {
            sessions.remove(&cx, forward);
            assert_eq!((sessions.flows, sessions.mappings.len()), (0, 0));
            assert!(sessions.mappings.is_free(&external));
            for (hash, key) in hashes.iter().zip(&keys) {
                assert_eq!(sessions.table.find(*hash, key), None);
            }
        }
    }

    #[test]
    fn a_flow_that_ends_frees_its_slots_and_its_mapping_in_either_family() {
        let (sport, dport) = ([1, 1], [0, 53]);
        let key = |src| FlowKey4::new(src, [9; 4], sport, dport, udp::PROTOCOL);
        let [first, translated] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(key);
        a_flow_that_ends_frees_its_slots_and_its_mapping::<V4>(first, translated);
        let key = |src| FlowKey6::new(src, [9; 16], sport, dport, udp::PROTOCOL);
        let [first, translated] = [[10; 16], [20; 16]].map(key);
        a_flow_that_ends_frees_its_slots_and_its_mapping::<V6>(first, translated);
    }
}
