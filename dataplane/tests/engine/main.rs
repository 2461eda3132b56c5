//! The engine in memory: a gateway without devices, driven packet by packet.

mod forwarding;
mod gateway;
mod robustness;
mod workers;
