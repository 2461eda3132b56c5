//! What a site asks of the machine it runs on.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use weir_layout::control::{DeviceFault, Translate};
use weir_layout::{Family, MAX_QUEUES};
use weir_view::{Kernel, Link, local_ports};

use super::place::Problem;
use super::{Lan, Site, UplinkConfig};
use crate::group;

impl UplinkConfig {
    /// Where its path leads by the interface of this index: what the file says, else the kernel's
    /// default route.
    pub fn next_hop_by(&self, family: Family, interface: u32, kernel: &Kernel) -> Option<IpAddr> {
        let given = match family {
            Family::V4 => self.next_hop.map(IpAddr::V4),
            Family::V6 => None,
        };
        given.or_else(|| kernel.default_next_hop(family, interface))
    }
}

impl Lan {
    /// The prefixes behind it: what the file says, else the networks of its interface.
    pub fn networks(&self, kernel: &Kernel) -> Vec<Ipv4Net> {
        let own = || kernel.link(&self.interface).map(|link| kernel.networks(link.index));
        match self.prefixes.is_empty() {
            true => own().unwrap_or_default(),
            false => self.prefixes.clone(),
        }
    }
}

impl Site {
    /// Names of the interfaces: the LANs', then the uplinks'.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        let lans = self.lans.iter().map(|lan| lan.interface.as_str());
        lans.chain(self.uplinks.iter().map(|uplink| uplink.interface.as_str()))
    }

    /// Indices of the uplinks' interfaces that are there.
    pub fn uplink_interfaces(&self, kernel: &Kernel) -> Vec<u32> {
        let links = self.uplinks.iter().filter_map(|uplink| kernel.link(&uplink.interface));
        links.map(|link| link.index).collect()
    }
}

/// What is wrong with a site on this machine: interfaces that are not there or not Ethernet,
/// networks that overlap, NAT ports that the kernel gives to its own sockets, a group that there is
/// not. What takes out one LAN or one uplink is [passing](Problem::passing).
pub fn against_kernel(site: &Site, kernel: &Kernel, file: &str) -> Vec<Problem> {
    let mut machine = Machine { kernel, file, problems: Vec::new() };
    for lan in &site.lans {
        machine.interface(&lan.interface, lan.line);
    }
    for uplink in &site.uplinks {
        machine.interface(&uplink.interface, uplink.line);
    }
    let lan_nets = machine.lans(&site.lans);
    for uplink in &site.uplinks {
        if let Some(link) = kernel.link(&uplink.interface) {
            machine.uplink(uplink, link, &lan_nets);
        }
    }
    if site.uplinks.iter().any(|u| u.translate == Translate::Nat44) {
        machine.ports(site);
    }
    if let Some(group) = site.group.as_deref().filter(|name| group::group(name).is_none()) {
        let message = format!("there is no group {group} in /etc/group");
        machine.refuse(0, message, format!("make it with `groupadd --system {group}`"));
    }
    machine.problems
}

/// Has the uplink's interface a network, or its pool an address, of these prefixes of LANs? Then it
/// is not to be told from the LAN.
pub fn clashes(uplink: &UplinkConfig, link: &Link, kernel: &Kernel, lan_nets: &[Ipv4Net]) -> bool {
    let nets: Vec<Ipv4Net> = kernel.networks(link.index);
    nets.iter().any(|net| lan_nets.iter().any(|lan_net| overlap(lan_net, net)))
        || uplink.addresses.iter().any(|pool| lan_nets.iter().any(|net| net.contains(pool)))
}

/// Has one prefix an address of the other?
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

struct Machine<'k> {
    kernel: &'k Kernel,
    file: &'k str,
    problems: Vec<Problem>,
}

impl Machine<'_> {
    fn refuse(&mut self, line: usize, message: String, remedy: impl Into<String>) {
        let problem = Problem::whole(self.file, message, remedy);
        self.problems.push(Problem { line, column: 1, ..problem });
    }

    /// As [`Self::refuse`], for what takes one LAN or one uplink out of use and no more.
    fn tolerate(&mut self, line: usize, message: String, remedy: impl Into<String>) {
        let problem = Problem::whole(self.file, message, remedy);
        self.problems.push(Problem { line, column: 1, passing: true, ..problem });
    }

    fn interface(&mut self, name: &str, line: usize) {
        let fault = match self.kernel.usable(name) {
            Ok((link, device)) => {
                if link.vlan.is_some() && device.strips_tags {
                    self.stripped(name, &device.name, line);
                }
                return self.queues(device, line);
            }
            Err(fault) => fault,
        };
        let (message, remedy) = match fault {
            DeviceFault::NoEthernet => (
                format!(
                    "interface {name} has no Ethernet header (PPP, raw IP, tunnels): not supported"
                ),
                "use an Ethernet interface, or a VLAN of one; let a router or modem speak PPP"
                    .into(),
            ),
            DeviceFault::StackedVlan => (
                format!("interface {name} is a VLAN within a VLAN"),
                "use an interface with one 802.1Q tag at most".into(),
            ),
            DeviceFault::None | DeviceFault::Missing | DeviceFault::MissingVlan => {
                let mut known: Vec<_> = self.kernel.links.iter().map(|l| l.name.as_str()).collect();
                known.sort_unstable();
                (
                    format!("there is no interface {name}"),
                    format!("there are: {}", known.join(", ")),
                )
            }
        };
        self.tolerate(line, message, remedy);
    }

    fn stripped(&mut self, name: &str, parent: &str, line: usize) {
        let message = format!(
            "interface {name} is a VLAN of {parent}, which takes the tags off what it receives \
             before XDP sees it: no packet would be known as {name}'s"
        );
        self.tolerate(line, message, format!("run `ethtool -K {parent} rxvlan off`"));
    }

    fn queues(&mut self, device: &Link, line: usize) {
        let Link { name, queues, .. } = device;
        if *queues > MAX_QUEUES as u32 {
            let message = format!("{name} has {queues} queues, at most {MAX_QUEUES} can be served");
            self.tolerate(line, message, format!("`ethtool -L {name} combined {MAX_QUEUES}`"));
        }
    }

    /// The prefixes of all LANs, given or connected.
    fn lans<'l>(&mut self, lans: &'l [Lan]) -> Vec<(Ipv4Net, &'l Lan)> {
        let mut nets: Vec<(Ipv4Net, &Lan)> = Vec::new();
        for lan in lans {
            for net in lan.networks(self.kernel) {
                let other = nets
                    .iter()
                    .find(|(other, of)| of.interface != lan.interface && overlap(other, &net));
                // Overlaps of prefixes that the file gives are told with the file.
                if let Some((other, of)) =
                    other.filter(|(_, of)| of.prefixes.is_empty() || lan.prefixes.is_empty())
                {
                    let message = format!(
                        "network {net} of LAN {} overlaps {other} of LAN {}",
                        lan.interface, of.interface
                    );
                    self.tolerate(lan.line, message, "each address belongs to one LAN port");
                }
                nets.push((net, lan));
            }
        }
        nets
    }

    fn uplink(&mut self, uplink: &UplinkConfig, link: &Link, lan_nets: &[(Ipv4Net, &Lan)]) {
        let UplinkConfig { name, interface, line, .. } = uplink;
        let nets: Vec<Ipv4Net> = self.kernel.networks(link.index);
        for net in &nets {
            if let Some((lan_net, lan)) = lan_nets.iter().find(|(lan_net, _)| overlap(lan_net, net))
            {
                let message = format!(
                    "network {net} of uplink {name} overlaps {lan_net} of LAN {}",
                    lan.interface
                );
                self.tolerate(*line, message, "renumber the LAN, or the link to the provider");
            }
        }
        for address in &uplink.addresses {
            if let Some((net, lan)) = lan_nets.iter().find(|(net, _)| net.contains(address)) {
                let message = format!(
                    "address {address} of uplink {name} is in {net} of LAN {}",
                    lan.interface
                );
                self.tolerate(*line, message, "give an address that the provider routes here");
            }
        }
        let Some(next_hop) = uplink.next_hop else { return };
        if self.kernel.addresses_of(Family::V4, link.index).contains(&next_hop.into()) {
            let message = format!("next hop {next_hop} of uplink {name} is the gateway itself");
            self.tolerate(*line, message, "give the address of the provider's router");
        } else if !nets.is_empty() && !self.reached(link, next_hop) {
            let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
            let message =
                format!("next hop {next_hop} of uplink {name} is on no network of {interface}");
            let remedy = format!(
                "networks there: {}; or `ip route add {next_hop} dev {interface}` if the provider wants it so",
                nets.join(", ")
            );
            self.tolerate(*line, message, remedy);
        }
    }

    /// Is the address on a network of the interface, or routed there without a gateway?
    fn reached(&self, link: &Link, address: std::net::Ipv4Addr) -> bool {
        let on_link =
            self.kernel.routes.iter().filter(|r| r.interface == link.index && r.gateway.is_none());
        let nets: Vec<Ipv4Net> = self.kernel.networks(link.index);
        nets.iter().any(|net| net.contains(&address))
            || on_link
                .map(|r| r.destination)
                .any(|net| net.prefix_len() > 0 && net.contains(&address))
    }

    fn ports(&mut self, site: &Site) {
        let (local, nat) = (self.kernel.local_ports, site.nat_ports);
        let beside = local_ports::beside(nat);
        // Weir sets them itself, if there are any to set.
        if !local_ports::overlap(local, nat) || (site.sysctls && beside.is_some()) {
            return;
        }
        let message = format!(
            "NAT ports {}-{} overlap the kernel's own, {}-{}",
            nat.0, nat.1, local.0, local.1
        );
        let remedy = match beside {
            None => "set nat_ports in [gateway] to fewer ports, such as 16384-65535".into(),
            Some((first, last)) => format!(
                "run `sysctl -w net.ipv4.ip_local_port_range=\"{first} {last}\"`, or set nat_ports in [gateway]"
            ),
        };
        self.refuse(0, message, remedy);
    }
}
