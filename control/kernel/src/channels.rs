//! Drivers that transmit for XDP only from as many CPUs as the device has channels.
//!
//! What XDP redirects is sent on the CPU that it came in on. Most drivers let CPUs share their
//! queues; those below have a queue for a CPU of that number or none, and lose its frames without a
//! word.

use std::fs;
use std::path::Path;

use weir_view::Shortage;

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
