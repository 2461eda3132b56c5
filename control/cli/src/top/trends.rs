//! What follows from one moment after the other: rates, and how they were of late.

use std::collections::{BTreeMap, VecDeque};

use weir_layout::Family;

use super::rates::{bits_per_second, grown, per_second};
use super::sample::{PathSample, Sample};

/// So many moments are kept: a minute.
const KEPT: usize = 60;

/// The rates of all paths and reasons to drop.
#[derive(Debug, Default)]
pub struct Trends {
    paths: BTreeMap<String, Trend>,
    drops: Vec<Drops>,
    last: Option<Last>,
}

/// Of one path; the oldest first.
#[derive(Debug, Default)]
pub struct Trend {
    family: Option<Family>,
    /// Bits per second to the provider.
    pub tx: VecDeque<u64>,
    /// Bits per second from it.
    pub rx: VecDeque<u64>,
    /// Flows that began.
    began: VecDeque<u64>,
}

/// Packets dropped for a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops {
    /// Its label, as in `weir counters`.
    pub reason: &'static str,
    /// By the second.
    pub rate: u64,
    /// Since the start.
    pub all: u64,
}

/// What the next moment is compared with.
#[derive(Debug)]
struct Last {
    at_ms: u64,
    /// By label: bytes sent and received, flows begun.
    paths: BTreeMap<String, [u64; 3]>,
    drops: BTreeMap<&'static str, u64>,
}

impl Trends {
    /// Takes the next moment.
    pub fn push(&mut self, sample: &Sample) {
        let counts = |path: &PathSample| [path.tx_bytes, path.rx_bytes, path.created];
        let next = Last {
            at_ms: sample.at_ms,
            paths: sample.paths.iter().map(|path| (path.label.clone(), counts(path))).collect(),
            drops: sample.drops.iter().copied().collect(),
        };
        self.paths.retain(|label, _| next.paths.contains_key(label));
        if let Some(last) = &self.last {
            let elapsed_ms = sample.at_ms.saturating_sub(last.at_ms);
            for path in &sample.paths {
                let Some(before) = last.paths.get(&path.label) else { continue };
                let trend = self.paths.entry(path.label.clone()).or_default();
                trend.family = Some(path.family);
                trend.push(*before, counts(path), elapsed_ms);
            }
        }
        self.drops = drops(sample, self.last.as_ref());
        self.last = Some(next);
    }

    /// A path's, by its label; none before its second moment.
    pub fn path(&self, label: &str) -> Option<&Trend> {
        self.paths.get(label)
    }

    /// The reasons for which packets were dropped, those of the highest rates first.
    pub fn drops(&self) -> &[Drops] {
        &self.drops
    }

    /// Of the flows of a family that began in the last minute, those by a path, percent; none if
    /// none began.
    pub fn began_percent(&self, label: &str) -> Option<f64> {
        let of = self.paths.get(label)?;
        let family = self.paths.values().filter(|trend| trend.family == of.family);
        let all: u64 = family.flat_map(|trend| &trend.began).sum();
        let by: u64 = of.began.iter().sum();
        (all != 0).then(|| by as f64 * 100.0 / all as f64)
    }
}

impl Trend {
    fn push(&mut self, before: [u64; 3], now: [u64; 3], elapsed_ms: u64) {
        let [tx, rx, began] = [0, 1, 2].map(|n| grown(before[n], now[n], u64::MAX));
        let [tx, rx] = [tx, rx].map(|bytes| bits_per_second(bytes, elapsed_ms));
        for (ring, value) in [(&mut self.tx, tx), (&mut self.rx, rx), (&mut self.began, began)] {
            if ring.len() == KEPT {
                ring.pop_front();
            }
            ring.push_back(value);
        }
    }
}

fn drops(sample: &Sample, last: Option<&Last>) -> Vec<Drops> {
    let of = |(reason, all): &(&'static str, u64)| {
        let before = last.and_then(|last| Some((last.at_ms, *last.drops.get(reason)?)));
        let rate = before.map_or(0, |(at_ms, before)| {
            per_second(grown(before, *all, u64::MAX), sample.at_ms.saturating_sub(at_ms))
        });
        Drops { reason, rate, all: *all }
    };
    let mut drops: Vec<_> = sample.drops.iter().map(of).filter(|drops| drops.all != 0).collect();
    drops.sort_by_key(|drops| std::cmp::Reverse((drops.rate, drops.all)));
    drops
}

#[cfg(test)]
mod tests {
    use super::super::fixture::path;
    use super::*;

    fn at(at_ms: u64, counts: [[u64; 3]; 2], dropped: u64) -> Sample {
        let paths =
            ["fiber", "cable"].iter().zip(counts).map(|(name, [tx_bytes, rx_bytes, created])| {
                PathSample { tx_bytes, rx_bytes, created, ..path(name) }
            });
        let drops = vec![("drop.rule", dropped), ("drop.not_ip", 0)];
        Sample { at_ms, paths: paths.collect(), drops, ..Sample::default() }
    }

    #[test]
    fn rates_are_of_what_came_since_the_moment_before() {
        let mut trends = Trends::default();
        trends.push(&at(1000, [[100, 1000, 5], [0, 0, 5]], 10));
        assert!(trends.path("fiber").is_none());
        assert_eq!(trends.drops(), [Drops { reason: "drop.rule", rate: 0, all: 10 }]);
        trends.push(&at(3000, [[350, 3000, 6], [0, 0, 8]], 30));
        let fiber = trends.path("fiber").unwrap();
        assert_eq!((fiber.tx.back(), fiber.rx.back()), (Some(&1000), Some(&8000)));
        assert_eq!(trends.drops(), [Drops { reason: "drop.rule", rate: 10, all: 30 }]);
        assert_eq!(trends.began_percent("fiber"), Some(25.0));
        assert_eq!(trends.began_percent("cable"), Some(75.0));
    }

    #[test]
    fn counters_that_begin_again_give_no_rate_beyond_what_they_count() {
        let mut trends = Trends::default();
        trends.push(&at(1000, [[1 << 40, 1 << 40, 1 << 20], [0; 3]], 1 << 30));
        trends.push(&at(2000, [[125, 0, 1], [0; 3]], 7));
        let fiber = trends.path("fiber").unwrap();
        assert_eq!((fiber.tx.back(), fiber.rx.back()), (Some(&1000), Some(&0)));
        assert_eq!(trends.drops()[0].rate, 7);
    }

    #[test]
    fn an_uplink_that_is_gone_is_forgotten_and_a_minute_is_kept() {
        let mut trends = Trends::default();
        for second in 0..100 {
            trends.push(&at(second * 1000, [[0; 3]; 2], 0));
        }
        assert_eq!(trends.path("cable").unwrap().rx.len(), KEPT);
        assert_eq!(trends.began_percent("cable"), None, "none began");
        let mut fewer = at(100_000, [[0; 3]; 2], 0);
        fewer.paths.pop();
        trends.push(&fewer);
        assert!(trends.path("cable").is_none() && trends.path("fiber").is_some());
    }
}
