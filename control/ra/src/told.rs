//! What hosts were told of, each thing with a lifetime of its own.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::VALID_LIMIT_S;

/// So many that are no more are told of, those that hosts were told of for the longest time: no
/// provider that gives another prefix each second has those of others forgotten.
const MAX_STALE: usize = 64;

/// For how long hosts have had each.
#[derive(Clone, Debug)]
pub struct Told<T>(BTreeMap<T, Span>);

/// In milliseconds.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// When they were told first; none: by an earlier process.
    since: Option<u64>,
    /// Until when they may have it.
    until: u64,
}

impl<T> Default for Told<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Told<T> {
    /// Hosts were told of these until `now`, by an earlier process.
    pub fn remember(told: impl IntoIterator<Item = T>, now: u64) -> Self {
        let span = Span { since: None, until: now + u64::from(VALID_LIMIT_S) * 1000 };
        Self(told.into_iter().map(|it| (it, span)).collect())
    }

    /// Hosts are told of it at `now`, for so many seconds. What they heard before may last longer.
    pub fn tell(&mut self, it: &T, lifetime_s: u32, now: u64) {
        let until = now + u64::from(lifetime_s) * 1000;
        let span = self.0.entry(it.clone()).or_insert(Span { since: Some(now), until });
        span.until = span.until.max(until);
    }

    /// Hosts are told of these at `now`, for so many seconds; what they may still have is returned.
    pub fn update(&mut self, all: &[T], lifetime_s: u32, now: u64) -> Vec<T> {
        all.iter().for_each(|it| self.tell(it, lifetime_s, now));
        self.stale(now, |it| !all.contains(it))
    }

    /// What hosts may still have at `now` of all that is no more. What there is no room for is
    /// forgotten.
    pub fn stale(&mut self, now: u64, is_no_more: impl Fn(&T) -> bool) -> Vec<T> {
        self.0.retain(|_, span| span.until > now);
        let told = |Span { since, until }: &Span| until - since.unwrap_or(0);
        let stale = self.0.iter().filter(|(it, _)| is_no_more(it));
        let longest_first = |span: &Span| (span.since.is_some(), Reverse(told(span)));
        let mut stale: Vec<_> = stale.map(|(it, span)| (longest_first(span), it.clone())).collect();
        stale.sort_by_key(|(place, _)| *place);
        for (_, it) in stale.split_off(stale.len().min(MAX_STALE)) {
            self.0.remove(&it);
        }
        stale.into_iter().map(|(_, it)| it).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_were_told_of_for_long_is_not_pushed_out_by_what_changes_each_second() {
        let mut told = Told::remember([1000], 0);
        told.tell(&1001, 5400, 0);
        told.tell(&1001, 5400, 600_000);
        for number in 0..200 {
            let now = 600_000 + 1000 * number;
            told.tell(&number, 5400, now);
            told.stale(now, |it| *it != number);
        }
        let stale = told.stale(900_000, |_| true);
        assert!(stale.contains(&1000) && stale.contains(&1001), "{stale:?}");
        assert_eq!(
            (stale.len(), told.all().count()),
            (MAX_STALE, MAX_STALE),
            "the rest is forgotten"
        );
    }
}
