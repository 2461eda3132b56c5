//! What each source may begin while more comes to a socket than its worker can do.
//!
//! A ring that fills says that the worker falls behind. Then all sources behind the socket have an
//! [allowance](weir_layout::allowance), and what the XDP program drops of those that send the most
//! the others need not lose. It is halved while the ring goes on filling, and grows by an eighth while
//! it does not, as TCP shares a link (Chiu and Jain, 1989), until it limits nobody.

use std::collections::BTreeMap;

use weir_layout::allowance::ALL;
use weir_shm::allowances::Allowances;

/// Time between two decisions: two ticks of a kernel with 250 a second, so that what was decided has
/// begun to show.
const PERIOD_MS: u64 = 8;
/// The first allowance: this part of the ring in a tick.
const FIRST: u32 = 8;
/// The least: this part of it. The ring may fill with what no allowance keeps from it, packets of
/// flows, and then it leaves others as much.
const LEAST: u32 = 512;

/// A worker's sockets that are under pressure.
#[derive(Debug)]
pub struct Pressure {
    allowances: Allowances,
    sockets: BTreeMap<(u8, u32), Socket>,
}

/// A socket that is.
#[derive(Clone, Copy, Debug)]
struct Socket {
    allowance: u64,
    /// When the period began, CLOCK_MONOTONIC milliseconds.
    since: u64,
    /// The most frames that waited in it.
    most: u32,
}

impl Pressure {
    /// Under none.
    pub fn new(allowances: Allowances) -> Self {
        Self { allowances, sockets: BTreeMap::new() }
    }

    /// So many frames wait in the socket of a queue, whose ring holds `size`. Called once in a turn.
    #[inline]
    pub fn look(&mut self, (device, queue): (u8, u32), waiting: u32, size: u32, now: u64) {
        if waiting > size / 2 || !self.sockets.is_empty() {
            self.decide((device, queue), waiting, size, now);
        }
    }

    fn decide(&mut self, place: (u8, u32), waiting: u32, size: u32, now: u64) {
        let fills = |most: u32| most > size / 2;
        let Some(socket) = self.sockets.get_mut(&place) else {
            if fills(waiting) {
                let allowance = u64::from((size / FIRST).max(1));
                self.sockets.insert(place, Socket { allowance, since: now, most: 0 });
                self.allowances.set(place.0, place.1, allowance);
            }
            return;
        };
        socket.most = socket.most.max(waiting);
        if now.saturating_sub(socket.since) < PERIOD_MS {
            return;
        }
        socket.allowance = match fills(socket.most) {
            true => (socket.allowance / 2).max((size / LEAST).max(1).into()),
            false => socket.allowance + socket.allowance.div_ceil(8),
        };
        (socket.since, socket.most) = (now, 0);
        let allowance = if socket.allowance > size.into() { ALL } else { socket.allowance };
        self.allowances.set(place.0, place.1, allowance);
        if allowance == ALL {
            self.sockets.remove(&place);
        }
    }

    /// The sockets of a device are closed.
    pub fn forget(&mut self, device: u8) {
        for ((device, queue), _) in self.sockets.extract_if(.., |(of, _), _| *of == device) {
            self.allowances.set(device, queue, ALL);
        }
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        for (device, queue) in self.sockets.keys() {
            self.allowances.set(*device, *queue, ALL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: (u8, u32) = (3, 1);
    const SIZE: u32 = 2048;

    fn pressure() -> (Pressure, Allowances) {
        let allowances = Allowances::anonymous().unwrap();
        (Pressure::new(allowances.clone()), allowances)
    }

    #[test]
    fn a_ring_that_is_not_half_full_limits_nobody() {
        let (mut pressure, allowances) = pressure();
        (0..1000).for_each(|now| pressure.look(PLACE, SIZE / 2, SIZE, now));
        assert_eq!(allowances.get(3, 1), ALL);
    }

    #[test]
    fn an_allowance_is_halved_while_the_ring_fills_down_to_a_few_packets() {
        let (mut pressure, allowances) = pressure();
        pressure.look(PLACE, SIZE, SIZE, 0);
        assert_eq!(allowances.get(3, 1), 256);
        // Not before the period is over.
        pressure.look(PLACE, SIZE, SIZE, PERIOD_MS - 1);
        assert_eq!(allowances.get(3, 1), 256);
        for (period, expected) in [128, 64, 32, 16, 8, 4, 4].into_iter().enumerate() {
            pressure.look(PLACE, SIZE, SIZE, PERIOD_MS * (period as u64 + 1));
            assert_eq!(allowances.get(3, 1), expected);
        }
        assert_eq!(allowances.get(3, 0), ALL, "of another queue");
    }

    #[test]
    fn an_allowance_grows_by_an_eighth_until_it_limits_nobody() {
        let (mut pressure, allowances) = pressure();
        pressure.look(PLACE, SIZE, SIZE, 0);
        let mut last: u64 = 256;
        for period in 1.. {
            pressure.look(PLACE, 0, SIZE, PERIOD_MS * period);
            let now = allowances.get(3, 1);
            if now == ALL {
                assert!(last + last.div_ceil(8) > SIZE.into());
                break;
            }
            assert_eq!(now, last + last.div_ceil(8));
            last = now;
        }
        // As if there had been none.
        pressure.look(PLACE, SIZE, SIZE, 100_000);
        assert_eq!(allowances.get(3, 1), 256);
    }

    #[test]
    fn what_waited_within_the_period_counts_at_its_end() {
        let (mut pressure, allowances) = pressure();
        pressure.look(PLACE, SIZE, SIZE, 0);
        pressure.look(PLACE, SIZE, SIZE, 1);
        pressure.look(PLACE, 0, SIZE, PERIOD_MS);
        assert_eq!(allowances.get(3, 1), 128);
    }

    #[test]
    fn a_device_that_is_closed_leaves_no_allowance_behind() {
        let (mut pressure, allowances) = pressure();
        pressure.look(PLACE, SIZE, SIZE, 0);
        pressure.look((4, 0), SIZE, SIZE, 0);
        pressure.forget(3);
        assert_eq!((allowances.get(3, 1), allowances.get(4, 0)), (ALL, 256));
    }

    #[test]
    fn a_worker_that_ends_leaves_no_allowance_behind() {
        let (mut pressure, allowances) = pressure();
        pressure.look(PLACE, SIZE, SIZE, 0);
        drop(pressure);
        assert_eq!(allowances.get(3, 1), ALL);
    }
}
