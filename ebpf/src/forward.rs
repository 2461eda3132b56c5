//! The kernel tier: the next packet of an established flow leaves here, as its entry says.
//!
//! Nothing is changed before it is certain that the packet can leave; whatever is not, goes the way
//! of all packets, to the user tier.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use weir_layout::adjacency;
use weir_layout::control::{Mac, PathId, PortRole};
use weir_layout::counters::Lane;
use weir_layout::flow::flag;
use weir_wire::ethernet::{self, TAG_LEN};
use weir_wire::family::{Family, V4, V6};
use weir_wire::forward::{Direction, Egress, Ingress, may_leave};
use weir_wire::plain::{Header, Ip4, Ip6, Packet};
use weir_wire::rewrite::{self, LinkHeader, TAGGED, UNTAGGED};
use weir_wire::{icmp, icmpv6, tcp, udp};

use crate::flows::{self, Found, REWRITE4, REWRITE6, Search, Table};
use crate::maps::{self, Published};
use crate::words::{self, XdpFrame};

/// The low six bytes of a word: a hardware address.
const MAC: u64 = 0xffff_ffff_ffff;

/// What was forwarded, to be counted.
pub struct Forwarded {
    /// The XDP action.
    pub action: u32,
    /// The path that it goes or came by.
    pub path: PathId,
    /// To the uplink, not from it.
    pub outward: bool,
    /// From the IP header on.
    pub bytes: u64,
    /// A TCP segment with data of the connection: what it is.
    pub segment: Option<tcp::Place>,
    /// Its LAN host, and its remote host.
    pub ends: [u32; 2],
}

/// Does the frame carry IPv6, under one VLAN tag at most?
#[inline(always)]
pub fn is_ipv6(ctx: &XdpContext) -> bool {
    match ethertype(ctx) {
        Some(ethernet::IPV6) => true,
        Some(ethernet::VLAN) => inner_type(ctx) == Some(ethernet::IPV6),
        _ => false,
    }
}

/// Forwards the frame if it is the next packet of an established flow of IPv4.
#[inline(always)]
pub fn established4(ctx: &XdpContext, published: Published, lane: *mut Lane) -> Option<Forwarded> {
    match ethertype(ctx)? {
        ethernet::IPV4 => forward::<V4, UNTAGGED>(ctx, published, lane),
        ethernet::VLAN if inner_type(ctx)? == ethernet::IPV4 => {
            forward::<V4, TAGGED>(ctx, published, lane)
        }
        _ => None,
    }
}

/// As [`established4`], of a frame that carries IPv6.
#[inline(always)]
pub fn established6(ctx: &XdpContext, published: Published, lane: *mut Lane) -> Option<Forwarded> {
    if !published.serves_ipv6() {
        return None;
    }
    match ethertype(ctx)? {
        ethernet::IPV6 => forward::<V6, UNTAGGED>(ctx, published, lane),
        _ => forward::<V6, TAGGED>(ctx, published, lane),
    }
}

/// The frame's type; that of a VLAN's tag, if it has one.
#[inline(always)]
pub fn ethertype(ctx: &XdpContext) -> Option<u16> {
    Some(u16::from_be(words::at::<UNTAGGED>(ctx, 0)?.load16::<12>() as u16))
}

/// The type behind a VLAN tag.
#[inline(always)]
pub fn inner_type(ctx: &XdpContext) -> Option<u16> {
    Some(u16::from_be(words::at::<TAGGED>(ctx, 0)?.load16::<16>() as u16))
}

/// Forwards the frame, whose IP header is at `L3`, if a flow of the kernel tier wants it.
#[inline(always)]
fn forward<F: Forwards, const L3: usize>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
) -> Option<Forwarded> {
    let (packet, room) = F::read::<L3>(ctx)?;
    // The search's loads take their time, so it begins before all that can be checked meanwhile.
    let search = Search::<F>::begin(packet.key())?;
    let ingress = ingress::<L3>(ctx, published)?;
    if !packet.is_plain(room) {
        return None;
    }
    let found = search.finish()?;
    let (new, out) = F::read_action(&found, &packet)?;
    if !found.stands() {
        return None;
    }
    let direction = Direction::from_words(found.meta, out);
    let egress = egress::<F>(published, &direction)?;
    if !may_leave(packet.ip.total(), &ingress, &direction, &egress) {
        return None;
    }
    maps::DEVICES.redirect(u32::from(egress.device), 0).ok()?;
    let tagged = egress.link.vlan != 0;
    retag(ctx, L3 == TAGGED, tagged)?;
    let frame = &mut XdpFrame(ctx);
    let sent = match tagged {
        true => rewrite::frame::<F, TAGGED>(frame, &packet, new, &egress.link),
        false => rewrite::frame::<F, UNTAGGED>(frame, &packet, new, &egress.link),
    };
    let bytes = u64::from(packet.ip.total());
    // SAFETY: the entry is of the table, and this field is the forwarding tier's.
    unsafe { flows::last_seen_of::<F>(found.entry).write_volatile(maps::milliseconds(lane)) };
    F::count(found.entry, bytes);
    let segment = follow::<F>(found.entry, direction.peer, &packet);
    let action = if sent.is_some() { XDP_REDIRECT } else { XDP_DROP };
    let (path, outward) = (F::path(direction.uplink), egress.outward);
    let [src, dst] = F::fold_words(&packet.key());
    let ends = match outward {
        true => [src, dst],
        false => [F::fold_words(&new)[1], src],
    };
    Some(Forwarded { action, path, outward, bytes, segment, ends })
}

/// A family whose packets leave here.
trait Forwards: Table {
    /// Reads the headers of TCP, UDP and ICMP; with them, the frame's bytes from the IP header on.
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<(Packet<Self>, u64)>;

    /// What the entry makes of the packet, and the word of its adjacency.
    fn read_action(found: &Found<Self>, packet: &Packet<Self>) -> Option<(Self::Words, u64)>;

    /// A key's or a rewrite's addresses, see [`Family::fold`].
    fn fold_words(words: &Self::Words) -> [u32; 2];
}

impl Forwards for V4 {
    #[inline(always)]
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<(Packet, u64)> {
        let room = (ctx.data_end() - ctx.data() - L3) as u64;
        let head = words::at::<28>(ctx, L3)?;
        let ip = Ip4([
            head.load32::<0>(),
            head.load32::<4>(),
            head.load32::<8>(),
            head.load32::<12>(),
            head.load32::<16>(),
        ]);
        let (third, fourth) = behind(ctx, ip.proto(), icmp::PROTOCOL, L3 + 28)?;
        let transport = [head.load32::<20>(), head.load32::<24>(), third, fourth];
        Some((Packet { ip, transport }, room))
    }

    #[inline(always)]
    fn read_action(found: &Found<V4>, _: &Packet) -> Option<([u64; 2], u64)> {
        let new = [found.word::<REWRITE4>(), found.word::<{ REWRITE4 + 1 }>()];
        Some((new, found.word::<{ V4::OUT }>()))
    }

    #[inline(always)]
    fn fold_words([addresses, _]: &[u64; 2]) -> [u32; 2] {
        [*addresses as u32, (*addresses >> 32) as u32]
    }
}

impl Forwards for V6 {
    #[inline(always)]
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<(Packet<V6>, u64)> {
        let room = (ctx.data_end() - ctx.data() - L3) as u64;
        let head = words::at::<48>(ctx, L3)?;
        let ip = Ip6([
            head.load64::<0>(),
            head.load64::<8>(),
            head.load64::<16>(),
            head.load64::<24>(),
            head.load64::<32>(),
        ]);
        let (third, fourth) = behind(ctx, ip.proto(), icmpv6::PROTOCOL, L3 + 48)?;
        let transport = [head.load32::<40>(), head.load32::<44>(), third, fourth];
        Some((Packet { ip, transport }, room))
    }

    /// One that translates has its rewrite in the second line.
    #[inline(always)]
    fn read_action(found: &Found<V6>, packet: &Packet<V6>) -> Option<([u64; 5], u64)> {
        let [.., flags, _, _] = found.meta.to_le_bytes();
        let new = if flags & flag::NAT == 0 {
            let [a, b, c, d, ports] = packet.key();
            [a, b, c, d, ports & 0xffff_ffff]
        } else {
            [
                found.word::<REWRITE6>(),
                found.word::<{ REWRITE6 + 1 }>(),
                found.word::<{ REWRITE6 + 2 }>(),
                found.word::<{ REWRITE6 + 3 }>(),
                found.word::<{ REWRITE6 + 4 }>(),
            ]
        };
        Some((new, found.word::<{ V6::OUT }>()))
    }

    #[inline(always)]
    fn fold_words([a, b, c, d, _]: &[u64; 5]) -> [u32; 2] {
        [a ^ b, c ^ d].map(|word| (word ^ word >> 32) as u32)
    }
}

/// The third and fourth word of TCP; none of other protocols that flows have.
#[inline(always)]
fn behind(ctx: &XdpContext, proto: u8, icmp: u8, at: usize) -> Option<(u64, u64)> {
    match proto {
        tcp::PROTOCOL => {
            let rest = words::at::<8>(ctx, at)?;
            Some((rest.load32::<0>(), rest.load32::<4>()))
        }
        udp::PROTOCOL => Some((0, 0)),
        _ => (proto == icmp).then_some((0, 0)),
    }
}

/// Makes room for a tag in front of a frame that is to have one, or takes its away; `None`: it cannot.
#[inline(always)]
pub fn retag(ctx: &XdpContext, has: bool, wants: bool) -> Option<()> {
    if has == wants {
        return Some(());
    }
    let shift = if wants { -(TAG_LEN as i32) } else { TAG_LEN as i32 };
    // SAFETY: the context is the kernel's; a head that cannot move is left alone.
    (unsafe { bpf_xdp_adjust_head(ctx.ctx, shift) } == 0).then_some(())
}

/// Where the frame comes from; `None`: by no port of ours, or it is not for us.
#[inline(always)]
fn ingress<const L3: usize>(ctx: &XdpContext, published: Published) -> Option<Ingress> {
    let (index, source) = arrival::<L3>(ctx, published)?;
    // SAFETY: a port of the half.
    let role = unsafe { (*published.port(index)).role };
    Some(Ingress { side: flag::side(role), sender: adjacency::word(source, index) })
}

/// The port that the frame comes by, and who sent it; `None` as of [`ingress`], or the sender is a
/// group, which no rule of roles lets pass.
#[inline(always)]
pub fn arrival<const L3: usize>(ctx: &XdpContext, published: Published) -> Option<(u8, u64)> {
    let head = words::at::<UNTAGGED>(ctx, 0)?;
    let vlan = match L3 == TAGGED {
        true => u16::from_be(words::at::<TAGGED>(ctx, 0)?.load16::<14>() as u16),
        false => 0,
    };
    // SAFETY: the context is the kernel's.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let index = published.port_of(ifindex, vlan & ethernet::VLAN_ID)?;
    let port = published.port(index);
    // SAFETY: a port of the half.
    let (own, virtual_macs) = unsafe { ((*port).mac, &(*port).virtual_macs) };
    let (destination, source) = (head.load64::<0>() & MAC, head.load64::<4>() >> 16);
    let ours =
        destination == own.word() || virtual_macs.iter().any(|mac| destination == mac.word());
    (ours && source & 1 == 0).then_some((index, source))
}

/// Where a direction leads; `None`: its adjacency is no index of the table.
#[inline(always)]
fn egress<F: Family>(published: Published, direction: &Direction) -> Option<Egress> {
    Some(toward(published, maps::adjacency(direction.adjacency)?, F::path(direction.uplink)))
}

/// Where an adjacency leads, given its word; by the path, if that is of an uplink.
#[inline(always)]
pub fn toward(published: Published, word: u64, path: PathId) -> Egress {
    let port = published.port((word >> 48) as u8);
    // SAFETY: a port of the half.
    let (role, device, mtu, vlan, source) =
        unsafe { ((*port).role, (*port).device, (*port).mtu, (*port).vlan, (*port).mac) };
    let link = LinkHeader { destination: Mac::from_word(word & MAC), source, vlan };
    let path_state = published.path_state(path);
    let outward = role == PortRole::Uplink as u8;
    Egress { path_state, outward, device, mtu, link }
}

/// Follows the sequence numbers of a TCP direction; of a segment with data, what it is to that.
#[inline(always)]
fn follow<F: Table>(entry: *mut F::Entry, peer: u32, packet: &Packet<F>) -> Option<tcp::Place> {
    let segment = packet.segment()?;
    let next = flows::next_seq_of::<F>(entry);
    // SAFETY: a field of an entry of the table.
    let known = unsafe { next.read_volatile() };
    let place = segment.follow(known, packet.acknowledged(), || flows::next_seq::<F>(peer));
    if place == tcp::Place::New {
        // SAFETY: this field is the forwarding tier's.
        unsafe { next.write_volatile(segment.end) };
    }
    segment.has_data.then_some(place)
}
