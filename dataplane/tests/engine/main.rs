//! The engine in memory: a gateway without devices, driven packet by packet. One test has the XDP
//! program beside it, and needs root.

mod carry;
mod conduct;
mod early;
mod echo;
mod failover;
mod filter;
mod filtering;
mod forwarding;
mod fragments;
mod gateway;
mod hairpin;
mod homing;
mod icmp;
mod incomplete;
mod ipv6;
mod nat;
mod nat66;
mod nat_log;
mod npt;
mod observations;
mod outside;
mod packets6;
mod protocols;
mod published;
mod robustness;
mod sequences;
mod services;
mod sets;
mod source;
mod spoofing;
mod tcp_mapping;
mod tiers;
mod unasked;
mod unreachable;
mod workers;
