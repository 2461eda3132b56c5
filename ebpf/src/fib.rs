//! Where the kernel sends what is for a LAN: its routes, and what it knows of its neighbours.
//!
//! So hosts that move, virtual routers and routers further inside are the kernel's matter, as is who
//! may say where an address is. What it does not know, or would not forward, is left to it. What it
//! said of a host is [remembered](crate::known) for a second.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::programs::XdpContext;
use weir_layout::control::{Port, PortRole, host_class};
use weir_layout::{Family, adjacency};

use crate::maps::{self, Published};
use crate::stateless::Bears;

/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FOUND: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`.
const NO_NEIGHBOUR: i64 = 7;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): what is asked, and the answer.
#[repr(C)]
struct Query {
    family: u8,
    proto: u8,
    ports: [u16; 2],
    /// Bytes of the packet; what the route does not take is not found. Afterwards, what it takes (since
    /// Linux 5.12; before, as asked).
    len: u16,
    /// Where it came in; afterwards, where it leaves.
    ifindex: u32,
    flow: u32,
    src: [u64; 2],
    dst: [u64; 2],
    vlan: u32,
    source_mac: [u16; 3],
    destination_mac: [u16; 3],
}

const _: () = assert!(size_of::<Query>() == 64);

/// What of a packet the kernel is asked about.
pub struct Asked {
    /// IP protocol.
    pub proto: u8,
    /// Bytes from the IP header on.
    pub len: u16,
    /// Source and destination, as [`Header::addresses`](weir_wire::plain::Header::addresses).
    pub addresses: [[u64; 2]; 2],
    /// CLOCK_MONOTONIC milliseconds, wrapping.
    pub now: u32,
}

/// Where a packet leaves to.
pub enum Toward {
    /// Behind a LAN port: the [word](adjacency::word) of its adjacency.
    Lan(u64),
    /// To a host that the kernel does not know.
    Unknown,
    /// Where the kernel says.
    Kernel,
}

/// Where a packet leaves to, which came in by the uplink of `port`.
#[inline(always)]
pub fn toward_lan<F: Bears>(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    asked: &Asked,
) -> Toward {
    let Asked { len, addresses: [_, dst], now, .. } = *asked;
    let remembers = published.remembers(F::FAMILY);
    let wanted = published.wanted(F::FAMILY, port, dst);
    if remembers && let Some(word) = wanted.recall(len, now) {
        return Toward::Lan(word);
    }
    // Nobody else's addresses are behind a LAN, whatever its hosts advertise.
    if maps::host_class::<F>(F::address(dst)) != host_class::LAN {
        return Toward::Kernel;
    }
    let (found, mtu) = look_up::<F>(ctx, published, port, asked, remembers);
    if remembers && let Toward::Lan(word) = found {
        wanted.keep(word, mtu, now);
    }
    found
}

/// Asks the kernel; with it, the longest packet that the route takes. What is to be remembered of a
/// destination is asked without a source, so that of several routers one takes all of it.
#[inline(always)]
fn look_up<F: Bears>(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    asked: &Asked,
    remembers: bool,
) -> (Toward, u16) {
    let Asked { proto, len, addresses: [src, dst], .. } = *asked;
    let mut query = Query {
        family: address_family(F::FAMILY),
        proto,
        ports: [0; 2],
        len,
        ifindex: port.ifindex,
        flow: 0,
        src: if remembers { [0; 2] } else { src },
        dst,
        vlan: 0,
        source_mac: [0; 3],
        destination_mac: [0; 3],
    };
    // SAFETY: the context is the kernel's, and the query as large as it is said to be.
    let found = unsafe {
        bpf_fib_lookup(ctx.as_ptr(), (&raw mut query).cast(), size_of::<Query>() as i32, 0)
    };
    if found != FOUND && found != NO_NEIGHBOUR {
        return (Toward::Kernel, 0);
    }
    let Some(index) = published.port_of(query.ifindex, 0) else { return (Toward::Kernel, 0) };
    // SAFETY: a port of the half.
    if unsafe { (*published.port(index)).role } != PortRole::Lan as u8 {
        return (Toward::Kernel, 0);
    }
    let [a, b, c] = query.destination_mac.map(u64::from);
    let mac = a | b << 16 | c << 32;
    // Kernels before 6.3 find neighbours whose address they do not know yet, with none.
    if found == NO_NEIGHBOUR || mac == 0 {
        return (Toward::Unknown, 0);
    }
    (Toward::Lan(adjacency::word(mac, index)), query.len)
}

/// The kernel's number of a family.
const fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
