//! What travels on the wire, and what becomes of it: packets, and flow entries applied to them.
//!
//! | module | what it is |
//! |---|---|
//! | [`family`] | what of a flow depends on its address family |
//! | [`key`], [`hash`] | what a flow is matched by, and its keyed hash |
//! | [`bucket`] | which uplink takes what is new |
//! | [`entry`] | a direction of a flow, as the table has it |
//! | [`plain`] | what the kernel tier forwards: the same flows, recognised word by word |
//! | [`forward`] | may such a packet leave at once? |
//! | [`stateless`] | packets that leave without a flow |
//! | [`rewrite`] | applying a compiled flow entry to a frame |
//! | [`extensions`] | where the extension headers of an IPv6 packet end |
//! | [`words`] | frame bytes as words, in either tier |
//! | [`npt`] | IPv6 prefix translation |
//! | [`protocol`] | which protocols flows have |
//! | others | a packet view per protocol, checksum arithmetic, the hot path's parser |
//!
//! The crate is `no_std`, has no `unsafe`, never allocates and never panics on any input: the XDP
//! program and the user tier are built from the same functions.
#![no_std]
#![forbid(unsafe_code)]

pub mod bucket;
pub mod checksum;
pub mod entry;
pub mod ethernet;
pub mod extensions;
pub mod family;
pub mod forward;
pub mod hash;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod key;
pub mod npt;
pub mod parse;
pub mod plain;
pub mod protocol;
pub mod quoted;
pub mod rewrite;
pub mod stateless;
pub mod tcp;
pub mod udp;
pub mod words;
