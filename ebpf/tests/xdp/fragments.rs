//! Later fragments, before and behind their first.

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use weir_ebpf::names;
use weir_layout::counters::Counter;
use weir_wire::ipv4;
use weir_wire::key::FlowKey4;

use crate::fixture::*;

const LOCAL: (u32, Counter) = (PASS, Counter::XdpPassLocal);
/// To a socket, of which there is none here.
const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);
const RUNS: u32 = 10_000;
/// Of strangers by an uplink, in a tick.
const PATIENCE: u64 = 64;

/// A fragment of 24 bytes of a UDP datagram.
pub fn fragment(frame: &[u8], ident: u16, offset: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.resize(14 + 20 + 24, 0);
    frame[16..18].copy_from_slice(&44u16.to_be_bytes());
    frame[18..20].copy_from_slice(&ident.to_be_bytes());
    frame[20..22].copy_from_slice(&(0x2000 | offset).to_be_bytes());
    frame[24..26].fill(0);
    let mut header = ipv4::Packet::new_unchecked(&mut frame[14..34]);
    header.fill_checksum();
    frame
}

#[test]
fn later_fragments_go_where_their_first_went() {
    let mut f = Fixture::uplink("fragments");
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
    let (of_flow, unasked) =
        (udp(SITE, 53, WAN_ADDRESS, NAT_PORT), udp(SITE, 53, WAN_ADDRESS, 500));
    let local = (PASS, Counter::XdpPassLocal);
    assert_eq!(f.run(&fragment(&of_flow, 1, 3)), local, "before its first");
    assert_eq!(f.run(&fragment(&of_flow, 1, 0)), TRANSIT);
    assert_eq!(f.run(&fragment(&of_flow, 1, 3)), TRANSIT);
    assert_eq!(f.run(&fragment(&unasked, 2, 0)), local);
    assert_eq!(f.run(&fragment(&unasked, 2, 3)), local);
    // The identification comes again, for another datagram.
    assert_eq!(f.run(&fragment(&unasked, 1, 0)), local);
    assert_eq!(f.run(&fragment(&unasked, 1, 3)), local);
}

/// A flow of a host that is translated.
fn flow(f: &mut Fixture) {
    f.add_flow(FlowKey4::new(SITE, WAN_ADDRESS, [0, 53], NAT_PORT.to_be_bytes(), 17));
}

#[test]
fn one_before_its_first_goes_where_the_last_first_between_its_addresses_went() {
    let mut f = Fixture::uplink("fragments-early");
    flow(&mut f);
    let (of_flow, unasked) =
        (udp(SITE, 53, WAN_ADDRESS, NAT_PORT), udp(SITE, 53, WAN_ADDRESS, 500));
    assert_eq!(f.run(&fragment(&of_flow, 1, 0)), TRANSIT);
    assert_eq!(f.run(&fragment(&of_flow, 2, 3)), TRANSIT);
    let other = udp([9, 9, 9, 9], 53, WAN_ADDRESS, NAT_PORT);
    assert_eq!(f.run(&fragment(&other, 2, 3)), LOCAL, "of another source");
    assert_eq!(f.run(&fragment(&unasked, 3, 0)), LOCAL);
    assert_eq!(f.run(&fragment(&of_flow, 4, 3)), LOCAL);
    assert_eq!(f.run(&fragment(&of_flow, 5, 0)), TRANSIT);
    assert_eq!(f.run(&fragment(&of_flow, 6, 3)), TRANSIT);
}

#[test]
fn where_no_kernel_waits_workers_get_a_datagrams_worth_of_strangers_fragments_in_a_tick() {
    for address in [OWN, POOL] {
        let mut f = Fixture::uplink("fragments-flood");
        let later = fragment(&udp(SITE, 53, address, 5000), 1, 3);
        let counted = [TRANSIT, UNASKED].map(|(_, counter)| counter);
        let program: &mut Xdp = f.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
        let options =
            TestRunOptions { data_in: Some(&later), repeat: RUNS, ..TestRunOptions::default() };
        program.test_run(options).unwrap();
        let [waited, refused] = counted.map(|counter| f.counters.sum(counter));
        assert_eq!(waited + refused, RUNS.into());
        assert!(waited >= PATIENCE && refused > 0, "{waited} of {RUNS}");
    }
}
