//! The packet that an ICMP error is about, as far as the error quotes it (RFC 792, RFC 1812 §4.3.2.3).
//!
//! Both tiers read it here, so what one takes to be about a flow, the other does too.

use crate::checksum::{is_valid, sum};
use crate::extensions::Chain;
use crate::family::{Family, V4, V6};
use crate::key::{FlowKey, FlowKey4, FlowKey6, echo_ports};
use crate::parse::{Parsed, Parsed6};
use crate::words::Source;
use crate::{icmp, ipv4, ipv6, protocol, tcp, udp};

/// A quoted packet of a protocol that flows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<F: Family> {
    /// Its flow.
    pub key: FlowKey<F>,
    /// Where its transport header begins, bytes from the start of the error's frame.
    pub l4: u16,
}

/// Bytes of a transport header that are read, and that every error quotes. Of a portless protocol
/// none is, and a packet may have fewer.
const TRANSPORT: usize = 8;

/// So many bytes of what an error quotes, which are at `at`.
#[inline(always)]
fn part<F: Family, const N: usize>(
    frame: &(impl Source + ?Sized),
    error: &Parsed<F>,
    at: u16,
) -> Option<[u8; N]> {
    if usize::from(at) + N > error.end.into() { None } else { frame.bytes(at) }
}

/// As [`of4`], in IPv6: `None`, too, where extension headers are not [walked](crate::extensions::walk).
#[inline(always)]
pub fn of6(frame: &(impl Source + ?Sized), error: &Parsed6) -> Option<Quoted<V6>> {
    let start = error.l4 + icmp::HEADER_LEN as u16;
    let ip: [u8; ipv6::HEADER_LEN] = part(frame, error, start)?;
    let (fixed, rest) = ip.split_first_chunk::<8>()?;
    let (src, rest) = rest.split_first_chunk::<16>()?;
    let [0x60..0x70, _, _, _, _, _, next, _] = *fixed else { return None };
    let behind = start + ipv6::HEADER_LEN as u16;
    let Chain { proto, l4, fragment } = frame.walk(next, behind, error.end).ok().flatten()?;
    if fragment.is_some_and(|fragment| !fragment.first) {
        return None;
    }
    let [sport, dport] = ports::<V6>(frame, error, proto, l4)?;
    Some(Quoted { key: FlowKey6::new(*src, *rest.first_chunk()?, sport, dport, proto), l4 })
}

/// Ports, or what stands for them, of a protocol that flows have, in the transport header at `l4`.
#[inline(always)]
fn ports<F: Family>(
    frame: &(impl Source + ?Sized),
    error: &Parsed<F>,
    proto: u8,
    l4: u16,
) -> Option<[[u8; 2]; 2]> {
    if protocol::is_portless(proto) {
        return protocol::has_flows::<F>(proto).then_some([[0; 2]; 2]);
    }
    let [a, b, c, d, e, f, ..]: [u8; TRANSPORT] = part(frame, error, l4)?;
    match proto {
        tcp::PROTOCOL | udp::PROTOCOL => Some([[a, b], [c, d]]),
        _ if proto == F::ICMP && (a == F::ECHO_REQUEST || a == F::ECHO_REPLY) => {
            Some(echo_ports(a, [e, f]))
        }
        _ => None,
    }
}

/// The packet that an error quotes; `None` for a protocol that flows do not have, for a header with
/// options or a wrong checksum (RFC 5508 REQ-3), and for a later fragment.
#[inline(always)]
pub fn of4(frame: &(impl Source + ?Sized), error: &Parsed) -> Option<Quoted<V4>> {
    let start = error.l4 + icmp::HEADER_LEN as u16;
    let ip: [u8; ipv4::HEADER_LEN] = part(frame, error, start)?;
    let [0x45, _, _, _, _, _, frag_hi, frag_lo, _, proto, ..] = ip else { return None };
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = ip;
    let offset = u16::from_be_bytes([frag_hi, frag_lo]) & ipv4::FRAGMENT_OFFSET;
    if offset != 0 || !is_valid(sum(&ip)) {
        return None;
    }
    let l4 = start + ipv4::HEADER_LEN as u16;
    let [sport, dport] = ports::<V4>(frame, error, proto, l4)?;
    let key = FlowKey4::new([s0, s1, s2, s3], [d0, d1, d2, d3], sport, dport, proto);
    Some(Quoted { key, l4 })
}
