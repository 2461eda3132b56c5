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
    /// [`SettingsBefore`], packed. Atomic.
    pub settings_before: u64,
    /// State word of each path, by [`PathId::index`](super::PathId::index); bits of
    /// [`path_state`](super::path_state). Atomic.
    pub path_state: [u32; PATHS],
    /// The two halves; half `epoch & 1` is current.
    pub half: [ControlHalf; 2],
    /// A bit for each port that a socket of the gateway has bound, lowest first: no flow is given
    /// it. Atomic words, each true for itself.
    pub bound_ports: [u64; PORT_WORDS],
}

/// The kernel's settings as they were before the control process changed them, to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsBefore {
    /// `net.ipv4.ip_local_port_range`, first and last; zero: it was not changed.
    pub local_ports: (u16, u16),
    /// `net.ipv4.ip_forward` was 0.
    pub forwarded_nothing: bool,
}

impl SettingsBefore {
    /// As one word: the ports in bits 0–15 and 16–31, then the flag.
    pub const fn pack(self) -> u64 {
        let (first, last) = self.local_ports;
        first as u64 | (last as u64) << 16 | (self.forwarded_nothing as u64) << 32
    }

    /// From that word.
    pub const fn unpack(word: u64) -> Self {
        Self {
            local_ports: (word as u16, (word >> 16) as u16),
            forwarded_nothing: word >> 32 & 1 == 1,
        }
    }
}

const _: () = {
    assert!(core::mem::offset_of!(ControlPage, path_state) == 64);
    assert!(core::mem::offset_of!(ControlPage, half) == 64 + 512);
};
