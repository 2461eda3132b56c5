//! Rules: which policy steers a flow, and which flows there are to be none of.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Name, SetTest};

/// What becomes of packets that would begin a flow and match a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RuleAction {
    /// The rule's policy steers them.
    Policy = 0,
    /// They are dropped.
    Drop = 1,
    /// They are dropped, and their sender is told.
    Reject = 2,
    /// They come in, by a path that leaves hosts their ports. A rule from uplinks says so.
    Accept = 3,
}

impl RuleAction {
    /// Of a byte of shared memory; what nobody knows lets nothing pass.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Policy,
            2 => Self::Reject,
            3 => Self::Accept,
            _ => Self::Drop,
        }
    }

    /// Does it let no flow begin?
    pub const fn denies(self) -> bool {
        matches!(self, Self::Drop | Self::Reject)
    }
}

/// Whose packets a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RuleFrom {
    /// What hosts of LANs send.
    Lan = 0,
    /// What uplinks bring, with the destination that it has inside.
    Uplink = 1,
}

/// A rule: all given criteria must hold; the first rule that matches wins. 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rule {
    /// Name.
    pub name: Name,
    /// Bit *p* set: packets that came in by port *p* match.
    pub in_ports: u64,
    /// Source prefix.
    pub source: Prefix,
    /// Destination prefix.
    pub destination: Prefix,
    /// IP protocol number, 0 = any.
    pub protocol: u8,
    /// DSCP, 0xff = any.
    pub dscp: u8,
    /// Index into [`ControlHalf::policies`](super::ControlHalf::policies).
    pub policy: u8,
    /// [`RuleAction`].
    pub action: u8,
    /// Source ports, first and last, inclusive; 0–65535 = any, and then also protocols without ports.
    pub source_ports: [u16; 2],
    /// Destination ports, likewise.
    pub destination_ports: [u16; 2],
    /// [`RuleFrom`].
    pub from: u8,
    /// Zero.
    pub reserved1: [u8; 25],
    /// Of the source.
    pub source_set: SetTest,
    /// Of the destination.
    pub destination_set: SetTest,
}

impl Rule {
    /// Without a name or criteria: everything matches.
    pub const fn any(policy: u8) -> Self {
        Self {
            name: Name([0; 32]),
            in_ports: u64::MAX,
            source: Prefix::ANY,
            destination: Prefix::ANY,
            protocol: 0,
            dscp: 0xff,
            policy,
            action: RuleAction::Policy as u8,
            source_ports: [0, u16::MAX],
            destination_ports: [0, u16::MAX],
            from: RuleFrom::Lan as u8,
            reserved1: [0; 25],
            source_set: SetTest::ANY,
            destination_set: SetTest::ANY,
        }
    }

    /// Is it about packets from there?
    #[inline]
    pub const fn is_from(&self, from: RuleFrom) -> bool {
        self.from == from as u8
    }

    /// What becomes of what matches.
    #[inline]
    pub const fn action(&self) -> RuleAction {
        RuleAction::from_byte(self.action)
    }
}

/// An address prefix of either family; IPv4 uses the first four bytes of `address`. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Prefix {
    /// Address with the host bits zero, network order.
    pub address: [u8; 16],
    /// 4, 6, or 0 = matches everything of either family.
    pub family: u8,
    /// Prefix length, bits.
    pub length: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl Prefix {
    /// Matches every address.
    pub const ANY: Self = Self { address: [0; 16], family: 0, length: 0, reserved: [0; 6] };

    /// An IPv4 prefix; host bits of `address` must be zero.
    pub const fn v4(address: [u8; 4], length: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = address[0];
        bytes[1] = address[1];
        bytes[2] = address[2];
        bytes[3] = address[3];
        Self { address: bytes, family: 4, length, reserved: [0; 6] }
    }
}

const _: () = assert!(size_of::<Prefix>() == 24 && size_of::<Rule>() == 128);
