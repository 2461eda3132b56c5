//! Which later fragments from providers are the user tier's: those whose first one was.
//!
//! What a stranger sends leaves no trace here: only a fragment of a flow is remembered. The rest is
//! put together by the kernel, as on any host.

use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use weir_wire::parse::Parsed;

/// A datagram: addresses; identification and protocol (RFC 791 §3.2).
type Datagram = [u32; 3];

/// Datagrams of flows of which fragments may follow; the oldest make room.
#[map]
static FRAGMENTS: LruHashMap<Datagram, u8> = LruHashMap::with_max_entries(4096, 0);

/// A first fragment: the later ones go where it goes.
#[inline(always)]
pub fn first(p: &Parsed, of_flow: bool) {
    let datagram = datagram(p);
    // A failure costs the datagram.
    let _ = if of_flow { FRAGMENTS.insert(&datagram, &1, 0) } else { FRAGMENTS.remove(&datagram) };
}

/// Was the first fragment of its datagram the user tier's?
#[inline(always)]
pub fn follows(p: &Parsed) -> bool {
    FRAGMENTS.get_ptr(&datagram(p)).is_some()
}

#[inline(always)]
fn datagram(p: &Parsed) -> Datagram {
    [u32::from_ne_bytes(p.src), u32::from_ne_bytes(p.dst), p.ident << 8 | u32::from(p.proto)]
}
