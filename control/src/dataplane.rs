//! What the dataplane says of the devices.

use weir_shm::map::Access;
use weir_shm::status::Status;
use weir_shm::{Pins, Role};
use weir_wire::layout::control::uplink_state;
use weir_wire::layout::status::{DeviceState, StatusPage};

use crate::publish::Published;

/// The dataplane's status page, if there is one.
pub struct Dataplane {
    pins: Pins,
    status: Option<Status>,
}

impl Dataplane {
    /// That of these pins, which may be made later.
    pub fn of(pins: &Pins) -> Self {
        Self { pins: pins.clone(), status: None }
    }

    /// Does it run?
    pub fn runs(&self) -> bool {
        self.pins.is_claimed(Role::Dataplane).unwrap_or(false)
    }

    /// Marks the uplinks whose device the kernel refuses to the dataplane, while that runs.
    pub fn mark(&mut self, published: &mut Published) {
        if self.status.is_none() {
            self.status = Status::open(&self.pins, Access::Read).ok();
        }
        let Some(status) = &self.status else { return };
        let page = status.read();
        if is_refused(&page).next().is_some() && self.runs() {
            mark(published, &page);
        }
    }
}

/// Kernel indices of refused devices.
fn is_refused(page: &StatusPage) -> impl Iterator<Item = u32> {
    let refused = |state| DeviceState::from_byte(state) == DeviceState::Refused;
    page.devices.iter().filter(move |device| refused(device.state)).map(|device| device.ifindex)
}

fn mark(published: &mut Published, page: &StatusPage) {
    let half = &published.half;
    for (uplink, problems) in half.uplinks.iter().zip(&mut published.problems) {
        let port = half.ports.get(usize::from(uplink.port));
        let device = port.and_then(|port| half.devices.get(usize::from(port.device)));
        // By the kernel's index: what is said may be of another device that had the number.
        let refused = |device| is_refused(page).any(|ifindex| ifindex == device);
        if device.is_some_and(|device| device.ifindex != 0 && refused(device.ifindex)) {
            *problems |= uplink_state::NO_DEVICE;
        }
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;
    use crate::publish::{self, Overrides};
    use crate::site;
    use crate::watch::{Kernel, Link};

    #[test]
    fn an_uplink_whose_device_is_refused_is_down_for_it_and_no_other() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
             [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\n";
        let link = |index, name: &str| Link { index, name: name.into(), ..Link::default() };
        let links = vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")];
        let kernel = Kernel { links, ..Kernel::default() };
        let site = site::parse("weir.toml", text).unwrap();
        let mut page = StatusPage::new_box_zeroed().unwrap();
        let marked = |page: &StatusPage| {
            let mut published = publish::derive(&site, &kernel, &Overrides::default(), &[], None);
            mark(&mut published, page);
            published.problems.iter().map(|p| p & uplink_state::NO_DEVICE != 0).collect::<Vec<_>>()
        };
        assert_eq!(marked(&page), [false, false]);
        (page.devices[7].ifindex, page.devices[7].state) = (3, DeviceState::Refused as u8);
        assert_eq!(marked(&page), [false, true]);
    }
}
