//! UDP (RFC 768).

use crate::checksum;
use crate::parse::{Error, get, part, put};

/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Length of the header.
pub const HEADER_LEN: usize = 8;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Source port.
    pub const SPORT: usize = 0;
    /// Destination port.
    pub const DPORT: usize = 2;
    /// Length.
    pub const LEN: usize = 4;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}

/// A datagram: header and data. What the IP payload holds beyond the stated length is ignored.
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

    /// A view of a whole datagram. Jumbograms (RFC 2675: length 0) are refused.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`]; [`Error::Malformed`] when the stated length is below 8.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let packet = Self { buffer };
        let len = packet.buffer.as_ref().len();
        if len < HEADER_LEN {
            return Err(Error::Truncated);
        }
        let stated = usize::from(packet.len());
        if stated < HEADER_LEN {
            return Err(Error::Malformed);
        }
        if len < stated {
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

    /// Length of header and data, in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a header field, not a collection's size")]
    pub fn len(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::LEN))
    }

    /// Checksum, as on the wire; zero: the sender computed none.
    #[inline]
    pub fn checksum(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// The data.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        part(self.buffer.as_ref(), HEADER_LEN..usize::from(self.len()))
    }

    /// Whether the checksum is right or absent, given the sum of the pseudo-header. Whether it may
    /// be absent over IPv6 (RFC 6936) is the receiver's business.
    #[inline]
    pub fn verify_checksum(&self, pseudo_header: u16) -> bool {
        self.checksum() == [0; 2] || checksum::is_valid(self.sum(pseudo_header))
    }

    #[inline]
    fn sum(&self, pseudo_header: u16) -> u16 {
        let datagram = part(self.buffer.as_ref(), 0..usize::from(self.len()));
        checksum::add(pseudo_header, checksum::sum(datagram))
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

    /// Sets the length of header and data, in bytes.
    #[inline]
    pub fn set_len(&mut self, len: u16) {
        put(self.buffer.as_mut(), field::LEN, len.to_be_bytes());
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        put(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Computes the checksum, given the sum of the pseudo-header; never zero.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo_header: u16) {
        self.set_checksum([0; 2]);
        let sum = self.sum(pseudo_header);
        self.set_checksum(checksum::finish_udp(sum));
    }
}
