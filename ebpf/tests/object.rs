//! The committed object, loaded into the running kernel and run there.

use std::os::unix::fs::MetadataExt;

use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{TestRun, TestRunOptions, Xdp},
};
use weir_ebpf::{OBJECT, names};

/// `XDP_PASS` of `enum xdp_action`, include/uapi/linux/bpf.h.
const XDP_PASS: u32 = 2;

/// Loads the object and its program.
fn load() -> Ebpf {
    let uid = std::fs::metadata("/proc/self").expect("/proc must be mounted").uid();
    assert_eq!(uid, 0, "loading a BPF program needs root: run this test as root");
    // Where the kernel refuses the BTF, aya goes on without and the first map then gives EINVAL.
    let mut ebpf = Ebpf::load(OBJECT).expect("load the object (EINVAL of a map: BTF refused)");
    program(&mut ebpf).load().expect("load the program");
    ebpf
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(names::PROGRAM)
        .expect("the object has the program")
        .try_into()
        .expect("the program is XDP")
}

fn packets(ebpf: &Ebpf) -> u64 {
    let map = ebpf.map(names::PACKETS).expect("the object has the map");
    let map: PerCpuArray<_, u64> = map.try_into().expect("the map is a per-CPU array of u64");
    map.get(&0, 0).expect("the map has slot 0").iter().sum()
}

#[test]
fn object_is_aligned_for_an_elf_header() {
    assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
}

#[test]
fn every_packet_is_passed_unchanged_and_counted() {
    let mut ebpf = load();
    assert_eq!(packets(&ebpf), 0);

    let frame: [u8; 60] = std::array::from_fn(|i| i as u8);
    let mut out = [0; 256];
    let options = TestRunOptions {
        data_in: Some(&frame),
        data_out: Some(&mut out),
        repeat: 1000,
        ..TestRunOptions::default()
    };
    let run = program(&mut ebpf).test_run(options).expect("run the program");

    assert_eq!(run.return_value, XDP_PASS);
    assert_eq!(out[..run.data_size_out as usize], frame);
    assert_eq!(packets(&ebpf), 1000);
}
