//! Internet checksum arithmetic: sums (RFC 1071), pseudo-headers, and changes to a sum (RFC 1624).
//!
//! A *sum* here is the folded one's complement sum of big-endian 16-bit words, not complemented;
//! what a header carries is its complement ([`finish`]). Data that contains its own checksum sums
//! to `0xFFFF` ([`is_valid`]).

use core::ops::Add;

/// Folds a wide accumulator into 16 bits with end-around carry (RFC 1071 §1).
#[inline]
const fn fold(wide: u64) -> u16 {
    let wide = (wide & 0xffff_ffff) + (wide >> 32);
    let wide = (wide & 0xffff) + (wide >> 16 & 0xffff) + (wide >> 32);
    // At most 0x1_FFFE by now: one more fold carries no further.
    ((wide & 0xffff) + (wide >> 16)) as u16
}

/// One's complement addition of two sums.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// As [`add`], for accumulators.
#[inline]
const fn add_wide(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Sum of `data`; an odd last byte is the high half of a word (RFC 1071 §1).
#[inline]
pub fn sum(data: &[u8]) -> u16 {
    // Summed in memory order and swapped once at the end: RFC 1071 §2(B).
    let (words, rest) = data.as_chunks::<8>();
    let mut total: u64 = 0;
    for word in words {
        total = add_wide(total, u64::from_ne_bytes(*word));
    }
    let (four, rest) = match rest.split_first_chunk() {
        Some((bytes, rest)) => (u32::from_ne_bytes(*bytes), rest),
        None => (0, rest),
    };
    let (two, rest) = match rest.split_first_chunk() {
        Some((bytes, rest)) => (u16::from_ne_bytes(*bytes), rest),
        None => (0, rest),
    };
    let one = match rest {
        [byte] => u16::from_ne_bytes([*byte, 0]),
        _ => 0,
    };
    total = add_wide(total, u64::from(four) + u64::from(two) + u64::from(one));
    u16::from_be(fold(total))
}

/// The checksum field that makes data with this sum (field taken as zero) valid.
#[inline]
pub const fn finish(sum: u16) -> [u8; 2] {
    (!sum).to_be_bytes()
}

/// As [`finish`], for UDP: a computed zero is sent as `0xFFFF`, because zero says "no checksum"
/// (RFC 768; RFC 8200 §8.1).
#[inline]
pub const fn finish_udp(sum: u16) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        field => field,
    }
}

/// Whether data that includes its checksum field (and its pseudo-header, if it has one) is intact.
#[inline]
pub const fn is_valid(sum: u16) -> bool {
    sum == 0xffff
}

/// Sum of the IPv4 pseudo-header (RFC 768, RFC 9293 §3.1). `len` counts transport header and data,
/// in bytes.
#[inline]
pub fn pseudo4(src: [u8; 4], dst: [u8; 4], proto: u8, len: u16) -> u16 {
    let addresses = u64::from(u32::from_be_bytes(src)) + u64::from(u32::from_be_bytes(dst));
    fold(addresses + u64::from(proto) + u64::from(len))
}

/// Sum of the IPv6 pseudo-header (RFC 8200 §8.1). `len` counts upper-layer header and data, in
/// bytes.
#[inline]
pub fn pseudo6(src: &[u8; 16], dst: &[u8; 16], proto: u8, len: u32) -> u16 {
    let addresses = u64::from(add(src.sum(), dst.sum()));
    fold(addresses + u64::from(proto) + u64::from(len))
}

/// A header field that starts on an even offset. Integers are in host order, arrays as on the wire.
pub trait Field: Copy {
    /// Sum of the field's 16-bit words.
    fn sum(self) -> u16;
}

impl Field for u16 {
    #[inline]
    fn sum(self) -> u16 {
        self
    }
}

impl Field for u32 {
    #[inline]
    fn sum(self) -> u16 {
        fold(u64::from(self))
    }
}

impl Field for u64 {
    #[inline]
    fn sum(self) -> u16 {
        fold(self)
    }
}

impl Field for [u8; 2] {
    #[inline]
    fn sum(self) -> u16 {
        u16::from_be_bytes(self)
    }
}

impl Field for [u8; 4] {
    #[inline]
    fn sum(self) -> u16 {
        u32::from_be_bytes(self).sum()
    }
}

impl Field for [u8; 16] {
    #[inline]
    fn sum(self) -> u16 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self;
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        add(fold(high), fold(low))
    }
}

/// A change to a sum: the `~m + m'` of RFC 1624 §3, over any number of fields.
///
/// Changes add up in any order. "No change" is always 0, never the other zero of one's complement,
/// so it leaves a checksum's bytes alone, and a checksum that was wrong stays wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// One off the TTL in an IPv4 header, where it is the high byte of its word (RFC 1141).
    pub const TTL_DECREMENT: Self = Self(!0x0100);

    /// A field's change from `old` to `new`.
    #[inline]
    pub fn of<F: Field>(old: F, new: F) -> Self {
        Self::from_raw(add(!old.sum(), new.sum()))
    }

    /// A delta kept as a number, as flow entries do.
    #[inline]
    pub const fn from_raw(raw: u16) -> Self {
        if raw == 0xffff { Self::NONE } else { Self(raw) }
    }

    /// The number to keep: host order, `0..=0xFFFE`.
    #[inline]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// The checksum field after the change (RFC 1624 eqn. 3: `HC' = ~(~HC + ~m + m')`), for IPv4
    /// headers, TCP and ICMP.
    #[inline]
    pub const fn apply(self, field: [u8; 2]) -> [u8; 2] {
        finish(add(!u16::from_be_bytes(field), self.0))
    }

    /// As [`apply`](Self::apply), for UDP: zero means that the sender computed none and stays zero
    /// (RFC 768; over IPv6 RFC 6935 §5), a result of zero becomes `0xFFFF`.
    #[inline]
    pub const fn apply_udp(self, field: [u8; 2]) -> [u8; 2] {
        match field {
            [0, 0] => field,
            _ => finish_udp(add(!u16::from_be_bytes(field), self.0)),
        }
    }
}

impl Add for Delta {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self::from_raw(add(self.0, other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_worked_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn an_odd_byte_is_the_high_half_of_its_word() {
        assert_eq!(sum(&[0x12]), 0x1200);
        assert_eq!(sum(&[0, 0, 0, 0, 0, 0, 0, 1, 0x12]), 0x1201);
    }

    #[test]
    fn applies_the_worked_example_of_rfc_1624() {
        assert_eq!(Delta::of(0x5555u16, 0x3285).apply([0xdd, 0x2f]), [0, 0]);
    }

    #[test]
    fn no_change_is_zero_and_keeps_the_bytes() {
        let delta = Delta::of([192, 0, 2, 1], [192, 0, 2, 1]);
        assert_eq!(delta, Delta::NONE);
        for field in [[0, 0], [0xff, 0xff], [0x12, 0x34]] {
            assert_eq!(delta.apply(field), field);
            assert_eq!(delta.apply_udp(field), field);
        }
    }

    #[test]
    fn a_ttl_decrement_is_the_same_change_at_every_ttl() {
        for ttl in 1..=255u8 {
            assert_eq!(Delta::of([ttl, 17], [ttl - 1, 17]), Delta::TTL_DECREMENT);
        }
    }

    #[test]
    fn udp_keeps_no_checksum_and_never_makes_one_up() {
        assert_eq!(Delta::of(1u16, 2).apply_udp([0, 0]), [0, 0]);
        // ~0xDD2F + ~0x5555 + 0x3285 is 0xFFFF: the RFC 1624 example, whose plain result is zero.
        assert_eq!(Delta::of(0x5555u16, 0x3285).apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
        assert_eq!(finish_udp(0xffff), [0xff, 0xff]);
    }
}
