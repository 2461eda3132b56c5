//! Before workers start: which of them owns each flow, and which hardware addresses are in use.
//!
//! Workers of another number, or of another range of NAT ports, own other slices of it and other
//! endpoints. A mapping stays only where today's rules put it: elsewhere another worker could give
//! the same port away, or the same endpoint another port. What has no mapping may be anybody's.

use weir_layout::adjacency::ADJACENCIES;
use weir_layout::control::{ControlHalf, PathId};
use weir_layout::flow::{FlowEntry4, GROUP, flag};
use weir_layout::{MAX_UPLINKS, MAX_WORKERS};
use weir_shm::counters::UplinkCounter;

use super::Regions;
use super::sessions::{external_of, has_mapping};
use crate::nat::PortSlice;
use crate::purpose::decider;

impl Regions {
    /// Makes the regions ready for the workers of `half`: gives each flow that an earlier process
    /// left to the worker that owns it now or ends it, and forgets the LAN hardware addresses that
    /// no flow refers to. Only while no worker runs.
    pub fn prepare(&self, half: &ControlHalf) {
        let workers = half.workers.max(1);
        let mut referred = vec![false; ADJACENCIES];
        for index in 0..self.flows.capacity() {
            if index.is_multiple_of(GROUP) && self.flows.is_group_free(index) {
                continue;
            }
            if let Some(entry) = self.flows.slot(index).read() {
                if let Some(referred) = referred.get_mut(usize::from(entry.adjacency)) {
                    *referred = true;
                }
                self.hand_on(half, workers, index, &entry);
            }
        }
        self.adjacencies.retain(|index| referred[usize::from(index)]);
        for lane in (workers..MAX_WORKERS as u8).map(|worker| self.counters.worker(worker)) {
            for uplink in 0..MAX_UPLINKS as u8 {
                lane.set_uplink(uplink, UplinkCounter::FlowsActive, 0);
            }
        }
    }

    fn hand_on(&self, half: &ControlHalf, workers: u8, index: u32, entry: &FlowEntry4) {
        if entry.flags & flag::INITIATED == 0 {
            return;
        }
        let owner = self.owner(half, workers, entry);
        let peer = self.flows.slot(entry.peer);
        let Some(back) = peer.read().filter(|back| back.peer == index) else {
            // Half a flow: adopting ends it.
            return;
        };
        // Both: a process that ended here may have had time for one of them.
        if [entry, &back].iter().all(|of| owner == Some(of.state_owner.worker())) {
            return;
        }
        match owner {
            Some(worker) => {
                self.flows.slot(index).set_worker(worker);
                peer.set_worker(worker);
            }
            None => {
                self.flows.retire(index);
                self.flows.retire(entry.peer);
            }
        }
    }

    /// The worker that owns the flow, given its forward entry; `None`: its mapping may be nobody's.
    fn owner(&self, half: &ControlHalf, workers: u8, forward: &FlowEntry4) -> Option<u8> {
        if !has_mapping(forward.flags, forward.proto) {
            return Some(forward.state_owner.worker() % workers);
        }
        let port = u16::from_be_bytes(forward.sport);
        let worker = decider(self.hash_key, workers, forward.proto, forward.src, port);
        let path = half.path(PathId::v4(forward.uplink))?;
        let slice = PortSlice::of(path.nat_lo, path.nat_hi, worker, workers)?;
        slice.contains(external_of(forward).port).then_some(worker)
    }
}
