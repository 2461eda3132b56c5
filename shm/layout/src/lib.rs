//! The layouts of the shared-memory regions, as every process and the XDP program see them.
//!
//! A region is the value area of one BPF array map, pinned in bpffs and mapped by the processes.
//!
//! | region | map | single writer | readers |
//! |---|---|---|---|
//! | [`control`] page | `CONTROL` | control process | XDP, workers, CLI |
//! | bucket tables ([`control::BUCKETS`] bytes each) | `BUCKETS` | control process | XDP, workers, CLI |
//! | [`flow`] table, IPv4 | `FLOWS4` | the owning worker; counters: the forwarding tier | XDP, CLI |
//! | [`tags`] of its slots | `TAGS4` | workers, by compare-and-swap | XDP |
//! | the same, [IPv6](flow6) | `FLOWS6`, `TAGS6` | as above | XDP |
//! | [`blocks`] with destinations that stay | `BLOCKS` | control process | XDP |
//! | [`adjacency`] table | `ADJACENCIES` | next hops: control process; LANs: workers | XDP, workers |
//! | [`allowance`] by socket | `ALLOWANCES` | the worker whose socket it is | XDP |
//! | [`counters`] | `COUNTERS` | one lane per CPU or worker | CLI |
//! | [`observations`] | `OBSERVATIONS` | one part per worker | control |
//! | [`nat_log`] of allocations | `NAT_LOG` | one ring per worker | control |
//! | what is written of it | `NAT_LOG_READ` | control process | workers, CLI |
//! | dataplane [`status`] | `STATUS` | dataplane | control, CLI |
//! | [prefix sets](prefix_sets) | `SETS` | control process | workers, CLI |
//! | [`sysctls`] as they were before weir | `SYSCTLS` | control process | CLI |
//!
//! Numbers are in host byte order unless a field says "network order"; addresses and ports that
//! travel in packets are kept as the bytes of the packet. All padding is explicit and zero. A
//! region whose [`RegionHeader`] is not exactly the expected one is refused, never interpreted.
//!
//! The crate is `no_std` and has no `unsafe`: the XDP program reads by the same definitions.
#![no_std]
#![forbid(unsafe_code)]

pub mod adjacency;
pub mod allowance;
pub mod blocks;
pub mod control;
pub mod counters;
mod family;
pub mod flow;
pub mod flow6;
pub mod nat_log;
pub mod observations;
pub mod prefix_sets;
pub mod protocol;
pub mod set;
pub mod status;
pub mod sysctls;
pub mod tags;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use family::Family;

/// First eight bytes of every region that has a header: `weirshm` and a zero, as ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"weirshm\0");

/// Version of all layouts together; any change of any of them increments it.
pub const VERSION: u32 = 12;

/// Number of slots for uplinks, ports and devices; an index into any of them is below it.
pub const MAX_UPLINKS: usize = 64;
/// Number of slots for ports (a device, or one VLAN of a device).
pub const MAX_PORTS: usize = 64;
/// Number of slots for devices, that is, network interfaces XDP is attached to.
pub const MAX_DEVICES: usize = 64;
/// Queues per device that can carry an AF_XDP socket; key of the XSKMAP is
/// `device * MAX_QUEUES + queue`.
pub const MAX_QUEUES: usize = 256;
/// Number of slots for policies.
pub const MAX_POLICIES: usize = 32;
/// Number of slots for rules.
pub const MAX_RULES: usize = 256;
/// Number of worker threads.
pub const MAX_WORKERS: usize = 32;
/// "No uplink", "no port", "no device" in a one-byte index.
pub const NONE: u8 = 0xff;

/// Which region a header belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RegionKind {
    /// [`control::ControlPage`]
    Control = 1,
    /// [`status::StatusPage`]
    Status = 2,
    /// A [`counters::Lane`]; every lane has a header.
    Counters = 3,
    /// The IPv4 flow table; its header is in [`status::StatusPage::flows`].
    Flows4 = 4,
    /// An [`observations::WorkerObservations`]; every worker's has a header.
    Observations = 5,
    /// The IPv6 flow table; likewise.
    Flows6 = 6,
    /// A [`nat_log::Ring`]; every worker's has a header.
    NatLog = 7,
    /// [`nat_log::Reader`]
    NatLogRead = 8,
    /// The [sets of prefixes](prefix_sets).
    Sets = 9,
}

/// Identification at offset 0 of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct RegionHeader {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// [`RegionKind`].
    pub kind: u32,
    /// Bytes of the region's structure, header included.
    pub size: u64,
}

impl RegionHeader {
    /// The only header a reader of this version accepts for `kind`.
    pub const fn expected(kind: RegionKind, size: usize) -> Self {
        Self { magic: MAGIC, version: VERSION, kind: kind as u32, size: size as u64 }
    }
}

/// XXH3: guards a published half against torn or foreign memory, not against an adversary who can
/// write the region.
pub fn checksum64(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Largest frame of AF_XDP's, bytes: a page (`xdp_umem_reg`, net/xdp/xdp_umem.c).
pub const LARGEST_FRAME: u32 = 4096;
/// What stands before a packet in a frame that was received in copy mode, bytes: XDP_PACKET_HEADROOM,
/// and an Ethernet header with a tag.
pub const BEFORE_PACKET: u32 = 256 + 18;
/// Most bytes of an IPv4 packet that a worker takes.
pub const LARGEST_PACKET: u32 = LARGEST_FRAME - BEFORE_PACKET;
