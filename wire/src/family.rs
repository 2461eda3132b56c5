//! Address families, as types: what of a flow depends on them, so that tables and what is built on
//! them are written once, and compiled for each.

use core::fmt::Debug;

use zerocopy::transmute;

use crate::hash::{flow4_words, flow6_words, hash2};
use crate::key::{FlowKey, FlowKey4, FlowKey6};
use crate::parse::{Parsed, Parsed6, Reject, parse, parse6};
use crate::plain::{Header, Ip4, Ip6, Packet};
use crate::rewrite::{Rewrite, apply4, apply6, compile4, compile6, headers4, headers6};
use crate::words::Frame;
use crate::{checksum, ethernet, icmp, icmpv6, ipv4, ipv6, quoted};
use weir_layout::control::{IpAddress, PathId};
use weir_layout::flow::StateOwner;

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family.
pub trait Family: sealed::Sealed + Copy + Eq + Debug + Send + Sync + 'static {
    /// An address, network order.
    type Address: IpAddress;
    /// A key or a rewrite as 64-bit words in memory order: addresses first, ports in the last.
    type Words: Copy + Eq + Debug + Default + AsRef<[u64]> + AsMut<[u64]>;
    /// An IP header as words.
    type Header: Header<Words = Self::Words>;

    /// The family as an index.
    const FAMILY: weir_layout::Family;
    /// Number of [words](Self::Words).
    const WORDS: usize;
    /// What frames say that carry it, host order.
    const ETHERTYPE: u16;
    /// Bytes of a packet that every host takes.
    const MIN_MTU: usize;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;
    /// ICMP type: echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type: echo reply.
    const ECHO_REPLY: u8;
    /// ICMP type and code: time to live exceeded in transit.
    const TIME_EXCEEDED: [u8; 2];
    /// ICMP type and code: too big, with the next hop's MTU.
    const TOO_BIG: [u8; 2];

    /// An address in 32 bits: itself, or a keyed hash of it.
    fn digest(secret: [u64; 2], address: &Self::Address) -> u32;

    /// An address in 32 bits, without a key.
    fn fold(address: &Self::Address) -> u32;

    /// Does an ICMP error of this type tell of another way, or to slow down?
    fn is_advice(kind: u8) -> bool;

    /// May a packet that is forwarded come from this address?
    fn is_unicast(address: &Self::Address) -> bool;

    /// The words of a source, a destination, and what stands behind them.
    fn join(addresses: [Self::Address; 2], last: u64) -> Self::Words;

    /// What [`Self::join`] put together.
    fn split(words: &Self::Words) -> ([Self::Address; 2], u64);

    /// The hash of a key's words; [`tags`](weir_layout::tags) says where it leads.
    fn hash(secret: [u64; 2], words: &Self::Words) -> u64;

    /// The rewrite that turns packets of flow `from` into packets of flow `to`, with its deltas.
    fn compile(from: &FlowKey<Self>, to: &FlowKey<Self>) -> Rewrite<Self::Address>;

    /// Where a frame's headers are, and which flow it is of.
    fn parse(frame: &[u8]) -> Result<Parsed<Self>, Reject>;

    /// Sum of the pseudo-header that the protocol's checksum covers; `len` counts its header and
    /// data.
    fn pseudo(src: &Self::Address, dst: &Self::Address, proto: u8, len: u16) -> u16;

    /// Rewrites the headers of a plain packet whose IP header is at `l3`. `None`: they are not all
    /// there.
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet<Self>,
        new: Self::Words,
    ) -> Option<()>;

    /// Rewrites a packet, and takes one off its time to live. `transport` is its protocol, one that
    /// flows have; `None` for a fragment that carries no transport header. A packet without all of
    /// its headers is left alone.
    fn apply(
        frame: &mut [u8],
        p: &Parsed<Self>,
        transport: Option<u8>,
        new: &Rewrite<Self::Address>,
    );

    /// Writes a header, without options, of a packet with so many bytes behind it.
    fn put_header(
        header: &mut [u8],
        src: &Self::Address,
        dst: &Self::Address,
        proto: u8,
        payload: usize,
    );

    /// Gives a header other addresses, and perhaps another time to live; a checksum is made right.
    fn readdress(header: &mut [u8], src: &Self::Address, dst: &Self::Address, ttl: Option<u8>);

    /// The key of the packet at the beginning of what an ICMP error quotes, see [`quoted`].
    fn quoted(quoted: &[u8]) -> Option<FlowKey<Self>>;

    /// An uplink's path in the family.
    #[inline]
    fn path(uplink: u8) -> PathId {
        PathId::new(uplink, Self::FAMILY)
    }

    /// The rewrite's words.
    #[inline]
    fn rewrite_words(rewrite: &Rewrite<Self::Address>) -> Self::Words {
        let ([a, b], [c, d]) = (rewrite.l3_delta.to_ne_bytes(), rewrite.l4_delta.to_ne_bytes());
        let ports = [rewrite.sport, rewrite.dport];
        Self::join([rewrite.src, rewrite.dst], meta(ports, [a, b, c, d]))
    }

    /// The rewrite whose words these are.
    #[inline]
    fn rewrite(words: &Self::Words) -> Rewrite<Self::Address> {
        let ([src, dst], last) = Self::split(words);
        let ([sport, dport], [a, b, c, d]) = parts_of_meta(last);
        let (l3_delta, l4_delta) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        Rewrite { src, dst, sport, dport, l3_delta, l4_delta }
    }
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

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Address = [u8; 4];
    type Words = [u64; 2];
    type Header = Ip4;

    const FAMILY: weir_layout::Family = weir_layout::Family::V4;
    const WORDS: usize = 2;
    const ETHERTYPE: u16 = ethernet::IPV4;
    const MIN_MTU: usize = ipv4::MIN_MTU;
    const ICMP: u8 = icmp::PROTOCOL;
    const ECHO_REQUEST: u8 = icmp::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmp::ECHO_REPLY;
    const TIME_EXCEEDED: [u8; 2] = [icmp::TIME_EXCEEDED, 0];
    const TOO_BIG: [u8; 2] = [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED];

    #[inline]
    fn digest(_: [u64; 2], address: &[u8; 4]) -> u32 {
        u32::from_be_bytes(*address)
    }

    #[inline]
    fn fold(address: &[u8; 4]) -> u32 {
        u32::from_ne_bytes(*address)
    }

    #[inline]
    fn is_advice(kind: u8) -> bool {
        matches!(kind, icmp::REDIRECT | icmp::SOURCE_QUENCH)
    }

    #[inline]
    fn is_unicast(address: &[u8; 4]) -> bool {
        ipv4::is_unicast(*address)
    }

    #[inline]
    fn join(addresses: [[u8; 4]; 2], last: u64) -> [u64; 2] {
        [transmute!(addresses), last]
    }

    #[inline]
    fn split([addresses, last]: &[u64; 2]) -> ([[u8; 4]; 2], u64) {
        (transmute!(*addresses), *last)
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 2]) -> u64 {
        flow4_words(secret, *words)
    }

    #[inline]
    fn compile(from: &FlowKey4, to: &FlowKey4) -> Rewrite<[u8; 4]> {
        compile4(from, to)
    }

    #[inline(always)]
    fn parse(frame: &[u8]) -> Result<Parsed, Reject> {
        parse(frame)
    }

    /// ICMP has none (RFC 792).
    #[inline]
    fn pseudo(src: &[u8; 4], dst: &[u8; 4], proto: u8, len: u16) -> u16 {
        if proto == icmp::PROTOCOL { 0 } else { checksum::pseudo4(*src, *dst, proto, len) }
    }

    #[inline(always)]
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet,
        new: [u64; 2],
    ) -> Option<()> {
        let [_, _, third, ..] = packet.ip.0;
        headers4(frame, l3, packet.ip.proto(), third, new)
    }

    #[inline]
    fn apply(frame: &mut [u8], p: &Parsed, transport: Option<u8>, new: &Rewrite<[u8; 4]>) {
        apply4(frame, p.l3.into(), transport, new);
    }

    fn put_header(header: &mut [u8], src: &[u8; 4], dst: &[u8; 4], proto: u8, payload: usize) {
        let mut ip = ipv4::Packet::new_unchecked(header);
        ip.set_header_len(ipv4::HEADER_LEN);
        ip.set_total_len((ipv4::HEADER_LEN + payload) as u16);
        ip.set_protocol(proto);
        Self::readdress(ip.into_inner(), src, dst, Some(TTL));
    }

    fn readdress(header: &mut [u8], src: &[u8; 4], dst: &[u8; 4], ttl: Option<u8>) {
        let mut ip = ipv4::Packet::new_unchecked(header);
        ip.set_src(*src);
        ip.set_dst(*dst);
        ip.set_ttl(ttl.unwrap_or(ip.ttl()));
        ip.fill_checksum();
    }

    #[inline]
    fn quoted(quoted: &[u8]) -> Option<FlowKey4> {
        quoted::key(quoted.first_chunk()?)
    }
}

impl Family for V6 {
    type Address = [u8; 16];
    type Words = [u64; 5];
    type Header = Ip6;

    const FAMILY: weir_layout::Family = weir_layout::Family::V6;
    const WORDS: usize = 5;
    const ETHERTYPE: u16 = ethernet::IPV6;
    const MIN_MTU: usize = ipv6::MIN_MTU;
    const ICMP: u8 = icmpv6::PROTOCOL;
    const ECHO_REQUEST: u8 = icmpv6::ECHO_REQUEST;
    const ECHO_REPLY: u8 = icmpv6::ECHO_REPLY;
    const TIME_EXCEEDED: [u8; 2] = [icmpv6::TIME_EXCEEDED, 0];
    const TOO_BIG: [u8; 2] = [icmpv6::PACKET_TOO_BIG, 0];

    #[inline]
    fn digest(secret: [u64; 2], address: &[u8; 16]) -> u32 {
        let [a, b]: [u64; 2] = transmute!(*address);
        hash2(secret, a, b) as u32
    }

    #[inline]
    fn fold(address: &[u8; 16]) -> u32 {
        let [a, b]: [u64; 2] = transmute!(*address);
        ((a ^ b) >> 32 ^ a ^ b) as u32
    }

    /// A redirect is no error (RFC 4861 §4.5).
    #[inline]
    fn is_advice(_: u8) -> bool {
        false
    }

    #[inline]
    fn is_unicast(address: &[u8; 16]) -> bool {
        ipv6::is_unicast(*address)
    }

    #[inline]
    fn join(addresses: [[u8; 16]; 2], last: u64) -> [u64; 5] {
        let [a, b, c, d]: [u64; 4] = transmute!(addresses);
        [a, b, c, d, last]
    }

    #[inline]
    fn split(words: &[u64; 5]) -> ([[u8; 16]; 2], u64) {
        let [a, b, c, d, last] = *words;
        (transmute!([a, b, c, d]), last)
    }

    #[inline]
    fn hash(secret: [u64; 2], words: &[u64; 5]) -> u64 {
        flow6_words(secret, *words)
    }

    fn compile(from: &FlowKey6, to: &FlowKey6) -> Rewrite<[u8; 16]> {
        compile6(from, to)
    }

    #[inline(always)]
    fn parse(frame: &[u8]) -> Result<Parsed6, Reject> {
        parse6(frame)
    }

    #[inline]
    fn pseudo(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u16) -> u16 {
        checksum::pseudo6(src, dst, proto, len.into())
    }

    #[inline(always)]
    fn headers(
        frame: &mut (impl Frame + ?Sized),
        l3: usize,
        packet: &Packet<Self>,
        new: [u64; 5],
    ) -> Option<()> {
        let [first, ..] = packet.ip.0;
        headers6(frame, [l3, l3 + ipv6::HEADER_LEN], packet.ip.proto(), first >> 32, new)
    }

    #[inline]
    fn apply(frame: &mut [u8], p: &Parsed6, transport: Option<u8>, new: &Rewrite<[u8; 16]>) {
        apply6(frame, [p.l3.into(), p.l4.into()], transport, new);
    }

    fn put_header(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16], proto: u8, payload: usize) {
        let mut ip = ipv6::Packet::new_unchecked(header);
        ip.set_traffic_class(0);
        ip.set_payload_len(payload as u16);
        ip.set_next_header(proto);
        Self::readdress(ip.into_inner(), src, dst, Some(TTL));
    }

    fn readdress(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16], ttl: Option<u8>) {
        let mut ip = ipv6::Packet::new_unchecked(header);
        ip.set_src(*src);
        ip.set_dst(*dst);
        ip.set_hop_limit(ttl.unwrap_or(ip.hop_limit()));
    }

    #[inline]
    fn quoted(quoted: &[u8]) -> Option<FlowKey6> {
        quoted::key6(quoted.first_chunk()?)
    }
}

/// Time to live of the gateway's own packets.
const TTL: u8 = 64;

/// The word of two ports and four bytes: protocol, flags, state and owner, and uplink; or deltas.
pub(crate) const fn meta([[a, b], [c, d]]: [[u8; 2]; 2], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// What [`meta`] put together.
pub(crate) const fn parts_of_meta(meta: u64) -> ([[u8; 2]; 2], [u8; 4]) {
    let [a, b, c, d, e, f, g, h] = meta.to_ne_bytes();
    ([[a, b], [c, d]], [e, f, g, h])
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
    use zerocopy::FromBytes;

    use super::*;

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

    #[test]
    fn every_part_of_a_key_is_in_its_hash() {
        let words: [u64; 5] = transmute!(bytes::<40>());
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
