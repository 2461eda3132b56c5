//! Protocols of IP (IANA, protocol numbers): their numbers, the names by which the file and the command
//! line know some, and which of them have ports.

/// Hop-by-hop options, which IPv4 does not have.
const HOP_BY_HOP: u8 = 0;
/// Reserved (IANA, protocol numbers).
const RESERVED: u8 = 255;
/// ICMP (RFC 792).
pub const ICMP: u8 = 1;
/// IGMP (RFC 3376).
pub const IGMP: u8 = 2;
/// IPv4 within a packet (RFC 2003).
pub const IPIP: u8 = 4;
/// DCCP (RFC 4340).
pub const DCCP: u8 = 33;
/// IPv6 within a packet (RFC 4213, RFC 2473).
pub const IPV6: u8 = 41;
/// Generic routing encapsulation (RFC 2784).
pub const GRE: u8 = 47;
/// Encapsulating security payload (RFC 4303).
pub const ESP: u8 = 50;
/// Authentication header (RFC 4302).
pub const AH: u8 = 51;
/// No next header (RFC 8200 §4.7).
pub const NO_NEXT_HEADER: u8 = 59;
/// EIGRP (RFC 7868).
pub const EIGRP: u8 = 88;
/// OSPF (RFC 2328, RFC 5340).
pub const OSPF: u8 = 89;
/// PIM (RFC 7761).
pub const PIM: u8 = 103;
/// VRRP (RFC 9568).
pub const VRRP: u8 = 112;
/// L2TP without UDP (RFC 3931 §4.1.1).
pub const L2TP: u8 = 115;
/// SCTP (RFC 9260).
pub const SCTP: u8 = 132;
/// Mobility header (RFC 6275 §6.1).
pub const MOBILITY: u8 = 135;
/// UDP-Lite (RFC 3828).
pub const UDP_LITE: u8 = 136;
/// Host identity protocol (RFC 7401).
pub const HIP: u8 = 139;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// ICMPv6 (RFC 4443).
pub const ICMPV6: u8 = 58;

/// Names, and numbers.
pub const NAMES: [(&str, u8); 10] = [
    ("tcp", TCP),
    ("udp", UDP),
    ("icmp", ICMP),
    ("icmpv6", ICMPV6),
    ("gre", GRE),
    ("esp", ESP),
    ("ah", AH),
    ("sctp", SCTP),
    ("ipip", IPIP),
    ("6in4", IPV6),
];

/// The number of a protocol, by its name.
pub fn number(name: &str) -> Option<u8> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The name of a protocol, if it has one.
pub fn name(number: u8) -> Option<&'static str> {
    NAMES.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// Are flows of the protocol known by their addresses alone?
#[inline(always)]
pub const fn is_portless(proto: u8) -> bool {
    !matches!(proto, TCP | UDP | ICMP | ICMPV6)
}

/// May packets of the protocol be forwarded? Not what is of one link (IGMP, and what routers tell
/// their neighbours), or what is reserved.
#[inline(always)]
pub const fn is_forwarded(proto: u8) -> bool {
    !matches!(proto, HOP_BY_HOP | RESERVED | IGMP | EIGRP | OSPF | PIM | VRRP)
}

/// What of a packet is only right with its addresses.
#[derive(Clone, Copy)]
pub(crate) enum Covered {
    /// Nothing, or a checksum that translation makes right.
    Nothing,
    /// A checksum of the pseudo-header that is left as it is: another address with the same sum
    /// does.
    Checksum,
    /// A digest of the addresses themselves.
    Digest,
}

/// What of the protocol's packets is only right with their addresses.
pub(crate) const fn covered(proto: u8) -> Covered {
    match proto {
        AH => Covered::Digest,
        DCCP | UDP_LITE | MOBILITY | HIP => Covered::Checksum,
        _ => Covered::Nothing,
    }
}
