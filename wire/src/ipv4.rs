//! IPv4 (RFC 791).

use crate::checksum;
use crate::parse::{Error, get, part, put};

/// Length of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of a packet that every host takes (RFC 791 §3.1).
pub const MIN_MTU: usize = 576;

/// More fragments follow; a bit of the fragment word.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// Not to be fragmented; a bit of the fragment word.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// The offset in the fragment word, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Version, header length in words of 4 bytes.
    pub const VERSION_IHL: usize = 0;
    /// DSCP and ECN.
    pub const TOS: usize = 1;
    /// Total length.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const IDENT: usize = 4;
    /// Fragment flags and offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTOCOL: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
}

/// May a packet on a link come from this address? Not from "this network", the loopback network, a
/// group, or what is reserved (RFC 1812 §5.3.7).
#[inline]
pub const fn is_unicast(address: [u8; 4]) -> bool {
    !matches!(address[0], 0 | 127 | 224..)
}

/// A packet: header, options, payload; link-layer padding may follow.
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

    /// A view of a whole packet. The checksum is not looked at.
    ///
    /// # Errors
    ///
    /// As [`new_header`](Self::new_header), and [`Error::Truncated`] when `buffer` ends before the
    /// total length.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let packet = Self::new_header(buffer)?;
        if packet.buffer.as_ref().len() < usize::from(packet.total_len()) {
            return Err(Error::Truncated);
        }
        Ok(packet)
    }

    /// A view of a whole header whose payload may be cut short, as in ICMP errors.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`]; [`Error::Malformed`] when the version is not 4, the header length
    /// below 20, or the total length below the header length.
    #[inline]
    pub fn new_header(buffer: T) -> Result<Self, Error> {
        let packet = Self { buffer };
        let len = packet.buffer.as_ref().len();
        if len < HEADER_LEN {
            return Err(Error::Truncated);
        }
        let header_len = packet.header_len();
        if packet.version() != 4
            || header_len < HEADER_LEN
            || usize::from(packet.total_len()) < header_len
        {
            return Err(Error::Malformed);
        }
        if len < header_len {
            return Err(Error::Truncated);
        }
        Ok(packet)
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        let [byte] = get(self.buffer.as_ref(), at);
        byte
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), at))
    }

    /// IP version.
    #[inline]
    pub fn version(&self) -> u8 {
        self.byte(field::VERSION_IHL) >> 4
    }

    /// Length of the header with its options, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.byte(field::VERSION_IHL) & 0xf) * 4
    }

    /// Whether the header has options.
    #[inline]
    pub fn has_options(&self) -> bool {
        self.header_len() > HEADER_LEN
    }

    /// The options, padding included.
    #[inline]
    pub fn options(&self) -> &[u8] {
        part(self.buffer.as_ref(), HEADER_LEN..self.header_len())
    }

    /// Differentiated services code point (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.byte(field::TOS) >> 2
    }

    /// Explicit congestion notification (RFC 3168).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.byte(field::TOS) & 3
    }

    /// Length of header and payload, in bytes.
    #[inline]
    pub fn total_len(&self) -> u16 {
        self.word(field::TOTAL_LEN)
    }

    /// Identification, common to a packet's fragments.
    #[inline]
    pub fn ident(&self) -> u16 {
        self.word(field::IDENT)
    }

    /// Whether it must not be fragmented.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.word(field::FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// Whether more fragments follow.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.word(field::FRAGMENT) & MORE_FRAGMENTS != 0
    }

    /// Where this fragment's payload starts in the whole packet's, in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.word(field::FRAGMENT) & FRAGMENT_OFFSET) << 3
    }

    /// Whether this is less than a whole packet.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.word(field::FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.byte(field::TTL)
    }

    /// Protocol of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.byte(field::PROTOCOL)
    }

    /// Header checksum, as on the wire.
    #[inline]
    pub fn checksum(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> [u8; 4] {
        get(self.buffer.as_ref(), field::SRC)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> [u8; 4] {
        get(self.buffer.as_ref(), field::DST)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::is_valid(checksum::sum(part(self.buffer.as_ref(), 0..self.header_len())))
    }

    /// The payload, or what there is of it.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let data = self.buffer.as_ref();
        part(data, self.header_len()..data.len().min(usize::from(self.total_len())))
    }

    /// Pseudo-header sum of the payload, for its transport checksum.
    #[inline]
    pub fn pseudo_header(&self) -> u16 {
        let len = usize::from(self.total_len()).saturating_sub(self.header_len());
        checksum::pseudo4(self.src(), self.dst(), self.protocol(), len as u16)
    }
}

impl<T> Packet<T> {
    /// The buffer.
    #[inline]
    pub fn into_inner(self) -> T {
        self.buffer
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets version 4 and the header's length in bytes: a multiple of 4, `20..=60`.
    #[inline]
    pub fn set_header_len(&mut self, len: usize) {
        put(self.buffer.as_mut(), field::VERSION_IHL, [0x40 | (len / 4) as u8 & 0xf]);
    }

    /// Sets the differentiated services code point, `0..64`, and leaves ECN.
    #[inline]
    pub fn set_dscp(&mut self, dscp: u8) {
        let ecn = self.ecn();
        put(self.buffer.as_mut(), field::TOS, [dscp << 2 | ecn]);
    }

    /// Sets the length of header and payload, in bytes.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        put(self.buffer.as_mut(), field::TOTAL_LEN, len.to_be_bytes());
    }

    /// Sets the identification.
    #[inline]
    pub fn set_ident(&mut self, ident: u16) {
        put(self.buffer.as_mut(), field::IDENT, ident.to_be_bytes());
    }

    /// Sets the fragment word: [`DONT_FRAGMENT`], [`MORE_FRAGMENTS`] and offset in 8-byte units.
    #[inline]
    pub fn set_fragment(&mut self, word: u16) {
        put(self.buffer.as_mut(), field::FRAGMENT, word.to_be_bytes());
    }

    /// Sets the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        put(self.buffer.as_mut(), field::TTL, [ttl]);
    }

    /// Sets the protocol of the payload.
    #[inline]
    pub fn set_protocol(&mut self, protocol: u8) {
        put(self.buffer.as_mut(), field::PROTOCOL, [protocol]);
    }

    /// Sets the header checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        put(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, address: [u8; 4]) {
        put(self.buffer.as_mut(), field::SRC, address);
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, address: [u8; 4]) {
        put(self.buffer.as_mut(), field::DST, address);
    }

    /// Computes the header checksum.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum([0; 2]);
        let sum = checksum::sum(part(self.buffer.as_ref(), 0..self.header_len()));
        self.set_checksum(checksum::finish(sum));
    }

    /// The payload, or what there is of it.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let range =
            self.header_len()..self.buffer.as_ref().len().min(usize::from(self.total_len()));
        self.buffer.as_mut().get_mut(range).unwrap_or_default()
    }
}
