//! The transitions of late.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::signal::Transition;

/// What a transition is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The uplink of this name, by its IPv4 path.
    Uplink(String),
    /// The IPv6 path of the uplink of this name.
    Ipv6(String),
    /// The LAN by this interface.
    Lan(String),
}

impl Part {
    /// The uplink's name, if it is a path of one.
    pub fn uplink(&self) -> Option<&str> {
        match self {
            Self::Uplink(name) | Self::Ipv6(name) => Some(name),
            Self::Lan(_) => None,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uplink(name) => f.write_str(name),
            Self::Ipv6(name) => write!(f, "{name} (IPv6)"),
            Self::Lan(name) => write!(f, "LAN {name}"),
        }
    }
}

/// A transition with the part of the gateway that it is of, and the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts all transitions, so that a reader sees what it missed.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Whose it is: `"uplink"`, `"ipv6"` or `"lan"` in JSON.
    #[serde(flatten)]
    pub part: Part,
    /// What changed.
    #[serde(flatten)]
    pub transition: Transition,
}

/// The newest transitions of all parts, oldest first.
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

    /// The same with what was kept: numbers go on from the last.
    pub fn resume(capacity: usize, entries: Vec<Entry>) -> Self {
        let next = entries.last().map_or(0, |last| last.number.saturating_add(1));
        let mut entries = VecDeque::from(entries);
        entries.drain(..entries.len().saturating_sub(capacity));
        Self { entries, capacity, next }
    }

    /// Adds a transition, and drops the oldest when there is no room: of load while there are more
    /// of load than of health, because a busy uplink fills and empties all day. Gives the entry that
    /// was made of it.
    pub fn push(&mut self, part: Part, transition: Transition, time_ms: u64) -> Entry {
        if self.entries.len() == self.capacity {
            let of_load = |entry: &Entry| entry.transition.is_of_load();
            let many = self.entries.iter().filter(|e| of_load(e)).count() * 2 > self.capacity;
            let oldest = self.entries.iter().position(of_load).filter(|_| many);
            self.entries.remove(oldest.unwrap_or(0));
        }
        let number = self.next;
        self.next += 1;
        let entry = Entry { number, time_ms, part, transition };
        if self.capacity > 0 {
            self.entries.push_back(entry.clone());
        }
        entry
    }

    /// The transitions from `number` on.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.number >= number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reason, State};
    use super::*;

    fn change(from: State, to: State, at: u64) -> Transition {
        Transition { from, to, reason: Reason::Unmeasured, at }
    }

    fn a() -> Part {
        Part::Uplink("a".into())
    }

    #[test]
    fn an_entry_says_in_json_what_part_it_is_of() {
        for (part, key) in [(a(), "uplink"), (Part::Lan("a".into()), "lan")] {
            let transition = change(State::Up, State::Down, 1);
            let entry = Entry { number: 7, time_ms: 8, part, transition };
            let text = serde_json::to_string(&entry).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value[key], &value["to"]), (&"a".into(), &"down".into()));
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }

    #[test]
    fn numbers_go_on_from_what_was_kept() {
        let entry = |number| Entry {
            number,
            time_ms: 1,
            part: a(),
            transition: change(State::Up, State::Down, 1),
        };
        let mut history = History::resume(2, vec![entry(3), entry(4), entry(7)]);
        assert_eq!(history.push(a(), change(State::Down, State::Up, 2), 2).number, 8);
        let kept: Vec<u64> = history.since(0).map(|entry| entry.number).collect();
        assert_eq!(kept, [7, 8]);
        assert_eq!(History::resume(2, Vec::new()).push(a(), entry(0).transition, 1).number, 0);
    }

    #[test]
    fn changes_of_load_do_not_drive_out_those_of_health() {
        let mut history = History::new(10);
        for at in 0..4 {
            history.push(a(), change(State::Up, State::Down, at), at);
        }
        for at in 4..100 {
            history.push(a(), change(State::Up, State::Up, at), at);
        }
        let kept: Vec<u64> = history.since(0).map(|entry| entry.number).collect();
        assert_eq!(kept, [0, 1, 2, 3, 94, 95, 96, 97, 98, 99]);
        for at in 100..200 {
            history.push(a(), change(State::Up, State::Down, at), at);
        }
        let kept: Vec<u64> = history.since(0).map(|entry| entry.number).collect();
        assert_eq!(kept, (190..200).collect::<Vec<_>>(), "nor the other way round for long");
    }
}
