//! Whom the gateway itself speaks with.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Address;
use crate::Family;

/// Remotes that the gateway itself speaks with.
pub const MAX_OWN_PEERS: usize = 64;

/// A remote that the gateway itself speaks with by a protocol without ports: no flow gets the address
/// that its answers come to. 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OwnPeer {
    /// The gateway's address; unspecified: any of the family.
    pub local: Address,
    /// The remote's; unspecified: any of the family.
    pub remote: Address,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Family`] as an index.
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl OwnPeer {
    /// Would a packet of the protocol from this remote to this address be the gateway's own?
    #[inline]
    pub fn is(&self, family: Family, local: Address, remote: Address, protocol: u8) -> bool {
        let any = |of: Address, known: Address| of == Address::UNSPECIFIED || of == known;
        self.protocol == protocol
            && usize::from(self.family) == family.index()
            && any(self.local, local)
            && any(self.remote, remote)
    }
}

const _: () = assert!(size_of::<OwnPeer>() == 40);
