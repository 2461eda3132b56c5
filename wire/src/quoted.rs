//! The packet that an ICMP error is about, as far as the error quotes it (RFC 792, RFC 1812 §4.3.2.3).
//!
//! Both tiers read it here, so what one takes to be about a flow, the other does too.

use crate::checksum::{is_valid, sum};
use crate::family::Family;
use crate::key::{FlowKey4, FlowKey6};
use crate::parse::Parsed;
use crate::{icmp, icmpv6, ipv4, ipv6, tcp, udp};

/// Bytes that are read: an IPv4 header, and as much behind it as every error quotes.
pub const LEN: usize = ipv4::HEADER_LEN + 8;

/// Where the quoted packet begins in the frame of an ICMP error; `None` if the error ends before
/// `len` bytes of it.
#[inline(always)]
pub fn start<F: Family>(error: &Parsed<F>, len: usize) -> Option<u16> {
    let start = error.l4 + icmp::HEADER_LEN as u16;
    (start + len as u16 <= error.end).then_some(start)
}

/// As [`LEN`], of IPv6.
pub const LEN6: usize = ipv6::HEADER_LEN + 8;

/// As [`key`], of IPv6, where `None` stands for extension headers, too.
#[inline(always)]
pub fn key6(quoted: &[u8; LEN6]) -> Option<FlowKey6> {
    let (fixed, rest) = quoted.split_first_chunk::<8>()?;
    let (src, rest) = rest.split_first_chunk::<16>()?;
    let (dst, transport) = rest.split_first_chunk::<16>()?;
    let [0x60..0x70, _, _, _, _, _, proto, _] = *fixed else { return None };
    let (sport, dport) = ports(proto, transport.first_chunk()?, icmpv6::PROTOCOL, |kind| {
        matches!(kind, icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY)
    })?;
    Some(FlowKey6::new(*src, *dst, sport, dport, proto))
}

/// Ports, or twice the identifier, of a protocol that flows have.
#[inline(always)]
fn ports(
    proto: u8,
    transport: &[u8; 8],
    icmp: u8,
    is_echo: impl Fn(u8) -> bool,
) -> Option<([u8; 2], [u8; 2])> {
    let [a, b, c, d, e, f, ..] = *transport;
    match proto {
        tcp::PROTOCOL | udp::PROTOCOL => Some(([a, b], [c, d])),
        _ if proto == icmp && is_echo(a) => Some(([e, f], [e, f])),
        _ => None,
    }
}

/// The key of the quoted packet, of a protocol that flows have; `None` for another, for a header
/// with options or a wrong checksum (RFC 5508 REQ-3), and for a later fragment.
#[inline(always)]
pub fn key(quoted: &[u8; LEN]) -> Option<FlowKey4> {
    let (ip, transport) = quoted.split_first_chunk::<20>()?;
    let [0x45, _, _, _, _, _, frag_hi, frag_lo, _, proto, ..] = *ip else { return None };
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let offset = u16::from_be_bytes([frag_hi, frag_lo]) & ipv4::FRAGMENT_OFFSET;
    if offset != 0 || !is_valid(sum(ip)) {
        return None;
    }
    let (sport, dport) = ports(proto, transport.first_chunk()?, icmp::PROTOCOL, |kind| {
        matches!(kind, icmp::ECHO_REQUEST | icmp::ECHO_REPLY)
    })?;
    Some(FlowKey4::new([s0, s1, s2, s3], [d0, d1, d2, d3], sport, dport, proto))
}
