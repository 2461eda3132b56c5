//! What the packets of a direction of a flow are matched by.

use core::fmt;

use crate::family::{Family, V4, V6, meta, parts_of_meta};

/// The match key of a direction: its packets' own fields, as received. ICMP queries carry the
/// identifier in both ports.
///
/// Kept as the words that it is hashed, compared and stored as, in memory order: addresses; ports and
/// protocol. A processor that has just stored single fields is slow to load them as one word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey<F: Family>(F::Words);

/// The key of an IPv4 direction.
pub type FlowKey4 = FlowKey<V4>;
/// The key of an IPv6 direction.
pub type FlowKey6 = FlowKey<V6>;

impl<F: Family> FlowKey<F> {
    /// The key of a packet with these addresses, ports and upper-layer protocol, in network order.
    #[inline]
    pub fn new(
        src: F::Address,
        dst: F::Address,
        sport: [u8; 2],
        dport: [u8; 2],
        proto: u8,
    ) -> Self {
        Self(F::join([src, dst], meta([sport, dport], [proto, 0, 0, 0])))
    }

    /// The key of these words, whatever stands above its protocol.
    #[inline]
    pub fn from_words(mut words: F::Words) -> Self {
        const KEY: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
        words.as_mut()[F::WORDS - 1] &= KEY;
        Self(words)
    }

    /// Its words.
    #[inline]
    pub fn words(&self) -> F::Words {
        self.0
    }

    /// Its hash; [`tags`](weir_layout::tags) says where it leads.
    #[inline]
    pub fn hash(&self, secret: [u64; 2]) -> u64 {
        F::hash(secret, &self.0)
    }

    /// The key of packets that answer those of this one.
    #[inline]
    pub fn reversed(&self) -> Self {
        let ([src, dst], [sport, dport], proto) = self.parts();
        Self::new(dst, src, dport, sport, proto)
    }

    /// Source and destination.
    #[inline]
    pub fn addresses(&self) -> [F::Address; 2] {
        self.parts().0
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> F::Address {
        self.addresses()[0]
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> F::Address {
        self.addresses()[1]
    }

    /// Source port, network order.
    #[inline]
    pub fn sport(&self) -> [u8; 2] {
        self.parts().1[0]
    }

    /// Destination port, network order.
    #[inline]
    pub fn dport(&self) -> [u8; 2] {
        self.parts().1[1]
    }

    /// Upper-layer protocol.
    #[inline]
    pub fn proto(&self) -> u8 {
        self.parts().2
    }

    #[inline]
    fn parts(&self) -> ([F::Address; 2], [[u8; 2]; 2], u8) {
        let (addresses, last) = F::split(&self.0);
        let (ports, [proto, ..]) = parts_of_meta(last);
        (addresses, ports, proto)
    }
}

const _: () = {
    // Words are compared as memory has them.
    let ports = meta([[9, 10], [11, 12]], [13, 0, 0, 0]);
    assert!(ports == u64::from_ne_bytes([9, 10, 11, 12, 13, 0, 0, 0]));
};

impl<F: Family> fmt::Debug for FlowKey<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([src, dst], [sport, dport], proto) = self.parts();
        let [sport, dport] = [sport, dport].map(u16::from_be_bytes);
        write!(f, "{proto} {src:?}:{sport} > {dst:?}:{dport}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_key_is_in_its_hash() {
        let bytes: [u8; 40] = core::array::from_fn(|at| at as u8 + 1);
        let words: [u64; 5] = zerocopy::transmute!(bytes);
        for bit in 0..320 {
            let mut other = words;
            other[bit / 64] ^= 1 << (bit % 64);
            assert_ne!(V6::hash([3, 5], &words), V6::hash([3, 5], &other));
        }
        let key = FlowKey6::from_words(words);
        assert_eq!(key.reversed().reversed(), key);
        assert_eq!(key.words()[..4], words[..4]);
    }
}
