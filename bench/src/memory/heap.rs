//! What is taken from the heap, by all threads of the process.

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

/// The system's allocator, with counters.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What a piece of work took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Allocations and reallocations.
    pub allocations: usize,
    /// Bytes taken less bytes given back.
    pub bytes: i64,
}

/// Does a piece of work, and says what it took from the heap.
pub fn during<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let region = Region::new(HEAP);
    let result = work();
    let change = region.change();
    let taken = Taken {
        allocations: change.allocations + change.reallocations,
        bytes: change.bytes_allocated as i64 - change.bytes_deallocated as i64,
    };
    (result, taken)
}
