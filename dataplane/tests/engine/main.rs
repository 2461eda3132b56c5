//! The engine in memory: a gateway without devices, driven packet by packet.

mod carry;
mod conduct;
mod failover;
mod filter;
mod filtering;
mod forwarding;
mod fragments;
mod gateway;
mod homing;
mod icmp;
mod incomplete;
mod ipv6;
mod nat;
mod nat66;
mod npt;
mod observations;
mod packets6;
mod published;
mod robustness;
mod sequences;
mod source;
mod spoofing;
mod unasked;
mod unreachable;
mod workers;
