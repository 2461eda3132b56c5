//! A program loaded on regions of its own, and frames for it.
//!
//! A test run comes in by the loopback device (interface 1, queue 0), so that is the device of
//! the published state, as a LAN port or as an uplink's.

use std::os::fd::{AsRawFd as _, OwnedFd};

use aya::EbpfLoader;
use aya::maps::{DevMap, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use etherparse::PacketBuilder;
use rustix::net::{AddressFamily, SocketType};
use weir_ebpf::{OBJECT, names};
use weir_layout::control::{
    Address, ControlHalf, MAX_VIRTUAL_MACS, Mac, Name, OnDataplaneLoss, PathId, Port, PortRole,
    Tier, Translate, host_class, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::StateOwner;
use weir_layout::{Family, NONE};
use weir_shm::Pins;
use weir_shm::adjacencies::{Adjacencies, NextHops};
use weir_shm::control::{ControlRegion, ControlWriter, empty_half};
use weir_shm::counters::Counters;
use weir_shm::flows::{Entry4, FlowTable, FlowTable4};
use weir_shm::hosts::{HostPrefixes, Hosts, Hosts4};
use weir_shm::map::Access;
use weir_shm::pins::name;
use weir_wire::entry::NewDirection;
use weir_wire::family::{Family as _, V4, V6};
use weir_wire::key::FlowKey4;
use weir_wire::rewrite::compile4;

pub const DROP: u32 = 1;
pub const PASS: u32 = 2;
pub const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 7];
pub const HOST: [u8; 4] = [10, 77, 0, 2];
pub const LAN_ADDRESS: [u8; 4] = [10, 77, 0, 1];
pub const WAN_ADDRESS: [u8; 4] = [203, 0, 113, 10];
/// Of the uplink's pool, and no address of the gateway.
pub const POOL: [u8; 4] = [203, 0, 113, 11];
pub const SITE: [u8; 4] = [198, 51, 100, 1];
pub const OWN: [u8; 4] = [192, 0, 2, 130];
pub const VPN: [u8; 4] = [10, 8, 0, 5];
pub const NAT_PORT: u16 = 40_000;
/// The untagged port on the side that frames do not come in by; behind it the one of VLAN 7.
pub const OTHER_SIDE: u8 = 2;
pub const KEY: [u64; 2] = [11, 22];

pub struct Fixture {
    pub pins: Pins,
    pub xdp: aya::Ebpf,
    pub counters: Counters,
    pub flows: FlowTable4,
    pub flows6: FlowTable<V6>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.pins.remove().unwrap();
    }
}

impl Fixture {
    pub fn new(test: &str, role: PortRole, loss: OnDataplaneLoss) -> Self {
        Self::with(test, role, loss, |_| ())
    }

    /// As [`Self::new`], with a change of what is published.
    pub fn with(
        test: &str,
        role: PortRole,
        loss: OnDataplaneLoss,
        change: impl FnOnce(&mut ControlHalf),
    ) -> Self {
        let fixture = Self::unpublished(test);
        let mut writer = fixture.writer();
        let mut half = empty_half();
        half.on_dataplane_loss = loss as u8;
        half.tier = Tier::Kernel as u8;
        let device = &mut half.devices[0];
        (device.ifindex, device.queues, device.mtu) = (1, 1, 1500);
        let uplink = if role == PortRole::Lan { NONE } else { 0 };
        let mac = Mac::new(OURS);
        let port = Port {
            role: role as u8,
            device: 0,
            uplink,
            mtu: 1500,
            mac,
            virtual_macs: [mac; MAX_VIRTUAL_MACS],
            ..half.ports[0]
        };
        half.ports[0] = port;
        half.ports[1] = Port { vlan: 7, ..port };
        // The other side, by the same device.
        let (other, of) = match role {
            PortRole::Lan => (PortRole::Uplink, 0),
            PortRole::Uplink => (PortRole::Lan, NONE),
        };
        let other = Port { role: other as u8, uplink: of, ..port };
        half.ports[usize::from(OTHER_SIDE)] = other;
        half.ports[usize::from(OTHER_SIDE) + 1] = Port { vlan: 7, ..other };
        assert!(half.insert_port_slot(1, 0, 0));
        assert!(half.insert_port_slot(1, 7, 1));
        let uplink = &mut half.uplinks[0];
        uplink.name = Name::new("fiber");
        uplink.port = if role == PortRole::Lan { OTHER_SIDE } else { 0 };
        let path = uplink.path_mut(Family::V4);
        (path.translate, path.pool_len) = (Translate::Napt as u8, 1);
        path.pool[0] = Address::v4(WAN_ADDRESS);
        (path.nat_lo, path.nat_hi) = (16_384, 65_535);
        path.next_hop_mac = Mac::new(NEXT_HOP);
        change(&mut half);
        writer.set_path_state(PathId::v4(0), path_state::USABLE);
        writer.publish(&mut half, [&[], &[]]);
        let hosts: HostPrefixes = [
            ((LAN_ADDRESS, 32), host_class::LOCAL),
            ((WAN_ADDRESS, 32), host_class::LOCAL),
            (([10, 77, 0, 0], 16), host_class::LAN),
            (([192, 0, 2, 128], 25), host_class::LAN),
            (([10, 8, 0, 0], 24), host_class::KERNEL),
            ((POOL, 32), host_class::POOL),
        ]
        .into();
        Hosts4::open(&fixture.pins).unwrap().sync(&hosts).unwrap();
        fixture
    }

    pub fn unpublished(test: &str) -> Self {
        let directory = format!("/sys/fs/bpf/weir-ebpf-test-{}-{test}", std::process::id());
        let pins = Pins::create(directory).expect("these tests need root and bpffs");
        ControlRegion::open(&pins, Access::Write).unwrap();
        let counters = Counters::open(&pins, Access::Write).unwrap();
        let flows = FlowTable4::open(&pins, 1024).unwrap();
        Adjacencies::open(&pins, Access::Write, KEY).unwrap();
        let flows6 = FlowTable::<V6>::open(&pins, 1024).unwrap();
        Hosts4::open(&pins).unwrap();
        Hosts::<V6>::open(&pins).unwrap();
        let pages = flows.pages();
        let mut loader = EbpfLoader::new();
        loader.override_global(names::FLOW_SECRET, &KEY, true);
        loader.override_global(names::FLOW_PAGES, &pages, true);
        let pages6 = flows6.pages();
        loader.override_global(names::FLOW_PAGES6, &pages6, true);
        for map in name::PROGRAM {
            loader.map_pin_path(map, pins.path(map));
        }
        let mut xdp = loader.load(OBJECT).unwrap();
        for name in [names::PROGRAM, names::TRANSMIT] {
            let program: &mut Xdp = xdp.program_mut(name).unwrap().try_into().unwrap();
            weir_shm::program::load(program).expect("the verifier accepts the program");
        }
        Self { pins, xdp, counters, flows, flows6 }
    }

    /// The control process's side.
    pub fn writer(&self) -> ControlWriter {
        let region = ControlRegion::open(&self.pins, Access::Write).unwrap();
        ControlWriter::new(region, NextHops::open(&self.pins).unwrap())
    }

    pub fn lan(test: &str) -> Self {
        Self::new(test, PortRole::Lan, OnDataplaneLoss::Drop)
    }

    pub fn uplink(test: &str) -> Self {
        Self::new(test, PortRole::Uplink, OnDataplaneLoss::Drop)
    }

    /// Runs a frame; the action, and the one counter that it moved besides `XdpRx`.
    pub fn run(&mut self, frame: &[u8]) -> (u32, Counter) {
        let (action, counter, _) = self.run_for_frame(frame);
        (action, counter)
    }

    /// As [`Self::run`], with the frame as the program left it.
    pub fn run_for_frame(&mut self, frame: &[u8]) -> (u32, Counter, Vec<u8>) {
        let before = self.counters.all();
        let (action, data) = self.run_program(names::PROGRAM, frame);
        let moved: Vec<_> = self
            .counters
            .all()
            .iter()
            .zip(&before)
            .filter(|(after, before)| after.1 != before.1)
            .map(|(after, before)| (after.0, after.1 - before.1))
            .collect();
        assert_eq!(moved.len(), 2, "{moved:?}");
        assert_eq!(moved[0], (Counter::XdpRx, 1));
        assert_eq!(moved[1].1, 1);
        (action, moved[1].0, data)
    }

    /// Runs a frame that the user tier writes to the first queue of its tap device.
    pub fn run_transmit(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        self.run_program(names::TRANSMIT, frame)
    }

    /// The action, and the frame as the program left it.
    fn run_program(&mut self, name: &str, frame: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut Xdp = self.xdp.program_mut(name).unwrap().try_into().unwrap();
        let mut data = vec![0; 2048];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut data),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).unwrap();
        data.truncate(result.data_size_out as usize);
        (result.return_value, data)
    }

    /// Makes the table know packets with this key; not offered to the kernel tier.
    pub fn add_flow(&self, key: FlowKey4) {
        self.insert(entry(&key, &key));
    }

    /// Puts an entry in the table; its slot.
    pub fn insert(&self, entry: Entry4) -> u32 {
        self.insert_as(entry, &entry.key)
    }

    /// Puts an entry where one with this key would stand, and under its tag.
    pub fn insert_as(&self, entry: Entry4, key: &FlowKey4) -> u32 {
        let Entry4 { flags, state_owner, uplink, adjacency, mark, .. } = entry;
        let new = NewDirection { flags, state_owner, uplink, adjacency, mark, now: 0 };
        let mut words = new.words::<V4>(&entry.key, &entry.key);
        words.rewrite = V4::rewrite_words(&entry.rewrite);
        words.out |= u64::from(entry.peer) << 32;
        words.next_seq = entry.next_seq;
        self.flows.insert(key.hash(KEY), &words).unwrap()
    }

    /// Gives the queue a socket. A test run hands nothing to it.
    pub fn can_receive(&mut self) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        let map = self.xdp.map_mut(names::XSKS).unwrap();
        XskMap::try_from(map).unwrap().set(0, socket.as_raw_fd(), 0).unwrap();
        socket
    }

    /// Lets the program send by the device of the fixture.
    pub fn can_transmit(&mut self) {
        let map = self.xdp.map_mut(names::DEVICES).unwrap();
        DevMap::try_from(map).unwrap().set(0, 1, None, 0).unwrap();
    }
}

/// An entry that makes packets of `from` leave to the uplink's next hop as those of `to`.
pub fn entry(from: &FlowKey4, to: &FlowKey4) -> Entry4 {
    Entry4 {
        last_seen: 0,
        key: *from,
        flags: 0,
        state_owner: StateOwner::default(),
        uplink: 0,
        rewrite: compile4(from, to),
        adjacency: 0,
        mark: 0,
        peer: 0,
        packets: 0,
        next_seq: 0,
        bytes: 0,
    }
}

pub fn udp(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(src, dst, 64).udp(sport, dport);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

pub fn echo_reply(dst: [u8; 4], id: u16) -> Vec<u8> {
    echo(0, [SITE, dst], id)
}

/// An echo message of this type.
pub fn echo(kind: u8, [src, dst]: [[u8; 4]; 2], id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(src, dst, 64).icmpv4_raw(
        kind,
        0,
        [high, low, 0, 1],
    );
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

/// Destination unreachable about the given packet (an IP packet).
pub fn unreachable(dst: [u8; 4], about: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS)
        .ipv4([100, 64, 0, 1], dst, 64)
        .icmpv4_raw(3, 1, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, about).unwrap();
    frame
}
