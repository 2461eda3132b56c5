//! Numbers of ports and devices.
//!
//! Adjacencies, and so flows, name ports by number, and the dataplane's sockets and device map name
//! devices so. What was published under a number keeps it, whatever comes and goes beside it.

use weir_layout::checksum64;
use weir_layout::control::{
    ControlHalf, Device, DeviceFault, MAX_VIRTUAL_MACS, Mac, Name, Port, PortRole,
};
use weir_view::{Kernel, Link};

/// Enters ports in a half that has none yet.
pub struct Ports<'h> {
    half: &'h mut ControlHalf,
    last: Option<&'h ControlHalf>,
    kernel: &'h Kernel,
}

/// Who a port is, whatever its number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    Uplink(u8),
    /// Device and VLAN.
    Lan(Name, u16),
}

impl<'h> Ports<'h> {
    /// With the numbers of `last`, which was published before.
    pub fn new(
        half: &'h mut ControlHalf,
        last: Option<&'h ControlHalf>,
        kernel: &'h Kernel,
    ) -> Self {
        Self { half, last, kernel }
    }

    /// Adds a port, and its device if it is the first of it; `None` when the interface is missing or
    /// cannot be used, or no slot is left.
    pub fn add(&mut self, interface: &str, role: PortRole, uplink: u8) -> Option<u8> {
        let (link, parent) = match self.kernel.usable(interface) {
            Ok(found) => found,
            Err(fault) => {
                self.reserve(interface, role, uplink, fault);
                return None;
            }
        };
        let vlan = link.vlan.map_or(0, |(_, id)| id);
        let name = Name::new(&parent.name);
        let identity = match role {
            PortRole::Uplink => Identity::Uplink(uplink),
            PortRole::Lan => Identity::Lan(name, vlan),
        };
        let missed = || self.number_missed(interface, role);
        let port = self.number_had(port_of, &identity).or_else(missed);
        let port = port.or_else(|| self.number(port_of, &identity))?;
        let device = self.number(device_name, &name)?;
        if !self.half.insert_port_slot(parent.index, vlan, port as u8) {
            return None;
        }
        self.half.devices[device] = Device {
            ifindex: parent.index,
            queues: parent.queues,
            mtu: parent.mtu,
            xdp_transmit: u8::from(parent.xdp_transmit),
            fault: DeviceFault::None as u8,
            reserved: [0; 18],
            name,
        };
        self.half.ports[port] = Port {
            role: role as u8,
            device: device as u8,
            uplink,
            ipv6: 0,
            vlan,
            mtu: link.mtu.min(u32::from(u16::MAX)) as u16,
            mac: Mac::new(link.mac),
            reserved1: [0; 4],
            ifindex: link.index,
            virtual_macs: match role {
                PortRole::Lan => self.virtual_macs(link),
                PortRole::Uplink => [Mac::new(link.mac); MAX_VIRTUAL_MACS],
            },
        };
        self.half.interfaces[port] = checksum64(interface.as_bytes());
        Some(port as u8)
    }

    /// Has each VLAN's port found by its own interface too, which the kernel's routes name. One that
    /// there is no room for is not.
    pub fn by_interface(&mut self) {
        for (number, port) in (0u8..).zip(self.half.ports) {
            if port.role().is_some() && port.vlan != 0 && port.ifindex != 0 {
                self.half.insert_port_slot(port.ifindex, 0, number);
            }
        }
    }

    /// Those that there is room for, in their order.
    fn virtual_macs(&self, link: &Link) -> [Mac; MAX_VIRTUAL_MACS] {
        let mut macs = [Mac::new(link.mac); MAX_VIRTUAL_MACS];
        for (mac, found) in macs.iter_mut().zip(self.kernel.virtual_macs(link)) {
            *mac = Mac::new(found);
        }
        macs
    }

    /// Enters an interface that is missing or cannot be used, by the numbers it had, for when it can.
    /// What flows still send by the port finds a device without sockets.
    fn reserve(&mut self, interface: &str, role: PortRole, uplink: u8, fault: DeviceFault) {
        let sum = checksum64(interface.as_bytes());
        let had = match role {
            PortRole::Uplink => self.number_had(port_of, &Identity::Uplink(uplink)),
            PortRole::Lan => self.number_had(lan_of, &sum),
        };
        let same = |number: &usize| self.last.is_some_and(|last| last.interfaces[*number] == sum);
        let before = had.filter(same).and_then(|number| Some(self.last?.ports[number]));
        let gone = before.and_then(|port| self.last?.devices.get(usize::from(port.device)));
        let name = gone.map_or(Name::new(interface), |device| device.name);
        let fresh = || (0..self.half.ports.len()).find(|n| self.is_free(port_of, *n));
        let nobodys = || (0..self.half.ports.len()).find(|n| self.is_unknown(port_of, *n));
        let port = had.or_else(nobodys).or_else(fresh);
        let (Some(port), Some(device)) = (port, self.number(device_name, &name)) else { return };
        let vlan = before.map_or(0, |port| port.vlan);
        let parent_is_there = vlan != 0 && self.kernel.link(name.as_str()).is_some();
        if device_name(self.half, device).is_none() {
            let fault = if parent_is_there { DeviceFault::MissingVlan } else { fault };
            let mut slot = gone.copied().unwrap_or(self.half.devices[device]);
            (slot.ifindex, slot.queues, slot.fault, slot.name) = (0, 0, fault as u8, name);
            self.half.devices[device] = slot;
        }
        let mut slot = before.unwrap_or(self.half.ports[port]);
        (slot.role, slot.device, slot.uplink) = (role as u8, device as u8, uplink);
        slot.ifindex = 0;
        (self.half.ports[port], self.half.interfaces[port]) = (slot, sum);
    }

    /// The number it has, else the one it had, else one that nobody had, else a free one.
    fn number<T: PartialEq>(
        &self,
        of: fn(&ControlHalf, usize) -> Option<T>,
        wanted: &T,
    ) -> Option<usize> {
        let numbers = || 0..self.half.ports.len().min(self.half.devices.len());
        numbers()
            .find(|number| of(self.half, *number).as_ref() == Some(wanted))
            .or_else(|| self.number_had(of, wanted))
            .or_else(|| numbers().find(|number| self.is_unknown(of, *number)))
            .or_else(|| numbers().find(|number| self.is_free(of, *number)))
    }

    /// The number it had, if nobody has it now.
    fn number_had<T: PartialEq>(
        &self,
        of: fn(&ControlHalf, usize) -> Option<T>,
        wanted: &T,
    ) -> Option<usize> {
        let last = self.last?;
        (0..last.ports.len())
            .find(|number| of(last, *number).as_ref() == Some(wanted) && self.is_free(of, *number))
    }

    /// The number that was kept for a LAN's interface while it was missing. Of one that was there it
    /// is no proof: a VLAN device may have another id now.
    fn number_missed(&self, interface: &str, role: PortRole) -> Option<usize> {
        let number = self.number_had(lan_of, &checksum64(interface.as_bytes()))?;
        (role == PortRole::Lan && self.last?.ports[number].ifindex == 0).then_some(number)
    }

    fn is_free<T>(&self, of: fn(&ControlHalf, usize) -> Option<T>, number: usize) -> bool {
        of(self.half, number).is_none()
    }

    /// Nobody has it, and nobody had.
    fn is_unknown<T>(&self, of: fn(&ControlHalf, usize) -> Option<T>, number: usize) -> bool {
        self.is_free(of, number) && self.last.is_none_or(|last| of(last, number).is_none())
    }
}

/// Who has this number; none: nobody.
fn port_of(half: &ControlHalf, number: usize) -> Option<Identity> {
    let port = half.ports.get(number)?;
    match port.role()? {
        PortRole::Uplink => Some(Identity::Uplink(port.uplink)),
        PortRole::Lan => {
            Some(Identity::Lan(half.devices.get(usize::from(port.device))?.name, port.vlan))
        }
    }
}

/// The interface of the LAN port with this number, as [`ControlHalf::interfaces`]; none: it is no LAN's.
fn lan_of(half: &ControlHalf, number: usize) -> Option<u64> {
    let port = half.ports.get(number)?;
    port.is_lan().then_some(half.interfaces[number])
}

/// The name of the device with this number; none: there is none.
fn device_name(half: &ControlHalf, number: usize) -> Option<Name> {
    half.devices.get(number).map(|device| device.name).filter(|name| name.0 != [0; 32])
}

#[cfg(test)]
mod tests {
    use weir_layout::NONE;
    use weir_shm::control::empty_half;

    use super::*;

    /// A kernel with these interfaces.
    fn kernel(names: &[&str]) -> Kernel {
        let link = |(index, name): (u32, &&str)| Link {
            index,
            name: (*name).to_owned(),
            queues: 1,
            mtu: 1500,
            ..Link::default()
        };
        Kernel { links: (1u32..).zip(names).map(link).collect(), ..Kernel::default() }
    }

    /// The numbers of LANs and uplinks, and the half.
    fn numbered(
        lans: &[&str],
        uplinks: &[&str],
        kernel: &Kernel,
        last: Option<&ControlHalf>,
    ) -> (Vec<Option<u8>>, Box<ControlHalf>) {
        let mut half = empty_half();
        let mut ports = Ports::new(&mut half, last, kernel);
        let mut numbers: Vec<_> =
            lans.iter().map(|lan| ports.add(lan, PortRole::Lan, NONE)).collect();
        let uplinks = (0u8..).zip(uplinks);
        numbers.extend(uplinks.map(|(index, name)| ports.add(name, PortRole::Uplink, index)));
        (numbers, half)
    }

    fn device(half: &ControlHalf, port: Option<u8>) -> &str {
        let port = half.ports[usize::from(port.unwrap())];
        half.devices[usize::from(port.device)].name.as_str()
    }

    #[test]
    fn an_interface_that_goes_and_returns_shifts_no_number() {
        let (all, names) = (["wan0", "wan1", "wan2"], ["lan0", "wan0", "wan1", "wan2"]);
        let (before, half) = numbered(&["lan0"], &all, &kernel(&names), None);
        let less = kernel(&["lan0", "wan1", "wan2"]);
        let (without, half) = numbered(&["lan0"], &all, &less, Some(&half));
        assert_eq!(without, [before[0], None, before[2], before[3]]);
        assert_eq!((device(&half, before[2]), device(&half, before[3])), ("wan1", "wan2"));
        let gone = half.devices.iter().find(|d| d.name.as_str() == "wan0").unwrap();
        assert_eq!(gone.ifindex, 0, "no socket is bound to it");
        let (after, half) = numbered(&["lan0"], &all, &kernel(&names), Some(&half));
        assert_eq!(after, before);
        assert_eq!(device(&half, after[1]), "wan0");
    }

    #[test]
    fn a_new_lan_takes_a_number_that_nobody_had() {
        let kernel = kernel(&["lan0", "wan0", "wan1", "lan1"]);
        let (before, half) = numbered(&["lan0"], &["wan0", "wan1"], &kernel, None);
        let (after, _) = numbered(&["lan1", "lan0"], &["wan0", "wan1"], &kernel, Some(&half));
        assert_eq!(after[1..], before[..]);
        assert!(!before.contains(&after[0]));
    }

    #[test]
    fn while_an_interface_is_missing_nobody_gets_its_number() {
        let all = kernel(&["lan0", "wan0"]);
        let (before, half) = numbered(&["lan0"], &["wan0"], &all, None);
        let other = kernel(&["lan0", "lan1"]);
        let (_, half) = numbered(&["lan0"], &["wan0"], &other, Some(&half));
        let (after, _) = numbered(&["lan0", "lan1"], &["wan0"], &other, Some(&half));
        assert_ne!(after[1], before[1]);
    }

    #[test]
    fn virtual_routers_on_a_lan_port_give_it_their_hardware_addresses() {
        let mut kernel = kernel(&["lan0", "wan0", "vrrp1", "vrrp2", "other", "away"]);
        for link in &mut kernel.links {
            (link.mac, link.up) = ([2, 0, 0, 0, 0, link.index as u8], true);
        }
        for (link, parent) in kernel.links[2..].iter_mut().zip([1, 1, 2, 1]) {
            link.macvlan = Some(parent);
        }
        kernel.links[5].up = false;
        let (numbers, half) = numbered(&["lan0"], &["wan0"], &kernel, None);
        let macs = |port: Option<u8>| {
            half.ports[usize::from(port.unwrap())].virtual_macs.map(|mac| mac.bytes()[5])
        };
        assert_eq!(macs(numbers[0]), [3, 4, 1, 1, 1]);
        assert_eq!(macs(numbers[1]), [2; 5], "a provider's hosts know no virtual router");
    }

    #[test]
    fn vlans_of_a_device_share_its_number() {
        let mut kernel = kernel(&["trunk", "lan0", "wan0"]);
        for (link, vlan) in kernel.links[1..].iter_mut().zip([10, 20]) {
            link.vlan = Some((1, vlan));
        }
        let (numbers, half) = numbered(&["lan0"], &["wan0"], &kernel, None);
        assert_eq!((device(&half, numbers[0]), device(&half, numbers[1])), ("trunk", "trunk"));
        assert_eq!(half.devices.iter().filter(|d| d.ifindex != 0).count(), 1);
    }

    /// A trunk with these VLANs, and an uplink. The names of the VLANs are not their numbers.
    fn trunk(vlans: &[(&str, u16)]) -> Kernel {
        let mut kernel = kernel(&["trunk", "wan0"]);
        for (index, (name, id)) in (10u32..).zip(vlans) {
            let (name, vlan) = ((*name).to_owned(), Some((1, *id)));
            kernel.links.push(Link { index, name, vlan, mtu: 1500, ..Link::default() });
        }
        kernel
    }

    #[test]
    fn vlans_made_again_in_another_order_keep_their_numbers() {
        let lans = ["office", "guests"];
        let add = |kernel: &Kernel, last| numbered(&lans, &["wan0"], kernel, last);
        let (before, half) = add(&trunk(&[("office", 10), ("guests", 20)]), None);
        let (none, half) = add(&trunk(&[]), Some(&half));
        assert_eq!(none, [None, None, before[2]]);
        let (one, half) = add(&trunk(&[("guests", 20)]), Some(&half));
        assert_eq!(one, [None, before[1], before[2]]);
        let (all, half) = add(&trunk(&[("guests", 20), ("office", 10)]), Some(&half));
        assert_eq!(all, before);
        assert_eq!(half.ports[usize::from(all[1].unwrap())].vlan, 20);
    }

    #[test]
    fn vlans_that_exchange_their_names_keep_their_numbers_by_their_ids() {
        let lans = ["office", "guests"];
        let add = |kernel: &Kernel, last| numbered(&lans, &[], kernel, last).0;
        let (before, half) = numbered(&lans, &[], &trunk(&[("office", 10), ("guests", 20)]), None);
        let after = add(&trunk(&[("office", 20), ("guests", 10)]), Some(&half));
        assert_eq!(after, [before[1], before[0]]);
    }

    #[test]
    fn a_lan_that_was_never_there_has_a_number_and_a_device_from_the_beginning() {
        let (before, half) =
            numbered(&["lan0", "lan1"], &["wan0"], &kernel(&["lan0", "wan0"]), None);
        assert_eq!(before[1], None);
        let gone = half.devices.iter().find(|d| d.name.as_str() == "lan1").unwrap();
        assert_eq!((gone.ifindex, gone.fault), (0, DeviceFault::Missing as u8));
        let all = kernel(&["lan0", "wan0", "lan1"]);
        let (after, half) = numbered(&["lan0", "lan1"], &["wan0"], &all, Some(&half));
        assert_eq!((after[0], after[2]), (before[0], before[2]));
        assert_eq!((after[1].is_some(), device(&half, after[1])), (true, "lan1"));
        assert_eq!(half.devices.iter().filter(|d| d.name.0[0] != 0).count(), 3);
    }

    #[test]
    fn a_vlan_that_was_never_there_takes_its_parents_device_when_it_comes() {
        let (_, half) = numbered(&["guests"], &["wan0"], &trunk(&[]), None);
        let (after, half) =
            numbered(&["guests"], &["wan0"], &trunk(&[("guests", 20)]), Some(&half));
        assert_eq!(device(&half, after[0]), "trunk");
        assert!(!half.devices.iter().any(|d| d.name.as_str() == "guests"));
    }

    #[test]
    fn a_vlan_that_is_missing_is_not_told_of_its_parent() {
        let (_, half) = numbered(&["guests"], &[], &trunk(&[("guests", 20)]), None);
        let (_, half) = numbered(&["guests"], &[], &trunk(&[]), Some(&half));
        let gone = half.devices.iter().find(|d| d.name.as_str() == "trunk").unwrap();
        assert_eq!((gone.ifindex, gone.fault), (0, DeviceFault::MissingVlan as u8));
    }
}
