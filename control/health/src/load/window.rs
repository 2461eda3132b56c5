//! The least or greatest value of late, in bounded memory.

use std::collections::VecDeque;

/// Parts that the window slides by.
const PARTS: usize = 12;

/// The extreme of the values of the last `PARTS` parts.
#[derive(Clone, Debug)]
pub struct Extreme {
    parts: VecDeque<(u64, f64)>,
    part_ms: u64,
    better: fn(f64, f64) -> f64,
}

impl Extreme {
    /// The least value of the last `ms` milliseconds, about.
    pub fn least(ms: u64) -> Self {
        Self::new(ms, f64::min)
    }

    /// The greatest value of the last `ms` milliseconds, about.
    pub fn greatest(ms: u64) -> Self {
        Self::new(ms, f64::max)
    }

    fn new(ms: u64, better: fn(f64, f64) -> f64) -> Self {
        let part_ms = (ms / PARTS as u64).max(1);
        Self { parts: VecDeque::with_capacity(PARTS + 1), part_ms, better }
    }

    /// Adds a value of `now`.
    pub fn push(&mut self, value: f64, now: u64) {
        match self.parts.back_mut() {
            Some((begin, best)) if now < *begin + self.part_ms => {
                *best = (self.better)(*best, value);
            }
            _ => self.parts.push_back((now, value)),
        }
        self.expire(now);
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: u64) {
        let length = self.part_ms * PARTS as u64;
        while self.parts.front().is_some_and(|(begin, _)| begin + length <= now) {
            self.parts.pop_front();
        }
    }

    /// Forgets all values but this one.
    pub fn restart(&mut self, value: f64, now: u64) {
        self.parts.clear();
        self.push(value, now);
    }

    /// The extreme; none without a value.
    pub fn get(&self) -> Option<f64> {
        self.parts.iter().map(|(_, value)| *value).reduce(self.better)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }
}
