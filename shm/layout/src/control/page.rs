//! The page: what stands beside the halves.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ControlHalf;
use crate::{Family, MAX_UPLINKS, RegionHeader};

/// Words of a set of ports, a bit for each of 65 536.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Number of slots for paths.
pub const PATHS: usize = Family::COUNT * MAX_UPLINKS;

/// The whole control page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControlPage {
    /// Identification.
    pub header: RegionHeader,
    /// Number of publications so far; 0 = nothing published. Atomic.
    pub epoch: u64,
    /// The greatest epoch whose half and bucket tables the control process has begun to write. Atomic.
    pub begun: u64,
    /// Process id of the control process, 0 = none ever. Atomic.
    pub pid: u64,
    /// When the control process last said it was alive, CLOCK_MONOTONIC milliseconds. Atomic.
    pub heartbeat_ms: u64,
    /// Zero: the words that follow begin a cache line.
    pub _pad: u64,
    /// State word of each path, by [`PathId::index`](super::PathId::index); bits of
    /// [`path_state`](super::path_state). Atomic.
    pub path_state: [u32; PATHS],
    /// The two halves; half `epoch & 1` is current.
    pub half: [ControlHalf; 2],
    /// A bit for each port that a socket of the gateway has bound, lowest first: no flow is given
    /// it. Atomic words, each true for itself.
    pub bound_ports: [u64; PORT_WORDS],
}

const _: () = {
    assert!(core::mem::offset_of!(ControlPage, path_state) == 64);
    assert!(core::mem::offset_of!(ControlPage, half) == 64 + 512);
};
