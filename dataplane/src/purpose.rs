//! What hashes under the key of the boot are for.

use std::net::IpAddr;

use weir_wire::family::{Family, V4, V6};
use weir_wire::hash::hash2;

use crate::fragments::FragmentKey;

/// What a hash is for, which is hashed with what it is of: purposes differ so that what falls
/// together for one does not for another. The first decides what the next process, perhaps of another
/// build, must decide again: it keeps its number. So do [`decider`], which is older, and what chooses
/// buckets (`wire/src/bucket.rs`), whose numbers are 0 and 1.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
pub enum Purpose {
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
    /// An address that the kernel is to be asked about, in a set of them.
    Question = 11,
    /// A datagram, whose fragments one worker puts in order.
    Datagram = 12,
    /// Who sends fragments that come before their first.
    Early = 13,
    /// A host that uplinks ask for, in a set of them.
    AskedHost = 14,
    /// A host and a server that agree on a protocol without ports.
    Agreed = 15,
}

impl Purpose {
    /// The hash of `word`.
    #[inline]
    pub const fn hash(self, key: [u64; 2], word: u64) -> u64 {
        hash2(key, word, self as u64)
    }

    /// The hash of an address behind a port.
    #[inline]
    pub fn of_address(self, key: [u64; 2], port: u8, address: IpAddr) -> u64 {
        let digest = match address {
            IpAddr::V4(address) => V4::digest(key, &address.octets()),
            IpAddr::V6(address) => V6::digest(key, &address.octets()),
        };
        self.hash(key, u64::from(port) << 32 | u64::from(digest))
    }
}

/// The worker of so many that decides about the flows of a UDP or ICMP endpoint, or about all to an
/// address of a protocol without ports. The protocol's number
/// stands for a purpose: the next process, perhaps of another build, must come to the same worker.
pub fn decider<F: Family>(
    key: [u64; 2],
    workers: u8,
    proto: u8,
    address: &F::Address,
    port: u16,
) -> u8 {
    let endpoint = u64::from(F::digest(key, address)) << 16 | u64::from(port);
    (hash2(key, endpoint, proto.into()) % u64::from(workers)) as u8
}

/// The worker of so many by which all fragments of a datagram go.
pub fn assembler<F: Family>(key: [u64; 2], workers: u8, datagram: &FragmentKey<F>) -> u8 {
    let digest = |address| u64::from(F::digest(key, address));
    let addresses = digest(&datagram.src) << 32 | digest(&datagram.dst);
    let hash = Purpose::Datagram.hash(key, hash2(key, addresses, datagram.ident.into()));
    (hash % u64::from(workers)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_next_process_decides_again_is_decided_as_before() {
        const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let deciders =
            [10, 11, 12, 13].map(|host| decider::<V4>(KEY, 32, 17, &[192, 0, 2, host], 5000));
        assert_eq!(deciders, [15, 3, 24, 7]);
        assert_eq!(Purpose::Pool.hash(KEY, 7) >> 48, 28_074);
    }
}
