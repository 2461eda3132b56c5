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

/// An IPv4 direction as it is read.
pub type Entry4 = weir_wire::entry::Entry<weir_wire::family::V4>;
