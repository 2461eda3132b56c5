//! What shared memory says, as all views read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use weir_layout::control::{Address, BUCKETS, PathId, path_state};
use weir_layout::{Family, NONE};
use weir_shm::Pins;
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::map::Access;

use super::flows::INSIDE;

/// The regions are there, and empty.
#[derive(Debug, thiserror::Error)]
#[error("nothing is published yet: start weir-control")]
pub struct NothingPublished;

/// What the views read.
pub struct State {
    pub region: ControlRegion,
    pub snapshot: Box<Snapshot>,
    pub counters: Counters,
}

impl State {
    pub fn open(pins: &Pins) -> Result<Self> {
        let region = ControlRegion::open(pins, Access::Read)?;
        let snapshot = region.snapshot().ok_or(NothingPublished)?;
        Ok(Self { region, snapshot, counters: Counters::open(pins, Access::Read)? })
    }

    /// Names of what is published, in order.
    pub fn uplinks(&self) -> Vec<&str> {
        let uplinks = self.snapshot.half.uplinks.iter().map(|uplink| uplink.name.as_str());
        uplinks.take_while(|name| !name.is_empty()).collect()
    }

    /// The uplink's name; [`INSIDE`] of what stays inside.
    pub fn uplink_name(&self, uplink: u8) -> &str {
        if uplink == NONE {
            return INSIDE;
        }
        self.snapshot.half.uplinks.get(usize::from(uplink)).map_or("?", |u| u.name.as_str())
    }

    /// Is the uplink used in the family?
    pub fn has_path(&self, path: PathId) -> bool {
        self.region.path_state(path) & path_state::NOT_CONFIGURED == 0
    }

    /// Percentage of a policy's buckets that an uplink has in a family.
    pub fn share(&self, policy: usize, family: Family, uplink: u8) -> f64 {
        let Some(table) = self.snapshot.table(family, policy) else { return 0.0 };
        let owned = table.iter().filter(|owner| **owner == uplink).count();
        (owned as f64 * 1000.0 / BUCKETS as f64).round() / 10.0
    }
}

/// An address of a family.
pub fn address(family: Family, address: Address) -> String {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(address.to_v4())),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(address.0)),
    }
    .to_string()
}
