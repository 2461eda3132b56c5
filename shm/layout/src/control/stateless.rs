//! How packets of a family are forwarded where no flow needs to be known.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::NONE;

/// Origins of a family, at most.
pub const MAX_ORIGINS: usize = 64;

/// Of a family: whether its packets leave without entries of the flow table, each by what its headers
/// and the published state say. 3 KiB.
///
/// Then the first origin that a packet's source is of says which uplinks may carry it, and the bucket
/// table of one policy which of them does. Whatever an uplink brings for a LAN may come in.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Stateless {
    /// 1: packets leave so; 0: they need flows, and nothing else here counts.
    pub active: u8,
    /// Index into [`ControlHalf::policies`](super::ControlHalf::policies).
    pub policy: u8,
    /// [`Selection`](super::Selection) of that policy.
    pub selection: u8,
    /// Valid entries of `origins`.
    pub count: u8,
    /// 1: the destination alone says where packets to LANs leave, so that it may be remembered.
    pub remembers: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Which packets from LANs may leave, and by which uplinks; the narrower come first.
    pub origins: [Origin; MAX_ORIGINS],
}

/// A prefix behind a LAN port whose addresses may be carried by the same uplinks. 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Origin {
    /// The prefix, in the order of bytes that packets have; IPv4 uses the first four.
    pub address: [u64; 2],
    /// Its bits that count.
    pub mask: [u64; 2],
    /// Bit *u* set: uplink *u* may carry it.
    pub carriers: u64,
    /// The LAN port: an index into [`ControlHalf::ports`](super::ControlHalf::ports).
    pub port: u8,
    /// The uplink, where `carriers` has one alone, else [`NONE`].
    pub only: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl Origin {
    /// Is it that of a packet with this source, which came by this port?
    #[inline(always)]
    pub const fn is_of(&self, port: u8, [a, b]: [u64; 2]) -> bool {
        let [c, d] = self.address;
        let [e, f] = self.mask;
        self.port == port && (a ^ c) & e | (b ^ d) & f == 0
    }

    /// Of a prefix, behind a port; `carriers` has a bit for each uplink.
    pub const fn new(address: [u8; 16], length: u8, port: u8, carriers: u64) -> Self {
        let mask = !match u128::MAX.checked_shr(length as u32) {
            Some(host) => host,
            None => 0,
        };
        let address = u128::from_be_bytes(address) & mask;
        let only = match carriers.is_power_of_two() {
            true => carriers.trailing_zeros() as u8,
            false => NONE,
        };
        Self { address: words(address), mask: words(mask), carriers, port, only, reserved: [0; 6] }
    }
}

/// An address as words in the order of its bytes.
const fn words(address: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.to_be_bytes();
    let low = [i, j, k, l, m, n, o, p];
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(low)]
}

impl Stateless {
    /// The origins.
    #[inline]
    pub fn origins(&self) -> &[Origin] {
        &self.origins[..usize::from(self.count).min(MAX_ORIGINS)]
    }
}

const _: () = assert!(size_of::<Origin>() == 48 && size_of::<Stateless>() == 8 + 48 * MAX_ORIGINS);
