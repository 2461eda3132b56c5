//! The engine in memory: a gateway without devices, driven packet by packet.

mod failover;
mod forwarding;
mod gateway;
mod homing;
mod incomplete;
mod ipv6;
mod observations;
mod robustness;
mod spoofing;
mod unasked;
mod workers;
