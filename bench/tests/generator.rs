//! The frame generator.

use std::process::Command;

use weir_bench::compare::System;
use weir_kit::process::Process;

/// Enough for several tenths of a second, however fast the machine.
const FRAMES: u32 = 1 << 23;

#[test]
fn a_generator_that_signals_interrupt_sends_every_frame() {
    let site = &mut System::None.prepare(64).unwrap().site;
    let own = std::process::id();
    // A stop reaches every thread once the first has obeyed it.
    let stops = format!("while sleep 0.2; do kill -STOP {own}; sleep 0.05; kill -CONT {own}; done");
    let _stops = Process::spawn(Command::new("sh").args(["-c", &stops])).unwrap();
    let call = site.traffic.blast(FRAMES).unwrap();
    assert!(call.runs > 1, "no signal came in {:?}", call.time);
    assert_eq!(call.sent, u64::from(FRAMES));
}
