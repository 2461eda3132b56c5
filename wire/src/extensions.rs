//! Extension headers of IPv6 (RFC 8200 §4). What they say is for others; a flow is known by what
//! stands behind them.
//!
//! They come in any order, but for hop-by-hop options, which come first (§4.1). Nothing is walked
//! past the fragment header of a later fragment: data follows. Authentication, ESP, mobility and
//! the like are protocols here: nothing of a flow is found behind them.

use crate::ipv6::{
    DESTINATION_OPTIONS, FRAGMENT, FRAGMENT_OFFSET, HOP_BY_HOP, MORE_FRAGMENTS, ROUTING,
};
use crate::parse::Reject;
use crate::words::Source;

/// Headers of a packet that are walked at most. RFC 8200 §4.1 has five of these in one packet.
pub const MAX: usize = 8;

/// What the length of each header is a multiple of, bytes.
const UNIT: u32 = 8;

/// Where the extension headers of a packet end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Protocol of what follows.
    pub proto: u8,
    /// Where that begins, bytes from the frame's start.
    pub l4: u16,
    /// The fragment header, if there is one.
    pub fragment: Option<Fragment>,
}

/// A fragment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification, host order.
    pub ident: u32,
    /// Offset zero.
    pub first: bool,
    /// And none follow: an atomic fragment, which has nothing to do with others of its identification
    /// (RFC 6946 §4).
    pub whole: bool,
}

/// Is a next header walked past?
#[inline(always)]
pub const fn is_walked(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Walks the headers of a packet that ends at `end`; the first is at `at`, and of type `next`.
/// `None` where there are more than [`MAX`] of them, hop-by-hop options that are not first, two
/// fragment headers, or a routing header of type 0 (RFC 5095).
///
/// # Errors
///
/// [`Reject::Truncated`]: the packet ends before its headers do, as a first fragment may not
/// (RFC 7112 §5).
#[inline(always)]
pub fn walk(
    frame: &(impl Source + ?Sized),
    next: u8,
    at: u16,
    end: u16,
) -> Result<Option<Chain>, Reject> {
    let mut chain = Chain { proto: next, l4: at, fragment: None };
    for walked in 0..MAX {
        if !is_walked(chain.proto) {
            return Ok(Some(chain));
        }
        let [next, len, third, fourth, ident @ ..] =
            frame.bytes::<8>(chain.l4).ok_or(Reject::Truncated)?;
        let mut units = u32::from(len) + 1;
        match chain.proto {
            HOP_BY_HOP if walked != 0 => return Ok(None),
            ROUTING if third == 0 => return Ok(None),
            FRAGMENT if chain.fragment.is_some() => return Ok(None),
            FRAGMENT => {
                let word = u16::from_be_bytes([third, fourth]);
                let first = word & FRAGMENT_OFFSET == 0;
                let whole = word & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0;
                chain.fragment = Some(Fragment { ident: u32::from_be_bytes(ident), first, whole });
                units = 1;
            }
            _ => {}
        }
        let behind = u32::from(chain.l4) + units * UNIT;
        if behind > end.into() {
            return Err(Reject::Truncated);
        }
        (chain.proto, chain.l4) = (next, behind as u16);
        if chain.fragment.is_some_and(|fragment| !fragment.first) {
            return Ok(Some(chain));
        }
    }
    Ok((!is_walked(chain.proto)).then_some(chain))
}

/// What [`walk`] said as one word, which is all that a BPF function returns; see [`from_word`].
#[inline(always)]
pub const fn to_word(walked: Result<Option<Chain>, Reject>) -> u64 {
    match walked {
        Err(_) => TRUNCATED,
        Ok(None) => REFUSED,
        Ok(Some(Chain { proto, l4, fragment })) => {
            let (kind, ident) = match fragment {
                None => (WHOLE, 0),
                Some(Fragment { ident, whole: true, .. }) => (ATOMIC, ident),
                Some(Fragment { ident, first: true, .. }) => (FIRST, ident),
                Some(Fragment { ident, .. }) => (LATER, ident),
            };
            kind | (proto as u64) << 8 | (l4 as u64) << 16 | (ident as u64) << 32
        }
    }
}

/// What [`walk`] said.
///
/// # Errors
///
/// As of [`walk`].
#[inline(always)]
pub const fn from_word(word: u64) -> Result<Option<Chain>, Reject> {
    let (proto, l4, ident) = ((word >> 8) as u8, (word >> 16) as u16, (word >> 32) as u32);
    let fragment = match word & 0xff {
        TRUNCATED => return Err(Reject::Truncated),
        REFUSED => return Ok(None),
        WHOLE => None,
        kind => Some(Fragment { ident, first: kind != LATER, whole: kind == ATOMIC }),
    };
    Ok(Some(Chain { proto, l4, fragment }))
}

const TRUNCATED: u64 = 0;
const REFUSED: u64 = 1;
const WHOLE: u64 = 2;
const FIRST: u64 = 3;
const LATER: u64 = 4;
const ATOMIC: u64 = 5;
