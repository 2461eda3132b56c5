//! The XDP program as user space sees it: its object file and the names inside.
//!
//! The program itself is this package's binary `weir-xdp`, built for `bpfel-unknown-none` by
//! `scripts/ebpf-build`. Its stripped object is committed as `prog/weir.o` next to a record of the
//! tools that made it, so that an ordinary build needs nothing but stable Rust.
#![no_std]

pub mod names;
#[cfg(not(target_arch = "bpf"))]
mod object;

#[cfg(not(target_arch = "bpf"))]
pub use object::OBJECT;
