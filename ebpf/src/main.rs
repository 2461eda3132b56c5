//! The XDP program: packets of established flows leave at once, as the flow table says; of the others,
//! what is the gateway's own business goes to the kernel, transit to the user tier.
#![no_std]
#![no_main]
// Unaligned words, see `words`.
#![feature(asm_experimental_arch)]

#[cfg(not(target_arch = "bpf"))]
compile_error!("the XDP program is built for bpfel-unknown-none only: run scripts/ebpf-build");

mod flows;
mod forward;
mod maps;
mod words;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_xdp_load_bytes;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use weir_wire::layout::control::{
    MAX_POOL, OnDataplaneLoss, Port, PortRole, Translate, host_class,
};
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::FlowKey4;
use weir_wire::layout::{MAX_DEVICES, MAX_QUEUES};
use weir_wire::parse::{HEAD_LEN, Kind, Parsed, Reject, parse_head};
use weir_wire::{icmp, tcp, udp};

use crate::maps::Published;

/// What the packet is, before any table is asked.
enum Verdict {
    /// The kernel's, for this reason.
    Pass(Counter),
    /// The user tier's.
    Transit,
    /// The user tier's if this flow exists, else the kernel's.
    IfFlow(FlowKey4, Counter),
}

#[xdp]
fn weir(ctx: XdpContext) -> u32 {
    let Some(lane) = maps::lane() else { return XDP_PASS };
    maps::count(lane, Counter::XdpRx);
    let Some(published) = maps::published() else {
        maps::count(lane, Counter::XdpPassUnconfigured);
        return XDP_PASS;
    };
    if let Some(forwarded) = forward::established(&ctx, published, lane) {
        maps::count(lane, Counter::XdpForwarded);
        maps::count_uplink(lane, &forwarded);
        return forwarded.action;
    }
    let (action, counter) = steer(&ctx, published);
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

/// What is not forwarded here: the kernel's, or the user tier's.
#[inline(always)]
fn steer(ctx: &XdpContext, published: Published) -> (u32, Counter) {
    let frame_len = ctx.data_end() - ctx.data();
    // A mask bounds the length for the verifier, so the copy has room for any masked length.
    let mut copy = [0u8; 0x80];
    let head: &[u8; HEAD_LEN] = if ctx.data() + HEAD_LEN <= ctx.data_end() {
        // SAFETY: the comparison shows the verifier, and us, that the bytes are there.
        unsafe { &*(ctx.data() as *const [u8; HEAD_LEN]) }
    } else {
        let len = (frame_len & 0x7f) as u32;
        if len == 0 {
            return (XDP_PASS, Counter::XdpPassMalformed);
        }
        // SAFETY: `copy` has room for `len` bytes.
        let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, 0, copy.as_mut_ptr().cast(), len) };
        let Some(head) = copy.first_chunk().filter(|_| loaded == 0) else {
            return (XDP_PASS, Counter::XdpPassMalformed);
        };
        head
    };
    let parsed = match parse_head(head, frame_len) {
        Ok(parsed) => parsed,
        Err(Reject::NotIp | Reject::StackedVlan) => return (XDP_PASS, Counter::XdpPassNotIp),
        Err(Reject::Ipv6) => return (XDP_PASS, Counter::XdpPassIpv6),
        Err(_) => return (XDP_PASS, Counter::XdpPassMalformed),
    };
    let [d0, d1, d2, d3, d4, d5, ..] = *head;
    // SAFETY: the context is the kernel's.
    let (ifindex, queue) = unsafe { ((*ctx.ctx).ingress_ifindex, (*ctx.ctx).rx_queue_index) };
    let Some(port) = published.port_of(ifindex, parsed.vlan) else {
        return (XDP_PASS, Counter::XdpPassPort);
    };
    // SAFETY: a port of the half.
    let port = unsafe { published.port(port).read() };
    let [m0, m1, m2, m3, m4, m5] = port.mac.bytes();
    let group = d0 & 1 != 0
        || parsed.dst[0] >= 224
        || u32::from_ne_bytes(parsed.dst) == 0
        || u32::from_ne_bytes(parsed.src) == 0;
    let other = d0 != m0 || d1 != m1 || d2 != m2 || d3 != m3 || d4 != m4 || d5 != m5;
    let verdict = if group {
        Verdict::Pass(Counter::XdpPassGroup)
    } else if other {
        Verdict::Pass(Counter::XdpPassOtherHost)
    } else if port.role == PortRole::Lan as u8 {
        from_lan(&parsed)
    } else {
        from_uplink(ctx, published, &port, &parsed)
    };
    match verdict {
        Verdict::Pass(reason) => (XDP_PASS, reason),
        Verdict::Transit => to_user(published, &port, queue),
        Verdict::IfFlow(key, otherwise) => {
            if flows::exists(key.words()) {
                to_user(published, &port, queue)
            } else {
                (XDP_PASS, otherwise)
            }
        }
    }
}

#[inline(always)]
fn from_lan(parsed: &Parsed) -> Verdict {
    match maps::host_class(parsed.dst) {
        0 => Verdict::Transit,
        host_class::LOCAL => Verdict::Pass(Counter::XdpPassLocal),
        _ => Verdict::Pass(Counter::XdpPassKernelRoute),
    }
}

/// From a provider: what a flow waits for, or could. The rest is the kernel's: the gateway's own
/// sockets, and own prefixes that nobody inside has spoken from yet.
#[inline(always)]
fn from_uplink(ctx: &XdpContext, published: Published, port: &Port, p: &Parsed) -> Verdict {
    let key = FlowKey4::new(p.src, p.dst, p.sport, p.dport, p.proto);
    match maps::host_class(p.dst) {
        host_class::LOCAL => {
            let reason = Counter::XdpPassLocal;
            if !translates_to(published, port, p.dst) {
                return Verdict::Pass(reason);
            }
            match p.kind {
                Kind::Flow | Kind::Fragment { first: true } => match p.proto {
                    tcp::PROTOCOL | udp::PROTOCOL if is_nat_port(published, port, p.dport) => {
                        Verdict::Transit
                    }
                    icmp::PROTOCOL => Verdict::IfFlow(key, reason),
                    _ => Verdict::Pass(reason),
                },
                Kind::Fragment { first: false } => Verdict::Transit,
                Kind::IcmpError => match quoted(ctx, p) {
                    Some(quoted) if quoted.dst == p.dst => match quoted.proto {
                        tcp::PROTOCOL | udp::PROTOCOL
                            if is_nat_port(published, port, quoted.dport) =>
                        {
                            Verdict::Transit
                        }
                        icmp::PROTOCOL => Verdict::IfFlow(quoted, reason),
                        _ => Verdict::Pass(reason),
                    },
                    _ => Verdict::Pass(reason),
                },
                _ => Verdict::Pass(reason),
            }
        }
        host_class::LAN => match p.kind {
            Kind::Flow | Kind::Fragment { first: true } => {
                Verdict::IfFlow(key, Counter::XdpPassKernelRoute)
            }
            Kind::Fragment { first: false } => Verdict::Transit,
            Kind::IcmpError => match quoted(ctx, p) {
                Some(quoted) => Verdict::IfFlow(quoted, Counter::XdpPassKernelRoute),
                None => Verdict::Pass(Counter::XdpPassKernelRoute),
            },
            _ => Verdict::Pass(Counter::XdpPassKernelRoute),
        },
        host_class::KERNEL => Verdict::Pass(Counter::XdpPassKernelRoute),
        _ => Verdict::Pass(Counter::XdpPassForeign),
    }
}

/// The key of packets that answer the one an ICMP error quotes: of those that come in.
#[inline(always)]
fn quoted(ctx: &XdpContext, p: &Parsed) -> Option<FlowKey4> {
    let mut inner = [0u8; 28];
    let at = u32::from(p.l4 & 0x7f) + 8;
    // SAFETY: `inner` has room for 28 bytes.
    let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, at, inner.as_mut_ptr().cast(), 28) };
    if loaded != 0 || inner[0] != 0x45 {
        return None;
    }
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        proto,
        _,
        _,
        s0,
        s1,
        s2,
        s3,
        e0,
        e1,
        e2,
        e3,
        a,
        b,
        c,
        d,
        i,
        j,
        _,
        _,
    ] = inner;
    let (sport, dport) = match proto {
        icmp::PROTOCOL => ([i, j], [i, j]),
        _ => ([a, b], [c, d]),
    };
    Some(FlowKey4::new([e0, e1, e2, e3], [s0, s1, s2, s3], dport, sport, proto))
}

/// Does the port's uplink translate to this address?
#[inline(always)]
fn translates_to(published: Published, port: &Port, address: [u8; 4]) -> bool {
    let uplink = published.uplink(port.uplink);
    // SAFETY: an uplink of the half.
    let (translate, pool_len) = unsafe { ((*uplink).translate, (*uplink).pool_len) };
    if translate != Translate::Nat44 as u8 {
        return false;
    }
    let wanted = u32::from_ne_bytes(address);
    let mut found = false;
    for index in 0..MAX_POOL {
        // SAFETY: an entry of the uplink's pool.
        let entry = unsafe { (&raw const (*uplink).pool).cast::<[u8; 4]>().add(index).read() };
        found |= index < pool_len as usize && u32::from_ne_bytes(entry) == wanted;
    }
    found
}

#[inline(always)]
fn is_nat_port(published: Published, port: &Port, dport: [u8; 2]) -> bool {
    let uplink = published.uplink(port.uplink);
    // SAFETY: an uplink of the half.
    let (lo, hi) = unsafe { ((*uplink).nat_lo, (*uplink).nat_hi) };
    let dport = u16::from_be_bytes(dport);
    lo <= dport && dport <= hi
}

/// To the queue's socket; without one, what the control page says.
#[inline(always)]
fn to_user(published: Published, port: &Port, queue: u32) -> (u32, Counter) {
    // SAFETY: a field of the half.
    let to_kernel = unsafe { (*published.half).on_dataplane_loss } == OnDataplaneLoss::Kernel as u8;
    let (lost, reason) = if to_kernel {
        (XDP_PASS, Counter::XdpPassNoDataplane)
    } else {
        (XDP_DROP, Counter::XdpDropNoDataplane)
    };
    if queue >= MAX_QUEUES as u32 {
        return (lost, reason);
    }
    let device = u32::from(port.device) & (MAX_DEVICES as u32 - 1);
    match maps::XSKS.redirect(device * MAX_QUEUES as u32 + queue, u64::from(lost)) {
        Ok(_) => (XDP_REDIRECT, Counter::XdpToUser),
        Err(_) => (lost, reason),
    }
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
