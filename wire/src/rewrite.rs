//! Applying a compiled [`Rewrite4`] to a frame: addresses, ports, TTL, and both checksums by delta.
//!
//! Used by both tiers. The caller has parsed the frame and checked that its TTL is above one.

use crate::checksum::Delta;
use crate::layout::flow::{FlowKey4, Rewrite4};
use crate::parse::put;
use crate::{icmp, ipv4, tcp, udp};

/// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
pub fn compile4(from: &FlowKey4, to: &FlowKey4) -> Rewrite4 {
    let addresses = Delta::of(from.src, to.src) + Delta::of(from.dst, to.dst);
    let l4 = match from.proto {
        // One identifier, and no pseudo-header (RFC 792).
        icmp::PROTOCOL => Delta::of(from.sport, to.sport),
        _ => addresses + Delta::of(from.sport, to.sport) + Delta::of(from.dport, to.dport),
    };
    Rewrite4 {
        src: to.src,
        dst: to.dst,
        sport: to.sport,
        dport: to.dport,
        l3_delta: (addresses + Delta::TTL_DECREMENT).raw(),
        l4_delta: l4.raw(),
    }
}

/// Rewrites the packet whose IP header begins at `l3` and whose transport header at `l4`, and takes
/// one off its TTL. `l4` is `None` for a fragment that carries no transport header.
#[inline]
pub fn apply4(frame: &mut [u8], l3: usize, l4: Option<usize>, proto: u8, new: &Rewrite4) {
    let Some(ip) = frame.get_mut(l3..).and_then(<[u8]>::first_chunk_mut::<20>) else { return };
    ip[ipv4::field::TTL] = ip[ipv4::field::TTL].wrapping_sub(1);
    let delta = Delta::from_raw(new.l3_delta);
    let [.., hi, lo, _, _, _, _, _, _, _, _] = *ip;
    let [hi, lo] = delta.apply([hi, lo]);
    let ([a, b, c, d], [e, f, g, h]) = (new.src, new.dst);
    if let Some(tail) = ip.last_chunk_mut::<10>() {
        *tail = [hi, lo, a, b, c, d, e, f, g, h];
    }
    let Some(l4) = l4 else { return };
    let delta = Delta::from_raw(new.l4_delta);
    let Some(transport) = frame.get_mut(l4..) else { return };
    match proto {
        tcp::PROTOCOL => {
            let Some(header) = transport.first_chunk_mut::<20>() else { return };
            set_ports(header, new);
            let at = tcp::field::CHECKSUM;
            let [hi, lo] = delta.apply([header[at], header[at + 1]]);
            (header[at], header[at + 1]) = (hi, lo);
        }
        udp::PROTOCOL => {
            let Some(header) = transport.first_chunk_mut::<8>() else { return };
            set_ports(header, new);
            let [.., hi, lo] = *header;
            put(header, 6, delta.apply_udp([hi, lo]));
        }
        icmp::PROTOCOL => {
            let Some(header) = transport.first_chunk_mut::<8>() else { return };
            let [_, _, hi, lo, ..] = *header;
            put(header, icmp::field::CHECKSUM, delta.apply([hi, lo]));
            put(header, icmp::field::IDENT, new.sport);
        }
        _ => {}
    }
}

#[inline]
fn set_ports(header: &mut [u8], new: &Rewrite4) {
    put(header, 0, new.sport);
    put(header, 2, new.dport);
}
