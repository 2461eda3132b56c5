//! Drivers that transmit for XDP only from as many CPUs as the device has channels.
//!
//! What XDP redirects is sent on the CPU that it came in on. Most drivers let CPUs share their
//! queues; those below have a queue for a CPU of that number or none, and lose its frames without a
//! word.

use std::fmt;
use std::fs;
use std::path::Path;

use weir_wire::layout::MAX_QUEUES;

/// As `/sys/class/net` names them. Of Linux 6.12 to 6.18, without those for other machines than
/// x86-64, where XDP redirects to no device.
const ONE_FOR_EACH_CPU: [&str; 3] = [
    // drivers/net/ethernet/intel/i40e/i40e_txrx.c, i40e_xdp_xmit: ENXIO for a CPU from
    // `vsi->num_queue_pairs` on.
    "i40e",
    // drivers/net/ethernet/mellanox/mlx5/core/en/xdp.c, mlx5e_xdp_xmit: ENXIO for a CPU from
    // `priv->channels.num` on.
    "mlx5_core",
    // The same, for a subfunction.
    "mlx5_core.sf",
];

/// Why XDP does not transmit by a device though its driver says it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    interface: String,
    driver: &'static str,
    has: u32,
    needs: u32,
}

#[cfg(test)]
impl Shortage {
    pub(crate) fn example() -> Self {
        Self { interface: "wan0".into(), driver: "i40e", has: 4, needs: 8 }
    }
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

/// Has the interface fewer combined channels than its driver needs on this machine?
pub fn shortage(interface: &str, channels: u32) -> Option<Shortage> {
    let cpus = cpus()?;
    let driver = short(&driver(interface)?, channels, cpus)?;
    Some(Shortage { interface: interface.to_owned(), driver, has: channels, needs: cpus })
}

/// The driver, if so many combined channels are too few for it and so many CPUs.
fn short(driver: &str, channels: u32, cpus: u32) -> Option<&'static str> {
    ONE_FOR_EACH_CPU.into_iter().find(|name| *name == driver && channels < cpus)
}

/// None: the interface is no hardware's.
fn driver(interface: &str) -> Option<String> {
    let link = fs::read_link(Path::new("/sys/class/net").join(interface).join("device/driver"));
    Some(link.ok()?.file_name()?.to_str()?.to_owned())
}

/// One more than the highest number of a CPU that runs: drivers compare the number. Those that
/// might be plugged in one day receive nothing, and these drivers make no channels for them.
fn cpus() -> Option<u32> {
    last_cpu(&fs::read_to_string("/sys/devices/system/cpu/online").ok()?).map(|last| last + 1)
}

/// Of a list like `0-3,8`.
fn last_cpu(list: &str) -> Option<u32> {
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_lets_cpus_share_queues_needs_no_channel_for_each() {
        for driver in ["ice", "ixgbe", "virtio_net", "mlx4_core", ""] {
            assert_eq!(short(driver, 4, 64), None, "{driver}");
        }
    }

    #[test]
    fn a_driver_with_a_queue_for_each_cpu_needs_as_many_channels() {
        for driver in ["i40e", "mlx5_core", "mlx5_core.sf"] {
            assert_eq!(short(driver, 4, 4), None, "{driver}");
            assert_eq!(short(driver, 8, 4), None, "{driver}");
            assert_eq!(short(driver, 4, 5), Some(driver));
        }
    }

    fn text(needs: u32) -> String {
        Shortage { needs, ..Shortage::example() }.to_string()
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

    #[test]
    fn the_last_cpu_ends_the_list() {
        for (list, last) in [("0\n", 0), ("0-3\n", 3), ("0-3,8\n", 8), ("0-3,8-11\n", 11)] {
            assert_eq!(last_cpu(list), Some(last), "{list}");
        }
        assert_eq!(last_cpu("\n"), None);
    }

    #[test]
    fn this_machine_has_cpus_and_its_loopback_no_driver() {
        assert!(cpus().is_some_and(|cpus| cpus > 0));
        assert_eq!(driver("lo"), None);
    }
}
