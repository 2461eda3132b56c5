//! The keyed hash of flow keys, the same in both tiers.
//!
//! Two multiply-and-fold rounds over the two words of a [`FlowKey4`](crate::key::FlowKey4), each keyed
//! with half of a secret drawn at boot. It is no cryptographic hash; it need not be one: a search
//! looks at four groups whatever the hash does, so the worst that chosen tuples could reach is a
//! refused flow, and without the key they cannot choose. 64-bit multiplication only, because the BPF
//! machine has no wider one.

const M1: u64 = 0xff51_afd7_ed55_8ccd;
const M2: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Mixes two words under a key.
#[inline]
pub const fn hash2(key: [u64; 2], a: u64, b: u64) -> u64 {
    let mut h = (a ^ key[0]).wrapping_mul(M1);
    h ^= h >> 32;
    h = (h ^ b ^ key[1]).wrapping_mul(M2);
    h ^= h >> 29;
    h = h.wrapping_mul(M1);
    h ^ (h >> 32)
}

/// An IPv6 address, given its words, in 32 bits that are to be mixed further: [`hash2`] without its
/// last round.
#[inline]
pub const fn digest6(key: [u64; 2], [a, b]: [u64; 2]) -> u32 {
    let h = (a ^ key[0]).wrapping_mul(M1);
    ((h ^ h >> 32 ^ b ^ key[1]).wrapping_mul(M2) >> 32) as u32
}

/// Hash of an IPv6 flow key's words.
#[inline]
pub const fn flow6_words(key: [u64; 2], words: [u64; 5]) -> u64 {
    let [a, b, c, d, e] = words;
    let src = hash2(key, a, b);
    hash2(key, hash2(key, src ^ c, d), e)
}

/// Hash of an IPv4 flow key's words.
#[inline]
pub const fn flow4_words(key: [u64; 2], words: [u64; 2]) -> u64 {
    hash2(key, words[0], words[1])
}
