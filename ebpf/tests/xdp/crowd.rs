//! A source that sends more of what begins flows than a worker can take.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use weir_ebpf::names;
use weir_layout::control::{OnDataplaneLoss, PortRole};
use weir_layout::counters::Counter;
use weir_shm::allowances::Allowances;
use weir_wire::key::FlowKey4;
use weir_wire::udp::PROTOCOL as UDP;

use crate::fixture::*;
use crate::fixture6::{self, HOST6, SITE6, packet};
use crate::fragments::fragment;
use crate::ipv6::fragmented;

const RUNS: u32 = 1000;
const REDIRECT: u32 = 4;
/// Of a tick. A run of so many takes less than one, and a machine that is held up some hundred.
const FEW: u64 = 1;
const LATE: u64 = 500;

/// Runs a frame again and again; how many of it went to the socket, and how many were too many.
fn run_many(f: &mut Fixture, frame: &[u8]) -> [u64; 2] {
    let counted = [Counter::XdpToUser, Counter::XdpDropCrowded];
    let before = counted.map(|counter| f.counters.sum(counter));
    let program: &mut Xdp = f.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
    let options =
        TestRunOptions { data_in: Some(frame), repeat: RUNS, ..TestRunOptions::default() };
    program.test_run(options).unwrap();
    let after = counted.map(|counter| f.counters.sum(counter));
    let [to_user, crowded] = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(to_user + crowded, u64::from(RUNS));
    [to_user, crowded]
}

#[test]
fn a_source_over_its_allowance_begins_no_more_in_that_tick() {
    let mut f = Fixture::lan("crowd");
    let _socket = f.can_receive();
    let frame = udp(HOST, 4000, SITE, 53);
    assert_eq!(run_many(&mut f, &frame), [u64::from(RUNS), 0]);
    let allowances = Allowances::open(&f.pins).unwrap();
    allowances.set(0, 0, FEW);
    let [to_user, _] = run_many(&mut f, &frame);
    assert!((FEW..LATE).contains(&to_user), "{to_user}");
    // Whatever the others do.
    let other = udp([10, 77, 0, 9], 4000, SITE, 53);
    assert_eq!(f.run(&other), (REDIRECT, Counter::XdpToUser));
    // Of another queue's socket.
    allowances.set(0, 0, 0);
    allowances.set(0, 1, FEW);
    assert_eq!(run_many(&mut f, &frame), [u64::from(RUNS), 0]);
}

#[test]
fn flows_that_a_source_has_are_outside_its_allowance() {
    let mut f = Fixture::lan("crowd-flow");
    let _socket = f.can_receive();
    Allowances::open(&f.pins).unwrap().set(0, 0, FEW);
    let port = |port: u16| port.to_be_bytes();
    f.add_flow(FlowKey4::new(HOST, SITE, port(4000), port(53), UDP));
    assert_eq!(run_many(&mut f, &udp(HOST, 4000, SITE, 53)), [u64::from(RUNS), 0]);
    // They have taken nothing of it.
    let [to_user, _] = run_many(&mut f, &udp(HOST, 4001, SITE, 53));
    assert!((FEW..LATE).contains(&to_user), "{to_user}");
}

#[test]
fn without_a_socket_no_source_has_an_allowance() {
    let mut f = Fixture::new("crowd-none", PortRole::Lan, OnDataplaneLoss::Kernel);
    Allowances::open(&f.pins).unwrap().set(0, 0, FEW);
    let frame = udp(HOST, 4000, SITE, 53);
    for _ in 0..RUNS {
        assert_eq!(f.run(&frame), (PASS, Counter::XdpPassNoDataplane));
    }
}

#[test]
fn a_source_of_ipv6_has_an_allowance_too() {
    let mut f = fixture6::lan("crowd6");
    let _socket = f.can_receive();
    let frame = packet([HOST6, SITE6], UDP, 64);
    assert_eq!(run_many(&mut f, &frame), [u64::from(RUNS), 0]);
    Allowances::open(&f.pins).unwrap().set(0, 0, FEW);
    let [to_user, _] = run_many(&mut f, &frame);
    assert!((FEW..LATE).contains(&to_user), "{to_user}");
}

#[test]
fn fragments_before_their_first_count_in_their_uplinks_allowance_in_either_family() {
    let later4 = fragment(&udp(SITE, 53, OWN, 5000), 1, 3);
    let later6 = fragmented(&packet([SITE6, HOST6], UDP, 64), UDP, 8, 1);
    let uplinks = [Fixture::uplink("crowd-later"), fixture6::uplink("crowd6-later")];
    for (mut f, later) in uplinks.into_iter().zip([later4, later6]) {
        let _socket = f.can_receive();
        Allowances::open(&f.pins).unwrap().set(0, 0, FEW);
        let counted = [Counter::XdpToUser, Counter::XdpDropCrowded];
        let program: &mut Xdp = f.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        let options =
            TestRunOptions { data_in: Some(&later), repeat: RUNS, ..TestRunOptions::default() };
        program.test_run(options).unwrap();
        let [to_user, crowded] = counted.map(|counter| f.counters.sum(counter));
        assert!(to_user >= FEW && crowded > to_user, "{to_user} and {crowded}");
    }
}
