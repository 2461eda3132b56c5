//! Connections of an uplink that went down end at once, and flows whose address it no longer has.
//!
//! Routed flows, UDP and ICMP move with their next packet. A translated TCP connection cannot, nor
//! one with an address of its provider's, so that its ends had better know at once: waiting for the
//! host's next packet would leave a client that only listens in the dark for minutes. A walk over
//! the table, a slice at a time between batches, sends both ends a reset. It walks again when a new
//! state is published, if there was no other uplink for some connection before: the state words
//! change first, the buckets follow.
//!
//! A ring without room holds the walk up for a moment. If it stays full (its device is down, say), the
//! walk passes over the hosts behind it and comes back to them later: nobody else waits for them.
//!
//! When rules change, flows end that these deny, wherever they go; and when these or services do,
//! flows that began outside and would not any more. So do flows without ports whose remote the gateway
//! itself begins to speak with, and all with a remote whose address the gateway was
//! [given](super::given). Until the walk has come by, such a flow goes on, in XDP too, which knows of
//! no rules: a walk that judges a million flows has some 4000 turns.
//!
//! An uplink that was given other addresses or prefixes keeps no flow on an old one, be it down: nothing
//! would come back. So it is where it begins or ceases to translate. Hosts alone are told: what the far
//! end got would be in the name of who has the address now.

use weir_layout::control::{
    ControlHalf, IpAddress, OnUplinkDown, PathId, PathPrefix, Rule, RuleFrom, Translate,
};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, GROUP, flag};
use weir_layout::set::IndexSet;
use weir_layout::{Family, MAX_UPLINKS, NONE, checksum64};
use weir_shm::flows::Stored;
use weir_wire::entry::Entry;
use weir_wire::forward::Egress;
use weir_wire::{protocol, tcp};
use zerocopy::IntoBytes;

use super::admit::Elsewhere;
use super::context::Context;
use super::given::Given;
use super::published::is_asked;
use super::sessions::Sessions;
use crate::answer;
use crate::flows;
use crate::packet::{Buffer, Output};
use crate::steering;

/// Slots looked at in one turn, some tens of microseconds: packets wait meanwhile.
const SLOTS: u32 = 8192;
/// Flows judged in one turn where rules or services changed: a flow is looked for in all of them.
const JUDGED: u32 = 256;
/// Flows ended in one turn, fewer than a transmit ring has room for.
const ENDS: u32 = 128;
/// Ticks that the walk waits for a full ring.
const PATIENCE: u32 = 2;
/// Ticks until the walk comes back to what it passed over, about a second.
const PAUSE: u32 = 50;

/// Where the walk is.
#[derive(Debug)]
pub(super) struct Sweep {
    /// Uplinks that flows could use when it was last looked.
    usable: IndexSet,
    /// Uplinks whose connections are to end.
    dead: IndexSet,
    /// Those of them with connections that have nowhere else to go.
    stranded: IndexSet,
    /// Uplinks whose addresses, prefixes or translation changed.
    renumbered: IndexSet,
    /// Uplinks whose flows have addresses of their provider's, and cannot move either.
    by_source: IndexSet,
    /// The rules changed that end flows, or whom the gateway speaks with.
    refiltered: bool,
    /// The published services changed.
    republished: bool,
    /// Sums of those when it was last looked.
    filter: u64,
    services: u64,
    /// Addresses that the gateway was given.
    given: Given,
    /// What told of each uplink's [`sources`] when it was last looked.
    sources: [u64; MAX_UPLINKS],
    next: u32,
    left: u32,
    /// The device whose ring the walk waits for, and for how many ticks it has.
    waits: Option<(u8, u32)>,
    /// Devices whose rings stayed full.
    full: IndexSet,
    /// Those of them that were tried again in this walk.
    tried: IndexSet,
    /// Did the walk pass over a connection?
    passed: bool,
    /// Ticks since it ended, if it did.
    paused: u32,
}

impl Default for Sweep {
    /// An engine that begins sweeps once: what went down while nobody looked.
    fn default() -> Self {
        Self {
            usable: IndexSet::ALL,
            dead: IndexSet::EMPTY,
            renumbered: IndexSet::EMPTY,
            by_source: IndexSet::EMPTY,
            refiltered: false,
            republished: false,
            filter: 0,
            services: 0,
            given: Given::default(),
            sources: [0; MAX_UPLINKS],
            stranded: IndexSet::EMPTY,
            next: 0,
            left: 0,
            waits: None,
            full: IndexSet::EMPTY,
            tried: IndexSet::EMPTY,
            passed: false,
            paused: 0,
        }
    }
}

impl Sweep {
    /// A new state is published: perhaps there is somewhere to go now, or an address is gone.
    pub(super) fn again(&mut self, family: Family, half: &ControlHalf) {
        let stranded = std::mem::take(&mut self.stranded);
        self.begin(stranded);
        let mut renumbered = IndexSet::EMPTY;
        for (uplink, known) in (0..).zip(&mut self.sources) {
            let path = half.path(PathId::new(uplink, family));
            let by_source = path.is_some_and(|path| path.translation() == Translate::Source);
            self.by_source.set(uplink, by_source);
            // Without any address it is down, and may get the same one again.
            if let Some(now) = sources(half, PathId::new(uplink, family))
                && std::mem::replace(known, now) != now
            {
                renumbered.set(uplink, true);
            }
        }
        self.renumbered |= renumbered;
        let refiltered = std::mem::replace(&mut self.filter, filter(half)) != self.filter;
        self.refiltered |= refiltered;
        let republished = std::mem::replace(&mut self.services, services(half)) != self.services;
        self.republished |= republished;
        let given = self.given.learn(family, half);
        if !renumbered.is_empty() || refiltered || republished || given {
            self.walk();
        }
    }

    fn begin(&mut self, dead: IndexSet) {
        if !dead.is_empty() {
            self.dead |= dead;
            self.walk();
        }
    }

    /// Are flows looked for in rules and services?
    fn judges(&self) -> bool {
        self.refiltered || self.republished
    }

    /// Is there nothing to walk for?
    fn is_idle(&self) -> bool {
        let uplinks = self.dead | self.renumbered;
        uplinks.is_empty() && !self.judges() && !self.given.is_any()
    }

    fn walk(&mut self) {
        (self.left, self.tried) = (u32::MAX, IndexSet::EMPTY);
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self) {
        if let Some((device, ticks)) = self.waits {
            self.waits = Some((device, ticks + 1));
            if ticks + 1 >= PATIENCE {
                self.waits = None;
                self.full.set(device, true);
                self.tried.set(device, true);
            }
        }
        if self.left == 0 && self.passed {
            self.paused += 1;
            if self.paused >= PAUSE {
                (self.passed, self.paused) = (false, 0);
                self.walk();
            }
        }
    }

    /// Is the device's ring to be left alone in this walk?
    fn passes_over(&mut self, device: u8) -> bool {
        let passes = (self.full & self.tried).contains(device);
        self.passed |= passes;
        passes
    }

    /// The device's ring had no room; says whether to wait for it.
    fn refused(&mut self, device: u8) -> bool {
        if self.full.contains(device) {
            self.tried.set(device, true);
            self.passed = true;
            return false;
        }
        self.waits.get_or_insert((device, 0));
        true
    }
}

/// A sum of how a path changes sources, and of which it carries; `None`: it has nothing to change them
/// to now.
fn sources(half: &ControlHalf, id: PathId) -> Option<u64> {
    let path = half.path(id)?;
    let of = |prefixes: &mut dyn Iterator<Item = &PathPrefix>| {
        let sums = prefixes.map(|prefix| checksum64(prefix.as_bytes()));
        sums.reduce(|sum, next| sum.rotate_left(1) ^ next)
    };
    let sum = match path.translation() {
        Translate::None if id.family == Family::V4 => 0,
        // What providers delegate it does not carry.
        Translate::None => of(&mut half.path_prefixes().iter()).unwrap_or(0),
        Translate::Npt | Translate::Source => of(&mut half.prefixes_of(id.uplink))?,
        Translate::Napt if path.pool_len == 0 => return None,
        Translate::Napt => checksum64(path.pool.as_bytes()) ^ u64::from(path.pool_len),
    };
    Some(sum ^ checksum64(&[path.translate]))
}

/// A sum of the rules, 0 where no flow is for them to end, with what is in the sets that they name, and
/// of whom the gateway speaks with.
fn filter(half: &ControlHalf) -> u64 {
    let ends = |rule: &Rule| rule.action().denies() || rule.is_from(RuleFrom::Uplink);
    let any = half.rules().iter().any(ends);
    let rules = if any { checksum64(half.rules().as_bytes()) ^ half.sets.checksum } else { 0 };
    let peers = half.own_peers();
    let peers = if peers.is_empty() { 0 } else { checksum64(peers.as_bytes()).rotate_left(2) };
    rules ^ peers
}

/// A sum of the published services, 0 where there are none, and of whom they are open to.
fn services(half: &ControlHalf) -> u64 {
    let (services, count) = (half.port_forwards(), half.allowed_count as usize);
    if services.is_empty() {
        return 0;
    }
    let allowed = &half.allowed[..count.min(half.allowed.len())];
    let sets = half.sets.checksum.rotate_left(2);
    checksum64(services.as_bytes()).rotate_left(1) ^ checksum64(allowed.as_bytes()) ^ sets
}

/// Is it a connection that neither end has closed?
pub(super) fn is_open(proto: u8, state: FlowState) -> bool {
    proto == tcp::PROTOCOL && state != FlowState::Closing
}

/// What became of a flow.
pub(super) enum Outcome {
    /// It stays, for now at least.
    None,
    Done,
    /// It has nowhere else to go.
    Stranded(u8),
    /// No room for its packets: wait.
    NoRoom,
}

impl Context {
    /// Has the uplink this address, for flows that are translated to it?
    pub(super) fn has_address<F: weir_wire::family::Family>(
        &self,
        uplink: u8,
        address: F::Address,
    ) -> bool {
        let path = self.snapshot.half.path(F::path(uplink));
        path.is_some_and(|path| path.held().contains(&address.to_address()))
    }

    /// Would a flow that begins now have the same source outside as this one, or may have it?
    fn keeps_source<F: weir_wire::family::Family>(&self, forward: &Entry<F>) -> bool {
        if forward.uplink == NONE {
            return self.is_still_inside(forward);
        }
        if is_asked(forward.flags) {
            return self.is_still_outside(forward.uplink, forward);
        }
        let (uplink, outside) = (forward.uplink, forward.rewrite.src);
        let Some(path) = self.snapshot.half.path(F::path(uplink)) else { return false };
        let is_translated = forward.flags & flag::NAT != 0;
        match path.translation() {
            Translate::None | Translate::Source if !is_translated => {
                self.snapshot.half.carries(F::path(uplink), outside)
            }
            Translate::None => false,
            Translate::Source | Translate::Npt => {
                self.outward::<F>(uplink, forward.key.src()) == Ok(outside)
            }
            Translate::Napt => is_translated && self.has_address::<F>(uplink, outside),
        }
    }

    /// Has a flow without ports, given its forward entry, the address that answers to the gateway itself
    /// come to, or do its packets come to it?
    fn takes_from_gateway<F: weir_wire::family::Family>(&self, forward: &Entry<F>) -> bool {
        forward.flags & flag::NAT != 0
            && protocol::is_portless(forward.key.proto())
            && match is_asked(forward.flags) {
                true => self.is_own(&forward.key.reversed()),
                false => self.is_own(&forward.translated()),
            }
    }

    pub(super) fn on_uplink_down(&self, policy: u8) -> OnUplinkDown {
        let policy = self.snapshot.half.policies.get(usize::from(policy));
        policy.map_or(OnUplinkDown::Reset, |p| OnUplinkDown::from_byte(p.on_uplink_down))
    }
}

impl<F: Stored> Sessions<F> {
    /// See [`Engine::sweep`](super::Engine::sweep).
    pub(super) fn sweep<B: Buffer>(&mut self, cx: &Context, out: &mut impl Output<B>) -> bool {
        let usable = cx.usable_uplinks::<F>();
        let gone = self.sweep.usable - usable;
        self.sweep.usable = usable;
        self.sweep.dead = self.sweep.dead - usable;
        self.sweep.stranded = self.sweep.stranded - usable;
        self.sweep.begin(gone);
        if self.sweep.is_idle() || cx.snapshot.half.epoch == 0 {
            return false;
        }
        self.sweep.left = self.sweep.left.min(self.table.capacity());
        self.walk_on(cx, out);
        if self.sweep.left == 0 && !self.sweep.passed {
            (self.sweep.dead, self.sweep.renumbered) = (IndexSet::EMPTY, IndexSet::EMPTY);
            (self.sweep.refiltered, self.sweep.republished) = (false, false);
            self.sweep.given.forget();
        }
        self.sweep.left != 0
    }

    fn walk_on<B: Buffer>(&mut self, cx: &Context, out: &mut impl Output<B>) {
        let (mut slots, mut judged, mut ends) = (SLOTS, JUDGED, ENDS);
        while self.sweep.left > 0 && slots > 0 && judged > 0 && ends > 0 {
            let index = self.sweep.next % self.table.capacity();
            let mut step = 1;
            if index.is_multiple_of(GROUP) && self.table.is_group_free(index) {
                step = GROUP;
            } else if self.concerns(index) {
                judged -= u32::from(self.sweep.judges());
                match self.end_one(cx, index, out) {
                    Outcome::None => {}
                    Outcome::Done => ends -= 1,
                    Outcome::Stranded(uplink) => self.sweep.stranded.set(uplink, true),
                    Outcome::NoRoom => return,
                }
            }
            self.sweep.waits = None;
            self.sweep.next = (index + step) % self.table.capacity();
            self.sweep.left = self.sweep.left.saturating_sub(step);
            slots = slots.saturating_sub(step);
        }
    }

    /// Is it the forward entry of a flow that may have to end?
    #[inline]
    fn concerns(&self, index: u32) -> bool {
        let slot = self.table.slot(index);
        let meta = slot.meta();
        let sweep = &self.sweep;
        // What began inside, and leaves by an uplink, no service lets.
        let by_service = is_asked(meta.flags) || meta.uplink == NONE;
        let concerned = sweep.refiltered
            || sweep.republished && by_service
            || sweep.given.is_any()
            || self.loses(index);
        concerned && meta.flags & flag::INITIATED != 0 && slot.is_valid()
    }

    /// Does the flow lose its uplink, or perhaps its address outside?
    #[inline]
    fn loses(&self, index: u32) -> bool {
        let meta = self.table.slot(index).meta();
        let dead = self.sweep.dead.contains(meta.uplink);
        let renumbered = self.is_renumbered(meta.uplink);
        let connection = is_open(meta.proto, meta.flow_state);
        let tied = meta.flags & flag::NAT != 0 || self.sweep.by_source.contains(meta.uplink);
        (dead && connection && tied) || renumbered
    }

    /// May a flow by this uplink have an old address? One that stays inside has addresses of any.
    #[inline]
    fn is_renumbered(&self, uplink: u8) -> bool {
        let renumbered = self.sweep.renumbered;
        if uplink == NONE { !renumbered.is_empty() } else { renumbered.contains(uplink) }
    }

    fn end_one<B: Buffer>(
        &mut self,
        cx: &Context,
        index: u32,
        out: &mut impl Output<B>,
    ) -> Outcome {
        let Some(entry) = self.table.slot(index).read().filter(|e| e.state_owner.worker() == cx.id)
        else {
            return Outcome::None;
        };
        let denied = || {
            if is_asked(entry.flags) {
                return !cx.is_still_let_in(&entry) || cx.takes_from_gateway(&entry);
            }
            entry.uplink == NONE && !cx.is_still_inside(&entry)
                || cx.takes_from_gateway(&entry)
                || self.is_denied(cx, &entry)
        };
        if self.sweep.given.has_far_end(&entry) || self.sweep.judges() && denied() {
            return self.end_denied(cx, index, &entry, out);
        }
        if !self.loses(index) {
            return Outcome::None;
        }
        let is_open = is_open(entry.key.proto(), entry.state_owner.state());
        // Nothing is to be waited for where the uplink has another address already.
        let readdressed = self.is_renumbered(entry.uplink) && !cx.keeps_source(&entry);
        if !readdressed {
            return match is_open && self.sweep.dead.contains(entry.uplink) {
                true => self.end_connection(cx, index, &entry, out),
                false => Outcome::None,
            };
        }
        if is_open {
            let outcome = self.reset_or_wait(cx, index, &entry, out);
            if !matches!(outcome, Outcome::Done) {
                return outcome;
            }
        } else {
            // Of one that stays inside it may be the other address that is gone.
            if entry.state_owner.is_mapped() && entry.uplink != NONE {
                self.mappings.detach(&self.external_of(&entry));
            }
            cx.lane.add(Counter::FlowsMoved, 1);
        }
        // What its ends may have to say yet would leave from the old address.
        self.remove(cx, index);
        Outcome::Done
    }

    fn end_connection<B: Buffer>(
        &mut self,
        cx: &Context,
        index: u32,
        entry: &Entry<F>,
        out: &mut impl Output<B>,
    ) -> Outcome {
        if is_asked(entry.flags) {
            // What is for an own address may come by another.
            if entry.rewrite.dst == entry.key.dst() && !self.sweep.by_source.contains(entry.uplink)
            {
                return Outcome::None;
            }
            // Its client may ask again by another, if there is one.
            return match cx.usable_uplinks::<F>().is_empty() {
                true => Outcome::Stranded(entry.uplink),
                false => self.reset_or_wait(cx, index, entry, out),
            };
        }
        let traffic = self.traffic_in(cx, entry);
        // Where a code point decides, the next packet has it.
        let Some(policy) = steering::policy_by_address(&cx.snapshot.half, &cx.control, &traffic)
        else {
            return Outcome::None;
        };
        let from = (entry.uplink, entry.flags & flag::NAT != 0);
        match cx.elsewhere(from, policy, &traffic) {
            Elsewhere::Nowhere => return Outcome::Stranded(entry.uplink),
            // With its next packet.
            Elsewhere::Unchanged => return Outcome::None,
            Elsewhere::Readdressed | Elsewhere::Barred => {}
        }
        match cx.on_uplink_down(policy) {
            OnUplinkDown::Keep => Outcome::Done,
            OnUplinkDown::Drop => {
                flows::close(&self.table, index);
                Outcome::Done
            }
            OnUplinkDown::Reset => self.reset_or_wait(cx, index, entry, out),
        }
    }

    pub(super) fn reset_or_wait<B: Buffer>(
        &mut self,
        cx: &Context,
        index: u32,
        entry: &Entry<F>,
        out: &mut impl Output<B>,
    ) -> Outcome {
        let inward = if is_asked(entry.flags) { index } else { entry.peer };
        let port = cx.port_toward(self.table.slot(inward).action().adjacency);
        let port = cx.snapshot.half.ports.get(usize::from(port));
        let device = port.map_or(0, |port| port.device);
        if self.sweep.passes_over(device) {
            return Outcome::None;
        }
        if self.reset(cx, index, entry, out) {
            self.sweep.full.set(device, false);
            return Outcome::Done;
        }
        if self.sweep.refused(device) { Outcome::NoRoom } else { Outcome::None }
    }

    /// Resets a connection at both ends, given its forward slot; at the host's alone where the other is
    /// outside and its address there is the uplink's no more, and somebody else's perhaps, or where the
    /// gateway has the other's. Its entries stay for what the ends may have to say to that. `false`: no
    /// room for the host's, and nothing was done.
    pub(super) fn reset<B: Buffer>(
        &mut self,
        cx: &Context,
        index: u32,
        entry: &Entry<F>,
        out: &mut impl Output<B>,
    ) -> bool {
        let Some(back) = self.table.slot(entry.peer).read() else { return true };
        let mut directions = [(index, *entry), (entry.peer, back)];
        if is_asked(entry.flags) {
            directions.swap(0, 1);
        }
        let [(outward, from_host), (inward, from_far)] = directions;
        let reset = |slot, leaves: &Entry<F>, answers: &Entry<F>| {
            let Egress { device, link, .. } = cx.egress(&self.table.slot(slot).action())?;
            let numbers = (leaves.next_seq, answers.next_seq);
            let reset = answer::reset::<F>(&link, &leaves.translated(), numbers.0, numbers.1)?;
            Some((device, reset))
        };
        if let Some((device, reset)) = reset(inward, &from_far, &from_host)
            && !cx.originate(device, reset.data(), out)
        {
            return false;
        }
        // The far end's is an attempt: the uplink may be down.
        if (entry.uplink == NONE || cx.keeps_source(entry) && !self.sweep.given.has_far_end(entry))
            && let Some((device, reset)) = reset(outward, &from_host, &from_far)
        {
            cx.originate(device, reset.data(), out);
        }
        flows::close(&self.table, index);
        cx.lane.add(Counter::FlowsReset, 1);
        true
    }
}
