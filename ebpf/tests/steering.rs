//! The XDP program in the running kernel, fixture by fixture (`BPF_PROG_TEST_RUN`). Needs root.
//!
//! A test run comes in by the loopback device (interface 1, queue 0), so that is the device of
//! the published state, as a LAN port or as an uplink's.

use aya::EbpfLoader;
use aya::programs::{TestRun, TestRunOptions, Xdp};
use etherparse::PacketBuilder;
use weir_ebpf::{OBJECT, names};
use weir_shm::Pins;
use weir_shm::control::{ControlRegion, ControlWriter, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::flows::FlowTable4;
use weir_shm::hosts::{HostPrefixes, Hosts4};
use weir_shm::map::Access;
use weir_shm::neighbours::Neighbours;
use weir_shm::pins::name;
use weir_shm::status::Status;
use weir_wire::hash::flow4;
use weir_wire::layout::NONE;
use weir_wire::layout::control::{OnDataplaneLoss, Port, PortRole, Translate, host_class};
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::{FlowEntry4, FlowKey4};

const DROP: u32 = 1;
const PASS: u32 = 2;
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIRS: [u8; 6] = [2, 0, 0, 0, 0, 2];
const HOST: [u8; 4] = [10, 77, 0, 2];
const LAN_ADDRESS: [u8; 4] = [10, 77, 0, 1];
const WAN_ADDRESS: [u8; 4] = [203, 0, 113, 10];
const SITE: [u8; 4] = [198, 51, 100, 1];
const OWN: [u8; 4] = [192, 0, 2, 130];
const VPN: [u8; 4] = [10, 8, 0, 5];
const NAT_PORT: u16 = 40_000;
const KEY: [u64; 2] = [11, 22];

struct Fixture {
    pins: Pins,
    xdp: aya::Ebpf,
    counters: Counters,
    flows: FlowTable4,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.pins.remove().unwrap();
    }
}

impl Fixture {
    fn new(test: &str, role: PortRole, loss: OnDataplaneLoss) -> Self {
        let fixture = Self::unpublished(test);
        let mut writer =
            ControlWriter::new(ControlRegion::open(&fixture.pins, Access::Write).unwrap());
        let mut half = Snapshot::new().half;
        half.on_dataplane_loss = loss as u8;
        let device = &mut half.devices[0];
        (device.ifindex, device.queues, device.mtu, device.mac) = (1, 1, 1500, OURS);
        let uplink = if role == PortRole::Lan { NONE } else { 0 };
        let port = Port { role: role as u8, device: 0, uplink, mtu: 1500, ..half.ports[0] };
        half.ports[0] = port;
        half.ports[1] = Port { vlan: 7, ..port };
        assert!(half.insert_port_slot(1, 0, 0));
        assert!(half.insert_port_slot(1, 7, 1));
        let uplink = &mut half.uplinks[0];
        (uplink.translate, uplink.pool_len) = (Translate::Nat44 as u8, 1);
        uplink.pool[0] = WAN_ADDRESS;
        (uplink.nat_lo, uplink.nat_hi) = (16_384, 65_535);
        writer.publish(&mut half, &[]);
        let hosts: HostPrefixes = [
            ((LAN_ADDRESS, 32), host_class::LOCAL),
            ((WAN_ADDRESS, 32), host_class::LOCAL),
            (([10, 77, 0, 0], 16), host_class::LAN),
            (([192, 0, 2, 128], 25), host_class::LAN),
            (([10, 8, 0, 0], 24), host_class::KERNEL),
        ]
        .into();
        Hosts4::open(&fixture.pins).unwrap().sync(&hosts).unwrap();
        fixture
    }

    fn unpublished(test: &str) -> Self {
        let directory = format!("/sys/fs/bpf/weir-ebpf-test-{}-{test}", std::process::id());
        let pins = Pins::create(directory).expect("these tests need root and bpffs");
        ControlRegion::open(&pins, Access::Write).unwrap();
        let status = Status::open(&pins, Access::Write).unwrap();
        status.set_hash_key(KEY);
        let counters = Counters::open(&pins, Access::Write).unwrap();
        let flows = FlowTable4::open(&pins, 1024).unwrap();
        status.set_flows4(flows.capacity());
        Neighbours::open(&pins, Access::Write).unwrap();
        Hosts4::open(&pins).unwrap();
        let mut loader = EbpfLoader::new();
        for map in name::PROGRAM {
            loader.map_pin_path(map, pins.path(map));
        }
        let mut xdp = loader.load(OBJECT).unwrap();
        let program: &mut Xdp = xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        program.load().expect("the verifier accepts the program");
        Self { pins, xdp, counters, flows }
    }

    fn lan(test: &str) -> Self {
        Self::new(test, PortRole::Lan, OnDataplaneLoss::Drop)
    }

    fn uplink(test: &str) -> Self {
        Self::new(test, PortRole::Uplink, OnDataplaneLoss::Drop)
    }

    /// Runs a frame; the action, and the one counter that it moved besides `XdpRx`.
    fn run(&mut self, frame: &[u8]) -> (u32, Counter) {
        let before = self.counters.all();
        let program: &mut Xdp = self.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let action = program.test_run(options).unwrap().return_value;
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
        (action, moved[1].0)
    }

    /// Makes the table know packets with this key.
    fn add_flow(&self, key: FlowKey4) {
        let mut entry = <FlowEntry4 as zerocopy::FromZeros>::new_zeroed();
        (entry.src, entry.dst, entry.proto) = (key.src, key.dst, key.proto);
        (entry.sport, entry.dport) = (key.sport, key.dport);
        assert!(self.flows.insert(flow4(KEY, &key), &entry).is_some());
    }
}

fn udp(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv4(src, dst, 64).udp(sport, dport);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

fn echo_reply(dst: [u8; 4], id: u16) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(THEIRS, OURS).ipv4(SITE, dst, 64).icmpv4_echo_reply(id, 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

/// Destination unreachable about the given packet (an IP packet).
fn unreachable(dst: [u8; 4], about: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS)
        .ipv4([100, 64, 0, 1], dst, 64)
        .icmpv4_raw(3, 1, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, about).unwrap();
    frame
}

const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);

#[test]
fn before_anything_is_published_all_is_the_kernels() {
    let mut f = Fixture::unpublished("unpublished");
    assert_eq!(f.run(&udp(HOST, 1, SITE, 2)), (PASS, Counter::XdpPassUnconfigured));
}

#[test]
fn transit_is_dropped_while_no_dataplane_is_attached() {
    assert_eq!(Fixture::lan("drop").run(&udp(HOST, 1, SITE, 2)), TRANSIT);
}

#[test]
fn transit_goes_to_the_kernel_if_so_configured() {
    let mut f = Fixture::new("kernel", PortRole::Lan, OnDataplaneLoss::Kernel);
    assert_eq!(f.run(&udp(HOST, 1, SITE, 2)), (PASS, Counter::XdpPassNoDataplane));
}

#[test]
fn the_gateways_own_addresses_are_the_kernels() {
    let mut f = Fixture::lan("local");
    assert_eq!(f.run(&udp(HOST, 1, LAN_ADDRESS, 53)), (PASS, Counter::XdpPassLocal));
    assert_eq!(f.run(&udp(HOST, 1, WAN_ADDRESS, NAT_PORT)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn lan_and_vpn_prefixes_are_the_kernels() {
    let mut f = Fixture::lan("routes");
    for dst in [[10, 77, 3, 3], OWN, VPN] {
        assert_eq!(f.run(&udp(HOST, 1, dst, 2)), (PASS, Counter::XdpPassKernelRoute));
    }
}

#[test]
fn arp_and_ipv6_are_the_kernels() {
    let mut f = Fixture::lan("other");
    let mut arp = vec![0; 60];
    arp[..6].copy_from_slice(&[0xff; 6]);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(f.run(&arp), (PASS, Counter::XdpPassNotIp));
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv6([1; 16], [2; 16], 64).udp(1, 2);
    let mut ipv6 = Vec::new();
    builder.write(&mut ipv6, &[]).unwrap();
    assert_eq!(f.run(&ipv6), (PASS, Counter::XdpPassIpv6));
}

#[test]
fn broadcast_and_multicast_are_the_kernels() {
    let mut f = Fixture::lan("group");
    let mut dhcp = udp([0; 4], 68, [255; 4], 67);
    dhcp[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(f.run(&dhcp), (PASS, Counter::XdpPassGroup));
    assert_eq!(f.run(&udp(HOST, 1, [224, 0, 0, 5], 2)), (PASS, Counter::XdpPassGroup));
}

#[test]
fn frames_for_another_host_are_left_alone() {
    let mut frame = udp(HOST, 1, SITE, 2);
    frame[5] = 9;
    assert_eq!(Fixture::lan("mac").run(&frame), (PASS, Counter::XdpPassOtherHost));
}

#[test]
fn a_vlan_is_a_port_of_its_own() {
    let mut f = Fixture::lan("vlan");
    let mut tagged = udp(HOST, 1, SITE, 2);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(f.run(&tagged), TRANSIT);
    tagged[15] = 8;
    assert_eq!(f.run(&tagged), (PASS, Counter::XdpPassPort));
}

#[test]
fn nat_ports_of_an_uplink_are_transit_and_others_the_kernels() {
    let mut f = Fixture::uplink("nat");
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, NAT_PORT)), TRANSIT);
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, 16_384)), TRANSIT);
    assert_eq!(f.run(&udp(SITE, 53, WAN_ADDRESS, 16_383)), (PASS, Counter::XdpPassLocal));
    assert_eq!(f.run(&udp(SITE, 53, LAN_ADDRESS, NAT_PORT)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn a_ping_answer_is_transit_if_a_flow_waits_for_it() {
    let mut f = Fixture::uplink("echo");
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), (PASS, Counter::XdpPassLocal));
    let id = 77u16.to_be_bytes();
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, id, id, 1));
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 77)), TRANSIT);
    assert_eq!(f.run(&echo_reply(WAN_ADDRESS, 78)), (PASS, Counter::XdpPassLocal));
}

#[test]
fn an_icmp_error_about_a_nat_port_is_transit() {
    let mut f = Fixture::uplink("error");
    let about = |port| udp(WAN_ADDRESS, port, SITE, 53)[14..].to_vec();
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(NAT_PORT))), TRANSIT);
    assert_eq!(f.run(&unreachable(WAN_ADDRESS, &about(1024))), (PASS, Counter::XdpPassLocal));
}

#[test]
fn own_prefixes_are_transit_once_a_flow_exists() {
    let mut f = Fixture::uplink("own");
    let back = udp(SITE, 53, OWN, 5000);
    assert_eq!(f.run(&back), (PASS, Counter::XdpPassKernelRoute));
    f.add_flow(FlowKey4::new(SITE, OWN, 53u16.to_be_bytes(), 5000u16.to_be_bytes(), 17));
    assert_eq!(f.run(&back), TRANSIT);
}

#[test]
fn strangers_from_an_uplink_are_the_kernels() {
    let mut f = Fixture::uplink("foreign");
    assert_eq!(f.run(&udp(SITE, 53, [9, 9, 9, 9], 5000)), (PASS, Counter::XdpPassForeign));
    assert_eq!(f.run(&udp(SITE, 53, VPN, 5000)), (PASS, Counter::XdpPassKernelRoute));
}

#[test]
fn frames_of_every_length_are_counted_once() {
    for role in [PortRole::Lan, PortRole::Uplink] {
        let mut f = Fixture::new("lengths", role, OnDataplaneLoss::Drop);
        for frame in [
            udp(HOST, 1, SITE, 2),
            unreachable(WAN_ADDRESS, &udp(WAN_ADDRESS, NAT_PORT, SITE, 53)[14..]),
        ] {
            // A test run takes no frame shorter than an Ethernet header.
            for len in 14..=frame.len() {
                f.run(&frame[..len]);
            }
        }
    }
}
