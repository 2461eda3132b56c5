//! Which later fragments are the user tier's: those whose first one was, and of those that come before
//! their first what may be for a host.
//!
//! What a stranger sends leaves no trace here: only fragments of flows are remembered. The rest is put
//! together by the kernel, as on any host. A later fragment for an address that the gateway and its
//! hosts share does not say whose it is before its first is there: it is a host's while the last first
//! one between the same addresses was of a flow, else the kernel's. Where no kernel waits for it, a
//! worker may, but for few of them: see [`PATIENCE`].

use aya_ebpf::helpers::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use weir_layout::MAX_UPLINKS;
use weir_layout::allowance;
use weir_layout::control::{Port, PortRole};
use weir_wire::family::{V4, V6};
use weir_wire::parse::Parsed;

use crate::flows::Table;

/// A datagram: what its fragments share, see [`Parsed::ident`]; or with [`ANY`] all between the same
/// addresses.
#[repr(C)]
pub struct Datagram<F: Table> {
    addresses: [F::Address; 2],
    ident: u64,
}

/// No datagram's.
const ANY: u64 = 1 << 32;

/// Later fragments of strangers that an uplink may hand over before their first, by CPU and tick of the
/// kernel: a datagram of 65 535 bytes in frames of 1500 has 45.
const PATIENCE: u64 = 64;

/// Datagrams of flows of which fragments may follow; the oldest make room.
#[map]
pub static FRAGMENTS: LruHashMap<Datagram<V4>, u8> = LruHashMap::with_max_entries(4096, 0);
/// The same of IPv6.
#[map]
pub static FRAGMENTS6: LruHashMap<Datagram<V6>, u8> = LruHashMap::with_max_entries(4096, 0);

/// What came of strangers by uplinks, by [`allowance::counted`].
#[map]
static STRANGERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_UPLINKS as u32, 0);

/// A first fragment: the later ones go where it goes.
#[inline(always)]
pub fn first<F: Table>(p: &Parsed<F>, of_flow: bool) {
    let datagrams = F::fragments();
    for ident in [p.ident.into(), ANY] {
        let datagram = datagram(p, ident);
        // A failure costs the datagram.
        let _ = match of_flow {
            true if ident == ANY && datagrams.get_ptr(&datagram).is_some() => Ok(()),
            true => datagrams.insert(&datagram, &1, 0),
            false => datagrams.remove(&datagram),
        };
    }
}

/// Was the first fragment of its datagram the user tier's?
#[inline(always)]
pub fn follows<F: Table>(p: &Parsed<F>) -> bool {
    F::fragments().get_ptr(&datagram(p, p.ident.into())).is_some()
}

/// Was the last first fragment between its addresses the user tier's?
#[inline(always)]
pub fn is_expected<F: Table>(p: &Parsed<F>) -> bool {
    F::fragments().get_ptr(&datagram(p, ANY)).is_some()
}

/// May one that came in by the port wait for its first though nothing is known of it? In LANs a worker
/// sees to it that each host has its share of the room for them.
#[inline(always)]
pub fn may_wait(port: &Port) -> bool {
    if port.role == PortRole::Lan as u8 {
        return true;
    }
    let Some(place) = STRANGERS.get_ptr_mut(u32::from(port.uplink) % MAX_UPLINKS as u32) else {
        return false;
    };
    // SAFETY: the helper has no conditions, and the word is this CPU's own.
    let count = unsafe {
        *place = allowance::counted(*place, bpf_jiffies64());
        allowance::count(*place)
    };
    count <= PATIENCE
}

#[inline(always)]
fn datagram<F: Table>(p: &Parsed<F>, ident: u64) -> Datagram<F> {
    Datagram { addresses: [p.src, p.dst], ident }
}
