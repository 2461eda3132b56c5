//! Sites of network namespaces with real traffic, for end-to-end tests and measurements.
//!
//! A [`run::Run`] owns a set of named network namespaces and everything in them, and guarantees
//! that they vanish with it. A [`topology::Topology`] is a run laid out as a site: LAN hosts, a
//! gateway, providers and the Internet. [`weir::Weir`] is the product on that gateway. Servers,
//! clients and captures are real programs and real sockets inside those namespaces;
//! [`traffic::Traffic`] sends frames without any, as many as the kernel takes. Everything here
//! needs root.

#![forbid(unsafe_code)]

pub mod capture;
pub mod cleanup;
pub mod clients;
pub mod delegation;
pub mod dns;
pub mod extended;
pub mod frame;
pub mod iperf;
pub mod ipv6;
pub mod limits;
pub mod line;
pub mod listeners;
pub mod long_flows;
pub mod moments;
pub mod netns;
pub mod nginx;
pub mod pests;
pub mod plan;
pub mod probed;
pub mod process;
pub mod quic;
pub mod random;
pub mod raw;
pub mod run;
pub mod server;
pub mod slaac;
pub mod station;
pub mod tcp_load;
pub mod topology;
pub mod traffic;
pub mod udp_flows;
pub mod wait;
pub mod weir;
pub mod witness;
