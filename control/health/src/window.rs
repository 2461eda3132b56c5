//! Loss, round-trip time and jitter of one target: over a window, and exponentially weighted.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_site::health::Limits;

/// Weight of a new round-trip time: RFC 6298 §2, alpha.
const RTT_WEIGHT: f64 = 1.0 / 8.0;
/// Weight of a new difference in the jitter: RFC 3550 §6.4.1.
const JITTER_WEIGHT: f64 = 1.0 / 16.0;
/// Weight of a new probe in the loss: as slow as jitter, for a lost probe is a coarse figure.
const LOSS_WEIGHT: f64 = 1.0 / 16.0;

/// The newest probes of a target.
#[derive(Clone, Debug)]
pub struct Window {
    samples: VecDeque<Sample>,
    size: usize,
    lost: u32,
    rtt_sum: u64,
    steps: u32,
    step_sum: u64,
    last_rtt: Option<u32>,
    loss: f64,
    /// As `loss`, when the newest answer came.
    loss_at_answer: f64,
    rtt: Option<f64>,
    jitter: f64,
}

/// One probe: its round-trip time, and how far that is from the answered one before.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rtt: Option<u32>,
    step: Option<u32>,
}

/// A figure in its two views. It is over or under a limit only where both say so: the weighted one
/// is quick and the windowed one steady, so that a burst fails nothing and a pause heals nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Exponentially weighted.
    pub weighted: f64,
    /// Over the window.
    pub window: f64,
}

/// What a window shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Probes in the window, answered or lost.
    pub probes: u32,
    /// Probes lost, percent.
    pub loss_percent: Figure,
    /// Round-trip time, milliseconds; 0 before the first answer.
    pub rtt_ms: Figure,
    /// Jitter, milliseconds: the mean difference of successive round-trip times without sign, as
    /// RFC 3550 §6.4.1 takes it of transit times.
    pub jitter_ms: Figure,
}

impl Figure {
    /// Failed by `limits`.
    pub fn over(self, limits: Limits) -> bool {
        self.weighted.min(self.window) >= f64::from(limits.fail)
    }

    /// Well by `limits`.
    pub fn under(self, limits: Limits) -> bool {
        self.weighted.max(self.window) <= f64::from(limits.recover)
    }
}

impl Window {
    /// An empty window of `size` probes.
    pub fn new(size: u32) -> Self {
        let size = size.max(1) as usize;
        Self {
            samples: VecDeque::with_capacity(size),
            size,
            lost: 0,
            rtt_sum: 0,
            steps: 0,
            step_sum: 0,
            last_rtt: None,
            loss: 0.0,
            loss_at_answer: 0.0,
            rtt: None,
            jitter: 0.0,
        }
    }

    /// Adds a probe: its round-trip time in microseconds, or none when it was lost.
    pub fn push(&mut self, rtt: Option<u32>) {
        let step = rtt.zip(self.last_rtt).map(|(rtt, last)| rtt.abs_diff(last));
        self.last_rtt = rtt.or(self.last_rtt);
        if self.samples.len() == self.size
            && let Some(old) = self.samples.pop_front()
        {
            self.lost -= u32::from(old.rtt.is_none());
            self.rtt_sum -= u64::from(old.rtt.unwrap_or(0));
            self.steps -= u32::from(old.step.is_some());
            self.step_sum -= u64::from(old.step.unwrap_or(0));
        }
        self.samples.push_back(Sample { rtt, step });
        self.lost += u32::from(rtt.is_none());
        self.rtt_sum += u64::from(rtt.unwrap_or(0));
        self.steps += u32::from(step.is_some());
        self.step_sum += u64::from(step.unwrap_or(0));

        let lost = if rtt.is_none() { 100.0 } else { 0.0 };
        self.loss += (lost - self.loss) * LOSS_WEIGHT;
        if let Some(rtt) = rtt.map(millis) {
            self.rtt = Some(self.rtt.map_or(rtt, |old| old + (rtt - old) * RTT_WEIGHT));
            self.loss_at_answer = self.loss;
        }
        if let Some(step) = step.map(millis) {
            self.jitter += (step - self.jitter) * JITTER_WEIGHT;
        }
    }

    /// Forgets the probes that were lost since the newest answer; where this was all it held, what
    /// was before is out of date and forgotten too.
    pub fn forget_silence(&mut self) {
        while self.samples.pop_back_if(|sample| sample.rtt.is_none()).is_some() {
            self.lost -= 1;
        }
        self.loss = self.loss_at_answer;
        if self.samples.is_empty() {
            *self = Self::new(self.size as u32);
        }
    }

    /// What it shows.
    pub fn figures(&self) -> Figures {
        let mean = |sum: u64, of: u32| if of == 0 { 0.0 } else { sum as f64 / f64::from(of) };
        let probes = self.samples.len() as u32;
        Figures {
            probes,
            loss_percent: Figure {
                weighted: self.loss,
                window: 100.0 * mean(u64::from(self.lost), probes),
            },
            rtt_ms: Figure {
                weighted: self.rtt.unwrap_or(0.0),
                window: mean(self.rtt_sum, probes - self.lost) / 1000.0,
            },
            jitter_ms: Figure {
                weighted: self.jitter,
                window: mean(self.step_sum, self.steps) / 1000.0,
            },
        }
    }
}

fn millis(micros: u32) -> f64 {
    f64::from(micros) / 1000.0
}
