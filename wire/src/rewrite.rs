//! Applying a compiled [`Rewrite`] to a frame: addresses, ports, TTL, and both checksums by delta.
//!
//! Used by both tiers. The caller has parsed the frame and checked that its TTL is above one.

use crate::checksum::Delta;
use crate::family::{Family, V4, V6};
use crate::key::{FlowKey4, FlowKey6};
use crate::plain::Packet;
use crate::words::{Frame, Words};
use crate::{ethernet, icmp, icmpv6, ipv4, ipv6, protocol, tcp, udp};
use weir_layout::control::Mac;

/// What packets of a direction look like when they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite<A> {
    /// New source address, network order.
    pub src: A,
    /// New destination address, network order.
    pub dst: A,
    /// New source port (echo: identifier), network order.
    pub sport: [u8; 2],
    /// New destination port (echo: the type, which stays), network order.
    pub dport: [u8; 2],
    /// RFC 1624 delta of the IPv4 header checksum, one off the TTL included; IPv6: zero.
    pub l3_delta: u16,
    /// RFC 1624 delta of the transport checksum; 0 under checksum-neutral NPTv6 (RFC 6296).
    pub l4_delta: u16,
}

/// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
#[inline]
pub fn compile4(from: &FlowKey4, to: &FlowKey4) -> Rewrite<[u8; 4]> {
    let addresses = Delta::of(both_addresses(from), both_addresses(to));
    let l4 = match from.proto() {
        // One identifier, and no pseudo-header (RFC 792).
        icmp::PROTOCOL => Delta::of(from.sport(), to.sport()),
        _ => addresses + Delta::of(both_ports(from), both_ports(to)),
    };
    Rewrite {
        src: to.src(),
        dst: to.dst(),
        sport: to.sport(),
        dport: to.dport(),
        l3_delta: (addresses + Delta::TTL_DECREMENT).raw(),
        l4_delta: l4.raw(),
    }
}

/// The addresses, to be summed at once.
fn both_addresses(key: &FlowKey4) -> u64 {
    (u32::from_be_bytes(key.src()) as u64) << 32 | u32::from_be_bytes(key.dst()) as u64
}

/// The ports, likewise.
fn both_ports(key: &FlowKey4) -> u32 {
    let ([a, b], [c, d]) = (key.sport(), key.dport());
    u32::from_be_bytes([a, b, c, d])
}

/// As [`compile4`], for IPv6. There is no header checksum.
pub fn compile6(from: &FlowKey6, to: &FlowKey6) -> Rewrite<[u8; 16]> {
    let addresses = Delta::of(from.src(), to.src()) + Delta::of(from.dst(), to.dst());
    let l4 = match from.proto() {
        // One identifier; unlike ICMP it has a pseudo-header (RFC 4443 §2.3).
        icmpv6::PROTOCOL => addresses + Delta::of(from.sport(), to.sport()),
        _ => addresses + Delta::of(from.sport(), to.sport()) + Delta::of(from.dport(), to.dport()),
    };
    Rewrite {
        src: to.src(),
        dst: to.dst(),
        sport: to.sport(),
        dport: to.dport(),
        l3_delta: 0,
        l4_delta: l4.raw(),
    }
}

/// Layer 2 of a packet that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHeader {
    /// Next hop's hardware address.
    pub destination: Mac,
    /// The port's own.
    pub source: Mac,
    /// VLAN identifier, host order; 0: untagged.
    pub vlan: u16,
}

/// Start of the IP header in an untagged frame.
pub const UNTAGGED: usize = ethernet::HEADER_LEN;
/// Start of the IP header in a frame with a VLAN tag.
pub const TAGGED: usize = UNTAGGED + ethernet::TAG_LEN;

/// Makes a frame the one that leaves. It begins with room for the link header, and its IP header,
/// which `packet` was read from, is at `L3`: [`UNTAGGED`] or [`TAGGED`]. `new` is the flow's
/// [words](Family::rewrite_words). `None`: the frame is shorter than the packet's headers.
#[inline(always)]
pub fn frame<F: Family, const L3: usize>(
    frame: &mut (impl Frame + ?Sized),
    packet: &Packet<F>,
    new: F::Words,
    link: &LinkHeader,
) -> Option<()> {
    F::headers(frame, L3, packet, new)?;
    link_header::<F, L3>(frame, link)
}

/// As [`frame()`], of a packet that keeps its addresses and ports: `ip` is its header.
#[inline(always)]
pub fn routed<F: Family, const L3: usize>(
    frame: &mut (impl Frame + ?Sized),
    ip: &F::Header,
    link: &LinkHeader,
) -> Option<()> {
    F::hop(frame, L3, ip)?;
    link_header::<F, L3>(frame, link)
}

#[inline(always)]
fn link_header<F: Family, const L3: usize>(
    frame: &mut (impl Frame + ?Sized),
    link: &LinkHeader,
) -> Option<()> {
    if L3 == TAGGED {
        let mut head = frame.words::<TAGGED>(0)?;
        addresses(&mut head, link);
        head.store16::<UNTAGGED>(link.vlan.to_be().into());
        head.store16::<12>(ethernet::VLAN.to_be().into());
        head.store16::<16>(F::ETHERTYPE.to_be().into());
    } else {
        let mut head = frame.words::<UNTAGGED>(0)?;
        addresses(&mut head, link);
        head.store16::<12>(F::ETHERTYPE.to_be().into());
    }
    Some(())
}

/// The hardware addresses, at the head of a frame.
#[inline(always)]
fn addresses(head: &mut impl Words, link: &LinkHeader) {
    let (destination, source) = (link.destination.word(), link.source.word());
    head.store64::<0>(destination | source << 48);
    head.store32::<8>(source >> 16);
}

/// Gives a frame the hardware addresses of a link; `None`: it has no Ethernet header.
#[inline]
pub fn set_addresses(frame: &mut [u8], link: &LinkHeader) -> Option<()> {
    addresses(&mut frame.words::<UNTAGGED>(0)?, link);
    Some(())
}

/// As [`Family::apply`], of the packet whose IP header begins at `l3`.
#[inline]
pub fn apply4(frame: &mut [u8], l3: usize, transport: Option<u8>, new: &Rewrite<[u8; 4]>) {
    let new = V4::rewrite_words(new);
    let ttl = l3 + ipv4::field::TTL;
    let Some(third) = frame.get(ttl..).and_then(<[u8]>::first_chunk) else { return };
    let third = u32::from_le_bytes(*third).into();
    // Nobody is left to hear of a packet without its headers.
    let _ = match transport.filter(|proto| !protocol::is_portless(*proto)) {
        Some(proto) => headers4(frame, l3, proto, third, new),
        None => frame.words::<20>(l3).map(|mut ip| network(&mut ip, third, new)),
    };
}

/// As [`apply4`]; transport headers begin where `l4` says.
#[inline]
pub fn apply6(
    frame: &mut [u8],
    [l3, l4]: [usize; 2],
    transport: Option<u8>,
    new: &Rewrite<[u8; 16]>,
) {
    let new = V6::rewrite_words(new);
    let at = l3 + ipv6::field::PAYLOAD_LEN;
    let Some(second) = frame.get(at..).and_then(<[u8]>::first_chunk) else { return };
    let second = u32::from_le_bytes(*second).into();
    // Nobody is left to hear of a packet without its headers.
    let _ = match transport.filter(|proto| !protocol::is_portless(*proto)) {
        Some(proto) => headers6(frame, [l3, l4], proto, second, new),
        None => network6(frame, l3, second, new),
    };
}

/// Rewrites IP and transport header; `second` is the word of the hop limit as it came.
#[inline(always)]
pub(crate) fn headers6(
    frame: &mut (impl Frame + ?Sized),
    [l3, l4]: [usize; 2],
    proto: u8,
    second: u64,
    new: [u64; 5],
) -> Option<()> {
    let [.., ports] = new;
    let delta = Delta::from_raw((ports >> 48) as u16);
    match proto {
        tcp::PROTOCOL => {
            let mut tcp = frame.words::<{ tcp::field::CHECKSUM + 2 }>(l4)?;
            checksum::<{ tcp::field::CHECKSUM }>(&mut tcp, |field| delta.apply(field));
            tcp.store32::<0>(ports);
        }
        udp::PROTOCOL => {
            let mut udp = frame.words::<{ udp::HEADER_LEN }>(l4)?;
            checksum::<{ udp::field::CHECKSUM }>(&mut udp, |field| delta.apply_udp(field));
            udp.store32::<0>(ports);
        }
        _ => {
            let mut icmp = frame.words::<{ icmpv6::HEADER_LEN }>(l4)?;
            checksum::<{ icmpv6::field::CHECKSUM }>(&mut icmp, |field| delta.apply(field));
            icmp.store16::<{ icmpv6::field::IDENT }>(ports);
        }
    }
    network6(frame, l3, second, new)
}

/// Rewrites the IPv6 header, and takes one off its hop limit, which is in the second word of 32
/// bits and not zero.
#[inline(always)]
fn network6(
    frame: &mut (impl Frame + ?Sized),
    l3: usize,
    second: u64,
    [a, b, c, d, _]: [u64; 5],
) -> Option<()> {
    let mut ip = frame.words::<{ ipv6::HEADER_LEN }>(l3)?;
    ip.store32::<4>(second.wrapping_sub(1 << 24));
    ip.store64::<8>(a);
    ip.store64::<16>(b);
    ip.store64::<24>(c);
    ip.store64::<32>(d);
    Some(())
}

/// Takes one off the hop limit, which is in the second word of 32 bits and not zero.
#[inline(always)]
pub(crate) fn hop6(frame: &mut (impl Frame + ?Sized), l3: usize, second: u64) -> Option<()> {
    frame.words::<{ ipv6::HEADER_LEN }>(l3)?.store32::<4>(second.wrapping_sub(1 << 24));
    Some(())
}

/// Takes one off the TTL, which is in the third word and not zero.
#[inline(always)]
pub(crate) fn hop4(frame: &mut (impl Frame + ?Sized), l3: usize, third: u64) -> Option<()> {
    let mut ip = frame.words::<{ ipv4::HEADER_LEN }>(l3)?;
    let field = ((third >> 16) as u16).to_le_bytes();
    let checksum = u16::from_le_bytes(Delta::TTL_DECREMENT.apply(field));
    ip.store32::<8>(third.wrapping_sub(1) & 0xffff | u64::from(checksum) << 16);
    Some(())
}

/// Rewrites IP and transport header; `third` is the word of the TTL as it came.
#[inline(always)]
pub(crate) fn headers4(
    frame: &mut (impl Frame + ?Sized),
    l3: usize,
    proto: u8,
    third: u64,
    new: [u64; 2],
) -> Option<()> {
    const L4: usize = ipv4::HEADER_LEN;
    let [_, ports] = new;
    let delta = Delta::from_raw((ports >> 48) as u16);
    match proto {
        tcp::PROTOCOL => {
            const CHECKSUM: usize = L4 + tcp::field::CHECKSUM;
            let mut ip = frame.words::<{ CHECKSUM + 2 }>(l3)?;
            network(&mut ip, third, new);
            checksum::<CHECKSUM>(&mut ip, |field| delta.apply(field));
            ip.store32::<L4>(ports);
        }
        udp::PROTOCOL => {
            let mut ip = frame.words::<{ L4 + udp::HEADER_LEN }>(l3)?;
            network(&mut ip, third, new);
            checksum::<{ L4 + udp::field::CHECKSUM }>(&mut ip, |field| delta.apply_udp(field));
            ip.store32::<L4>(ports);
        }
        _ => {
            let mut ip = frame.words::<{ L4 + icmp::HEADER_LEN }>(l3)?;
            network(&mut ip, third, new);
            checksum::<{ L4 + icmp::field::CHECKSUM }>(&mut ip, |field| delta.apply(field));
            ip.store16::<{ L4 + icmp::field::IDENT }>(ports);
        }
    }
    Some(())
}

/// Changes the checksum field at `AT`.
#[inline(always)]
fn checksum<const AT: usize>(packet: &mut impl Words, change: impl FnOnce([u8; 2]) -> [u8; 2]) {
    let field = (packet.load16::<AT>() as u16).to_le_bytes();
    packet.store16::<AT>(u16::from_le_bytes(change(field)).into());
}

/// Rewrites the IP header, and takes one off its TTL, which is in the third word and not zero.
#[inline(always)]
fn network(ip: &mut impl Words, third: u64, [addresses, deltas]: [u64; 2]) {
    let delta = Delta::from_raw((deltas >> 32) as u16);
    let field = ((third >> 16) as u16).to_le_bytes();
    let checksum = u16::from_le_bytes(delta.apply(field));
    ip.store32::<8>(third.wrapping_sub(1) & 0xffff | u64::from(checksum) << 16);
    ip.store64::<12>(addresses);
}
