//! Devices: network interfaces with XDP attached.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Name;

/// A network interface with XDP attached. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Device {
    /// Kernel interface index; 0 = slot unused, or not to be used for now, see `fault`.
    pub ifindex: u32,
    /// Receive queues.
    pub queues: u32,
    /// Maximum transmission unit: largest IP packet, bytes.
    pub mtu: u32,
    /// 1: the XDP program may send frames by this device.
    pub xdp_transmit: u8,
    /// [`DeviceFault`].
    pub fault: u8,
    /// Zero.
    pub reserved: [u8; 18],
    /// Interface name.
    pub name: Name,
}

/// Why no socket is to be bound to a device that the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceFault {
    /// It can be used.
    None = 0,
    /// There is no interface of that name.
    Missing = 1,
    /// Its frames have no Ethernet header.
    NoEthernet = 2,
    /// It is a VLAN within a VLAN.
    StackedVlan = 3,
    /// It is there, but not its VLANs that the configuration names.
    MissingVlan = 4,
}

impl DeviceFault {
    /// What a byte of shared memory says; anything unknown is [`Self::Missing`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            2 => Self::NoEthernet,
            3 => Self::StackedVlan,
            4 => Self::MissingVlan,
            _ => Self::Missing,
        }
    }
}

const _: () = assert!(size_of::<Device>() == 64);
