//! The flow table of a family, in place: look-up, claim, publish, retire.
//!
//! The protocol is in [`weir_layout::flow`], the index in [`weir_layout::tags`].
//! Orderings, for x86 and arm64 alike: a claim is a compare-and-swap on the group's tags (acquire),
//! so two workers never write one slot; key and action are stored relaxed between a release fence
//! and the `VALID` store (release); a reader loads `state` (acquire), then the rest, then `state`
//! again behind an acquire fence. What it read is one flow if both states are the same.

pub(crate) mod slot;
#[cfg(not(loom))]
mod table;
pub(crate) mod tags;
pub(crate) mod words;

pub use slot::{Action, Meta, Slot};
#[cfg(not(loom))]
pub use table::{FlowTable, FlowTable4};
pub use tags::TagWord;
pub use words::{SlotWords, Stored};

/// How long ago that was which a flow dates so, by the clock that wraps around, milliseconds. A
/// packet may have come since the clock was read: what is ahead of it is of now.
pub const fn ago_ms(now_ms: u32, then_ms: u32) -> u32 {
    let ago = now_ms.wrapping_sub(then_ms);
    if ago.cast_signed() < 0 { 0 } else { ago }
}

/// An IPv4 direction as it is read.
pub type Entry4 = weir_wire::entry::Entry<weir_wire::family::V4>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ahead_of_the_clock_is_of_now_and_the_clock_wraps_around() {
        assert_eq!(ago_ms(12_500, 12_600), 0);
        assert_eq!(ago_ms(12_500, 12_400), 100);
        assert_eq!(ago_ms(50, u32::MAX), 51);
        assert_eq!(ago_ms(u32::MAX, 50), 0);
    }
}
