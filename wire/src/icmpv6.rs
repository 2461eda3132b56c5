//! ICMPv6 (RFC 4443).

use crate::checksum;
use crate::parse::{Error, get, put};

/// IPv6 next header.
pub const PROTOCOL: u8 = 58;
/// Length of the header, the four bytes that depend on the type included.
pub const HEADER_LEN: usize = 8;

/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big, with the next hop's MTU.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;

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
    /// MTU of the next hop, in packet too big.
    pub const MTU: usize = 4;
    /// Sequence number of echo.
    pub const SEQ: usize = 6;
}

/// Whether a type is an error message, which carries the packet it is about (RFC 4443 §2.1).
#[inline]
pub const fn is_error(kind: u8) -> bool {
    kind < 128
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

    /// Sequence number of echo.
    #[inline]
    pub fn seq(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::SEQ))
    }

    /// MTU of the next hop, in [`PACKET_TOO_BIG`].
    #[inline]
    pub fn mtu(&self) -> u32 {
        u32::from_be_bytes(get(self.buffer.as_ref(), field::MTU))
    }

    /// Data of echo; in errors, the head of the packet they are about.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.buffer.as_ref().get(HEADER_LEN..).unwrap_or(&[])
    }

    /// Whether the checksum is right, given the sum of the pseudo-header.
    #[inline]
    pub fn verify_checksum(&self, pseudo_header: u16) -> bool {
        checksum::is_valid(checksum::add(pseudo_header, checksum::sum(self.buffer.as_ref())))
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

    /// Sets the sequence number of echo.
    #[inline]
    pub fn set_seq(&mut self, seq: u16) {
        put(self.buffer.as_mut(), field::SEQ, seq.to_be_bytes());
    }

    /// Sets the MTU of the next hop, in [`PACKET_TOO_BIG`].
    #[inline]
    pub fn set_mtu(&mut self, mtu: u32) {
        put(self.buffer.as_mut(), field::MTU, mtu.to_be_bytes());
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.buffer.as_mut().get_mut(HEADER_LEN..).unwrap_or_default()
    }

    /// Computes the checksum, given the sum of the pseudo-header.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo_header: u16) {
        self.set_checksum([0; 2]);
        let sum = checksum::add(pseudo_header, checksum::sum(self.buffer.as_ref()));
        self.set_checksum(checksum::finish(sum));
    }
}
