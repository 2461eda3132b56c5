//! Is there a flow for a packet?

use weir_wire::hash::flow4;
use weir_wire::layout::flow::{EMPTY, FlowEntry4, FlowKey4, GROUP, VALID, groups};

use crate::maps::{FLOWS4, flow_table};

/// Looks for a published entry with this key. A slot that is being rewritten meanwhile can at worst
/// send a packet to the user tier, which looks again.
#[inline(always)]
pub fn exists(key: &FlowKey4) -> bool {
    let Some((secret, mask)) = flow_table() else { return false };
    let wanted = key.words();
    let [a, b] = groups(flow4(secret, key), mask);
    let mut ended = false;
    for probe in 0..2 * GROUP {
        let second = probe >= GROUP;
        if probe == GROUP {
            ended = false;
        }
        if ended {
            continue;
        }
        let first = if second { b } else { a };
        let Some(slot) = FLOWS4.get_ptr(first + (probe & (GROUP - 1))) else { return false };
        // SAFETY: the pointer is to a whole entry; the words are read once each.
        let (state, addresses, ports) = unsafe {
            let words = slot.cast::<u64>();
            let state = (&raw const (*slot).state).read_volatile();
            (state, words.add(1).read_volatile(), words.add(2).read_volatile())
        };
        if state & VALID != 0 && addresses == wanted[0] && ports & 0xff_ffff_ffff == wanted[1] {
            return true;
        }
        ended = state == EMPTY;
    }
    false
}

// The mask above takes ports and protocol from the third word, on a little-endian machine.
const _: () =
    assert!(core::mem::offset_of!(FlowEntry4, proto) == 20 && cfg!(target_endian = "little"));
