//! Whom the gateway itself speaks with.

use std::net::IpAddr;

/// A remote that the gateway itself speaks with by a protocol without ports: the other end of a tunnel
/// of its own, of an IPsec association, or of a raw socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Protocol number.
    pub protocol: u8,
    /// The gateway's address; unspecified: any of the family.
    pub local: IpAddr,
    /// The remote's; unspecified: any of the family.
    pub remote: IpAddr,
}
