//! The capacity of a link, from its load and its round-trip time.
//!
//! A full link queues. While a direction carries a steady load, and the round-trip time stands well
//! above its base, that load is what the direction can carry. What is not such a direction teaches
//! nothing:
//!
//! * A direction of small packets carries the acknowledgements of the other.
//! * When both directions are candidates and neither is known to be full, it cannot be told which
//!   of them queues.
//! * A load that varies is not clamped by the link.
//! * A load that went by without a queue not long ago does not fill the link now.
//! * A round-trip time that falls is the memory of a load that has ended; one that is high while
//!   the link is at rest is another path, and becomes the base.
//!
//! What was learned grows as soon as the link is seen to carry more, falls slowly towards less that
//! it carries when it is full, and is forgotten when nothing has confirmed it for a day.

use weir_site::load::LEAST;

use super::rate::Rate;
use super::window::Extreme;

/// Least time that a load and a raised round-trip time must last, milliseconds.
const SUSTAIN_MS: u64 = 5000;
/// And so many intervals between probes: their figures lag.
const SUSTAIN_INTERVALS: u64 = 4;
/// Least time at rest for a raised round-trip time to be another path, milliseconds.
const REST_MS: u64 = 30_000;
/// And so many intervals between probes: what a load has left must be gone.
const REST_INTERVALS: u64 = 30;
/// A load that lasts this long above what was learned is carried, milliseconds.
const GROW_MS: u64 = 3000;
/// How far back base and peak reach, milliseconds.
const MEMORY_MS: u64 = 3_600_000;
/// How far back loads that were carried without a queue reach, milliseconds.
const CALM_MS: u64 = 600_000;
/// Least time that such a load must have lasted, milliseconds …
const CALM_LEAST_MS: u64 = 15_000;
/// … and so many intervals between probes: a queue shows in their figures only after a while.
const CALM_INTERVALS: u64 = 15;
/// A load is steady while its least is at least this part of its greatest.
const STEADY: f64 = 0.85;
/// So many times a load that was carried without a queue, lest it is that load.
const MORE: f64 = 1.1;
/// The first capacity is at least this part of the greatest load of late.
const NEAR_PEAK: f64 = 0.8;
/// A direction of known capacity explains the queue from this part of it on.
const FULL: f64 = 0.9;
/// At rest: below this part of the greatest load of late.
const REST: f64 = 0.1;
/// Data, not acknowledgements: packets of at least this mean size, bytes.
const DATA_BYTES: f64 = 500.0;
/// The round-trip time is raised from this much above its base, milliseconds …
const RAISED_MS: f64 = 10.0;
/// … and this part of the base, and this many times the jitter.
const RAISED_PART: f64 = 0.5;
const RAISED_JITTERS: f64 = 2.0;
/// The round-trip time falls when it is below this part of its highest.
const FALLING: f64 = 0.9;
/// Time constant of the fall of what was learned, milliseconds of full load.
const FALL_MS: f64 = 60_000.0;
/// What was learned is forgotten after this long without confirmation, milliseconds.
const FORGET_MS: u64 = 86_400_000;

/// What the probes of an uplink say, the median of its targets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rtt {
    /// Round-trip time, milliseconds.
    pub ms: f64,
    /// Mean difference of successive ones, milliseconds.
    pub jitter_ms: f64,
}

/// What is known of one link.
#[derive(Clone, Debug)]
pub struct Learner {
    base: Extreme,
    raised: Option<Raised>,
    /// Since when the round-trip time is known and not raised.
    calm_since: Option<u64>,
    /// Since when there is hardly any load.
    rest_since: Option<u64>,
    ways: [Way; 2],
    last: Option<u64>,
}

/// A raised round-trip time.
#[derive(Clone, Copy, Debug)]
struct Raised {
    since: u64,
    highest: f64,
}

/// One direction.
#[derive(Clone, Debug)]
struct Way {
    peak: Extreme,
    /// Steady loads that were carried without a queue.
    calm: Extreme,
    steady: Steady,
    learned: Option<Learned>,
}

/// A steady load.
#[derive(Clone, Copy, Debug, Default)]
struct Steady {
    since: u64,
    least: f64,
    greatest: f64,
}

#[derive(Clone, Copy, Debug)]
struct Learned {
    bits: f64,
    confirmed: u64,
}

impl Default for Learner {
    fn default() -> Self {
        let way = || Way {
            peak: Extreme::greatest(MEMORY_MS),
            calm: Extreme::greatest(CALM_MS),
            steady: Steady::default(),
            learned: None,
        };
        Self {
            base: Extreme::least(MEMORY_MS),
            raised: None,
            calm_since: None,
            rest_since: None,
            ways: [way(), way()],
            last: None,
        }
    }
}

impl Learner {
    /// Takes the rates by direction, what the probes say, and the time between them, milliseconds.
    /// `configured` capacities are not learned, but say which direction is full.
    pub fn step(
        &mut self,
        rates: &[Rate; 2],
        rtt: Option<Rtt>,
        interval_ms: u64,
        configured: [Option<u64>; 2],
        now: u64,
    ) {
        let passed = self.last.map_or(0, |last| now.saturating_sub(last)).min(1000);
        self.last = Some(now);
        for (way, rate) in self.ways.iter_mut().zip(rates) {
            way.follow(rate, now);
        }
        self.judge_rtt(rates, rtt, interval_ms, now);
        self.judge_calm(interval_ms, now);

        let sustain = SUSTAIN_MS.max(SUSTAIN_INTERVALS * interval_ms);
        let lasts = |since: u64| now.saturating_sub(since) >= sustain;
        if !self.raised.is_some_and(|raised| lasts(raised.since)) {
            return;
        }
        let evident = [0, 1].map(|i| {
            let window = rates[i].figure().window;
            lasts(self.ways[i].steady.since)
                && window >= LEAST.max(MORE * self.ways[i].calm.get().unwrap_or(0.0))
                && rates[i].packet_size() >= DATA_BYTES
        });
        let full = [0, 1].map(|i| {
            let known = configured[i].map(|bits| bits as f64).or(self.learned(i));
            known.is_some_and(|bits| rates[i].figure().window >= FULL * bits)
        });
        for i in [0, 1] {
            let alone = if full[0] || full[1] { full[i] } else { !evident[1 - i] };
            if evident[i] && alone && configured[i].is_none() {
                self.ways[i].learn(rates[i].figure().weighted, passed, now);
            }
        }
    }

    /// The learned capacity of a direction, bits per second.
    pub fn learned(&self, direction: usize) -> Option<f64> {
        self.ways[direction].learned.map(|learned| learned.bits)
    }

    /// The base of the round-trip time, milliseconds.
    pub fn base_ms(&self) -> Option<f64> {
        self.base.get()
    }

    /// Remembers the loads that are carried without a queue.
    fn judge_calm(&mut self, interval_ms: u64, now: u64) {
        let least = CALM_LEAST_MS.max(CALM_INTERVALS * interval_ms);
        let lasts = |since: u64| now.saturating_sub(since) >= least;
        let calm = self.calm_since.is_some_and(lasts);
        for way in &mut self.ways {
            // While the round-trip time is raised, what was carried before it was is the measure.
            if self.raised.is_none() {
                way.calm.expire(now);
            }
            if calm && lasts(way.steady.since) {
                way.calm.push((way.steady.least + way.steady.greatest) / 2.0, now);
            }
        }
    }

    fn judge_rtt(&mut self, rates: &[Rate; 2], rtt: Option<Rtt>, interval_ms: u64, now: u64) {
        let quiet =
            self.ways.iter().zip(rates).all(|(way, rate)| way.at_rest(rate.figure().window));
        self.rest_since = quiet.then(|| self.rest_since.unwrap_or(now));
        let Some(rtt) = rtt else {
            (self.raised, self.calm_since) = (None, None);
            return;
        };
        self.base.push(rtt.ms, now);
        let base = self.base.get().unwrap_or(rtt.ms);
        let limit = RAISED_MS.max(RAISED_PART * base).max(RAISED_JITTERS * rtt.jitter_ms);
        if rtt.ms < base + limit {
            self.raised = None;
            self.calm_since = self.calm_since.or(Some(now));
            return;
        }
        self.calm_since = None;
        let rest = REST_MS.max(REST_INTERVALS * interval_ms);
        if self.rest_since.is_some_and(|since| now.saturating_sub(since) >= rest) {
            self.base.restart(rtt.ms, now);
            self.raised = None;
            return;
        }
        self.raised = match self.raised {
            Some(Raised { since, highest }) if rtt.ms >= FALLING * highest => {
                Some(Raised { since, highest: highest.max(rtt.ms) })
            }
            _ => Some(Raised { since: now, highest: rtt.ms }),
        };
    }
}

impl Way {
    fn follow(&mut self, rate: &Rate, now: u64) {
        let figure = rate.figure();
        self.peak.push(figure.window, now);
        let steady = &mut self.steady;
        steady.least = steady.least.min(figure.window);
        steady.greatest = steady.greatest.max(figure.window);
        if steady.least < STEADY * steady.greatest {
            *steady = Steady { since: now, least: figure.window, greatest: figure.window };
        }
        let carried = figure.weighted.min(figure.window);
        let lasts = now.saturating_sub(steady.since) >= GROW_MS;
        match &mut self.learned {
            Some(learned) if lasts && carried > learned.bits => {
                *learned = Learned { bits: carried, confirmed: now };
            }
            Some(learned) if now.saturating_sub(learned.confirmed) >= FORGET_MS => {
                self.learned = None;
            }
            _ => {}
        }
    }

    fn learn(&mut self, bits: f64, passed: u64, now: u64) {
        match &mut self.learned {
            None if bits < NEAR_PEAK * self.peak.get().unwrap_or(0.0) => {}
            None => self.learned = Some(Learned { bits, confirmed: now }),
            Some(learned) => {
                let part = 1.0 - (-(passed as f64) / FALL_MS).exp();
                learned.bits += (bits - learned.bits).min(0.0) * part;
                learned.confirmed = now;
            }
        }
    }

    fn at_rest(&self, window: f64) -> bool {
        window < LEAST.max(REST * self.peak.get().unwrap_or(0.0))
    }
}
