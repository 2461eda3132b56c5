//! Ports that hosts of LANs ask for: the Port Control Protocol, version 2 (RFC 6887), and the NAT Port
//! Mapping Protocol (RFC 6886). Datagrams and times go in, answers come out, and mappings go to
//! [`weir_ports`]; there is no clock and no socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`] | what is answered to a datagram, and what it changes |
//! | [`pcp`] | messages of PCP |
//! | [`nat_pmp`] | messages of NAT-PMP |
//! | [`announce`] | when hosts are told that their mappings may be no more |
//!
//! Of PCP there are MAP and ANNOUNCE, with the options PREFER_FAILURE and FILTER. A server may be
//! without PEER (RFC 6887 §12), and without THIRD_PARTY (§13.1).
#![forbid(unsafe_code)]

pub mod announce;
pub mod nat_pmp;
pub mod pcp;
pub mod server;

pub use server::{Answer, Server};

/// Where requests come to (RFC 6887 §19.1, RFC 6886 §3.1).
pub const SERVER_PORT: u16 = 5351;
/// Where hosts hear announcements.
pub const CLIENT_PORT: u16 = 5350;
