//! The user tier: decides about flows and forwards what the kernel tier does not.
//!
//! | module | what it is |
//! |---|---|
//! | [`engine`] | batches of packets through the stages; no clock, no device, no system call |
//! | [`established`] | the next packet of an established flow, the fast path |
//! | [`steering`] | rules and buckets: which uplink a new flow gets |
//! | [`selection`] | which packets share a bucket |
//! | [`nat`] | addresses and ports |
//! | [`mappings`] | endpoint-independent mappings |
//! | [`flows`] | both directions of a flow, TCP state, timeouts |
//! | [`heavy`] | who has heavy flows |
//! | [`observer`] | new flows that nobody answers |
//! | [`services`] | who has answered lately, and so should answer |
//! | [`fragments`] | later fragments follow the first |
//! | [`early`] | those that came before it wait for it |
//! | [`icmp_error`] | ICMP errors about translated flows |
//! | [`answer`] | ICMP errors and TCP resets of the gateway's own |
//! | [`link`] | layer 2 on the way out |
//! | [`purpose`] | what hashes under the key of the boot are for |
//! | [`packet`] | the buffers and outputs that the engine is written against |
//! | [`permits`] | who may come in by a mapping |
//! | [`shares`] | what each host has of what all share |
//! | [`handoff`] | rings between workers |
//! | [`owner`] | who has a LAN address, by the kernel |
//! | [`worker`] | a thread: sockets, engine, expiry, heartbeat |
//! | [`allowance`] | what each source may begin while more comes than it can do |
//! | [`ports`] | its devices, by socket or by the transmitter |
//! | [`memory`] | its packet memory |
//! | [`command`] | what the main thread has workers do with a device's sockets |
//! | [`devices`] | the main thread's side: each device comes, goes and fails by itself |
//! | [`transmitter`] | a tap device, where sockets are a slow way out |
//! | [`ready`] | have all workers started? |
//! | [`attach`] | the XDP program on its devices |
#![forbid(unsafe_code)]

pub mod allowance;
pub mod answer;
pub mod attach;
pub mod command;
pub mod devices;
pub mod early;
pub mod engine;
pub mod established;
pub mod flows;
pub mod fragments;
pub mod handoff;
pub mod heavy;
pub mod icmp_error;
pub mod link;
pub mod mappings;
pub mod memory;
pub mod nat;
pub mod observer;
pub mod owner;
pub mod packet;
pub mod permits;
pub mod ports;
pub mod purpose;
pub mod ready;
pub mod selection;
pub mod services;
pub mod shares;
pub mod steering;
pub mod transmitter;
pub mod worker;
