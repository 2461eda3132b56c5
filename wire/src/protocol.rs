//! Protocols by their numbers: which of them flows have, and what they let translation change.
//!
//! A protocol other than TCP, UDP and echo is *portless* here, whatever it has inside: its flows are
//! known by source, destination and protocol, and translation changes their addresses alone. GRE
//! (RFC 2784), ESP (RFC 4303), SCTP (RFC 9260: its CRC32c covers no address), IPv4 and IPv6 in either
//! (RFC 2003, RFC 4213) take no notice of that.

use crate::family::Family;
use crate::{icmp, icmpv6, udp};

pub use weir_layout::protocol::*;

/// Has an endpoint of the protocol one mapping for all that it talks to (RFC 4787 REQ-1, RFC 5508
/// REQ-1)?
#[inline(always)]
pub const fn is_mapped(proto: u8) -> bool {
    matches!(proto, udp::PROTOCOL | icmp::PROTOCOL | icmpv6::PROTOCOL)
}

/// May a flow be of the protocol? Of ICMP echo alone. Not what is of one link, ICMP of the other
/// family, or what is reserved.
#[inline(always)]
pub fn has_flows<F: Family>(proto: u8) -> bool {
    match proto {
        icmp::PROTOCOL | icmpv6::PROTOCOL => proto == F::ICMP,
        _ => is_forwarded(proto),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{V4, V6};

    #[test]
    fn flows_have_no_protocol_of_one_link_of_the_other_family_or_that_is_reserved() {
        let refused = |has: fn(u8) -> bool| (0..=255).filter(move |proto| !has(*proto));
        let v4: [u8; 8] = [0, 2, 58, 88, 89, 103, 112, 255];
        let v6: [u8; 8] = [0, 1, 2, 88, 89, 103, 112, 255];
        assert!(refused(has_flows::<V4>).eq(v4));
        assert!(refused(has_flows::<V6>).eq(v6));
    }

    #[test]
    fn a_protocol_has_ports_or_what_stands_for_them_or_is_portless() {
        for proto in 0..=255 {
            assert_eq!(is_portless(proto), !is_mapped(proto) && proto != TCP);
        }
    }
}
