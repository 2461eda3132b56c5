//! What shared memory dates by the one clock, by the other.

use weir_api::time;
use weir_shm::flows::ago_ms;

/// Two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// CLOCK_MONOTONIC, which shared memory goes by.
    pub monotonic_ms: u64,
    /// CLOCK_REALTIME, since the Unix epoch.
    pub now_ms: u64,
}

impl Clocks {
    /// As they are.
    pub fn now() -> Self {
        Self { monotonic_ms: time::monotonic_ms(), now_ms: time::now_ms() }
    }

    /// When that was which is dated so, CLOCK_MONOTONIC milliseconds, wrapping; since the Unix
    /// epoch.
    pub fn real_ms(self, time_ms: u32) -> u64 {
        let ago = ago_ms(self.monotonic_ms as u32, time_ms);
        self.now_ms.saturating_sub(ago.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_counter_wrapped_is_of_before_and_one_ahead_is_of_now() {
        let clocks = Clocks { monotonic_ms: (1 << 32) + 50, now_ms: 1_000_000 };
        assert_eq!(
            [50, 0, 0u32.wrapping_sub(50), 60].map(|time| clocks.real_ms(time)),
            [1_000_000, 999_950, 999_900, 1_000_000]
        );
    }
}
