//! Which packets of IPv6 are the user tier's: those between a LAN's own prefix and the world, while an
//! uplink has a path of IPv6. All others are the kernel's, and so is what is for a link alone: the
//! discovery of neighbours and routers, and of listeners to groups (RFC 4861, RFC 3810).

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use weir_layout::control::{Port, PortRole, host_class};
use weir_layout::counters::Counter;
use weir_wire::family::{Family, V6};
use weir_wire::parse::{HEAD_LEN6, Kind, Parsed6, parse6_head};
use weir_wire::{ipv6, quoted};

use crate::maps::{self, Published};
use crate::{
    MARTIAN, Outcome, UNASKED, flows, fragments, has_flow, head, is_ours, quoted_key, to_user,
};

/// Room for the head of a short frame, which the stack has not.
#[map]
static COPY: PerCpuArray<[u8; 0x80]> = PerCpuArray::with_max_entries(1, 0);

const KERNELS: Outcome = (XDP_PASS, Counter::XdpPassIpv6);

/// What is not forwarded here: the kernel's, the user tier's, or nobody's.
#[inline(always)]
pub fn steer(ctx: &XdpContext, published: Published) -> Outcome {
    if !published.serves_ipv6() {
        return KERNELS;
    }
    let Some(copy) = COPY.get_ptr_mut(0) else { return KERNELS };
    // SAFETY: this CPU's own.
    let copy = unsafe { &mut *copy };
    copy.fill(0);
    let Some(head) = head::<HEAD_LEN6>(ctx, copy) else { return KERNELS };
    let Ok(parsed) = parse6_head(head, ctx.data_end() - ctx.data()) else { return KERNELS };
    // SAFETY: the context is the kernel's.
    let (ifindex, queue) = unsafe { ((*ctx.ctx).ingress_ifindex, (*ctx.ctx).rx_queue_index) };
    let Some(port) = published.port_of(ifindex, parsed.vlan) else {
        return (XDP_PASS, Counter::XdpPassPort);
    };
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(port) };
    let travels = ipv6::is_unicast(parsed.src) && ipv6::is_unicast(parsed.dst);
    if !travels || !is_ours(port, head) {
        return KERNELS;
    }
    if port.role == PortRole::Lan as u8 {
        match from_lan(&parsed) {
            Some(outcome) => outcome,
            None => to_user(published, port, queue),
        }
    } else if let Some(outcome) = from_uplink(ctx, published, port, &parsed) {
        outcome
    } else {
        to_user(published, port, queue)
    }
}

/// `None`: the user tier's.
#[inline(always)]
fn from_lan(p: &Parsed6) -> Option<Outcome> {
    if maps::host_class::<V6>(p.src) != host_class::LAN {
        return Some(KERNELS);
    }
    match maps::host_class::<V6>(p.dst) {
        0 if ipv6::is_global(p.dst) => None,
        0 => Some(MARTIAN),
        host_class::LOCAL => Some((XDP_PASS, Counter::XdpPassLocal)),
        // Nobody has it; by the kernel's routes it would leave.
        host_class::POOL => Some(UNASKED),
        _ => Some((XDP_PASS, Counter::XdpPassKernelRoute)),
    }
}

/// From a provider, likewise: what a flow waits for. No key may be left unset on any way here, as in
/// a variant of an enum: the verifier would find it read.
#[inline(always)]
fn from_uplink(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    p: &Parsed6,
) -> Option<Outcome> {
    let class = maps::host_class::<V6>(p.dst);
    if !matches!(class, host_class::LAN | host_class::POOL | host_class::LOCAL) {
        return Some(KERNELS);
    }
    if matches!(
        maps::host_class::<V6>(p.src),
        host_class::LOCAL | host_class::LAN | host_class::POOL
    ) {
        return Some(MARTIAN);
    }
    // SAFETY: a path of the half.
    let inbound = unsafe { (*published.path(V6::path(port.uplink))).inbound };
    let otherwise = match (class, inbound) {
        (host_class::LOCAL, _) => KERNELS,
        (host_class::LAN, 1) => (XDP_PASS, Counter::XdpPassKernelRoute),
        _ => UNASKED,
    };
    let wanted = match p.kind {
        Kind::Flow | Kind::Fragment { first: true } => has_flow(p, &p.key()),
        Kind::Fragment { first: false } => fragments::follows(p),
        Kind::IcmpError => {
            let quoted = quoted_key::<V6, { quoted::LEN6 }>(ctx, p);
            quoted.is_some_and(|quoted| flows::exists::<V6>(quoted.words()))
        }
        _ => false,
    };
    if wanted { None } else { Some(otherwise) }
}
