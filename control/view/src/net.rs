//! Networks of one address family, for what is read and decided of both by the same code.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weir_layout::Family;

/// A network of one address family.
pub trait Net: Copy + Debug + Display + Default + Ord + Hash + Into<IpNet> {
    /// An address of it.
    type Address: Copy + Debug + Display + Ord + Hash + Into<IpAddr>;
    /// The bytes of an address, network order.
    type Octets: Copy + Debug + Ord + Hash;
    /// The family.
    const FAMILY: Family;

    /// The network, if it is of this family.
    fn of(net: IpNet) -> Option<Self>;
    /// The address, if it is of this family.
    fn address(address: IpAddr) -> Option<Self::Address>;
    /// The network of this address alone.
    fn host(address: Self::Address) -> Self;
    /// Its first address, and the bits of its prefix.
    fn prefix(&self) -> (Self::Octets, u8);
    /// Has it all addresses of the other?
    fn covers(&self, other: &Self) -> bool;

    /// Bits of its prefix.
    fn prefix_len(&self) -> u8 {
        self.prefix().1
    }
}

impl Net for Ipv4Net {
    type Address = Ipv4Addr;
    type Octets = [u8; 4];
    const FAMILY: Family = Family::V4;

    fn of(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }
    }

    fn address(address: IpAddr) -> Option<Ipv4Addr> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    fn host(address: Ipv4Addr) -> Self {
        address.into()
    }

    fn prefix(&self) -> ([u8; 4], u8) {
        (self.network().octets(), self.prefix_len())
    }

    fn covers(&self, other: &Self) -> bool {
        self.contains(other)
    }
}

impl Net for Ipv6Net {
    type Address = Ipv6Addr;
    type Octets = [u8; 16];
    const FAMILY: Family = Family::V6;

    fn of(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net),
        }
    }

    fn address(address: IpAddr) -> Option<Ipv6Addr> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }

    fn host(address: Ipv6Addr) -> Self {
        address.into()
    }

    fn prefix(&self) -> ([u8; 16], u8) {
        (self.network().octets(), self.prefix_len())
    }

    fn covers(&self, other: &Self) -> bool {
        self.contains(other)
    }
}

/// Has an IPv6 address a meaning beyond the site: is it no group, and not of this host, of a link
/// (RFC 4291 §2.5) or unique local (RFC 4193)?
pub const fn is_beyond_site(address: Ipv6Addr) -> bool {
    let of_host = address.is_unspecified() || address.is_loopback();
    let of_site = address.is_unicast_link_local() || address.is_unique_local();
    !of_host && !of_site && !address.is_multicast()
}

/// Is it an address of one link alone (RFC 3927, RFC 4291 §2.5.6)?
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
