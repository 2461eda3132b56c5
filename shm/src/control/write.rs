//! The writing side: state words, bound ports, and publications.

use std::mem::offset_of;
use std::time::{Duration, Instant};

use weir_layout::adjacency::{self, Adjacency, NEXT_HOPS};
use weir_layout::control::Sets;
use weir_layout::control::{
    BucketTable, ControlHalf, ControlPage, HOME_BANK, MIN_PUBLISH_GAP_US, PORT_WORDS, PathId, Port,
};
use weir_layout::prefix_sets::Ranges;
use weir_layout::{Family, MAX_PORTS, checksum64};
use zerocopy::IntoBytes;

use super::{ControlRegion, Current};
use crate::adjacencies::NextHops;
use crate::map;
use crate::publish;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The writing side of the paths' state words.
#[derive(Clone, Debug)]
pub struct StateWords(ControlRegion);

impl StateWords {
    /// The word of a path, for [`state_word`](crate::state_word).
    pub fn word(&self, path: PathId) -> &AtomicU32 {
        self.0.state_word(path)
    }

    /// Flips the state word of a path: obeyed by the next packet, no epoch needed. A full barrier.
    pub fn set(&self, path: PathId, state: u32) {
        self.word(path).store(state, Ordering::SeqCst);
    }
}

/// The writing side of the ports that sockets of the gateway have bound.
#[derive(Clone, Debug)]
pub struct BoundPorts(ControlRegion);

impl BoundPorts {
    /// Of the region, which the caller alone writes.
    pub const fn new(region: ControlRegion) -> Self {
        Self(region)
    }

    /// Publishes them, a bit for each, lowest first. Obeyed by the next flow, no epoch needed.
    pub fn set(&self, ports: &[u64; PORT_WORDS]) {
        let words = self.0.page.view::<AtomicU64>(offset_of!(ControlPage, bound_ports));
        for (word, new) in words.iter().zip(ports) {
            publish::update(word, *new);
        }
    }
}

/// The one writer.
#[derive(Debug)]
pub struct ControlWriter {
    region: ControlRegion,
    next_hops: NextHops,
    last: Option<Instant>,
    /// By port: where it led as last published.
    links: [Option<Link>; MAX_PORTS],
    /// The bank of sets that halves are published with.
    sets: Bank,
    /// The generation of sets of the half that was published last.
    sets_in_force: u64,
}

/// What a bank of sets holds, as a half says it.
#[derive(Debug)]
struct Bank {
    generation: u64,
    /// None: it is not what the half says.
    checksum: Option<u64>,
    ranges: [u32; Family::COUNT],
}

impl ControlWriter {
    /// Takes the writing side; the caller makes sure that it is the only control process.
    pub fn new(region: ControlRegion, next_hops: NextHops) -> Self {
        let mut current = Current::default();
        if current.refresh(&region) {
            // A process that ended in the midst of a publication may have left others.
            next_hops.set(&adjacency::next_hops(&current.half));
        }
        let links = links(&current.half);
        let Sets { checksum, generation, ranges, .. } = current.half.sets;
        let checksum = region.has_sound_sets(&current.half.sets).then_some(checksum);
        let sets = Bank { generation, checksum, ranges };
        Self { region, next_hops, last: None, links, sets, sets_in_force: generation }
    }

    /// The reading side.
    pub fn region(&self) -> &ControlRegion {
        &self.region
    }

    /// Says that the control process lives.
    pub fn heartbeat(&self, pid: u64, now_ms: u64) {
        self.region.word(offset_of!(ControlPage, pid)).store(pid, Ordering::Relaxed);
        self.region.word(offset_of!(ControlPage, heartbeat_ms)).store(now_ms, Ordering::Relaxed);
    }

    /// The state words, which other threads of this process may write too.
    pub fn words(&self) -> StateWords {
        StateWords(self.region.clone())
    }

    /// As [`StateWords::set`].
    pub fn set_path_state(&self, path: PathId, state: u32) {
        self.words().set(path, state);
    }

    /// Has the halves that are published from now on go with these sets of prefixes, which takes
    /// milliseconds where they are many and others than before. The half says whose they are.
    pub fn enter_sets(&mut self, ranges: &Ranges<'_>) {
        let checksum = Some(ranges.checksum());
        if self.sets.checksum == checksum {
            return;
        }
        // The bank that the published half does not name, whatever else was begun.
        let generation = self.sets_in_force.wrapping_add(1);
        self.region.store_sets(generation, ranges);
        let ranges = [ranges.firsts4.len() as u32, ranges.firsts6.len() as u32];
        self.sets = Bank { generation, checksum, ranges };
    }

    /// Publishes `half`, the tables of its policies and its next hops as the next epoch, which it
    /// returns. `tables` has by [`Family`] those of the first policies; none where no uplink has a
    /// path in the family. Fills in `epoch`, which tables there are, where the [sets](Self::enter_sets) are, and
    /// the checksums. Waits out
    /// [`MIN_PUBLISH_GAP_US`] since the last one.
    ///
    /// Next hops stand outside the halves. Until nobody reads the earlier half any more, none has
    /// an address whose port leads elsewhere there.
    pub fn publish(
        &mut self,
        half: &mut ControlHalf,
        tables: [&[&BucketTable]; Family::COUNT],
    ) -> u64 {
        let gap = Duration::from_micros(MIN_PUBLISH_GAP_US);
        if let Some(rest) = self.last.and_then(|last| gap.checked_sub(last.elapsed())) {
            std::thread::sleep(rest);
        }
        let next = self.region.epoch().wrapping_add(1).max(1);
        half.epoch = next;
        for (family, policy) in super::tables() {
            let table = tables[family.index()].get(policy);
            let steering = half.policies[policy].steering_mut(family);
            steering.has_table = table.is_some().into();
            steering.buckets_checksum = table.map_or(0, |table| checksum64(*table));
        }
        let Bank { generation, checksum, ranges } = self.sets;
        (half.sets.generation, half.sets.ranges) = (generation, ranges);
        half.sets.checksum = checksum.unwrap_or(0);
        self.sets_in_force = generation;
        half.checksum = half.compute_checksum();

        let next_hops = adjacency::next_hops(half);
        let before = std::mem::replace(&mut self.links, links(half));
        let common = common(&next_hops, &before, &self.links);
        self.next_hops.set(&common);

        // The tables belong to the half: they are written under the same epoch store.
        let region = &self.region;
        publish::begin(region.word(offset_of!(ControlPage, begun)), next);
        let bank = (next & 1) as usize;
        for family in Family::ALL {
            for (policy, table) in tables[family.index()].iter().enumerate() {
                let offset = ControlRegion::table_offset(bank, family, policy);
                map::store(&region.buckets, offset, *table);
            }
        }
        let words = region.page.view::<AtomicU64>(ControlRegion::half_offset(next));
        let data = half.as_bytes().as_chunks::<8>().0.iter().map(|b| u64::from_ne_bytes(*b));
        let epoch = publish::write(region.epoch_word(), words, data);
        if common != next_hops {
            std::thread::sleep(gap);
            self.next_hops.set(&next_hops);
        }
        self.last = Some(Instant::now());
        epoch
    }

    /// Keeps a policy's home table for the next control process.
    pub fn save_home(&self, family: Family, policy: usize, table: &BucketTable) {
        let offset = ControlRegion::table_offset(HOME_BANK, family, policy);
        map::store(&self.region.buckets, offset, table);
    }
}

/// Where a port leads: the kernel's index of its interface, 0 while that is missing; its device and
/// its VLAN, which it keeps meanwhile.
pub(super) type Link = (u32, u8, u16);

/// Where each port leads; none: there is no such port.
pub(super) fn links(half: &ControlHalf) -> [Option<Link>; MAX_PORTS] {
    let link = |port: &Port| port.role().map(|_| (port.ifindex, port.device, port.vlan));
    half.ports.each_ref().map(link)
}

/// What readers of either half may take for the next hops: without the address of those by a port
/// that led to another interface before.
pub(super) fn common(
    next_hops: &[Option<Adjacency>; NEXT_HOPS],
    before: &[Option<Link>; MAX_PORTS],
    after: &[Option<Link>; MAX_PORTS],
) -> [Option<Adjacency>; NEXT_HOPS] {
    let stays = |port: usize| before[port].is_none() || before[port] == after[port];
    next_hops.map(|next_hop| next_hop.filter(|next_hop| stays(next_hop.port.into())))
}
