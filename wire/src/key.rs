//! What the packets of a direction of a flow are matched by.

use core::fmt;

use crate::family::{Family, V4, V6, meta, parts_of_meta};

/// The match key of a direction: its packets' own fields, as received. Messages of echo have
/// [something else](echo_ports) for ports.
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

    /// The key of packets that answer those of this one: an echo request's of replies, and the
    /// reverse.
    #[inline]
    pub fn reversed(&self) -> Self {
        let ([src, dst], [sport, dport], proto) = self.parts();
        if proto == F::ICMP {
            let [_, kind] = dport;
            let [sport, dport] = echo_ports(kind ^ F::ECHO_REQUEST ^ F::ECHO_REPLY, sport);
            return Self::new(dst, src, sport, dport, proto);
        }
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

/// What stands for ports in the key of an echo message: its identifier, and its type.
///
/// Both ends of a flow send the same identifier, so only the type tells a reply from a request that the
/// other end makes with it. The identifier as port of the asking end alone, with zero at the other,
/// would not: zero is an identifier too.
#[inline(always)]
pub const fn echo_ports(kind: u8, ident: [u8; 2]) -> [[u8; 2]; 2] {
    [ident, [0, kind]]
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

    fn a_request_and_its_replies_answer_each_other<F: Family>(ends: [F::Address; 2]) {
        let key = |[src, dst]: [F::Address; 2], kind, ident| {
            let [sport, dport] = echo_ports(kind, ident);
            FlowKey::<F>::new(src, dst, sport, dport, F::ICMP)
        };
        let back = [ends[1], ends[0]];
        for ident in [[0; 2], [0, 8], [0x12, 0x34]] {
            let request = key(ends, F::ECHO_REQUEST, ident);
            let reply = key(back, F::ECHO_REPLY, ident);
            assert_eq!((request.reversed(), reply.reversed()), (reply, request));
            assert_ne!(request.reversed(), key(back, F::ECHO_REQUEST, ident));
            assert_ne!(reply.reversed(), key(ends, F::ECHO_REPLY, ident));
        }
    }

    #[test]
    fn a_request_and_its_replies_answer_each_other_and_nothing_else() {
        a_request_and_its_replies_answer_each_other::<V4>([[1; 4], [2; 4]]);
        a_request_and_its_replies_answer_each_other::<V6>([[1; 16], [2; 16]]);
    }
}
