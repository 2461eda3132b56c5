//! ARP for IPv4 over Ethernet (RFC 826).

use crate::ethernet;
use crate::parse::{Error, get, put};

/// Length of a packet.
pub const LEN: usize = 28;

/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has its address.
pub const REPLY: u16 = 2;

/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const FORMAT: [u8; 6] = {
    let [hi, lo] = ethernet::IPV4.to_be_bytes();
    [0, 1, hi, lo, 6, 4]
};

/// Offsets of the fields, in bytes.
pub mod field {
    /// Hardware type, protocol type and both address lengths.
    pub const FORMAT: usize = 0;
    /// Operation.
    pub const OPERATION: usize = 6;
    /// Ethernet address of the sender.
    pub const SENDER_MAC: usize = 8;
    /// IPv4 address of the sender.
    pub const SENDER_IP: usize = 14;
    /// Ethernet address of the target.
    pub const TARGET_MAC: usize = 18;
    /// IPv4 address of the target.
    pub const TARGET_IP: usize = 24;
}

/// An ARP packet for IPv4 over Ethernet.
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

    /// A view of a whole packet; Ethernet padding may follow it.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`]; [`Error::Malformed`] when it is not about IPv4 over Ethernet.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let data = buffer.as_ref();
        if data.len() < LEN {
            return Err(Error::Truncated);
        }
        if get(data, field::FORMAT) != FORMAT {
            return Err(Error::Malformed);
        }
        Ok(Self { buffer })
    }

    /// [`REQUEST`], [`REPLY`] or another.
    #[inline]
    pub fn operation(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::OPERATION))
    }

    /// Ethernet address of the sender.
    #[inline]
    pub fn sender_mac(&self) -> [u8; 6] {
        get(self.buffer.as_ref(), field::SENDER_MAC)
    }

    /// IPv4 address of the sender.
    #[inline]
    pub fn sender_ip(&self) -> [u8; 4] {
        get(self.buffer.as_ref(), field::SENDER_IP)
    }

    /// Ethernet address of the target; meaningless in requests.
    #[inline]
    pub fn target_mac(&self) -> [u8; 6] {
        get(self.buffer.as_ref(), field::TARGET_MAC)
    }

    /// IPv4 address of the target.
    #[inline]
    pub fn target_ip(&self) -> [u8; 4] {
        get(self.buffer.as_ref(), field::TARGET_IP)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the operation and the constant fields.
    #[inline]
    pub fn set_operation(&mut self, operation: u16) {
        put(self.buffer.as_mut(), field::FORMAT, FORMAT);
        put(self.buffer.as_mut(), field::OPERATION, operation.to_be_bytes());
    }

    /// Sets both addresses of the sender.
    #[inline]
    pub fn set_sender(&mut self, mac: [u8; 6], ip: [u8; 4]) {
        put(self.buffer.as_mut(), field::SENDER_MAC, mac);
        put(self.buffer.as_mut(), field::SENDER_IP, ip);
    }

    /// Sets both addresses of the target.
    #[inline]
    pub fn set_target(&mut self, mac: [u8; 6], ip: [u8; 4]) {
        put(self.buffer.as_mut(), field::TARGET_MAC, mac);
        put(self.buffer.as_mut(), field::TARGET_IP, ip);
    }
}
