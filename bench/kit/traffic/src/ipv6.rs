//! Frames of IPv6.

use crate::{FIRST_PORT, PORT, PORTS, Stream, endpoint_of};

/// Bytes of every frame that [`header`] gives: Ethernet, IPv6, UDP, and two of payload.
pub const HEADER_LEN: usize = 64;
/// As [`STAMP_AT`](crate::STAMP_AT).
pub const STAMP_AT: usize = 64;
/// Shortest frame, bytes.
pub const MIN_FRAME: usize = 72;

/// The first [`HEADER_LEN`] bytes of a frame of this flow, as [`crate::header`] has them for IPv4.
/// UDP has its checksum (RFC 8200 §8.1); what follows `stamp`, the eight bytes at [`STAMP_AT`], is
/// taken to be zero.
#[inline(always)]
#[must_use]
pub const fn header(stream: &Stream, flow: u32, frame_len: u16, stamp: u64) -> [u64; 8] {
    let (endpoint, number) = endpoint_of(stream, flow);
    let from = (stream.source + endpoint / PORTS) as u64;
    let to = (stream.destination + number) as u64;
    let sport = (FIRST_PORT as u32 + endpoint % PORTS) as u64;
    let udp_len = frame_len as u64 - 54;
    const UDP: u64 = 17;
    const UDP_AND_HOPS: u64 = UDP << 8 | 64;
    // The length is in the pseudo-header too. A sum is the same whatever the order of bytes.
    let sum = stream.prefix_sum as u64 + 2 * udp_len + UDP + sport + PORT as u64;
    let sum = sum + (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff);
    let stamp = stamp.to_be();
    let sum = sum + (stamp >> 48) + (stamp >> 32 & 0xffff) + (stamp >> 16 & 0xffff);
    let sum = sum + (stamp & 0xffff);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = if sum == 0xffff { 0xffff } else { !sum & 0xffff };
    let [[s0, s1, s2], [d0, d1, d2]] = stream.prefixes;
    let (s0, s1, s2) = (s0 as u64, s1 as u64, s2 as u64);
    let (d0, d1, d2) = (d0 as u64, d1 as u64, d2 as u64);
    [
        stream.start[0],
        stream.start[1],
        (udp_len << 32 | UDP_AND_HOPS << 16 | s0 >> 16).to_be(),
        ((s0 & 0xffff) << 48 | s1 << 16 | s2 >> 16).to_be(),
        ((s2 & 0xffff) << 48 | from << 16 | d0 >> 16).to_be(),
        ((d0 & 0xffff) << 48 | d1 << 16 | d2 >> 16).to_be(),
        ((d2 & 0xffff) << 48 | to << 16 | sport).to_be(),
        ((PORT as u64) << 48 | udp_len << 32 | checksum << 16).to_be(),
    ]
}

/// The sum of both prefixes' 16-bit words, for [`Stream::prefix_sum`].
#[must_use]
pub fn prefix_sum(prefixes: &[[u32; 3]; 2]) -> u32 {
    prefixes.iter().flatten().map(|word| (word >> 16) + (word & 0xffff)).sum()
}

/// The words of a [`header`] by which [`line_of`](crate::line_of) finds a flow's line: the rest of
/// the source, and of the destination with the port.
#[inline(always)]
#[must_use]
pub const fn flow_words(source: u64, destination: u64) -> [u64; 2] {
    [source, destination >> 16]
}
