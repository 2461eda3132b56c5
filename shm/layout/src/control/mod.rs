//! The control page: uplinks, policies and rules, published by the control process.
//!
//! The page holds two [`ControlHalf`]s. Control writes the half that `epoch + 1` selects, then
//! stores `epoch + 1` with release ordering. A reader loads `epoch` (acquire), uses half
//! `epoch & 1`, and, if it copies, loads `epoch` again: unchanged means the copy is whole. Bucket
//! tables have two banks likewise, which workers read in place: what they find of epoch *n* holds
//! while `begun`, stored before anything of an epoch is, is less than *n* + 2.
//! Control leaves at least [`MIN_PUBLISH_GAP_US`] between two publications, which is thousands of
//! times the life of one XDP run, so a program that reads in place never meets a half being
//! rewritten.
//!
//! `path_state` stands outside the halves: one aligned 32-bit store moves all flows of a path.
//!
//! | module | what it is |
//! |---|---|
//! | `page` | what stands beside the halves |
//! | `half` | one complete published state |
//! | `uplink` | an uplink, and its two paths |
//! | `path`, [`path_state`] | an uplink in one address family, and its state word |
//! | `path_prefix` | which prefixes a path has, and what stands inside for them |
//! | [`carried`] | which sources a path carries |
//! | `policy` | how flows are shared, and what becomes of them |
//! | `rule` | which policy steers a flow, and which there are none of |
//! | `port_forward` | what may come in unasked, and to whom it goes |
//! | `stateless` | how packets leave where no flow needs to be known |
//! | `port`, `device` | where frames come in and leave |
//! | `settings` | of the whole gateway |
//! | `name`, `address`, `mac` | names, addresses of either family, hardware addresses |
//! | [`host_class`] | what a destination is, in a map of its own |

mod address;
pub mod carried;
mod device;
mod half;
pub mod host_class;
mod mac;
mod name;
pub mod nat_ports;
mod own_peer;
mod page;
mod path;
mod path_prefix;
pub mod path_state;
mod policy;
mod port;
mod port_forward;
mod rule;
mod sets;
mod settings;
mod stateless;
mod uplink;

pub use address::{Address, IpAddress, UNROUTED, is_unrouted};
pub use device::{Device, DeviceFault};
pub use half::{ControlHalf, MAX_KEPT, MAX_LAN_PREFIXES};
pub use mac::Mac;
pub use name::Name;
pub use own_peer::{MAX_OWN_PEERS, OwnPeer};
pub use page::{ControlPage, PATHS, PORT_WORDS};
pub use path::{MAX_POOL, Path, PathId, Translate, inbound};
pub use path_prefix::{MAX_PATH_PREFIXES, PathPrefix};
pub use policy::{ComeHome, Member, OnUplinkDown, Policy, Selection, Steering};
pub use port::{MAX_VIRTUAL_MACS, PORT_PROBES, PORT_SLOTS, Port, PortRole, PortSlot, port_slot};
pub use port_forward::{
    MAX_ALLOWED, MAX_MAPPED, MAX_MAPPED_ALLOWED, MAX_PORT_FORWARDS, MAX_PUBLISHED,
    MAX_PUBLISHED_ALLOWED, OPEN_PORTS, OpenPorts, PortBlocks, PortForward,
};
pub use rule::{Prefix, Rule, RuleAction, RuleFrom};
pub use sets::{Set, SetTest, Sets};
pub use settings::{OnDataplaneLoss, Tier, Timeouts};
pub use stateless::{MAX_ORIGINS, Origin, Stateless};
pub use uplink::{Filtering, TcpMapping, Uplink};

use crate::{Family, MAX_POLICIES};

/// Least time between two publications, microseconds.
pub const MIN_PUBLISH_GAP_US: u64 = 500;

/// Buckets in a table; one byte each, the uplink's index or [`NONE`](crate::NONE).
pub const BUCKETS: usize = 65_536;

/// One policy's bucket table: an uplink's index, or [`NONE`](crate::NONE), for each bucket.
pub type BucketTable = [u8; BUCKETS];

/// Banks of bucket tables in the `BUCKETS` map: one per half, and the control process's memory of
/// where buckets belong while a path is away. See [`table_index`].
pub const BUCKET_BANKS: usize = 3;

/// The bank that only the control process reads.
pub const HOME_BANK: usize = 2;

/// Bucket tables of a bank: one of each policy in each family.
pub const TABLES: usize = Family::COUNT * MAX_POLICIES;

/// Index in the `BUCKETS` map of a policy's table.
#[inline]
pub const fn table_index(bank: usize, family: Family, policy: usize) -> usize {
    (bank % BUCKET_BANKS * Family::COUNT + family.index()) * MAX_POLICIES + policy % MAX_POLICIES
}
