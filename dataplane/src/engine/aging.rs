//! Flows end and move without a packet of theirs: the steady walk over the table.

use weir_layout::NONE;
use weir_layout::control::{ComeHome, Translate, path_state};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, GROUP, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::{protocol, tcp};

use super::admit::Elsewhere;
use super::context::Context;
use super::let_in::{UNANSWERED_MS, is_unheard};
use super::published::{is_asked, patience_ms};
use super::sessions::{Sessions, has_mapping, uses_port};
use crate::flows;
use crate::fragments::LIFETIME_MS;
use crate::packet::{Buffer, Output};
use crate::steering;

/// Slots that the walk looks ahead: of each flow it needs the other direction's entry too, which is
/// anywhere.
const AHEAD: u32 = 2 * GROUP;

/// Least time between two rounds of forgetting adjacencies. One is forgotten two whole rounds after
/// its last flow at the earliest: fragments of that flow's packets may straggle as long.
const ROUND_MS: u32 = LIFETIME_MS / 2;

/// Passes of the walk over the whole table, and the adjacencies' rounds.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// Round in which the pass began.
    began: Option<u32>,
    /// Round in which a whole pass was last told, and when (milliseconds).
    told: Option<(u32, u32)>,
}

impl Context {
    fn any_comes_home<F: Family>(&self) -> bool {
        self.snapshot
            .half
            .policies
            .iter()
            .any(|policy| policy.steering(F::FAMILY).come_home != ComeHome::Stay as u8)
    }
}

/// Does the flow, given its forward entry, keep other hosts from speaking with its remote by an
/// address? Only what its host says keeps it then: a remote may go on sending to one that has left.
fn keeps_place<F: Family>(cx: &Context, forward: &Entry<F>) -> bool {
    let path = || cx.snapshot.half.path(F::path(forward.uplink));
    protocol::is_portless(forward.key.proto())
        && uses_port(forward.flags)
        && path().is_some_and(|path| path.translation() == Translate::Napt)
}

impl<F: Stored> Sessions<F> {
    /// See [`Engine::age`](super::Engine::age).
    pub(super) fn age<B: Buffer>(
        &mut self,
        cx: &mut Context,
        slots: u32,
        out: &mut impl Output<B>,
    ) {
        if cx.snapshot.half.epoch == 0 {
            return;
        }
        self.sweep.tick();
        cx.lane.add(Counter::DropFragmentWait, self.early.expire(cx.now));
        let flows = cx.counters.flows(F::FAMILY, cx.uplinks, cx.workers);
        // Lanes are read one after the other: the sum may be less than its parts.
        self.elsewhere = (flows.wrapping_sub(self.flows) as i64).max(0) as u64;
        let mut left = slots.min(self.table.capacity());
        while left > 0 {
            let index = self.cursor;
            if index == 0 {
                self.begin_pass(cx);
            }
            if index.is_multiple_of(GROUP) {
                let forward = |action: &Action<F>| action.flags & flag::INITIATED != 0;
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
            if entry.state_owner.worker() == cx.id && entry.flags & flag::INITIATED != 0 {
                self.look_at(cx, index, &entry, out);
            }
        }
    }

    /// The walk is at the table's beginning. If a whole pass was of one round, says so to the
    /// adjacencies, which the flows that were met refer to.
    fn begin_pass(&mut self, cx: &Context) {
        self.permits.forget_old(cx.now);
        let round = cx.adjacencies.round();
        let told = self.passes.told;
        let told = told.is_some_and(|(of, at)| of == round || cx.now.wrapping_sub(at) < ROUND_MS);
        if self.passes.began == Some(round) && !told {
            self.passes.told = Some((round, cx.now));
            cx.adjacencies.walked(cx.workers * weir_layout::Family::COUNT as u8);
        }
        self.passes.began = Some(cx.adjacencies.round());
    }

    fn look_at<B: Buffer>(
        &mut self,
        cx: &mut Context,
        index: u32,
        entry: &Entry<F>,
        out: &mut impl Output<B>,
    ) {
        let idle = flows::idle_ms(&self.table, index, cx.now);
        let timeouts = &cx.snapshot.half.timeouts;
        let back = self.table.slot(entry.peer);
        let state = entry.state_owner.state();
        let timeout = flows::timeout_ms(timeouts, entry.key.proto(), state);
        let timeout = match is_asked(entry.flags) {
            true => patience_ms(timeout, state, entry.flags),
            false if is_unheard(entry.flags, state) => timeout.min(UNANSWERED_MS),
            false => timeout,
        };
        let unused = match keeps_place(cx, entry) {
            true => flows::unsaid_ms(&self.table, index, cx.now),
            false => idle,
        };
        if unused >= timeout {
            self.remove(cx, index);
            cx.lane.add(Counter::FlowsExpired, 1);
            return;
        }
        cx.adjacencies.refer(entry.adjacency);
        cx.adjacencies.refer(back.action().adjacency);
        // One that asks for a service stays where it asked.
        if is_asked(entry.flags) || entry.uplink == NONE {
            self.find_host(cx, entry);
            return;
        }
        let (hosts, bytes) = ([&entry.key.src(), &entry.key.dst()], [entry.bytes, back.bytes()]);
        self.permit(cx, index, cx.now);
        self.heavy.learn::<F>(hosts, bytes, cx.now.wrapping_sub(idle));
        let draining = cx.control.path_state(F::path(entry.uplink)) & path_state::DRAINING != 0;
        if draining || cx.any_comes_home::<F>() {
            self.relocate(cx, index, entry, idle, draining, out);
        }
    }

    /// Lets a flow go whose policy wants it elsewhere. It begins anew with its next packet.
    fn relocate<B: Buffer>(
        &mut self,
        cx: &mut Context,
        index: u32,
        entry: &Entry<F>,
        idle: u32,
        draining: bool,
        out: &mut impl Output<B>,
    ) {
        let traffic = self.traffic_in(cx, entry);
        let Some(number) = steering::policy_by_address(&cx.snapshot.half, &cx.control, &traffic)
        else {
            return;
        };
        let Some(policy) = cx.snapshot.half.policies.get(usize::from(number)) else { return };
        let is_idle = idle >= u32::from(policy.idle_s) * 1000;
        let comes_home = match steering::is_away(policy, F::path(entry.uplink)) {
            true => ComeHome::from_byte(policy.steering(F::FAMILY).come_home),
            false => ComeHome::Stay,
        };
        let (connection, translated) =
            (entry.key.proto() == tcp::PROTOCOL, entry.flags & flag::NAT != 0);
        let may = |survives: bool| {
            let leaves = draining && is_idle && survives;
            let fails_back = match comes_home {
                ComeHome::Stay => false,
                ComeHome::Idle => is_idle && survives,
                ComeHome::All => survives || entry.state_owner.state() != FlowState::Closing,
            };
            (leaves, leaves || fails_back)
        };
        if !may(!(connection && translated)).1 {
            return;
        }
        let survives = match cx.elsewhere((entry.uplink, translated), number, &traffic) {
            Elsewhere::Nowhere | Elsewhere::Barred => return,
            Elsewhere::Unchanged => true,
            Elsewhere::Readdressed => !connection,
        };
        let (leaves, true) = may(survives) else { return };
        if !leaves && !cx.failback[usize::from(number)].allows(cx.now) {
            return;
        }
        if comes_home == ComeHome::All && has_mapping(&cx.snapshot.half, entry) {
            // Another flow of the endpoint would call it back.
            self.mappings.detach(&self.external_of(entry));
        }
        if !survives {
            self.reset(cx, index, entry, out);
            return;
        }
        self.remove(cx, index);
        cx.lane.add(Counter::FlowsMoved, 1);
    }
}
