//! The maps, by the names and shapes that user space pins them with, and reading them in place.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, DevMap, LpmTrie, XskMap};
use weir_layout::adjacency::ADJACENCIES as ADJACENCY_SLOTS;
use weir_layout::allowance::{ALL, SOCKETS};
use weir_layout::blocks::{self, Blocks, LEVELS, WORDS};
use weir_layout::control::host_class::class;
use weir_layout::control::{
    BUCKET_BANKS, BucketTable, ControlHalf, ControlPage, Filtering, PORT_PROBES, PORT_SLOTS, Path,
    PathId, Port, PortSlot, TABLES, Tier, Uplink, port_slot,
};
use weir_layout::counters::{CPU_LANES, Counter, LANES, Lane, PathCounters, Resent, place};
use weir_layout::flow::{FlowEntry4, PAGE};
use weir_layout::flow6::FlowEntry6;
use weir_layout::tags::PAGE_GROUPS;
use weir_layout::{
    Family, MAX_DEVICES, MAX_PORTS, MAX_QUEUES, MAX_UPLINKS, RegionHeader, RegionKind,
};
use weir_wire::tcp::Place;

use crate::forward::Forwarded;
use crate::known::Wanted;
use crate::stateless::Bears;

/// A page of a flow table.
pub type SlotPage<E> = [E; PAGE as usize];
/// Its tags.
pub type TagPage = [u64; PAGE_GROUPS as usize];

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

#[map]
static CONTROL: Array<ControlPage> = Array::with_max_entries(1, MMAPABLE);
#[map]
static BUCKETS: Array<BucketTable> =
    Array::with_max_entries((BUCKET_BANKS * TABLES) as u32, MMAPABLE);
#[map]
static COUNTERS: Array<Lane> = Array::with_max_entries(LANES as u32, MMAPABLE);
/// As many pages as the dataplane pinned; the number here is never used.
#[map]
pub static FLOWS4: Array<SlotPage<FlowEntry4>> = Array::with_max_entries(1, MMAPABLE);
/// Likewise.
#[map]
pub static TAGS4: Array<TagPage> = Array::with_max_entries(1, MMAPABLE);
/// Likewise.
#[map]
pub static FLOWS6: Array<SlotPage<FlowEntry6>> = Array::with_max_entries(1, MMAPABLE);
/// Likewise.
#[map]
pub static TAGS6: Array<TagPage> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ADJACENCIES: Array<u64> = Array::with_max_entries(ADJACENCY_SLOTS as u32, MMAPABLE);
#[map]
pub static HOSTS4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, NO_PREALLOC);
#[map]
pub static HOSTS6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(4096, NO_PREALLOC);
#[map]
static BLOCKS: Array<Blocks> = Array::with_max_entries(Family::COUNT as u32, MMAPABLE);
#[map]
static ALLOWANCES: Array<u64> = Array::with_max_entries(SOCKETS as u32, MMAPABLE);
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries((MAX_DEVICES * MAX_QUEUES) as u32, 0);
/// By device index; devices that cannot transmit for XDP are absent.
#[map]
pub static DEVICES: DevMap = DevMap::with_max_entries(MAX_DEVICES as u32, 0);

/// This CPU's counters.
#[inline(always)]
pub fn lane() -> Option<*mut Lane> {
    // SAFETY: the helper has no conditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    COUNTERS.get_ptr_mut(if cpu < CPU_LANES as u32 { cpu } else { cpu % CPU_LANES as u32 })
}

/// Counts on this CPU's lane.
#[inline(always)]
pub fn count(lane: *mut Lane, counter: Counter) {
    let index = counter as usize & (Counter::SLOTS - 1);
    // SAFETY: the pointer is to a whole lane, the index is masked, and the lane is this CPU's own.
    unsafe {
        let counter = (&raw mut (*lane).counters).cast::<u64>().add(index);
        *counter = (*counter).wrapping_add(1);
    }
}

/// Counts a forwarded packet on its path, if it has one.
#[inline(always)]
pub fn count_path(lane: *mut Lane, forwarded: &Forwarded) {
    if !forwarded.path.is_valid() {
        return;
    }
    let index = forwarded.path.index();
    // SAFETY: as in `count`; the index is below the array's length.
    unsafe {
        let path = (&raw mut (*lane).paths).cast::<PathCounters>().add(index);
        let (packets, bytes) = if forwarded.outward {
            (&raw mut (*path).tx_packets, &raw mut (*path).tx_bytes)
        } else {
            (&raw mut (*path).rx_packets, &raw mut (*path).rx_bytes)
        };
        *packets = (*packets).wrapping_add(1);
        *bytes = (*bytes).wrapping_add(forwarded.bytes);
        if let Some(Place::New | Place::Again) = forwarded.segment {
            (*path).segments = (*path).segments.wrapping_add(1);
        }
        if forwarded.segment == Some(Place::Again) {
            (*path).retransmitted = (*path).retransmitted.wrapping_add(1);
            let resent = (&raw mut (*lane).resent).cast::<Resent>().add(index);
            let [user, remote] = forwarded.ends;
            let user = (&raw mut (*resent).users).cast::<u64>().add(place(user));
            *user = (*user).wrapping_add(1);
            let remote = (&raw mut (*resent).remotes).cast::<u64>().add(place(remote));
            *remote = (*remote).wrapping_add(1);
        }
    }
}

/// CLOCK_MONOTONIC milliseconds as of the last tick, wrapping. Read from the kernel once a tick.
#[inline(always)]
pub fn milliseconds(lane: *mut Lane) -> u32 {
    // SAFETY: the helpers have no conditions, and the lane is this CPU's own.
    unsafe {
        let (tick, clock) = (bpf_jiffies64(), &raw mut (*lane).clock);
        if (*clock)[0] != tick {
            *clock = [tick, bpf_ktime_get_coarse_ns() / 1_000_000];
        }
        (*clock)[1] as u32
    }
}

/// The published state.
#[derive(Clone, Copy)]
pub struct Published {
    page: *const ControlPage,
    /// The half that holds.
    pub half: *const ControlHalf,
}

/// The published state; `None` before the first publication, or in a page of another version.
#[inline(always)]
pub fn published() -> Option<Published> {
    let page = CONTROL.get_ptr(0)?;
    let expected = RegionHeader::expected(RegionKind::Control, size_of::<ControlPage>());
    // SAFETY: the pointer is to a whole page; the half's index is 0 or 1. Readers re-check nothing:
    // halves are rewritten no faster than MIN_PUBLISH_GAP_US, far beyond the life of one run.
    unsafe {
        let epoch = (&raw const (*page).epoch).read_volatile();
        let header = &(*page).header;
        if epoch == 0 || header.magic != expected.magic || header.version != expected.version {
            return None;
        }
        let half = (&raw const (*page).half).cast::<ControlHalf>().add((epoch & 1) as usize);
        Some(Published { page, half })
    }
}

impl Published {
    /// The port of an interface and VLAN, see [`ControlHalf::port_of`].
    #[inline(always)]
    pub fn port_of(self, ifindex: u32, vlan: u16) -> Option<u8> {
        let first = port_slot(ifindex, vlan);
        for probe in 0..PORT_PROBES {
            // SAFETY: the index is masked to the table, which is part of the half.
            let slot = unsafe {
                let slots = (&raw const (*self.half).port_slots).cast::<PortSlot>();
                slots.add((first + probe) & (PORT_SLOTS - 1)).read()
            };
            if slot.ifindex == 0 {
                return None;
            }
            if slot.ifindex == ifindex && slot.vlan == vlan {
                return Some(slot.port);
            }
        }
        None
    }

    /// A port.
    #[inline(always)]
    pub fn port(self, index: u8) -> *const Port {
        let index = usize::from(index) & (MAX_PORTS - 1);
        // SAFETY: the index is masked to the array, which is part of the half.
        unsafe { (&raw const (*self.half).ports).cast::<Port>().add(index) }
    }

    /// A path.
    #[inline(always)]
    pub fn path(self, path: PathId) -> *const Path {
        let index = usize::from(path.uplink) & (MAX_UPLINKS - 1);
        // SAFETY: the index is masked to the array, which is part of the half; the family is one.
        unsafe {
            let uplink = (&raw const (*self.half).uplinks).cast::<Uplink>().add(index);
            (&raw const (*uplink).paths).cast::<Path>().add(path.family.index())
        }
    }

    /// Are segment sizes to be clamped that SYNs by an uplink name?
    #[inline(always)]
    pub fn clamps(self, uplink: u8) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.uplink(uplink)).clamp_mss != 0 }
    }

    /// Do an uplink's mappings let in more than flows?
    #[inline(always)]
    pub fn filters_less(self, uplink: u8) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.uplink(uplink)).filtering != Filtering::AddressAndPort as u8 }
    }

    /// An uplink.
    #[inline(always)]
    fn uplink(self, index: u8) -> *const Uplink {
        let index = usize::from(index) & (MAX_UPLINKS - 1);
        // SAFETY: the index is masked to the array, which is part of the half.
        unsafe { (&raw const (*self.half).uplinks).cast::<Uplink>().add(index) }
    }

    /// Do flows leave here?
    #[inline(always)]
    pub fn forwards(self) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.half).tier == Tier::Kernel as u8 }
    }

    /// Has an uplink a path of IPv6?
    #[inline(always)]
    pub fn serves_ipv6(self) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.half).serves_ipv6() }
    }

    /// Do packets of the family leave without flows?
    #[inline(always)]
    pub fn is_stateless(self, family: Family) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.half).stateless[family.index()].active != 0 }
    }

    /// Does the destination alone say where packets of the family to LANs leave?
    #[inline(always)]
    pub fn remembers(self, family: Family) -> bool {
        // SAFETY: a field of the half.
        unsafe { (*self.half).stateless[family.index()].remembers != 0 }
    }

    /// A host that packets are for which come by an uplink's port.
    #[inline(always)]
    pub fn wanted(self, family: Family, port: &Port, address: [u64; 2]) -> Wanted {
        // SAFETY: a field of the half.
        let epoch = unsafe { (*self.half).epoch };
        Wanted { address, family, uplink: port.uplink, epoch }
    }

    /// A path's state word.
    #[inline(always)]
    pub fn path_state(self, path: PathId) -> u32 {
        // SAFETY: the pointer is to a whole page, the index is masked.
        unsafe {
            (&raw const (*self.page).path_state).cast::<u32>().add(path.index()).read_volatile()
        }
    }
}

/// Class of a destination, 0 for none.
#[inline(always)]
pub fn host_class<F: Bears>(address: F::Address) -> u32 {
    class(host::<F>(address))
}

/// What is known of a destination: see [`weir_layout::control::host_class`].
#[inline(always)]
pub fn host<F: Bears>(address: F::Address) -> u32 {
    if !may_have_class::<F>(F::words_of(address)) {
        return 0;
    }
    let bits = 8 * size_of::<F::Address>() as u32;
    F::hosts().get(Key::new(bits, address)).map_or(0, |value| *value)
}

/// May a prefix of the longest-prefix map hold the address in these words? See
/// [`weir_layout::blocks`].
#[inline(always)]
fn may_have_class<F: Bears>([first, _]: [u64; 2]) -> bool {
    let Some(blocks) = BLOCKS.get_ptr(F::FAMILY.index() as u32) else { return true };
    let address = first.to_be();
    let mut bits = 0;
    for level in 0..LEVELS {
        let number = usize::from(blocks::number(F::FAMILY, level, address));
        // SAFETY: a level has a bit for each number of 16 bits.
        let word = unsafe {
            (&raw const (*blocks).levels)
                .cast::<u64>()
                .add(level * WORDS + number / 64)
                .read_volatile()
        };
        bits |= word >> (number % 64);
    }
    // SAFETY: the pointer is to the whole structure.
    bits & 1 != 0 || unsafe { (&raw const (*blocks).filled).read_volatile() } == 0
}

/// The bytes of a bucket table, see [`weir_layout::control::table_index`].
#[inline(always)]
pub fn buckets(table: usize) -> Option<*const u8> {
    Some(BUCKETS.get_ptr(table as u32)?.cast())
}

/// What a source may send to a socket in a tick, see [`weir_layout::allowance`].
#[inline(always)]
pub fn allowance(socket: u32) -> u64 {
    // SAFETY: the pointer is to a whole word.
    ALLOWANCES.get_ptr(socket).map_or(ALL, |word| unsafe { word.read_volatile() })
}

/// The word of an adjacency, see [`weir_layout::adjacency`].
#[inline(always)]
pub fn adjacency(index: u16) -> Option<u64> {
    let word = ADJACENCIES.get_ptr(u32::from(index))?;
    // SAFETY: the pointer is to a whole word.
    Some(unsafe { word.read_volatile() })
}
