//! Uplinks by devices that the kernel refuses to the dataplane.

use weir_layout::control::path_state;

use crate::derive::Published;

impl Published {
    /// Marks the uplinks by these devices, which are told by their kernel index: what is said may be
    /// of another device that had the number.
    pub fn refuse(&mut self, devices: &[u32]) {
        let half = &self.half;
        for (uplink, problems) in half.uplinks.iter().zip(&mut self.problems) {
            let port = half.ports.get(usize::from(uplink.port));
            let device = port.and_then(|port| half.devices.get(usize::from(port.device)));
            if device.is_some_and(|d| d.ifindex != 0 && devices.contains(&d.ifindex)) {
                *problems |= path_state::NO_DEVICE;
            }
        }
    }
}
