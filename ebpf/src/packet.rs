//! A packet between two steps of the program.
//!
//! The verifier follows what it knows of a value, each protocol and kind apart, through all that comes
//! after. Of what a map holds it knows nothing: behind this there is one packet for it, not a dozen.

use core::mem::MaybeUninit;

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use weir_wire::family::{Family, V4, V6};
use weir_wire::parse::Parsed;

/// A packet that was read.
pub struct Packet<F: Family> {
    /// What its headers say.
    pub parsed: Parsed<F>,
    /// The number of the port that it came in by.
    pub port: u8,
}

/// Room for one, each CPU's own.
type Room<F> = PerCpuArray<MaybeUninit<Packet<F>>>;

#[map]
static PACKET4: Room<V4> = PerCpuArray::with_max_entries(1, 0);

#[map]
static PACKET6: Room<V6> = PerCpuArray::with_max_entries(1, 0);

/// The families whose packets are kept so.
pub trait Kept: Family {
    /// Where.
    fn room() -> &'static Room<Self>;
}

impl Kept for V4 {
    #[inline(always)]
    fn room() -> &'static Room<Self> {
        &PACKET4
    }
}

impl Kept for V6 {
    #[inline(always)]
    fn room() -> &'static Room<Self> {
        &PACKET6
    }
}

/// Keeps a packet for the next step.
#[inline(always)]
pub fn keep<F: Kept>(packet: Packet<F>) {
    if let Some(room) = F::room().get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        unsafe { (*room).write(packet) };
    }
}

/// The packet that an earlier step of this run has kept.
#[inline(always)]
pub fn kept<F: Kept>() -> Option<&'static Packet<F>> {
    let room = F::room().get_ptr(0)?;
    // SAFETY: this CPU's own, written in this run, and not again before it ends.
    Some(unsafe { (*room).assume_init_ref() })
}
