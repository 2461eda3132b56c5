//! The frame generator.

use std::process::Command;

use weir_bench::compare::System;
use weir_bench::compare::site::{Kind, shortest};
use weir_kit::ipv6::Mode;
use weir_kit::process::Process;
use weir_layout::Family;

/// Enough for several tenths of a second, however fast the machine.
const FRAMES: u32 = 1 << 23;

#[test]
fn a_generator_that_signals_interrupt_sends_every_frame() {
    let site = &mut System::None.prepare(Kind::V4, 64).unwrap().site;
    let own = std::process::id();
    // A stop reaches every thread once the first has obeyed it.
    let stops = format!("while sleep 0.2; do kill -STOP {own}; sleep 0.05; kill -CONT {own}; done");
    let _stops = Process::spawn(Command::new("sh").args(["-c", &stops])).unwrap();
    let call = site.traffic.blast(FRAMES).unwrap();
    assert!(call.runs > 1, "no signal came in {:?}", call.time);
    assert_eq!(call.sent, u64::from(FRAMES));
}

#[test]
fn frames_of_both_families_are_counted_where_they_arrive() {
    for kind in [Kind::V4, Kind::Inbound, Kind::V6(Mode::None)] {
        // Each flow has been to the far side and back.
        let site = &mut System::None.prepare(kind, 64).unwrap().site;
        let before = site.traffic.far().unwrap();
        site.aim(shortest(kind.family()), 0).unwrap();
        let call = site.traffic.blast(1000).unwrap();
        let packets = site.settle(|traffic| Ok(traffic.far()?.packets)).unwrap();
        assert_eq!((call.sent, packets - before.packets), (1000, 1000));
        let far = site.traffic.far().unwrap();
        let bytes = if kind.family() == Family::V4 { 60 } else { 72 };
        assert_eq!((far.packets - before.packets, far.bytes - before.bytes), (1000, 1000 * bytes));
    }
}
