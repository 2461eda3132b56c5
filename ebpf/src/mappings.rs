//! Datagrams that a mapping may let in though no flow asked for them (RFC 4787 §5), where an
//! uplink's `filtering` says so. The worker that has the mapping decides; without one they end there.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::bindings::bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release};
use aya_ebpf::programs::XdpContext;
use weir_layout::control::{PathId, Port, PortRole, Translate};
use weir_wire::family::V4;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::udp;

use crate::maps::{self, Published};
use crate::services::holds;
use crate::stateless::Bears as _;

/// `BPF_F_CURRENT_NETNS` (linux/bpf.h).
const CURRENT_NETNS: u64 = -1i64 as u64;

/// May a mapping let in a packet that came by an uplink's port? It has a port of the NAT's that no
/// socket of the gateway has, at an address of the uplink's, and comes from beyond: whom the kernel
/// has a way of its own to is the kernel's.
#[inline(always)]
pub fn may_let_in(ctx: &XdpContext, published: Published, port: &Port, p: &Parsed) -> bool {
    if p.proto != udp::PROTOCOL
        || p.kind != Kind::Flow
        || port.role != PortRole::Uplink as u8
        || !published.filters_less(port.uplink)
    {
        return false;
    }
    let dport = u16::from_be_bytes(p.dport);
    // SAFETY: a path of the half.
    let path = unsafe { &*published.path(PathId::v4(port.uplink)) };
    path.translate == Translate::Napt as u8
        && (path.nat_lo..=path.nat_hi).contains(&dport)
        && holds(path, V4::words_of(p.dst))
        && maps::host_class::<V4>(p.src) == 0
        && !has_socket(ctx, p)
}

/// Waits a socket of the gateway for the packet? A resolver's may be a millisecond old.
#[inline(always)]
fn has_socket(ctx: &XdpContext, p: &Parsed) -> bool {
    let mut tuple = Tuple {
        saddr: u32::from_ne_bytes(p.src),
        daddr: u32::from_ne_bytes(p.dst),
        sport: u16::from_ne_bytes(p.sport),
        dport: u16::from_ne_bytes(p.dport),
    };
    // SAFETY: the tuple is one of IPv4, of the length that is given.
    let socket = unsafe {
        bpf_sk_lookup_udp(
            ctx.as_ptr(),
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            size_of::<Tuple>() as u32,
            CURRENT_NETNS,
            0,
        )
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: the helper gave it, and it is not used any more.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}
