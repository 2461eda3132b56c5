//! What the verifier makes of the program.

use aya::programs::Xdp;
use weir_ebpf::names;

use crate::fixture::Fixture;

/// Instructions that it looks at before it refuses a program (`BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u32 = 1_000_000;

/// Other kernels follow other paths: what is near the limit here may be beyond it there.
#[test]
fn the_program_takes_no_more_than_two_thirds_of_what_the_verifier_looks_at() {
    let mut f = Fixture::lan("verifier");
    let program: &mut Xdp = f.xdp.program_mut(names::PROGRAM).unwrap().try_into().unwrap();
    let looked_at = program.info().unwrap().verified_instruction_count();
    let looked_at = looked_at.expect("Linux 5.16 and later count them");
    println!("{looked_at} instructions");
    assert!(looked_at < LIMIT * 2 / 3, "{looked_at}");
}
