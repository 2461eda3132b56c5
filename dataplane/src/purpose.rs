//! What hashes under the key of the boot are for.

use weir_wire::hash::hash2;

/// What a hash is for, which is hashed with what it is of: purposes differ so that what falls
/// together for one does not for another. The first three decide what a restart must decide again:
/// they keep their numbers.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
    /// The bucket of a source, or of a source and a destination.
    Bucket = 0,
    /// The next bucket, when the uplink of the last one is out of use.
    NextBucket = 1,
    /// The address of an uplink's pool that a host has.
    Pool = 2,
    /// The mapping of an inside endpoint.
    Endpoint = 3,
    /// A pair of hosts with heavy flows.
    Pair = 4,
    /// The host that a new flow leads to, in a set of them.
    Remote = 5,
    /// A host's share of the connections that are watched.
    Share = 6,
    /// The host that a new flow is of, in a set of them.
    User = 7,
    /// A service that answers.
    Service = 8,
    /// The mapping of an outside endpoint.
    External = 9,
    /// A host that the kernel knows, in a set of them.
    KnownHost = 10,
    /// The worker that decides about an endpoint.
    Decider = 11,
    /// An address that the kernel is to be asked about, in a set of them.
    Question = 12,
}

impl Purpose {
    /// The hash of `word`.
    #[inline]
    pub const fn hash(self, key: [u64; 2], word: u64) -> u64 {
        hash2(key, word, self as u64)
    }

    /// The hash of an address behind a port.
    #[inline]
    pub const fn of_address(self, key: [u64; 2], port: u8, address: [u8; 4]) -> u64 {
        let [a, b, c, d] = address;
        self.hash(key, u64::from_be_bytes([0, 0, 0, port, a, b, c, d]))
    }
}
