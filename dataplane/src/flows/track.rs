//! Following a flow by its packets: when it is offered, closes, and is established again.

use weir_layout::flow::{FlowState, flag};
use weir_shm::flows::{Action, FlowTable, Stored};
use weir_wire::family::Family;
use weir_wire::tcp::{self, Place, Segment};

/// What a TCP segment says of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bits of [`tcp::flag`].
    pub flags: u8,
    /// Its first sequence number.
    pub seq: u32,
    /// What it acknowledges, if anything.
    pub ack: Option<u32>,
    /// Where it stands.
    pub segment: Segment,
}

/// The flags that say where a direction comes from, and whether it began the flow. With
/// [`flag::INITIATED`] alone it is that of who asked from outside, with [`flag::INSIDE`] alone its
/// host's, or that of who answers inside.
const ASKS: u8 = flag::INITIATED | flag::INSIDE;

/// What a host says at most before its client has answered, bytes: a window without scaling (RFC 7323
/// §2.2). One guess in 65 536 is as near.
const OPENING: u32 = 0xffff;

/// Follows a flow by one packet, `header` if it is TCP: marks the direction as seen, keeps the TCP
/// state.
///
/// A flow is offered to the kernel tier once both directions were seen (TCP: and the handshake is
/// complete). After one FIN a connection may go on for hours (half-close, RFC 5382 REQ-2); after
/// both, or a RST, it is closing, see [`has_ended`]: a SYN from outside opens it again, where any may
/// come in; one from the inside begins a flow of its own.
///
/// A FIN or RST counts only if its numbers are the connection's (RFC 7857 §2.2); any is forwarded,
/// for its receiver judges better (RFC 5961 §3.2). One that was guessed all the same is forgotten
/// when both directions go on: then the connection is established again.
#[inline]
pub fn track<F: Stored>(
    table: &FlowTable<F>,
    index: u32,
    action: &Action<F>,
    header: Option<&Header>,
) {
    const EVENTS: u8 = tcp::flag::SYN | tcp::flag::FIN | tcp::flag::RST;
    // Neither opening nor closing.
    let settled = action.flow_state as u8 & 1 == 0;
    let event = header.is_some_and(|header| header.flags & EVENTS != 0);
    let goes_on = header.is_some() || action.flags & (ASKS | flag::GOES_ON) != flag::INITIATED;
    if action.flags & flag::SEEN != 0 && settled && !event && goes_on {
        return;
    }
    track_transition(table, index, action, header);
}

const _: () = {
    assert!(FlowState::Stateless as u8 & 1 == 0 && FlowState::Established as u8 & 1 == 0);
    assert!(FlowState::Opening as u8 & 1 == 1 && FlowState::Closing as u8 & 1 == 1);
};

#[cold]
fn track_transition<F: Stored>(
    table: &FlowTable<F>,
    index: u32,
    action: &Action<F>,
    header: Option<&Header>,
) {
    let (slot, peer) = (table.slot(index), table.slot(action.peer));
    let mut other = peer.action();
    let mut flags = action.flags | flag::SEEN;
    let mut state = action.flow_state;
    match header {
        None if other.flags & flag::SEEN == 0 => {}
        None => match flags & ASKS {
            // Who began from outside goes on after the answer, or leaves it at that.
            flag::INITIATED => flags = offered(flags) | flag::GOES_ON,
            flag::INSIDE if other.flags & flag::INSIDE == 0 => flags = offered(flags),
            _ => (flags, other.flags) = (offered(flags), offered(other.flags)),
        },
        Some(header) if header.flags & (tcp::flag::RST | tcp::flag::FIN) != 0 => {
            if !is_of_connection(table, index, action, header) {
                return;
            }
            flags &= !flag::GOES_ON;
            other.flags &= !flag::GOES_ON;
            if header.flags & tcp::flag::RST != 0 {
                state = FlowState::Closing;
            } else {
                flags |= flag::FIN;
                if is_proven(table, action, header) {
                    establish(&mut state, &mut flags, &mut other.flags);
                }
            }
            if flags & other.flags & flag::FIN != 0 {
                state = FlowState::Closing;
            }
        }
        Some(header) if header.flags & tcp::flag::SYN != 0 => {
            if state == FlowState::Closing && header.flags & tcp::flag::ACK == 0 {
                state = FlowState::Opening;
                flags &= !(flag::FIN | flag::OFFLOAD | flag::GOES_ON);
                other.flags &= !(flag::FIN | flag::OFFLOAD | flag::SEEN | flag::GOES_ON);
            }
        }
        Some(header) => {
            if state == FlowState::Closing && goes_on(table, index, action, header) {
                flags |= flag::GOES_ON;
                if other.flags & flag::GOES_ON != 0 {
                    state = FlowState::Opening;
                    flags &= !(flag::FIN | flag::GOES_ON);
                    other.flags &= !(flag::FIN | flag::GOES_ON);
                }
            }
            if is_proven(table, action, header) {
                establish(&mut state, &mut flags, &mut other.flags);
            }
        }
    }
    if state == FlowState::Closing {
        flags &= !flag::OFFLOAD;
        other.flags &= !flag::OFFLOAD;
    }
    slot.set_meta(flags, state);
    peer.set_meta(other.flags, state);
}

/// What is opening, and was seen in both directions, is established.
fn establish(state: &mut FlowState, flags: &mut u8, other: &mut u8) {
    if *state == FlowState::Opening && *other & flag::SEEN != 0 {
        *state = FlowState::Established;
        (*flags, *other) = (offered(*flags), offered(*other));
    }
}

/// Does a segment show that its sender has heard the other end? Who begins a connection from outside in
/// another's name has not, and does not know what to acknowledge; and its host answers whatever it
/// sends, but has nothing to say before the handshake is done. Of one that began inside the source is
/// known.
fn is_proven<F: Stored>(table: &FlowTable<F>, action: &Action<F>, header: &Header) -> bool {
    let said = || table.slot(action.peer).next_seq();
    match action.flags & ASKS {
        flag::INITIATED => header.ack.is_some_and(|ack| said().wrapping_sub(ack) <= OPENING),
        flag::INSIDE => header.segment.has_data || header.flags & tcp::flag::FIN != 0,
        _ => true,
    }
}

/// Are the numbers of a FIN or RST those of the connection? A bare RST answers a segment, and has
/// the number that this acknowledges; one that acknowledges, and a FIN, may come before or behind
/// others, but is near in both directions. Before its direction was seen, what it acknowledges is
/// all that there is to go by.
///
/// Who closes while much comes in acknowledges no more of it than has arrived.
fn is_of_connection<F: Stored>(
    table: &FlowTable<F>,
    index: u32,
    action: &Action<F>,
    header: &Header,
) -> bool {
    let (next, peer) = (table.slot(index).next_seq(), table.slot(action.peer).next_seq());
    let acks = |behind| header.ack.is_some_and(|ack| tcp::is_near(ack, peer, behind));
    if action.flags & flag::SEEN == 0 {
        return acks(tcp::NEAR);
    }
    let bare = header.flags & tcp::flag::RST != 0 && header.seq == next;
    bare || tcp::is_near(header.segment.end, next, tcp::NEAR) && acks(tcp::REACH)
}

/// Does a segment of a closing connection show that its sender has not closed it? After a RST it
/// would send no other; after its FIN it has nothing more to say, and repeats nothing but that.
fn goes_on<F: Stored>(
    table: &FlowTable<F>,
    index: u32,
    action: &Action<F>,
    header: &Header,
) -> bool {
    let next = table.slot(index).next_seq();
    let in_reach = header.segment.place(next) != Place::Outside;
    in_reach && (action.flags & flag::FIN == 0 || header.segment.end != next)
}

/// The flags of a direction of a flow that may be offered, which some never are.
fn offered(flags: u8) -> u8 {
    if flags & flag::NO_OFFLOAD == 0 { flags | flag::OFFLOAD } else { flags }
}

/// Is it a connection that has ended? The next from inside with the same ports is another: it may go
/// by another uplink, and from another address.
pub fn has_ended<F: Family>(action: &Action<F>) -> bool {
    action.flow_state == FlowState::Closing
}
