//! Ports, and which of them a frame came in by.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Mac;

/// Other hardware addresses of a port.
pub const MAX_VIRTUAL_MACS: usize = 5;

/// A device, or one VLAN of a device, with its role. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Port {
    /// [`PortRole`]; 0 = slot unused.
    pub role: u8,
    /// Index into [`ControlHalf::devices`](super::ControlHalf::devices).
    pub device: u8,
    /// Index into [`ControlHalf::uplinks`](super::ControlHalf::uplinks); [`NONE`](crate::NONE) for a
    /// LAN port.
    pub uplink: u8,
    /// 1: a LAN with a prefix of IPv6, or an uplink with a path of it.
    pub ipv6: u8,
    /// 802.1Q VLAN id, 0 = untagged.
    pub vlan: u16,
    /// Maximum transmission unit, bytes.
    pub mtu: u16,
    /// Hardware address.
    pub mac: Mac,
    /// Zero.
    pub reserved1: [u8; 4],
    /// Kernel interface index of the layer-3 interface (the VLAN device when there is one).
    pub ifindex: u32,
    /// Other hardware addresses whose frames are the gateway's, as those of virtual routers
    /// (RFC 9568 §7.3) on macvlan devices; where there are fewer, `mac` again.
    pub virtual_macs: [Mac; MAX_VIRTUAL_MACS],
}

impl Port {
    /// What it leads to; none: nobody has the slot.
    #[inline]
    pub const fn role(&self) -> Option<PortRole> {
        const LAN: u8 = PortRole::Lan as u8;
        const UPLINK: u8 = PortRole::Uplink as u8;
        match self.role {
            LAN => Some(PortRole::Lan),
            UPLINK => Some(PortRole::Uplink),
            _ => None,
        }
    }

    /// Does it lead to own hosts?
    #[inline]
    pub const fn is_lan(&self) -> bool {
        matches!(self.role(), Some(PortRole::Lan))
    }

    /// Does it lead to a provider?
    #[inline]
    pub const fn is_uplink(&self) -> bool {
        matches!(self.role(), Some(PortRole::Uplink))
    }
}

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortRole {
    /// Own hosts.
    Lan = 1,
    /// A provider.
    Uplink = 2,
}

/// Slots of the (interface, VLAN) to port table, a power of two.
pub const PORT_SLOTS: usize = 256;

/// Slots probed per look-up in the port table.
pub const PORT_PROBES: usize = 8;

/// One slot of the open-addressed (interface, VLAN) to port table. 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PortSlot {
    /// Kernel interface index of the device; 0 = empty.
    pub ifindex: u32,
    /// 802.1Q VLAN id, 0 = untagged.
    pub vlan: u16,
    /// Index into [`ControlHalf::ports`](super::ControlHalf::ports).
    pub port: u8,
    /// Zero.
    pub reserved: u8,
}

/// First slot of the look-up for `(ifindex, vlan)`.
#[inline]
pub const fn port_slot(ifindex: u32, vlan: u16) -> usize {
    (ifindex.wrapping_add((vlan as u32).wrapping_mul(0x9e37)) as usize) & (PORT_SLOTS - 1)
}

const _: () = assert!(size_of::<Port>() == 64 && size_of::<PortSlot>() == 8);
