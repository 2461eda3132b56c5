//! What the workers see of their users' new connections: which paths leave them unanswered.
//!
//! A worker judges a new flow once, [`JUDGED_AFTER_MS`] after its first packet, and adds it to the
//! interval in which it does. It writes an interval when it is
//! over, into slot `number % SLOTS`, `number` last (release); so a reader that finds the same number
//! before and after it has copied the slot (acquire) has one interval and not two halves.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Family, MAX_UPLINKS, RegionHeader};

/// A flow that has no answer after so long is unanswered: a second for SYN (RFC 6298 §2.1).
pub const JUDGED_AFTER_MS: u32 = 1000;
/// Length of an interval, milliseconds; interval *n* is the *n*th since CLOCK_MONOTONIC's start.
pub const INTERVAL_MS: u64 = 500;
/// Intervals that are kept.
pub const SLOTS: usize = 4;

/// New flows of one protocol to services (address, port) that answered, or have answered a flow by
/// any uplink lately: what never answers says nothing of the link. 144 bytes.
///
/// The sets are bit *h* of 256 for a host with hash *h*, so that they can be joined and counted
/// (linear counting).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct NewFlows {
    /// All of them.
    pub flows: u64,
    /// Those without an answer.
    pub unanswered: u64,
    /// Remote hosts of all of them.
    pub remotes: [u64; 4],
    /// Remote hosts that left a flow unanswered.
    pub silent: [u64; 4],
    /// Local hosts, by hardware address, of all of them.
    pub users: [u64; 4],
    /// Those whose flows were left unanswered.
    pub askers: [u64; 4],
}

/// What one worker saw of one path in one interval. 296 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Interval {
    /// The interval's number; 0: never written.
    pub number: u64,
    /// TCP connections.
    pub tcp: NewFlows,
    /// UDP flows.
    pub udp: NewFlows,
}

/// The last intervals of one worker, by path.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct WorkerObservations {
    /// Identification.
    pub header: RegionHeader,
    /// By [`PathId::index`](super::control::PathId::index), and in each by number.
    pub paths: [[Interval; SLOTS]; Family::COUNT * MAX_UPLINKS],
}

const _: () = {
    assert!(size_of::<NewFlows>() == 144);
    assert!(size_of::<Interval>() == 296);
    assert!(size_of::<WorkerObservations>() == 24 + 296 * SLOTS * Family::COUNT * MAX_UPLINKS);
};
