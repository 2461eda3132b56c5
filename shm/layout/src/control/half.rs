//! One complete published state.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{
    Address, Device, IpAddress, MAX_PATH_PREFIXES, PORT_PROBES, PORT_SLOTS, Path, PathId,
    PathPrefix, Policy, Port, PortSlot, Prefix, Rule, Stateless, Timeouts, Uplink, carried,
    port_slot,
};
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

    /// Those of an uplink.
    #[inline]
    pub fn prefixes_of(&self, uplink: u8) -> impl Iterator<Item = &PathPrefix> {
        self.path_prefixes().iter().filter(move |prefix| prefix.uplink == uplink)
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
