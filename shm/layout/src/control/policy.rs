//! Policies, and what becomes of their flows.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Name;
use crate::{Family, MAX_UPLINKS};

/// A policy. 336 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Policy {
    /// Name; empty = slot unused.
    pub name: Name,
    /// [`Selection`].
    pub selection: u8,
    /// Valid entries of `members`.
    pub member_count: u8,
    /// [`OnUplinkDown`].
    pub on_uplink_down: u8,
    /// Zero.
    pub reserved: u8,
    /// Most flows that a worker moves home each second.
    pub home_per_second: u32,
    /// A flow is idle when it had no packet for so long, seconds.
    pub idle_s: u16,
    /// Zero.
    pub reserved1: [u8; 6],
    /// Where new flows go now, by [`Family`].
    pub steering: [Steering; Family::COUNT],
    /// Members.
    pub members: [Member; MAX_UPLINKS],
}

impl Policy {
    /// What selects a bucket.
    #[inline]
    pub const fn selection(&self) -> Selection {
        Selection::from_byte(self.selection)
    }

    /// The valid entries of `members`.
    #[inline]
    pub fn members(&self) -> &[Member] {
        &self.members[..usize::from(self.member_count).min(self.members.len())]
    }

    /// Where new flows of a family go now.
    #[inline]
    pub const fn steering(&self, family: Family) -> &Steering {
        &self.steering[family.index()]
    }

    /// Where new flows of a family go now.
    #[inline]
    pub const fn steering_mut(&mut self, family: Family) -> &mut Steering {
        &mut self.steering[family.index()]
    }
}

/// Where a policy's new flows of one family go now. 16 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Steering {
    /// The tier the bucket table was made for, 0 = no usable path.
    pub active_tier: u8,
    /// [`ComeHome`].
    pub come_home: u8,
    /// Uplink of a flow that promises to be heavy, [`NONE`](crate::NONE) = by its bucket.
    pub heavy: u8,
    /// 1: there is a bucket table; 0: no uplink has a path in the family.
    pub has_table: u8,
    /// Zero.
    pub reserved: [u8; 4],
    /// [`checksum64`](crate::checksum64) of the bucket table.
    pub buckets_checksum: u64,
}

/// One member of a policy. 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Member {
    /// Index into [`ControlHalf::uplinks`](super::ControlHalf::uplinks).
    pub uplink: u8,
    /// Tier, 1 = best; only the best tier with a usable uplink takes new flows.
    pub tier: u8,
    /// Weight; the top bit ([`Member::OVERRIDDEN`]) marks one set at run time for this policy.
    pub weight: u16,
}

impl Member {
    /// Greatest weight.
    pub const MAX_WEIGHT: u16 = 0x7fff;
    /// Marks a weight set at run time.
    pub const OVERRIDDEN: u16 = 0x8000;
}

/// Which header fields select a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Selection {
    /// Source and destination address.
    SourceDestination = 0,
    /// The 5-tuple.
    Flow = 1,
    /// Source address.
    Source = 2,
    /// The hardware address behind a LAN port: both address families of a host select one bucket.
    Host = 3,
    /// Source and destination address and the flow label (RFC 6437), as far as a packet has one;
    /// else the 5-tuple.
    FlowLabel = 4,
}

impl Selection {
    /// What a byte of shared memory says; anything unknown is [`Self::SourceDestination`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Flow,
            2 => Self::Source,
            3 => Self::Host,
            4 => Self::FlowLabel,
            _ => Self::SourceDestination,
        }
    }
}

/// What becomes of TCP connections that cannot go on elsewhere when their uplink goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUplinkDown {
    /// Both ends get a reset, at once.
    Reset = 0,
    /// They stay on the uplink, whose return they may live to see.
    Keep = 1,
    /// Their packets are dropped.
    Drop = 2,
}

impl OnUplinkDown {
    /// What a byte of shared memory says; anything unknown is [`Self::Reset`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Keep,
            2 => Self::Drop,
            _ => Self::Reset,
        }
    }
}

/// Which flows on uplinks of a worse tier than the active one are moved back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ComeHome {
    /// None.
    Stay = 0,
    /// Those that survive a move, once idle.
    Idle = 1,
    /// All; translated TCP connections by a reset.
    All = 2,
}

impl ComeHome {
    /// What a byte of shared memory says; anything unknown is [`Self::Stay`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Idle,
            2 => Self::All,
            _ => Self::Stay,
        }
    }
}

const _: () = assert!(size_of::<Steering>() == 16 && size_of::<Policy>() == 336);
