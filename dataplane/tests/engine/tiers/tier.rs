//! Regions as a gateway has them, and the XDP program on them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::{DevMap, XskMap};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use rustix::net::{AddressFamily, SocketType, socket};
use weir_dataplane::engine::Regions;
use weir_ebpf::{OBJECT, names};
use weir_layout::counters::{CPU_LANES, Counter, LANES, Lane};
use weir_layout::flow::FlowEntry4;
use weir_layout::flow6::FlowEntry6;
use weir_layout::{Family, MAX_QUEUES};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::allowances::Allowances;
use weir_shm::control::ControlRegion;
use weir_shm::counters::Counters;
use weir_shm::flows::FlowTable;
use weir_shm::hosts::{HostPrefixes, HostPrefixes6, Hosts4, Hosts6};
use weir_shm::map::{self, Access, Mmap};
use weir_shm::observations::Observations;
use weir_shm::pins::name;
use weir_shm::{Pins, program};

use crate::gateway::KEY;

pub const DROP: u32 = 1;
pub const REDIRECT: u32 = 4;
/// Slots of each table: few enough that it fills.
pub const SLOTS: u32 = 1024;
/// More than any frame.
const ROOM: usize = 2048;

/// What became of a frame in XDP.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub action: u32,
    pub counter: Counter,
    /// As the program left it.
    pub frame: Vec<u8>,
}

pub struct Tier {
    pub regions: Regions,
    pins: Pins,
    ebpf: Ebpf,
    lanes: Mmap,
    slots: [Mmap; Family::COUNT],
    /// By counter, of all CPUs, as of the last frame.
    counted: [u64; Counter::SLOTS],
    cpus: usize,
    /// For as long as they are open, they are in the program's map.
    sockets: Vec<OwnedFd>,
}

impl Drop for Tier {
    fn drop(&mut self) {
        self.pins.remove().unwrap();
    }
}

impl Tier {
    /// With a socket on each of these devices, by any of which the program may send.
    pub fn new(test: &str, ifindexes: &[u32]) -> Self {
        let directory = format!("/sys/fs/bpf/weir-tiers-{}-{test}", std::process::id());
        let pins = Pins::create(directory).expect("these tests need root and bpffs");
        let regions = Regions {
            control: ControlRegion::open(&pins, Access::Write).unwrap(),
            flows: FlowTable::open(&pins, SLOTS).unwrap(),
            flows6: FlowTable::open(&pins, SLOTS).unwrap(),
            adjacencies: Adjacencies::open(&pins, Access::Write, KEY).unwrap(),
            allowances: Allowances::open(&pins).unwrap(),
            counters: Counters::open(&pins, Access::Write).unwrap(),
            observations: Observations::open(&pins, Access::Write).unwrap(),
            ..Regions::anonymous(SLOTS, KEY).unwrap()
        };
        Hosts4::open(&pins).unwrap();
        Hosts6::open(&pins).unwrap();
        let mut loader = EbpfLoader::new();
        let pages = [regions.flows.pages(), regions.flows6.pages()];
        loader.override_global(names::FLOW_SECRET, &KEY, true);
        loader.override_global(names::FLOW_PAGES, &pages[0], true);
        loader.override_global(names::FLOW_PAGES6, &pages[1], true);
        for map in name::PROGRAM {
            loader.map_pin_path(map, pins.path(map));
        }
        let mut ebpf = loader.load(OBJECT).unwrap();
        let xdp: &mut Xdp = ebpf.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        program::load(xdp).expect("the verifier accepts the program");
        let shared = |name, size: usize| {
            map::open(&pins.path(name), "this test", size as u32, None, Access::Write).unwrap().0
        };
        let page = weir_layout::flow::PAGE as usize;
        let slots = [
            shared(name::FLOWS4, page * size_of::<FlowEntry4>()),
            shared(name::FLOWS6, page * size_of::<FlowEntry6>()),
        ];
        let lanes = shared(name::COUNTERS, size_of::<Lane>());
        let mut tier = Self {
            regions,
            lanes,
            slots,
            counted: [0; Counter::SLOTS],
            cpus: std::thread::available_parallelism().unwrap().get().min(CPU_LANES),
            sockets: Vec::new(),
            pins,
            ebpf,
        };
        for (device, ifindex) in (0..).zip(ifindexes) {
            tier.listen(device);
            tier.send_by(device as u8, *ifindex);
        }
        tier
    }

    /// Gives a device's queue a socket. A test run hands nothing to it.
    fn listen(&mut self, device: u32) {
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        let mut map = XskMap::try_from(self.ebpf.map_mut(names::XSKS).unwrap()).unwrap();
        map.set(device * MAX_QUEUES as u32, socket.as_raw_fd(), 0).unwrap();
        self.sockets.push(socket);
    }

    /// Lets the program send by a device; by interface 0: no more.
    pub fn send_by(&mut self, device: u8, ifindex: u32) {
        let mut map = DevMap::try_from(self.ebpf.map_mut(names::DEVICES).unwrap()).unwrap();
        map.set(device.into(), ifindex, None, 0).unwrap();
    }

    /// Which destinations stay here.
    pub fn sync(&self, hosts: &HostPrefixes, hosts6: &HostPrefixes6) {
        Hosts4::open(&self.pins).unwrap().sync(hosts).unwrap();
        Hosts6::open(&self.pins).unwrap().sync(hosts6).unwrap();
    }

    /// A frame comes in by an interface.
    pub fn run(&mut self, ifindex: u32, frame: &[u8]) -> Ran {
        // `struct xdp_md`, of which the kernel takes the length and the interface.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
        let mut sent = vec![0; ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut sent),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let xdp: &mut Xdp = self.ebpf.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        let result = xdp.test_run(options).unwrap();
        sent.truncate(result.data_size_out as usize);
        Ran { action: result.return_value, counter: self.moved(), frame: sent }
    }

    /// The one counter that moved besides that of all frames.
    fn moved(&mut self) -> Counter {
        let words = self.lanes.view::<AtomicU64>(0);
        let lane = size_of::<Lane>() / 8;
        let mut moved = None;
        for counter in Counter::ALL {
            let at = *counter as usize;
            let of_lane = |cpu: usize| words[cpu * lane + at].load(Ordering::Relaxed);
            let now: u64 = (0..self.cpus).map(of_lane).sum();
            let more = now - std::mem::replace(&mut self.counted[at], now);
            if *counter == Counter::XdpRx {
                assert_eq!(more, 1);
            } else if more != 0 {
                assert_eq!((more, moved), (1, None), "{counter:?}");
                moved = Some(*counter);
            }
        }
        moved.expect("every frame is counted")
    }

    /// Sets when a direction was last seen, by the clock of the sequence; when it was by the
    /// kernel's, which the program counts by.
    pub fn seen(&self, family: Family, slot: u32, now: u32) -> u32 {
        const LAST_SEEN: usize = std::mem::offset_of!(FlowEntry4, last_seen) / 4;
        const _: () = assert!(std::mem::offset_of!(FlowEntry6, last_seen) / 4 == LAST_SEEN);
        let size = match family {
            Family::V4 => size_of::<FlowEntry4>(),
            Family::V6 => size_of::<FlowEntry6>(),
        };
        let words = self.slots[family.index()].view::<AtomicU32>(0);
        words[slot as usize * size / 4 + LAST_SEEN].swap(now, Ordering::Relaxed)
    }

    /// Of workers, by counter.
    pub fn of_workers(&self) -> Vec<(Counter, u64)> {
        let words = self.lanes.view::<AtomicU64>(0);
        let lane = size_of::<Lane>() / 8;
        let of = |counter: Counter| {
            (CPU_LANES..LANES)
                .map(|at| words[at * lane + counter as usize].load(Ordering::Relaxed))
                .sum()
        };
        Counter::ALL.iter().map(|counter| (*counter, of(*counter))).collect()
    }

    /// Of XDP, as of the last frame.
    pub fn of_xdp(&self, counter: Counter) -> u64 {
        self.counted[counter as usize]
    }
}
