//! Which of a policy's buckets a packet falls into; the bucket names its uplink.
//!
//! Both tiers come to the same bucket, and so does the next process, perhaps of another build.

use weir_layout::control::Selection;

use crate::hash::hash2;

/// Buckets looked at, where the first name uplinks that cannot be had: one that has just gone down,
/// before the control process publishes buckets without it, or one that may not carry the source.
pub const TRIES: usize = 16;

/// What a hash is for; other purposes have other numbers (`dataplane/src/purpose.rs`).
const BUCKET: u64 = 0;
const NEXT_BUCKET: u64 = 1;

/// What a bucket is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// [Digests](crate::family::Family::digest) of source and destination.
    pub addresses: [u32; 2],
    /// IP protocol.
    pub proto: u8,
    /// Source port in the upper half, destination port in the lower, host order; ICMP echo: its
    /// identifier in both. Zero where there are none, and of fragments, of which one alone has them.
    pub ports: u32,
}

/// The hash that leads to the bucket under a [`Selection`].
#[inline(always)]
pub const fn hash(key: [u64; 2], selection: u8, fields: &Fields) -> u64 {
    const FLOW: u8 = Selection::Flow as u8;
    const SOURCE: u8 = Selection::Source as u8;
    let Fields { addresses: [source, destination], proto, ports } = *fields;
    let addresses = word(source, destination);
    match selection {
        FLOW => hash2(key, addresses, word(proto as u32, ports)),
        SOURCE => hash2(key, word(source, 0), BUCKET),
        _ => hash2(key, addresses, BUCKET),
    }
}

/// The hash where all that a host of a LAN sends goes one way, given the word of its adjacency
/// ([`Selection::Host`]).
#[inline]
pub const fn hash_of_host(key: [u64; 2], host: u64) -> u64 {
    hash2(key, host, BUCKET)
}

/// The bucket.
#[inline(always)]
pub const fn of(hash: u64) -> u16 {
    (hash >> 48) as u16
}

/// The hash that leads to the bucket to look at next.
#[inline(always)]
pub const fn next(key: [u64; 2], hash: u64) -> u64 {
    hash2(key, hash, NEXT_BUCKET)
}

const fn word(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_next_process_decides_again_is_decided_as_before() {
        const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let fields = Fields { addresses: [0, 7], proto: 17, ports: 0 };
        assert_eq!(of(hash(KEY, Selection::SourceDestination as u8, &fields)), 54_233);
        assert_eq!(of(next(KEY, 7)), 62_033);
    }
}
