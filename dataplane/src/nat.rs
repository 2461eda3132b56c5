//! NAT44: which address and port an inside endpoint gets.
//!
//! TCP ports are reused across destinations: a port is free when no flow holds the return tuple
//! (RFC 7857 §3 allows it for different destinations). UDP endpoints and ICMP queries keep one
//! mapping for all destinations (RFC 4787 REQ-1, RFC 5508 REQ-1), and so do those of TCP by an uplink
//! that says so (RFC 5382 REQ-1), kept in [`crate::mappings`].
//!
//! Each worker allocates from its own slice of the port range, so workers never compete. The
//! inside port is kept when it is in the slice and free, else a random one is drawn (RFC 6056), even for
//! an even one and odd for an odd one (RFC 4787 REQ-4) while such are found.

use weir_layout::control::nat_ports;
use weir_wire::family::{Family, V4};
use weir_wire::hash::hash2;

/// Random ports tried before the range counts as exhausted.
const TRIES: u32 = 128;

/// Ports `lo..=hi` of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSlice {
    /// First port.
    pub lo: u16,
    /// Last port.
    pub hi: u16,
}

impl PortSlice {
    /// The part of `lo..=hi` that `worker` of `workers` owns; `None` when there are fewer ports
    /// than workers or the range is empty.
    pub fn of(lo: u16, hi: u16, worker: u8, workers: u8) -> Option<Self> {
        nat_ports::of_worker([lo, hi], worker, workers).map(|[lo, hi]| Self { lo, hi })
    }

    /// The worker of `workers` whose part of `lo..=hi` the port is in.
    pub fn owner(lo: u16, hi: u16, port: u16, workers: u8) -> Option<u8> {
        (0..workers).find(|worker| {
            Self::of(lo, hi, *worker, workers).is_some_and(|slice| slice.contains(port))
        })
    }

    /// Is the port in the slice?
    pub fn contains(self, port: u16) -> bool {
        self.lo <= port && port <= self.hi
    }

    /// First and last.
    pub const fn bounds(self) -> [u16; 2] {
        [self.lo, self.hi]
    }

    /// How many it has.
    pub const fn count(self) -> u32 {
        self.hi as u32 - self.lo as u32 + 1
    }

    /// A port at random.
    pub fn draw(self, random: &mut Random) -> u16 {
        self.lo + (random.draw() % u64::from(self.count())) as u16
    }

    /// A port at random, even if this one is even, odd if it is odd.
    pub fn draw_like(self, wanted: u16, random: &mut Random) -> u16 {
        let drawn = self.draw(random);
        let like = drawn ^ (drawn ^ wanted) & 1;
        if self.contains(like) { like } else { drawn }
    }

    /// `wanted` if it is in the slice and free, else a free port drawn at random: of its parity, if half
    /// of the tries find one. Who has taken all even ports keeps nobody from the odd ones.
    pub fn pick(
        self,
        wanted: u16,
        random: &mut Random,
        mut free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        if self.contains(wanted) && free(wanted) {
            return Some(wanted);
        }
        (0..TRIES)
            .map(|attempt| match attempt < TRIES / 2 {
                true => self.draw_like(wanted, random),
                false => self.draw(random),
            })
            .find(|port| free(*port))
            .or_else(|| (self.lo..=self.hi).find(|port| self.count() <= 4 * TRIES && free(*port)))
    }
}

/// Unpredictable numbers from a secret.
#[derive(Clone, Debug)]
pub struct Random {
    key: [u64; 2],
    counter: u64,
}

impl Random {
    /// A sequence of its own for each key.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, counter: 0 }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        hash2(self.key, self.counter, self.key[0].rotate_left(32)) >> 8
    }
}

/// An inside endpoint under a policy. Rules may send one endpoint's traffic by different policies;
/// each then has a mapping of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<F: Family = V4> {
    /// IP protocol.
    pub proto: u8,
    /// Policy index.
    pub policy: u8,
    /// Inside address, network order.
    pub address: F::Address,
    /// Inside port or ICMP identifier, host order.
    pub port: u16,
}

/// An address and port of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External<F: Family = V4> {
    /// IP protocol.
    pub proto: u8,
    /// Address, network order.
    pub address: F::Address,
    /// Port or ICMP identifier, host order.
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_are_disjoint_and_cover_the_range(lo in 1u16.., span in 0u16.., workers in 1u8..=32) {
            let hi = lo.saturating_add(span);
            prop_assume!(u32::from(hi - lo) + 1 >= u32::from(workers));
            let mut next = u32::from(lo);
            for worker in 0..workers {
                let slice = PortSlice::of(lo, hi, worker, workers).unwrap();
                prop_assert_eq!(u32::from(slice.lo), next);
                prop_assert!(slice.hi >= slice.lo);
                prop_assert_eq!(PortSlice::owner(lo, hi, slice.lo, workers), Some(worker));
                prop_assert_eq!(PortSlice::owner(lo, hi, slice.hi, workers), Some(worker));
                next = u32::from(slice.hi) + 1;
            }
            prop_assert_eq!(next, u32::from(hi) + 1);
        }
    }

    #[test]
    fn fewer_ports_than_workers_is_no_slice() {
        assert_eq!(PortSlice::of(10, 11, 0, 3), None);
        assert_eq!(PortSlice::of(11, 10, 0, 1), None);
    }

    #[test]
    fn a_free_port_in_the_slice_is_kept() {
        let slice = PortSlice { lo: 1000, hi: 1999 };
        let mut random = Random::new([1, 2]);
        assert_eq!(slice.pick(1500, &mut random, |_| true), Some(1500));
    }

    #[test]
    fn colliding_ports_are_drawn_without_a_pattern() {
        let slice = PortSlice { lo: 16_384, hi: 65_535 };
        let draw = |key| {
            let mut random = Random::new(key);
            (0..2000).map(|_| slice.pick(80, &mut random, |_| true).unwrap()).collect::<Vec<_>>()
        };
        let (ports, other) = (draw([1, 2]), draw([3, 4]));
        assert!(ports.iter().all(|p| slice.contains(*p)));
        assert!(ports.windows(2).filter(|w| w[1] == w[0].wrapping_add(1)).count() < 4);
        assert_ne!(ports, other);
        let quarter = ports.iter().filter(|p| **p < 16_384 + 12_288).count();
        assert!((400..600).contains(&quarter), "{quarter}");
    }

    #[test]
    fn who_has_all_even_ports_keeps_nobody_from_the_odd_ones() {
        let slice = PortSlice { lo: 16_384, hi: 65_535 };
        let mut random = Random::new([1, 2]);
        for _ in 0..100 {
            let port = slice.pick(40_000, &mut random, |port| port % 2 == 1);
            assert!(port.is_some_and(|port| port % 2 == 1));
        }
    }

    #[test]
    fn a_port_that_must_change_stays_even_or_odd() {
        let mut random = Random::new([1, 2]);
        for slice in [PortSlice { lo: 16_384, hi: 65_535 }, PortSlice { lo: 20_000, hi: 20_001 }] {
            for wanted in [80, 81, 40_000, 40_001] {
                for _ in 0..1000 {
                    let port = slice.draw_like(wanted, &mut random);
                    assert!(slice.contains(port) && port % 2 == wanted % 2, "{port} for {wanted}");
                }
            }
        }
        let alone = PortSlice { lo: 7, hi: 7 };
        assert_eq!(alone.draw_like(80, &mut random), 7, "there is no other");
    }

    #[test]
    fn a_small_slice_is_used_to_the_last_port() {
        let slice = PortSlice { lo: 100, hi: 163 };
        let mut random = Random::new([1, 2]);
        let mut taken = std::collections::HashSet::new();
        for _ in 0..64 {
            let port = slice.pick(1, &mut random, |p| !taken.contains(&p)).unwrap();
            assert!(taken.insert(port));
        }
        assert_eq!(slice.pick(1, &mut random, |p| !taken.contains(&p)), None);
    }
}
