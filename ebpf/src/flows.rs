//! The flow table, read in place.

use weir_wire::hash::flow4_words;
use weir_wire::layout::flow::{FlowEntry4, GROUP, VALID};
use weir_wire::layout::tags::{choices, lowest, matching, spills, tag};

use crate::maps::{FLOWS4, TAGS4, flow_table};

/// Slots of a group that a search looks at: two flows of a group that share a tag are one in two
/// hundred, three are none; the user tier finds them all.
const LOOKS: u32 = 2;

/// The published entry with this key ([`weir_wire::layout::flow::FlowKey4::words`]), and its state word. What is read of
/// it holds if [`still`] says so afterwards.
#[inline(always)]
pub fn find(key: [u64; 2]) -> Option<(*mut FlowEntry4, u32)> {
    let (secret, groups) = flow_table()?;
    let hash = flow4_words(secret, key);
    let [a, b] = choices(hash, groups);
    match search(a, tag(hash), key) {
        None => search(b, tag(hash), key),
        found => found,
    }
}

/// Is there a flow with this key, in any of its groups?
#[inline(always)]
pub fn exists(key: [u64; 2]) -> bool {
    let Some((secret, groups)) = flow_table() else { return false };
    let hash = flow4_words(secret, key);
    let ([a, b], [c, d]) = (choices(hash, groups), spills(hash, groups));
    let mut found = false;
    for group in [a, b, c, d] {
        found = found || search(group, tag(hash), key).is_some();
    }
    found
}

#[inline(always)]
fn search(group: u32, tag: u8, key: [u64; 2]) -> Option<(*mut FlowEntry4, u32)> {
    let tags = TAGS4.get_ptr(group)?;
    // SAFETY: the pointer is to a whole word.
    let mut mask = matching(unsafe { tags.read_volatile() }, tag);
    for _ in 0..LOOKS {
        if mask == 0 {
            return None;
        }
        let slot = FLOWS4.get_ptr_mut(group * GROUP + lowest(mask))?;
        // SAFETY: the pointer is to a whole entry; each word is read once, and in this order.
        let (state, addresses, ports) = unsafe {
            let words = slot.cast::<u64>();
            let state = (&raw const (*slot).state).read_volatile();
            (state, words.add(1).read_volatile(), words.add(2).read_volatile())
        };
        if state & VALID != 0 && addresses == key[0] && ports & 0xff_ffff_ffff == key[1] {
            return Some((slot, state));
        }
        mask &= mask - 1;
    }
    None
}

/// Does the entry still hold the flow that was found in it? See [`weir_wire::layout::flow`].
#[inline(always)]
pub fn still(entry: *const FlowEntry4, state: u32) -> bool {
    // SAFETY: the pointer is from `find`.
    unsafe { (&raw const (*entry).state).read_volatile() == state }
}

// The mask above takes ports and protocol from the third word, on a little-endian machine.
const _: () =
    assert!(core::mem::offset_of!(FlowEntry4, proto) == 20 && cfg!(target_endian = "little"));
