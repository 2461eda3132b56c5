//! The best few of many, in little memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keeps so many of those that are offered: those of the highest rank, and of equals the first.
#[derive(Debug)]
pub struct Best<T> {
    limit: usize,
    offered: u64,
    /// The worst that is kept comes out first.
    kept: BinaryHeap<Reverse<Kept<T>>>,
}

#[derive(Debug)]
struct Kept<T> {
    /// The rank, then the place among all that were offered.
    order: (u64, Reverse<u64>),
    value: T,
}

impl<T> Ord for Kept<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl<T> PartialOrd for Kept<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Kept<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<T> Eq for Kept<T> {}

impl<T> Best<T> {
    pub fn new(limit: usize) -> Self {
        Self { limit, offered: 0, kept: BinaryHeap::new() }
    }

    /// Makes the value and keeps it if there is room, or a worse one in its place.
    pub fn offer(&mut self, rank: u64, make: impl FnOnce() -> T) {
        let order = (rank, Reverse(self.offered));
        self.offered += 1;
        if self.kept.len() >= self.limit {
            match self.kept.peek() {
                Some(Reverse(worst)) if worst.order < order => self.kept.pop(),
                _ => return,
            };
        }
        self.kept.push(Reverse(Kept { order, value: make() }));
    }

    /// How many were offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Those that are kept, the best first.
    pub fn into_vec(self) -> Vec<T> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(kept)| kept.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(limit: usize, ranks: &[u64]) -> Vec<(u64, usize)> {
        let mut best = Best::new(limit);
        for (at, rank) in ranks.iter().enumerate() {
            best.offer(*rank, || (*rank, at));
        }
        assert_eq!(best.offered(), ranks.len() as u64);
        best.into_vec()
    }

    #[test]
    fn the_highest_are_kept_and_come_first() {
        assert_eq!(best(3, &[5, 1, 9, 7, 2]), [(9, 2), (7, 3), (5, 0)]);
        assert_eq!(best(9, &[1, 2]), [(2, 1), (1, 0)], "there are fewer");
        assert_eq!(best(0, &[1, 2]), []);
    }

    #[test]
    fn of_equals_the_first_are_kept_in_their_order() {
        assert_eq!(best(2, &[4, 4, 4]), [(4, 0), (4, 1)]);
    }

    #[test]
    fn what_is_not_kept_is_not_made() {
        let mut best = Best::new(1);
        best.offer(2, || ());
        best.offer(1, || panic!("it is worse"));
    }
}
