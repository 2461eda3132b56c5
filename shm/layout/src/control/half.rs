//! One complete published state.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{
    Address, Device, IpAddress, MAX_ALLOWED, MAX_OWN_PEERS, MAX_PATH_PREFIXES, MAX_PORT_FORWARDS,
    OpenPorts, OwnPeer, PORT_PROBES, PORT_SLOTS, Path, PathId, PathPrefix, Policy, Port,
    PortBlocks, PortForward, PortSlot, Prefix, Rule, Sets, Stateless, TcpMapping, Timeouts,
    Translate, Uplink, carried, port_slot,
};
use crate::protocol::{TCP, is_portless};
use crate::{
    Family, MAX_DEVICES, MAX_POLICIES, MAX_PORTS, MAX_RULES, MAX_UPLINKS, MAX_WORKERS, NONE,
    checksum64,
};

/// Addresses that the gateway keeps for itself within prefixes that are translated.
pub const MAX_KEPT: usize = 32;

/// LAN prefixes.
pub const MAX_LAN_PREFIXES: usize = 64;

/// One complete published state.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControlHalf {
    /// [`checksum64`] of everything after this field.
    pub checksum: u64,
    /// The epoch this half was published as.
    pub epoch: u64,
    /// Hash of the configuration file the state was made from.
    pub config_hash: u64,
    /// [`OnDataplaneLoss`](super::OnDataplaneLoss).
    pub on_dataplane_loss: u8,
    /// Policy of packets that no rule matches.
    pub default_policy: u8,
    /// Worker threads asked for.
    pub workers: u8,
    /// [`Tier`](super::Tier).
    pub tier: u8,
    /// Valid entries of `rules`.
    pub rule_count: u32,
    /// Valid entries of `lan_prefixes`.
    pub lan_prefix_count: u32,
    /// Slots of the IPv4 flow table to create.
    pub flow_slots: u32,
    /// CPU of each worker; 0xffff = not pinned.
    pub cores: [u16; MAX_WORKERS],
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Flows that a host of a LAN may have at a time, of both families; 0: as many as there is room
    /// for.
    pub flows_per_host: u32,
    /// Flows that one may begin in a second, of both families; 0: as many as it likes.
    pub new_flows_per_host: u32,
    /// 1: an uplink has [`TcpMapping::Endpoint`](super::TcpMapping::Endpoint).
    pub maps_tcp: u8,
    /// 1: allocations of NAT are logged.
    pub nat_log: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Valid entries of `own_peers`.
    pub own_peer_count: u32,
    /// Devices, by index.
    pub devices: [Device; MAX_DEVICES],
    /// Ports, by index.
    pub ports: [Port; MAX_PORTS],
    /// Open-addressed table: (interface, VLAN) to port.
    pub port_slots: [PortSlot; PORT_SLOTS],
    /// Uplinks, by index.
    pub uplinks: [Uplink; MAX_UPLINKS],
    /// Own prefixes, reached by LAN ports.
    pub lan_prefixes: [Prefix; MAX_LAN_PREFIXES],
    /// Of each LAN prefix, the port that leads to it: an index into `ports`, [`NONE`] while the port
    /// is not there. Prefixes of two ports do not overlap.
    pub lan_prefix_ports: [u8; MAX_LAN_PREFIXES],
    /// Policies, by index.
    pub policies: [Policy; MAX_POLICIES],
    /// Rules, in order.
    pub rules: [Rule; MAX_RULES],
    /// The gateway's own addresses on each port, by [`Family`]; all zero: none. Sources of its ICMP
    /// errors.
    pub addresses: [[Address; Family::COUNT]; MAX_PORTS],
    /// By port, [`checksum64`] of the interface's name in the configuration: who the port is while
    /// the interface is missing, and with it the device and the VLAN.
    pub interfaces: [u64; MAX_PORTS],
    /// Valid entries of `path_prefixes`.
    pub path_prefix_count: u32,
    /// Valid entries of `kept`.
    pub kept_count: u32,
    /// Prefixes of the IPv6 paths.
    pub path_prefixes: [PathPrefix; MAX_PATH_PREFIXES],
    /// The gateway's own addresses within prefixes that are translated: nobody else gets them.
    pub kept: [Address; MAX_KEPT],
    /// By [`Family`]: whether packets need no flows.
    pub stateless: [Stateless; Family::COUNT],
    /// Valid entries of `port_forwards`.
    pub port_forward_count: u32,
    /// Valid entries of `allowed`.
    pub allowed_count: u32,
    /// Where `port_forwards` have ports.
    pub port_blocks: PortBlocks,
    /// By which uplinks they lead to hosts.
    pub open_ports: OpenPorts,
    /// Published services, in the file's order.
    pub port_forwards: [PortForward; MAX_PORT_FORWARDS],
    /// Whom these are open to.
    pub allowed: [Prefix; MAX_ALLOWED],
    /// The sets of prefixes.
    pub sets: Sets,
    /// Whom the gateway itself speaks with by protocols without ports.
    pub own_peers: [OwnPeer; MAX_OWN_PEERS],
}

impl ControlHalf {
    /// What [`Self::checksum`] must be.
    pub fn compute_checksum(&self) -> u64 {
        checksum64(self.as_bytes().get(8..).unwrap_or(&[]))
    }

    /// A path; `None` for an index out of range.
    #[inline]
    pub fn path(&self, id: PathId) -> Option<&Path> {
        Some(self.uplinks.get(usize::from(id.uplink))?.path(id.family))
    }

    /// Have endpoints of a protocol, 6 that of TCP, one port each outside by the path, whatever they talk
    /// to? None of those without ports, or identifiers for them.
    #[inline]
    pub fn maps(&self, id: PathId, protocol: u8) -> bool {
        let uplink = self.uplinks.get(usize::from(id.uplink));
        uplink.is_some_and(|uplink| {
            uplink.path(id.family).translation() == Translate::Napt
                && !is_portless(protocol)
                && (protocol != TCP || uplink.tcp_mapping() == TcpMapping::Endpoint)
        })
    }

    /// Has an uplink a path of IPv6? Then each policy has a bucket table for it.
    #[inline(always)]
    pub const fn serves_ipv6(&self) -> bool {
        self.policies[0].steering(Family::V6).has_table != 0
    }

    /// How packets of a family are forwarded without flows; `None`: by flows.
    #[inline(always)]
    pub const fn stateless(&self, family: Family) -> Option<&Stateless> {
        let stateless = &self.stateless[family.index()];
        if stateless.active != 0 { Some(stateless) } else { None }
    }

    /// The gateway's own address on a port.
    #[inline]
    pub fn own_address(&self, port: u8, family: Family) -> Address {
        let addresses = self.addresses.get(usize::from(port));
        addresses.map_or(Address::UNSPECIFIED, |addresses| addresses[family.index()])
    }

    /// The valid entries of `rules`.
    pub fn rules(&self) -> &[Rule] {
        &self.rules[..(self.rule_count as usize).min(self.rules.len())]
    }

    /// The valid entries of `port_forwards`.
    #[inline]
    pub fn port_forwards(&self) -> &[PortForward] {
        &self.port_forwards[..(self.port_forward_count as usize).min(MAX_PORT_FORWARDS)]
    }

    /// The services that a path is open for at a port, each with its number. Hosts that have
    /// addresses of their own outside may have the same port.
    #[inline]
    pub fn services(
        &self,
        path: PathId,
        protocol: u8,
        port: u16,
    ) -> impl Iterator<Item = (usize, &PortForward)> {
        let PathId { uplink, family } = path;
        let any = self.port_blocks.may_have(port);
        let forwards = if any { self.port_forwards() } else { &[] };
        let about = move |forward: &PortForward| forward.is_about(family, uplink, protocol, port);
        forwards.iter().enumerate().filter(move |(_, forward)| about(forward))
    }

    /// Is a port of a path's addresses that of a service? No flow is given it.
    #[inline]
    pub fn is_published(&self, path: PathId, protocol: u8, port: u16) -> bool {
        self.services(path, protocol, port).next().is_some()
    }

    /// How many ports of a range, first and last, services have of a path's addresses.
    pub fn ports_of_services(&self, path: PathId, protocol: u8, [lo, hi]: [u16; 2]) -> u32 {
        let of = |forward: &PortForward| {
            let [first, last] = [forward.ports[0].max(lo), forward.ports[1].min(hi)];
            let has = forward.is_about(path.family, path.uplink, protocol, forward.ports[0]);
            if has { (u32::from(last) + 1).saturating_sub(first.into()) } else { 0 }
        };
        self.port_forwards().iter().map(of).sum()
    }

    /// Whom a service is open to; none: to everybody. `None`: what tells of them is broken.
    pub fn allowed(&self, forward: &PortForward) -> Option<&[Prefix]> {
        let valid = &self.allowed[..(self.allowed_count as usize).min(MAX_ALLOWED)];
        let first = usize::from(forward.allowed_first);
        valid.get(first..first + usize::from(forward.allowed_count))
    }

    /// Is a service open to this source? `sets` says which sets hold it, a bit each, and is asked where
    /// the service has some. `None`: it does not know.
    pub fn is_open_to(
        &self,
        forward: &PortForward,
        source: impl IpAddress,
        sets: impl FnOnce() -> Option<u64>,
    ) -> Option<bool> {
        let Some(allowed) = self.allowed(forward) else { return Some(false) };
        let is_any = allowed.is_empty() && forward.allowed_sets == 0;
        let is_named = is_any || allowed.iter().any(|prefix| source.is_in(prefix));
        if forward.allowed_sets | forward.barred_sets == 0 {
            return Some(is_named);
        }
        let sets = sets()?;
        let is_barred = sets & forward.barred_sets != 0;
        Some(!is_barred && (is_named || sets & forward.allowed_sets != 0))
    }

    /// The published services that an address and port inside are.
    pub fn services_of(
        &self,
        family: Family,
        protocol: u8,
        host: Address,
        port: u16,
    ) -> impl Iterator<Item = &PortForward> {
        self.port_forwards().iter().filter(move |forward| {
            forward.protocol == protocol
                && usize::from(forward.family) == family.index()
                && forward.inside == host
                && !forward.is_to_gateway()
                && forward.port_outside(port).is_some()
        })
    }

    /// The port outside that an address and port inside has by a path: that of the first service there
    /// that leads to it. It is no other endpoint's.
    pub fn port_of_service(
        &self,
        path: PathId,
        protocol: u8,
        host: Address,
        port: u16,
    ) -> Option<u16> {
        let mut services = self.services_of(path.family, protocol, host, port);
        let open = services.find(|service| service.uplinks().contains(path.uplink))?;
        open.port_outside(port)
    }

    /// The LAN port that leads to an address: by the longest prefix, as routes do.
    pub fn port_behind(&self, address: impl IpAddress) -> Option<u8> {
        let prefixes = self.lan_prefixes().iter().zip(&self.lan_prefix_ports);
        let behind = prefixes.filter(|(prefix, port)| **port != NONE && address.is_in(prefix));
        behind.max_by_key(|(prefix, _)| prefix.length).map(|(_, port)| *port)
    }

    /// The valid entries of `lan_prefixes`.
    #[inline]
    pub fn lan_prefixes(&self) -> &[Prefix] {
        &self.lan_prefixes[..(self.lan_prefix_count as usize).min(self.lan_prefixes.len())]
    }

    /// The valid entries of `path_prefixes`.
    #[inline]
    pub fn path_prefixes(&self) -> &[PathPrefix] {
        let valid = (self.path_prefix_count as usize).min(self.path_prefixes.len());
        &self.path_prefixes[..valid]
    }

    /// Does the gateway keep the address for itself?
    #[inline]
    pub fn keeps(&self, address: Address) -> bool {
        self.kept[..(self.kept_count as usize).min(MAX_KEPT)].contains(&address)
    }

    /// The valid entries of `own_peers`.
    #[inline]
    pub fn own_peers(&self) -> &[OwnPeer] {
        &self.own_peers[..(self.own_peer_count as usize).min(MAX_OWN_PEERS)]
    }

    /// Does the gateway itself speak a protocol without ports with this remote, from this address?
    #[inline]
    pub fn speaks(&self, family: Family, local: Address, remote: Address, protocol: u8) -> bool {
        self.own_peers().iter().any(|peer| peer.is(family, local, remote, protocol))
    }

    /// Those of an uplink.
    #[inline]
    pub fn prefixes_of(&self, uplink: u8) -> impl Iterator<Item = &PathPrefix> {
        self.path_prefixes().iter().filter(move |prefix| prefix.uplink == uplink)
    }

    /// The first uplink by which hosts have this address outside, or may have.
    pub fn uplink_at(&self, family: Family, address: Address) -> Option<u8> {
        let named = self.uplinks.iter().take_while(|uplink| uplink.name.0[0] != 0);
        let has = |(number, uplink): &(u8, &Uplink)| {
            let of_hosts =
                || self.prefixes_of(*number).any(|prefix| prefix.is_outside_of_hosts(address.0));
            uplink.path(family).held().contains(&address) || family == Family::V6 && of_hosts()
        };
        (0..).zip(named).find(has).map(|(number, _)| number)
    }

    /// May packets of this source leave by the path? Of IPv6, those that it [carries](carried).
    pub fn carries(&self, path: PathId, source: impl IpAddress) -> bool {
        let translate = self.path(path).map(Path::translation);
        translate.is_some_and(|translate| {
            let Address(source) = source.to_address();
            path.family == Family::V4
                || carried::carries(self.path_prefixes(), path.uplink, translate, source)
        })
    }

    /// Does the path translate the source, for want of one that carries it? See [`carried::rescues`].
    pub fn rescues(&self, path: PathId, source: impl IpAddress) -> bool {
        let translate = self.path(path).map(Path::translation);
        translate.is_some_and(|translate| {
            let Address(source) = source.to_address();
            path.family == Family::V6
                && carried::rescues(self.path_prefixes(), path.uplink, translate, source)
        })
    }

    /// Has the source another address outside by the path?
    pub fn readdresses(&self, path: PathId, source: impl IpAddress) -> bool {
        self.path(path).is_some_and(Path::translates) || self.rescues(path, source)
    }

    /// May packets that come in by this LAN port have this source? Only those of its own prefixes
    /// (RFC 2827).
    pub fn is_behind(&self, port: u8, source: impl IpAddress) -> bool {
        let mut prefixes = self.lan_prefixes().iter().zip(&self.lan_prefix_ports);
        prefixes.any(|(prefix, behind)| *behind == port && source.is_in(prefix))
    }

    /// An empty state with every index invalid.
    pub fn clear(&mut self) {
        self.zero();
        self.cores = [u16::MAX; MAX_WORKERS];
        self.timeouts = Timeouts::DEFAULT;
        self.lan_prefix_ports = [NONE; MAX_LAN_PREFIXES];
        self.path_prefixes = [PathPrefix::UNUSED; MAX_PATH_PREFIXES];
        for port in &mut self.ports {
            port.uplink = NONE;
        }
        for policy in &mut self.policies {
            for steering in &mut policy.steering {
                steering.heavy = NONE;
            }
        }
    }

    /// Enters `(ifindex, vlan)` into the port table; `false` when the probe window is full.
    pub fn insert_port_slot(&mut self, ifindex: u32, vlan: u16, port: u8) -> bool {
        let first = port_slot(ifindex, vlan);
        for probe in 0..PORT_PROBES {
            let slot = &mut self.port_slots[(first + probe) & (PORT_SLOTS - 1)];
            if slot.ifindex == 0 {
                *slot = PortSlot { ifindex, vlan, port, reserved: 0 };
                return true;
            }
        }
        false
    }

    /// The port of `(ifindex, vlan)`.
    #[inline]
    pub fn port_of(&self, ifindex: u32, vlan: u16) -> Option<u8> {
        let first = port_slot(ifindex, vlan);
        for probe in 0..PORT_PROBES {
            let slot = &self.port_slots[(first + probe) & (PORT_SLOTS - 1)];
            if slot.ifindex == 0 {
                return None;
            }
            if slot.ifindex == ifindex && slot.vlan == vlan && usize::from(slot.port) < MAX_PORTS {
                return Some(slot.port);
            }
        }
        None
    }
}

const _: () = assert!(size_of::<ControlHalf>().is_multiple_of(8));
