//! The devices and services that there are, and their names.

use std::fmt::Write;

/// The devices, each within the one before, by their type without its version.
pub const DEVICES: [&str; 3] = ["InternetGatewayDevice", "WANDevice", "WANConnectionDevice"];
/// Their version.
pub const DEVICE_VERSION: u8 = 2;

/// The gateway, as hosts of one LAN know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Unique names of the devices, `uuid:…`: the same after a restart, another in each LAN.
    pub names: [String; 3],
    /// Since when it is as it is: seconds since the Unix epoch, or more (UDA §1.2.2: BOOTID).
    pub boot: u32,
}

impl Device {
    /// Of a LAN; `secret` is a number that nobody outside has, another for each LAN and device.
    pub fn new(boot: u32, secret: impl Fn(&'static str) -> [u8; 16]) -> Self {
        Self { names: DEVICES.map(|device| name(secret(device))), boot }
    }

    /// Is another from now on.
    pub fn begin_anew(&mut self, now: u32) {
        self.boot = now.max(self.boot + 1);
    }
}

/// A unique name of 122 bits (RFC 9562 §5.8).
fn name(mut octets: [u8; 16]) -> String {
    octets[6] = octets[6] & 0x0f | 0x80;
    octets[8] = octets[8] & 0x3f | 0x80;
    let mut name = String::from("uuid:");
    for (index, octet) in octets.iter().enumerate() {
        let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
        // Into a string: it has room.
        let _ = write!(name, "{dash}{octet:02x}");
    }
    name
}

/// The URN of a device.
pub fn device_type(device: &str, version: u8) -> String {
    format!("urn:schemas-upnp-org:device:{device}:{version}")
}

/// A service of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// What is common to all connections, of the WANDevice.
    Interface,
    /// Port mappings of IPv4, of the WANConnectionDevice.
    Connection,
    /// Pinholes of IPv6, of the WANConnectionDevice.
    Firewall,
}

impl Service {
    /// All.
    pub const ALL: [Self; 3] = [Self::Interface, Self::Connection, Self::Firewall];

    /// Its type, without the version.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "WANCommonInterfaceConfig",
            Self::Connection => "WANIPConnection",
            Self::Firewall => "WANIPv6FirewallControl",
        }
    }

    /// Its version.
    pub const fn version(self) -> u8 {
        match self {
            Self::Connection => 2,
            Self::Interface | Self::Firewall => 1,
        }
    }

    /// The device that has it, by its place in [`DEVICES`].
    pub const fn device(self) -> usize {
        match self {
            Self::Interface => 1,
            Self::Connection | Self::Firewall => 2,
        }
    }

    /// Its identity within the device.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Interface => "urn:upnp-org:serviceId:WANCommonIFC1",
            Self::Connection => "urn:upnp-org:serviceId:WANIPConn1",
            Self::Firewall => "urn:upnp-org:serviceId:WANIPv6Firewall1",
        }
    }

    /// Where its actions are asked for.
    pub const fn control(self) -> &'static str {
        match self {
            Self::Interface => "/control/interface",
            Self::Connection => "/control/connection",
            Self::Firewall => "/control/firewall",
        }
    }

    /// Where its description is, for devices of a version.
    pub const fn description(self, version: u8) -> &'static str {
        match (self, version) {
            (Self::Interface, _) => "/interface.xml",
            (Self::Connection, 1) => "/connection1.xml",
            (Self::Connection, _) => "/connection.xml",
            (Self::Firewall, _) => "/firewall.xml",
        }
    }

    /// Do devices of a version have it? InternetGatewayDevice:1 knows nothing of IPv6.
    pub fn is_of(self, version: u8) -> bool {
        version >= 2 || self != Self::Firewall
    }

    /// Its URN, of a version.
    pub fn urn(self, version: u8) -> String {
        format!("urn:schemas-upnp-org:service:{}:{version}", self.name())
    }

    /// Is this its URN, of a version that it can stand for?
    pub fn is_named(self, urn: &str) -> bool {
        (1..=self.version()).any(|version| urn == self.urn(version))
    }
}
