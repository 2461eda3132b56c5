//! The transitions of late.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::signal::Transition;

/// A transition with its uplink and the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts all transitions since the start, so that a reader sees what it missed.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The uplink's name.
    pub uplink: String,
    /// What changed.
    #[serde(flatten)]
    pub transition: Transition,
}

/// The newest transitions of all uplinks, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    entries: VecDeque<Entry>,
    capacity: usize,
    next: u64,
}

impl History {
    /// Room for `capacity` transitions.
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), capacity, next: 0 }
    }

    /// Adds a transition, and drops the oldest when there is no room.
    pub fn push(&mut self, uplink: &str, transition: Transition, time_ms: u64) {
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
        }
        let (number, uplink) = (self.next, uplink.to_owned());
        self.next += 1;
        if self.capacity > 0 {
            self.entries.push_back(Entry { number, time_ms, uplink, transition });
        }
    }

    /// The transitions from `number` on.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.number >= number)
    }
}
