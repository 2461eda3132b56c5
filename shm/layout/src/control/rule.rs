//! Rules: which policy steers a flow.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Name;

/// A steering rule: all given criteria must hold; the first rule that matches wins. 128 bytes.
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
    /// Zero.
    pub reserved0: u8,
    /// Source ports, first and last, inclusive; 0–65535 = any, and then also protocols without ports.
    pub source_ports: [u16; 2],
    /// Destination ports, likewise.
    pub destination_ports: [u16; 2],
    /// Zero.
    pub reserved1: [u8; 28],
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
            reserved0: 0,
            source_ports: [0, u16::MAX],
            destination_ports: [0, u16::MAX],
            reserved1: [0; 28],
        }
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
