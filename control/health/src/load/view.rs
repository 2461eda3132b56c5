//! How the load is told, to people and programs.

use serde::{Deserialize, Serialize};

/// Where a capacity is from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CapacityFrom {
    /// The file.
    Configured,
    /// Load and round-trip time.
    Learned,
    /// It is not known.
    #[default]
    Unknown,
}

/// One direction of an uplink; bits per second from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionView {
    /// Load over the last second.
    pub load: u64,
    /// Load, exponentially weighted.
    pub load_weighted: u64,
    /// Capacity, if it is known.
    pub capacity: Option<u64>,
    /// Where the capacity is from.
    pub capacity_from: CapacityFrom,
}

/// The load of an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadView {
    /// From the provider.
    pub down: DirectionView,
    /// To the provider.
    pub up: DirectionView,
    /// Too full for new flows, while others have room.
    pub saturated: bool,
    /// Round-trip time of the link when it does not queue, milliseconds.
    pub base_rtt_ms: Option<f64>,
}
