//! Interfaces and neighbours.

use std::fmt;

use weir_layout::{Family, MAX_QUEUES};

use crate::Peer;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address; zero if it has none of six bytes.
    pub mac: [u8; 6],
    /// MTU, bytes.
    pub mtu: u32,
    /// Up as far as the operator is concerned.
    pub up: bool,
    /// Up, and with carrier.
    pub running: bool,
    /// For a VLAN device: its parent's index and the VLAN id.
    pub vlan: Option<(u32, u16)>,
    /// For a macvlan device: its parent's index.
    pub macvlan: Option<u32>,
    /// The index of the device that sends by this one, such as a bond.
    pub master: Option<u32>,
    /// Its frames have no Ethernet header, or it has no hardware address: PPP, raw IP, a tunnel.
    pub headerless: bool,
    /// Receive queues in use.
    pub queues: u32,
    /// XDP can redirect frames to it.
    pub xdp_transmit: bool,
    /// What keeps XDP from that though the driver says it can.
    pub shortage: Option<Shortage>,
    /// It takes VLAN tags off the frames it receives, and XDP does not see them.
    pub strips_tags: bool,
    /// It is a bridge.
    pub bridge: bool,
    /// Of a tunnel, the other end, by each protocol that it may have.
    pub tunnels: Vec<Peer>,
    /// By [`Family`]: the kernel forwards what comes in by it.
    pub forwards: [bool; Family::COUNT],
}

/// A neighbour's hardware address and whether the kernel still vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Known good, or being checked; otherwise it should be asked for again.
    pub fresh: bool,
    /// Seen to answer of late, and believed for some time without a check.
    pub trusted: bool,
}

/// Why XDP does not transmit by a device though its driver says it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The device.
    pub interface: String,
    /// Its driver.
    pub driver: &'static str,
    /// Combined channels that it has.
    pub has: u32,
    /// Those that it needs: one more than the highest number of a CPU.
    pub needs: u32,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, driver, has, needs } = self;
        write!(
            f,
            "{interface}: {driver} transmits for XDP only from CPUs below the number of channels, \
             which is {has} and should be {needs}: what leaves by this device takes the user tier"
        )?;
        if *needs <= MAX_QUEUES as u32 {
            write!(f, "; if it can have as many, `ethtool -L {interface} combined {needs}`")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(needs: u32) -> String {
        Shortage { interface: "wan0".into(), driver: "i40e", has: 4, needs }.to_string()
    }

    #[test]
    fn a_shortage_tells_the_command_that_ends_it() {
        assert!(text(8).starts_with("wan0: i40e "), "{}", text(8));
        assert!(text(8).contains("is 4 and should be 8"), "{}", text(8));
        assert!(text(8).contains("`ethtool -L wan0 combined 8`"), "{}", text(8));
    }

    #[test]
    fn nobody_is_told_to_have_more_queues_than_weir_serves() {
        let most = MAX_QUEUES as u32;
        assert!(text(most).contains("ethtool"), "{}", text(most));
        assert!(!text(most + 1).contains("ethtool"), "{}", text(most + 1));
    }
}
