//! Address families, as types: what of a flow depends on them, so that tables and what is built on
//! them are written once, and compiled for each.

use core::fmt::Debug;

use zerocopy::transmute;

use crate::hash::{digest6, flow4_words, flow6_words};
use crate::key::{FlowKey, FlowKey4, FlowKey6};
use crate::parse::{Parsed, Parsed6, Reject, parse, parse6};
use crate::plain::{Header, Ip4, Ip6, Packet};
use crate::quoted::{self, Quoted};
use crate::rewrite::{Rewrite, apply4, apply6, compile4, compile6, headers4, headers6, hop4, hop6};
use crate::words::{Frame, Source};
use crate::{checksum, ethernet, icmp, icmpv6, ipv4, ipv6};
use weir_layout::control::{IpAddress, PathId};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family.
pub trait Family: sealed::Sealed + Copy + Eq + Debug + Send + Sync + 'static {
    /// An address, network order.
    type Address: IpAddress;
    /// A key or a rewrite as 64-bit words in memory order: addresses first, ports in the last.
    type Words: Copy + Eq + Debug + Default + AsRef<[u64]> + AsMut<[u64]>;
    /// An IP header as words.
    type Header: Header<Words = Self::Words>;

    /// The family as an index.
    const FAMILY: weir_layout::Family;
    /// Number of [words](Self::Words).
    const WORDS: usize;
    /// What frames say that carry it, host order.
    const ETHERTYPE: u16;
    /// Bytes of a packet that every host takes.
    const MIN_MTU: usize;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// ICMP type: echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type: echo reply.
    const ECHO_REPLY: u8;
    /// ICMP type and code: time to live exceeded in transit.
    const TIME_EXCEEDED: [u8; 2];
    /// ICMP type and code: too big, with the next hop's MTU.
    const TOO_BIG: [u8; 2];
    /// ICMP type and code: no route to the destination (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    const NO_ROUTE: [u8; 2];
    /// ICMP type and code: the host cannot be reached for now (RFC 6888 REQ-11b).
    const NO_ROOM: [u8; 2];
    /// ICMP type and code: not by this protocol (RFC 792; RFC 4443 §3.1, which has prohibited for it).
    const NO_PROTOCOL: [u8; 2];
    /// ICMP type and code: prohibited by a rule (RFC 1812 §5.2.7.1, RFC 4443 §3.1).
    const PROHIBITED: [u8; 2];
    /// ICMP type and code: no way out for this source (RFC 1812 §5.2.7.1: prohibited; RFC 4443 §3.1:
    /// failed ingress/egress policy).
    const FOREIGN_SOURCE: [u8; 2];

    /// An address in 32 bits: itself, or a keyed hash of it.
    fn digest(secret: [u64; 2], address: &Self::Address) -> u32;

    /// An address in 32 bits, without a key.
    fn fold(address: &Self::Address) -> u32;

    /// Does an ICMP error of this type tell of another way, or to slow down?
    fn is_advice(kind: u8) -> bool;

    /// May a packet that is forwarded come from this address?
    fn is_unicast(address: &Self::Address) -> bool;

    /// The words of a source, a destination, and what stands behind them.
    fn join(addresses: [Self::Address; 2], last: u64) -> Self::Words;

    /// What [`Self::join`] put together.
    fn split(words: &Self::Words) -> ([Self::Address; 2], u64);

    /// The hash of a key's words; [`tags`](weir_layout::tags) says where it leads.
    fn hash(secret: [u64; 2], words: &Self::Words) -> u64;

    /// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
    fn compile(from: &FlowKey<Self>, to: &FlowKey<Self>) -> Rewrite<Self::Address>;

    /// Where a frame's headers are, and which flow it is of.
    fn parse(frame: &[u8]) -> Result<Parsed<Self>, Reject>;

    /// Sum of the pseudo-header that the protocol's checksum covers; `len` counts its header and
    /// data.
    fn pseudo(src: &Self::Address, dst: &Self::Address, proto: u8, len: u16) -> u16;

    /// Rewrites the headers of a plain packet whose IP header is at `l3`. `None`: they are not all
    /// there.
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet<Self>,
        new: Self::Words,
    ) -> Option<()>;

    /// Takes one off the time to live of a packet whose IP header is at `l3` and begins with this one,
    /// and leaves the rest as it is. `None`: the header is not all there.
    fn hop(frame: &mut (impl Frame + ?Sized), l3: usize, ip: &Self::Header) -> Option<()>;

    /// Rewrites a packet, and takes one off its time to live. `transport` is its protocol, one that
    /// flows have; `None` for a fragment that carries no transport header. Of one, and of a
    /// [portless](crate::protocol::is_portless) protocol, the IP header alone changes. A packet
    /// without all of its headers is left alone.
    fn apply(
        frame: &mut [u8],
        p: &Parsed<Self>,
        transport: Option<u8>,
        new: &Rewrite<Self::Address>,
    );

    /// Writes a header, without options, of a packet of the gateway's own with so many bytes behind it:
    /// an ICMP error, or a reset.
    fn put_header(
        header: &mut [u8],
        src: &Self::Address,
        dst: &Self::Address,
        proto: u8,
        payload: usize,
    );

    /// Gives a header other addresses, and perhaps another time to live; a checksum is made right.
    fn readdress(header: &mut [u8], src: &Self::Address, dst: &Self::Address, ttl: Option<u8>);

    /// The packet that an ICMP error quotes, see [`quoted`].
    fn quoted(frame: &(impl Source + ?Sized), error: &Parsed<Self>) -> Option<Quoted<Self>>;

    /// An uplink's path in the family.
    #[inline]
    fn path(uplink: u8) -> PathId {
        PathId::new(uplink, Self::FAMILY)
    }

    /// The rewrite's words.
    #[inline]
    fn rewrite_words(rewrite: &Rewrite<Self::Address>) -> Self::Words {
        let ([a, b], [c, d]) = (rewrite.l3_delta.to_ne_bytes(), rewrite.l4_delta.to_ne_bytes());
        let ports = [rewrite.sport, rewrite.dport];
        Self::join([rewrite.src, rewrite.dst], meta(ports, [a, b, c, d]))
    }

    /// The rewrite whose words these are.
    #[inline]
    fn rewrite(words: &Self::Words) -> Rewrite<Self::Address> {
        let ([src, dst], last) = Self::split(words);
        let ([sport, dport], [a, b, c, d]) = parts_of_meta(last);
        let (l3_delta, l4_delta) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        Rewrite { src, dst, sport, dport, l3_delta, l4_delta }
    }
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Address = [u8; 4];
    type Words = [u64; 2];
    type Header = Ip4;

    const FAMILY: weir_layout::Family = weir_layout::Family::V4;
    const WORDS: usize = 2;
    const ETHERTYPE: u16 = ethernet::IPV4;
    const MIN_MTU: usize = ipv4::MIN_MTU;
    const ICMP: u8 = icmp::PROTOCOL;
    const ECHO_REQUEST: u8 = icmp::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::ECHO_REPLY;
    const TIME_EXCEEDED: [u8; 2] = [icmp::TIME_EXCEEDED, 0];
    const TOO_BIG: [u8; 2] = [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED];
    const NO_ROUTE: [u8; 2] = [icmp::UNREACHABLE, 0];
    const NO_ROOM: [u8; 2] = [icmp::UNREACHABLE, 1];
    const NO_PROTOCOL: [u8; 2] = [icmp::UNREACHABLE, 2];
    const PROHIBITED: [u8; 2] = [icmp::UNREACHABLE, 13];
    const FOREIGN_SOURCE: [u8; 2] = [icmp::UNREACHABLE, 13];

    #[inline]
    fn digest(_: [u64; 2], address: &[u8; 4]) -> u32 {
        u32::from_be_bytes(*address)
    }

    #[inline]
    fn fold(address: &[u8; 4]) -> u32 {
        u32::from_ne_bytes(*address)
    }

    #[inline]
    fn is_advice(kind: u8) -> bool {
        matches!(kind, icmp::REDIRECT | icmp::SOURCE_QUENCH)
    }

    #[inline]
    fn is_unicast(address: &[u8; 4]) -> bool {
        ipv4::is_unicast(*address)
    }

    #[inline]
    fn join(addresses: [[u8; 4]; 2], last: u64) -> [u64; 2] {
        [transmute!(addresses), last]
    }

    #[inline]
    fn split([addresses, last]: &[u64; 2]) -> ([[u8; 4]; 2], u64) {
        (transmute!(*addresses), *last)
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 2]) -> u64 {
        flow4_words(secret, *words)
    }

    #[inline]
    fn compile(from: &FlowKey4, to: &FlowKey4) -> Rewrite<[u8; 4]> {
        compile4(from, to)
    }

    #[inline(always)]
    fn parse(frame: &[u8]) -> Result<Parsed, Reject> {
        parse(frame)
    }

    /// ICMP has none (RFC 792).
    #[inline]
    fn pseudo(src: &[u8; 4], dst: &[u8; 4], proto: u8, len: u16) -> u16 {
        if proto == icmp::PROTOCOL { 0 } else { checksum::pseudo4(*src, *dst, proto, len) }
    }

    #[inline(always)]
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet,
        new: [u64; 2],
    ) -> Option<()> {
        let [_, _, third, ..] = packet.ip.0;
        headers4(frame, l3, packet.ip.proto(), third, new)
    }

    #[inline(always)]
    fn hop(frame: &mut (impl Frame + ?Sized), l3: usize, ip: &Ip4) -> Option<()> {
        let [_, _, third, ..] = ip.0;
        hop4(frame, l3, third)
    }

    #[inline]
    fn apply(frame: &mut [u8], p: &Parsed, transport: Option<u8>, new: &Rewrite<[u8; 4]>) {
        apply4(frame, p.l3.into(), transport, new);
    }

    fn put_header(header: &mut [u8], src: &[u8; 4], dst: &[u8; 4], proto: u8, payload: usize) {
        let mut ip = ipv4::Packet::new_unchecked(header);
        ip.set_header_len(ipv4::HEADER_LEN);
        ip.set_dscp(if proto == icmp::PROTOCOL { INTERNETWORK_CONTROL } else { 0 });
        ip.set_total_len((ipv4::HEADER_LEN + payload) as u16);
        ip.set_protocol(proto);
        Self::readdress(ip.into_inner(), src, dst, Some(TTL));
    }

    fn readdress(header: &mut [u8], src: &[u8; 4], dst: &[u8; 4], ttl: Option<u8>) {
        let mut ip = ipv4::Packet::new_unchecked(header);
        ip.set_src(*src);
        ip.set_dst(*dst);
        ip.set_ttl(ttl.unwrap_or(ip.ttl()));
        ip.fill_checksum();
    }

    #[inline(always)]
    fn quoted(frame: &(impl Source + ?Sized), error: &Parsed) -> Option<Quoted<Self>> {
        quoted::of4(frame, error)
    }
}

impl Family for V6 {
    type Address = [u8; 16];
    type Words = [u64; 5];
    type Header = Ip6;

    const FAMILY: weir_layout::Family = weir_layout::Family::V6;
    const WORDS: usize = 5;
    const ETHERTYPE: u16 = ethernet::IPV6;
    const MIN_MTU: usize = ipv6::MIN_MTU;
    const ICMP: u8 = icmpv6::PROTOCOL;
    const ECHO_REQUEST: u8 = icmpv6::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmpv6::ECHO_REPLY;
    const TIME_EXCEEDED: [u8; 2] = [icmpv6::TIME_EXCEEDED, 0];
    const TOO_BIG: [u8; 2] = [icmpv6::PACKET_TOO_BIG, 0];
    const NO_ROUTE: [u8; 2] = [icmpv6::UNREACHABLE, 0];
    const NO_ROOM: [u8; 2] = [icmpv6::UNREACHABLE, 3];
    const NO_PROTOCOL: [u8; 2] = [icmpv6::UNREACHABLE, 1];
    const PROHIBITED: [u8; 2] = [icmpv6::UNREACHABLE, 1];
    const FOREIGN_SOURCE: [u8; 2] = [icmpv6::UNREACHABLE, 5];

    #[inline]
    fn digest(secret: [u64; 2], address: &[u8; 16]) -> u32 {
        digest6(secret, transmute!(*address))
    }

    #[inline]
    fn fold(address: &[u8; 16]) -> u32 {
        let [a, b]: [u64; 2] = transmute!(*address);
        ((a ^ b) >> 32 ^ a ^ b) as u32
    }

    /// A redirect is no error (RFC 4861 §4.5).
    #[inline]
    fn is_advice(_: u8) -> bool {
        false
    }

    #[inline]
    fn is_unicast(address: &[u8; 16]) -> bool {
        ipv6::is_unicast(*address)
    }

    #[inline]
    fn join(addresses: [[u8; 16]; 2], last: u64) -> [u64; 5] {
        let [a, b, c, d]: [u64; 4] = transmute!(addresses);
        [a, b, c, d, last]
    }

    #[inline]
    fn split(words: &[u64; 5]) -> ([[u8; 16]; 2], u64) {
        let [a, b, c, d, last] = *words;
        (transmute!([a, b, c, d]), last)
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 5]) -> u64 {
        flow6_words(secret, *words)
    }

    fn compile(from: &FlowKey6, to: &FlowKey6) -> Rewrite<[u8; 16]> {
        compile6(from, to)
    }

    #[inline(always)]
    fn parse(frame: &[u8]) -> Result<Parsed6, Reject> {
        parse6(frame)
    }

    #[inline]
    fn pseudo(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u16) -> u16 {
        checksum::pseudo6(src, dst, proto, len.into())
    }

    #[inline(always)]
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet<Self>,
        new: [u64; 5],
    ) -> Option<()> {
        let [first, ..] = packet.ip.0;
        headers6(frame, [l3, l3 + ipv6::HEADER_LEN], packet.ip.proto(), first >> 32, new)
    }

    #[inline(always)]
    fn hop(frame: &mut (impl Frame + ?Sized), l3: usize, ip: &Ip6) -> Option<()> {
        let [first, ..] = ip.0;
        hop6(frame, l3, first >> 32)
    }

    #[inline]
    fn apply(frame: &mut [u8], p: &Parsed6, transport: Option<u8>, new: &Rewrite<[u8; 16]>) {
        apply6(frame, [p.l3.into(), p.l4.into()], transport, new);
    }

    fn put_header(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16], proto: u8, payload: usize) {
        let mut ip = ipv6::Packet::new_unchecked(header);
        ip.set_traffic_class(0);
        ip.set_payload_len(payload as u16);
        ip.set_next_header(proto);
        Self::readdress(ip.into_inner(), src, dst, Some(TTL));
    }

    fn readdress(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16], ttl: Option<u8>) {
        let mut ip = ipv6::Packet::new_unchecked(header);
        ip.set_src(*src);
        ip.set_dst(*dst);
        ip.set_hop_limit(ttl.unwrap_or(ip.hop_limit()));
    }

    #[inline(always)]
    fn quoted(frame: &(impl Source + ?Sized), error: &Parsed6) -> Option<Quoted<Self>> {
        quoted::of6(frame, error)
    }
}

/// Code point of the gateway's own ICMP errors of IPv4: precedence 6 (RFC 1812 §4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 6 << 3;
/// Time to live of the gateway's own packets.
const TTL: u8 = 64;

/// The word of two ports and four bytes: protocol, flags, state and owner, and uplink; or deltas.
pub(crate) const fn meta([[a, b], [c, d]]: [[u8; 2]; 2], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// What [`meta`] put together.
pub(crate) const fn parts_of_meta(meta: u64) -> ([[u8; 2]; 2], [u8; 4]) {
    let [a, b, c, d, e, f, g, h] = meta.to_ne_bytes();
    ([[a, b], [c, d]], [e, f, g, h])
}
