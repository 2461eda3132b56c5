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
//!
//! | module | what it is |
//! |---|---|
//! | `page` | what stands beside the halves |
//! | `half` | one complete published state |
//! | `uplink`, [`uplink_state`] | an uplink, and its state word |
//! | `policy` | how flows are shared, and what becomes of them |
//! | `rule` | which policy steers a flow |
//! | `port`, `device` | where frames come in and leave |
//! | `settings` | of the whole gateway |
//! | `name`, `mac` | names and hardware addresses |
//! | [`host_class`] | what a destination is, in a map of its own |

mod device;
mod half;
pub mod host_class;
mod mac;
mod name;
mod page;
mod policy;
mod port;
mod rule;
mod settings;
mod uplink;
pub mod uplink_state;

pub use device::{Device, DeviceFault};
pub use half::{ControlHalf, MAX_LAN_PREFIXES};
pub use mac::Mac;
pub use name::Name;
pub use page::{ControlPage, PORT_WORDS, SettingsBefore};
pub use policy::{ComeHome, Member, OnUplinkDown, Policy, Selection};
pub use port::{MAX_VIRTUAL_MACS, PORT_PROBES, PORT_SLOTS, Port, PortRole, PortSlot, port_slot};
pub use rule::{Prefix, Rule};
pub use settings::{OnDataplaneLoss, Tier, Timeouts};
pub use uplink::{MAX_POOL, Translate, Uplink};

/// Least time between two publications, microseconds.
pub const MIN_PUBLISH_GAP_US: u64 = 500;

/// Buckets per policy; one byte each, the uplink's index or [`NONE`](crate::NONE).
pub const BUCKETS: usize = 65_536;

/// Banks of bucket tables in the `BUCKETS` map: one per half, and the control process's memory of
/// where buckets belong while an uplink is away. Table index: `bank * MAX_POLICIES + policy`.
pub const BUCKET_BANKS: usize = 3;

/// The bank that only the control process reads.
pub const HOME_BANK: usize = 2;
