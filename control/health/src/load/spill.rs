//! Whether an uplink is too full for new flows.

use weir_site::load::{Direction, Spill};

use crate::window::Figure;

/// Least time in a state, milliseconds: new flows take a while to show in the load.
pub const LEAST_MS: u64 = 5000;

/// The load of one direction of known capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// Which.
    pub direction: Direction,
    /// Load, percent of the capacity.
    pub percent: Figure,
    /// Capacity, bits per second.
    pub capacity: u64,
}

/// An uplink became too full, or has room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Index of the uplink.
    pub uplink: u8,
    /// Is it too full?
    pub saturated: bool,
    /// The tighter direction, its load in percent and its capacity in bits per second; none: they
    /// are not known any more, or no threshold is set.
    pub tighter: Option<(Direction, u32, u64)>,
}

/// The state of one uplink, with hysteresis.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spiller {
    saturated: bool,
    since: Option<u64>,
}

impl Spiller {
    /// Is it too full?
    pub fn saturated(self) -> bool {
        self.saturated
    }

    /// Takes the load of the directions that have a known capacity. What changed, as
    /// [`Change::tighter`] has it: outer none, nothing.
    pub fn step(
        &mut self,
        spill: Option<Spill>,
        parts: &[Part],
        now: u64,
    ) -> Option<Option<(Direction, u32, u64)>> {
        let highest = |part: &Part| part.percent.window.max(part.percent.weighted);
        let tighter = parts
            .iter()
            .max_by(|a, b| highest(a).total_cmp(&highest(b)))
            .map(|p| (p.direction, p.percent.window.round() as u32, p.capacity));
        let saturated = match spill.map(Spill::limits).filter(|_| !parts.is_empty()) {
            // Nothing to judge by: that waits for nothing.
            None => return self.enter(false, now).then_some(None),
            Some(limits) if self.saturated => !parts.iter().all(|p| p.percent.under(limits)),
            Some(limits) => parts.iter().any(|p| p.percent.over(limits)),
        };
        let early = self.since.is_some_and(|since| now < since + LEAST_MS);
        if early {
            return None;
        }
        self.enter(saturated, now).then_some(tighter)
    }

    fn enter(&mut self, saturated: bool, now: u64) -> bool {
        if self.saturated == saturated {
            return false;
        }
        (self.saturated, self.since) = (saturated, Some(now));
        true
    }
}
