//! What the program takes for a packet, without driver, redirect and caches of others: nanoseconds
//! by `BPF_PROG_TEST_RUN`, of one frame that leaves by the port it came in by again and again.
//!
//! `cargo bench -p weir-ebpf`, as root. Compare only figures of one run.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/xdp/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/xdp/fixture6.rs"]
mod fixture6;

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use weir_ebpf::names;
use weir_layout::Family;
use weir_layout::adjacency::{Adjacency, mark, next_hop};
use weir_layout::control::{BUCKETS, Mac, OnDataplaneLoss, Origin, PathId, PortRole, Selection};
use weir_layout::flow::flag;
use weir_shm::flows::Entry4;
use weir_wire::key::FlowKey4;
use weir_wire::udp;

use fixture::*;
use fixture6::{HOST6, LAN6, SITE6};

/// Runs in one call: each takes one of the hop limit.
const REPEAT: u32 = 60;
/// Calls, of which the fastest tenth is believed: what else runs makes none faster.
const CALLS: usize = 100;

fn main() {
    let mut cases = [
        ("IPv4, established, translated", translated()),
        ("IPv6, established, untranslated", established()),
        ("IPv6, without flows, from a LAN", stateless()),
    ];
    for round in 1..=3 {
        for (name, (fixture, frame)) in &mut cases {
            println!("{round}  {name:34} {:4} ns", nanoseconds(fixture, frame));
        }
    }
}

fn nanoseconds(fixture: &mut Fixture, frame: &[u8]) -> u128 {
    assert_eq!(fixture.run(frame), fixture6::FORWARDED);
    let program: &mut Xdp = fixture.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
    let mut taken: Vec<_> = (0..CALLS)
        .map(|_| {
            let options = TestRunOptions {
                data_in: Some(frame),
                repeat: REPEAT,
                ..TestRunOptions::default()
            };
            let result = program.test_run(options).unwrap();
            assert_eq!(result.return_value, fixture6::FORWARDED.0);
            result.duration
        })
        .collect();
    taken.sort_unstable();
    Duration::as_nanos(&taken[CALLS / 10])
}

/// The frame with addresses that stand after it has left.
fn returning(mut frame: Vec<u8>) -> Vec<u8> {
    frame[6..12].copy_from_slice(&OURS);
    frame
}

fn sender() -> u16 {
    mark(Adjacency { mac: OURS, port: 0 }.to_word(), 0)
}

fn translated() -> (Fixture, Vec<u8>) {
    let mut f = Fixture::with("bench-nat44", PortRole::Lan, OnDataplaneLoss::Drop, |half| {
        half.uplinks[0].path_mut(Family::V4).next_hop_mac = Mac::new(OURS);
    });
    f.can_transmit();
    let port = |port: u16| port.to_be_bytes();
    let key = FlowKey4::new(HOST, SITE, port(4000), port(53), udp::PROTOCOL);
    let flags = flag::OFFLOAD | flag::NAT | flag::SEEN | flag::INSIDE | flag::INITIATED;
    f.insert(Entry4 { flags, mark: sender(), ..entry(&key, &key) });
    (f, returning(fixture::udp(HOST, 4000, SITE, 53)))
}

fn six(test: &str) -> Fixture {
    let f = fixture6::lan(test);
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    half.uplinks[0].path_mut(Family::V6).next_hop_mac = Mac::new(OURS);
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
    f
}

fn frame6() -> Vec<u8> {
    returning(fixture6::packet([HOST6, SITE6], udp::PROTOCOL, 64))
}

fn established() -> (Fixture, Vec<u8>) {
    let f = six("bench-flow6");
    let key = weir_wire::parse::parse6(&frame6()).unwrap().key();
    let flags = flag::OFFLOAD | flag::SEEN | flag::INSIDE | flag::INITIATED;
    fixture6::insert_from(
        &f,
        &key,
        flags,
        next_hop(PathId::new(0, Family::V6)),
        Adjacency { mac: OURS, port: 0 },
    );
    (f, frame6())
}

fn stateless() -> (Fixture, Vec<u8>) {
    let f = six("bench-less");
    let mut writer = f.writer();
    let mut half = writer.region().snapshot().unwrap().half;
    let stateless = &mut half.stateless[Family::V6.index()];
    (stateless.active, stateless.selection) = (1, Selection::Flow as u8);
    stateless.origins[0] = Origin::new(fixture6::GATEWAY6, 128, 0, 0);
    stateless.origins[1] = Origin::new(LAN6, 64, 0, 0b11);
    stateless.count = 2;
    writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
    (f, frame6())
}
