//! Flows end and move without a packet of theirs: the steady walk over the table.

use weir_wire::layout::control::{ComeHome, uplink_state};
use weir_wire::layout::flow::{FlowState, GROUP};

use super::*;
use crate::fragments::LIFETIME_MS;

/// Slots that the walk looks ahead: of each flow it needs the other direction's entry too, which is
/// anywhere.
const AHEAD: u32 = 2 * GROUP;

/// Least time between two rounds of forgetting neighbours. One is forgotten two whole rounds after
/// its last flow at the earliest: fragments of that flow's packets may straggle as long.
const ROUND_MS: u32 = LIFETIME_MS / 2;

/// Passes of the walk over the whole table, and the neighbours' rounds.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// Round in which the pass began.
    began: Option<u32>,
    /// Round in which a whole pass was last told, and when (milliseconds).
    told: Option<(u32, u32)>,
}

impl Engine {
    /// Looks at `slots` slots of the table from where the last call stopped: ends flows that were
    /// idle too long, lets those go that may leave a draining uplink or come home, and learns who
    /// has heavy ones. Call once a tick.
    pub fn age<B: Buffer>(&mut self, slots: u32, now: u32, out: &mut impl Output<B>) {
        if self.snapshot.half.epoch == 0 {
            return;
        }
        self.sweep.tick();
        let mut left = slots.min(self.table.capacity());
        while left > 0 {
            let index = self.cursor;
            if index == 0 {
                self.begin_pass(now);
            }
            if index.is_multiple_of(GROUP) {
                let forward = |action: &Action4| action.flags & flag::FORWARD != 0;
                self.prefetch_peers(index + AHEAD, forward);
            }
            let free = index.is_multiple_of(GROUP) && self.table.is_group_free(index);
            let step = if free { GROUP } else { 1 };
            self.cursor = (index + step) % self.table.capacity();
            left = left.saturating_sub(step);
            let slot = self.table.slot(index);
            if free || !slot.is_valid() {
                continue;
            }
            let Some(entry) = slot.read() else { continue };
            if entry.worker == self.id && entry.flags & flag::FORWARD != 0 {
                self.look_at(index, &entry, now, out);
            }
        }
    }

    /// The walk is at the table's beginning. If a whole pass was of one round, says so to the
    /// neighbours, which the flows that were met refer to.
    fn begin_pass(&mut self, now: u32) {
        let round = self.neighbours.round();
        let told = self.passes.told;
        let told = told.is_some_and(|(of, at)| of == round || now.wrapping_sub(at) < ROUND_MS);
        if self.passes.began == Some(round) && !told {
            self.passes.told = Some((round, now));
            self.neighbours.walked(self.workers);
        }
        self.passes.began = Some(self.neighbours.round());
    }

    fn look_at<B: Buffer>(
        &mut self,
        index: u32,
        entry: &FlowEntry4,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        let idle = flows::idle_ms(&self.table, entry, now);
        let timeouts = &self.snapshot.half.timeouts;
        if idle >= flows::timeout_ms(timeouts, entry.proto, entry.flow_state) {
            self.remove(index);
            self.lane.add(Counter::FlowsExpired, 1);
            return;
        }
        let back = self.table.slot(entry.peer);
        self.neighbours.refer(back.action().host);
        self.heavy.learn(entry, back.bytes(), now.wrapping_sub(idle));
        let draining = self.control.uplink_state(entry.uplink) & uplink_state::DRAINING != 0;
        if draining || self.any_comes_home() {
            self.relocate(index, entry, idle, draining, now, out);
        }
    }

    fn any_comes_home(&self) -> bool {
        self.snapshot.half.policies.iter().any(|policy| policy.come_home != ComeHome::Stay as u8)
    }

    /// Lets a flow go whose policy wants it elsewhere. It begins anew with its next packet.
    fn relocate<B: Buffer>(
        &mut self,
        index: u32,
        entry: &FlowEntry4,
        idle: u32,
        draining: bool,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        let traffic = self.traffic_in(entry);
        let Some(number) = steering::policy_by_address(&self.snapshot.half, &traffic) else {
            return;
        };
        let Some(policy) = self.snapshot.half.policies.get(usize::from(number)) else { return };
        let is_idle = idle >= u32::from(policy.idle_s) * 1000;
        let comes_home = match steering::is_away(policy, entry.uplink) {
            true => ComeHome::from_byte(policy.come_home),
            false => ComeHome::Stay,
        };
        let survives = entry.proto != tcp::PROTOCOL || entry.flags & flag::NAT == 0;
        let leaves = draining && is_idle && survives;
        let fails_back = match comes_home {
            ComeHome::Stay => false,
            ComeHome::Idle => is_idle && survives,
            ComeHome::All => survives || entry.flow_state != FlowState::Closing as u8,
        };
        let somewhere = || {
            let to = steering::uplink(&self.snapshot, &self.control, self.key, number, &traffic);
            to.is_some_and(|uplink| uplink != entry.uplink)
        };
        if !(leaves || fails_back) || !somewhere() {
            return;
        }
        if !leaves && !self.failback[usize::from(number)].allows(now) {
            return;
        }
        if !survives {
            self.reset(index, entry, out);
            return;
        }
        if comes_home == ComeHome::All {
            // Another flow of the endpoint would call it back.
            self.mappings.detach(&self.external_of(entry));
        }
        self.remove(index);
        self.lane.add(Counter::FlowsMoved, 1);
    }

    /// Ends a flow, given its forward slot.
    pub(super) fn remove(&mut self, forward: u32) {
        let Some(entry) = self.table.slot(forward).read() else { return };
        self.table.retire(forward);
        self.table.retire(entry.peer);
        if has_mapping(&entry) {
            self.mappings.release(&self.external_of(&entry));
        }
        self.flows -= 1;
        self.lane.add_uplink(entry.uplink, UplinkCounter::FlowsActive, 1u64.wrapping_neg());
    }
}
