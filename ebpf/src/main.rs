//! The XDP program: counts every packet and leaves it to the kernel.
#![no_std]
#![no_main]

#[cfg(not(target_arch = "bpf"))]
compile_error!("the XDP program is built for bpfel-unknown-none only: run scripts/ebpf-build");

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    btf_maps::PerCpuArray,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

#[btf_map]
static PACKETS: PerCpuArray<u64, 1> = PerCpuArray::new();

#[xdp]
fn weir(_: XdpContext) -> u32 {
    if let Some(packets) = PACKETS.get_ptr_mut(0) {
        // SAFETY: the slot is this CPU's own, and XDP does not nest on a CPU.
        unsafe { *packets = (*packets).wrapping_add(1) };
    }
    XDP_PASS
}

// Helpers that the kernel keeps for GPL-compatible programs need this; MIT is compatible.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked: the verifier would refuse the loop, so a panic that stays in the code is found
/// when the program is loaded.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
