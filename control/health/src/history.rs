//! What happened of late: changes of state, of the tiers of policies, and what was done by hand.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_layout::Family;

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
    /// The path of an uplink of this name.
    pub const fn path(name: String, family: Family) -> Self {
        match family {
            Family::V4 => Self::Uplink(name),
            Family::V6 => Self::Ipv6(name),
        }
    }

    /// Of which family it is, if it is a path of an uplink.
    pub const fn family(&self) -> Option<Family> {
        match self {
            Self::Uplink(_) => Some(Family::V4),
            Self::Ipv6(_) => Some(Family::V6),
            Self::Lan(_) => None,
        }
    }

    /// The uplink's name, if it is a path of one.
    pub fn uplink(&self) -> Option<&str> {
        match self {
            Self::Uplink(name) | Self::Ipv6(name) => Some(name),
            Self::Lan(_) => None,
        }
    }
}

/// Another tier takes a policy's new flows of a family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierChange {
    /// The policy's name.
    pub policy: String,
    /// Of which flows: `"ipv4"` or `"ipv6"` in JSON.
    #[serde(with = "FamilyName")]
    pub family: Family,
    /// The tier that was; none: no uplink was usable.
    pub from: Option<u8>,
    /// The tier that is; none: no uplink is usable.
    pub to: Option<u8>,
    /// The uplinks of that tier that take them, by name.
    pub uplinks: Vec<String>,
}

/// How a [`Family`] is called in JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Family")]
enum FamilyName {
    #[serde(rename = "ipv4")]
    V4,
    #[serde(rename = "ipv6")]
    V6,
}

/// What somebody had weir do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// In the words of the command line, such as `weir down lte`.
    pub command: String,
    /// Who; none: it came by a signal, or was kept until a control process ran.
    pub by: Option<Author>,
}

/// Who had it done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// The user, as the kernel says.
    pub uid: u32,
    /// The user's name at that time, if there was one.
    pub user: Option<String>,
    /// The process, as the kernel says; none: it was not to be seen.
    pub pid: Option<u32>,
    /// What that process called itself: its command line. Empty: not to be had.
    pub process: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// A part of the gateway has another state, or an uplink another load.
    State {
        /// Whose it is: `"uplink"`, `"ipv6"` or `"lan"` in JSON.
        #[serde(flatten)]
        part: Part,
        /// What changed.
        #[serde(flatten)]
        transition: Transition,
    },
    /// A policy has another tier: `"policy"` in JSON.
    Tier(TierChange),
    /// Something was done by hand: `"command"` in JSON.
    Command(Command),
}

/// What may come so often that it would drive out the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frequent {
    Load,
    Tier,
    Command,
}

impl Event {
    fn frequent(&self) -> Option<Frequent> {
        match self {
            Self::State { transition, .. } => transition.is_of_load().then_some(Frequent::Load),
            Self::Tier(_) => Some(Frequent::Tier),
            Self::Command(_) => Some(Frequent::Command),
        }
    }
}

/// An event with its number and the time of day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts all events, so that a reader sees what it missed.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// The newest events, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    entries: VecDeque<Entry>,
    capacity: usize,
    next: u64,
}

impl History {
    /// Room for `capacity` events.
    pub fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::with_capacity(capacity), capacity, next: 0 }
    }

    /// The same with what was kept: numbers go on from the last.
    pub fn resume(capacity: usize, entries: Vec<Entry>) -> Self {
        let mut history = Self::new(capacity);
        entries.into_iter().for_each(|entry| history.add(entry));
        history
    }

    /// Adds an event. Gives the entry that was made of it.
    pub fn push(&mut self, event: Event, time_ms: u64) -> Entry {
        let entry = Entry { number: self.next, time_ms, event };
        self.add(entry.clone());
        entry
    }

    /// Adds what another has numbered, and drops the oldest when there is no room.
    pub fn add(&mut self, entry: Entry) {
        self.next = entry.number.saturating_add(1);
        self.entries.push_back(entry);
        if self.entries.len() > self.capacity {
            self.entries.remove(self.least());
        }
    }

    /// The place of the entry that goes first: the oldest of load, tiers or commands where one of
    /// these has more than a quarter of the room, because a busy uplink fills and empties all day,
    /// and a script may ask as often as it likes; else the oldest of all.
    fn least(&self) -> usize {
        let is = |kind: Frequent| move |entry: &Entry| entry.event.frequent() == Some(kind);
        let count = |kind| self.entries.iter().filter(|entry| is(kind)(entry)).count();
        let kinds = [Frequent::Load, Frequent::Tier, Frequent::Command];
        let many = kinds.into_iter().find(|kind| count(*kind) * 4 > self.capacity);
        many.and_then(|kind| self.entries.iter().position(is(kind))).unwrap_or(0)
    }

    /// The events from `number` on.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.number >= number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reason, State};
    use super::*;

    fn change(from: State, to: State, at: u64) -> Event {
        let transition = Transition { from, to, reason: Reason::Unmeasured, at };
        Event::State { part: Part::Uplink("a".into()), transition }
    }

    fn command(command: &str) -> Event {
        Event::Command(Command { command: command.into(), by: None })
    }

    fn entry(number: u64, event: Event) -> Entry {
        Entry { number, time_ms: 1, event }
    }

    fn kept(history: &History) -> Vec<u64> {
        history.since(0).map(|entry| entry.number).collect()
    }

    #[test]
    fn an_entry_says_in_json_what_it_is_of() {
        let transition = Transition {
            from: State::Up,
            to: State::Down,
            reason: Reason::TargetsFailed { failed: 2, of: 2, quorum: 1 },
            at: 1,
        };
        let state = |part| Event::State { part, transition };
        let (policy, family) = ("web".into(), Family::V6);
        let uplinks = vec!["lte".into()];
        let tier = TierChange { policy, family, from: None, to: Some(2), uplinks };
        let (user, process) = (Some("root".into()), "weir down a".into());
        let by = Some(Author { uid: 0, user, pid: Some(9), process });
        for (event, key, name) in [
            (state(Part::Uplink("a".into())), "uplink", "a"),
            (state(Part::Ipv6("a".into())), "ipv6", "a"),
            (state(Part::Lan("a".into())), "lan", "a"),
            (Event::Tier(tier), "policy", "web"),
            (
                Event::Command(Command { command: "weir down a".into(), by }),
                "command",
                "weir down a",
            ),
            (command("weir reload (SIGHUP)"), "command", "weir reload (SIGHUP)"),
        ] {
            let entry = entry(7, event);
            let text = serde_json::to_string(&entry).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value[key], name, "{text}");
            assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
        }
    }

    #[test]
    fn what_was_kept_before_there_were_commands_is_read() {
        let line = r#"{"number":4,"time_ms":8,"uplink":"a","from":"up","to":"down",
            "reason":{"kind":"loss","percent":30,"threshold":20},"at":5}"#;
        let read: Entry = serde_json::from_str(line).unwrap();
        let reason = Reason::Loss { percent: 30, threshold: 20 };
        let transition = Transition { from: State::Up, to: State::Down, reason, at: 5 };
        let event = Event::State { part: Part::Uplink("a".into()), transition };
        assert_eq!(read, Entry { number: 4, time_ms: 8, event });
    }

    #[test]
    fn numbers_go_on_from_what_was_kept() {
        let down = || change(State::Up, State::Down, 1);
        let entries = [3, 4, 7].map(|number| entry(number, down())).into();
        let mut history = History::resume(2, entries);
        assert_eq!(history.push(down(), 2).number, 8);
        assert_eq!(kept(&history), [7, 8]);
        assert_eq!(History::resume(2, Vec::new()).push(down(), 1).number, 0);
    }

    #[test]
    fn what_comes_often_does_not_drive_out_changes_of_health() {
        let (policy, uplinks) = ("web".into(), vec!["lte".into()]);
        let (family, from, to) = (Family::V4, Some(1), Some(2));
        let tier = Event::Tier(TierChange { policy, family, from, to, uplinks });
        for often in [change(State::Up, State::Up, 1), command("weir weight a 3"), tier] {
            let mut history = History::new(10);
            for at in 0..4 {
                history.push(change(State::Up, State::Down, at), at);
            }
            for at in 4..100 {
                history.push(often.clone(), at);
            }
            assert_eq!(kept(&history), [0, 1, 2, 3, 94, 95, 96, 97, 98, 99]);
            for at in 100..200 {
                history.push(change(State::Up, State::Down, at), at);
            }
            let newest: Vec<u64> = (190..200).collect();
            assert_eq!(kept(&history), newest, "nor the other way round for long");
        }
    }

    #[test]
    fn changes_of_load_do_not_drive_out_what_was_done_by_hand() {
        let mut history = History::new(8);
        history.push(command("weir down a"), 0);
        (1..100).for_each(|at| _ = history.push(change(State::Up, State::Up, at), at));
        assert_eq!(kept(&history)[0], 0);
    }
}
