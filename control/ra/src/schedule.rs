//! When advertisements are sent to all hosts of a link (RFC 4861 §6.2.4 and §6.2.6).

/// Longest time between two, milliseconds (`MaxRtrAdvInterval`).
const MAX_INTERVAL_MS: u64 = 600_000;
/// Shortest time between two that nothing has called for (`MinRtrAdvInterval`).
const MIN_INTERVAL_MS: u64 = 200_000;
/// Shortest time between any two (`MIN_DELAY_BETWEEN_RAS`).
const MIN_DELAY_MS: u64 = 3000;
/// Longest time between the first ones: less than `MAX_INITIAL_RTR_ADVERT_INTERVAL`.
const MAX_INITIAL_MS: u64 = 6000;
/// How many come so close at a start and after a change (`MAX_INITIAL_RTR_ADVERTISEMENTS`).
const INITIAL: u8 = 3;
/// Longest time from a solicitation to its answer (`MAX_RA_DELAY_TIME`).
const MAX_ANSWER_MS: u64 = 500;

/// When the next one is due. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Schedule {
    last: Option<u64>,
    next: u64,
    /// How many are still to come close after each other.
    initial: u8,
}

impl Schedule {
    /// The first one is due at once.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self { last: None, next: now, initial: INITIAL }
    }

    /// When the next one is due.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// What hosts are to know has changed, or hosts may be new: several are sent, the first one as
    /// soon as the link may have one.
    pub fn restart(&mut self, now: u64) {
        self.initial = INITIAL;
        self.next = self.next.min(self.allowed(now));
    }

    /// A host asks.
    pub fn solicit(&mut self, now: u64, random: u64) {
        let answer = self.allowed(now + random % MAX_ANSWER_MS);
        self.next = self.next.min(answer);
    }

    /// One was sent, or could not be.
    pub fn sent(&mut self, now: u64, random: u64) {
        self.last = Some(now);
        self.initial = self.initial.saturating_sub(1);
        let (least, most) = match self.initial {
            0 => (MIN_INTERVAL_MS, MAX_INTERVAL_MS),
            _ => (MIN_DELAY_MS, MAX_INITIAL_MS),
        };
        self.next = now + least + random % (most - least);
    }

    /// The first time from `at` on at which one may be sent.
    fn allowed(&self, at: u64) -> u64 {
        self.last.map_or(at, |last| at.max(last + MIN_DELAY_MS))
    }
}
