//! A link to a provider that can go wrong while it runs: a relay in user space.
//!
//! ```text
//! gateway wanN ── customer [ namespace lineN: one thread per direction ] provider ── router gw
//! ```
//!
//! Kernels without netem have nothing that loses, delays or queues frames. Here two threads take
//! them from one packet socket (packet(7)) and give them to another, each by the [`Impairment`] of
//! its direction. They sleep until a frame comes or is due, hold a bounded number of frames, and
//! end with the [`Line`].
//!
//! Without a fault a frame costs 4 to 5 µs of a core of 2.0 GHz, and the median ping through a line
//! takes 0.06 ms more than without (`weir-kit topo up --lines`). 86 000 frames a second were seen to
//! pass with 43 % of a core; a whole one has time for 200 000.
//!
//! | module | what it is |
//! |---|---|
//! | [`impairment`] | what goes wrong, and when a frame leaves because of it |
//! | `relay` | one direction: a thread between two sockets |

pub mod impairment;
mod relay;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};

pub use impairment::{Impairment, Rate};

use crate::netns::Netns;
use relay::{Relay, Way};

/// The port towards the gateway.
pub const CUSTOMER: &str = "customer";
/// The port towards the provider's router.
pub const PROVIDER: &str = "provider";

/// One way of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the gateway to the provider.
    Up,
    /// From the provider to the gateway.
    Down,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Up, Self::Down];
}

/// What became of the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came out at the other end.
    pub carried: u64,
    /// Lost by chance, by a dead direction, or because the other port was down.
    pub lost: u64,
    /// Lost because too much was queued.
    pub overflowed: u64,
}

/// A running line; its threads end when it is dropped.
#[derive(Debug)]
pub struct Line {
    ways: [Arc<Way>; 2],
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Line {
    /// Joins the two ports of `netns`. Chance is that of `seed`.
    ///
    /// # Errors
    /// Without root, or when a port is not there.
    pub fn start(netns: &Netns, seed: u64) -> Result<Self> {
        let ports = [relay::port(netns, CUSTOMER)?, relay::port(netns, PROVIDER)?];
        let mut line = Self { ways: Default::default(), threads: Vec::new() };
        for direction in Direction::BOTH {
            let (from, to) = match direction {
                Direction::Up => (&ports[0], &ports[1]),
                Direction::Down => (&ports[1], &ports[0]),
            };
            let way = Arc::clone(line.way(direction));
            let seed = seed * 2 + direction as u64;
            let relay = Relay::new(from.try_clone()?, to.try_clone()?, way, seed);
            let thread = std::thread::Builder::new().name("line".into());
            line.threads.push(thread.spawn(move || relay.run())?);
        }
        Ok(line)
    }

    /// Does this to every frame of one direction from now on.
    pub fn impair(&self, direction: Direction, impairment: Impairment) {
        let way = self.way(direction);
        *way.impairment.lock().unwrap_or_else(PoisonError::into_inner) = impairment;
    }

    /// Does this to every frame of either direction from now on.
    pub fn impair_both(&self, impairment: Impairment) {
        Direction::BOTH.into_iter().for_each(|direction| self.impair(direction, impairment));
    }

    /// Ends all that is wrong.
    pub fn heal(&self) {
        self.impair_both(Impairment::default());
    }

    /// What became of the frames so far.
    #[must_use]
    pub fn counts(&self, direction: Direction) -> Counts {
        let way = self.way(direction);
        Counts {
            carried: way.carried.load(Ordering::Relaxed),
            lost: way.lost.load(Ordering::Relaxed),
            overflowed: way.overflowed.load(Ordering::Relaxed),
        }
    }

    fn way(&self, direction: Direction) -> &Arc<Way> {
        &self.ways[direction as usize]
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for way in &self.ways {
            way.stop.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join().unwrap_or_else(|_| Err(anyhow!("a line's relay panicked")));
            if let Err(error) = ended {
                eprintln!("{error:#}");
            }
        }
    }
}
