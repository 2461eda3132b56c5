//! What is published, with the counters beside it: as views for people and programs read it.

use weir_layout::control::{BUCKETS, PathId, path_state};
use weir_layout::{Family, NONE};

use crate::control::{ControlRegion, Snapshot};
use crate::counters::Counters;
use crate::map::Access;
use crate::{Error, Pins};

/// What views read.
#[derive(Debug)]
pub struct Published {
    /// The control page and the bucket tables.
    pub region: ControlRegion,
    /// The state that was in force when this was opened.
    pub snapshot: Box<Snapshot>,
    /// Counters of both tiers.
    pub counters: Counters,
}

/// Buckets of one policy's table in one family, by uplink.
#[derive(Clone, Debug)]
pub struct Shares([u32; 256]);

impl Shares {
    /// How much of all new flows an uplink is to get, 0 to 1; none where no table is.
    pub fn of(&self, uplink: u8) -> f64 {
        f64::from(self.0[usize::from(uplink)]) / BUCKETS as f64
    }

    /// The same in percent, to one decimal.
    pub fn percent(&self, uplink: u8) -> f64 {
        (self.of(uplink) * 1000.0).round() / 10.0
    }
}

impl Published {
    /// Reads what is published; `None`: nothing yet, or memory that no control process wrote.
    ///
    /// # Errors
    /// When a region is missing or cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Option<Self>, Error> {
        let region = ControlRegion::open(pins, Access::Read)?;
        let Some(snapshot) = region.snapshot() else { return Ok(None) };
        Ok(Some(Self { region, snapshot, counters: Counters::open(pins, Access::Read)? }))
    }

    /// Names of the uplinks, in order.
    pub fn uplinks(&self) -> Vec<&str> {
        let uplinks = self.snapshot.half.uplinks.iter().map(|uplink| uplink.name.as_str());
        uplinks.take_while(|name| !name.is_empty()).collect()
    }

    /// An uplink's name; none: it is [`NONE`], of what stays inside.
    pub fn uplink_name(&self, uplink: u8) -> Option<&str> {
        if uplink == NONE {
            return None;
        }
        let uplink = self.snapshot.half.uplinks.get(usize::from(uplink));
        Some(uplink.map_or("?", |uplink| uplink.name.as_str()))
    }

    /// Is the uplink used in the family?
    pub fn has_path(&self, path: PathId) -> bool {
        self.region.path_state(path) & path_state::NOT_CONFIGURED == 0
    }

    /// How a policy shares the new flows of a family.
    pub fn shares(&self, policy: usize, family: Family) -> Shares {
        let mut owned = [0; 256];
        for owner in self.snapshot.table(family, policy).into_iter().flatten() {
            owned[usize::from(*owner)] += 1;
        }
        Shares(owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parts_of_all_buckets() {
        let mut owned = [0; 256];
        (owned[0], owned[1]) = (BUCKETS as u32 / 3, BUCKETS as u32 / 2);
        let shares = Shares(owned);
        assert_eq!((shares.percent(0), shares.of(1), shares.of(2)), (33.3, 0.5, 0.0));
    }
}
