//! Ethernet II frames, untagged or with one 802.1Q tag (IEEE 802.3, IEEE 802.1Q).

use crate::parse::{Error, get, put};

/// Length of the untagged header.
pub const HEADER_LEN: usize = 14;
/// Length of a VLAN tag.
pub const TAG_LEN: usize = 4;

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;
/// Ethertype of an 802.1Q customer tag.
pub const VLAN: u16 = 0x8100;
/// Ethertype of an 802.1ad service tag.
pub const SERVICE_VLAN: u16 = 0x88a8;
/// Ethertype of the outer tag before 802.1ad named one.
pub const OLD_SERVICE_VLAN: u16 = 0x9100;
/// The VLAN identifier in a tag's control word.
pub const VLAN_ID: u16 = 0x0fff;

/// Offsets of the fields, in bytes.
pub mod field {
    /// Destination address.
    pub const DST: usize = 0;
    /// Source address.
    pub const SRC: usize = 6;
    /// Type of the payload, or of the tag.
    pub const ETHERTYPE: usize = 12;
    /// The tag's priority and VLAN identifier.
    pub const TAG_CONTROL: usize = 14;
    /// Type of the payload after a tag.
    pub const TAGGED_ETHERTYPE: usize = 16;
}

/// Whether an ethertype announces a VLAN tag of any kind.
#[inline]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, VLAN | SERVICE_VLAN | OLD_SERVICE_VLAN)
}

/// A frame, without preamble and frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Frame<T> {
    buffer: T,
}

impl<T: AsRef<[u8]>> Frame<T> {
    /// A view that getters read as zeros, and setters leave alone, past the end of `buffer`.
    #[inline]
    pub const fn new_unchecked(buffer: T) -> Self {
        Self { buffer }
    }

    /// A view of a frame whose header, with its tag if it has one, is all there.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`].
    #[inline]
    pub fn new_checked(buffer: T) -> Result<Self, Error> {
        let frame = Self { buffer };
        let len = frame.buffer.as_ref().len();
        if len < HEADER_LEN || len < frame.payload_offset() {
            return Err(Error::Truncated);
        }
        Ok(frame)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> [u8; 6] {
        get(self.buffer.as_ref(), field::DST)
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> [u8; 6] {
        get(self.buffer.as_ref(), field::SRC)
    }

    /// The type field after the addresses, which may be a tag's.
    #[inline]
    fn outer_type(&self) -> u16 {
        u16::from_be_bytes(get(self.buffer.as_ref(), field::ETHERTYPE))
    }

    /// Whether there is a VLAN tag of any kind.
    #[inline]
    pub fn is_tagged(&self) -> bool {
        is_tag(self.outer_type())
    }

    /// Whether there is more than one tag, or a service tag: more than this dataplane takes.
    /// [`ethertype`](Self::ethertype) and payload then are those after the first tag.
    #[inline]
    pub fn is_stacked(&self) -> bool {
        let outer = self.outer_type();
        is_tag(outer) && (outer != VLAN || is_tag(self.ethertype()))
    }

    /// What the frame carries, host order.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        if self.is_tagged() {
            u16::from_be_bytes(get(self.buffer.as_ref(), field::TAGGED_ETHERTYPE))
        } else {
            self.outer_type()
        }
    }

    /// VLAN identifier, `0..4096`, if tagged; 0 is a priority tag.
    #[inline]
    pub fn vlan(&self) -> Option<u16> {
        let control = u16::from_be_bytes(get(self.buffer.as_ref(), field::TAG_CONTROL));
        self.is_tagged().then_some(control & VLAN_ID)
    }

    /// Where the payload starts: 14, or 18 after a tag.
    #[inline]
    pub fn payload_offset(&self) -> usize {
        if self.is_tagged() { HEADER_LEN + TAG_LEN } else { HEADER_LEN }
    }

    /// What follows the header, Ethernet padding included.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.buffer.as_ref().get(self.payload_offset()..).unwrap_or(&[])
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Frame<T> {
    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, address: [u8; 6]) {
        put(self.buffer.as_mut(), field::DST, address);
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, address: [u8; 6]) {
        put(self.buffer.as_mut(), field::SRC, address);
    }

    /// Makes the tag, 18 bytes of header in all, one of VLAN `id` with priority 0. Set it before
    /// the ethertype.
    #[inline]
    pub fn set_vlan(&mut self, id: u16) {
        put(self.buffer.as_mut(), field::ETHERTYPE, VLAN.to_be_bytes());
        put(self.buffer.as_mut(), field::TAG_CONTROL, (id & VLAN_ID).to_be_bytes());
    }

    /// Sets what the frame carries: after the tag, if there is one.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: u16) {
        let at = if self.is_tagged() { field::TAGGED_ETHERTYPE } else { field::ETHERTYPE };
        put(self.buffer.as_mut(), at, ethertype.to_be_bytes());
    }
}
