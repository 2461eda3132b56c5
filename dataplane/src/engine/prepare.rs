//! Before workers start: which of them owns each flow, and which hardware addresses are in use.
//!
//! Workers of another number, or of another range of NAT ports, own other slices of it and other
//! endpoints. A mapping stays only where today's rules put it: elsewhere another worker could give
//! the same port away, or the same endpoint another port. A flow without ports goes to the worker
//! that decides about its remote, which alone gives addresses away for that. What else has no
//! mapping may be anybody's, and a connection whose mapping does not stay goes on without: its port
//! serves other destinations too.

use weir_layout::adjacency::ADJACENCIES;
use weir_layout::control::{ControlHalf, IpAddress, PathId};
use weir_layout::flow::{GROUP, flag};
use weir_layout::{Family as Ip, MAX_WORKERS, protocol};
use weir_shm::counters::PathCounter;
use weir_shm::flows::{FlowTable, Slot, Stored};
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::tcp;

use super::Regions;
use super::hairpin::{self, Port};
use super::published::far_end;
use super::sessions::{external_of, has_mapping};
use crate::nat::PortSlice;
use crate::purpose::decider;

impl Regions {
    /// Makes the regions ready for the workers of `half`: gives each flow that an earlier process
    /// left to the worker that owns it now or ends it, and forgets the LAN hardware addresses that
    /// no flow refers to. Only while no worker runs.
    pub fn prepare(&self, half: &ControlHalf) {
        let mut referred = vec![false; ADJACENCIES];
        let workers = Workers { half, number: half.workers.max(1), key: self.hash_key };
        workers.take_over(&self.flows, &mut referred);
        workers.take_over(&self.flows6, &mut referred);
        self.adjacencies.retain(|index| referred[usize::from(index)]);
        // Those that start set their own when they have adopted.
        for lane in (workers.number..MAX_WORKERS as u8).map(|worker| self.counters.worker(worker)) {
            for path in PathId::all() {
                lane.set_path(path, PathCounter::FlowsActive, 0);
            }
            Ip::ALL.into_iter().for_each(|family| lane.set_inside(family, 0));
        }
    }
}

/// Those that are about to start.
struct Workers<'a> {
    half: &'a ControlHalf,
    number: u8,
    /// Key of the flow hash.
    key: [u64; 2],
}

impl Workers<'_> {
    /// Gives them a table's flows; takes note of the adjacencies that these refer to.
    fn take_over<F: Stored>(&self, table: &FlowTable<F>, referred: &mut [bool]) {
        for index in 0..table.capacity() {
            if index.is_multiple_of(GROUP) && table.is_group_free(index) {
                continue;
            }
            if let Some(entry) = table.slot(index).read() {
                if let Some(referred) = referred.get_mut(usize::from(entry.adjacency)) {
                    *referred = true;
                }
                self.hand_on(table, index, &entry);
            }
        }
    }

    fn hand_on<F: Stored>(&self, table: &FlowTable<F>, index: u32, entry: &Entry<F>) {
        if entry.flags & flag::INITIATED == 0 {
            return;
        }
        let peer = table.slot(entry.peer);
        let owner = match self.owner(entry) {
            None if entry.key.proto() == tcp::PROTOCOL && entry.state_owner.is_mapped() => {
                [table.slot(index), peer].into_iter().for_each(Slot::unmap);
                Some(entry.state_owner.worker() % self.number)
            }
            owner => owner,
        };
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
                table.slot(index).set_worker(worker);
                peer.set_worker(worker);
            }
            None => {
                table.retire(index);
                table.retire(entry.peer);
            }
        }
    }

    /// The worker that owns the flow, given its forward entry; `None`: its mapping may be nobody's.
    fn owner<F: Family>(&self, forward: &Entry<F>) -> Option<u8> {
        let key = &forward.key;
        if protocol::is_portless(key.proto()) {
            // Else two workers could give two hosts one address for the remote.
            let remote = far_end(forward);
            return Some(decider::<F>(self.key, self.number, key.proto(), &remote, 0));
        }
        let path = match hairpin::port_of(self.half, forward) {
            Port::None if !has_mapping(self.half, forward) => {
                return Some(forward.state_owner.worker() % self.number);
            }
            Port::None => F::path(forward.uplink),
            Port::Of(path) => path,
            Port::Lost => return None,
        };
        let port = u16::from_be_bytes(key.sport());
        let worker = decider::<F>(self.key, self.number, key.proto(), &key.src(), port);
        if !self.half.maps(path, key.proto()) {
            return None;
        }
        let external = external_of::<F>(key.proto(), &forward.rewrite);
        let host = key.src().to_address();
        if self.half.port_of_service(path, key.proto(), host, port) == Some(external.port) {
            return Some(worker);
        }
        let path = self.half.path(path)?;
        let slice = PortSlice::of(path.nat_lo, path.nat_hi, worker, self.number)?;
        slice.contains(external.port).then_some(worker)
    }
}
