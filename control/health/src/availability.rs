//! For how much of the time paths were usable, by hours and by days.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::history::Part;
use super::signal::{Reason, State};

const HOUR_S: u64 = 3600;
const DAY_S: u64 = 24 * HOUR_S;
/// Hours that are kept, the one that goes on among them.
const HOURS: usize = 24;
/// Days likewise.
const DAYS: usize = 30;
/// 1 December 2026, seconds since the Unix epoch.
const WRITTEN_S: u64 = 1_796_083_200;

/// For how much of a time a path was usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// How long it was usable, milliseconds.
    pub usable_ms: u64,
    /// How long of that time somebody watched, milliseconds.
    pub watched_ms: u64,
}

impl Share {
    fn add(&mut self, other: Self) {
        self.usable_ms += other.usable_ms;
        self.watched_ms += other.watched_ms;
    }

    /// Between 0 and 1; none: nobody watched.
    pub fn ratio(self) -> Option<f64> {
        (self.watched_ms > 0).then(|| self.usable_ms as f64 / self.watched_ms as f64)
    }
}

/// The same of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Of the hour that goes on, and the 23 before.
    pub day: Share,
    /// Of the day that goes on (UTC), and the 29 before.
    pub month: Share,
}

/// A path's shares by hours and by days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The path.
    #[serde(flatten)]
    part: Part,
    /// By hours since the Unix epoch, the newest.
    hours: BTreeMap<u64, Share>,
    /// By days since then, the newest.
    days: BTreeMap<u64, Share>,
}

/// Those of all paths.
#[derive(Clone, Debug, Default)]
pub struct Availability {
    records: Vec<Record>,
}

impl Availability {
    /// Goes on with what was kept.
    pub const fn resume(records: Vec<Record>) -> Self {
        Self { records }
    }

    /// What is to be kept.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// A path was in this state for so long, until `unix_s`. What the operator has taken out of
    /// use, and what nothing is known of yet, is not watched; nor is a time before this was
    /// written: the clock is yet to be set.
    pub fn watch(&mut self, part: Part, state: (State, Reason), for_ms: u64, unix_s: u64) {
        let (state, reason) = state;
        let is_unknown = matches!(reason, Reason::Starting | Reason::Unproven { .. });
        if is_unknown || matches!(reason, Reason::Admin | Reason::Drained) || unix_s < WRITTEN_S {
            return;
        }
        let share =
            Share { usable_ms: if state.usable() { for_ms } else { 0 }, watched_ms: for_ms };
        let at = self.records.iter().position(|record| record.part == part);
        let at = at.unwrap_or_else(|| {
            self.records.push(Record { part, hours: BTreeMap::new(), days: BTreeMap::new() });
            self.records.len() - 1
        });
        let Record { hours, days, .. } = &mut self.records[at];
        add(hours, HOURS, unix_s / HOUR_S, share);
        add(days, DAYS, unix_s / DAY_S, share);
    }

    /// Forgets paths for which `is_there` is false.
    pub fn retain(&mut self, is_there: impl Fn(&Part) -> bool) {
        self.records.retain(|record| is_there(&record.part));
    }

    /// A path's shares at `unix_s`.
    pub fn of(&self, part: &Part, unix_s: u64) -> Shares {
        let Some(record) = self.records.iter().find(|record| record.part == *part) else {
            return Shares::default();
        };
        Shares {
            day: sum(&record.hours, HOURS, unix_s / HOUR_S),
            month: sum(&record.days, DAYS, unix_s / DAY_S),
        }
    }
}

/// Adds to a span, and forgets others beyond so many: the oldest, but first what a clock that was
/// wrong has entered ahead of it.
fn add(spans: &mut BTreeMap<u64, Share>, most: usize, span: u64, share: Share) {
    spans.entry(span).or_default().add(share);
    while spans.len() > most {
        let is_ahead = spans.last_key_value().is_some_and(|(last, _)| *last > span);
        if is_ahead {
            spans.pop_last()
        } else {
            spans.pop_first()
        };
    }
}

/// So many spans up to this one. What a clock that was wrong has entered ahead of it is none of
/// them.
fn sum(spans: &BTreeMap<u64, Share>, most: usize, last: u64) -> Share {
    let first = (last + 1).saturating_sub(most as u64);
    let mut sum = Share::default();
    spans.range(first..=last).for_each(|(_, share)| sum.add(*share));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: (State, Reason) = (State::Up, Reason::Started);
    const DOWN: (State, Reason) = (State::Down, Reason::Carrier);
    /// 1 December 2026.
    const NOON: u64 = 1_796_126_400;

    fn fiber() -> Part {
        Part::Uplink("fiber".into())
    }

    fn share(usable_ms: u64, watched_ms: u64) -> Share {
        Share { usable_ms, watched_ms }
    }

    #[test]
    fn the_share_of_a_day_forgets_hour_by_hour_and_that_of_a_month_day_by_day() {
        let mut kept = Availability::default();
        kept.watch(fiber(), DOWN, 1000, NOON);
        for hour in 1..=24 {
            kept.watch(fiber(), UP, 100, NOON + hour * HOUR_S);
        }
        let later = NOON + 23 * HOUR_S;
        assert_eq!(kept.of(&fiber(), later).day, share(2300, 2300), "24 hours are kept");
        assert_eq!(kept.of(&fiber(), later + HOUR_S).day, share(2400, 2400));
        assert_eq!(kept.of(&fiber(), later + 5 * HOUR_S).day, share(2000, 2000));
        assert_eq!(kept.of(&fiber(), NOON + HOUR_S).month, share(1100, 2100), "until midnight");
        assert_eq!(kept.of(&fiber(), later + HOUR_S).month, share(2400, 3400));
        assert_eq!(kept.of(&fiber(), NOON + 29 * DAY_S).month, share(2400, 3400));
        assert_eq!(kept.of(&fiber(), NOON + 30 * DAY_S).month, share(1300, 1300));
        assert_eq!(kept.of(&fiber(), NOON + 40 * DAY_S), Shares::default());
    }

    #[test]
    fn what_the_operator_does_and_what_is_not_known_is_not_watched() {
        let mut kept = Availability::default();
        let unproven = Reason::Unproven { answering: 0, of: 1, quorum: 1 };
        for reason in [Reason::Admin, Reason::Drained, Reason::Starting, unproven] {
            kept.watch(fiber(), (State::Down, reason), 1000, NOON);
        }
        assert_eq!(kept.of(&fiber(), NOON).day.ratio(), None);
        kept.watch(fiber(), (State::Draining, Reason::Draining), 300, NOON);
        kept.watch(fiber(), (State::Recovering { until: 9 }, Reason::Started), 100, NOON);
        assert_eq!(kept.of(&fiber(), NOON).day.ratio(), Some(0.75));
        assert_eq!(kept.of(&Part::Ipv6("fiber".into()), NOON), Shares::default());
    }

    #[test]
    fn a_clock_that_goes_wrong_for_a_while_costs_no_more_than_that_while() {
        let mut kept = Availability::default();
        for hour in 0..24 {
            kept.watch(fiber(), UP, 100, NOON + hour * HOUR_S);
        }
        let now = NOON + 23 * HOUR_S;
        kept.watch(fiber(), DOWN, 50, 0);
        assert_eq!(kept.of(&fiber(), now).day, share(2400, 2400), "before the clock was set");
        for hour in 0..40 {
            kept.watch(fiber(), DOWN, 50, now + 400 * DAY_S + hour * HOUR_S);
        }
        for hour in 1..=24 {
            kept.watch(fiber(), UP, 100, now + hour * HOUR_S);
            let shares = kept.of(&fiber(), now + hour * HOUR_S);
            assert_eq!(shares.day, share(100 * hour, 100 * hour), "{hour} hours after");
        }
    }

    #[test]
    fn what_was_kept_goes_on() {
        let mut kept = Availability::default();
        kept.watch(fiber(), UP, 100, NOON);
        kept.watch(Part::Ipv6("fiber".into()), DOWN, 100, NOON);
        let text = serde_json::to_string(kept.records()).unwrap();
        let mut kept = Availability::resume(serde_json::from_str(&text).unwrap());
        kept.watch(fiber(), DOWN, 100, NOON);
        assert_eq!(kept.of(&fiber(), NOON).day, share(100, 200));
        assert_eq!(kept.of(&Part::Ipv6("fiber".into()), NOON).month, share(0, 100));
        kept.retain(|part| *part == fiber());
        assert_eq!(kept.records().len(), 1);
    }
}
