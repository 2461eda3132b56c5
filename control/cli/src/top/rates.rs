//! Rates, from counters that grow, wrap around, or begin again.

/// By how much a counter has grown that counts up to `largest`. One that is less than before has
/// wrapped around if it fell by more than half of that; else whoever counts has begun again, from
/// zero.
pub fn grown(before: u64, now: u64, largest: u64) -> u64 {
    match before.checked_sub(now) {
        None | Some(0) => now - before,
        Some(fell) if fell > largest / 2 => largest - fell + 1,
        Some(_) => now,
    }
}

/// So much in so many milliseconds, by the second; 0 where no time has passed.
pub fn per_second(n: u64, elapsed_ms: u64) -> u64 {
    let by_second = (u128::from(n) * 1000).checked_div(elapsed_ms.into()).unwrap_or(0);
    u64::try_from(by_second).unwrap_or(u64::MAX)
}

/// Bytes in so many milliseconds, as bits by the second.
pub fn bits_per_second(bytes: u64, elapsed_ms: u64) -> u64 {
    per_second(bytes, elapsed_ms).saturating_mul(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_has_grown_by_what_it_counted() {
        let largest = u64::from(u32::MAX);
        assert_eq!(grown(10, 25, largest), 15);
        assert_eq!(grown(largest - 4, 5, largest), 10);
        assert_eq!(grown(u64::MAX, 0, u64::MAX), 1);
        assert_eq!(grown(7, 7, u64::MAX), 0);
    }

    #[test]
    fn a_counter_that_begins_again_has_grown_by_what_it_has_now() {
        assert_eq!(grown(1_000_000, 30, u64::MAX), 30);
        assert_eq!(grown(1_000_000, 0, u32::MAX.into()), 0);
    }

    #[test]
    fn a_rate_is_by_the_second_whatever_the_time_between() {
        assert_eq!(per_second(300, 1500), 200);
        assert_eq!(per_second(300, 0), 0);
        assert_eq!(per_second(u64::MAX, 1), u64::MAX);
        assert_eq!(bits_per_second(1250, 500), 20_000);
    }
}
