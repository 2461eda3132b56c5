//! What hosts were told of, each thing with a lifetime of its own.

use std::collections::BTreeMap;

use crate::VALID_LIMIT_S;

/// So many that are no more are told of, the latest ones.
const MAX_STALE: usize = 64;

/// Until when hosts may have each, milliseconds.
#[derive(Clone, Debug)]
pub struct Told<T>(BTreeMap<T, u64>);

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Told<T> {
    /// Hosts were told of these until `now`, by an earlier process.
    pub fn remember(told: impl IntoIterator<Item = T>, now: u64) -> Self {
        let until = now + u64::from(VALID_LIMIT_S) * 1000;
        Self(told.into_iter().map(|it| (it, until)).collect())
    }

    /// Hosts are told of it at `now`, for so many seconds. What they heard before may last longer.
    pub fn tell(&mut self, it: &T, lifetime_s: u32, now: u64) {
        let until = now + u64::from(lifetime_s) * 1000;
        let known = self.0.entry(it.clone()).or_default();
        *known = (*known).max(until);
    }

    /// Hosts are told of these at `now`, for so many seconds; what they may still have is returned.
    pub fn update(&mut self, all: &[T], lifetime_s: u32, now: u64) -> Vec<T> {
        all.iter().for_each(|it| self.tell(it, lifetime_s, now));
        self.stale(now, |it| !all.contains(it))
    }

    /// What hosts may still have at `now` of all that is no more: the latest.
    pub fn stale(&mut self, now: u64, is_no_more: impl Fn(&T) -> bool) -> Vec<T> {
        self.0.retain(|_, until| *until > now);
        let mut stale: Vec<_> = self.0.iter().filter(|(it, _)| is_no_more(it)).collect();
        stale.sort_by_key(|(_, until)| std::cmp::Reverse(**until));
        stale.into_iter().take(MAX_STALE).map(|(it, _)| it.clone()).collect()
    }

    /// May hosts have it?
    pub fn contains(&self, it: &T) -> bool {
        self.0.contains_key(it)
    }

    /// All that hosts may have.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.keys()
    }
}
