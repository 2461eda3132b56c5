//! Taking over what an earlier process left in the table.

use weir_wire::layout::flow::GROUP;

use super::*;

/// Slots that the walk looks ahead: for the other direction's entry, and then for its endpoint's
/// mapping, which are anywhere.
const AHEAD: [u32; 2] = [4 * GROUP, 2 * GROUP];

impl Engine {
    /// Takes over the flows that an earlier process left in the table: those whose owner this
    /// worker would be. Ends the ones that are not whole. Call once, before the first packet.
    pub fn adopt(&mut self) -> u64 {
        self.refresh();
        let mut active = [0u64; weir_wire::layout::MAX_UPLINKS];
        for index in 0..self.table.capacity() {
            if index.is_multiple_of(GROUP) {
                self.prefetch_peers(index + AHEAD[0], |_| true);
                self.prefetch_mappings(index + AHEAD[1]);
            }
            let Some(entry) = self.table.slot(index).read() else { continue };
            let owner = if entry.worker < self.workers { entry.worker } else { 0 };
            if owner != self.id {
                continue;
            }
            let peer = self.table.slot(entry.peer).read();
            let whole = peer.is_some_and(|peer| {
                peer.peer == index && (peer.flags ^ entry.flags) & flag::FORWARD != 0
            });
            let known = usize::from(entry.uplink) < active.len() && entry.worker < self.workers;
            if !whole || !known {
                self.table.retire(index);
                continue;
            }
            if entry.flags & flag::FORWARD == 0 {
                continue;
            }
            self.flows += 1;
            active[usize::from(entry.uplink)] += 1;
            if has_mapping(&entry) {
                let (endpoint, external) = (self.endpoint_of(&entry), self.external_of(&entry));
                self.mappings.hold(&endpoint, entry.uplink, &external);
            }
        }
        for (uplink, count) in active.into_iter().enumerate() {
            self.lane.set_uplink(uplink as u8, UplinkCounter::FlowsActive, count);
        }
        self.lane.add(Counter::FlowsAdopted, self.flows);
        self.flows
    }
}
