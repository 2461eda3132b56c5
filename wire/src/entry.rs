//! A direction of a flow, as the flow table has it, whatever the family.

use weir_layout::flow::StateOwner;

use crate::family::{Family, meta, parts_of_meta};
use crate::key::FlowKey;
use crate::rewrite::Rewrite;

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

/// A direction of a flow, as its entry in the table says it: see
/// [`FlowEntry4`](weir_layout::flow::FlowEntry4) for what is not said here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<F: Family> {
    /// When a packet last took it, milliseconds.
    pub last_seen: u32,
    /// What its packets are matched by.
    pub key: FlowKey<F>,
    /// Bits of [`flag`](weir_layout::flow::flag).
    pub flags: u8,
    /// State and owner.
    pub state_owner: StateOwner,
    /// The uplink the flow is on.
    pub uplink: u8,
    /// What leaves.
    pub rewrite: Rewrite<F::Address>,
    /// Where it leaves to.
    pub adjacency: u16,
    /// Whom it comes from.
    pub mark: u16,
    /// Slot of the other direction.
    pub peer: u32,
    /// Packets forwarded; IPv6: zero.
    pub packets: u32,
    /// TCP: the sequence number after the last byte.
    pub next_seq: u32,
    /// Bytes forwarded.
    pub bytes: u64,
}

impl<F: Family> From<&EntryWords<F>> for Entry<F> {
    #[inline]
    fn from(words: &EntryWords<F>) -> Self {
        let (_, [_, flags, state_owner, uplink]) = parts_of_meta(words.key.as_ref()[F::WORDS - 1]);
        let (adjacency, mark, peer) = parts_of_out(words.out);
        Self {
            last_seen: words.last_seen,
            key: FlowKey::from_words(words.key),
            flags,
            state_owner: StateOwner::from_byte(state_owner),
            uplink,
            rewrite: F::rewrite(&words.rewrite),
            adjacency,
            mark,
            peer,
            packets: words.packets,
            next_seq: words.next_seq,
            bytes: words.bytes,
        }
    }
}

impl<F: Family> Entry<F> {
    /// The key of its packets when they leave.
    #[inline]
    pub fn translated(&self) -> FlowKey<F> {
        let Rewrite { src, dst, sport, dport, .. } = self.rewrite;
        FlowKey::new(src, dst, sport, dport, self.key.proto())
    }
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
    pub fn words<F: Family>(&self, from: &FlowKey<F>, to: &FlowKey<F>) -> EntryWords<F> {
        let mut key = from.words();
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

/// The word of adjacency, mark and peer.
const fn out(adjacency: u16, mark: u16, peer: u32) -> u64 {
    let ([a, b], [c, d]) = (adjacency.to_ne_bytes(), mark.to_ne_bytes());
    let [e, f, g, h] = peer.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// What [`out`] put together.
const fn parts_of_out(out: u64) -> (u16, u16, u32) {
    let [a, b, c, d, e, f, g, h] = out.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u32::from_ne_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use weir_layout::flow::FlowEntry4;
    use weir_layout::flow6::FlowEntry6;
    use zerocopy::{FromBytes, transmute};

    use super::*;
    use crate::family::{V4, V6};

    /// Bytes that are all different.
    fn bytes<const LEN: usize>() -> [u8; LEN] {
        core::array::from_fn(|at| at as u8 + 1)
    }

    #[test]
    fn the_words_of_an_entry_are_those_of_memory() {
        let memory: [u64; 8] = transmute!(bytes::<64>());
        let [_, a, b, c, d, out, _, bytes_] = memory;
        let entry4 = FlowEntry4::read_from_bytes(&bytes::<64>()).unwrap();
        let words = EntryWords::<V4> {
            last_seen: entry4.last_seen,
            key: [a, b],
            rewrite: [c, d],
            out,
            packets: entry4.packets,
            next_seq: entry4.next_seq,
            bytes: bytes_,
        };
        let entry = Entry::from(&words);
        let FlowEntry4 { src, dst, sport, dport, proto, .. } = entry4;
        assert_eq!(entry.key, FlowKey::new(src, dst, sport, dport, proto));
        assert_eq!(
            (entry.flags, entry.state_owner, entry.uplink),
            (entry4.flags, entry4.state_owner, entry4.uplink)
        );
        assert_eq!(
            (entry.adjacency, entry.mark, entry.peer, entry.bytes),
            (entry4.adjacency, entry4.mark, entry4.peer, entry4.bytes)
        );
        assert_eq!(V4::rewrite_words(&entry.rewrite), entry4.rewrite);

        let memory: [u64; 16] = transmute!(bytes::<128>());
        let entry6 = FlowEntry6::read_from_bytes(&bytes::<128>()).unwrap();
        let (key, out) = ([1, 2, 3, 4, 5].map(|at| memory[at]), memory[6]);
        let FlowEntry6 { last_seen, rewrite, next_seq, .. } = entry6;
        let words =
            EntryWords::<V6> { last_seen, key, rewrite, out, packets: 0, next_seq, bytes: 0 };
        let entry = Entry::from(&words);
        let FlowEntry6 { src, dst, sport, dport, proto, .. } = entry6;
        assert_eq!(entry.key, FlowKey::new(src, dst, sport, dport, proto));
        assert_eq!(
            (entry.flags, entry.state_owner, entry.uplink),
            (entry6.flags, entry6.state_owner, entry6.uplink)
        );
        assert_eq!(
            (entry.adjacency, entry.mark, entry.peer),
            (entry6.adjacency, entry6.mark, entry6.peer)
        );
        assert_eq!(V6::rewrite_words(&entry.rewrite), entry6.rewrite);
    }
}
