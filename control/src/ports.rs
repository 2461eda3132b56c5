//! Numbers of ports and devices.
//!
//! Flow entries name ports by number, and the dataplane's sockets and device map name devices so.
//! What was published under a number keeps it, whatever comes and goes beside it.

use std::net::Ipv4Addr;

use weir_wire::layout::MAX_QUEUES;
use weir_wire::layout::control::{
    ControlHalf, Device, MAX_VIRTUAL_MACS, Mac, Name, Port, PortRole,
};

use crate::watch::{Kernel, Link};

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

    /// Adds a port, and its device if it is the first of it; `None` when the interface is missing
    /// or no slot is left.
    pub fn add(&mut self, interface: &str, role: PortRole, uplink: u8) -> Option<u8> {
        let Some(link) = self.kernel.link(interface) else {
            self.reserve(interface, role, uplink);
            return None;
        };
        let (parent, vlan) = match link.vlan {
            Some((parent, id)) => (self.kernel.links.iter().find(|l| l.index == parent)?, id),
            None => (link, 0),
        };
        let name = Name::new(&parent.name);
        let identity = match role {
            PortRole::Uplink => Identity::Uplink(uplink),
            PortRole::Lan => Identity::Lan(name, vlan),
        };
        let (device, port) = (self.number(device_name, &name)?, self.number(port_of, &identity)?);
        if !self.half.insert_port_slot(parent.index, vlan, port as u8) {
            return None;
        }
        self.half.devices[device] = Device {
            ifindex: parent.index,
            queues: parent.queues.min(MAX_QUEUES as u32),
            mtu: parent.mtu,
            xdp_transmit: u8::from(parent.xdp_transmit),
            reserved: [0; 19],
            name,
        };
        let address = self.kernel.addresses_of(link.index).first().map_or([0; 4], Ipv4Addr::octets);
        self.half.ports[port] = Port {
            role: role as u8,
            device: device as u8,
            uplink,
            reserved: 0,
            vlan,
            mtu: link.mtu.min(u32::from(u16::MAX)) as u16,
            mac: Mac::new(link.mac),
            address,
            ifindex: link.index,
            virtual_macs: match role {
                PortRole::Lan => self.virtual_macs(link),
                PortRole::Uplink => [Mac::new(link.mac); MAX_VIRTUAL_MACS],
            },
        };
        Some(port as u8)
    }

    /// Those that there is room for, in their order.
    fn virtual_macs(&self, link: &Link) -> [Mac; MAX_VIRTUAL_MACS] {
        let mut macs = [Mac::new(link.mac); MAX_VIRTUAL_MACS];
        for (mac, found) in macs.iter_mut().zip(self.kernel.virtual_macs(link)) {
            *mac = Mac::new(found);
        }
        macs
    }

    /// Keeps the numbers of an interface that is missing, for when it is back. What flows still
    /// send by the port finds a device without sockets.
    fn reserve(&mut self, interface: &str, role: PortRole, uplink: u8) {
        let identity = match role {
            PortRole::Uplink => Identity::Uplink(uplink),
            PortRole::Lan => Identity::Lan(Name::new(interface), 0),
        };
        let Some(last) = self.last else { return };
        let Some(number) = (0..last.ports.len()).find(|n| port_of(last, *n) == Some(identity))
        else {
            return;
        };
        let port = Port { ifindex: 0, ..last.ports[number] };
        self.half.ports[number] = port;
        let device = usize::from(port.device);
        if device_name(self.half, device).is_none()
            && let Some(gone) = last.devices.get(device)
        {
            self.half.devices[device] = Device { ifindex: 0, queues: 0, ..*gone };
        }
    }

    /// The number it has, else the one it had, else one that nobody had, else a free one.
    fn number<T: PartialEq>(
        &self,
        of: fn(&ControlHalf, usize) -> Option<T>,
        wanted: &T,
    ) -> Option<usize> {
        let is = |half: &ControlHalf, number| of(half, number).as_ref() == Some(wanted);
        let free = |number: &usize| of(self.half, *number).is_none();
        let last = |number| self.last.and_then(|last| of(last, number));
        let numbers = || 0..self.half.ports.len().min(self.half.devices.len());
        numbers()
            .find(|number| is(self.half, *number))
            .or_else(|| {
                let last = self.last?;
                numbers().find(|number| is(last, *number) && free(number))
            })
            .or_else(|| numbers().find(|number| free(number) && last(*number).is_none()))
            .or_else(|| numbers().find(free))
    }
}

/// Who has this number; none: nobody.
fn port_of(half: &ControlHalf, number: usize) -> Option<Identity> {
    let port = half.ports.get(number)?;
    match port.role {
        role if role == PortRole::Uplink as u8 => Some(Identity::Uplink(port.uplink)),
        role if role == PortRole::Lan as u8 => {
            Some(Identity::Lan(half.devices.get(usize::from(port.device))?.name, port.vlan))
        }
        _ => None,
    }
}

/// The name of the device with this number; none: there is none.
fn device_name(half: &ControlHalf, number: usize) -> Option<Name> {
    half.devices.get(number).map(|device| device.name).filter(|name| !name.as_str().is_empty())
}

#[cfg(test)]
mod tests {
    use weir_shm::control::empty_half;
    use weir_wire::layout::NONE;

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
}
