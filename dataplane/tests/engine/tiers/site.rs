//! A site with uplinks of every mode, two of its ports behind VLAN tags: as the control process
//! publishes it, and as the kernel knows it.
//!
//! | port | | |
//! |---|---|---|
//! | 0 | LAN | hosts 0 to 3 |
//! | 1, 2 | uplinks 0 and 1 | IPv4 translated; IPv6 as the site says |
//! | 3 | uplink 2 | carries the own prefix of IPv4 |
//! | 4 | LAN, a VLAN of port 0's device | hosts 4 and 5 |
//! | 5 | uplink 3, a VLAN of port 2's device | as 0 and 1 |

use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use weir_dataplane::engine::{Owner, Regions};
use weir_layout::control::host_class::{self, of_uplink};
use weir_layout::control::{
    Address, BUCKETS, BucketTable, ControlHalf, Filtering, MAX_VIRTUAL_MACS, Mac, Member, Name,
    OnUplinkDown, Origin, PathId, PathPrefix, Port, PortForward, PortRole, Prefix, Rule,
    RuleAction, Selection, Tier, Translate, path_state,
};
use weir_layout::{Family, NONE};
use weir_shm::hosts::{HostPrefixes, HostPrefixes6};
use weir_wire::npt;
use zerocopy::FromZeros;

use crate::gateway::*;
use crate::robustness::Seeded;

pub const PORTS: u8 = 6;
pub const HOSTS: u8 = 6;
/// Those that IPv6 goes by.
pub const UPLINKS: [u8; 3] = [0, 1, 3];
/// Outside and inside.
pub const SERVICE: [u16; 2] = [443, 8443];

/// What the uplinks make of sources of IPv6; or the family needs no flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    By([Translate; 3]),
    Bare,
}

pub const MODES: [Mode; 6] = [
    Mode::By([Translate::Napt; 3]),
    Mode::By([Translate::Npt; 3]),
    Mode::By([Translate::None; 3]),
    Mode::By([Translate::Source; 3]),
    Mode::By([Translate::Napt, Translate::Npt, Translate::None]),
    Mode::Bare,
];

/// By port: its device, and its tag.
pub const fn link(port: u8) -> (u8, u16) {
    match port {
        4 => (0, 5),
        5 => (2, 9),
        port => (port, 0),
    }
}

/// By device.
pub const fn ifindex(device: u8) -> u32 {
    100 + device as u32
}

pub const fn port_of(uplink: u8) -> u8 {
    if uplink == 3 { 5 } else { uplink + 1 }
}

/// The LAN port that a host is behind.
pub const fn port_of_host(host: u8) -> u8 {
    if host < 4 { 0 } else { 4 }
}

pub fn mac_of_host(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, 0x10 + host]
}

/// A host's address in the network of its port, and in the own prefix.
pub fn v4(host: u8) -> [IpAddr; 2] {
    let net = if port_of_host(host) == 0 { 77 } else { 78 };
    [[10, net, 0, 2 + host].into(), [192, 0, 2, 130 + host].into()]
}

fn prefix6(words: [u16; 4]) -> [u8; 16] {
    let [a, b, c, d] = words;
    std::net::Ipv6Addr::from([a, b, c, d, 0, 0, 0, 0]).octets()
}

/// Prefixes of LANs: own ones by port, one to be translated, and those of providers.
fn lans6() -> [([u8; 16], u8, u8); 6] {
    let of = |uplink: u16| (prefix6([0x2001, 2, uplink + 1, 0]), 64, LAN);
    [
        (prefix6([0x2001, 2, 0, 0x77]), 64, LAN),
        (prefix6([0x2001, 2, 0, 0x78]), 64, 4),
        (prefix6([0xfd00, 1, 2, 3]), 64, LAN),
        of(0),
        of(1),
        of(3),
    ]
}

/// A host's addresses: its port's network, then the others, where it is there.
pub fn v6(host: u8, which: usize) -> IpAddr {
    let at = if port_of_host(host) == 0 { [0, 2, 3, 4, 5][which % 5] } else { 1 };
    let mut address = lans6()[at].0;
    address[15] = 2 + host;
    address.into()
}

/// Whose hardware address answers for an address of a host.
pub fn owner(address: IpAddr) -> Owner {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3] & 0x7f,
        IpAddr::V6(address) => address.octets()[15],
    };
    match last.checked_sub(2).filter(|host| *host < HOSTS) {
        Some(host) => Owner::At(mac_of_host(host)),
        None => Owner::Nobody,
    }
}

/// An uplink's address of IPv6.
pub fn external6(uplink: u8) -> [u8; 16] {
    let mut address = prefix6([0x2001, 2, 0xb000, uplink.into()]);
    address[15] = 2;
    address
}

/// What an uplink translates the prefix of LANs to, where it does.
fn pair(uplink: u8) -> PathPrefix {
    let (inside, outside) = (lans6()[2].0, prefix6([0x2001, 2, 0xa000, u16::from(uplink) << 8]));
    PathPrefix {
        inside,
        outside,
        inside_len: 64,
        outside_len: 56,
        adjustment: npt::adjustment(inside, outside),
        uplink,
        ..PathPrefix::UNUSED
    }
}

/// Gives this thread a network of its own, in which the kernel knows the site's LANs.
pub fn enter_network() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test needs root");
    let mut lines = String::new();
    for device in 0..5u8 {
        let (name, index) = (format!("d{device}"), ifindex(device));
        lines += &format!("link add {name} index {index} type veth peer name p{device}\n");
        lines += &format!("link set {name} up\nlink set p{device} up\n");
    }
    for (device, net) in [("d0", "10.77.0.1/16"), ("d0", "192.0.2.129/25"), ("d4", "10.78.0.1/16")]
    {
        lines += &format!("addr add {net} dev {device}\n");
    }
    let device_of = |port: u8| if port == LAN { "d0" } else { "d4" };
    for (prefix, _, port) in lans6() {
        let net = std::net::Ipv6Addr::from(prefix);
        lines += &format!("addr add {net}1/64 dev {} nodad\n", device_of(port));
    }
    for host in 0..HOSTS {
        let device = device_of(port_of_host(host));
        let [a, b, c, d, e, f] = mac_of_host(host);
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        for address in v4(host).into_iter().chain((0..5).map(|which| v6(host, which))) {
            lines += &format!("neigh replace {address} lladdr {mac} dev {device}\n");
        }
    }
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
    }
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success(), "{lines}");
}

/// What may be published anew.
#[derive(Clone, Debug)]
pub struct Site {
    pub mode: Mode,
    pub workers: u8,
    /// IPv4 needs no flows either.
    pub bare4: bool,
    /// Of the translating uplinks.
    pub nat_ports: u16,
    pub filtering: Filtering,
    pub on_uplink_down: OnUplinkDown,
    pub clamps: bool,
    /// Where the buckets of the next uplink begin, of 0, 1 and 3.
    pub cuts: [usize; 2],
    /// DNS is dropped, or refused.
    pub denies: Option<RuleAction>,
    pub publishes: bool,
    /// By uplink: the next hop's address is known.
    pub has_next_hop: [bool; 4],
    /// By port.
    pub mtus: [u16; PORTS as usize],
    /// Their last byte's bits that are other than at first.
    pub addresses: [u8; 4],
    /// In the kernel tier, where it is.
    pub in_kernel: bool,
}

impl Site {
    pub fn new(random: &mut Seeded) -> Self {
        let mode = MODES[random.below(MODES.len())];
        Self {
            mode,
            workers: 1 + random.below(2) as u8,
            bare4: mode == Mode::Bare && random.below(2) == 0,
            nat_ports: [40_000, 100, 10][random.below(3)],
            filtering: [Filtering::AddressAndPort, Filtering::Address, Filtering::Endpoint]
                [random.below(3)],
            on_uplink_down: [OnUplinkDown::Reset, OnUplinkDown::Keep, OnUplinkDown::Drop]
                [random.below(3)],
            clamps: random.below(2) == 0,
            cuts: [BUCKETS / 3, BUCKETS / 3 * 2],
            denies: None,
            publishes: true,
            has_next_hop: [true; 4],
            mtus: [1500; PORTS as usize],
            addresses: [0; 4],
            in_kernel: true,
        }
    }

    /// Everything works again, and nothing is denied.
    pub fn heal(&mut self) {
        (self.has_next_hop, self.mtus) = ([true; 4], [1500; PORTS as usize]);
        (self.denies, self.publishes, self.in_kernel) = (None, true, true);
    }

    pub fn translate(&self, family: Family, uplink: u8) -> Translate {
        match (family, self.mode) {
            (Family::V4, _) if uplink == 2 || self.bare4 => Translate::None,
            (Family::V4, _) => Translate::Napt,
            (Family::V6, Mode::Bare) => Translate::None,
            (Family::V6, Mode::By(of)) => of[usize::from(uplink.min(2))],
        }
    }

    /// An uplink's address.
    pub fn address(&self, family: Family, uplink: u8) -> IpAddr {
        let other = self.addresses[usize::from(uplink)];
        match family {
            Family::V4 => {
                let [a, b, c, d] = external(uplink);
                [a, b, c, d ^ other].into()
            }
            Family::V6 => {
                let mut address = external6(uplink);
                address[15] ^= other;
                address.into()
            }
        }
    }

    /// Enters all of it in a gateway that was just made, or has an earlier state of it.
    fn enter(&self, half: &mut ControlHalf) {
        for port in 0..PORTS {
            self.enter_port(half, port);
        }
        for uplink in 0..4 {
            self.enter_uplink(half, uplink);
        }
        self.enter_prefixes(half);
        let policies = &mut half.policies[..2];
        policies[0].members[2] = Member { uplink: 3, tier: 1, weight: 1 };
        policies[0].member_count = 3;
        policies.iter_mut().for_each(|policy| policy.on_uplink_down = self.on_uplink_down as u8);
        half.rules[0] = Rule { source: Prefix::v4([192, 0, 2, 128], 25), ..Rule::any(1) };
        half.rule_count = u32::from(!self.bare4);
        if let Some(action) = self.denies.filter(|_| !self.bare4) {
            let dns = Rule { protocol: UDP, destination_ports: [53; 2], ..Rule::any(0) };
            half.rules[1] = Rule { action: action as u8, ..dns };
            half.rule_count = 2;
        }
        self.enter_services(half);
        self.enter_bare(half);
        half.workers = self.workers;
    }

    fn enter_port(&self, half: &mut ControlHalf, port: u8) {
        let (device, vlan) = link(port);
        let uplink = (0..4).find(|uplink| port_of(*uplink) == port);
        let role = if uplink.is_some() { PortRole::Uplink } else { PortRole::Lan };
        let mac = Mac::new(device_mac(port));
        half.ports[usize::from(port)] = Port {
            role: role as u8,
            device,
            uplink: uplink.unwrap_or(NONE),
            ipv6: 1,
            vlan,
            mtu: self.mtus[usize::from(port)],
            mac,
            ifindex: ifindex(port),
            virtual_macs: [mac; MAX_VIRTUAL_MACS],
            ..half.ports[usize::from(port)]
        };
        if vlan != 0 && half.port_of(ifindex(device), vlan).is_none() {
            assert!(half.insert_port_slot(ifindex(device), vlan, port));
            assert!(half.insert_port_slot(ifindex(port), 0, port));
        }
        let own = match (uplink, port) {
            (Some(uplink), _) => Family::ALL.map(|family| self.address(family, uplink)),
            (None, LAN) => [[10, 77, 0, 1].into(), ends_in_one(lans6()[0].0)],
            (None, _) => [[10, 78, 0, 1].into(), ends_in_one(lans6()[1].0)],
        };
        half.addresses[usize::from(port)] = own.map(address);
    }

    fn enter_uplink(&self, half: &mut ControlHalf, number: u8) {
        let uplink = &mut half.uplinks[usize::from(number)];
        uplink.name = Name::new(&format!("uplink{number}"));
        uplink.port = port_of(number);
        uplink.filtering = self.filtering as u8;
        uplink.clamp_mss = u16::from(self.clamps) * 1400;
        for family in Family::ALL {
            let translate = self.translate(family, number);
            let path = uplink.path_mut(family);
            if family == Family::V6 && number == 2 {
                continue;
            }
            path.translate = translate as u8;
            (path.nat_lo, path.nat_hi) = (20_000, 20_000 + self.nat_ports);
            let has_pool = family == Family::V4 || translate == Translate::Napt;
            path.pool_len = u8::from(has_pool);
            path.pool[0] = address(self.address(family, number));
            path.next_hop_mac = match self.has_next_hop[usize::from(number)] {
                true => Mac::new(next_hop_mac(number)),
                false => Mac::NONE,
            };
            path.inbound = u8::from(self.mode == Mode::Bare && family == Family::V6);
        }
    }

    fn enter_prefixes(&self, half: &mut ControlHalf) {
        half.lan_prefixes[2] = Prefix::v4([10, 78, 0, 0], 16);
        half.lan_prefix_ports[2] = 4;
        for (at, (address, length, port)) in (3..).zip(lans6()) {
            half.lan_prefixes[at] = Prefix { address, family: 6, length, ..Prefix::ANY };
            half.lan_prefix_ports[at] = port;
        }
        half.lan_prefix_count = 9;
        let pairs = UPLINKS.map(|uplink| match self.translate(Family::V6, uplink) {
            Translate::Npt => Some(pair(uplink)),
            Translate::Source => {
                let outside = prefix6([0x2001, 2, u16::from(uplink) + 1, 0]);
                Some(PathPrefix { outside, outside_len: 64, uplink, ..PathPrefix::UNUSED })
            }
            _ => None,
        });
        half.path_prefix_count = 0;
        for pair in pairs.into_iter().flatten() {
            half.path_prefixes[half.path_prefix_count as usize] = pair;
            half.path_prefix_count += 1;
        }
    }

    fn enter_services(&self, half: &mut ControlHalf) {
        let families = Family::ALL.into_iter().filter(|family| match family {
            Family::V4 => !self.bare4,
            Family::V6 => self.mode != Mode::Bare,
        });
        half.port_blocks.enter([SERVICE[0]; 2]);
        half.port_forward_count = 0;
        for family in families.filter(|_| self.publishes) {
            let which = usize::from(self.translate(Family::V6, 0) == Translate::Npt);
            let host = if family == Family::V4 { v4(0)[0] } else { v6(0, which) };
            for protocol in [TCP, UDP] {
                half.port_forwards[half.port_forward_count as usize] = PortForward {
                    name: Name::new("web"),
                    uplinks: 0b1011,
                    inside: address(host),
                    ports: [SERVICE[0]; 2],
                    inside_port: SERVICE[1],
                    protocol,
                    family: family.index() as u8,
                    ..PortForward::new_zeroed()
                };
                half.port_forward_count += 1;
            }
        }
        let count = half.port_forward_count as usize;
        half.open_ports.fill(&half.port_forwards[..count]);
    }

    fn enter_bare(&self, half: &mut ControlHalf) {
        for family in Family::ALL {
            let bare = if family == Family::V4 { self.bare4 } else { self.mode == Mode::Bare };
            let stateless = &mut half.stateless[family.index()];
            (stateless.active, stateless.selection) = (bare.into(), Selection::Flow as u8);
            stateless.remembers = u8::from(self.clamps);
            let mapped = |a: [u8; 4]| {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&a);
                address
            };
            let origins = match family {
                Family::V4 => vec![
                    Origin::new(mapped([192, 0, 2, 128]), 25, LAN, 0b1111),
                    Origin::new(mapped([10, 78, 0, 0]), 16, 4, 0b1111),
                ],
                Family::V6 => vec![
                    Origin::new(lans6()[0].0, 64, LAN, 0b1011),
                    Origin::new(lans6()[1].0, 64, 4, 0b1011),
                ],
            };
            stateless.count = origins.len() as u8;
            stateless.origins[..origins.len()].copy_from_slice(&origins);
        }
    }

    /// A gateway on these regions, nothing of which is published yet.
    pub fn gateway(&self, regions: &Regions) -> Gateway {
        regions.adjacencies.retain(|_| false);
        let regions = Regions { host_flows: Default::default(), ..regions.clone() };
        let gateway = Gateway::on(regions, self.workers);
        for uplink in 0..4 {
            gateway.writer.set_path_state(PathId::v4(uplink), path_state::USABLE);
        }
        for uplink in UPLINKS {
            gateway.writer.set_path_state(PathId::new(uplink, Family::V6), path_state::USABLE);
        }
        gateway
    }

    /// Publishes it in this tier.
    pub fn publish(&self, gateway: &mut Gateway, tier: Tier) {
        self.enter(&mut gateway.half);
        gateway.half.tier = tier as u8;
        let mut all: BucketTable = [3; BUCKETS];
        all[..self.cuts[1]].fill(1);
        all[..self.cuts[0]].fill(0);
        let own: BucketTable = if self.bare4 { all } else { [2; BUCKETS] };
        gateway.writer.publish(&mut gateway.half, [&[&all, &own], &[&all]]);
    }

    /// Which destinations stay here, by family.
    pub fn destinations(&self) -> (HostPrefixes, HostPrefixes6) {
        let mut hosts: HostPrefixes = [
            (([10, 77, 0, 0], 16), host_class::LAN),
            (([10, 78, 0, 0], 16), host_class::LAN),
            (([192, 0, 2, 128], 25), host_class::LAN),
            (([10, 77, 0, 1], 32), host_class::LOCAL),
            (([10, 78, 0, 1], 32), host_class::LOCAL),
            (([192, 0, 2, 129], 32), host_class::LOCAL),
            (([10, 8, 0, 0], 16), host_class::KERNEL),
        ]
        .into();
        let mut hosts6 = HostPrefixes6::new();
        for (prefix, length, _) in lans6() {
            hosts6.insert((prefix, length), host_class::LAN);
            let IpAddr::V6(own) = ends_in_one(prefix) else { panic!("of IPv6") };
            hosts6.insert((own.octets(), 128), host_class::LOCAL);
        }
        for uplink in 0..4 {
            for family in Family::ALL {
                let class = of_uplink(host_class::LOCAL, uplink);
                match self.address(family, uplink) {
                    IpAddr::V4(address) => hosts.insert((address.octets(), 32), class),
                    IpAddr::V6(address) => hosts6.insert((address.octets(), 128), class),
                };
            }
            if self.translate(Family::V6, uplink) == Translate::Npt {
                let PathPrefix { outside, outside_len, .. } = pair(uplink);
                hosts6.insert((outside, outside_len), of_uplink(host_class::POOL, uplink));
            }
        }
        (hosts, hosts6)
    }
}

fn ends_in_one(mut prefix: [u8; 16]) -> IpAddr {
    prefix[15] = 1;
    prefix.into()
}

fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(address.octets()),
        IpAddr::V6(address) => Address(address.octets()),
    }
}
