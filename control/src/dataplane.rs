//! What the dataplane says of the devices.

use weir_layout::status::{DeviceState, StatusPage};
use weir_service::Complaint;
use weir_shm::map::Access;
use weir_shm::status::{SILENT_MS, Status, silence_ms};
use weir_shm::{Pins, Role};

/// The dataplane's status page, if there is one.
pub struct Dataplane {
    pins: Pins,
    status: Option<Status>,
    silent: Complaint,
}

impl Dataplane {
    /// That of these pins, which may be made later.
    pub fn of(pins: &Pins) -> Self {
        Self { pins: pins.clone(), status: None, silent: Complaint::default() }
    }

    /// Does it run?
    pub fn runs(&self) -> bool {
        self.pins.is_claimed(Role::Dataplane).unwrap_or(false)
    }

    /// Kernel indices of the devices that the kernel refuses to it now, while it runs.
    pub fn refused(&mut self) -> Vec<u32> {
        if self.status.is_none() {
            self.status = Status::open(&self.pins, Access::Read).ok();
        }
        let refused = self.status.as_ref().map_or(Vec::new(), |status| refused(&status.read()));
        if refused.is_empty() || self.runs() { refused } else { Vec::new() }
    }

    /// Says in the log when it is stopped or hangs.
    pub fn tell_silence(&mut self, now_ms: u64) {
        let Some(page) = self.status.as_ref().map(Status::read) else { return };
        let silent = silence_ms(&page, now_ms) >= SILENT_MS && self.runs();
        self.silent.say(silent.then(|| {
            format!(
                "weir-dataplane, process {}, is stopped or hangs: new flows are lost; if it is not \
                 to be, restart it",
                page.pid
            )
        }));
    }
}

/// Kernel indices of refused devices.
fn refused(page: &StatusPage) -> Vec<u32> {
    let is_refused = |state| DeviceState::from_byte(state) == DeviceState::Refused;
    let devices = page.devices.iter().filter(|device| is_refused(device.state));
    devices.map(|device| device.ifindex).collect()
}

#[cfg(test)]
mod tests {
    use weir_layout::control::path_state;
    use weir_publish::Overrides;
    use weir_view::{Kernel, Link};
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn an_uplink_whose_device_is_refused_is_down_for_it_and_no_other() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
             [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\n";
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let links = vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")];
        let kernel = Kernel { links, ..Kernel::default() };
        let site = weir_site::parse("weir.toml", text).unwrap();
        let mut page = StatusPage::new_box_zeroed().unwrap();
        let marked = |page: &StatusPage| {
            let mut published =
                weir_publish::derive(&site, &kernel, &Overrides::default(), [&[]; 2], None);
            published.refuse(&refused(page));
            published.problems[0].iter().map(|p| p & path_state::NO_DEVICE != 0).collect::<Vec<_>>()
        };
        assert_eq!(marked(&page), [false, false]);
        (page.devices[7].ifindex, page.devices[7].state) = (3, DeviceState::Refused as u8);
        assert_eq!(marked(&page), [false, true]);
    }
}
