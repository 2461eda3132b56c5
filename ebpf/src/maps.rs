//! The maps, by the names and shapes that user space pins them with, and reading them in place.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, LpmTrie, XskMap};
use weir_wire::layout::control::{
    ControlHalf, ControlPage, Device, PORT_PROBES, PORT_SLOTS, Port, Uplink, port_slot,
};
use weir_wire::layout::counters::{CPU_LANES, Counter, LANES, Lane};
use weir_wire::layout::flow::FlowEntry4;
use weir_wire::layout::status::StatusPage;
use weir_wire::layout::{
    MAX_DEVICES, MAX_PORTS, MAX_QUEUES, MAX_UPLINKS, RegionHeader, RegionKind,
};

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
pub static FLOWS4: Array<FlowEntry4> = Array::with_max_entries(8, MMAPABLE);
#[map]
static HOSTS4: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(4096, NO_PREALLOC);
#[map]
pub static XSKS: XskMap = XskMap::with_max_entries((MAX_DEVICES * MAX_QUEUES) as u32, 0);

/// Counts on this CPU's lane.
#[inline(always)]
pub fn count(counter: Counter) {
    // SAFETY: the helper has no conditions.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let Some(lane) = COUNTERS.get_ptr_mut(cpu % CPU_LANES as u32) else { return };
    let index = counter as usize & (Counter::SLOTS - 1);
    // SAFETY: the pointer is to a whole lane, the index is masked, and the lane is this CPU's own.
    unsafe {
        let counter = (&raw mut (*lane).counters).cast::<u64>().add(index);
        *counter = (*counter).wrapping_add(1);
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
            let slots =
                (&raw const (*half).port_slots).cast::<weir_wire::layout::control::PortSlot>();
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

/// Key of the flow hash, and the mask of slot indices; `None` while there is no table.
#[inline(always)]
pub fn flow_table() -> Option<([u64; 2], u32)> {
    let status = STATUS.get_ptr(0)?;
    // SAFETY: the pointer is to a whole page.
    let (key, size) = unsafe { ((*status).hash_key, (*status).flows4.size) };
    let slots = (size / size_of::<FlowEntry4>() as u64) as u32;
    if slots == 0 { None } else { Some((key, slots - 1)) }
}
