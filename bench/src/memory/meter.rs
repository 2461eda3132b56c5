//! What is spent in the engine alone, in pieces of one batch.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perf_event::events::Hardware;

/// Measures pieces of work.
pub trait Meter {
    /// Does a piece of work and measures it.
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T;
}

/// Measures nothing.
pub struct Unmeasured;

impl Meter for Unmeasured {
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// Adds up the time of many short pieces of work, without what reading the clock costs.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    reading: Duration,
    total: Duration,
    longest: Duration,
}

impl Stopwatch {
    /// A stopwatch at zero; finds out first what reading the clock costs.
    pub fn new() -> Self {
        const READINGS: u32 = 1000;
        let cost = |_| {
            let started = Instant::now();
            for _ in 0..READINGS {
                std::hint::black_box(Instant::now());
            }
            started.elapsed() / READINGS
        };
        // The least of a few: whatever disturbs a reading makes it longer.
        let reading = (0..5).map(cost).min().unwrap_or_default();
        Self { reading, total: Duration::ZERO, longest: Duration::ZERO }
    }

    /// Nanoseconds in all.
    pub fn ns(&self) -> f64 {
        self.total.as_nanos() as f64
    }

    /// The longest piece, microseconds.
    pub fn longest_us(&self) -> f64 {
        self.longest.as_nanos() as f64 / 1e3
    }

    /// Back to zero.
    pub fn reset(&mut self) {
        (self.total, self.longest) = (Duration::ZERO, Duration::ZERO);
    }
}

impl Meter for Stopwatch {
    #[inline]
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        let spent = started.elapsed().saturating_sub(self.reading);
        self.total += spent;
        self.longest = self.longest.max(spent);
        result
    }
}

impl Default for Stopwatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts instructions of this thread, the kernel's apart, with the processor's own counter.
pub struct Instructions(perf_event::Counter);

impl Instructions {
    /// A counter at zero.
    ///
    /// # Errors
    /// When the processor, the hypervisor or the kernel offers none.
    pub fn new() -> Result<Self> {
        let counter = perf_event::Builder::new().kind(Hardware::INSTRUCTIONS).build();
        let counter = counter.context("the kernel offers no counter of instructions")?;
        Ok(Self(counter))
    }

    /// Instructions so far.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn count(&mut self) -> Result<u64> {
        self.0.read().context("cannot read the counter of instructions")
    }
}

impl Meter for Instructions {
    fn during<T>(&mut self, work: impl FnOnce() -> T) -> T {
        // A counter that stays off counts nothing, which the report shows as zero.
        let _ = self.0.enable();
        let result = work();
        let _ = self.0.disable();
        result
    }
}
