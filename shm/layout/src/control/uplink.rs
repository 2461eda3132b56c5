//! Uplinks.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Name, Path};
use crate::Family;

/// An uplink: what it has whatever the family, and a path in each. 640 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Uplink {
    /// Name; empty = slot unused.
    pub name: Name,
    /// Index into [`ControlHalf::ports`](super::ControlHalf::ports).
    pub port: u8,
    /// 1 while weight was set at run time, so differs from the configuration file.
    pub weight_overridden: u8,
    /// Configured weight, the default of policy members.
    pub weight: u16,
    /// Zero.
    pub reserved: [u8; 2],
    /// The greatest segment size that TCP's SYNs may name by its IPv4 path, bytes; 20 less by its
    /// IPv6 path, whose headers are as much longer. 0: any.
    pub clamp_mss: u16,
    /// When the uplink is to be empty, CLOCK_BOOTTIME seconds; 0 = it is not being emptied,
    /// [`Uplink::NO_DEADLINE`] = until told otherwise. For the next control process.
    pub drain_until: u64,
    /// By [`Family`].
    pub paths: [Path; Family::COUNT],
}

impl Uplink {
    /// Being emptied until the operator says otherwise.
    pub const NO_DEADLINE: u64 = u64::MAX;

    /// The greatest segment size that SYNs of a family may name, if there is one.
    #[inline(always)]
    pub const fn most_mss(&self, family: Family) -> Option<u16> {
        match (self.clamp_mss, family) {
            (0, _) => None,
            (most, Family::V4) => Some(most),
            (most, Family::V6) => Some(most.saturating_sub(20)),
        }
    }

    /// Its path in a family.
    #[inline(always)]
    pub const fn path(&self, family: Family) -> &Path {
        &self.paths[family.index()]
    }

    /// Its path in a family.
    #[inline(always)]
    pub const fn path_mut(&mut self, family: Family) -> &mut Path {
        &mut self.paths[family.index()]
    }
}

const _: () = assert!(size_of::<Uplink>() == 640);
