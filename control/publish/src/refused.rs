//! Uplinks by devices that the kernel refuses to the dataplane.

use weir_layout::control::path_state;

use crate::derive::Derived;

impl Derived {
    /// Marks the uplinks by these devices, which are told by their kernel index: what is said may be
    /// of another device that had the number.
    pub fn refuse(&mut self, devices: &[u32]) {
        let half = &self.half;
        for (index, uplink) in half.uplinks.iter().enumerate() {
            let port = half.ports.get(usize::from(uplink.port));
            let device = port.and_then(|port| half.devices.get(usize::from(port.device)));
            if device.is_some_and(|d| d.ifindex != 0 && devices.contains(&d.ifindex)) {
                let words = self.problems.iter_mut().filter_map(|family| family.get_mut(index));
                let configured = words.filter(|word| **word & path_state::NOT_CONFIGURED == 0);
                configured.for_each(|word| *word |= path_state::NO_DEVICE);
            }
        }
    }
}
