//! Applying a compiled [`Rewrite4`] to a frame: addresses, ports, TTL, and both checksums by delta.
//!
//! Used by both tiers. The caller has parsed the frame and checked that its TTL is above one.

use crate::checksum::Delta;
use crate::plain::Packet;
use crate::words::{Frame, Words};
use crate::{ethernet, icmp, icmpv6, ipv4, tcp, udp};
use weir_layout::control::Mac;
use weir_layout::flow::{FlowKey4, Rewrite4};
use weir_layout::flow6::{FlowKey6, Rewrite6};

/// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
pub fn compile4(from: &FlowKey4, to: &FlowKey4) -> Rewrite4 {
    let addresses = Delta::of(both_addresses(from), both_addresses(to));
    let l4 = match from.proto {
        // One identifier, and no pseudo-header (RFC 792).
        icmp::PROTOCOL => Delta::of(from.sport, to.sport),
        _ => addresses + Delta::of(both_ports(from), both_ports(to)),
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

/// The addresses, to be summed at once.
const fn both_addresses(key: &FlowKey4) -> u64 {
    (u32::from_be_bytes(key.src) as u64) << 32 | u32::from_be_bytes(key.dst) as u64
}

/// The ports, likewise.
const fn both_ports(key: &FlowKey4) -> u32 {
    let ([a, b], [c, d]) = (key.sport, key.dport);
    u32::from_be_bytes([a, b, c, d])
}

/// As [`compile4`], for IPv6. There is no header checksum.
pub fn compile6(from: &FlowKey6, to: &FlowKey6) -> Rewrite6 {
    let addresses = Delta::of(from.src, to.src) + Delta::of(from.dst, to.dst);
    let l4 = match from.proto {
        // One identifier; unlike ICMP it has a pseudo-header (RFC 4443 §2.3).
        icmpv6::PROTOCOL => addresses + Delta::of(from.sport, to.sport),
        _ => addresses + Delta::of(from.sport, to.sport) + Delta::of(from.dport, to.dport),
    };
    Rewrite6 {
        src: to.src,
        dst: to.dst,
        sport: to.sport,
        dport: to.dport,
        l4_delta: l4.raw(),
        pad: [0; 2],
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
/// [`Rewrite4::words`]. `None`: the frame is shorter than the packet's headers.
#[inline(always)]
pub fn frame4<const L3: usize>(
    frame: &mut (impl Frame + ?Sized),
    packet: &Packet,
    new: [u64; 2],
    link: &LinkHeader,
) -> Option<()> {
    let [_, _, third, ..] = packet.ip.0;
    headers4(frame, L3, packet.ip.proto(), third, new)?;
    if L3 == TAGGED {
        let mut head = frame.words::<TAGGED>(0)?;
        addresses(&mut head, link);
        head.store16::<UNTAGGED>(link.vlan.to_be().into());
        head.store16::<12>(ethernet::VLAN.to_be().into());
        head.store16::<16>(ethernet::IPV4.to_be().into());
    } else {
        let mut head = frame.words::<UNTAGGED>(0)?;
        addresses(&mut head, link);
        head.store16::<12>(ethernet::IPV4.to_be().into());
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

/// Rewrites the packet whose IP header begins at `l3`, and takes one off its TTL. `transport` is its
/// protocol, one that flows have; `None` for a fragment that carries no transport header. A packet
/// without all of its headers is left alone.
#[inline]
pub fn apply4(frame: &mut [u8], l3: usize, transport: Option<u8>, new: &Rewrite4) {
    let ttl = l3 + ipv4::field::TTL;
    let Some(third) = frame.get(ttl..).and_then(<[u8]>::first_chunk) else { return };
    let third = u32::from_le_bytes(*third).into();
    // Nobody is left to hear of a packet without its headers.
    let _ = match transport {
        Some(proto) => headers4(frame, l3, proto, third, new.words()),
        None => frame.words::<20>(l3).map(|mut ip| network(&mut ip, third, new.words())),
    };
}

/// Rewrites IP and transport header; `third` is the word of the TTL as it came.
#[inline(always)]
fn headers4(
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
