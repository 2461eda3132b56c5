//! The engine in memory: a gateway without devices, driven packet by packet.

mod failover;
mod forwarding;
mod gateway;
mod incomplete;
mod ipv6;
mod robustness;
mod spoofing;
mod unasked;
mod workers;
