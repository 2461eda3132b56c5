//! The flows of one worker: making both directions of a flow, following it, ending it.

#[cfg(test)]
mod tests;
mod track;

use weir_layout::adjacency::{Adjacency, mark};
use weir_layout::control::Timeouts;
use weir_layout::flow::{FlowState, StateOwner, flag};
use weir_shm::flows::{FlowTable, Stored, ago_ms};
use weir_wire::entry::NewDirection;
use weir_wire::family::{Family, V4};
use weir_wire::key::FlowKey;
use weir_wire::{icmp, icmpv6, protocol, tcp, udp};

pub use track::{Header, has_ended, track};

/// A flow to be made: packets of `first` leave as `translated`.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<F: Family = V4> {
    /// The first packet's key.
    pub first: FlowKey<F>,
    /// The same after translation.
    pub translated: FlowKey<F>,
    /// Hashes of the keys of its packets and of those that answer.
    pub hashes: [u64; 2],
    /// Uplink index; [`NONE`](weir_layout::NONE): it stays inside.
    pub uplink: u8,
    /// Who sent the first packet.
    pub initiator: End,
    /// Whom it goes to.
    pub responder: End,
    /// Owner.
    pub worker: u8,
    /// It holds its endpoint's mapping.
    pub is_mapped: bool,
    /// Milliseconds.
    pub now: u32,
}

/// One end of a flow, as far as the gateway can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// What leaves for it: index of an adjacency.
    pub adjacency: u16,
    /// An end inside: that adjacency, which its packets come from too.
    pub inside: Option<Adjacency>,
}

impl End {
    /// The side that it sends from: [`flag::INSIDE`], or nothing.
    fn side(&self) -> u8 {
        self.inside.map_or(0, |_| flag::INSIDE)
    }

    /// The mark of what it sends, when the other direction is in slot `peer`.
    fn mark(&self, peer: u32) -> u16 {
        self.inside.map_or(0, |from| mark(from.to_word(), peer))
    }
}

/// Publishes both directions and links them; the forward slot. `None`: no room, nothing changed.
pub fn create<F: Stored>(table: &FlowTable<F>, new: &NewFlow<F>) -> Option<u32> {
    let NewFlow { first, translated, initiator, responder, .. } = new;
    let nat = if first == translated { 0 } else { flag::NAT };
    // The kernel tier reads ports.
    let kept = if protocol::is_portless(first.proto()) { flag::NO_OFFLOAD } else { 0 };
    let state = match first.proto() {
        tcp::PROTOCOL => FlowState::Opening,
        _ => FlowState::Stateless,
    };
    let state_owner = StateOwner::new(state, new.worker).with_mapping(new.is_mapped);
    let direction = |from: &End, to: &End, flags| NewDirection {
        flags: nat | kept | from.side() | flags,
        state_owner,
        uplink: new.uplink,
        adjacency: to.adjacency,
        mark: 0,
        now: new.now,
    };
    let [hash, answers] = new.hashes;
    let back = direction(responder, initiator, 0);
    let (answer, answered) = (translated.reversed(), first.reversed());
    let back = table.insert(answers, &back.words::<F>(&answer, &answered))?;
    let mut forward = direction(initiator, responder, flag::INITIATED | flag::SEEN);
    forward.mark = initiator.mark(back);
    let Some(index) = table.insert(hash, &forward.words::<F>(first, translated)) else {
        table.retire(back);
        return None;
    };
    table.slot(back).set_mark(responder.mark(index));
    table.link(index, back);
    Some(index)
}

/// Makes a TCP flow one that is closing, given its forward slot: the kernel tier leaves it alone.
pub fn close<F: Stored>(table: &FlowTable<F>, forward: u32) {
    let slot = table.slot(forward);
    let action = slot.action();
    let peer = table.slot(action.peer);
    let state = FlowState::Closing;
    let kept = !(flag::OFFLOAD | flag::GOES_ON);
    slot.set_meta(action.flags & kept, state);
    peer.set_meta(peer.action().flags & kept, state);
}

/// Idle time after which a flow ends, milliseconds.
pub fn timeout_ms(timeouts: &Timeouts, proto: u8, flow_state: FlowState) -> u32 {
    let seconds = match flow_state {
        FlowState::Opening => timeouts.tcp_opening,
        FlowState::Established => timeouts.tcp_established,
        FlowState::Closing => timeouts.tcp_closing,
        FlowState::Stateless if matches!(proto, icmp::PROTOCOL | icmpv6::PROTOCOL) => timeouts.icmp,
        FlowState::Stateless if proto == udp::PROTOCOL => timeouts.udp,
        FlowState::Stateless => timeouts.other,
    };
    seconds.saturating_mul(1000)
}

/// For how long has neither direction been used of the flow in this forward slot, milliseconds? The
/// clock wraps after 49 days; a timestamp that is ahead of `now` is fresh.
pub fn idle_ms<F: Stored>(table: &FlowTable<F>, forward: u32, now: u32) -> u32 {
    let back = table.slot(forward).action().peer;
    unsaid_ms(table, forward, now).min(unsaid_ms(table, back, now))
}

/// For how long has the direction in this slot not been used?
pub fn unsaid_ms<F: Stored>(table: &FlowTable<F>, slot: u32, now: u32) -> u32 {
    ago_ms(now, table.slot(slot).last_seen())
}
