//! What each host of a LAN has of what all hosts share: places in the flow table, and ports of an
//! address.
//!
//! Nothing is ever taken from a flow to make room for another (RFC 6888 REQ-11). So that there is
//! room for others, a host may have at most five times as much as is left for all: one alone gets
//! five sixths, two five elevenths each. Each worker counts by itself what a host has, beside its
//! part of what is left. A flow that moves to another uplink is no new one.
//!
//! Where the file limits the flows of a host, or how many it begins in a second, those of all workers
//! and of both families count.
//!
//! A table has a fifth more room than it is made for, and five sixths of that are what it is made
//! for: a single host, or a router with all others behind it, may have that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weir_layout::adjacency::ADJACENCIES;

/// So many times what is left for all may a host have.
const GREED: u64 = 5;

/// Flows of each host that all workers have, by its adjacency.
#[derive(Clone, Debug)]
pub struct HostFlows(Arc<[Host]>);

#[derive(Debug, Default)]
struct Host {
    flows: AtomicU32,
    /// The low half of the second in which one last began, and how many began in it.
    begun: AtomicU32,
}

impl Host {
    /// May one more begin, where so many may in a second? Then it has.
    fn begins(&self, now_ms: u32, limit: u32) -> bool {
        let second = (now_ms / 1000) as u16;
        let one_more = |begun: u32| {
            let (held, count) = ((begun >> 16) as u16, begun & 0xffff);
            // Another worker's clock may be ahead, into the next.
            let (second, count) = match held.wrapping_sub(second) {
                0 | 1 => (held, count),
                _ => (second, 0),
            };
            (count < limit.min(0xffff)).then_some(u32::from(second) << 16 | (count + 1))
        };
        self.begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

impl Default for HostFlows {
    fn default() -> Self {
        Self((0..ADJACENCIES).map(|_| Host::default()).collect())
    }
}

/// Flows of each host that a worker has of a family, by its adjacency.
#[derive(Debug)]
pub struct Shares {
    flows: Box<[u32]>,
    all: HostFlows,
    is_moving: bool,
}

impl Shares {
    /// Of a worker without flows, beside what all have.
    pub fn new(all: HostFlows) -> Self {
        Self { flows: vec![0; ADJACENCIES].into(), all, is_moving: false }
    }

    /// Flows of a host.
    pub fn of(&self, host: u16) -> u32 {
        self.flows.get(usize::from(host)).copied().unwrap_or(0)
    }

    /// From now on flows are begun that were there before, elsewhere, or no more such.
    pub fn set_moving(&mut self, is_moving: bool) {
        self.is_moving = is_moving;
    }

    /// May a host have more of what so much is left of? It may take along what it has.
    pub fn allow(&self, host: u16, left: u64) -> bool {
        may_have_more(if self.is_moving { 0 } else { self.of(host) }, left)
    }

    /// May a host have more where each may have so many, all workers' together? Two workers may find
    /// room for the last at the same moment.
    pub fn is_within(&self, host: u16, limit: u32) -> bool {
        let host = self.all.0.get(usize::from(host));
        let all = host.map_or(0, |host| host.flows.load(Ordering::Relaxed));
        self.is_moving || all < limit
    }

    /// May a host begin another where each may begin so many in a second, with all workers? Then it has.
    /// What moves begins nothing.
    pub fn begins(&self, host: u16, now_ms: u32, limit: u32) -> bool {
        let host = self.all.0.get(usize::from(host));
        self.is_moving || host.is_none_or(|host| host.begins(now_ms, limit))
    }

    /// One flow more.
    pub fn add(&mut self, host: u16) {
        let host = usize::from(host);
        if let (Some(flows), Some(all)) = (self.flows.get_mut(host), self.all.0.get(host)) {
            *flows = flows.saturating_add(1);
            all.flows.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One flow less.
    pub fn remove(&mut self, host: u16) {
        let host = usize::from(host);
        if let (Some(flows), Some(all)) = (self.flows.get_mut(host), self.all.0.get(host))
            && *flows > 0
        {
            *flows -= 1;
            all.flows.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// May a host that has so much have more, where so much is left?
const fn may_have_more(has: u32, left: u64) -> bool {
    (has as u64) < GREED.saturating_mul(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each of so many greedy hosts gets of so much, one after the other.
    fn greedy(hosts: usize, all: u64) -> Vec<u32> {
        let mut has = vec![0; hosts];
        for _ in 0..all {
            for host in 0..hosts {
                let left = all - has.iter().map(|n| u64::from(*n)).sum::<u64>();
                has[host] += u32::from(may_have_more(has[host], left));
            }
        }
        has
    }

    #[test]
    fn one_host_gets_five_sixths_and_several_get_the_same_each() {
        assert_eq!(greedy(1, 6000), [5000]);
        let [a, b] = greedy(2, 11_000)[..] else { panic!() };
        assert!(a.abs_diff(5000) <= 1 && b.abs_diff(5000) <= 1, "{a} {b}");
        assert!(greedy(100, 6000).iter().all(|n| n.abs_diff(60) <= 1));
    }

    #[test]
    fn what_a_host_has_it_takes_along() {
        let mut shares = Shares::new(HostFlows::default());
        (0..6).for_each(|_| shares.add(3));
        assert!(!shares.allow(3, 1));
        shares.set_moving(true);
        assert!(shares.allow(3, 1) && !shares.allow(3, 0));
        shares.set_moving(false);
        assert!(!shares.allow(3, 1));
    }

    #[test]
    fn who_has_nothing_gets_the_last() {
        assert!(may_have_more(0, 1));
        assert!(!may_have_more(5, 1));
        assert!(!may_have_more(0, 0));
    }

    #[test]
    fn a_limit_holds_for_what_all_workers_have_and_not_for_what_moves() {
        let all = HostFlows::default();
        let [mut one, mut other] = [(); 2].map(|()| Shares::new(all.clone()));
        one.add(3);
        other.add(3);
        assert!(one.is_within(3, 3) && !one.is_within(3, 2) && one.is_within(4, 1));
        one.set_moving(true);
        assert!(one.is_within(3, 2));
        one.set_moving(false);
        other.remove(3);
        assert!(one.is_within(3, 2));
        other.remove(3);
        assert!(!one.is_within(3, 1), "what is not there is not taken away");
    }

    #[test]
    fn a_host_begins_so_many_in_a_second_with_all_workers_and_anew_in_the_next() {
        let all = HostFlows::default();
        let [mut one, other] = [(); 2].map(|()| Shares::new(all.clone()));
        for now in [0, 999, 1000, 70_000_000, u32::MAX] {
            assert!(one.begins(3, now, 3) || now == 999, "{now}");
            let begun = [&one, &other, &one].map(|shares| shares.begins(3, now, 3));
            assert_eq!(begun, [now != 999, now != 999, false], "{now}");
        }
        assert!(other.begins(4, u32::MAX, 3), "another host");
        // One worker is in the next second already.
        let begun = [5999, 6000, 5999, 6000].map(|now| one.begins(6, now, 3));
        assert_eq!(begun, [true, true, true, true]);
        assert!(!other.begins(6, 5999, 3));
        one.set_moving(true);
        assert!(one.begins(3, u32::MAX, 3));
    }

    #[test]
    fn flows_are_counted_by_host() {
        let mut shares = Shares::new(HostFlows::default());
        shares.add(7);
        shares.add(7);
        shares.add(8);
        shares.remove(7);
        assert_eq!([7, 8, 9].map(|host| shares.of(host)), [1, 1, 0]);
    }
}
