//! ICMP for IPv4 (RFC 792).

use crate::checksum;
use crate::parse::{Error, get, put};

/// IP protocol number.
pub const PROTOCOL: u8 = 1;
/// Length of the header, the four bytes that depend on the type included.
pub const HEADER_LEN: usize = 8;

/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench, deprecated by RFC 6633.
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of [`UNREACHABLE`]: too big, with the next hop's MTU (RFC 1191).
pub const FRAGMENTATION_NEEDED: u8 = 4;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Type.
    pub const KIND: usize = 0;
    /// Code.
    pub const CODE: usize = 1;
    /// Checksum.
    pub const CHECKSUM: usize = 2;
    /// Identifier of echo.
    pub const IDENT: usize = 4;
    /// Sequence number of echo.
    pub const SEQ: usize = 6;
}

/// Whether a type is an error message, which carries the packet it is about (RFC 1122 §3.2.2).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// A message. The buffer is exactly the IP payload.
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

    /// A view of a message whose header is all there.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        if buffer.as_ref().len() < HEADER_LEN {
            return Err(Error::Truncated);
        }
        Ok(Self { buffer })
    }

    /// Type.
    #[inline]
    pub fn kind(&self) -> u8 {
        let [byte] = get(self.buffer.as_ref(), field::KIND);
        byte
    }

    /// Code.
    #[inline]
    pub fn code(&self) -> u8 {
        let [byte] = get(self.buffer.as_ref(), field::CODE);
        byte
    }

    /// Checksum, as on the wire.
    #[inline]
    pub fn checksum(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::CHECKSUM)
    }

    /// Whether it is an error, see [`is_error`].
    #[inline]
    pub fn is_error(&self) -> bool {
        is_error(self.kind())
    }

    /// Whether it is an echo request or reply.
    #[inline]
    pub fn is_echo(&self) -> bool {
        matches!(self.kind(), ECHO_REQUEST | ECHO_REPLY)
    }

    /// Identifier of echo, as on the wire.
    #[inline]
    pub fn ident(&self) -> [u8; 2] {
        get(self.buffer.as_ref(), field::IDENT)
    }

    /// Sequence number of echo; MTU of the next hop in [`FRAGMENTATION_NEEDED`].
    #[inline]
    pub fn seq(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::SEQ))
    }

    /// Data of echo; in errors, the head of the packet they are about.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.buffer.as_ref().get(HEADER_LEN..).unwrap_or(&[])
    }

    /// Whether the checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        checksum::is_valid(checksum::sum(self.buffer.as_ref()))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets type and code.
    #[inline]
    pub fn set_kind(&mut self, kind: u8, code: u8) {
        put(self.buffer.as_mut(), field::KIND, [kind, code]);
    }

    /// Sets the checksum.
    #[inline]
    pub fn set_checksum(&mut self, checksum: [u8; 2]) {
        put(self.buffer.as_mut(), field::CHECKSUM, checksum);
    }

    /// Sets the identifier of echo.
    #[inline]
    pub fn set_ident(&mut self, ident: [u8; 2]) {
        put(self.buffer.as_mut(), field::IDENT, ident);
    }

    /// Sets the sequence number of echo, or the MTU of the next hop.
    #[inline]
    pub fn set_seq(&mut self, seq: u16) {
        put(self.buffer.as_mut(), field::SEQ, seq.to_be_bytes());
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().get_mut(HEADER_LEN..).unwrap_or_default()
    }

    /// Computes the checksum.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum([0; 2]);
        let sum = checksum::sum(self.buffer.as_ref());
        self.set_checksum(checksum::finish(sum));
    }
}
