//! Bits per second from a counter of bytes.

use std::collections::VecDeque;

use crate::window::Figure;

/// Time constant of the weighted figure, milliseconds.
const AVERAGE_MS: f64 = 2000.0;
/// Length of the windowed figure, milliseconds.
const RECENT_MS: u64 = 1000;
/// Samples closer than this are one, milliseconds: memory stays bounded whoever calls.
const LEAST_MS: u64 = 20;
/// Less is none, bits per second.
const LEAST_BITS: f64 = 1.0;
/// No link carries more, bits per second: it is the counter that jumped.
const FASTEST: f64 = weir_site::load::GREATEST;

/// A counter of one direction as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes, ever.
    pub bytes: u64,
    /// Packets, ever.
    pub packets: u64,
}

/// The rate of one direction.
///
/// A counter that goes back has begun anew, and one that leaps further than any link can carry was
/// not counting: either way the time since the sample before tells nothing and is left out.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    last: Option<(u64, Counts)>,
    weighted: Option<f64>,
    recent: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    ms: u64,
    bytes: u64,
    packets: u64,
}

impl Rate {
    /// Is there no load that a counter which stands still could change?
    pub fn is_at_rest(&self, counts: Counts) -> bool {
        self.weighted == Some(0.0)
            && self.last.is_some_and(|(_, last)| last == counts)
            && self.recent.iter().all(|sample| sample.bytes == 0)
    }

    /// Takes that the counter stands still at `now`, for one [`at rest`](Self::is_at_rest).
    pub fn rest(&mut self, now: u64) {
        if let Some((then, _)) = &mut self.last {
            *then = now.max(*then);
        }
    }

    /// Takes the counter as it stands at `now`.
    pub fn sample(&mut self, counts: Counts, now: u64) {
        let Some((then, before)) = self.last else {
            self.last = Some((now, counts));
            return;
        };
        let ms = now.saturating_sub(then);
        if ms < LEAST_MS {
            return;
        }
        self.last = Some((now, counts));
        let bytes = counts.bytes.checked_sub(before.bytes);
        let Some((bytes, packets)) = bytes.zip(counts.packets.checked_sub(before.packets)) else {
            return;
        };
        let bits = per_second(bytes, ms);
        if bits > FASTEST {
            return;
        }
        let keep = (-(ms as f64) / AVERAGE_MS).exp();
        // The first sample is all there is.
        let weighted = self.weighted.map_or(bits, |old| old * keep + bits * (1.0 - keep));
        self.weighted = Some(if weighted < LEAST_BITS { 0.0 } else { weighted });
        self.recent.push_back(Sample { ms, bytes, packets });
        let mut length: u64 = self.recent.iter().map(|s| s.ms).sum();
        while let Some(oldest) = self.recent.front()
            && length - oldest.ms >= RECENT_MS
        {
            length -= oldest.ms;
            self.recent.pop_front();
        }
    }

    /// Bits per second: exponentially weighted, and over the last second.
    pub fn figure(&self) -> Figure {
        let ms: u64 = self.recent.iter().map(|s| s.ms).sum();
        let bytes = self.recent.iter().map(|s| s.bytes).fold(0, u64::saturating_add);
        let window = if ms == 0 { 0.0 } else { per_second(bytes, ms) };
        Figure { weighted: self.weighted.unwrap_or(0.0), window }
    }

    /// Mean size of the last second's packets, bytes; 0 without any.
    pub fn packet_size(&self) -> f64 {
        let bytes: f64 = self.recent.iter().map(|s| s.bytes as f64).sum();
        let packets: f64 = self.recent.iter().map(|s| s.packets as f64).sum();
        if packets == 0.0 { 0.0 } else { bytes / packets }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.recent.len()
    }
}

fn per_second(bytes: u64, ms: u64) -> f64 {
    bytes as f64 * 8000.0 / ms as f64
}
