//! The hot path's parser, used by both tiers, and what it shares with the packet views.
//!
//! [`parse`] (IPv4) and [`parse6`] (IPv6) find the offsets and the flow tuple of a frame in one
//! pass. They read headers as fixed-size chunks, so each header costs one bounds check, and the
//! BPF verifier sees constant offsets. Extension headers of IPv6 are walked by a step of its own
//! ([`Parsed::skip_extensions`]). Slow paths walk headers with the views instead.
//!
//! Inlining is forced: the BPF target has no calls that return structures, and on x86-64 calls and
//! results passed through memory cost as much as half of the parsing.

use crate::checksum::{is_valid, sum};
use crate::family::{Family, V4, V6};
use crate::key::{FlowKey, echo_ports};
use crate::words::Source;
use crate::{ethernet, extensions, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp};

/// Why a packet view refuses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The buffer ends before the header, or before a length that the header states.
    Truncated,
    /// A field contradicts the protocol: version, header length, or a length below the header's.
    Malformed,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "buffer ends before the header or its stated length",
            Self::Malformed => "header field contradicts the protocol",
        })
    }
}

impl core::error::Error for Error {}

/// `N` bytes at `at`; zeros when they are not all there, so that views cannot panic.
#[inline]
pub(crate) fn get<const N: usize>(data: &[u8], at: usize) -> [u8; N] {
    match data.get(at..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => *bytes,
        None => [0; N],
    }
}

/// Writes `value` at `at`, or nothing when there is no room for all of it.
#[inline]
pub(crate) fn put<const N: usize>(data: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(bytes) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = value;
    }
}

/// The part of `data` in `range`, or nothing when it is not all there.
#[inline]
pub(crate) fn part(data: &[u8], range: core::ops::Range<usize>) -> &[u8] {
    data.get(range).unwrap_or(&[])
}

/// Why a frame has no [`Parsed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Reject {
    /// Neither IPv4 nor IPv6: ARP, LLDP, 802.3 …
    NotIp,
    /// Given to [`parse6`], but IPv4.
    Ipv4,
    /// Given to [`parse`], but IPv6.
    Ipv6,
    /// More than one VLAN tag, or a service tag (IEEE 802.1ad).
    StackedVlan,
    /// The frame ends before its headers, or before the length that the IP header states.
    Truncated,
    /// IP version, IHL, or TCP data offset out of range (RFC 1812 §5.2.2).
    BadHeader,
    /// Lengths contradict each other: IPv4 total length below the header's, UDP length below 8 or
    /// beyond the packet, or an end that 16 bits cannot hold.
    BadLength,
    /// The IPv4 header checksum is wrong (RFC 1812 §5.2.2).
    BadChecksum,
}

/// What a parsed packet is to the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whole TCP, UDP, or ICMP echo: the ports are set and the transport header is complete. Or
    /// another protocol that [flows have](protocol::has_flows), which is not read: no ports.
    Flow,
    /// An ICMP error with the whole IP header of the packet it is about at `l4 + 8`; that header's
    /// options, transport and checksums are for the slow path to check. No ports.
    IcmpError,
    /// An IPv4 fragment, or an IPv6 packet with a fragment header, unless that says that it is whole
    /// (of a later one `l4` and `proto` are what follows that). Ports of TCP, UDP and ICMP echo are
    /// set on the first fragment.
    Fragment {
        /// Offset zero: the transport header is here.
        first: bool,
    },
    /// IPv4 options, or IPv6 extension headers that [`walk`](extensions::walk) refuses. No ports;
    /// fragmentation, the checksum of a long IPv4 header and the transport are unchecked. `l4` is
    /// past the options in IPv4, at the first extension header (whose number `proto` is) in IPv6.
    Options,
    /// A protocol that flows do not have, or ICMP that is neither echo nor error. No ports.
    OtherProtocol,
}

/// Where a packet's headers are and which flow it belongs to. Offsets count bytes from the start of
/// the frame; addresses and ports are as on the wire; ports are zero where [`Kind`] promises none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<F: Family = V4> {
    /// VLAN identifier, host order; 0: untagged or priority-tagged.
    pub vlan: u16,
    /// Start of the IP header: 14, or 18 after a VLAN tag.
    pub l3: u16,
    /// Start of the transport header, behind options and extension headers.
    pub l4: u16,
    /// End of the IP packet; Ethernet padding follows.
    pub end: u16,
    /// Source address.
    pub src: F::Address,
    /// Destination address.
    pub dst: F::Address,
    /// Source port; of ICMP echo what [stands for it](echo_ports).
    pub sport: [u8; 2],
    /// Destination port, likewise.
    pub dport: [u8; 2],
    /// IPv4 protocol, or the last next header of IPv6.
    pub proto: u8,
    /// TCP flags byte, CWR to FIN ([`tcp::flag`]); 0 for other protocols.
    pub tcp_flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Differentiated services code point, 0..64.
    pub dscp: u8,
    /// Flow label, 20 bits (RFC 6437); 0 of IPv4.
    pub label: u32,
    /// What the fragments of a packet share beside their addresses; 0 of a whole packet. In IPv4
    /// that is protocol and identification (RFC 791 §3.2), in IPv6 the identification alone: later
    /// fragments may name another next header (RFC 8200 §4.5).
    pub ident: u32,
    /// What to do with it.
    pub kind: Kind,
}

impl<F: Family> Parsed<F> {
    /// The key of its flow.
    #[inline]
    pub fn key(&self) -> FlowKey<F> {
        FlowKey::new(self.src, self.dst, self.sport, self.dport, self.proto)
    }
}

/// An IPv6 packet's [`Parsed`].
pub type Parsed6 = Parsed<V6>;

/// Bytes from the start of a frame that [`parse_head`] reads at most: a VLAN tag, and an ICMP error
/// up to the end of its inner header.
pub const HEAD_LEN: usize = 18 + ipv4::HEADER_LEN + 8 + ipv4::HEADER_LEN;

/// As [`HEAD_LEN`], for [`parse6_head`].
pub const HEAD_LEN6: usize = 18 + ipv6::HEADER_LEN + TRANSPORT_LEN6;

/// Bytes that [`Parsed::read_transport`] reads at most.
pub const TRANSPORT_LEN6: usize = 8 + ipv6::HEADER_LEN;

/// Parses an IPv4 frame.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Result<Parsed, Reject> {
    parse_head(frame, frame.len())
}

/// As [`parse`], for a frame of `frame_len` bytes of which only the first are in `head`:
/// [`HEAD_LEN`] of them are always enough.
#[inline(always)]
pub fn parse_head(head: &[u8], frame_len: usize) -> Result<Parsed, Reject> {
    let link = link(head)?;
    match link.ethertype {
        ethernet::IPV4 => {}
        ethernet::IPV6 => return Err(Reject::Ipv6),
        _ => return Err(Reject::NotIp),
    }
    let (ip, rest) = link.payload.split_first_chunk::<20>().ok_or(Reject::Truncated)?;
    let [version_ihl, tos, len_hi, len_lo, id_hi, id_lo, frag_hi, frag_lo, ttl, proto, ..] = *ip;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
    let total = usize::from(u16::from_be_bytes([len_hi, len_lo]));
    let header = usize::from(version_ihl & 0xf) * 4;
    if version_ihl >> 4 != 4 || header < ipv4::HEADER_LEN {
        return Err(Reject::BadHeader);
    }
    if total < header {
        return Err(Reject::BadLength);
    }
    let l3 = link.l3;
    let end = end_of(l3, total, frame_len)?;
    let l4 = l3 + header as u16;
    let mut parsed = Parsed {
        vlan: link.vlan,
        l3,
        l4,
        end,
        src: [s0, s1, s2, s3],
        dst: [d0, d1, d2, d3],
        sport: [0; 2],
        dport: [0; 2],
        proto,
        tcp_flags: 0,
        ttl,
        dscp: tos >> 2,
        label: 0,
        ident: 0,
        kind: Kind::Options,
    };
    if header != ipv4::HEADER_LEN {
        return Ok(parsed);
    }
    if !is_valid(sum(ip)) {
        return Err(Reject::BadChecksum);
    }
    let fragment = u16::from_be_bytes([frag_hi, frag_lo]);
    let first = fragment & ipv4::FRAGMENT_OFFSET == 0;
    let whole = fragment & ipv4::MORE_FRAGMENTS == 0;
    if !(first && whole) {
        parsed.ident = u32::from_be_bytes([0, proto, id_hi, id_lo]);
    }
    if !first {
        parsed.kind = Kind::Fragment { first };
        return Ok(parsed);
    }
    let len = total - header;
    let transport = match proto {
        tcp::PROTOCOL => tcp(rest, len, whole)?,
        udp::PROTOCOL => udp(rest, len, whole)?,
        icmp::PROTOCOL => icmp4(rest, len)?,
        _ => Transport::unread::<V4>(proto),
    };
    parsed.set(transport, whole);
    Ok(parsed)
}

/// The VLAN identifier of a frame, be the rest of it sound or not; 0 without one.
#[inline(always)]
pub fn vlan_of(head: &[u8]) -> u16 {
    link(head).map_or(0, |link| link.vlan)
}

/// Parses an IPv6 frame (RFC 8200).
#[inline(always)]
pub fn parse6(frame: &[u8]) -> Result<Parsed6, Reject> {
    let parsed = parse6_head(frame, frame.len())?;
    if parsed.kind == Kind::Options { extended6(parsed, frame) } else { Ok(parsed) }
}

/// As [`parse6`], of a packet with extension headers.
#[inline(never)]
fn extended6(mut parsed: Parsed6, frame: &[u8]) -> Result<Parsed6, Reject> {
    if parsed.skip_extensions(frame)? {
        parsed.read_transport(part(frame, parsed.l4.into()..frame.len()))?;
    }
    Ok(parsed)
}

/// As [`parse6`], for a frame of `frame_len` bytes of which only the first are in `head`:
/// [`HEAD_LEN6`] of them are always enough. A packet with any extension header is
/// [`Kind::Options`], until that is [skipped](Parsed::skip_extensions).
#[inline(always)]
pub fn parse6_head(head: &[u8], frame_len: usize) -> Result<Parsed6, Reject> {
    let link = link(head)?;
    match link.ethertype {
        ethernet::IPV6 => {}
        ethernet::IPV4 => return Err(Reject::Ipv4),
        _ => return Err(Reject::NotIp),
    }
    let (fixed, rest) = link.payload.split_first_chunk::<8>().ok_or(Reject::Truncated)?;
    let (src, rest) = rest.split_first_chunk::<16>().ok_or(Reject::Truncated)?;
    let (dst, rest) = rest.split_first_chunk::<16>().ok_or(Reject::Truncated)?;
    let [v, c, label_mid, label_lo, len_hi, len_lo, next, hop_limit] = *fixed;
    if v >> 4 != 6 {
        return Err(Reject::BadHeader);
    }
    let len = usize::from(u16::from_be_bytes([len_hi, len_lo]));
    let l3 = link.l3;
    let end = end_of(l3, ipv6::HEADER_LEN + len, frame_len)?;
    let mut parsed = Parsed {
        vlan: link.vlan,
        l3,
        l4: l3 + ipv6::HEADER_LEN as u16,
        end,
        src: *src,
        dst: *dst,
        sport: [0; 2],
        dport: [0; 2],
        proto: next,
        tcp_flags: 0,
        ttl: hop_limit,
        dscp: (v & 0xf) << 2 | c >> 6,
        label: u32::from_be_bytes([0, c, label_mid, label_lo]) & ipv6::FLOW_LABEL,
        ident: 0,
        kind: Kind::Options,
    };
    if extensions::is_walked(next) {
        return Ok(parsed);
    }
    let transport = transport6(rest, len, next, true)?;
    parsed.set(transport, true);
    Ok(parsed)
}

impl Parsed6 {
    /// Goes past the extension headers that [`parse6_head`] left alone. Is a transport header to be
    /// [read](Self::read_transport) behind them? Not of a later fragment, nor where the headers are
    /// not [walked](extensions::walk).
    ///
    /// # Errors
    ///
    /// [`Reject::Truncated`]: the packet ends before its headers do.
    #[inline(always)]
    pub fn skip_extensions(&mut self, frame: &(impl Source + ?Sized)) -> Result<bool, Reject> {
        let Some(chain) = frame.walk(self.proto, self.l4, self.end)? else {
            return Ok(false);
        };
        (self.proto, self.l4) = (chain.proto, chain.l4);
        let Some(extensions::Fragment { ident, first, whole: false }) = chain.fragment else {
            return Ok(true);
        };
        (self.ident, self.kind) = (ident, Kind::Fragment { first });
        Ok(first)
    }

    /// Reads the transport header behind extension headers. It begins with `head`, of which
    /// [`TRANSPORT_LEN6`] bytes are always enough.
    ///
    /// # Errors
    ///
    /// As of [`parse6`].
    #[inline(always)]
    pub fn read_transport(&mut self, head: &[u8]) -> Result<(), Reject> {
        let whole = self.kind == Kind::Options;
        let len = usize::from(self.end - self.l4);
        self.set(transport6(head, len, self.proto, whole)?, whole);
        Ok(())
    }
}

#[inline(always)]
fn transport6(rest: &[u8], len: usize, next: u8, whole: bool) -> Result<Transport, Reject> {
    match next {
        tcp::PROTOCOL => tcp(rest, len, whole),
        udp::PROTOCOL => udp(rest, len, whole),
        icmpv6::PROTOCOL => icmp6(rest, len),
        _ => Ok(Transport::unread::<V6>(next)),
    }
}

/// The link layer of a frame: what it carries, under at most one VLAN tag.
struct Link<'a> {
    vlan: u16,
    l3: u16,
    ethertype: u16,
    payload: &'a [u8],
}

#[inline(always)]
fn link(frame: &[u8]) -> Result<Link<'_>, Reject> {
    let (header, payload) = frame.split_first_chunk::<14>().ok_or(Reject::Truncated)?;
    let [.., hi, lo] = *header;
    let ethertype = u16::from_be_bytes([hi, lo]);
    if !ethernet::is_tag(ethertype) {
        return Ok(Link { vlan: 0, l3: 14, ethertype, payload });
    }
    let (tag, payload) = payload.split_first_chunk::<4>().ok_or(Reject::Truncated)?;
    let [vlan_hi, vlan_lo, hi, lo] = *tag;
    let inner = u16::from_be_bytes([hi, lo]);
    if ethertype != ethernet::VLAN || ethernet::is_tag(inner) {
        return Err(Reject::StackedVlan);
    }
    let vlan = u16::from_be_bytes([vlan_hi, vlan_lo]) & ethernet::VLAN_ID;
    Ok(Link { vlan, l3: 18, ethertype: inner, payload })
}

/// Where a packet of `len` bytes at `l3` ends.
#[inline(always)]
fn end_of(l3: u16, len: usize, frame_len: usize) -> Result<u16, Reject> {
    let end = usize::from(l3) + len;
    if end > frame_len {
        return Err(Reject::Truncated);
    }
    u16::try_from(end).map_err(|_| Reject::BadLength)
}

/// What a transport header adds to [`Parsed`].
struct Transport {
    sport: [u8; 2],
    dport: [u8; 2],
    tcp_flags: u8,
    kind: Kind,
}

impl Transport {
    const OTHER: Self =
        Self { sport: [0; 2], dport: [0; 2], tcp_flags: 0, kind: Kind::OtherProtocol };
    const ERROR: Self = Self { kind: Kind::IcmpError, ..Self::OTHER };

    #[inline]
    const fn ports([sport, dport]: [[u8; 2]; 2]) -> Self {
        Self { sport, dport, kind: Kind::Flow, ..Self::OTHER }
    }

    /// Of a protocol that is not looked into.
    #[inline(always)]
    fn unread<F: Family>(proto: u8) -> Self {
        if protocol::has_flows::<F>(proto) { Self::ports([[0; 2]; 2]) } else { Self::OTHER }
    }
}

impl<F: Family> Parsed<F> {
    /// Fills in the transport; `whole` is false for first fragments.
    #[inline(always)]
    fn set(&mut self, transport: Transport, whole: bool) {
        self.sport = transport.sport;
        self.dport = transport.dport;
        self.tcp_flags = transport.tcp_flags;
        self.kind = if whole { transport.kind } else { Kind::Fragment { first: true } };
    }
}

/// The first `N` bytes of a transport that has `len` bytes. First fragments that split the
/// transport header are refused like any truncated packet (RFC 1858 §2, RFC 8200 §5).
#[inline(always)]
fn head_of<const N: usize>(rest: &[u8], len: usize) -> Result<&[u8; N], Reject> {
    if len < N {
        return Err(Reject::Truncated);
    }
    rest.first_chunk().ok_or(Reject::Truncated)
}

#[inline(always)]
fn tcp(rest: &[u8], len: usize, whole: bool) -> Result<Transport, Reject> {
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, offset, tcp_flags, ..] =
        *head_of::<20>(rest, len)?;
    let header = usize::from(offset >> 4) * 4;
    if header < tcp::HEADER_LEN {
        return Err(Reject::BadHeader);
    }
    if whole && header > len {
        return Err(Reject::Truncated);
    }
    Ok(Transport { tcp_flags, ..Transport::ports([[s0, s1], [d0, d1]]) })
}

#[inline(always)]
fn udp(rest: &[u8], len: usize, whole: bool) -> Result<Transport, Reject> {
    let [s0, s1, d0, d1, hi, lo, _, _] = *head_of::<8>(rest, len)?;
    let stated = usize::from(u16::from_be_bytes([hi, lo]));
    if stated < udp::HEADER_LEN || (whole && stated > len) {
        return Err(Reject::BadLength);
    }
    Ok(Transport::ports([[s0, s1], [d0, d1]]))
}

#[inline(always)]
fn icmp4(rest: &[u8], len: usize) -> Result<Transport, Reject> {
    let [kind, _, _, _, i0, i1, _, _] = *head_of::<8>(rest, len)?;
    if matches!(kind, icmp::ECHO_REQUEST | icmp::ECHO_REPLY) {
        return Ok(Transport::ports(echo_ports(kind, [i0, i1])));
    }
    if !icmp::is_error(kind) {
        return Ok(Transport::OTHER);
    }
    let [_, _, _, _, _, _, _, _, version, ..] = *head_of::<{ 8 + ipv4::HEADER_LEN }>(rest, len)?;
    if version >> 4 != 4 { Err(Reject::BadHeader) } else { Ok(Transport::ERROR) }
}

#[inline(always)]
fn icmp6(rest: &[u8], len: usize) -> Result<Transport, Reject> {
    let [kind, _, _, _, i0, i1, _, _] = *head_of::<8>(rest, len)?;
    if matches!(kind, icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY) {
        return Ok(Transport::ports(echo_ports(kind, [i0, i1])));
    }
    if !icmpv6::is_error(kind) {
        return Ok(Transport::OTHER);
    }
    let [_, _, _, _, _, _, _, _, version, ..] = *head_of::<{ 8 + ipv6::HEADER_LEN }>(rest, len)?;
    if version >> 4 != 6 { Err(Reject::BadHeader) } else { Ok(Transport::ERROR) }
}
