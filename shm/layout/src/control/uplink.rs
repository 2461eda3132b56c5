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
    /// [`Filtering`] of its IPv4 path.
    pub filtering: u8,
    /// [`TcpMapping`] of its paths that translate ports.
    pub tcp_mapping: u8,
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

    /// Who may come in by a mapping.
    pub const fn filtering(&self) -> Filtering {
        Filtering::from_byte(self.filtering)
    }

    /// What TCP flows have in common outside.
    #[inline(always)]
    pub const fn tcp_mapping(&self) -> TcpMapping {
        TcpMapping::from_byte(self.tcp_mapping)
    }

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

/// Who may come in by a mapping of UDP, whatever flows there are (RFC 4787 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Filtering {
    /// Who was sent to, address and port: flows alone.
    #[default]
    AddressAndPort = 0,
    /// Any port of an address that was sent to.
    Address = 1,
    /// Anybody.
    Endpoint = 2,
}

impl Filtering {
    /// What a byte of shared memory says; anything unknown is the strictest.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Address,
            2 => Self::Endpoint,
            _ => Self::AddressAndPort,
        }
    }
}

/// Which TCP flows of an address and port inside have the same outside (RFC 5382 §4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpMapping {
    /// Each flow is for itself: a port outside serves several destinations, for several endpoints.
    #[default]
    Flow = 0,
    /// All of an endpoint, whatever their destination, and none of another.
    Endpoint = 1,
}

impl TcpMapping {
    /// What a byte of shared memory says; anything unknown is the default.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Endpoint,
            _ => Self::Flow,
        }
    }
}

const _: () = assert!(size_of::<Uplink>() == 640);
