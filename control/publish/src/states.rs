//! The state words of a family's paths, as they are decided.

use weir_layout::Family;
use weir_layout::control::{PathId, path_state};

/// The words of one family's paths, by uplink, and since when each is usable or not.
#[derive(Clone, Debug)]
pub struct States {
    family: Family,
    words: Vec<u32>,
    since: Vec<u64>,
}

/// A path's word that was decided anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which path.
    pub path: PathId,
    /// The word that was.
    pub from: u32,
    /// The word that is.
    pub to: u32,
}

impl Change {
    /// Did the path become usable, or is it no more?
    pub const fn flips(&self) -> bool {
        (self.from ^ self.to) & path_state::USABLE != 0
    }

    /// Is the path out of use from now on?
    pub const fn takes_out(&self) -> bool {
        self.flips() && self.from & path_state::USABLE != 0
    }
}

impl States {
    /// Those of an earlier control process, with since when, seconds since the Unix epoch; 0: not
    /// known.
    pub fn new(family: Family, words: Vec<u32>, since: Vec<u64>) -> Self {
        let mut states = Self { family, words, since };
        states.resize(states.words.len());
        states
    }

    /// For another number of uplinks.
    pub fn resize(&mut self, uplinks: usize) {
        self.words.resize(uplinks, 0);
        self.since.resize(uplinks, 0);
    }

    /// The words.
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// Since when each path is usable or not, seconds since the Unix epoch.
    pub fn since(&self) -> &[u64] {
        &self.since
    }

    /// Takes what is decided of the paths at `now_s`, seconds since the Unix epoch; the changes.
    pub fn decide(&mut self, words: impl IntoIterator<Item = u32>, now_s: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        let known = self.words.iter_mut().zip(&mut self.since);
        for (uplink, ((word, since), to)) in (0u8..).zip(known.zip(words)) {
            let path = PathId::new(uplink, self.family);
            let change = Change { path, from: std::mem::replace(word, to), to };
            if change.flips() || *since == 0 {
                *since = now_s;
            }
            if change.from != change.to {
                changes.push(change);
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: u32 = path_state::USABLE;
    const DEGRADED: u32 = UP | path_state::DEGRADED;
    const CUT: u32 = path_state::NO_CARRIER;

    #[test]
    fn what_is_decided_again_is_no_change() {
        let mut states = States::new(Family::V4, vec![UP, CUT], vec![5, 6]);
        assert_eq!(states.decide([UP, CUT], 9), []);
        assert_eq!((states.words(), states.since()), (&[UP, CUT][..], &[5, 6][..]));
    }

    #[test]
    fn the_time_is_that_of_the_last_flip() {
        let mut states = States::new(Family::V4, vec![UP, UP, CUT], vec![5, 5, 0]);
        let change = |uplink, from, to| Change { path: PathId::v4(uplink), from, to };
        let changes = states.decide([DEGRADED, CUT, CUT], 9);
        assert_eq!(changes, [change(0, UP, DEGRADED), change(1, UP, CUT)]);
        assert_eq!(states.since(), [5, 9, 9], "and of the first look where none is known");
        assert_eq!(changes.iter().map(Change::flips).collect::<Vec<_>>(), [false, true]);
        assert!(changes[1].takes_out());
        assert!(!change(1, CUT, UP).takes_out(), "it comes back");
    }

    #[test]
    fn an_uplink_that_is_added_begins_without_a_state() {
        let mut states = States::new(Family::V4, vec![UP], vec![5]);
        states.resize(2);
        assert_eq!(states.decide([UP, UP], 9), [Change { path: PathId::v4(1), from: 0, to: UP }]);
        assert_eq!(states.since(), [5, 9]);
    }
}
