//! Which packets of IPv6 are the user tier's: those between a LAN's own prefix and the world, while an
//! uplink has a path of IPv6. What nobody here may send or get is dropped, as a kernel that forwards
//! would not. All others are the kernel's: what is for the gateway, what it routes elsewhere, and what
//! is for a link alone, as the discovery of neighbours and routers, and of listeners to groups (RFC
//! 4861, RFC 3810).

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use weir_layout::control::{Port, PortRole, host_class};
use weir_layout::counters::Counter;
use weir_wire::family::{Family, V6};
use weir_wire::parse::{HEAD_LEN6, Kind, Parsed6, TRANSPORT_LEN6, parse6_head, vlan_of};
use weir_wire::{ethernet, ipv6};

use crate::crowd::Sender;
use crate::maps::{self, Published};
use crate::packet::{self, Packet};
use crate::words::XdpFrame;
use crate::{MARTIAN, Outcome, UNASKED};
use crate::{
    fragments, from_crowd, has_flow, head, is_ours, is_served, services, stateless, to_user,
    unasked,
};

/// Room for what the stack has none: the head of a short frame, and a transport header behind
/// extension headers.
#[map]
static COPIES: PerCpuArray<[u8; 0x80]> = PerCpuArray::with_max_entries(2, 0);

const LATER: Kind = Kind::Fragment { first: false };
const KERNELS: Outcome = (XDP_PASS, Counter::XdpPassIpv6);

/// What becomes of a frame if its headers say that alone; `None`: it is for [`steer`].
#[inline(always)]
pub fn read(ctx: &XdpContext, published: Published) -> Option<Outcome> {
    if !published.serves_ipv6() {
        return Some(KERNELS);
    }
    let Some(head) = copy(0).and_then(|copy| head::<HEAD_LEN6>(ctx, copy)) else {
        return Some(KERNELS);
    };
    // SAFETY: the context is the kernel's.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let Some(index) = published.port_of(ifindex, vlan_of(head)) else {
        return Some((XDP_PASS, Counter::XdpPassPort));
    };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(index) };
    if port.role == PortRole::Lan as u8 && port.ipv6 == 0 {
        return Some(KERNELS);
    }
    if !is_ours(port, head) {
        let group = head[0] & 1 != 0;
        return Some(if group && poses_as_ours(port, head) { MARTIAN } else { KERNELS });
    }
    // Its answers would be everybody's.
    if head[6] & 1 != 0 {
        return Some(MARTIAN);
    }
    let Some(parsed) = parse(ctx, head) else {
        return Some((XDP_DROP, Counter::XdpDropMalformed));
    };
    let outcome = stray(&parsed);
    if outcome == Some(KERNELS) && poses_as_ours(port, head) {
        return Some(MARTIAN);
    }
    if outcome.is_none() {
        packet::keep(Packet { parsed, port: index });
    }
    outcome
}

/// What becomes of the packet that was just [read](read) if it asks for a published service; `None`:
/// it is for [`steer`].
#[inline(always)]
pub fn ask(ctx: &XdpContext, published: Published) -> Option<Outcome> {
    let Packet { parsed, port } = packet::kept::<V6>()?;
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(*port) };
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let in_lan = port.role == PortRole::Lan as u8;
    if !in_lan && is_of_this_side(parsed.src) || !services::is_asked(published, port, parsed) {
        return None;
    }
    // Few ask, so that a host's source is looked up here and not before.
    let is_host = || maps::host_class::<V6>(parsed.src) == host_class::LAN;
    if in_lan && !(is_host() && is_served(published, port, queue)) {
        return None;
    }
    Some(from_crowd(published, port, queue, Sender::of(port), parsed))
}

/// What becomes of the packet that was just [read](read) if a flow waits for it; `None`: it is for
/// [`steer`]. In a LAN that is one between hosts of LANs, by the address that one of them has outside.
#[inline(always)]
pub fn await_flow(ctx: &XdpContext, published: Published) -> Option<Outcome> {
    let Packet { parsed, port } = packet::kept::<V6>()?;
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(*port) };
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let host = maps::host::<V6>(parsed.dst);
    let may = match port.role == PortRole::Lan as u8 {
        true => host_class::uplink(host).is_some() && is_served(published, port, queue),
        false => {
            let class = host_class::class(host);
            let is_carried = class == host_class::LAN && carries(published, port);
            is_here(class) && !is_carried && !is_of_this_side(parsed.src)
        }
    };
    if !may {
        return None;
    }
    if is_waited_for(ctx, parsed) {
        return Some(to_user(published, port, queue));
    }
    let expected = parsed.kind == LATER && fragments::is_expected(parsed);
    expected.then(|| from_crowd(published, port, queue, Sender::of(port), parsed))
}

/// Does a flow wait for it, or is what it quotes?
#[inline(always)]
fn is_waited_for(ctx: &XdpContext, p: &Parsed6) -> bool {
    let key = match p.kind {
        Kind::Flow | Kind::Fragment { first: true } => p.key(),
        LATER => return fragments::follows(p),
        Kind::IcmpError => match V6::quoted(&XdpFrame(ctx), p) {
            Some(quoted) => quoted.key.reversed(),
            None => return false,
        },
        _ => return false,
    };
    has_flow(p, &key)
}

/// Is it the class of what may be for a host of a LAN?
#[inline(always)]
fn is_here(class: u32) -> bool {
    use host_class::{LAN, LINK, LOCAL, POOL};
    matches!(class, LAN | POOL | LINK | LOCAL)
}

/// Does what comes by a port for LANs leave without flows?
#[inline(always)]
fn carries(published: Published, port: &Port) -> bool {
    published.is_stateless(V6::FAMILY) && port.ipv6 != 0
}

/// What becomes of the packet that was just [read](read): the kernel's, the user tier's, or nobody's.
#[inline(always)]
pub fn steer(ctx: &XdpContext, published: Published) -> Outcome {
    let Some(Packet { parsed, port }) = packet::kept::<V6>() else { return KERNELS };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(*port) };
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    if port.role == PortRole::Lan as u8 {
        let begins = || from_crowd(published, port, queue, Sender::Source, parsed);
        return from_lan(parsed).unwrap_or_else(begins);
    }
    from_uplink(ctx, published, port, queue, parsed)
}

/// One of the copies, all zero.
#[inline(always)]
fn copy<'a>(index: u32) -> Option<&'a mut [u8; 0x80]> {
    // SAFETY: this CPU's own, and each is taken once in a run.
    let copy = unsafe { &mut *COPIES.get_ptr_mut(index)? };
    copy.fill(0);
    Some(copy)
}

/// The packet, its extension headers walked; `None`: it is malformed.
#[inline(always)]
fn parse(ctx: &XdpContext, head: &[u8; HEAD_LEN6]) -> Option<Parsed6> {
    let mut parsed = parse6_head(head, ctx.data_end() - ctx.data()).ok()?;
    if parsed.kind == Kind::Options && parsed.skip_extensions(&XdpFrame(ctx)).ok()? {
        let copy = copy(1)?;
        let (at, to) = (parsed.l4.into(), copy.as_mut_ptr().cast());
        // What there is of it, if that is less; a mask bounds it for the verifier.
        let rest = u32::from(parsed.end - parsed.l4) & 0x3f;
        // SAFETY: `copy` has room for any masked length.
        let loaded = |len| unsafe { bpf_xdp_load_bytes(ctx.ctx, at, to, len) } == 0;
        if !loaded(TRANSPORT_LEN6 as u32) && rest != 0 && !loaded(rest) {
            return None;
        }
        parsed.read_transport(&copy[..TRANSPORT_LEN6]).ok()?;
    }
    Some(parsed)
}

/// What either side has no business to forward: a link's own and groups, which are the kernel's, and
/// addresses that nobody has.
#[inline(always)]
fn stray(p: &Parsed6) -> Option<Outcome> {
    if ipv6::is_group(p.dst) || ipv6::is_link_local(p.dst) || ipv6::is_link_local(p.src) {
        Some(KERNELS)
    } else if !ipv6::is_unicast(p.src) || !ipv6::is_unicast(p.dst) {
        Some(MARTIAN)
    } else {
        None
    }
}

/// Does somebody beyond an uplink speak to the link in the name of this side (RFC 3704 §2)? The
/// kernel's services would answer. Only the discovery of neighbours and routers, which comes from the
/// link itself (RFC 4861 §11.2), is for the kernel to judge.
#[inline(always)]
fn poses_as_ours(port: &Port, head: &[u8; HEAD_LEN6]) -> bool {
    if port.role == PortRole::Lan as u8 {
        return false;
    }
    let Some((ip, _)) = (match u16::from_be_bytes([head[12], head[13]]) {
        ethernet::VLAN => head[18..].split_first_chunk::<41>(),
        _ => head[14..].split_first_chunk::<41>(),
    }) else {
        return false;
    };
    let [_, _, _, _, _, _, next, hops, rest @ ..] = ip;
    let (Some(source), kind) = (rest.first_chunk(), ip[ipv6::HEADER_LEN]) else { return false };
    let discovery = *next == V6::ICMP && *hops == 255 && matches!(kind, 133..=137);
    !discovery && is_of_this_side(*source)
}

/// Is it an address of the gateway, of a LAN, or of what uplinks translate to?
#[inline(always)]
fn is_of_this_side(address: [u8; 16]) -> bool {
    let class = maps::host_class::<V6>(address);
    matches!(class, host_class::LOCAL | host_class::LAN | host_class::POOL)
}

/// `None`: the user tier's.
#[inline(always)]
fn from_lan(p: &Parsed6) -> Option<Outcome> {
    match maps::host_class::<V6>(p.dst) {
        0 | host_class::LINK
            if ipv6::is_global(p.dst) && maps::host_class::<V6>(p.src) == host_class::LAN =>
        {
            None
        }
        0 | host_class::LINK => Some(MARTIAN),
        host_class::LOCAL => Some((XDP_PASS, Counter::XdpPassLocal)),
        // Nobody has it; by the kernel's routes it would leave.
        host_class::POOL => Some(UNASKED),
        _ => Some((XDP_PASS, Counter::XdpPassKernelRoute)),
    }
}

/// From a provider, and no flow waits for it. What is for nobody would be routed back (RFC 7084 L-14).
#[inline(always)]
fn from_uplink(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    queue: u32,
    p: &Parsed6,
) -> Outcome {
    // Nobody beyond an uplink has an address of this side (RFC 3704 §2).
    if is_of_this_side(p.src) {
        return MARTIAN;
    }
    let class = maps::host_class::<V6>(p.dst);
    // SAFETY: a path of the half.
    let lets_in_all = unsafe { (*published.path(V6::path(port.uplink))).lets_in_all() };
    match class {
        0 if port.ipv6 != 0 => (XDP_DROP, Counter::XdpDropForeign),
        class if !is_here(class) => KERNELS,
        host_class::LAN if carries(published, port) && p.kind != Kind::Options => {
            stateless::hand_over(ctx, published, port, p)
        }
        host_class::LOCAL => KERNELS,
        // A kernel would let in what a worker drops.
        _ if p.kind == Kind::Options => UNASKED,
        host_class::LAN if lets_in_all => (XDP_PASS, Counter::XdpPassKernelRoute),
        _ if p.kind == LATER && is_served(published, port, queue) && fragments::may_wait(port) => {
            from_crowd(published, port, queue, Sender::of(port), p)
        }
        host_class::LAN => unasked(published, port, queue),
        _ => UNASKED,
    }
}
