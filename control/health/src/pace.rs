//! When probes leave: never all at once.

/// Pseudo-random numbers from a seed: SplitMix64 (Steele, Lea and Flood, "Fast splittable
/// pseudorandom number generators", 2014). For spreading load, not for secrets.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..end`; 0 when that is empty.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// The times of one target's probes.
///
/// Each target has its own phase of the interval. A probe leaves up to a tenth of the interval
/// after its slot, so that two gateways or two programs do not stay in step; the gap from one to
/// the next is the interval ±10 %, and the mean is the interval. Times are multiples of a hundredth
/// of the interval: what a program sends to many targets leaves with fewer wake-ups.
#[derive(Clone, Debug)]
pub struct Pace {
    interval: u64,
    grid: u64,
    phase: u64,
    slot: u64,
    random: Random,
}

impl Pace {
    /// Probes of target `index` of `targets` every `interval` (of any unit of time) from `begin` on.
    pub fn new(interval: u64, begin: u64, index: usize, targets: usize, seed: u64) -> Self {
        let random = Random::new(seed ^ (index as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let phase = begin + interval * index as u64 / targets.max(1) as u64;
        Self { interval, grid: (interval / 100).max(1), phase, slot: 0, random }
    }

    /// When the next probe leaves.
    pub fn advance(&mut self) -> u64 {
        let slot = self.slot * self.interval + self.phase;
        self.slot += 1;
        let late = self.random.below((self.interval / 10 + 1).saturating_sub(self.grid - 1));
        (slot + late).next_multiple_of(self.grid)
    }

    /// Leaves out the slots that are over at `now`: what was missed is not made good in a burst.
    pub fn skip_to(&mut self, now: u64) {
        self.slot = self.slot.max(now.saturating_sub(self.phase).div_ceil(self.interval.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_the_interval_within_a_tenth_and_do_not_drift() {
        let mut pace = Pace::new(1000, 0, 1, 4, 7);
        let times: Vec<_> = (0..1000).map(|_| pace.advance()).collect();
        assert!(times.windows(2).all(|w| (900..=1100).contains(&(w[1] - w[0]))));
        assert!(
            (0..1000).zip(&times).all(|(slot, at)| (0..=100).contains(&(at - slot * 1000 - 250)))
        );
    }

    #[test]
    fn targets_never_leave_within_a_seventh_of_the_interval() {
        let mut all: Vec<_> = (0..4)
            .flat_map(|index| {
                let mut pace = Pace::new(1000, 0, index, 4, 7);
                (0..100).map(move |_| pace.advance()).collect::<Vec<_>>()
            })
            .collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|w| w[1] - w[0] >= 150));
    }

    #[test]
    fn probes_of_all_that_began_at_one_time_or_another_leave_on_one_grid() {
        for (begin, index) in [(0, 0), (7, 1), (333, 2)] {
            let mut pace = Pace::new(1000, begin, index, 3, 7);
            let slots = (0u64..100).map(|slot| begin + slot * 1000 + index as u64 * 1000 / 3);
            for slot in slots {
                let at = pace.advance();
                assert!(at.is_multiple_of(10) && (slot..=slot + 100).contains(&at), "{slot} {at}");
            }
        }
    }

    #[test]
    fn missed_slots_are_left_out() {
        let mut pace = Pace::new(1000, 0, 0, 1, 7);
        pace.advance();
        pace.skip_to(10_500);
        assert!((11_000..=11_100).contains(&pace.advance()));
    }

    #[test]
    fn one_seed_is_one_schedule_and_another_is_another() {
        let times = |seed| {
            let mut pace = Pace::new(1000, 0, 0, 1, seed);
            (0..10).map(|_| pace.advance()).collect::<Vec<_>>()
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }
}
