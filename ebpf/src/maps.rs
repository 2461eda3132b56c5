//! The maps, by the names and shapes that user space pins them with, and reading them in place.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, DevMap, LpmTrie, XskMap};
use weir_wire::layout::control::{
    ControlHalf, ControlPage, Device, PORT_PROBES, PORT_SLOTS, Port, PortSlot, Uplink, port_slot,
};
use weir_wire::layout::counters::{CPU_LANES, Counter, LANES, Lane, UplinkCounters};
use weir_wire::layout::flow::{FlowEntry4, GROUP};
use weir_wire::layout::neighbour::NEIGHBOURS as NEIGHBOUR_SLOTS;
use weir_wire::layout::status::StatusPage;
use weir_wire::layout::{
    MAX_DEVICES, MAX_PORTS, MAX_QUEUES, MAX_UPLINKS, RegionHeader, RegionKind,
};

use crate::forward::Forwarded;

const MMAPABLE: u32 = 1 << 10;
const NO_PREALLOC: u32 = 1;

#[map]
static CONTROL: Array<ControlPage> = Array::with_max_entries(1, MMAPABLE);
#[map]
static STATUS: Array<StatusPage> = Array::with_max_entries(1, MMAPABLE);
#[map]
static COUNTERS: Array<Lane> = Array::with_max_entries(LANES as u32, MMAPABLE);
/// As many slots as the dataplane pinned; the number here is never used.
#[map]
pub static FLOWS4: Array<FlowEntry4> = Array::with_max_entries(GROUP, MMAPABLE);
/// Likewise.
#[map]
pub static TAGS4: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
static NEIGHBOURS: Array<u64> = Array::with_max_entries(NEIGHBOUR_SLOTS as u32, MMAPABLE);
#[map]
static HOSTS4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, NO_PREALLOC);
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
    COUNTERS.get_ptr_mut(cpu % CPU_LANES as u32)
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

/// Counts a forwarded packet on its uplink.
#[inline(always)]
pub fn count_uplink(lane: *mut Lane, forwarded: &Forwarded) {
    let index = forwarded.uplink as usize & (MAX_UPLINKS - 1);
    // SAFETY: as in `count`.
    unsafe {
        let uplink = (&raw mut (*lane).uplinks).cast::<UplinkCounters>().add(index);
        let (packets, bytes) = if forwarded.outward {
            (&raw mut (*uplink).tx_packets, &raw mut (*uplink).tx_bytes)
        } else {
            (&raw mut (*uplink).rx_packets, &raw mut (*uplink).rx_bytes)
        };
        *packets = (*packets).wrapping_add(1);
        *bytes = (*bytes).wrapping_add(forwarded.bytes);
    }
}

/// The published state; `None` before the first publication, or in a page of another version.
#[inline(always)]
pub fn published() -> Option<*const ControlHalf> {
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
        Some((&raw const (*page).half).cast::<ControlHalf>().add((epoch & 1) as usize))
    }
}

/// The port of an interface and VLAN, see [`ControlHalf::port_of`].
#[inline(always)]
pub fn port_of(half: *const ControlHalf, ifindex: u32, vlan: u16) -> Option<Port> {
    let first = port_slot(ifindex, vlan);
    for probe in 0..PORT_PROBES {
        // SAFETY: the index is masked to the table, which is part of the half.
        let slot = unsafe {
            let slots = (&raw const (*half).port_slots).cast::<PortSlot>();
            slots.add((first + probe) & (PORT_SLOTS - 1)).read()
        };
        if slot.ifindex == 0 {
            return None;
        }
        if slot.ifindex == ifindex && slot.vlan == vlan {
            let index = slot.port as usize & (MAX_PORTS - 1);
            // SAFETY: the index is masked.
            return Some(unsafe { (&raw const (*half).ports).cast::<Port>().add(index).read() });
        }
    }
    None
}

/// A device.
#[inline(always)]
pub fn device(half: *const ControlHalf, index: u8) -> *const Device {
    // SAFETY: the index is masked to the array, which is part of the half.
    unsafe { (&raw const (*half).devices).cast::<Device>().add(index as usize & (MAX_DEVICES - 1)) }
}

/// An uplink.
#[inline(always)]
pub fn uplink(half: *const ControlHalf, index: u8) -> *const Uplink {
    // SAFETY: the index is masked to the array, which is part of the half.
    unsafe { (&raw const (*half).uplinks).cast::<Uplink>().add(index as usize & (MAX_UPLINKS - 1)) }
}

/// Class of a destination, 0 for none.
#[inline(always)]
pub fn host_class(address: [u8; 4]) -> u32 {
    HOSTS4.get(Key::new(32, address)).map_or(0, |class| *class)
}

/// An uplink's state word.
#[inline(always)]
pub fn uplink_state(index: u8) -> u32 {
    let Some(page) = CONTROL.get_ptr(0) else { return 0 };
    // SAFETY: the pointer is to a whole page, the index is masked.
    unsafe {
        let words = (&raw const (*page).uplink_state).cast::<u32>();
        words.add(index as usize & (MAX_UPLINKS - 1)).read_volatile()
    }
}

/// The word of a LAN neighbour, its hardware address in the low six bytes.
#[inline(always)]
pub fn neighbour(index: u16) -> Option<u64> {
    let word = NEIGHBOURS.get_ptr(u32::from(index))?;
    // SAFETY: the pointer is to a whole word.
    Some(unsafe { word.read_volatile() })
}

/// Key of the flow hash, and the number of groups; `None` while there is no table.
#[inline(always)]
pub fn flow_table() -> Option<([u64; 2], u32)> {
    let status = STATUS.get_ptr(0)?;
    // SAFETY: the pointer is to a whole page.
    let (key, size) = unsafe { ((*status).hash_key, (*status).flows4.size) };
    let slots = (size / size_of::<FlowEntry4>() as u64) as u32;
    if slots == 0 { None } else { Some((key, slots / GROUP)) }
}
