//! Where the kernel sends what is for a LAN: its routes, and what it knows of its neighbours.
//!
//! So hosts that move, virtual routers and routers further inside are the kernel's matter, as is who
//! may say where an address is. What it does not know, or would not forward, is left to it.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::programs::XdpContext;
use weir_layout::adjacency;
use weir_layout::control::{Port, PortRole};

use crate::maps::Published;

/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FOUND: i64 = 0;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h): what is asked, and the answer.
#[repr(C)]
struct Query {
    family: u8,
    proto: u8,
    ports: [u16; 2],
    /// Bytes of the packet; what the route does not take is not found.
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
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// IP protocol.
    pub proto: u8,
    /// Bytes from the IP header on.
    pub len: u16,
    /// Source and destination, as [`Header::addresses`](weir_wire::plain::Header::addresses).
    pub addresses: [[u64; 2]; 2],
}

/// The [word](adjacency::word) of the adjacency behind a LAN port that a packet leaves by, which came
/// in by `port`; `None`: it is the kernel's.
#[inline(always)]
pub fn toward_lan(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    asked: &Asked,
) -> Option<u64> {
    let Asked { family, proto, len, addresses: [src, dst] } = *asked;
    let ifindex = port.ifindex;
    let mut query = Query {
        family,
        proto,
        ports: [0; 2],
        len,
        ifindex,
        flow: 0,
        src,
        dst,
        vlan: 0,
        source_mac: [0; 3],
        destination_mac: [0; 3],
    };
    // SAFETY: the context is the kernel's, and the query as large as it is said to be.
    let found = unsafe {
        bpf_fib_lookup(ctx.as_ptr(), (&raw mut query).cast(), size_of::<Query>() as i32, 0)
    };
    if found != FOUND {
        return None;
    }
    let index = published.port_of(query.ifindex, 0)?;
    // SAFETY: a port of the half.
    let role = unsafe { (*published.port(index)).role };
    let [a, b, c] = query.destination_mac.map(u64::from);
    let mac = a | b << 16 | c << 32;
    // Kernels before 6.3 find neighbours whose address they do not know yet, with none.
    (role == PortRole::Lan as u8 && mac != 0).then(|| adjacency::word(mac, index))
}
