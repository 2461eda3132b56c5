//! What a site asks of the machine it runs on.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use weir_layout::control::{DeviceFault, Translate};
use weir_layout::{Family, MAX_QUEUES};
use weir_view::{Kernel, Link, Net, Route, is_link_local, local_ports};

use super::place::Problem;
use super::{Lan, Site, UplinkConfig};
use crate::group;

impl UplinkConfig {
    /// Where its path leads by the interface of this index: what the file says, else the kernel's
    /// default route.
    pub fn next_hop_by(&self, family: Family, interface: u32, kernel: &Kernel) -> Option<IpAddr> {
        self.given_next_hop(family).or_else(|| kernel.default_next_hop(family, interface))
    }

    /// The next hop that the file says.
    pub(crate) fn given_next_hop(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.next_hop.map(IpAddr::V4),
            Family::V6 => self.ipv6.as_ref().and_then(|ipv6| ipv6.next_hop).map(IpAddr::V6),
        }
    }
}

impl Lan {
    /// The prefixes of a family behind it: what the file says, else the networks that its interface
    /// was given. What a host of the LAN advertises makes none: one host would take the addresses
    /// of others.
    pub fn networks(&self, family: Family, kernel: &Kernel) -> Vec<IpNet> {
        let given = self.prefixes.iter().filter(|net| Family::of(net.addr()) == family);
        let given: Vec<IpNet> = given.copied().collect();
        if !given.is_empty() {
            return given;
        }
        let link = kernel.link(&self.interface);
        link.map_or_else(Vec::new, |link| kernel.given_networks(family, link.index))
    }
}

impl Site {
    /// With the LANs and paths, by interface, that another site has beyond it.
    pub fn with_paths_of(mut self, other: Self) -> Self {
        for lan in other.lans {
            if !self.lans.iter().any(|known| known.interface == lan.interface) {
                self.lans.push(lan);
            }
        }
        for uplink in other.uplinks {
            match self.uplinks.iter_mut().find(|known| known.interface == uplink.interface) {
                Some(known) if known.ipv6.is_none() => known.ipv6 = uplink.ipv6,
                Some(_) => {}
                None => self.uplinks.push(uplink),
            }
        }
        self
    }

    /// Names of the interfaces: the LANs', then the uplinks'.
    pub fn interfaces(&self) -> impl Iterator<Item = &str> {
        let lans = self.lans.iter().map(|lan| lan.interface.as_str());
        lans.chain(self.uplinks.iter().map(|uplink| uplink.interface.as_str()))
    }

    /// The families that it has paths in.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        let has = |family: &Family| self.uplinks.iter().any(|uplink| uplink.has_path(*family));
        Family::ALL.into_iter().filter(has)
    }

    /// Has an uplink an IPv6 path?
    pub fn has_ipv6(&self) -> bool {
        self.families().any(|family| family == Family::V6)
    }

    /// Has an uplink a path whose flows get ports of [`nat_ports`](Self::nat_ports)?
    pub fn translates_ports(&self) -> bool {
        let does = |uplink: &UplinkConfig, family| uplink.translation(family) == Translate::Napt;
        self.uplinks.iter().any(|uplink| Family::ALL.iter().any(|family| does(uplink, *family)))
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
    for family in site.families() {
        let lan_nets = machine.lans(family, &site.lans);
        for uplink in site.uplinks.iter().filter(|uplink| uplink.has_path(family)) {
            if let Some(link) = kernel.link(&uplink.interface) {
                machine.path(family, uplink, link, &lan_nets);
            }
        }
    }
    if site.translates_ports() {
        machine.ports(site);
    }
    machine.hosts_of_services(site);
    if let Some(group) = site.group.as_deref().filter(|name| group::group(name).is_none()) {
        let message = format!("there is no group {group} in /etc/group");
        machine.refuse(0, message, format!("make it with `groupadd --system {group}`"));
    }
    machine.problems
}

/// Has the uplink's interface a network of the family, or its IPv4 pool an address, of these
/// prefixes of LANs? Then it is not to be told from the LAN.
pub fn clashes(
    uplink: &UplinkConfig,
    family: Family,
    link: &Link,
    kernel: &Kernel,
    lan_nets: &[IpNet],
) -> bool {
    let of_lan = |address: &Ipv4Addr| {
        let address = IpAddr::V4(*address);
        lan_nets.iter().any(|net| net.contains(&address))
    };
    let nets = kernel.networks(family, link.index);
    nets.iter().any(|net| lan_nets.iter().any(|lan_net| overlap(lan_net, net)))
        || family == Family::V4 && uplink.addresses.iter().any(of_lan)
}

/// Has one prefix an address of the other?
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// What is routed by an interface without a gateway, but for all there is.
fn on_link<N: Net>(routes: &[Route<N>], link: &Link) -> Vec<IpNet> {
    let by = routes.iter().filter(|r| r.interface == link.index && r.gateway.is_none());
    by.map(|r| r.destination.into()).filter(|net: &IpNet| net.prefix_len() > 0).collect()
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

    /// Hosts of published services that no LAN has.
    fn hosts_of_services(&mut self, site: &Site) {
        let own: Vec<IpAddr> = self.kernel.addresses.iter().map(|(_, net)| net.addr()).collect();
        for publish in &site.publish {
            for host in publish.hosts() {
                let has = |lan: &Lan| {
                    let nets = lan.networks(Family::of(host), self.kernel);
                    let behind = site.behind_routers(lan, self.kernel);
                    nets.iter().chain(&behind).any(|net| net.contains(&host))
                };
                let (message, remedy) = if own.contains(&host) {
                    let message = format!("{host} is the gateway's own");
                    (message, "say `to = \"gateway\"`")
                } else if site.lans.iter().any(has) {
                    continue;
                } else {
                    (format!("no LAN has {host}"), "give the address of a LAN's host")
                };
                let message = format!("publish \"{}\": {message}", publish.name);
                self.tolerate(publish.line, message, remedy);
            }
        }
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

    /// The prefixes of all LANs in a family, given or connected.
    fn lans<'l>(&mut self, family: Family, lans: &'l [Lan]) -> Vec<(IpNet, &'l Lan)> {
        let mut nets: Vec<(IpNet, &Lan)> = Vec::new();
        for lan in lans {
            for net in lan.networks(family, self.kernel) {
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

    fn path(
        &mut self,
        family: Family,
        uplink: &UplinkConfig,
        link: &Link,
        lan_nets: &[(IpNet, &Lan)],
    ) {
        let UplinkConfig { name, interface, line, .. } = uplink;
        let nets = self.kernel.networks(family, link.index);
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
        // Where nothing is translated, the gateway's own address in the prefix of a LAN is a
        // source.
        let pool = uplink.given_addresses(family).into_iter().filter(IpAddr::is_ipv4);
        for address in pool {
            if let Some((net, lan)) = lan_nets.iter().find(|(net, _)| net.contains(&address)) {
                let message = format!(
                    "address {address} of uplink {name} is in {net} of LAN {}",
                    lan.interface
                );
                self.tolerate(*line, message, "give an address that the provider routes here");
            }
        }
        let Some(next_hop) = uplink.given_next_hop(family) else { return };
        if self.kernel.addresses_of(family, link.index).contains(&next_hop) {
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
    fn reached(&self, link: &Link, address: IpAddr) -> bool {
        let on_link = match address {
            IpAddr::V4(_) => on_link(&self.kernel.routes, link),
            IpAddr::V6(_) => on_link(&self.kernel.routes6, link),
        };
        let nets = self.kernel.networks(Family::of(address), link.index).into_iter();
        is_link_local(address) || nets.chain(on_link).any(|net| net.contains(&address))
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
