//! Counter lanes and their sums.

use std::mem::offset_of;
use std::sync::Arc;

use weir_layout::control::{MAX_PORT_FORWARDS, PathId};
use weir_layout::counters::{CPU_LANES, Counter, LANES, Lane, PLACES, PathCounters, Resent, place};
use weir_layout::{Family, MAX_RULES, MAX_UPLINKS, MAX_WORKERS};

use crate::map::{Access, Mmap};
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

const LANE_WORDS: usize = size_of::<Lane>() / 8;
const PATH_WORDS: usize = size_of::<PathCounters>() / 8;
const PATHS_AT: usize = offset_of!(Lane, paths) / 8;
const RESENT_AT: usize = offset_of!(Lane, resent) / 8;
const INSIDE_AT: usize = offset_of!(Lane, inside) / 8;
const RULES_AT: usize = offset_of!(Lane, rules) / 8;
const FORWARDED_AT: usize = offset_of!(Lane, forwarded) / 8;

/// All lanes, mapped.
#[derive(Clone, Debug)]
pub struct Counters {
    mapping: Arc<Mmap>,
    /// Lanes of the XDP program that a CPU of this machine can have written.
    cpu_lanes: usize,
}

/// A lane in which none of these has counted has no traffic of an uplink either.
const RECEIVED: [Counter; 4] =
    [Counter::XdpRx, Counter::UserRx, Counter::UserHandoffIn, Counter::UserOriginated];

/// What went by an uplink, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, from the IP header on.
    pub tx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, from the IP header on.
    pub rx_bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.tx_packets = self.tx_packets.wrapping_add(other.tx_packets);
        self.tx_bytes = self.tx_bytes.wrapping_add(other.tx_bytes);
        self.rx_packets = self.rx_packets.wrapping_add(other.rx_packets);
        self.rx_bytes = self.rx_bytes.wrapping_add(other.rx_bytes);
    }
}

/// Which counter of a path; the order of [`PathCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum PathCounter {
    /// Packets sent.
    TxPackets = 0,
    /// Bytes sent.
    TxBytes = 1,
    /// Packets received.
    RxPackets = 2,
    /// Bytes received.
    RxBytes = 3,
    /// Flows placed.
    FlowsCreated = 4,
    /// Flows there now.
    FlowsActive = 5,
    /// TCP segments with data.
    Segments = 6,
    /// TCP segments with nothing new.
    Retransmitted = 7,
}

impl Counters {
    /// Opens the pinned region, creating it when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        Ok(Self { mapping: Arc::new(pins.counters(access)?), cpu_lanes: cpu_lanes() })
    }

    /// Counters of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        let mapping = Arc::new(Mmap::anonymous(LANES * size_of::<Lane>())?);
        Ok(Self { mapping, cpu_lanes: cpu_lanes() })
    }

    /// The lane of a worker, for that worker to count in.
    pub fn worker(&self, worker: u8) -> LaneWriter {
        let lane = CPU_LANES + usize::from(worker) % MAX_WORKERS;
        LaneWriter { mapping: self.mapping.clone(), at: lane * LANE_WORDS }
    }

    /// The sum of a counter over all lanes.
    pub fn sum(&self, counter: Counter) -> u64 {
        self.total(counter as usize)
    }

    /// How often a worker has counted something.
    pub fn of_worker(&self, worker: u8, counter: Counter) -> u64 {
        let lane = CPU_LANES + usize::from(worker) % MAX_WORKERS;
        let words = self.mapping.view::<AtomicU64>(0);
        words[lane * LANE_WORDS + counter as usize].load(Ordering::Relaxed)
    }

    /// Sums of one path over all lanes.
    pub fn path(&self, path: PathId) -> PathCounters {
        let at = path_at(path);
        let of = |which: PathCounter| self.total(at + which as usize);
        PathCounters {
            tx_packets: of(PathCounter::TxPackets),
            tx_bytes: of(PathCounter::TxBytes),
            rx_packets: of(PathCounter::RxPackets),
            rx_bytes: of(PathCounter::RxBytes),
            flows_created: of(PathCounter::FlowsCreated),
            flows_active: of(PathCounter::FlowsActive),
            segments: of(PathCounter::Segments),
            retransmitted: of(PathCounter::Retransmitted),
        }
    }

    /// Traffic of the first `uplinks` uplinks in these families together: sums over the lanes that have
    /// seen packets. Made for ten times a second: most lanes are of workers that there are none of, and
    /// reading them for nothing would cost more than all else that is measured.
    pub fn traffic(&self, uplinks: usize, families: &[Family]) -> Vec<Traffic> {
        let words = self.mapping.view::<AtomicU64>(0);
        let word = |at: usize| words[at].load(Ordering::Relaxed);
        let mut sums = vec![Traffic::default(); uplinks.min(MAX_UPLINKS)];
        for lane in self.lanes().map(|lane| lane * LANE_WORDS) {
            if RECEIVED.iter().all(|counter| word(lane + *counter as usize) == 0) {
                continue;
            }
            for (uplink, sum) in (0u8..).zip(&mut sums) {
                for family in families {
                    let at = lane + path_at(PathId::new(uplink, *family));
                    let of = |which: PathCounter| word(at + which as usize);
                    sum.add(Traffic {
                        tx_packets: of(PathCounter::TxPackets),
                        tx_bytes: of(PathCounter::TxBytes),
                        rx_packets: of(PathCounter::RxPackets),
                        rx_bytes: of(PathCounter::RxBytes),
                    });
                }
            }
        }
        sums
    }

    /// Flows of a family that so many workers have by so many uplinks, and inside.
    pub fn flows(&self, family: Family, uplinks: u8, workers: u8) -> u64 {
        let words = self.mapping.view::<AtomicU64>(0);
        let lanes = (CPU_LANES..LANES).take(workers.into()).map(|lane| lane * LANE_WORDS);
        let paths = move || (0..uplinks).map(move |uplink| path_at(PathId::new(uplink, family)));
        let counts = move || {
            paths()
                .map(|path| path + PathCounter::FlowsActive as usize)
                .chain([INSIDE_AT + family.index()])
        };
        lanes
            .flat_map(|lane| counts().map(move |count| lane + count))
            .map(|at| words[at].load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Whose segments were sent again on a path: sums over all lanes.
    pub fn resent(&self, path: PathId) -> Resent {
        let at = resent_at(path);
        Resent {
            users: std::array::from_fn(|place| self.total(at + place)),
            remotes: std::array::from_fn(|place| self.total(at + PLACES + place)),
        }
    }

    /// Packets that the first `rules` rules decided about, since the dataplane started: sums over the
    /// lanes of its first `workers` workers. Others have what earlier ones left.
    pub fn rule_hits(&self, rules: usize, workers: u8) -> Vec<u64> {
        let words = self.mapping.view::<AtomicU64>(0);
        let lanes = CPU_LANES..CPU_LANES + usize::from(workers).min(MAX_WORKERS);
        let of = |rule: usize| {
            let at = |lane: usize| lane * LANE_WORDS + RULES_AT + rule;
            lanes.clone().map(|lane| words[at(lane)].load(Ordering::Relaxed)).sum()
        };
        (0..rules.min(MAX_RULES)).map(of).collect()
    }

    /// Flows that ever began of the port forward with this number.
    pub fn forwarded(&self, forward: usize) -> u64 {
        self.total(FORWARDED_AT + forward % MAX_PORT_FORWARDS)
    }

    /// Every counter and its sum.
    pub fn all(&self) -> Vec<(Counter, u64)> {
        Counter::ALL.iter().map(|c| (*c, self.sum(*c))).collect()
    }

    fn total(&self, index: usize) -> u64 {
        let words = self.mapping.view::<AtomicU64>(0);
        self.lanes()
            .map(|lane| words[lane * LANE_WORDS + index].load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// The lanes that anybody can have written.
    fn lanes(&self) -> impl Iterator<Item = usize> {
        (0..self.cpu_lanes).chain(CPU_LANES..LANES)
    }
}

/// How many lanes CPUs of this machine use. Others hold zeros, each in a cache line of its own: to
/// read them too would cost the control process more than all else that it measures.
fn cpu_lanes() -> usize {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").ok();
    possible.as_deref().and_then(cpus).map_or(CPU_LANES, |cpus| cpus.min(CPU_LANES))
}

/// Of a list like `0-3,8-11`, one more than the last number (`cputopology.rst`).
fn cpus(list: &str) -> Option<usize> {
    let last = list.trim().rsplit([',', '-']).next()?;
    last.parse::<usize>().ok()?.checked_add(1)
}

/// One worker's lane. Not `Clone`: a lane has one writer.
#[derive(Debug)]
pub struct LaneWriter {
    mapping: Arc<Mmap>,
    at: usize,
}

impl LaneWriter {
    /// Adds to a counter.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        self.bump(counter as usize, n);
    }

    /// Adds to a counter of a path, if it is one; subtract by adding the two's complement.
    #[inline]
    pub fn add_path(&self, path: PathId, which: PathCounter, n: u64) {
        if path.is_valid() {
            self.bump(path_at(path) + which as usize, n);
        }
    }

    /// Counts a TCP segment sent again, between a LAN host and a remote one, whose addresses are
    /// given [in 32 bits](weir_wire::family::Family::fold).
    pub fn add_resent(&self, path: PathId, user: u32, remote: u32) {
        if !path.is_valid() {
            return;
        }
        self.add_path(path, PathCounter::Retransmitted, 1);
        let at = resent_at(path);
        self.bump(at + place(user), 1);
        self.bump(at + PLACES + place(remote), 1);
    }

    /// Sets how many flows of a family stay inside.
    pub fn set_inside(&self, family: Family, n: u64) {
        let at = self.at + INSIDE_AT + family.index();
        self.mapping.view::<AtomicU64>(0)[at].store(n, Ordering::Relaxed);
    }

    /// Counts a packet that the rule with this number decided about.
    pub fn add_rule(&self, rule: u8) {
        self.bump(RULES_AT + usize::from(rule), 1);
    }

    /// The rules have other numbers: `was` says which each of them had before; `None`: it is new.
    pub fn renumber_rules(&self, was: impl Iterator<Item = Option<u8>>) {
        self.renumber::<MAX_RULES>(RULES_AT, was);
    }

    /// The port forwards have, in the same way.
    pub fn renumber_forwarded(&self, was: impl Iterator<Item = Option<u8>>) {
        self.renumber::<MAX_PORT_FORWARDS>(FORWARDED_AT, was);
    }

    fn renumber<const N: usize>(&self, at: usize, was: impl Iterator<Item = Option<u8>>) {
        let words = self.mapping.view::<AtomicU64>(0);
        let words = &words[self.at + at..][..N];
        let before: [u64; N] = std::array::from_fn(|of| words[of].load(Ordering::Relaxed));
        let was = was.chain(std::iter::repeat(None));
        for (word, was) in words.iter().zip(was) {
            let was = was.and_then(|was| before.get(usize::from(was)));
            word.store(was.copied().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Counts a flow of the port forward with this number.
    pub fn add_forwarded(&self, forward: usize) {
        self.bump(FORWARDED_AT + forward % MAX_PORT_FORWARDS, 1);
    }

    /// Sets a counter of a path: for flows taken over from an earlier process.
    pub fn set_path(&self, path: PathId, which: PathCounter, n: u64) {
        let at = self.at + path_at(path) + which as usize;
        self.mapping.view::<AtomicU64>(0)[at].store(n, Ordering::Relaxed);
    }

    #[inline]
    fn bump(&self, index: usize, n: u64) {
        let word = &self.mapping.view::<AtomicU64>(0)[self.at + index];
        word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }
}

/// Where in a lane a path's counters begin, in words.
fn path_at(path: PathId) -> usize {
    PATHS_AT + path.index() * PATH_WORDS
}

fn resent_at(path: PathId) -> usize {
    RESENT_AT + path.index() * (size_of::<Resent>() / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_as_many_lanes_as_its_last_cpu_says() {
        let lists = ["0", "0-1\n", "0-3,8-11\n", "0-3,9", "", "\n", "0-x"];
        let wanted = [Some(1), Some(2), Some(12), Some(10), None, None, None];
        assert_eq!(lists.map(cpus), wanted);
    }

    #[test]
    fn sums_run_over_all_lanes() {
        let counters = Counters::anonymous().unwrap();
        counters.worker(0).add(Counter::UserRx, 2);
        counters.worker(1).add(Counter::UserRx, 3);
        assert_eq!(counters.sum(Counter::UserRx), 5);
        assert_eq!(counters.of_worker(1, Counter::UserRx), 3);
        assert_eq!(counters.sum(Counter::UserTx), 0);
    }

    #[test]
    fn active_flows_may_end_in_another_lane_than_they_began() {
        let counters = Counters::anonymous().unwrap();
        let path = PathId::v4(2);
        counters.worker(0).add_path(path, PathCounter::FlowsActive, 1);
        counters.worker(1).add_path(path, PathCounter::FlowsActive, 1u64.wrapping_neg());
        assert_eq!(counters.path(path).flows_active, 0);
        assert_eq!(counters.path(PathId::v4(3)).flows_active, 0);
    }

    #[test]
    fn the_paths_of_an_uplink_are_counted_apart() {
        let counters = Counters::anonymous().unwrap();
        let paths = Family::ALL.map(|family| PathId::new(63, family));
        for (path, flows) in paths.into_iter().zip([1, 2]) {
            counters.worker(0).add_path(path, PathCounter::FlowsActive, flows);
            counters.worker(0).add_resent(path, 7, 9);
        }
        assert_eq!(paths.map(|path| counters.path(path).flows_active), [1, 2]);
        assert_eq!(paths.map(|path| counters.resent(path).users[place(7)]), [1, 1]);
        let none = PathId::new(weir_layout::NONE, Family::V6);
        counters.worker(0).add_path(none, PathCounter::FlowsActive, 9);
        assert_eq!(counters.path(paths[1]).flows_active, 2, "no path, and not the last");
    }

    #[test]
    fn traffic_is_what_all_lanes_have_of_it() {
        let counters = Counters::anonymous().unwrap();
        for (worker, bytes) in [(0, 100), (31, 20)] {
            let lane = counters.worker(worker);
            lane.add(Counter::UserRx, 1);
            lane.add_path(PathId::v4(63), PathCounter::RxPackets, 1);
            lane.add_path(PathId::v4(63), PathCounter::RxBytes, bytes);
            lane.add_path(PathId::v4(0), PathCounter::TxPackets, 2);
            lane.add_path(PathId::v4(0), PathCounter::TxBytes, bytes);
        }
        let traffic = counters.traffic(MAX_UPLINKS + 1, &[Family::V4]);
        assert_eq!(traffic.len(), MAX_UPLINKS);
        for (uplink, traffic) in (0..).zip(&traffic) {
            let all = counters.path(PathId::v4(uplink));
            let Traffic { tx_packets, tx_bytes, rx_packets, rx_bytes } = *traffic;
            let of_all = (all.tx_packets, all.tx_bytes, all.rx_packets, all.rx_bytes);
            assert_eq!((tx_packets, tx_bytes, rx_packets, rx_bytes), of_all, "uplink {uplink}");
        }
        assert_eq!((traffic[63].rx_bytes, traffic[0].tx_packets), (120, 4));
    }

    #[test]
    fn an_uplinks_traffic_is_that_of_its_paths_together() {
        let counters = Counters::anonymous().unwrap();
        counters.worker(0).add(Counter::UserRx, 1);
        for (family, bytes) in Family::ALL.into_iter().zip([100, 20]) {
            let path = PathId::new(1, family);
            counters.worker(0).add_path(path, PathCounter::TxBytes, bytes);
        }
        assert_eq!(counters.traffic(2, &Family::ALL)[1].tx_bytes, 120);
        assert_eq!(counters.traffic(2, &[Family::V6])[1].tx_bytes, 20);
    }

    #[test]
    fn what_is_sent_again_counts_for_both_ends() {
        let counters = Counters::anonymous().unwrap();
        let [user, remote, other] =
            [[10, 0, 0, 1], [192, 0, 2, 1], [192, 0, 2, 2]].map(u32::from_ne_bytes);
        let path = PathId::v4(63);
        counters.worker(0).add_resent(path, user, remote);
        counters.worker(1).add_resent(path, user, other);
        let resent = counters.resent(path);
        assert_eq!(resent.users[place(user)], 2);
        assert_eq!(resent.remotes[place(remote)], 1);
        assert_eq!((resent.remotes.iter().sum::<u64>(), counters.path(path).retransmitted), (2, 2));
        assert_eq!(counters.resent(PathId::v4(62)), Resent::default());
    }

    #[test]
    fn hits_follow_their_rules_to_other_numbers() {
        let counters = Counters::anonymous().unwrap();
        let (lane, other) = (counters.worker(0), counters.worker(1));
        for (rule, times) in [(0, 1), (1, 2), (255, 3)] {
            (0..times).for_each(|_| lane.add_rule(rule));
        }
        other.add_rule(1);
        assert_eq!(counters.rule_hits(3, 2), [1, 3, 0]);
        assert_eq!(counters.rule_hits(2, 1), [1, 2], "of one worker");
        assert_eq!(counters.rule_hits(MAX_RULES, 2)[255], 3);
        lane.renumber_rules([None, Some(0), Some(255), Some(1)].into_iter());
        assert_eq!(counters.rule_hits(MAX_RULES, 1)[..5], [0, 1, 3, 2, 0]);
        assert_eq!(counters.rule_hits(MAX_RULES, 1)[255], 0, "no more");
    }

    #[test]
    fn the_enum_is_the_order_of_the_layout() {
        let counters = Counters::anonymous().unwrap();
        counters.worker(0).add_path(PathId::v4(63), PathCounter::FlowsCreated, 4);
        assert_eq!(counters.path(PathId::v4(63)).flows_created, 4);
        let at = |offset: usize| offset / 8;
        let (active, again) =
            (offset_of!(PathCounters, flows_active), offset_of!(PathCounters, retransmitted));
        assert_eq!(at(active), PathCounter::FlowsActive as usize);
        assert_eq!(at(again), PathCounter::Retransmitted as usize);
    }
}
