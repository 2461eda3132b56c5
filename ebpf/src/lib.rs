//! The XDP programs as user space sees them: their object files and the names inside.
//!
//! The programs themselves are this package's binaries, built for `bpfel-unknown-none` by
//! `scripts/ebpf-build`: `weir-xdp`, the gateway's, and `weir-traffic`, which makes and counts the
//! frames of measurements. Their stripped objects are committed as `prog/weir.o` and
//! `prog/traffic.o`, each next to a record of the tools that made it, so that an ordinary build
//! needs nothing but stable Rust.
#![no_std]

pub mod names;
#[cfg(not(target_arch = "bpf"))]
mod object;
pub mod traffic;

#[cfg(not(target_arch = "bpf"))]
pub use object::{OBJECT, TRAFFIC_OBJECT};
