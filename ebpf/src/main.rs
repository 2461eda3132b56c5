//! The XDP program: packets of established flows, and those that need none, leave at once; of the
//! others, what is the gateway's own business goes to the kernel, transit to the user tier.
#![no_std]
#![no_main]
// Unaligned words, see `words`.
#![feature(asm_experimental_arch)]

#[cfg(not(target_arch = "bpf"))]
compile_error!("the XDP program is built for bpfel-unknown-none only: run scripts/ebpf-build");

mod crowd;
mod fib;
mod flows;
mod forward;
mod fragments;
mod ipv6;
mod known;
mod mappings;
mod maps;
mod packet;
mod services;
mod stateless;
mod words;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use weir_layout::control::{Mac, OnDataplaneLoss, PathId, Port, PortRole, host_class};
use weir_layout::counters::{Counter, Lane};
use weir_layout::{Family, MAX_DEVICES, MAX_QUEUES};
use weir_wire::family::{Family as _, V4, V6};
use weir_wire::key::{FlowKey, FlowKey4};
use weir_wire::parse::{HEAD_LEN, Kind, Parsed, Reject, parse_head, vlan_of};
use weir_wire::{ethernet, icmp, udp};

use crate::crowd::Sender;
use crate::flows::Table;
use crate::forward::Forwarded;
use crate::maps::Published;
use crate::packet::Packet;
use crate::words::XdpFrame;

/// What becomes of a packet that is not forwarded here, and how it is counted.
type Outcome = (u32, Counter);

/// What the packet is, before the flow table is asked.
enum Verdict {
    /// Decided.
    Done(Outcome),
    /// The user tier's.
    Transit,
    /// The user tier's if this flow exists, a published service is asked for, or a mapping may let
    /// it in; else not.
    IfFlow(FlowKey4, Outcome),
    /// A later fragment: the user tier's if its first was, or may be; else not.
    IfFirst(Outcome),
}

/// No flow asked for it, and nobody here is to be reached without.
const UNASKED: Outcome = (XDP_DROP, Counter::XdpDropNoFlow);
const MARTIAN: Outcome = (XDP_DROP, Counter::XdpDropMartian);

/// Neither forwarded nor decided: no action of XDP.
const UNDECIDED: u32 = u32::MAX;

/// A chain of calls has 512 bytes of stack, so what may become of a frame is a function of its own
/// each, one after the other.
#[xdp]
fn weir(ctx: XdpContext) -> u32 {
    let Some(lane) = maps::lane() else { return XDP_PASS };
    maps::count(lane, Counter::XdpRx);
    let Some(published) = maps::published() else {
        maps::count(lane, Counter::XdpPassUnconfigured);
        return XDP_PASS;
    };
    let is_ipv6 = forward::is_ipv6(&ctx);
    let family = if is_ipv6 { Family::V6 } else { Family::V4 };
    let (ctx, stateless) = (ctx.ctx, published.is_stateless(family));
    let action = match (published.forwards(), is_ipv6, stateless) {
        (false, ..) => UNDECIDED,
        (_, false, false) => forward4(ctx, published, lane),
        (_, false, true) => carry4(ctx, published, lane),
        (_, true, false) => forward6(ctx, published, lane),
        (_, true, true) => carry6(ctx, published, lane),
    };
    if action != UNDECIDED {
        return action;
    }
    if !is_ipv6 {
        return match read4(ctx, published, lane) {
            UNDECIDED => steer4(ctx, published, lane),
            action => action,
        };
    }
    match read6(ctx, published, lane) {
        UNDECIDED => {}
        action => return action,
    }
    match ask6(ctx, published, lane) {
        UNDECIDED => {}
        action => return action,
    }
    match await6(ctx, published, lane) {
        UNDECIDED => steer6(ctx, published, lane),
        action => action,
    }
}

/// What becomes of a frame without IPv6, if it is the next packet of an established flow.
#[inline(never)]
fn forward4(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    forwarded(lane, forward::established4(&XdpContext::new(ctx), published, lane))
}

/// The same, if it needs no flow.
#[inline(never)]
fn carry4(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    forwarded(lane, stateless::carried::<V4>(&XdpContext::new(ctx), published, lane))
}

/// What else becomes of it, if its headers say it alone.
#[inline(never)]
fn read4(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    match read(&XdpContext::new(ctx), published) {
        Some(outcome) => count(lane, outcome),
        None => UNDECIDED,
    }
}

/// What else becomes of it.
#[inline(never)]
fn steer4(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    count(lane, steer(&XdpContext::new(ctx), published))
}

/// What becomes of one that carries IPv6, as [`forward4`].
#[inline(never)]
fn forward6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    forwarded(lane, forward::established6(&XdpContext::new(ctx), published, lane))
}

/// As [`carry4`].
#[inline(never)]
fn carry6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    forwarded(lane, stateless::carried::<V6>(&XdpContext::new(ctx), published, lane))
}

/// As [`read4`].
#[inline(never)]
fn read6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    match ipv6::read(&XdpContext::new(ctx), published) {
        Some(outcome) => count(lane, outcome),
        None => UNDECIDED,
    }
}

/// What becomes of it if it asks for a published service.
#[inline(never)]
fn ask6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    match ipv6::ask(&XdpContext::new(ctx), published) {
        Some(outcome) => count(lane, outcome),
        None => UNDECIDED,
    }
}

/// What becomes of it if a flow waits for it.
#[inline(never)]
fn await6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    match ipv6::await_flow(&XdpContext::new(ctx), published) {
        Some(outcome) => count(lane, outcome),
        None => UNDECIDED,
    }
}

/// What else becomes of it.
#[inline(never)]
fn steer6(ctx: *mut xdp_md, published: Published, lane: *mut Lane) -> u32 {
    count(lane, ipv6::steer(&XdpContext::new(ctx), published))
}

/// Counts a frame that was forwarded.
#[inline(always)]
fn forwarded(lane: *mut Lane, forwarded: Option<Forwarded>) -> u32 {
    let Some(forwarded) = forwarded else { return UNDECIDED };
    maps::count(lane, Counter::XdpForwarded);
    maps::count_path(lane, &forwarded);
    forwarded.action
}

/// Counts what becomes of a frame.
#[inline(always)]
fn count(lane: *mut Lane, (action, counter): Outcome) -> u32 {
    maps::count(lane, counter);
    action
}

/// What the user tier writes to queue *n* of its tap device leaves by device *n*.
#[xdp]
fn transmit(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the kernel's.
    let device = unsafe { (*ctx.ctx).rx_queue_index };
    maps::DEVICES.redirect(device, 0).unwrap_or_else(|action| action)
}

/// The first bytes of the frame, zeros behind its end. A mask bounds the length for the verifier, so
/// `copy` has room for any masked length.
#[inline(always)]
fn head<'a, const LEN: usize>(
    ctx: &'a XdpContext,
    copy: &'a mut [u8; 0x80],
) -> Option<&'a [u8; LEN]> {
    if ctx.data() + LEN <= ctx.data_end() {
        // SAFETY: the comparison shows the verifier, and us, that the bytes are there.
        return Some(unsafe { &*(ctx.data() as *const [u8; LEN]) });
    }
    let len = ((ctx.data_end() - ctx.data()) & 0x7f) as u32;
    if len == 0 {
        return None;
    }
    // SAFETY: `copy` has room for `len` bytes.
    let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, copy.as_mut_ptr().cast(), len) };
    copy.first_chunk().filter(|_| loaded == 0)
}

/// What becomes of a frame if its headers say that alone; `None`: it is for [`steer`].
#[inline(always)]
fn read(ctx: &XdpContext, published: Published) -> Option<Outcome> {
    let frame_len = ctx.data_end() - ctx.data();
    let mut copy = [0u8; 0x80];
    let Some(head) = head::<HEAD_LEN>(ctx, &mut copy) else {
        return Some((XDP_PASS, Counter::XdpPassMalformed));
    };
    let parsed = match parse_head(head, frame_len) {
        Ok(parsed) => parsed,
        Err(Reject::StackedVlan) if has_empty_tag(head) => {
            return Some((XDP_DROP, Counter::XdpDropMalformed));
        }
        Err(Reject::NotIp | Reject::StackedVlan) => return Some((XDP_PASS, Counter::XdpPassNotIp)),
        Err(Reject::Ipv6) => return Some((XDP_PASS, Counter::XdpPassIpv6)),
        Err(_) => return Some(malformed(ctx, published, head)),
    };
    // SAFETY: the context is the kernel's.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let Some(index) = published.port_of(ifindex, parsed.vlan) else {
        return Some((XDP_PASS, Counter::XdpPassPort));
    };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(index) };
    if let Some(outcome) = stray(&parsed, port, head) {
        return Some(outcome);
    }
    if port.role != PortRole::Lan as u8 && is_advice(&parsed, head) {
        return Some((XDP_DROP, Counter::XdpDropRedirect));
    }
    packet::keep(Packet { parsed, port: index });
    None
}

/// What becomes of the packet that was just [read](read): the kernel's, the user tier's, or nobody's.
#[inline(always)]
fn steer(ctx: &XdpContext, published: Published) -> Outcome {
    let Some(Packet { parsed, port }) = packet::kept::<V4>() else {
        return (XDP_PASS, Counter::XdpPassMalformed);
    };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(*port) };
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let verdict = match port.role == PortRole::Lan as u8 {
        true => from_lan(ctx, published, port, queue, parsed),
        false => from_uplink(ctx, published, port, queue, parsed),
    };
    match verdict {
        Verdict::Done(outcome) => outcome,
        Verdict::Transit => from_crowd(published, port, queue, Sender::Source, parsed),
        Verdict::IfFlow(key, otherwise) => {
            if has_flow(parsed, &key) {
                to_user(published, port, queue)
            } else if services::is_asked(published, port, parsed)
                || mappings::may_let_in(ctx, published, port, parsed)
            {
                from_crowd(published, port, queue, Sender::of(port), parsed)
            } else {
                otherwise
            }
        }
        Verdict::IfFirst(otherwise) => {
            let may_wait = || {
                otherwise.0 == XDP_DROP
                    && is_served(published, port, queue)
                    && fragments::may_wait(port)
            };
            if fragments::follows(parsed) {
                to_user(published, port, queue)
            } else if fragments::is_expected(parsed) || may_wait() {
                from_crowd(published, port, queue, Sender::of(port), parsed)
            } else {
                otherwise
            }
        }
    }
}

/// Is there a flow with this key, the packet's or that of what it quotes? Later fragments of the
/// packet are told the same.
#[inline(always)]
fn has_flow<F: Table>(parsed: &Parsed<F>, key: &FlowKey<F>) -> bool {
    let exists = flows::exists::<F>(key.words());
    if parsed.kind == (Kind::Fragment { first: true }) {
        fragments::first(parsed, exists);
    }
    exists
}

/// Is one of the first two tags of VLAN 0? To the kernel that is no tag (IEEE 802.1Q §9.6: a
/// priority alone), so that it would take what is behind for a packet of a port of ours, which
/// nobody has looked at.
#[inline(always)]
fn has_empty_tag(head: &[u8; HEAD_LEN]) -> bool {
    let is_empty = |control: [u8; 2]| u16::from_be_bytes(control) & ethernet::VLAN_ID == 0;
    let [.., a, b, c, d, e, f] = head.first_chunk::<20>().unwrap_or(&[0; 20]);
    let has_second = ethernet::is_tag(u16::from_be_bytes([*c, *d]));
    is_empty([*a, *b]) || has_second && is_empty([*e, *f])
}

/// No sound IPv4. What is for the gateway's hardware address is not left to a kernel that might
/// forward it.
#[inline(always)]
fn malformed(ctx: &XdpContext, published: Published, head: &[u8; HEAD_LEN]) -> Outcome {
    // SAFETY: the context is the kernel's.
    let ifindex = unsafe { (*ctx.ctx).ingress_ifindex };
    let Some(port) = published.port_of(ifindex, vlan_of(head)) else {
        return (XDP_PASS, Counter::XdpPassPort);
    };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(port) };
    if is_ours(port, head) {
        (XDP_DROP, Counter::XdpDropMalformed)
    } else {
        (XDP_PASS, Counter::XdpPassMalformed)
    }
}

/// Is the frame for a hardware address of the port?
#[inline(always)]
fn is_ours(port: &Port, head: &[u8]) -> bool {
    let Some(destination) = head.first_chunk() else { return false };
    let destination = Mac::new(*destination).word();
    destination == port.mac.word() || port.virtual_macs.iter().any(|mac| destination == mac.word())
}

/// What no role of a port makes the user tier's: for others, for everybody, or with an address that
/// nobody on a wire has (RFC 1812 §5.3.7, RFC 6890). The kernel forwards nothing of the first two.
#[inline(always)]
fn stray(p: &Parsed, port: &Port, head: &[u8; HEAD_LEN]) -> Option<Outcome> {
    let [d0, _, _, _, _, _, s0, ..] = *head;
    let nobodys = |address: [u8; 4]| matches!(address[0], 0 | 127 | 240..=255);
    let group = matches!(p.dst[0], 224..=239) || p.dst == [255; 4];
    if d0 & 1 == 0 && !is_ours(port, head) {
        Some((XDP_PASS, Counter::XdpPassOtherHost))
    } else if s0 & 1 != 0 {
        Some(MARTIAN)
    } else if d0 & 1 != 0 || group {
        Some(for_everybody(p, port, group))
    } else if nobodys(p.src) || matches!(p.src[0], 224..=239) || nobodys(p.dst) {
        Some(MARTIAN)
    } else {
        None
    }
}

/// For everybody on the link: the kernel's. But nobody beyond an uplink speaks to everybody in the
/// name of a LAN or the gateway, or to everybody for one of this side (RFC 1122 §3.3.6): only a lease
/// may come so to who has no address yet. `group` is what its address says; that of an uplink's
/// network with all ones behind the prefix looks like one host's.
#[inline(always)]
fn for_everybody(p: &Parsed, port: &Port, group: bool) -> Outcome {
    if port.role != PortRole::Lan as u8 {
        let source = maps::host_class::<V4>(p.src);
        let ours = source == host_class::LOCAL || source == host_class::LAN && !is_lease(p);
        let for_one = !group && !matches!(maps::host_class::<V4>(p.dst), 0 | host_class::NEAR);
        if ours || for_one && !is_lease(p) {
            return MARTIAN;
        }
    }
    (XDP_PASS, Counter::XdpPassGroup)
}

/// A lease, which may be for an address that the gateway is yet to have (RFC 2131 §4.1).
#[inline(always)]
fn is_lease(p: &Parsed) -> bool {
    p.proto == udp::PROTOCOL && p.dport == [0, 68] && p.kind == Kind::Flow
}

#[inline(always)]
fn from_lan(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    queue: u32,
    parsed: &Parsed,
) -> Verdict {
    let host = maps::host::<V4>(parsed.dst);
    match host_class::class(host) {
        0 => Verdict::Transit,
        // Of an uplink's, hosts are asked for here too, and answer.
        host_class::LOCAL if host_class::uplink(host).is_some() => {
            if_asked(ctx, parsed, (XDP_PASS, Counter::XdpPassLocal))
        }
        host_class::LOCAL => Verdict::Done((XDP_PASS, Counter::XdpPassLocal)),
        // That nobody has: by the kernel's routes it would leave.
        host_class::POOL if is_served(published, port, queue) => if_asked(ctx, parsed, UNASKED),
        host_class::POOL => Verdict::Done(UNASKED),
        // To who asked for a published service, the answer.
        host_class::NEAR => if_asked(ctx, parsed, (XDP_PASS, Counter::XdpPassKernelRoute)),
        _ => Verdict::Done((XDP_PASS, Counter::XdpPassKernelRoute)),
    }
}

/// From a provider: what a flow waits for. Of the rest, what is for the gateway or by it for others
/// than LANs is the kernel's, whose table of weir's decides, and so is what may reach an own prefix.
#[inline(always)]
fn from_uplink(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    queue: u32,
    p: &Parsed,
) -> Verdict {
    // Nobody beyond an uplink has an address of this side (RFC 3704 §2), but for a provider's server
    // of leases: its private network may be a LAN's too.
    let source = maps::host_class::<V4>(p.src);
    if source == host_class::LOCAL
        || matches!(source, host_class::LAN | host_class::POOL) && !is_lease(p)
    {
        return Verdict::Done(MARTIAN);
    }
    let otherwise = match maps::host_class::<V4>(p.dst) {
        host_class::LOCAL => (XDP_PASS, Counter::XdpPassLocal),
        host_class::KERNEL => (XDP_PASS, Counter::XdpPassKernelRoute),
        host_class::LAN if published.is_stateless(Family::V4) && p.kind != Kind::Options => {
            return Verdict::Done(stateless::hand_over(ctx, published, port, p));
        }
        // SAFETY: a path of the half.
        host_class::LAN if unsafe { (*published.path(PathId::v4(port.uplink))).lets_in_all() } => {
            (XDP_PASS, Counter::XdpPassKernelRoute)
        }
        host_class::LAN => unasked(published, port, queue),
        // For an address of a pool or not.
        _ if is_lease(p) => return Verdict::Done((XDP_PASS, Counter::XdpPassForeign)),
        // That nobody has: it would be routed back to its provider.
        host_class::POOL => UNASKED,
        _ => return Verdict::Done((XDP_DROP, Counter::XdpDropForeign)),
    };
    if_asked(ctx, p, otherwise)
}

/// The user tier's if a flow waits for it, or is what it quotes, else not.
#[inline(always)]
fn if_asked(ctx: &XdpContext, p: &Parsed, otherwise: Outcome) -> Verdict {
    match p.kind {
        Kind::Flow | Kind::Fragment { first: true } => Verdict::IfFlow(p.key(), otherwise),
        Kind::Fragment { first: false } => Verdict::IfFirst(otherwise),
        Kind::IcmpError => match V4::quoted(&XdpFrame(ctx), p) {
            Some(quoted) => Verdict::IfFlow(quoted.key.reversed(), otherwise),
            None => Verdict::Done(otherwise),
        },
        _ => Verdict::Done(otherwise),
    }
}

/// Does it tell of another way, or to slow down? A router that has other sources of its routes takes
/// no redirect (RFC 1812 §5.2.7.2), and nobody a source quench (RFC 6633).
#[inline(always)]
fn is_advice(p: &Parsed, head: &[u8; HEAD_LEN]) -> bool {
    let kind = if p.l3 == 14 { head[34] } else { head[38] };
    p.kind == Kind::IcmpError && matches!(kind, icmp::REDIRECT | icmp::SOURCE_QUENCH)
}

/// To the queue's socket, if its sender has not sent too much there.
#[inline(always)]
fn from_crowd<F: Table>(
    published: Published,
    port: &Port,
    queue: u32,
    sender: Sender,
    parsed: &Parsed<F>,
) -> Outcome {
    if crowd::is_over(socket(port, queue), sender, parsed) {
        return (XDP_DROP, Counter::XdpDropCrowded);
    }
    to_user(published, port, queue)
}

/// To the queue's socket; without one, what the control page says.
#[inline(always)]
fn to_user(published: Published, port: &Port, queue: u32) -> Outcome {
    let (lost, reason) = if stands_in(published) {
        (XDP_PASS, Counter::XdpPassNoDataplane)
    } else {
        (XDP_DROP, Counter::XdpDropNoDataplane)
    };
    let sent = socket(port, queue).map(|socket| maps::XSKS.redirect(socket, u64::from(lost)));
    if let Some(Ok(_)) = sent { (XDP_REDIRECT, Counter::XdpToUser) } else { (lost, reason) }
}

/// For a LAN, and no flow asked for it. Where the kernel stands in, it may be the answer to what the
/// kernel has sent: weir's table of nftables lets in that alone.
#[inline(always)]
fn unasked(published: Published, port: &Port, queue: u32) -> Outcome {
    if is_served(published, port, queue) {
        UNASKED
    } else {
        (XDP_PASS, Counter::XdpPassNoDataplane)
    }
}

/// Does the user tier get what is handed to it, or else nobody?
#[inline(always)]
fn is_served(published: Published, port: &Port, queue: u32) -> bool {
    let attached = || socket(port, queue).is_some_and(|socket| maps::XSKS.get(socket).is_some());
    !stands_in(published) || attached()
}

/// Does the kernel forward while no dataplane does?
#[inline(always)]
fn stands_in(published: Published) -> bool {
    // SAFETY: a field of the half.
    unsafe { (*published.half).on_dataplane_loss == OnDataplaneLoss::Kernel as u8 }
}

/// The place of a queue's socket, if it can have one.
#[inline(always)]
fn socket(port: &Port, queue: u32) -> Option<u32> {
    let device = u32::from(port.device) & (MAX_DEVICES as u32 - 1);
    (queue < MAX_QUEUES as u32).then(|| device * MAX_QUEUES as u32 + queue)
}

// Helpers that the kernel keeps for GPL-compatible programs need this; MIT is compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: the verifier would refuse the loop, so a panic that stays in the code is found
/// when the program is loaded.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
