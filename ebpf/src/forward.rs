//! The kernel tier: the next packet of an established flow leaves here, as its entry says.
//!
//! Nothing is changed before it is certain that the packet can leave; whatever is not, goes the way
//! of all packets, to the user tier.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use weir_layout::adjacency;
use weir_layout::control::{Mac, PathId, PortRole, Tier};
use weir_layout::counters::Lane;
use weir_layout::flow::{FlowEntry4, flag};
use weir_wire::ethernet::{self, TAG_LEN};
use weir_wire::family::V4;
use weir_wire::forward::{Direction, Egress, Ingress, may_leave};
use weir_wire::plain::{Header, Ip4, Packet};
use weir_wire::rewrite::{self, LinkHeader, TAGGED, UNTAGGED};
use weir_wire::{icmp, tcp, udp};

use crate::flows::{self, Search};
use crate::maps::{self, Published};
use crate::words::{self, XdpFrame};

/// The low six bytes of a word: a hardware address.
const MAC: u64 = 0xffff_ffff_ffff;

/// What was forwarded, to be counted.
pub struct Forwarded {
    /// The XDP action.
    pub action: u32,
    /// Uplink index.
    pub uplink: u8,
    /// To the uplink, not from it.
    pub outward: bool,
    /// From the IP header on.
    pub bytes: u64,
    /// A TCP segment with data of the connection: what it is.
    pub segment: Option<tcp::Place>,
    /// Its LAN host, and its remote host.
    pub ends: [u32; 2],
}

/// Forwards the frame if it is the next packet of an established flow.
#[inline(always)]
pub fn established(ctx: &XdpContext, published: Published, lane: *mut Lane) -> Option<Forwarded> {
    // SAFETY: a field of the half.
    if unsafe { (*published.half).tier } != Tier::Kernel as u8 {
        return None;
    }
    let ethertype = u16::from_be(words::at::<UNTAGGED>(ctx, 0)?.load16::<12>() as u16);
    if ethertype == ethernet::IPV4 {
        return forward::<UNTAGGED>(ctx, published, lane);
    }
    let inner = u16::from_be(words::at::<TAGGED>(ctx, 0)?.load16::<16>() as u16);
    if ethertype != ethernet::VLAN || inner != ethernet::IPV4 {
        return None;
    }
    forward::<TAGGED>(ctx, published, lane)
}

/// Forwards the frame, whose IP header is at `L3`, if a flow of the kernel tier wants it.
#[inline(always)]
fn forward<const L3: usize>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
) -> Option<Forwarded> {
    let (packet, room) = read::<L3>(ctx)?;
    // The search's loads take their time, so it begins before all that can be checked meanwhile.
    let search = Search::begin(packet.key())?;
    let ingress = ingress::<L3>(ctx, published)?;
    if !packet.is_plain(room) {
        return None;
    }
    let found = search.finish()?;
    // SAFETY: an entry of the table; its words are read whole, and once.
    let (addresses, ports, out) = unsafe {
        let words = found.entry.cast::<u64>();
        (words.add(3).read_volatile(), words.add(4).read_volatile(), words.add(5).read_volatile())
    };
    if !found.stands() {
        return None;
    }
    let direction = Direction::from_words(found.meta, out);
    let egress = egress(published, &direction)?;
    if !may_leave(packet.ip.total(), &ingress, &direction, &egress) {
        return None;
    }
    maps::DEVICES.redirect(u32::from(egress.device), 0).ok()?;
    let tagged = egress.link.vlan != 0;
    if tagged != (L3 == TAGGED) {
        let shift = if tagged { -(TAG_LEN as i32) } else { TAG_LEN as i32 };
        // SAFETY: the context is the kernel's; a head that cannot move is left alone.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, shift) } != 0 {
            return None;
        }
    }
    let (frame, new) = (&mut XdpFrame(ctx), [addresses, ports]);
    let sent = match tagged {
        true => rewrite::frame::<V4, TAGGED>(frame, &packet, new, &egress.link),
        false => rewrite::frame::<V4, UNTAGGED>(frame, &packet, new, &egress.link),
    };
    let bytes = u64::from(packet.ip.total());
    count(found.entry, maps::milliseconds(lane), bytes);
    let segment = follow(found.entry, direction.peer, &packet);
    let action = if sent.is_some() { XDP_REDIRECT } else { XDP_DROP };
    let (uplink, outward) = (direction.uplink, egress.outward);
    let [_, _, _, src, dst] = packet.ip.0;
    let ends = match outward {
        true => [src as u32, dst as u32],
        false => [(addresses >> 32) as u32, src as u32],
    };
    Some(Forwarded { action, uplink, outward, bytes, segment, ends })
}

/// Reads the headers of TCP, UDP and ICMP; with them, the frame's bytes from the IP header on.
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
    let (third, fourth) = match ip.proto() {
        tcp::PROTOCOL => {
            let rest = words::at::<8>(ctx, L3 + 28)?;
            (rest.load32::<0>(), rest.load32::<4>())
        }
        udp::PROTOCOL | icmp::PROTOCOL => (0, 0),
        _ => return None,
    };
    let transport = [head.load32::<20>(), head.load32::<24>(), third, fourth];
    Some((Packet { ip, transport }, room))
}

/// Where the frame comes from; `None`: by no port of ours, or it is not for us.
#[inline(always)]
fn ingress<const L3: usize>(ctx: &XdpContext, published: Published) -> Option<Ingress> {
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
    let (own, virtual_macs, role) = unsafe { ((*port).mac, &(*port).virtual_macs, (*port).role) };
    let (destination, source) = (head.load64::<0>() & MAC, head.load64::<4>() >> 16);
    let ours =
        destination == own.word() || virtual_macs.iter().any(|mac| destination == mac.word());
    let ingress = Ingress { side: flag::side(role), sender: adjacency::word(source, index) };
    ours.then_some(ingress)
}

/// Where a direction leads; `None`: its adjacency is no index of the table.
#[inline(always)]
fn egress(published: Published, direction: &Direction) -> Option<Egress> {
    let word = maps::adjacency(direction.adjacency)?;
    let port = published.port((word >> 48) as u8);
    // SAFETY: a port of the half.
    let (role, device, mtu, vlan, source) =
        unsafe { ((*port).role, (*port).device, (*port).mtu, (*port).vlan, (*port).mac) };
    let link = LinkHeader { destination: Mac::from_word(word & MAC), source, vlan };
    let path_state = published.path_state(PathId::v4(direction.uplink));
    let outward = role == PortRole::Uplink as u8;
    Some(Egress { path_state, outward, device, mtu, link })
}

/// Counts the packet on its entry, and says that the flow lives.
#[inline(always)]
fn count(entry: *mut FlowEntry4, now: u32, bytes: u64) {
    // SAFETY: the entry is of the table, and these fields are the forwarding tier's.
    unsafe {
        (&raw mut (*entry).last_seen).write_volatile(now);
        (*entry).packets = (*entry).packets.wrapping_add(1);
        (*entry).bytes = (*entry).bytes.wrapping_add(bytes);
    }
}

/// Follows the sequence numbers of a TCP direction; of a segment with data, what it is to that.
#[inline(always)]
fn follow(entry: *mut FlowEntry4, peer: u32, packet: &Packet) -> Option<tcp::Place> {
    let segment = packet.segment()?;
    // SAFETY: the entry is of the table.
    let next = unsafe { &raw mut (*entry).next_seq };
    // SAFETY: as above.
    let known = unsafe { next.read_volatile() };
    let place = segment.follow(known, packet.acknowledged(), || flows::next_seq(peer));
    if place == tcp::Place::New {
        // SAFETY: this field is the forwarding tier's.
        unsafe { next.write_volatile(segment.end) };
    }
    segment.has_data.then_some(place)
}
