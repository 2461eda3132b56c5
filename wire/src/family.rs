//! Address families, as types: what of a flow depends on them, so that tables and what is built on
//! them are written once, and compiled for each.

use core::fmt::Debug;
use core::hash::Hash;

use zerocopy::transmute;

use crate::hash::{flow4_words, flow6_words, hash2};
use crate::rewrite::{compile4, compile6};
use crate::{icmp, icmpv6};
use weir_layout::flow::{FlowEntry4, FlowKey4, Rewrite4, StateOwner};
use weir_layout::flow6::{FlowEntry6, FlowKey6, Rewrite6};

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family.
pub trait Family: sealed::Sealed + Copy + Eq + Debug + Send + Sync + 'static {
    /// An address, network order.
    type Address: Copy + Eq + Debug;
    /// A key or a rewrite as 64-bit words in memory order: addresses first, ports in the last.
    type Words: Copy + Eq + Debug + Default + AsRef<[u64]> + AsMut<[u64]>;
    /// What a direction's packets are matched by.
    type Key: Copy + Eq + Hash + Debug;
    /// What they look like when they leave.
    type Rewrite: Copy + Eq + Debug;
    /// A direction in the flow table.
    type Entry: Copy + Eq + Debug;

    /// The family as an index.
    const FAMILY: weir_layout::Family;
    /// Number of [words](Self::Words).
    const WORDS: usize;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;

    /// The key of packets that answer those of `key`.
    fn reversed(key: &Self::Key) -> Self::Key;

    /// The key's protocol.
    fn proto(key: &Self::Key) -> u8;

    /// An address in 32 bits: itself, or a keyed hash of it.
    fn digest(secret: [u64; 2], address: &Self::Address) -> u32;

    /// The key as words.
    fn key_words(key: &Self::Key) -> Self::Words;

    /// The hash of a key's words; [`tags`](weir_layout::tags) says where it leads.
    fn hash(secret: [u64; 2], words: &Self::Words) -> u64;

    /// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
    fn compile(from: &Self::Key, to: &Self::Key) -> Self::Rewrite;

    /// The rewrite whose words these are.
    fn rewrite(words: Self::Words) -> Self::Rewrite;

    /// The source that a rewrite gives: address and port.
    fn source(rewrite: &Self::Rewrite) -> (Self::Address, [u8; 2]);

    /// The rewrite's words.
    fn rewrite_words(rewrite: &Self::Rewrite) -> Self::Words;

    /// An entry, but for its state.
    fn words(entry: &Self::Entry) -> EntryWords<Self>;

    /// The entry of these words.
    fn entry(state: u32, words: &EntryWords<Self>) -> Self::Entry;
}

/// A direction of a flow as words in memory order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryWords<F: Family> {
    /// When a packet last took it, milliseconds.
    pub last_seen: u32,
    /// The key; above its protocol flags, state and owner, and uplink.
    pub key: F::Words,
    /// What leaves.
    pub rewrite: F::Words,
    /// Adjacency, mark and peer.
    pub out: u64,
    /// Packets forwarded, where the family counts them.
    pub packets: u32,
    /// TCP: the sequence number after the last byte.
    pub next_seq: u32,
    /// Bytes forwarded.
    pub bytes: u64,
}

/// What a new direction's entry says besides its key and rewrite, whatever the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDirection {
    /// Bits of [`flag`](weir_layout::flow::flag).
    pub flags: u8,
    /// State and owner.
    pub state_owner: StateOwner,
    /// The uplink the flow is on.
    pub uplink: u8,
    /// Where it leaves to.
    pub adjacency: u16,
    /// Whom it comes from.
    pub mark: u16,
    /// Milliseconds.
    pub now: u32,
}

impl NewDirection {
    /// The direction that makes packets of `from` leave as those of `to`. It has no peer yet.
    #[inline]
    pub fn words<F: Family>(&self, from: &F::Key, to: &F::Key) -> EntryWords<F> {
        let mut key = F::key_words(from);
        key.as_mut()[F::WORDS - 1] |=
            meta([[0; 2]; 2], [0, self.flags, self.state_owner.byte(), self.uplink]);
        EntryWords {
            last_seen: self.now,
            key,
            rewrite: F::rewrite_words(&F::compile(from, to)),
            out: out(self.adjacency, self.mark, 0),
            packets: 0,
            next_seq: 0,
            bytes: 0,
        }
    }
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Address = [u8; 4];
    type Words = [u64; 2];
    type Key = FlowKey4;
    type Rewrite = Rewrite4;
    type Entry = FlowEntry4;

    const FAMILY: weir_layout::Family = weir_layout::Family::V4;
    const WORDS: usize = 2;
    const ICMP: u8 = icmp::PROTOCOL;

    #[inline]
    fn reversed(key: &FlowKey4) -> FlowKey4 {
        key.reversed()
    }

    #[inline]
    fn proto(key: &FlowKey4) -> u8 {
        key.proto
    }

    #[inline]
    fn digest(_: [u64; 2], address: &[u8; 4]) -> u32 {
        u32::from_be_bytes(*address)
    }

    #[inline]
    fn key_words(key: &FlowKey4) -> [u64; 2] {
        key.words()
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 2]) -> u64 {
        flow4_words(secret, *words)
    }

    #[inline]
    fn compile(from: &FlowKey4, to: &FlowKey4) -> Rewrite4 {
        compile4(from, to)
    }

    #[inline]
    fn rewrite(words: [u64; 2]) -> Rewrite4 {
        Rewrite4::from_words(words)
    }

    #[inline]
    fn source(rewrite: &Rewrite4) -> ([u8; 4], [u8; 2]) {
        (rewrite.src, rewrite.sport)
    }

    #[inline]
    fn rewrite_words(rewrite: &Rewrite4) -> [u64; 2] {
        rewrite.words()
    }

    fn words(e: &FlowEntry4) -> EntryWords<Self> {
        let addresses: u64 = transmute!([e.src, e.dst]);
        EntryWords {
            last_seen: e.last_seen,
            key: [
                addresses,
                meta([e.sport, e.dport], [e.proto, e.flags, e.state_owner.byte(), e.uplink]),
            ],
            rewrite: Self::rewrite_words(&e.rewrite),
            out: out(e.adjacency, e.mark, e.peer),
            packets: e.packets,
            next_seq: e.next_seq,
            bytes: e.bytes,
        }
    }

    #[inline]
    fn entry(state: u32, words: &EntryWords<Self>) -> FlowEntry4 {
        let [addresses, meta] = words.key;
        let [src, dst]: [[u8; 4]; 2] = transmute!(addresses);
        let [[a, b, c, d], [proto, flags, state_owner, uplink]]: [[u8; 4]; 2] = transmute!(meta);
        let (adjacency, mark, peer) = parts_of(words.out);
        FlowEntry4 {
            state,
            last_seen: words.last_seen,
            src,
            dst,
            sport: [a, b],
            dport: [c, d],
            proto,
            flags,
            state_owner: StateOwner::from_byte(state_owner),
            uplink,
            rewrite: Self::rewrite(words.rewrite),
            adjacency,
            mark,
            peer,
            packets: words.packets,
            next_seq: words.next_seq,
            bytes: words.bytes,
        }
    }
}

impl Family for V6 {
    type Address = [u8; 16];
    type Words = [u64; 5];
    type Key = FlowKey6;
    type Rewrite = Rewrite6;
    type Entry = FlowEntry6;

    const FAMILY: weir_layout::Family = weir_layout::Family::V6;
    const WORDS: usize = 5;
    const ICMP: u8 = icmpv6::PROTOCOL;

    #[inline]
    fn reversed(key: &FlowKey6) -> FlowKey6 {
        let FlowKey6 { src, dst, sport, dport, .. } = *key;
        FlowKey6 { src: dst, dst: src, sport: dport, dport: sport, ..*key }
    }

    #[inline]
    fn proto(key: &FlowKey6) -> u8 {
        key.proto
    }

    #[inline]
    fn digest(secret: [u64; 2], address: &[u8; 16]) -> u32 {
        let [a, b]: [u64; 2] = transmute!(*address);
        hash2(secret, a, b) as u32
    }

    #[inline]
    fn key_words(key: &FlowKey6) -> [u64; 5] {
        transmute!(*key)
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 5]) -> u64 {
        flow6_words(secret, *words)
    }

    fn compile(from: &FlowKey6, to: &FlowKey6) -> Rewrite6 {
        compile6(from, to)
    }

    #[inline]
    fn rewrite(words: [u64; 5]) -> Rewrite6 {
        transmute!(words)
    }

    #[inline]
    fn source(rewrite: &Rewrite6) -> ([u8; 16], [u8; 2]) {
        (rewrite.src, rewrite.sport)
    }

    #[inline]
    fn rewrite_words(rewrite: &Rewrite6) -> [u64; 5] {
        transmute!(*rewrite)
    }

    fn words(e: &FlowEntry6) -> EntryWords<Self> {
        let [a, b, c, d]: [u64; 4] = transmute!([e.src, e.dst]);
        let meta = meta([e.sport, e.dport], [e.proto, e.flags, e.state_owner.byte(), e.uplink]);
        EntryWords {
            last_seen: e.last_seen,
            key: [a, b, c, d, meta],
            rewrite: Self::rewrite_words(&e.rewrite),
            out: out(e.adjacency, e.mark, e.peer),
            packets: 0,
            next_seq: e.next_seq,
            bytes: u64::from(e.bytes_high) << 32 | u64::from(e.bytes_low),
        }
    }

    fn entry(state: u32, words: &EntryWords<Self>) -> FlowEntry6 {
        let [a, b, c, d, meta] = words.key;
        let [src, dst]: [[u8; 16]; 2] = transmute!([a, b, c, d]);
        let [[a, b, c, d], [proto, flags, state_owner, uplink]]: [[u8; 4]; 2] = transmute!(meta);
        let (adjacency, mark, peer) = parts_of(words.out);
        FlowEntry6 {
            state,
            last_seen: words.last_seen,
            src,
            dst,
            sport: [a, b],
            dport: [c, d],
            proto,
            flags,
            state_owner: StateOwner::from_byte(state_owner),
            uplink,
            adjacency,
            mark,
            peer,
            next_seq: words.next_seq,
            bytes_low: words.bytes as u32,
            rewrite: Self::rewrite(words.rewrite),
            bytes_high: (words.bytes >> 32) as u32,
            reserved: [0; 20],
        }
    }
}

/// The word of ports, protocol, flags, state and owner, and uplink.
const fn meta([[a, b], [c, d]]: [[u8; 2]; 2], [proto, flags, owner, uplink]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, proto, flags, owner, uplink])
}

/// The word of adjacency, mark and peer.
const fn out(adjacency: u16, mark: u16, peer: u32) -> u64 {
    let ([a, b], [c, d]) = (adjacency.to_ne_bytes(), mark.to_ne_bytes());
    let [e, f, g, h] = peer.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// What [`out`] put together.
const fn parts_of(out: u64) -> (u16, u16, u32) {
    let [a, b, c, d, e, f, g, h] = out.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u32::from_ne_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;

    /// Bytes that are all different.
    fn bytes<const LEN: usize>() -> [u8; LEN] {
        core::array::from_fn(|at| at as u8 + 1)
    }

    #[test]
    fn an_entry_is_what_its_words_say() {
        let entry = FlowEntry4::read_from_bytes(&bytes::<64>()).unwrap();
        assert_eq!(V4::entry(entry.state, &V4::words(&entry)), entry);
        let entry = FlowEntry6::read_from_bytes(&bytes::<128>()).unwrap();
        let entry = FlowEntry6 { reserved: [0; 20], ..entry };
        assert_eq!(V6::entry(entry.state, &V6::words(&entry)), entry);
    }

    #[test]
    fn the_words_of_an_entry_are_those_of_memory() {
        let entry = FlowEntry4::read_from_bytes(&bytes::<64>()).unwrap();
        let memory: [u64; 8] = transmute!(entry);
        let words = V4::words(&entry);
        assert_eq!([&words.key[..], &words.rewrite, &[words.out]].concat(), memory[1..6]);
        let entry = FlowEntry6::read_from_bytes(&bytes::<128>()).unwrap();
        let memory: [u64; 16] = transmute!(entry);
        let words = V6::words(&entry);
        assert_eq!([&words.key[..], &[words.out]].concat(), memory[1..7]);
        assert_eq!(words.rewrite, memory[8..13]);
    }

    #[test]
    fn every_part_of_a_key_is_in_its_hash() {
        let key = FlowKey6::read_from_bytes(&bytes::<40>()).unwrap();
        let words = V6::key_words(&key);
        for bit in 0..320 {
            let mut other = words;
            other[bit / 64] ^= 1 << (bit % 64);
            assert_ne!(V6::hash([3, 5], &words), V6::hash([3, 5], &other));
        }
        assert_eq!(V6::reversed(&V6::reversed(&key)), key);
    }
}
