//! What users' connections say of the uplinks, from what the workers have counted.

use weir_health::PassiveCounts;
use weir_health::passive::{NewFlows, Remotes, Share};
use weir_layout::Family;
use weir_layout::control::PathId;
use weir_layout::counters::{PLACES, Resent};
use weir_layout::observations::{INTERVAL_MS, NewFlows as Seen, SLOTS};
use weir_shm::counters::Counters;
use weir_shm::observations::Observations;

/// A reader of counts, which gives each interval once.
#[derive(Debug)]
pub struct Users {
    observations: Observations,
    counters: Counters,
    /// By [`Family`].
    read: [Progress; Family::COUNT],
}

/// How far the counts of a family's paths were read.
#[derive(Debug)]
struct Progress {
    /// The interval that is read next.
    next: u64,
    /// As last read, by uplink.
    segments: Vec<Segments>,
}

/// TCP segments with data since the counters began.
#[derive(Clone, Copy, Debug, Default)]
struct Segments {
    all: u64,
    again: u64,
    resent: Resent,
}

impl Users {
    /// Begins with what comes after `now_ms` of CLOCK_MONOTONIC.
    pub fn new(observations: Observations, counters: Counters, now_ms: u64) -> Self {
        let next = Observations::number(now_ms);
        let read = Family::ALL.map(|_| Progress { next, segments: Vec::new() });
        Self { observations, counters, read }
    }

    /// What so many workers saw of each uplink's path in a family, in the intervals that are complete
    /// and were not read before.
    ///
    /// A worker writes an interval when the next one has begun, at its next turn; the reader stays
    /// one more behind, and what it is late for by more than the workers keep is lost.
    pub fn read(
        &mut self,
        family: Family,
        uplinks: usize,
        workers: u8,
        now_ms: u64,
    ) -> Vec<PassiveCounts> {
        let Progress { next, .. } = &mut self.read[family.index()];
        let end = Observations::number(now_ms.saturating_sub(INTERVAL_MS));
        let begin = (*next).max(end.saturating_sub(SLOTS as u64 - 1));
        *next = (*next).max(end);
        let mut all = Vec::new();
        for path in (0u8..).take(uplinks).map(|uplink| PathId::new(uplink, family)) {
            let mut counts = self.segments(path);
            for number in begin..end {
                for worker in 0..workers {
                    if let Some(interval) = self.observations.read(worker, path, number) {
                        counts.tcp.merge(new_flows(&interval.tcp));
                        counts.udp.merge(new_flows(&interval.udp));
                    }
                }
            }
            all.push(counts);
        }
        compare(&mut all);
        all
    }

    /// Segments since the last reading; none at the first.
    fn segments(&mut self, path: PathId) -> PassiveCounts {
        let counters = self.counters.path(path);
        let (uplink, segments) =
            (usize::from(path.uplink), &mut self.read[path.family.index()].segments);
        let known = segments.get(uplink).copied();
        let resent = match known {
            // As a rule nothing was sent again: then there is nothing to add up.
            Some(known) if known.again == counters.retransmitted => known.resent,
            _ => self.counters.resent(path),
        };
        let now = Segments { all: counters.segments, again: counters.retransmitted, resent };
        if known.is_none() {
            segments.resize(uplink + 1, now);
        }
        let before = std::mem::replace(&mut segments[uplink], now);
        let since = |now: u64, before: u64| clamp(now.saturating_sub(before));
        let by_host = |now: [u64; PLACES], before: [u64; PLACES]| {
            std::array::from_fn(|place| since(now[place], before[place]))
        };
        PassiveCounts {
            segments: since(now.all, before.all),
            retransmitted: since(now.again, before.again),
            by_user: by_host(now.resent.users, before.resent.users),
            by_remote: by_host(now.resent.remotes, before.resent.remotes),
            ..PassiveCounts::default()
        }
    }
}

/// Tells each path how the others of its family fare.
fn compare(all: &mut [PassiveCounts]) {
    type Protocol = fn(&mut PassiveCounts) -> &mut NewFlows;
    let protocols: [Protocol; 2] = [|counts| &mut counts.tcp, |counts| &mut counts.udp];
    for of in protocols {
        let mut total = Share::default();
        all.iter_mut().for_each(|counts| total.add(of(counts).share()));
        for counts in all.iter_mut() {
            let flows = of(counts);
            flows.elsewhere = total.without(flows.share());
        }
    }
}

fn new_flows(seen: &Seen) -> NewFlows {
    NewFlows {
        flows: clamp(seen.flows),
        unanswered: clamp(seen.unanswered),
        remotes: Remotes::from(seen.remotes),
        silent: Remotes::from(seen.silent),
        users: Remotes::from(seen.users),
        askers: Remotes::from(seen.askers),
        elsewhere: Share::default(),
    }
}

fn clamp(count: u64) -> u32 {
    count.min(u32::MAX.into()) as u32
}

#[cfg(test)]
mod tests {
    use weir_layout::counters::place;
    use weir_layout::observations::Interval;
    use weir_shm::counters::PathCounter;

    use super::*;

    fn users() -> (Users, Observations, Counters) {
        let (observations, counters) =
            (Observations::anonymous().unwrap(), Counters::anonymous().unwrap());
        (Users::new(observations.clone(), counters.clone(), 0), observations, counters)
    }

    fn interval(number: u64, flows: u64, remote: u64) -> Interval {
        let remotes = [1 << remote, 0, 0, 0];
        let hosts = [0, 1, 0, 0];
        let tcp =
            Seen { flows, unanswered: 1, remotes, silent: remotes, users: hosts, askers: hosts };
        Interval { number, tcp, udp: Seen { flows: 1, ..Seen::default() } }
    }

    fn flows(users: &mut Users, now_ms: u64) -> Vec<u32> {
        users.read(Family::V4, 2, 32, now_ms).iter().map(|counts| counts.tcp.flows).collect()
    }

    #[test]
    fn workers_are_added_up_by_uplink_and_their_hosts_counted_once() {
        let (mut users, observations, _) = users();
        observations.write(0, PathId::v4(1), &interval(1, 3, 7));
        observations.write(1, PathId::v4(1), &interval(1, 4, 7));
        observations.write(31, PathId::v4(1), &interval(1, 5, 8));
        let counts = users.read(Family::V4, 2, 32, 1000);
        assert_eq!(counts[0].tcp.share(), Share::default());
        let tcp = counts[1].tcp;
        assert_eq!((tcp.flows, tcp.unanswered, counts[1].udp.flows), (12, 3, 3));
        assert_eq!([tcp.remotes, tcp.silent, tcp.askers].map(Remotes::count), [2, 2, 1]);
    }

    #[test]
    fn each_uplink_is_told_how_the_others_fare() {
        let (mut users, observations, _) = users();
        for (uplink, flows) in [(0, 3), (1, 4), (2, 5)] {
            observations.write(0, PathId::v4(uplink), &interval(1, flows, 7));
        }
        let counts = users.read(Family::V4, 3, 32, 1000);
        let elsewhere = |uplink: usize| counts[uplink].tcp.elsewhere;
        assert_eq!(elsewhere(0), Share { flows: 9, unanswered: 2 });
        assert_eq!(elsewhere(2), Share { flows: 7, unanswered: 2 });
        assert_eq!(counts[1].udp.elsewhere, Share { flows: 2, unanswered: 0 });
    }

    #[test]
    fn the_paths_of_a_family_are_read_and_compared_among_themselves() {
        let (mut users, observations, counters) = users();
        let [v4, v6] = Family::ALL.map(|family| PathId::new(0, family));
        observations.write(0, v4, &interval(1, 3, 7));
        observations.write(0, v6, &interval(1, 4, 7));
        observations.write(0, PathId::new(1, Family::V6), &interval(1, 5, 7));
        users.read(Family::V6, 2, 32, 1);
        counters.worker(0).add_path(v6, PathCounter::Segments, 10);
        let counts = users.read(Family::V4, 2, 32, 1000);
        assert_eq!((counts[0].tcp.flows, counts[0].tcp.elsewhere.flows), (3, 0));
        let counts = users.read(Family::V6, 2, 32, 1000);
        assert_eq!((counts[0].tcp.flows, counts[0].tcp.elsewhere.flows), (4, 5));
        assert_eq!((counts[0].segments, counts[1].segments), (10, 0));
    }

    #[test]
    fn each_interval_is_read_once_when_it_is_complete() {
        let (mut users, observations, _) = users();
        observations.write(0, PathId::v4(0), &interval(1, 3, 7));
        // The first lasts until 500; its writer has until 1000.
        assert_eq!(flows(&mut users, 999), [0, 0]);
        assert_eq!(flows(&mut users, 1000), [3, 0]);
        assert_eq!(flows(&mut users, 1499), [0, 0]);
    }

    #[test]
    fn a_late_reader_has_what_is_kept() {
        let (mut users, observations, _) = users();
        (1..=6).for_each(|number| {
            observations.write(0, PathId::v4(0), &interval(number, 1 << number, 7))
        });
        assert_eq!(flows(&mut users, 6 * 500 + 500), [(1 << 4) + (1 << 5) + (1 << 6), 0]);
    }

    #[test]
    fn what_was_counted_before_the_first_reading_is_not_news() {
        let (mut users, _, counters) = users();
        let [user, remote] = [[10, 0, 0, 1], [192, 0, 2, 1]].map(u32::from_ne_bytes);
        let path = PathId::v4(0);
        let add = |segments, again| {
            counters.worker(0).add_path(path, PathCounter::Segments, segments);
            (0..again).for_each(|_| counters.worker(1).add_resent(path, user, remote));
        };
        let mut read = |at| {
            let counts = users.read(Family::V4, 1, 32, at)[0];
            let (by_user, by_remote) =
                (counts.by_user[place(user)], counts.by_remote[place(remote)]);
            (counts.segments, counts.retransmitted, by_user, by_remote)
        };
        add(1000, 500);
        assert_eq!(read(1), (0, 0, 0, 0));
        add(10, 3);
        assert_eq!(read(2), (10, 3, 3, 3));
        assert_eq!(read(3), (0, 0, 0, 0));
    }
}
