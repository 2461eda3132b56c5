//! Taking over what an earlier process left in the table.

use weir_layout::MAX_UPLINKS;
use weir_layout::counters::Counter;
use weir_layout::flow::{GROUP, flag};
use weir_shm::counters::PathCounter;
use weir_shm::flows::Stored;
use weir_wire::tcp;

use super::context::Context;
use super::hairpin::is_inside;
use super::let_in::is_unheard;
use super::sessions::{Sessions, has_mapping};

/// Slots that the walk looks ahead: for the other direction's entry, and then for its endpoint's
/// mapping, which are anywhere.
const AHEAD: [u32; 2] = [4 * GROUP, 2 * GROUP];

impl<F: Stored> Sessions<F> {
    /// See [`Engine::adopt`](super::Engine::adopt).
    pub(super) fn adopt(&mut self, cx: &Context) -> u64 {
        let (mut active, mut inside) = ([0; MAX_UPLINKS], Vec::new());
        for index in 0..self.table.capacity() {
            if index.is_multiple_of(GROUP) {
                self.prefetch_peers(index + AHEAD[0], |_| true);
                self.prefetch_mappings(cx, index + AHEAD[1]);
            }
            let Some(entry) = self.table.slot(index).read() else { continue };
            let worker = entry.state_owner.worker();
            let owner = if worker < cx.workers { worker } else { 0 };
            if owner != cx.id {
                continue;
            }
            let peer = self.table.slot(entry.peer).read();
            let whole = peer.is_some_and(|peer| {
                peer.peer == index && (peer.flags ^ entry.flags) & flag::INITIATED != 0
            });
            let stays = is_inside(&entry) && peer.as_ref().is_some_and(is_inside);
            let known = (usize::from(entry.uplink) < active.len() || stays) && worker < cx.workers;
            if !whole || !known {
                self.table.retire(index);
                continue;
            }
            if entry.flags & flag::INITIATED == 0 {
                continue;
            }
            // Those from before uplinks ceased to map TCP are mappings too.
            if entry.key.proto() == tcp::PROTOCOL && entry.state_owner.is_mapped() {
                self.mappings.map_tcp();
            }
            self.flows += 1;
            self.agreements.note(cx.key, &self.table, &entry.key, index);
            self.unheard += u64::from(is_unheard(entry.flags, entry.state_owner.state()));
            self.shares.add(self.table.slot(entry.peer).action().adjacency);
            if stays {
                inside.push(entry);
                continue;
            }
            active[usize::from(entry.uplink)] += 1;
            if has_mapping(&cx.snapshot.half, &entry) {
                let (endpoint, external) = (self.endpoint_of(cx, &entry), self.external_of(&entry));
                self.hold(cx, &endpoint, entry.uplink, &external);
                self.permit(cx, index, self.table.slot(index).last_seen());
            }
        }
        // Those that have mappings of their endpoints have them now.
        for entry in &inside {
            self.hold_inside(cx, entry);
        }
        self.count_inside(cx, inside.len() as u64);
        // In one step: whoever reads meanwhile is not to think that there are none.
        for (uplink, count) in (0..).zip(active) {
            cx.lane.set_path(F::path(uplink), PathCounter::FlowsActive, count);
        }
        cx.lane.add(Counter::FlowsAdopted, self.flows);
        self.flows
    }
}
