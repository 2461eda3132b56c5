//! Times and durations, for people.

use jiff::Timestamp;
use rustix::time::ClockId;

/// CLOCK_REALTIME, seconds: for people. No deadline is kept in it, because it is set.
pub fn now_s() -> u64 {
    clock_s(ClockId::Realtime)
}

/// As [`now_s`], milliseconds.
pub fn now_ms() -> u64 {
    clock_ms(ClockId::Realtime)
}

/// CLOCK_BOOTTIME, seconds: goes on while the machine sleeps, and is never set.
pub fn boot_s() -> u64 {
    clock_s(ClockId::Boottime)
}

/// CLOCK_MONOTONIC, milliseconds: the clock of shared memory.
pub fn monotonic_ms() -> u64 {
    clock_ms(ClockId::Monotonic)
}

fn clock_ms(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

fn clock_s(clock: ClockId) -> u64 {
    rustix::time::clock_gettime(clock).tv_sec as u64
}

/// RFC 3339, in UTC, of milliseconds since the Unix epoch.
pub fn of_milliseconds(ms: u64) -> String {
    let timestamp = Timestamp::from_millisecond(ms as i64).unwrap_or_default();
    format!("{timestamp:.3}")
}

/// RFC 3339, in UTC, of seconds since the Unix epoch.
pub fn of_day(seconds: u64) -> String {
    Timestamp::from_second(seconds as i64).unwrap_or_default().to_string()
}

/// `90061` seconds are `1d 1h`.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        assert_eq!([0, 61, 3_700, 90_061].map(duration), ["0s", "1m 1s", "1h 1m", "1d 1h"]);
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(of_milliseconds(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(of_day(1_700_000_000), "2023-11-14T22:13:20Z");
    }
}
