//! When hosts are told that their mappings may be no more: at once, and nine times after, each time
//! after twice as long, for datagrams are lost (RFC 6886 §3.2.1, RFC 6887 §14.1.3).

/// How often.
const TIMES: u32 = 10;
/// From the first time to the second, milliseconds.
const FIRST_MS: u64 = 250;

/// Of one link.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    told: u32,
    next: Option<u64>,
}

impl Schedule {
    /// Begins anew.
    pub const fn begin(&mut self, now: u64) {
        *self = Self { told: 0, next: Some(now) };
    }

    /// When they are told next.
    pub const fn deadline(&self) -> Option<u64> {
        self.next
    }

    /// Are they to be told now? The caller does, if so.
    pub fn take(&mut self, now: u64) -> bool {
        let due = self.next.is_some_and(|next| next <= now);
        if due {
            self.next = (self.told + 1 < TIMES).then(|| now + (FIRST_MS << self.told));
            self.told += 1;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_ten_times_each_time_after_twice_as_long() {
        let mut schedule = Schedule::default();
        assert!(!schedule.take(0));
        schedule.begin(1000);
        let mut told = Vec::new();
        while let Some(next) = schedule.deadline() {
            assert!(!schedule.take(next - 1) && schedule.take(next));
            told.push(next - 1000);
        }
        assert_eq!(told, [0, 250, 750, 1750, 3750, 7750, 15_750, 31_750, 63_750, 127_750]);
    }
}
