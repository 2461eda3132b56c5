//! The flows that carry most, and the hosts that have them: the table as it is now against what it
//! was.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use anyhow::Result;
use serde_json::Value;
use weir_api::time;
use weir_shm::Pins;
use weir_shm::flows::Stored;
use weir_shm::published::Published;
use weir_wire::entry::Entry;

use super::rates::{bits_per_second, grown, per_second};
use crate::best::Best;
use crate::flows::{Ends, FlowFilter, Order, Visitor, out_and_in, value, visit};
use crate::state::uplink_name;

/// So many hosts are kept, at most.
const TALKERS: usize = 50;

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// The flows that the filter wants, in its order.
    pub shown: Vec<FlowLine>,
    /// How many it wants.
    pub of: u64,
    /// How many there are.
    pub all: u64,
    /// Hosts inside that carry most, the first most.
    pub talkers: Vec<Talker>,
}

/// A flow, with its rates since the last look.
#[derive(Clone, Debug)]
pub struct FlowLine {
    /// As `weir flows` has it.
    pub told: Value,
    /// Bits per second to the uplink.
    pub tx: u64,
    /// Bits per second from it.
    pub rx: u64,
    /// Packets per second, both ways.
    pub packets: u64,
}

/// A host inside, with the rates of all its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Talker {
    /// Its address.
    pub host: IpAddr,
    /// Flows that it has.
    pub flows: u64,
    /// Bits per second to uplinks.
    pub tx: u64,
    /// Bits per second from them.
    pub rx: u64,
}

/// What a flow or host has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Carried {
    tx: u64,
    rx: u64,
    /// By direction: what the table keeps wraps around, each by itself.
    packets: [u32; 2],
}

impl Carried {
    /// Of a flow, since it began.
    fn of<F: Stored>(entry: &Entry<F>, back: Option<&Entry<F>>) -> Self {
        let [tx, rx] = out_and_in(entry, back).map(|one| one.map_or(0, |one| one.bytes));
        Self { tx, rx, packets: [entry.packets, back.map_or(0, |back| back.packets)] }
    }

    /// Of a flow, since it had carried so much.
    fn since(self, before: Self) -> Self {
        let packets = |n: usize| {
            grown(before.packets[n].into(), self.packets[n].into(), u32::MAX.into()) as u32
        };
        Self {
            tx: grown(before.tx, self.tx, u64::MAX),
            rx: grown(before.rx, self.rx, u64::MAX),
            packets: [packets(0), packets(1)],
        }
    }

    fn bytes(self) -> u64 {
        self.tx.saturating_add(self.rx)
    }

    fn packets(self) -> u64 {
        self.packets.map(u64::from).iter().sum()
    }
}

/// Remembers what each flow had carried at the last look.
#[derive(Debug)]
pub struct Walker {
    secret: [u64; 2],
    /// By the hash of the key of the direction that began the flow.
    before: HashMap<u64, Carried>,
    looked_ms: Option<u64>,
}

impl Walker {
    /// Has not looked yet: of the first look all rates are 0, and what was ever carried decides.
    pub fn new() -> Self {
        let random = RandomState::new();
        let secret = [0u8, 1].map(|half| random.hash_one(half));
        Self { secret, before: HashMap::new(), looked_ms: None }
    }

    /// Looks at all flows.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn walk(&mut self, pins: &Pins, state: &Published, filter: &FlowFilter) -> Result<Walked> {
        let now_ms = time::monotonic_ms();
        let elapsed_ms = self.looked_ms.map_or(0, |looked| now_ms.saturating_sub(looked));
        let mut look = Look {
            state,
            filter,
            now_ms: now_ms as u32,
            secret: self.secret,
            before: &self.before,
            now: HashMap::with_capacity(self.before.len()),
            hosts: HashMap::new(),
            best: Best::new(filter.limit),
        };
        visit(pins, &mut look)?;
        let Look { now, hosts, best, .. } = look;
        let walked = Walked {
            of: best.offered(),
            all: now.len() as u64,
            shown: best.into_vec().into_iter().map(|found| found.line(elapsed_ms)).collect(),
            talkers: talkers(hosts, elapsed_ms),
        };
        (self.before, self.looked_ms) = (now, Some(now_ms));
        Ok(walked)
    }
}

/// A flow that is among the best so far.
struct Found {
    told: Value,
    grown: Carried,
}

impl Found {
    fn line(self, elapsed_ms: u64) -> FlowLine {
        let Self { told, grown } = self;
        FlowLine {
            told,
            tx: bits_per_second(grown.tx, elapsed_ms),
            rx: bits_per_second(grown.rx, elapsed_ms),
            packets: per_second(grown.packets(), elapsed_ms),
        }
    }
}

/// One look at all flows.
struct Look<'a> {
    state: &'a Published,
    filter: &'a FlowFilter,
    now_ms: u32,
    secret: [u64; 2],
    before: &'a HashMap<u64, Carried>,
    now: HashMap<u64, Carried>,
    hosts: HashMap<IpAddr, (u64, Carried)>,
    best: Best<Found>,
}

impl Visitor for Look<'_> {
    fn visit<F: Stored>(&mut self, entry: &Entry<F>, back: &dyn Fn() -> Option<Entry<F>>) {
        let back = back();
        let back = back.as_ref();
        let carried = Carried::of(entry, back);
        let id = entry.key.hash(self.secret);
        let grown = carried.since(self.before.get(&id).copied().unwrap_or_default());
        self.now.insert(id, carried);
        let (flows, of_host) = self.hosts.entry(Ends::of(entry).inside.ip()).or_default();
        *flows += 1;
        of_host.tx = of_host.tx.saturating_add(grown.tx);
        of_host.rx = of_host.rx.saturating_add(grown.rx);
        let uplink = uplink_name(self.state, entry.uplink);
        if !self.filter.wants(entry, uplink) {
            return;
        }
        let rank = match self.filter.sort {
            None | Some(Order::Bytes) => grown.bytes(),
            Some(Order::Packets) => grown.packets(),
            Some(Order::Idle) => self.filter.rank(Order::Idle, entry, back, self.now_ms),
        };
        let now_ms = self.now_ms;
        self.best.offer(rank, || Found { told: value(entry, back, uplink, now_ms), grown });
    }
}

fn talkers(hosts: HashMap<IpAddr, (u64, Carried)>, elapsed_ms: u64) -> Vec<Talker> {
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    // Of equals always the same comes first: the table is in no order of hosts.
    hosts.sort_by_key(|(host, (_, grown))| (std::cmp::Reverse(grown.bytes()), *host));
    hosts.truncate(TALKERS);
    let talker = |(host, (flows, grown)): (IpAddr, (u64, Carried))| Talker {
        host,
        flows,
        tx: bits_per_second(grown.tx, elapsed_ms),
        rx: bits_per_second(grown.rx, elapsed_ms),
    };
    hosts.into_iter().map(talker).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_whose_counters_wrap_or_begin_again_has_carried_what_it_did() {
        let before = Carried { tx: 900, rx: 50, packets: [u32::MAX, 7] };
        let now = Carried { tx: 1000, rx: 20, packets: [1, 9] };
        assert_eq!(now.since(before), Carried { tx: 100, rx: 20, packets: [2, 2] });
        assert_eq!(now.since(Carried::default()), now, "a new one");
    }

    #[test]
    fn hosts_that_carry_most_come_first() {
        let [one, two, three]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|host| host.parse().unwrap());
        let carried = |tx, rx| (1, Carried { tx, rx, packets: [0; 2] });
        let hosts = [(three, carried(0, 0)), (two, carried(0, 0)), (one, carried(125, 250))];
        let told = talkers(hosts.into(), 1000);
        assert_eq!(told[0], Talker { host: one, flows: 1, tx: 1000, rx: 2000 });
        assert_eq!([told[1].host, told[2].host], [two, three]);
    }
}
