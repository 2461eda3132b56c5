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
/// Where protocols stand, and is none.
const LABELLED: u32 = 1 << 8;

/// What a bucket is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// [Digests](crate::family::Family::digest) of source and destination.
    pub addresses: [u32; 2],
    /// IP protocol.
    pub proto: u8,
    /// Source port in the upper half, destination port in the lower, host order, or what
    /// [stands for them](crate::key::echo_ports). Zero where there are none, and of fragments, of
    /// which one alone has them.
    pub ports: u32,
    /// [Flow label](crate::plain::Header::label); 0 of what has none.
    pub label: u32,
    /// The word of the sender's adjacency ([`Adjacency`](weir_layout::adjacency::Adjacency)).
    pub host: u64,
}

/// The hash that leads to the bucket under a [`Selection`].
#[inline(always)]
pub const fn hash(key: [u64; 2], selection: Selection, fields: &Fields) -> u64 {
    let Fields { addresses: [source, destination], proto, ports, label, host } = *fields;
    let addresses = word(source, destination);
    match selection {
        Selection::FlowLabel if label != 0 => hash2(key, addresses, word(LABELLED, label)),
        Selection::Flow | Selection::FlowLabel => hash2(key, addresses, word(proto as u32, ports)),
        Selection::SourceDestination => hash2(key, addresses, BUCKET),
        Selection::Source => hash2(key, word(source, 0), BUCKET),
        Selection::Host => hash2(key, host, BUCKET),
    }
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
        let fields = Fields { addresses: [0, 7], proto: 17, ports: 0, label: 0, host: 0 };
        assert_eq!(of(hash(KEY, Selection::SourceDestination, &fields)), 54_233);
        assert_eq!(of(next(KEY, 7)), 62_033);
    }

    #[test]
    fn a_flow_label_stands_for_ports_and_what_has_none_goes_by_those() {
        const KEY: [u64; 2] = [1, 2];
        let by = |selection: Selection, ports, label| {
            let fields = Fields { addresses: [3, 7], proto: 17, ports, label, host: 0 };
            hash(KEY, selection, &fields)
        };
        let (label, flow) = (Selection::FlowLabel, Selection::Flow);
        assert_eq!(by(label, 1, 5), by(label, 2, 5));
        assert_ne!(by(label, 1, 5), by(label, 1, 6));
        assert_eq!(by(label, 1, 0), by(flow, 1, 0));
        assert_eq!(by(flow, 1, 5), by(flow, 1, 6));
        assert_ne!(by(label, 1, 1), by(flow, 1, 1));
    }
}
