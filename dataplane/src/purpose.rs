//! What hashes under the key of the boot are for: the second word of each that has room for it.
//!
//! Purposes differ so that what falls together for one does not for another. The first three decide
//! what a restart must decide again: they keep their numbers.

/// The bucket of a source, or of a source and a destination.
pub const BUCKET: u64 = 0;
/// The next bucket, when the uplink of the last one is out of use.
pub const NEXT_BUCKET: u64 = 1;
/// The address of an uplink's pool that a host has.
pub const POOL: u64 = 2;
/// The mapping of an inside endpoint.
pub const ENDPOINT: u64 = 3;
/// A pair of hosts with heavy flows.
pub const PAIR: u64 = 4;
/// The host that a new flow leads to, in a set of them.
pub const REMOTE: u64 = 5;
/// A host's share of the connections that are watched.
pub const SHARE: u64 = 6;
/// The host that a new flow is of, in a set of them.
pub const USER: u64 = 7;
/// A service that answers.
pub const SERVICE: u64 = 8;
/// The mapping of an outside endpoint.
pub const EXTERNAL: u64 = 9;
/// A host that the kernel knows, in a set of them.
pub const ACQUAINTANCE: u64 = 10;
