//! Prefixes, as they are published.

use ipnet::IpNet;
use weir_layout::control::Prefix;

/// The network as a prefix.
pub fn prefix(net: &IpNet) -> Prefix {
    match net {
        IpNet::V4(net) => Prefix::v4(net.network().octets(), net.prefix_len()),
        IpNet::V6(net) => Prefix {
            address: net.network().octets(),
            family: 6,
            length: net.prefix_len(),
            reserved: [0; 6],
        },
    }
}
