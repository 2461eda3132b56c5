//! IPv6 (RFC 8200).

use weir_layout::control::is_unrouted;

use crate::checksum;
use crate::parse::{Error, get, part, put};

/// Length of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Bytes of a packet that every link carries (RFC 8200 §5).
pub const MIN_MTU: usize = 1280;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// The offset in the third and fourth byte of a fragment header, in bytes (RFC 8200 §4.5).
pub const FRAGMENT_OFFSET: u16 = 0xfff8;
/// More fragments follow; a bit there.
pub const MORE_FRAGMENTS: u16 = 1;
/// Flow label in the first word of the header (RFC 6437).
pub const FLOW_LABEL: u32 = 0xf_ffff;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Version, traffic class, flow label.
    pub const VERSION_CLASS: usize = 0;
    /// Payload length.
    pub const PAYLOAD_LEN: usize = 4;
    /// Next header.
    pub const NEXT_HEADER: usize = 6;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
}

/// May a packet that is forwarded come from this address? Not from the unspecified or the loopback
/// address, a link-local one or a group (RFC 4291 §2.5, §2.7), or one that stands for an IPv4
/// address (RFC 4038 §4.2).
#[inline]
pub const fn is_unicast(address: [u8; 16]) -> bool {
    let mapped = u128::from_be_bytes(address) >> 32;
    !is_group(address) && !is_link_local(address) && mapped != 0 && mapped != 0xffff
}

/// Is it one of a link alone (RFC 4291 §2.5.6)?
#[inline]
pub const fn is_link_local([a, b, ..]: [u8; 16]) -> bool {
    a == 0xfe && b & 0xc0 == 0x80
}

/// Is it that of a group (RFC 4291 §2.7)?
#[inline]
pub const fn is_group([a, ..]: [u8; 16]) -> bool {
    a == 0xff
}

/// May a packet to this address go to a provider? Not to one of a link alone, nor to one that
/// [nobody routes](is_unrouted).
#[inline]
pub const fn is_global(address: [u8; 16]) -> bool {
    is_unicast(address) && !is_unrouted(address)
}

/// A packet: fixed header and payload; link-layer padding may follow.
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

    /// A view of a whole packet. Jumbograms (RFC 2675) look empty.
    ///
    /// # Errors
    ///
    /// As [`new_header`](Self::new_header), and [`Error::Truncated`] when `buffer` ends before the
    /// payload length.
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let packet = Self::new_header(buffer)?;
        if packet.buffer.as_ref().len() < HEADER_LEN + usize::from(packet.payload_len()) {
            return Err(Error::Truncated);
        }
        Ok(packet)
    }

    /// A view of a whole header whose payload may be cut short, as in ICMPv6 errors.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`]; [`Error::Malformed`] when the version is not 6.
    #[inline]
    pub fn new_header(buffer: T) -> Result<Self, Error> {
        let packet = Self { buffer };
        if packet.buffer.as_ref().len() < HEADER_LEN {
            return Err(Error::Truncated);
        }
        if packet.version() != 6 {
            return Err(Error::Malformed);
        }
        Ok(packet)
    }

    #[inline]
    fn version_class(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::VERSION_CLASS))
    }

    /// IP version.
    #[inline]
    pub fn version(&self) -> u8 {
        (self.version_class() >> 12) as u8
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class() >> 4) as u8
    }

    /// Differentiated services code point (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// Explicit congestion notification (RFC 3168).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes(get(self.buffer.as_ref(), field::VERSION_CLASS)) & FLOW_LABEL
    }

    /// Length of what follows the fixed header, in bytes.
    #[inline]
    pub fn payload_len(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::PAYLOAD_LEN))
    }

    /// Protocol or extension header that follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        let [byte] = get(self.buffer.as_ref(), field::NEXT_HEADER);
        byte
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        let [byte] = get(self.buffer.as_ref(), field::HOP_LIMIT);
        byte
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> [u8; 16] {
        get(self.buffer.as_ref(), field::SRC)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> [u8; 16] {
        get(self.buffer.as_ref(), field::DST)
    }

    /// The payload, extension headers included, or what there is of it.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        let data = self.buffer.as_ref();
        part(data, HEADER_LEN..data.len().min(HEADER_LEN + usize::from(self.payload_len())))
    }

    /// Pseudo-header sum of a payload that has no extension headers, for its checksum.
    #[inline]
    pub fn pseudo_header(&self) -> u16 {
        let len = u32::from(self.payload_len());
        checksum::pseudo6(&self.src(), &self.dst(), self.next_header(), len)
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
    /// Sets version 6, the traffic class, and flow label 0.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let word = 6 << 28 | u32::from(class) << 20;
        put(self.buffer.as_mut(), field::VERSION_CLASS, word.to_be_bytes());
    }

    /// Sets the length of what follows the fixed header, in bytes.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        put(self.buffer.as_mut(), field::PAYLOAD_LEN, len.to_be_bytes());
    }

    /// Sets what follows the fixed header.
    #[inline]
    pub fn set_next_header(&mut self, next: u8) {
        put(self.buffer.as_mut(), field::NEXT_HEADER, [next]);
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        put(self.buffer.as_mut(), field::HOP_LIMIT, [hops]);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, address: [u8; 16]) {
        put(self.buffer.as_mut(), field::SRC, address);
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, address: [u8; 16]) {
        put(self.buffer.as_mut(), field::DST, address);
    }

    /// The payload, extension headers included, or what there is of it.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let end = HEADER_LEN + usize::from(self.payload_len());
        let range = HEADER_LEN..self.buffer.as_ref().len().min(end);
        self.buffer.as_mut().get_mut(range).unwrap_or_default()
    }
}
