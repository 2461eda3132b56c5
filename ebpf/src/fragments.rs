//! Which later fragments from providers are the user tier's: those whose first one was.
//!
//! What a stranger sends leaves no trace here: only a fragment of a flow is remembered. The rest is
//! put together by the kernel, as on any host.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use weir_wire::family::{V4, V6};
use weir_wire::parse::Parsed;

use crate::flows::Table;

/// A datagram: what its fragments share, see [`Parsed::ident`].
#[repr(C)]
pub struct Datagram<F: Table> {
    addresses: [F::Address; 2],
    ident: u32,
}

/// Datagrams of flows of which fragments may follow; the oldest make room.
#[map]
pub static FRAGMENTS: LruHashMap<Datagram<V4>, u8> = LruHashMap::with_max_entries(4096, 0);
/// The same of IPv6.
#[map]
pub static FRAGMENTS6: LruHashMap<Datagram<V6>, u8> = LruHashMap::with_max_entries(4096, 0);

/// A first fragment: the later ones go where it goes.
#[inline(always)]
pub fn first<F: Table>(p: &Parsed<F>, of_flow: bool) {
    let (datagrams, datagram) = (F::fragments(), datagram(p));
    // A failure costs the datagram.
    let _ = if of_flow { datagrams.insert(&datagram, &1, 0) } else { datagrams.remove(&datagram) };
}

/// Was the first fragment of its datagram the user tier's?
#[inline(always)]
pub fn follows<F: Table>(p: &Parsed<F>) -> bool {
    F::fragments().get_ptr(&datagram(p)).is_some()
}

#[inline(always)]
fn datagram<F: Table>(p: &Parsed<F>) -> Datagram<F> {
    Datagram { addresses: [p.src, p.dst], ident: p.ident }
}
