//! TCP (RFC 9293).

use crate::checksum;
use crate::parse::{Error, get, part, put};

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Length of a header without options.
pub const HEADER_LEN: usize = 20;

/// Bits of the flags byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Offsets of the fields, in bytes.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Sequence number.
    pub const SEQ: usize = 4;
    /// Acknowledgement number.
    pub const ACK: usize = 8;
    /// Header length in words of 4 bytes, in the high half.
    pub const DATA_OFFSET: usize = 12;
    /// Flags.
    pub const FLAGS: usize = 13;
    /// Window.
    pub const WINDOW: usize = 14;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
}

/// What may be under way in a direction, bytes: so far a segment may end from where its direction
/// has come to, or be behind the other in what it acknowledges. Farther off, it is nobody's who
/// knows the connection.
pub const REACH: u32 = 1 << 26;

/// What mostly is under way in a direction, bytes. Numbers that are guessed fit a connection whose
/// one direction they need only reach seldom enough if they must be as near as this in the other.
pub const NEAR: u32 = 1 << 20;

/// Is a number at most so far behind one that is known, or [`NEAR`] ahead of it?
#[inline(always)]
pub const fn is_near(number: u32, known: u32, behind: u32) -> bool {
    number.wrapping_sub(known).wrapping_add(behind) <= behind + NEAR
}

/// What a segment is to its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It goes on from what was seen.
    New,
    /// It would, but for a hole of at most [`REACH`]: see [`Segment::follow`].
    Beyond,
    /// All of it was seen: it was sent again, or overtaken.
    Again,
    /// Farther off than [`REACH`].
    Outside,
}

/// Where a segment stands in the stream of its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sequence number after its last.
    pub end: u32,
    /// How many it has.
    pub numbers: u32,
    /// Has it data?
    pub has_data: bool,
}

impl Segment {
    /// A segment with `len` bytes of data; SYN and FIN take a number each (RFC 9293 §3.4).
    #[inline(always)]
    pub const fn new(seq: u32, len: u32, flags: u8) -> Self {
        let syn = (flags & flag::SYN != 0) as u32;
        let fin = (flags & flag::FIN != 0) as u32;
        let numbers = len.wrapping_add(syn).wrapping_add(fin);
        Self { end: seq.wrapping_add(numbers), numbers, has_data: len != 0 }
    }

    /// What it is, where `next` is the end of all before it.
    #[inline(always)]
    pub const fn place(&self, next: u32) -> Place {
        let ahead = self.end.wrapping_sub(next);
        if ahead.wrapping_sub(1) < self.numbers {
            Place::New
        } else if ahead.wrapping_sub(1) < REACH {
            Place::Beyond
        } else if ahead.wrapping_neg() < REACH {
            Place::Again
        } else {
            Place::Outside
        }
    }

    /// As [`Self::place`], of a direction that has come to `next`; but one behind a hole is the
    /// connection's or not, by what it acknowledges, if anything. `peer` says what the other
    /// direction has come to. It is asked only about such segments: that is another cache line.
    #[inline(always)]
    pub fn follow(&self, next: u32, ack: Option<u32>, peer: impl FnOnce() -> Option<u32>) -> Place {
        let place = self.place(next);
        if place != Place::Beyond {
            return place;
        }
        match (ack, peer()) {
            (Some(ack), Some(peer)) if self.is_credible(next, ack, peer) => Place::New,
            _ => Place::Outside,
        }
    }

    /// Is a segment [beyond](Place::Beyond) `next` the connection's, by what it acknowledges of the
    /// other direction, which has come to `peer`? Who only guesses does not know that (RFC 5961
    /// §5.2). Behind a hole that is not large it may be behind by all that can be under way there.
    #[inline(always)]
    pub const fn is_credible(&self, next: u32, ack: u32, peer: u32) -> bool {
        let near = self.end.wrapping_sub(next) <= NEAR;
        is_near(ack, peer, if near { REACH } else { NEAR })
    }
}

/// Makes the greatest segment size that the options of a SYN name (RFC 9293 §3.7.1) at most `most`,
/// and the checksum right if it was. A segment without the option, or with one less, stays as it is.
pub fn clamp_mss(segment: &mut [u8], most: u16) {
    const MSS: u8 = 2;
    let end = Packet::new_unchecked(&*segment).header_len();
    let mut at = HEADER_LEN;
    while let Some(options) = segment.get(at..end) {
        match *options {
            [MSS, 4, high, low, ..] => {
                let (old, new) = ([high, low], most.to_be_bytes());
                if u16::from_be_bytes(old) > most {
                    put(segment, at + 2, new);
                    // At an odd place each byte is the other half of a word (RFC 1071 §2(B)).
                    let is_even = at.is_multiple_of(2);
                    let swapped = |[a, b]: [u8; 2]| if is_even { [a, b] } else { [b, a] };
                    let delta = checksum::Delta::of(swapped(old), swapped(new));
                    let mut packet = Packet::new_unchecked(&mut *segment);
                    packet.set_checksum(delta.apply(packet.checksum()));
                }
                // Of several Linux believes the last (`tcp_parse_options`, net/ipv4/tcp_input.c).
                at += 4;
            }
            [0, ..] | [] => return,
            [1, ..] => at += 1,
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return,
        }
    }
}

/// A segment: header, options, data. The buffer is exactly the IP payload.
#[derive(Clone, Copy, Debug)]
pub struct Packet<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// A view that getters read as zeros, and setters leave alone, past the end of `buffer`.
    #[inline]
    pub const fn new_unchecked(buffer: T) -> Self {
        Self { buffer }
    }

    /// A view of a segment whose header and options are all there.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`]; [`Error::Malformed`] when the data offset is below 20 bytes.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let packet = Self { buffer };
        let len = packet.buffer.as_ref().len();
        if len < HEADER_LEN {
            return Err(Error::Truncated);
        }
        if packet.header_len() < HEADER_LEN {
            return Err(Error::Malformed);
        }
        if len < packet.header_len() {
            return Err(Error::Truncated);
        }
        Ok(packet)
    }

    /// Source port, as on the wire.
    #[inline]
    pub fn sport(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::SPORT)
    }

    /// Destination port, as on the wire.
    #[inline]
    pub fn dport(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::DPORT)
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes(get(self.buffer.as_ref(), field::SEQ))
    }

    /// Acknowledgement number.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes(get(self.buffer.as_ref(), field::ACK))
    }

    /// Length of the header with its options, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        let [byte] = get(self.buffer.as_ref(), field::DATA_OFFSET);
        usize::from(byte >> 4) * 4
    }

    /// Bits of [`flag`].
    #[inline]
    pub fn flags(&self) -> u8 {
        let [byte] = get(self.buffer.as_ref(), field::FLAGS);
        byte
    }

    /// Window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::WINDOW))
    }

    /// Checksum, as on the wire.
    #[inline]
    pub fn checksum(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// The options, padding included.
    #[inline]
    pub fn options(&self) -> &[u8] {
        part(self.buffer.as_ref(), HEADER_LEN..self.header_len())
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.buffer.as_ref().get(self.header_len()..).unwrap_or(&[])
    }

    /// Whether the checksum is right, given the sum of the pseudo-header.
    #[inline]
    pub fn verify_checksum(&self, pseudo_header: u16) -> bool {
        checksum::is_valid(checksum::add(pseudo_header, checksum::sum(self.buffer.as_ref())))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the source port.
    #[inline]
    pub fn set_sport(&mut self, port: [u8; 2]) {
        put(self.buffer.as_mut(), field::SPORT, port);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dport(&mut self, port: [u8; 2]) {
        put(self.buffer.as_mut(), field::DPORT, port);
    }

    /// Sets the sequence number.
    #[inline]
    pub fn set_seq(&mut self, seq: u32) {
        put(self.buffer.as_mut(), field::SEQ, seq.to_be_bytes());
    }

    /// Sets the acknowledgement number.
    #[inline]
    pub fn set_ack(&mut self, ack: u32) {
        put(self.buffer.as_mut(), field::ACK, ack.to_be_bytes());
    }

    /// Sets the length of the header in bytes: a multiple of 4, `20..=60`.
    #[inline]
    pub fn set_header_len(&mut self, len: usize) {
        put(self.buffer.as_mut(), field::DATA_OFFSET, [((len / 4) as u8) << 4]);
    }

    /// Sets the bits of [`flag`].
    #[inline]
    pub fn set_flags(&mut self, flags: u8) {
        put(self.buffer.as_mut(), field::FLAGS, [flags]);
    }

    /// Sets the window.
    #[inline]
    pub fn set_window(&mut self, window: u16) {
        put(self.buffer.as_mut(), field::WINDOW, window.to_be_bytes());
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        put(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Computes the checksum, given the sum of the pseudo-header.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo_header: u16) {
        self.set_checksum([0; 2]);
        let sum = checksum::add(pseudo_header, checksum::sum(self.buffer.as_ref()));
        self.set_checksum(checksum::finish(sum));
    }
}
