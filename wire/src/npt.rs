//! Prefix translation of IPv6 (NPTv6, RFC 6296): an address of one prefix for one of another, whose
//! one's complement sum is the same.
//!
//! The sum of a pseudo-header with it is the same too, so that no checksum of any protocol changes.
//! A function of the address alone: nothing is kept, and the way back is the same function.

use weir_layout::control::PathPrefix;

use crate::checksum::add;

/// Words of 16 bits in an address.
const WORDS: usize = 8;
/// The word of the subnet, which is adjusted under prefixes of up to 48 bits (RFC 6296 §3.4).
const SUBNET: usize = 3;
/// The first word of the interface identifier.
const IDENTIFIER: usize = 4;
/// Zero in one's complement, beside 0: nothing adjusted is left so, or there would be two addresses
/// for one.
const NEGATIVE_ZERO: u16 = 0xffff;

/// Why an address has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untranslatable {
    /// It is not of the prefix, or of a part of it for which the other prefix has no room.
    Prefix,
    /// Its subnet is 0xffff, under a prefix of up to 48 bits (RFC 6296 §3.2).
    Subnet,
    /// Its interface identifier is all zeros, or all ones (RFC 6296 §3.7).
    Identifier,
}

/// What is added to an address that leaves `inside` for `outside`; both without host bits, and of
/// at most 64 bits. Host order.
pub fn adjustment(inside: [u8; 16], outside: [u8; 16]) -> u16 {
    let sum = |prefix| words(prefix).into_iter().fold(0, add);
    add(sum(inside), !sum(outside))
}

/// The outside address of an inside one.
///
/// # Errors
///
/// See [`Untranslatable`].
pub fn outward(pair: &PathPrefix, address: [u8; 16]) -> Result<[u8; 16], Untranslatable> {
    let outside = translate(pair, pair.inside, pair.outside, pair.adjustment, address)?;
    if is_short(pair) && words(address)[SUBNET] == NEGATIVE_ZERO {
        return Err(Untranslatable::Subnet);
    }
    Ok(outside)
}

/// The inside address of an outside one.
///
/// # Errors
///
/// See [`Untranslatable`].
pub fn inward(pair: &PathPrefix, address: [u8; 16]) -> Result<[u8; 16], Untranslatable> {
    translate(pair, pair.outside, pair.inside, !pair.adjustment, address)
}

fn translate(
    pair: &PathPrefix,
    from: [u8; 16],
    to: [u8; 16],
    adjustment: u16,
    address: [u8; 16],
) -> Result<[u8; 16], Untranslatable> {
    // The shorter prefix goes on in zeros up to the length of the longer (RFC 6296 §3.7).
    let host = u128::MAX.checked_shr(len(pair).into()).unwrap_or(0);
    let [address, from, to] = [address, from, to].map(u128::from_be_bytes);
    if (address ^ from) & !host != 0 {
        return Err(Untranslatable::Prefix);
    }
    let mut words = words((to | address & host).to_be_bytes());
    let at = if is_short(pair) { SUBNET } else { identifier(&words)? };
    let word = &mut words[at];
    *word = match add(*word, adjustment) {
        NEGATIVE_ZERO => 0,
        sum => sum,
    };
    Ok(bytes(words))
}

/// The word of the interface identifier that is adjusted.
fn identifier(words: &[u16; WORDS]) -> Result<usize, Untranslatable> {
    let identifier = &words[IDENTIFIER..];
    if identifier.iter().all(|word| *word == 0) {
        return Err(Untranslatable::Identifier);
    }
    let free = identifier.iter().position(|word| *word != NEGATIVE_ZERO);
    free.map(|at| IDENTIFIER + at).ok_or(Untranslatable::Identifier)
}

/// Length of the longer prefix, bits.
const fn len(pair: &PathPrefix) -> u8 {
    if pair.inside_len > pair.outside_len { pair.inside_len } else { pair.outside_len }
}

const fn is_short(pair: &PathPrefix) -> bool {
    len(pair) <= 48
}

fn words(address: [u8; 16]) -> [u16; WORDS] {
    let (pairs, _) = address.as_chunks::<2>();
    core::array::from_fn(|at| u16::from_be_bytes(pairs[at]))
}

fn bytes(words: [u16; WORDS]) -> [u8; 16] {
    core::array::from_fn(|at| words[at / 2].to_be_bytes()[at % 2])
}
