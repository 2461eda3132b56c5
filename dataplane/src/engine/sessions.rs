//! The flows of a worker, and what belongs to them.

use weir_layout::flow::{FlowEntry4, FlowKey4, flag, flows_for};
use weir_shm::counters::UplinkCounter;
use weir_shm::flows::{Action4, FlowTable4};
use weir_wire::icmp;
use weir_wire::tcp::{self, Place};

use super::Regions;
use super::aging::Passes;
use super::claims::Claims;
use super::context::Context;
use super::sweep::Sweep;
use crate::fragments::Fragments;
use crate::heavy::Heavy;
use crate::mappings::{Hashed, Mappings};
use crate::nat::{Endpoint, External};
use crate::observer::Observer;
use crate::steering::{self, Traffic};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) table: FlowTable4,
    pub(super) mappings: Mappings,
    pub(super) fragments: Fragments,
    /// Flows that are the worker's.
    pub(super) flows: u64,
    pub(super) claims: Claims,
    pub(super) heavy: Heavy,
    pub(super) observer: Observer,
    /// Where the aging walk is.
    pub(super) cursor: u32,
    pub(super) passes: Passes,
    pub(super) sweep: Sweep,
}

impl Sessions {
    /// Of worker `id` of `workers`. `entropy` is a secret of this process.
    pub(super) fn new(id: u8, workers: u8, regions: &Regions, entropy: [u64; 2]) -> Self {
        // The worker's share of the flows that the table is made for: an index that grew under load
        // would hold up a batch while it moves.
        let mappings = flows_for(regions.flows.capacity()) as usize / usize::from(workers);
        Self {
            table: regions.flows.clone(),
            mappings: Mappings::new(entropy, mappings),
            fragments: Fragments::new(entropy),
            flows: 0,
            claims: Claims::default(),
            heavy: Heavy::new(regions.hash_key),
            observer: Observer::new(id, regions.hash_key, regions.observations.clone()),
            cursor: 0,
            passes: Passes::default(),
            sweep: Sweep::default(),
        }
    }

    /// Follows the sequence numbers of a TCP direction by a segment, from and to these addresses.
    #[inline]
    pub(super) fn track_sequence(
        &self,
        cx: &Context,
        slot: u32,
        action: &Action4,
        segment: tcp::Segment,
        ack: Option<u32>,
        [src, dst]: [[u8; 4]; 2],
    ) {
        let place =
            self.table.slot(slot).track_sequence(segment, ack, self.table.slot(action.peer));
        if !segment.has_data || place == Place::Outside {
            return;
        }
        cx.lane.add_uplink(action.uplink, UplinkCounter::Segments, 1);
        if place == Place::Again {
            let (user, remote) = match action.direction().is_from_inside() {
                true => (src, dst),
                false => (action.rewrite.dst, src),
            };
            cx.lane.add_resent(action.uplink, user, remote);
        }
    }

    /// What steering knows of a flow by its entry, which does not keep the code point of its
    /// packets.
    pub(super) fn traffic_in(&self, cx: &Context, forward: &FlowEntry4) -> Traffic {
        Traffic {
            in_port: cx.port_toward(self.table.slot(forward.peer).action().adjacency),
            src: forward.src,
            dst: forward.dst,
            sport: u16::from_be_bytes(forward.sport),
            dport: u16::from_be_bytes(forward.dport),
            proto: forward.proto,
            dscp: 0,
        }
    }

    /// The endpoint whose mapping the flow uses, if it uses one.
    pub(super) fn endpoint_of(&self, cx: &Context, forward: &FlowEntry4) -> Hashed<Endpoint> {
        self.endpoint(cx, &self.traffic_in(cx, forward))
    }

    /// The endpoint that sends it.
    pub(super) fn endpoint(&self, cx: &Context, traffic: &Traffic) -> Hashed<Endpoint> {
        let policy = steering::policy(&cx.snapshot.half, traffic);
        let Traffic { proto, src: address, sport: port, .. } = *traffic;
        self.mappings.endpoint(Endpoint { proto, policy, address, port })
    }

    /// The external port that the flow uses.
    pub(super) fn external_of(&self, forward: &FlowEntry4) -> Hashed<External> {
        self.mappings.external(external_of(forward))
    }
}

/// Does the flow use its endpoint's mapping?
pub(super) fn has_mapping(forward: &FlowEntry4) -> bool {
    forward.flags & flag::NAT != 0 && forward.proto != tcp::PROTOCOL
}

pub(super) fn external_of(forward: &FlowEntry4) -> External {
    let rewrite = &forward.rewrite;
    External { proto: forward.proto, address: rewrite.src, port: u16::from_be_bytes(rewrite.sport) }
}

/// The key after source translation; an ICMP query has its identifier in both ports.
pub(super) fn translated(key: &FlowKey4, external: &External) -> FlowKey4 {
    let port = external.port.to_be_bytes();
    let dport = if key.proto == icmp::PROTOCOL { port } else { key.dport };
    FlowKey4::new(external.address, key.dst, port, dport, key.proto)
}
