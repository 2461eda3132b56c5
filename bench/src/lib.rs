//! Namespaces, traffic, scenarios and reports for tests, demo and benchmarks.
//!
//! A [`run::Run`] owns a set of named network namespaces and everything in them, and guarantees
//! that they vanish with it. A [`topology::Topology`] is a run laid out as a site: LAN hosts, a
//! gateway, providers and the Internet. Servers, clients and captures are real programs and real
//! sockets inside those namespaces. Everything here needs root.

#![forbid(unsafe_code)]

pub mod adopt;
pub mod balance;
pub mod capture;
pub mod cleanup;
pub mod clients;
pub mod compare;
pub mod demo;
pub mod dns;
pub mod failover;
pub mod footprint;
pub mod frame;
pub mod iperf;
pub mod latency;
pub mod limits;
pub mod line;
pub mod listeners;
pub mod long_flows;
pub mod machine;
pub mod memory;
pub mod moments;
pub mod netns;
pub mod new_flows;
pub mod nginx;
pub mod noise;
pub mod pests;
pub mod pipeline;
pub mod plan;
pub mod plot;
pub mod probed;
pub mod process;
pub mod quic;
pub mod random;
pub mod report;
pub mod rest;
pub mod run;
pub mod section;
pub mod server;
pub mod setup;
pub mod station;
pub mod tcp_load;
pub mod teardown;
pub mod topology;
pub mod udp_flows;
pub mod update;
pub mod wait;
pub mod weir;
pub mod witness;
