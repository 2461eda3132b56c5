//! The control page: uplinks, policies and rules, published by the control process.
//!
//! The page holds two [`ControlHalf`]s. Control writes the half that `epoch + 1` selects, then
//! stores `epoch + 1` with release ordering. A reader loads `epoch` (acquire), uses half
//! `epoch & 1`, and, if it copies, loads `epoch` again: unchanged means the copy is whole.
//! Control leaves at least [`MIN_PUBLISH_GAP_US`] between two publications, which is thousands of
//! times the life of one XDP run, so a program that reads in place never meets a half being
//! rewritten.
//!
//! `uplink_state` stands outside the halves: one aligned 32-bit store moves all flows of an uplink.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{
    MAX_DEVICES, MAX_POLICIES, MAX_PORTS, MAX_RULES, MAX_UPLINKS, NONE, RegionHeader, checksum64,
};

/// Least time between two publications, microseconds.
pub const MIN_PUBLISH_GAP_US: u64 = 500;

/// Buckets per policy; one byte each, the uplink's index or [`NONE`].
pub const BUCKETS: usize = 65_536;

/// Banks of bucket tables in the `BUCKETS` map: one per half, and the control process's memory of
/// where buckets belong while an uplink is away. Table index: `bank * MAX_POLICIES + policy`.
pub const BUCKET_BANKS: usize = 3;
/// The bank that only the control process reads.
pub const HOME_BANK: usize = 2;

/// Words of a set of ports, a bit for each of 65 536.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Addresses of one uplink's pool.
pub const MAX_POOL: usize = 16;
/// LAN prefixes.
pub const MAX_LAN_PREFIXES: usize = 64;
/// Slots of the (interface, VLAN) to port table, a power of two.
pub const PORT_SLOTS: usize = 256;
/// Slots probed per look-up in the port table.
pub const PORT_PROBES: usize = 8;

/// Bits of an uplink's state word.
pub mod uplink_state {
    /// Flows on this uplink are forwarded; cleared when it is down.
    pub const USABLE: u32 = 1;
    /// The uplink was set down by hand.
    pub const ADMIN_DOWN: u32 = 2;
    /// No carrier, no address or no next hop: why it is not usable (informative).
    pub const NO_CARRIER: u32 = 4;
    /// The interface has no usable IPv4 address.
    pub const NO_ADDRESS: u32 = 8;
    /// The next hop is unknown or its MAC address is not resolved.
    pub const NO_NEXT_HOP: u32 = 16;
    /// Its health says no: targets do not answer, or it has not shown itself yet.
    pub const UNHEALTHY: u32 = 32;
    /// Well again, but held down for a while.
    pub const HELD_DOWN: u32 = 64;
    /// Usable, but worse than others: flows stay, new ones go elsewhere.
    pub const DEGRADED: u32 = 128;
    /// In use only because no uplink of a policy is well.
    pub const LAST_RESORT: u32 = 256;
    /// Being emptied: flows stay, but those that may move do so when idle; new ones go elsewhere.
    pub const DRAINING: u32 = 512;
    /// Fuller than its threshold: new flows go elsewhere while there is room (informative).
    pub const SATURATED: u32 = 1024;
    /// Not usable, but a policy has nothing better: its flows stay, those of other policies leave.
    pub const SPARED: u32 = 2048;
    /// Its interface is of no kind that can be used, or the dataplane was refused it.
    pub const NO_DEVICE: u32 = 4096;
}

/// What becomes of a policy's translated TCP connections when their uplink goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnUplinkDown {
    /// Both ends get a reset, at once.
    Reset = 0,
    /// They stay on the uplink, whose return they may live to see.
    Keep = 1,
    /// Their packets are dropped.
    Drop = 2,
}

impl OnUplinkDown {
    /// What a byte of shared memory says; anything unknown is [`Self::Reset`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Keep,
            2 => Self::Drop,
            _ => Self::Reset,
        }
    }
}

/// Which flows on uplinks of a worse tier than the active one are moved back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ComeHome {
    /// None.
    Stay = 0,
    /// Those that survive a move, once idle.
    Idle = 1,
    /// All; translated TCP connections by a reset.
    All = 2,
}

impl ComeHome {
    /// What a byte of shared memory says; anything unknown is [`Self::Stay`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::Idle,
            2 => Self::All,
            _ => Self::Stay,
        }
    }
}

/// What a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortRole {
    /// Own hosts.
    Lan = 1,
    /// A provider.
    Uplink = 2,
}

/// How an uplink changes source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Translate {
    /// Source untouched: own prefix, accepted by every provider that carries it.
    None = 0,
    /// Network address and port translation to the uplink's pool.
    Nat44 = 1,
}

/// Which header fields select a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Selection {
    /// Source and destination address.
    SourceDestination = 0,
    /// The 5-tuple.
    Flow = 1,
    /// Source address.
    Source = 2,
}

/// A fixed-size name, UTF-8, zero-padded.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct Name(pub [u8; 32]);

impl Name {
    /// The name cut to 31 bytes.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().take(31).zip(name.as_bytes()) {
            *to = *from;
        }
        Self(bytes)
    }

    /// The name, or `"?"` when the bytes are not UTF-8.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        core::str::from_utf8(&self.0[..end]).unwrap_or("?")
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A hardware address in a word of its own, so that the XDP program loads it as one: the address in
/// the low six bytes in memory order, above them zero. Aligned to 8 bytes wherever it is kept.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct Mac(u64);

impl Mac {
    /// No address: all zero.
    pub const NONE: Self = Self(0);

    /// From the bytes as on the wire.
    #[inline]
    pub const fn new(address: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = address;
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// From the word as memory has it, whose upper two bytes are zero.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// The bytes as on the wire.
    #[inline]
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0.to_ne_bytes();
        [a, b, c, d, e, f]
    }

    /// The word as memory has it.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }
}

/// Why no socket is to be bound to a device that the configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeviceFault {
    /// It can be used.
    None = 0,
    /// There is no interface of that name.
    Missing = 1,
    /// Its frames have no Ethernet header.
    NoEthernet = 2,
    /// It is a VLAN within a VLAN.
    StackedVlan = 3,
    /// It is there, but not its VLANs that the configuration names.
    MissingVlan = 4,
}

impl DeviceFault {
    /// What a byte of shared memory says; anything unknown is [`Self::Missing`].
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::None,
            2 => Self::NoEthernet,
            3 => Self::StackedVlan,
            4 => Self::MissingVlan,
            _ => Self::Missing,
        }
    }
}

/// A network interface with XDP attached. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Device {
    /// Kernel interface index; 0 = slot unused, or not to be used for now, see `fault`.
    pub ifindex: u32,
    /// Receive queues.
    pub queues: u32,
    /// Maximum transmission unit: largest IP packet, bytes.
    pub mtu: u32,
    /// 1: the XDP program may send frames by this device.
    pub xdp_transmit: u8,
    /// [`DeviceFault`].
    pub fault: u8,
    /// Zero.
    pub reserved: [u8; 18],
    /// Interface name.
    pub name: Name,
}

/// Other hardware addresses of a port.
pub const MAX_VIRTUAL_MACS: usize = 5;

/// A device, or one VLAN of a device, with its role. 64 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Port {
    /// [`PortRole`]; 0 = slot unused.
    pub role: u8,
    /// Index into [`ControlHalf::devices`].
    pub device: u8,
    /// Index into [`ControlHalf::uplinks`], [`NONE`] for a LAN port.
    pub uplink: u8,
    /// Zero.
    pub reserved: u8,
    /// 802.1Q VLAN id, 0 = untagged.
    pub vlan: u16,
    /// Maximum transmission unit, bytes.
    pub mtu: u16,
    /// Hardware address.
    pub mac: Mac,
    /// The gateway's own IPv4 address on the port, network order; source of ICMP errors.
    pub address: [u8; 4],
    /// Kernel interface index of the layer-3 interface (the VLAN device when there is one).
    pub ifindex: u32,
    /// Other hardware addresses whose frames are the gateway's, as those of virtual routers
    /// (RFC 9568 §7.3) on macvlan devices; where there are fewer, `mac` again.
    pub virtual_macs: [Mac; MAX_VIRTUAL_MACS],
}

/// One slot of the open-addressed (interface, VLAN) to port table. 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PortSlot {
    /// Kernel interface index of the device; 0 = empty.
    pub ifindex: u32,
    /// 802.1Q VLAN id, 0 = untagged.
    pub vlan: u16,
    /// Index into [`ControlHalf::ports`].
    pub port: u8,
    /// Zero.
    pub reserved: u8,
}

/// First slot of the look-up for `(ifindex, vlan)`.
#[inline]
pub const fn port_slot(ifindex: u32, vlan: u16) -> usize {
    (ifindex.wrapping_add((vlan as u32).wrapping_mul(0x9e37)) as usize) & (PORT_SLOTS - 1)
}

/// An uplink. 192 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Uplink {
    /// Name; empty = slot unused.
    pub name: Name,
    /// Index into [`ControlHalf::ports`].
    pub port: u8,
    /// [`Translate`].
    pub translate: u8,
    /// Valid entries of `pool`.
    pub pool_len: u8,
    /// 1 while weight was set at run time, so differs from the configuration file.
    pub weight_overridden: u8,
    /// Configured weight, the default of policy members.
    pub weight: u16,
    /// 1: from this uplink the LANs' prefixes may be reached without a flow.
    pub inbound: u8,
    /// Zero.
    pub reserved0: u8,
    /// First NAT port, inclusive.
    pub nat_lo: u16,
    /// Last NAT port, inclusive.
    pub nat_hi: u16,
    /// Address of the next hop, network order.
    pub next_hop: [u8; 4],
    /// Hardware address of the next hop; zero = not resolved.
    pub next_hop_mac: Mac,
    /// Pool of source addresses, network order.
    pub pool: [[u8; 4]; MAX_POOL],
    /// When the uplink last changed usability, CLOCK_REALTIME seconds.
    pub since: u64,
    /// Next hop for IPv6; zero = none.
    pub next_hop6: [u8; 16],
    /// Hardware address of the IPv6 next hop.
    pub next_hop6_mac: [u8; 6],
    /// Zero.
    pub reserved2: [u8; 2],
    /// When the uplink is to be empty, CLOCK_BOOTTIME seconds; 0 = it is not being emptied,
    /// [`Uplink::NO_DEADLINE`] = until told otherwise. For the next control process.
    pub drain_until: u64,
    /// Zero.
    pub reserved3: [u8; 32],
}

impl Uplink {
    /// Being emptied until the operator says otherwise.
    pub const NO_DEADLINE: u64 = u64::MAX;

    /// The valid entries of `pool`.
    #[inline]
    pub fn addresses(&self) -> &[[u8; 4]] {
        &self.pool[..usize::from(self.pool_len).min(self.pool.len())]
    }
}

/// One member of a policy. 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Member {
    /// Index into [`ControlHalf::uplinks`].
    pub uplink: u8,
    /// Tier, 1 = best; only the best tier with a usable uplink takes new flows.
    pub tier: u8,
    /// Weight; the top bit ([`Member::OVERRIDDEN`]) marks one set at run time for this policy.
    pub weight: u16,
}

impl Member {
    /// Greatest weight.
    pub const MAX_WEIGHT: u16 = 0x7fff;
    /// Marks a weight set at run time.
    pub const OVERRIDDEN: u16 = 0x8000;
}

/// A policy; its buckets are table `(epoch & 1) * MAX_POLICIES + index` of the `BUCKETS` map.
/// 312 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Policy {
    /// Name; empty = slot unused.
    pub name: Name,
    /// [`Selection`].
    pub selection: u8,
    /// Valid entries of `members`.
    pub member_count: u8,
    /// The tier the live buckets were made for, 0 = no usable uplink.
    pub active_tier: u8,
    /// [`OnUplinkDown`].
    pub on_uplink_down: u8,
    /// [`ComeHome`].
    pub come_home: u8,
    /// Uplink of a flow that promises to be heavy, [`NONE`] = by its bucket.
    pub heavy: u8,
    /// A flow is idle when it had no packet for so long, seconds.
    pub idle_s: u16,
    /// Most flows that a worker moves home each second.
    pub home_per_second: u32,
    /// Number of the policy's bucket table: another one whenever it holds anything else.
    pub table: u32,
    /// [`checksum64`] of the policy's bucket table.
    pub buckets_checksum: u64,
    /// Members.
    pub members: [Member; MAX_UPLINKS],
}

impl Policy {
    /// The valid entries of `members`.
    #[inline]
    pub fn members(&self) -> &[Member] {
        &self.members[..usize::from(self.member_count).min(self.members.len())]
    }
}

/// An address prefix of either family; IPv4 uses the first four bytes of `address`. 24 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Prefix {
    /// Address with the host bits zero, network order.
    pub address: [u8; 16],
    /// 4, 6, or 0 = matches everything of either family.
    pub family: u8,
    /// Prefix length, bits.
    pub length: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl Prefix {
    /// Matches every address.
    pub const ANY: Self = Self { address: [0; 16], family: 0, length: 0, reserved: [0; 6] };

    /// An IPv4 prefix; host bits of `address` must be zero.
    pub const fn v4(address: [u8; 4], length: u8) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = address[0];
        bytes[1] = address[1];
        bytes[2] = address[2];
        bytes[3] = address[3];
        Self { address: bytes, family: 4, length, reserved: [0; 6] }
    }

    /// Does the prefix cover this IPv4 address?
    #[inline]
    pub fn contains4(&self, address: [u8; 4]) -> bool {
        match self.family {
            0 => true,
            4 => {
                let [a, b, c, d, ..] = self.address;
                let length = u32::from(self.length.min(32));
                let mask = (u64::from(u32::MAX) << (32 - length)) as u32;
                u32::from_be_bytes(address) & mask == u32::from_be_bytes([a, b, c, d])
            }
            _ => false,
        }
    }
}

/// A steering rule: all given criteria must hold; the first rule that matches wins. 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Rule {
    /// Name.
    pub name: Name,
    /// Bit *p* set: packets that came in by port *p* match.
    pub in_ports: u64,
    /// Source prefix.
    pub source: Prefix,
    /// Destination prefix.
    pub destination: Prefix,
    /// IP protocol number, 0 = any.
    pub protocol: u8,
    /// DSCP, 0xff = any.
    pub dscp: u8,
    /// Index into [`ControlHalf::policies`].
    pub policy: u8,
    /// Zero.
    pub reserved0: u8,
    /// Source ports, first and last, inclusive; 0–65535 = any, and then also protocols without ports.
    pub source_ports: [u16; 2],
    /// Destination ports, likewise.
    pub destination_ports: [u16; 2],
    /// Zero.
    pub reserved1: [u8; 28],
}

impl Rule {
    /// Without a name or criteria: everything matches.
    pub const fn any(policy: u8) -> Self {
        Self {
            name: Name([0; 32]),
            in_ports: u64::MAX,
            source: Prefix::ANY,
            destination: Prefix::ANY,
            protocol: 0,
            dscp: 0xff,
            policy,
            reserved0: 0,
            source_ports: [0, u16::MAX],
            destination_ports: [0, u16::MAX],
            reserved1: [0; 28],
        }
    }
}

/// Idle timeouts, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Timeouts {
    /// TCP before the handshake is complete (RFC 5382 REQ-5: transitory, 4 minutes).
    pub tcp_opening: u32,
    /// TCP established (RFC 5382 REQ-5: 2 h 4 min).
    pub tcp_established: u32,
    /// TCP after FIN or RST (RFC 5382 REQ-5, RFC 7857 §2.1).
    pub tcp_closing: u32,
    /// UDP (RFC 4787 REQ-5: recommended 5 minutes).
    pub udp: u32,
    /// ICMP queries (RFC 5508 REQ-2: 60 s).
    pub icmp: u32,
    /// Zero.
    pub reserved: u32,
}

impl Timeouts {
    /// What the RFCs ask for.
    pub const DEFAULT: Self = Self {
        tcp_opening: 240,
        tcp_established: 7440,
        tcp_closing: 240,
        udp: 300,
        icmp: 60,
        reserved: 0,
    };
}

/// What the XDP program does with transit while no dataplane socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnDataplaneLoss {
    /// Transit is dropped: nothing leaves untranslated.
    Drop = 0,
    /// Transit goes to the kernel, which forwards it if it is set up to.
    Kernel = 1,
}

/// Which tier forwards established flows. The user tier forwards all others in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tier {
    /// The user tier.
    User = 0,
    /// The XDP program, by the flow table.
    Kernel = 1,
}

impl Tier {
    /// What this machine can do of it. The kernel tier reads flow entries without barriers, see
    /// [`flow`](super::flow), which takes a machine that keeps loads and stores in order.
    pub const fn here(self) -> Self {
        if cfg!(target_arch = "x86_64") { self } else { Self::User }
    }
}

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
    /// [`OnDataplaneLoss`].
    pub on_dataplane_loss: u8,
    /// Policy of packets that no rule matches.
    pub default_policy: u8,
    /// Worker threads asked for.
    pub workers: u8,
    /// [`Tier`].
    pub tier: u8,
    /// Valid entries of `rules`.
    pub rule_count: u32,
    /// Valid entries of `lan_prefixes`.
    pub lan_prefix_count: u32,
    /// Slots of the IPv4 flow table to create.
    pub flow_slots: u32,
    /// CPU of each worker; 0xffff = not pinned.
    pub cores: [u16; super::MAX_WORKERS],
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
    /// By port, [`checksum64`] of the interface's name in the configuration: who the port is while
    /// the interface is missing, and with it the device and the VLAN.
    pub interfaces: [u64; MAX_PORTS],
}

/// The whole control page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControlPage {
    /// Identification.
    pub header: RegionHeader,
    /// Number of publications so far; 0 = nothing published. Atomic.
    pub epoch: u64,
    /// Process id of the control process, 0 = none ever. Atomic.
    pub pid: u64,
    /// When the control process last said it was alive, CLOCK_MONOTONIC milliseconds. Atomic.
    pub heartbeat_ms: u64,
    /// [`SettingsBefore`], packed. Atomic.
    pub settings_before: u64,
    /// State word of each uplink, bits of [`uplink_state`]. Atomic.
    pub uplink_state: [u32; MAX_UPLINKS],
    /// The two halves; half `epoch & 1` is current.
    pub half: [ControlHalf; 2],
    /// A bit for each port that a socket of the gateway has bound, lowest first: no flow is given
    /// it. Atomic words, each true for itself.
    pub bound_ports: [u64; PORT_WORDS],
}

/// The kernel's settings as they were before the control process changed them, to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsBefore {
    /// `net.ipv4.ip_local_port_range`, first and last; zero: it was not changed.
    pub local_ports: (u16, u16),
    /// `net.ipv4.ip_forward` was 0.
    pub forwarded_nothing: bool,
}

impl SettingsBefore {
    /// As one word: the ports in bits 0–15 and 16–31, then the flag.
    pub const fn pack(self) -> u64 {
        let (first, last) = self.local_ports;
        first as u64 | (last as u64) << 16 | (self.forwarded_nothing as u64) << 32
    }

    /// From that word.
    pub const fn unpack(word: u64) -> Self {
        Self {
            local_ports: (word as u16, (word >> 16) as u16),
            forwarded_nothing: word >> 32 & 1 == 1,
        }
    }
}

impl ControlHalf {
    /// What [`Self::checksum`] must be.
    pub fn compute_checksum(&self) -> u64 {
        checksum64(self.as_bytes().get(8..).unwrap_or(&[]))
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

    /// May packets that come in by this LAN port have this source? Only those of its own prefixes
    /// (RFC 2827).
    pub fn is_behind(&self, port: u8, source: [u8; 4]) -> bool {
        let mut prefixes = self.lan_prefixes().iter().zip(&self.lan_prefix_ports);
        prefixes.any(|(prefix, behind)| *behind == port && prefix.contains4(source))
    }

    /// An empty state with every index invalid.
    pub fn clear(&mut self) {
        self.zero();
        self.cores = [u16::MAX; super::MAX_WORKERS];
        self.timeouts = Timeouts::DEFAULT;
        self.lan_prefix_ports = [NONE; MAX_LAN_PREFIXES];
        for port in &mut self.ports {
            port.uplink = NONE;
        }
        for policy in &mut self.policies {
            policy.heavy = NONE;
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

/// Classes of IPv4 destinations, values of the `HOSTS4` longest-prefix map (written by control).
pub mod host_class {
    /// An address of the gateway itself.
    pub const LOCAL: u32 = 1;
    /// A prefix the kernel routes: through an interface that is no uplink, LANs included.
    pub const KERNEL: u32 = 2;
    /// A prefix behind a LAN port that uplinks without translation carry.
    pub const LAN: u32 = 3;
    /// An address that an uplink translates to and the gateway does not have itself.
    pub const POOL: u32 = 4;
    /// A prefix that the kernel routes by one uplink alone.
    pub const NEAR: u32 = 5;
}

const _: () = {
    assert!(size_of::<Device>() == 64);
    assert!(size_of::<Port>() == 64);
    assert!(size_of::<PortSlot>() == 8);
    assert!(size_of::<Uplink>() == 192);
    assert!(size_of::<Policy>() == 312);
    assert!(size_of::<Prefix>() == 24);
    assert!(size_of::<Rule>() == 128);
    assert!(size_of::<ControlHalf>().is_multiple_of(8));
    assert!(core::mem::offset_of!(ControlPage, uplink_state) == 56);
    assert!(core::mem::offset_of!(ControlPage, half) == 56 + 256);
};
