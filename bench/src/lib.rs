//! The measurements of weir, their report, and the demonstration.
//!
//! A measurement returns a [`section::Section`]: figures for programs and for people. Those in
//! namespaces build their sites with [`weir_kit`] and need root; those in [`memory`] need nothing.

#![forbid(unsafe_code)]

pub mod adopt;
pub mod balance;
pub mod compare;
pub mod demo;
pub mod failover;
pub mod flood;
pub mod footprint;
pub mod ip_version;
pub mod latency;
pub mod machine;
pub mod memory;
pub mod new_flows;
pub mod noise;
pub mod pipeline;
pub mod plot;
pub mod publication;
pub mod report;
pub mod rest;
pub mod section;
pub mod setup;
pub mod teardown;
pub mod update;
