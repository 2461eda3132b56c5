//! Writing and reading the control page and the bucket tables.

use std::mem::offset_of;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_layout::adjacency::{self, Adjacency, NEXT_HOPS};
use weir_layout::control::{
    BUCKET_BANKS, BUCKETS, ControlHalf, ControlPage, HOME_BANK, MIN_PUBLISH_GAP_US, PORT_WORDS,
    PathId, Port, SettingsBefore, TABLES, table_index,
};
use weir_layout::{Family, MAX_POLICIES, MAX_PORTS, checksum64};
use zerocopy::{FromZeros, IntoBytes};

use crate::adjacencies::NextHops;
use crate::map::{self, Access, Mmap};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::{Error, Pins, publish};

/// How often a reader begins anew when the writer was faster.
const TRIES: usize = 3;

/// One policy's bucket table: uplink index per bucket.
pub type BucketTable = [u8; BUCKETS];

/// The control page and the bucket tables, mapped.
#[derive(Clone, Debug)]
pub struct ControlRegion {
    page: Arc<Mmap>,
    buckets: Arc<Mmap>,
}

impl ControlRegion {
    /// Opens the pinned regions, creating them when `access` is [`Access::Write`].
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let (page, buckets) = (pins.control(access)?, pins.buckets(access)?);
        Ok(Self { page: Arc::new(page), buckets: Arc::new(buckets) })
    }

    /// Regions of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self {
            page: Arc::new(Mmap::anonymous(size_of::<ControlPage>())?),
            buckets: Arc::new(Mmap::anonymous(BUCKET_BANKS * TABLES * BUCKETS)?),
        })
    }

    /// Publications so far; 0 = none. A load of one word.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch_word().load(Ordering::Acquire)
    }

    /// State word of a path; 0, that is not usable, for an index out of range.
    #[inline]
    pub fn path_state(&self, path: PathId) -> u32 {
        if !path.is_valid() {
            return 0;
        }
        self.state_word(path).load(Ordering::Relaxed)
    }

    #[inline]
    fn state_word(&self, path: PathId) -> &AtomicU32 {
        let words = self.page.view::<AtomicU32>(offset_of!(ControlPage, path_state));
        &words[path.index()]
    }

    /// Has a socket of the gateway bound the port? A load of one word.
    #[inline]
    pub fn is_bound(&self, port: u16) -> bool {
        let words = self.page.view::<AtomicU64>(offset_of!(ControlPage, bound_ports));
        words[usize::from(port / 64)].load(Ordering::Relaxed) >> (port % 64) & 1 != 0
    }

    /// Process id of the control process that last started, and its latest sign of life in
    /// CLOCK_MONOTONIC milliseconds.
    pub fn control_process(&self) -> (u64, u64) {
        (
            self.word(offset_of!(ControlPage, pid)).load(Ordering::Relaxed),
            self.word(offset_of!(ControlPage, heartbeat_ms)).load(Ordering::Relaxed),
        )
    }

    /// The kernel's settings as they were before weir; the default: weir changed none.
    pub fn settings_before(&self) -> SettingsBefore {
        let word = self.word(offset_of!(ControlPage, settings_before)).load(Ordering::Relaxed);
        SettingsBefore::unpack(word)
    }

    /// Copies the current state and its bucket tables. `None`: nothing published yet, or the
    /// memory is not what a control process wrote (a wrong checksum).
    pub fn snapshot(&self) -> Option<Box<Snapshot>> {
        for _ in 0..TRIES {
            let mut half = empty_half();
            let mut tables = Family::ALL.map(|_| Vec::new());
            let whole = publish::read(self.epoch_word(), |epoch| {
                self.load_half(epoch, &mut half);
                tables = Family::ALL.map(|family| {
                    let table = |policy: usize| {
                        let published = half.policies[policy].steering(family).has_table != 0;
                        published.then(|| self.bank((epoch & 1) as usize, family, policy))
                    };
                    (0..MAX_POLICIES).map(table).collect()
                });
            });
            let snapshot = Snapshot { half, tables };
            if whole && snapshot.is_sound() {
                return Some(Box::new(snapshot));
            }
        }
        None
    }

    /// What a policy's table of a family says of a bucket in the state that was published as
    /// `epoch`: an uplink or [`NONE`](weir_layout::NONE), unchecked. Read in place. `None`: a state
    /// that takes its room is being published, or was.
    #[inline]
    pub fn bucket(&self, epoch: u64, family: Family, policy: usize, bucket: u16) -> Option<u8> {
        let table = Self::table_offset((epoch & 1) as usize, family, policy);
        let (word, byte) = (usize::from(bucket) / 8, usize::from(bucket) % 8);
        let words = self.buckets.view::<AtomicU64>(table);
        let begun = self.word(offset_of!(ControlPage, begun));
        let found = publish::read_in_place(begun, epoch, || words[word].load(Ordering::Relaxed));
        found.map(|word| word.to_ne_bytes()[byte])
    }

    /// A policy's bucket table in a bank, as it is, unchecked.
    pub fn bank(&self, bank: usize, family: Family, policy: usize) -> Box<BucketTable> {
        let mut table = new_table();
        self.load_table(bank, family, policy, &mut table);
        table
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU64 {
        &self.page.view::<AtomicU64>(offset)[0]
    }

    fn epoch_word(&self) -> &AtomicU64 {
        self.word(offset_of!(ControlPage, epoch))
    }

    fn half_offset(epoch: u64) -> usize {
        offset_of!(ControlPage, half) + (epoch & 1) as usize * size_of::<ControlHalf>()
    }

    #[inline]
    fn table_offset(bank: usize, family: Family, policy: usize) -> usize {
        table_index(bank, family, policy) * BUCKETS
    }

    fn load_half(&self, epoch: u64, half: &mut ControlHalf) {
        map::load_into(&self.page, Self::half_offset(epoch), half);
    }

    fn load_table(&self, bank: usize, family: Family, policy: usize, table: &mut BucketTable) {
        map::load_into(&self.buckets, Self::table_offset(bank, family, policy), table);
    }
}

fn new_table() -> Box<BucketTable> {
    // Infallible but for exhausted memory, where the allocator's own handler is as good as any.
    BucketTable::new_box_zeroed().expect("64 KiB of memory")
}

/// The half of an empty state: epoch 0, no ports.
pub fn empty_half() -> Box<ControlHalf> {
    let mut half = ControlHalf::new_box_zeroed().expect("memory for the control page");
    half.clear();
    half
}

/// What one publication says, with its bucket tables: for those who look at it now and then.
#[derive(Debug)]
pub struct Snapshot {
    /// Uplinks, policies, rules.
    pub half: Box<ControlHalf>,
    /// Bucket tables, by [`Family`] and policy; none: no uplink has a path in the family.
    tables: [Vec<Option<Box<BucketTable>>>; Family::COUNT],
}

impl Snapshot {
    /// The bucket table of a policy in a family; `None`: no uplink has a path in the family, or
    /// there is no such policy.
    pub fn table(&self, family: Family, policy: usize) -> Option<&BucketTable> {
        self.tables[family.index()].get(policy)?.as_deref()
    }

    fn is_sound(&self) -> bool {
        let is_table_sound = |(family, policy): (Family, usize)| {
            let wanted = self.half.policies[policy].steering(family).buckets_checksum;
            self.table(family, policy).is_none_or(|table| checksum64(table) == wanted)
        };
        self.half.epoch != 0
            && self.half.checksum == self.half.compute_checksum()
            && tables().all(is_table_sound)
    }
}

/// A worker's copy of the half. It looks at bucket tables where they are: see
/// [`ControlRegion::bucket`].
#[derive(Debug)]
pub struct Current {
    /// Uplinks, policies, rules.
    pub half: Box<ControlHalf>,
    /// Where the next one is put together.
    next: Box<ControlHalf>,
}

impl Default for Current {
    /// An empty state.
    fn default() -> Self {
        Self { half: empty_half(), next: empty_half() }
    }
}

impl Current {
    /// Replaces the copy by the current state; allocates nothing. `false`: nothing is published, the
    /// writer was faster three times over, or the checksum is wrong; the copy then stays.
    pub fn refresh(&mut self, region: &ControlRegion) -> bool {
        for _ in 0..TRIES {
            let whole = publish::read(region.epoch_word(), |epoch| {
                region.load_half(epoch, &mut self.next);
            });
            let is_sound = || self.next.checksum == self.next.compute_checksum();
            if whole && self.next.epoch != 0 && is_sound() {
                std::mem::swap(&mut self.half, &mut self.next);
                return true;
            }
        }
        false
    }
}

/// Where there may be a bucket table.
fn tables() -> impl Iterator<Item = (Family, usize)> {
    let of = |family| (0..MAX_POLICIES).map(move |policy| (family, policy));
    Family::ALL.into_iter().flat_map(of)
}

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
            if word.load(Ordering::Relaxed) != *new {
                word.store(*new, Ordering::Relaxed);
            }
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
        Self { region, next_hops, last: None, links }
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

    /// Keeps the kernel's settings as they were before weir.
    pub fn keep_settings(&self, before: SettingsBefore) {
        let word = self.region.word(offset_of!(ControlPage, settings_before));
        word.store(before.pack(), Ordering::Relaxed);
    }

    /// The state words, which other threads of this process may write too.
    pub fn words(&self) -> StateWords {
        StateWords(self.region.clone())
    }

    /// As [`StateWords::set`].
    pub fn set_path_state(&self, path: PathId, state: u32) {
        self.words().set(path, state);
    }

    /// Publishes `half`, the tables of its policies and its next hops as the next epoch, which it
    /// returns. `tables` has by [`Family`] those of the first policies; none where no uplink has a
    /// path in the family. Fills in `epoch`, which tables there are, and the checksums. Waits out
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
        for (family, policy) in self::tables() {
            let table = tables[family.index()].get(policy);
            let steering = half.policies[policy].steering_mut(family);
            steering.has_table = table.is_some().into();
            steering.buckets_checksum = table.map_or(0, |table| checksum64(*table));
        }
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
type Link = (u32, u8, u16);

/// Where each port leads; none: there is no such port.
fn links(half: &ControlHalf) -> [Option<Link>; MAX_PORTS] {
    let link = |port: &Port| (port.role != 0).then_some((port.ifindex, port.device, port.vlan));
    half.ports.each_ref().map(link)
}

/// What readers of either half may take for the next hops: without the address of those by a port
/// that led to another interface before.
fn common(
    next_hops: &[Option<Adjacency>; NEXT_HOPS],
    before: &[Option<Link>; MAX_PORTS],
    after: &[Option<Link>; MAX_PORTS],
) -> [Option<Adjacency>; NEXT_HOPS] {
    let stays = |port: usize| before[port].is_none() || before[port] == after[port];
    next_hops.map(|next_hop| next_hop.filter(|next_hop| stays(next_hop.port.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_layout::NONE;
    use weir_layout::control::{Mac, Name, PortRole};

    use crate::adjacencies::Adjacencies;

    fn writer() -> (ControlWriter, Box<ControlHalf>) {
        let next_hops = NextHops::anonymous().unwrap();
        let writer = ControlWriter::new(ControlRegion::anonymous().unwrap(), next_hops);
        let mut half = empty_half();
        half.policies[0].name = Name::new("balanced");
        half.policies[0].member_count = 1;
        (writer, half)
    }

    /// Has uplink 0 leave by port 2, which is this interface, to a hardware address.
    fn leave_by(half: &mut ControlHalf, ifindex: u32, mac: [u8; 6]) {
        (half.uplinks[0].name, half.uplinks[0].port) = (Name::new("fiber"), 2);
        half.uplinks[0].path_mut(Family::V4).next_hop_mac = Mac::new(mac);
        (half.ports[2].ifindex, half.ports[2].role) = (ifindex, PortRole::Uplink as u8);
    }

    #[test]
    fn next_hops_are_those_of_the_state_that_was_published() {
        let table = Adjacencies::anonymous([3, 5]).unwrap();
        let region = ControlRegion::anonymous().unwrap();
        let mut writer = ControlWriter::new(region.clone(), table.next_hops());
        let mut half = empty_half();
        let by = adjacency::next_hop(PathId::v4(0));
        for (ifindex, mac) in [(7, [2; 6]), (7, [4; 6]), (8, [6; 6]), (0, [0; 6])] {
            leave_by(&mut half, ifindex, mac);
            writer.publish(&mut half, [&[], &[]]);
            assert_eq!(table.get(by), Some(Adjacency { mac, port: 2 }));
        }
        half.uplinks[0].port = NONE;
        writer.publish(&mut half, [&[], &[]]);
        assert_eq!(table.get(by), None);
        leave_by(&mut half, 7, [2; 6]);
        writer.publish(&mut half, [&[], &[]]);
        table.next_hops().set(&[None; NEXT_HOPS]);
        ControlWriter::new(region, table.next_hops());
        assert_eq!(table.get(by), Some(Adjacency { mac: [2; 6], port: 2 }), "it ended in between");
    }

    #[test]
    fn while_two_states_are_read_no_next_hop_is_behind_a_port_of_two_interfaces() {
        let mut half = empty_half();
        leave_by(&mut half, 8, [2; 6]);
        let next_hops = adjacency::next_hops(&half);
        let (after, role) = (links(&half), half.ports[2].role);
        for (role, was, stays) in
            [(role, 8, true), (role, 0, false), (role, 7, false), (0, 0, true)]
        {
            (half.ports[2].role, half.ports[2].ifindex) = (role, was);
            let common = common(&next_hops, &links(&half), &after);
            assert_eq!(common, if stays { next_hops } else { [None; NEXT_HOPS] });
        }
    }

    #[test]
    fn nothing_published_is_no_snapshot() {
        assert!(ControlRegion::anonymous().unwrap().snapshot().is_none());
    }

    #[test]
    fn a_snapshot_is_what_was_published() {
        let (mut writer, mut half) = writer();
        for round in 1..=3 {
            half.policies[0].members[0].weight = round;
            let epoch = writer.publish(&mut half, [&[&[round as u8; BUCKETS]], &[]]);
            let snapshot = writer.region().snapshot().unwrap();
            assert_eq!(snapshot.half.epoch, epoch);
            assert_eq!(snapshot.half.policies[0].members[0].weight, round);
            assert_eq!(*snapshot.table(Family::V4, 0).unwrap(), [round as u8; BUCKETS]);
        }
    }

    #[test]
    fn corrupt_memory_is_refused() {
        let (mut writer, mut half) = writer();
        let epoch = writer.publish(&mut half, [&[&[0; BUCKETS]], &[]]);
        let words = writer.region.page.view::<AtomicU64>(ControlRegion::half_offset(epoch));
        words[100].fetch_xor(1 << 17, Ordering::Relaxed);
        assert!(writer.region().snapshot().is_none());
        words[100].fetch_xor(1 << 17, Ordering::Relaxed);
        assert!(writer.region().snapshot().is_some());
        let table = writer.region.buckets.view::<AtomicU64>(ControlRegion::table_offset(
            epoch as usize & 1,
            Family::V4,
            0,
        ));
        table[5].store(7, Ordering::Relaxed);
        assert!(writer.region().snapshot().is_none());
    }

    #[test]
    fn a_worker_keeps_the_state_it_has_until_there_is_a_sound_one() {
        let (mut writer, mut half) = writer();
        writer.publish(&mut half, [&[&[1; BUCKETS]], &[]]);
        let mut current = Current::default();
        assert!(current.refresh(&writer.region));
        half.policies[0].name = Name::new("other");
        let epoch = writer.publish(&mut half, [&[&[2; BUCKETS]], &[]]);
        let words = writer.region.page.view::<AtomicU64>(ControlRegion::half_offset(epoch));
        words[100].fetch_xor(1 << 17, Ordering::Relaxed);
        assert!(!current.refresh(&writer.region));
        let held = |current: &Current| (current.half.epoch, current.half.policies[0].name);
        assert_eq!(held(&current), (epoch - 1, Name::new("balanced")));
        words[100].fetch_xor(1 << 17, Ordering::Relaxed);
        assert!(current.refresh(&writer.region));
        assert_eq!(held(&current), (epoch, Name::new("other")));
    }

    #[test]
    fn a_bucket_is_that_of_the_epoch_for_as_long_as_its_room_is_not_taken() {
        let (mut writer, mut half) = writer();
        let mut table = [1; BUCKETS];
        table[4711] = 5;
        let first = writer.publish(&mut half, [&[&table], &[]]);
        let region = writer.region().clone();
        let bucket = |epoch, number| region.bucket(epoch, Family::V4, 0, number);
        assert_eq!([4710, 4711, 4712].map(|n| bucket(first, n)), [Some(1), Some(5), Some(1)]);
        let second = writer.publish(&mut half, [&[&[2; BUCKETS]], &[]]);
        assert_eq!([bucket(first, 4711), bucket(second, 4711)], [Some(5), Some(2)]);
        writer.publish(&mut half, [&[&[3; BUCKETS]], &[]]);
        assert_eq!([bucket(first, 4711), bucket(second, 4711)], [None, Some(2)]);
    }

    #[test]
    fn settings_are_kept_for_the_one_who_puts_them_back() {
        let (writer, _) = writer();
        assert_eq!(writer.region().settings_before(), SettingsBefore::default());
        let before = SettingsBefore { local_ports: (32_768, 60_999), forwarded_nothing: true };
        writer.keep_settings(before);
        assert_eq!(writer.region().settings_before(), before);
    }

    #[test]
    fn a_bound_port_is_told_from_its_neighbours() {
        let region = ControlRegion::anonymous().unwrap();
        let mut ports = [0; PORT_WORDS];
        ports[51_820 / 64] = 1 << (51_820 % 64);
        BoundPorts::new(region.clone()).set(&ports);
        let bound: Vec<u16> = (0..=u16::MAX).filter(|port| region.is_bound(*port)).collect();
        assert_eq!(bound, [51_820]);
        BoundPorts::new(region.clone()).set(&[0; PORT_WORDS]);
        assert!(!region.is_bound(51_820));
    }

    #[test]
    fn state_words_are_per_path() {
        let (writer, _) = writer();
        writer.set_path_state(PathId::v4(3), 1);
        assert_eq!(writer.region().path_state(PathId::v4(3)), 1);
        assert_eq!(writer.region().path_state(PathId::v4(2)), 0);
        assert_eq!(writer.region().path_state(PathId::new(3, Family::V6)), 0);
        assert_eq!(writer.region().path_state(PathId::v4(255)), 0);
    }

    #[test]
    fn tables_are_per_family_and_a_family_without_any_has_none() {
        let (mut writer, mut half) = writer();
        let mut publish = |v6: &[&BucketTable]| {
            writer.publish(&mut half, [&[&[1; BUCKETS]], v6]);
            let snapshot = writer.region().snapshot().unwrap();
            Family::ALL.map(|family| snapshot.table(family, 0).map(|table| table[0]))
        };
        assert_eq!(publish(&[]), [Some(1), None]);
        assert_eq!(publish(&[&[2; BUCKETS]]), [Some(1), Some(2)]);
        assert_eq!(publish(&[]), [Some(1), None]);
    }
}
