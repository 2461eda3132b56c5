//! Connections of an uplink that went down end at once.
//!
//! Routed flows, UDP and ICMP move with their next packet. A translated TCP connection cannot, so
//! that its ends had better know at once: waiting for the host's next packet would leave a client
//! that only listens in the dark for minutes. A walk over the table, a slice at a time between
//! batches, sends both ends a reset. It walks again when a new state is published, if there was no
//! other uplink for some connection before: the state words change first, the buckets follow.

use weir_wire::layout::control::OnUplinkDown;
use weir_wire::layout::flow::{FlowState, GROUP};

use super::*;

/// Slots looked at in one turn: about 100 microseconds of an empty table's.
const SLOTS: u32 = 32_768;
/// Connections ended in one turn, less than a transmit ring has room for.
const RESETS: u32 = 512;

/// Where the walk is.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Uplinks that flows could use when it was last looked.
    usable: u64,
    /// Uplinks whose connections are to end.
    dead: u64,
    /// Those of them with connections that have nowhere else to go.
    stranded: u64,
    next: u32,
    left: u32,
}

impl Default for Sweep {
    /// An engine that begins sweeps once: what went down while nobody looked.
    fn default() -> Self {
        Self { usable: u64::MAX, dead: 0, stranded: 0, next: 0, left: 0 }
    }
}

impl Sweep {
    /// A new state is published: perhaps there is somewhere to go now.
    pub(super) fn again(&mut self) {
        let stranded = std::mem::take(&mut self.stranded);
        self.begin(stranded);
    }

    fn begin(&mut self, uplinks: u64) {
        if uplinks != 0 {
            self.dead |= uplinks;
            self.left = u32::MAX;
        }
    }
}

/// What became of a connection.
enum End {
    Done,
    Stranded,
    /// No room for its packets: later.
    NoRoom,
}

impl Engine {
    /// Looks whether uplinks went down, and ends connections of those that did, a slice of the
    /// table at a time. Says whether there is more to do.
    pub fn sweep<B: Buffer>(&mut self, out: &mut impl Output<B>) -> bool {
        let known = self.snapshot.half.uplinks.iter().take_while(|uplink| uplink.name.0[0] != 0);
        let usable = (0..).zip(known).filter(|(index, _)| steering::usable(&self.control, *index));
        let usable = usable.fold(0u64, |set, (index, _)| set | 1 << index);
        let gone = self.sweep.usable & !usable;
        self.sweep.usable = usable;
        self.sweep.dead &= !usable;
        self.sweep.stranded &= !usable;
        self.sweep.begin(gone);
        if self.sweep.dead == 0 || self.snapshot.half.epoch == 0 {
            return false;
        }
        self.sweep.left = self.sweep.left.min(self.table.capacity());
        self.walk_on(out);
        if self.sweep.left == 0 {
            self.sweep.dead = 0;
        }
        self.sweep.left != 0
    }

    fn walk_on<B: Buffer>(&mut self, out: &mut impl Output<B>) {
        let (mut slots, mut resets) = (SLOTS, RESETS);
        while self.sweep.left > 0 && slots > 0 && resets > 0 {
            let index = self.sweep.next % self.table.capacity();
            let mut step = 1;
            if index.is_multiple_of(GROUP) && self.table.is_group_free(index) {
                step = GROUP;
            } else if self.is_doomed(index) {
                let Some(entry) = self.table.slot(index).read() else { continue };
                resets -= 1;
                match self.end_connection(index, &entry, out) {
                    End::Done => {}
                    End::Stranded => self.sweep.stranded |= 1 << entry.uplink,
                    End::NoRoom => return,
                }
            }
            self.sweep.next = (index + step) % self.table.capacity();
            self.sweep.left = self.sweep.left.saturating_sub(step);
            slots = slots.saturating_sub(step);
        }
    }

    /// Is it the forward entry of a connection, of ours, on an uplink that went down?
    #[inline]
    fn is_doomed(&self, index: u32) -> bool {
        let slot = self.table.slot(index);
        if !slot.is_valid() || self.sweep.dead >> (slot.uplink() & 63) & 1 == 0 {
            return false;
        }
        let Some(entry) = slot.read() else { return false };
        let both = flag::FORWARD | flag::NAT;
        entry.flags & both == both
            && entry.proto == tcp::PROTOCOL
            && entry.worker == self.id
            && entry.flow_state != FlowState::Closing as u8
    }

    fn end_connection<B: Buffer>(
        &mut self,
        index: u32,
        entry: &FlowEntry4,
        out: &mut impl Output<B>,
    ) -> End {
        let traffic = self.traffic_in(entry);
        let policy = steering::policy(&self.snapshot.half, &traffic);
        if steering::uplink(&self.snapshot, &self.control, self.key, policy, &traffic).is_none() {
            return End::Stranded;
        }
        match self.on_uplink_down(policy) {
            OnUplinkDown::Keep => End::Done,
            OnUplinkDown::Drop => {
                flows::close(&self.table, index);
                End::Done
            }
            OnUplinkDown::Reset => match self.reset(index, entry, out) {
                true => End::Done,
                false => End::NoRoom,
            },
        }
    }

    pub(super) fn on_uplink_down(&self, policy: u8) -> OnUplinkDown {
        let policy = self.snapshot.half.policies.get(usize::from(policy));
        policy.map_or(OnUplinkDown::Reset, |p| OnUplinkDown::from_byte(p.on_uplink_down))
    }

    /// Resets a connection at both ends, given its forward slot. Its entries stay for what the ends
    /// may have to say to that. `false`: no room for the host's, and nothing was done.
    pub(super) fn reset<B: Buffer>(
        &mut self,
        index: u32,
        entry: &FlowEntry4,
        out: &mut impl Output<B>,
    ) -> bool {
        let Some(back) = self.table.slot(entry.peer).read() else { return true };
        let inside = FlowKey4::new(entry.src, entry.dst, entry.sport, entry.dport, entry.proto);
        let (from_host, from_far) = (entry.next_seq, back.next_seq);
        let (outward, homeward) =
            (self.table.slot(index).action(), self.table.slot(entry.peer).action());
        if let Some((device, link)) = self.link_header(&homeward) {
            let reset = answer::reset(&link, &reversed(&inside), from_far, from_host);
            if !self.originate(device, &reset, out) {
                return false;
            }
        }
        // The far end's is an attempt: the uplink is down.
        if let Some((device, link)) = self.link_header(&outward) {
            let outside = translated(&inside, &external_of(entry));
            let reset = answer::reset(&link, &outside, from_host, from_far);
            self.originate(device, &reset, out);
        }
        flows::close(&self.table, index);
        self.lane.add(Counter::FlowsReset, 1);
        true
    }
}
