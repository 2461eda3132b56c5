//! What goes wrong on a line, and when a frame leaves because of it.

use std::time::Duration;

use crate::random::Random;

/// What a line does to the frames of one direction; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// Frames lost by chance, percent.
    pub loss_percent: f64,
    /// How long every frame takes.
    pub delay: Duration,
    /// How much longer it takes at most, by chance and for each frame alone: one may overtake
    /// another.
    pub jitter: Duration,
    /// How fast frames leave; without it as fast as they come.
    pub rate: Option<Rate>,
    /// Every frame is lost.
    pub dead: bool,
}

/// A bottleneck with a queue in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Speed, bits of Ethernet frame a second.
    pub bits_per_second: u64,
    /// How long a frame waits in the queue at most; those that would wait longer are lost.
    pub buffer: Duration,
}

impl Impairment {
    /// Every frame is lost.
    #[must_use]
    pub fn dead() -> Self {
        Self { dead: true, ..Self::default() }
    }

    /// Frames are lost by chance.
    #[must_use]
    pub fn loss(percent: f64) -> Self {
        Self { loss_percent: percent, ..Self::default() }
    }

    /// Every frame takes so long, and up to `jitter` more.
    #[must_use]
    pub fn delay(delay: Duration, jitter: Duration) -> Self {
        Self { delay, jitter, ..Self::default() }
    }

    /// Frames leave no faster than this.
    #[must_use]
    pub fn rate(bits_per_second: u64, buffer: Duration) -> Self {
        Self { rate: Some(Rate { bits_per_second, buffer }), ..Self::default() }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves then.
    Leaves(Duration),
    /// It is lost on the way.
    Lost,
    /// It finds the queue full.
    Overflows,
}

/// Decides about the frames of one direction. Time is a parameter, since any moment.
#[derive(Clone, Debug)]
pub struct Judge {
    random: Random,
    /// When the bottleneck has sent all that is queued.
    free: Duration,
}

impl Judge {
    /// Decides by chance of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), free: Duration::ZERO }
    }

    /// What becomes of a frame of `length` bytes that comes at `now`.
    pub fn judge(&mut self, impairment: &Impairment, length: usize, now: Duration) -> Outcome {
        let Impairment { loss_percent, delay, jitter, rate, dead } = *impairment;
        if dead || self.chance() * 100.0 < loss_percent {
            return Outcome::Lost;
        }
        let mut sent = now;
        if let Some(Rate { bits_per_second, buffer }) = rate {
            let start = self.free.max(now);
            if start - now > buffer {
                return Outcome::Overflows;
            }
            let bits = length as u64 * 8;
            sent = start + Duration::from_nanos(bits * 1_000_000_000 / bits_per_second.max(1));
            self.free = sent;
        }
        Outcome::Leaves(sent + delay + jitter.mul_f64(self.chance()))
    }

    /// From 0 to less than 1.
    fn chance(&mut self) -> f64 {
        self.random.below(1 << 32) as f64 / (1u64 << 32) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn outcomes(impairment: Impairment, frames: u32, gap: Duration) -> Vec<Outcome> {
        let mut judge = Judge::new(7);
        (0..frames).map(|frame| judge.judge(&impairment, 1000, gap * frame)).collect()
    }

    #[test]
    fn without_a_fault_frames_leave_as_they_come() {
        let outcomes = outcomes(Impairment::default(), 100, MS);
        assert!(
            (0..100).zip(&outcomes).all(|(frame, outcome)| *outcome == Outcome::Leaves(MS * frame))
        );
    }

    #[test]
    fn as_many_are_lost_as_asked_for() {
        let lost = |percent| {
            let outcomes = outcomes(Impairment::loss(percent), 100_000, MS);
            outcomes.iter().filter(|outcome| **outcome == Outcome::Lost).count()
        };
        // Four standard deviations.
        assert!((29_420..30_580).contains(&lost(30.0)), "{}", lost(30.0));
        assert_eq!((lost(0.0), lost(100.0)), (0, 100_000));
        let dead = outcomes(Impairment::dead(), 100, MS);
        assert!(dead.iter().all(|outcome| *outcome == Outcome::Lost));
    }

    #[test]
    fn jitter_is_spread_over_its_range_and_frames_overtake() {
        let impairment = Impairment::delay(MS * 20, MS * 50);
        let left = |(frame, outcome): (u32, &Outcome)| match outcome {
            Outcome::Leaves(at) => *at - MS * frame,
            other => panic!("{other:?}"),
        };
        let outcomes = outcomes(impairment, 10_000, MS);
        let delays: Vec<_> = (0..).zip(&outcomes).map(left).collect();
        assert!(delays.iter().all(|delay| (MS * 20..MS * 70).contains(delay)));
        let mean = delays.iter().sum::<Duration>() / 10_000;
        assert!((MS * 44..MS * 46).contains(&mean), "{mean:?}");
        assert!(delays.windows(2).any(|pair| pair[1] + MS < pair[0]));
    }

    #[test]
    fn a_bottleneck_queues_up_to_its_buffer_and_no_more() {
        // 1000 bytes take a millisecond, and two come in one.
        let impairment = Impairment::rate(8_000_000, MS * 10);
        let outcomes = outcomes(impairment, 100, MS / 2);
        assert_eq!(outcomes[..2], [Outcome::Leaves(MS), Outcome::Leaves(MS * 2)]);
        let overflowed = outcomes.iter().filter(|outcome| **outcome == Outcome::Overflows).count();
        assert!((35..45).contains(&overflowed), "{overflowed}");
        for (frame, outcome) in (0..).zip(&outcomes) {
            if let Outcome::Leaves(at) = outcome {
                assert!(*at - MS / 2 * frame <= MS * 11, "frame {frame}: {at:?}");
            }
        }
    }

    #[test]
    fn a_bottleneck_without_load_delays_nothing_but_sending() {
        let outcomes = outcomes(Impairment::rate(8_000_000, MS), 10, MS * 2);
        assert!(
            (0..10).zip(&outcomes).all(|(f, outcome)| *outcome == Outcome::Leaves(MS * 2 * f + MS))
        );
    }
}
