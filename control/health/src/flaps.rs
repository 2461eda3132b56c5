//! The hold-down and how it grows.

use weir_site::health::Health;

/// How often an uplink has flapped, with time forgiving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaps {
    count: u32,
    last: u64,
}

impl Flaps {
    /// One more. Beyond the longest hold-down nothing is counted, so that a minute of flapping is
    /// not paid for by a day of decay.
    pub fn add(&mut self, health: &Health, now: u64) {
        let count = self.count(health, now);
        let more = count == 0 || hold(health, count) < u64::from(health.hold_down_max_ms);
        self.count = if more { (count + 1).min(32) } else { count };
        self.last = now;
    }

    /// How many are not forgiven: one is after every `flap_memory_ms` without another.
    pub fn count(&self, health: &Health, now: u64) -> u32 {
        let memories = now.saturating_sub(self.last) / u64::from(health.flap_memory_ms.max(1));
        self.count.saturating_sub(memories.min(u64::from(u32::MAX)) as u32)
    }

    /// How long the uplink must be well, milliseconds, as of the last flap: waiting out the
    /// hold-down does not shorten it.
    pub fn hold_ms(&self, health: &Health) -> u64 {
        hold(health, self.count)
    }
}

fn hold(health: &Health, count: u32) -> u64 {
    let doubled = u64::from(health.hold_down_ms) << count.saturating_sub(1).min(31);
    doubled.min(u64::from(health.hold_down_max_ms))
}
