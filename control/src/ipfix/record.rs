//! What is told of a direction of a flow, as information elements (IANA's registry of IPFIX).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_layout::Family;

/// Length of a field that says itself how long it is (RFC 7011 §7).
const VARIABLE: u16 = u16::MAX;

/// Why a flow is told of now: flowEndReason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is idle.
    Idle = 1,
    /// It goes on, and is told of in parts.
    Active = 2,
    /// TCP: it was closed or reset.
    Ended = 3,
    /// Weir has ended it: it moved to another uplink, say, or a rule forbids it.
    Forced = 4,
}

/// A part of a direction of a flow: what it carried since it was last told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'n> {
    /// Source and destination as its packets come.
    pub from: [SocketAddr; 2],
    /// The same as they leave.
    pub to: [SocketAddr; 2],
    /// IP protocol.
    pub protocol: u8,
    /// First packet, milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// Last packet, likewise.
    pub end_ms: u64,
    /// Bytes, from the IP header on.
    pub octets: u64,
    /// Packets; of IPv6 they are not counted.
    pub packets: u64,
    /// Index of the interface that they come by; 0: not known.
    pub ingress: u32,
    /// Index of the interface that they leave by; 0: not known.
    pub egress: u32,
    /// Why it is told of now.
    pub reason: Reason,
    /// The uplink; empty: the flow stays inside.
    pub uplink: &'n str,
}

/// What a field says.
pub enum Value<'r> {
    /// unsigned8
    U8(u8),
    /// unsigned16
    U16(u16),
    /// unsigned32
    U32(u32),
    /// unsigned64, dateTimeMilliseconds
    U64(u64),
    /// ipv4Address, ipv6Address
    Address(IpAddr),
    /// string of at most 254 bytes
    Text(&'r str),
}

impl Value<'_> {
    /// Length of the field as a template says it.
    pub const fn length(&self) -> u16 {
        match self {
            Self::U8(_) => 1,
            Self::U16(_) => 2,
            Self::U32(_) | Self::Address(IpAddr::V4(_)) => 4,
            Self::U64(_) => 8,
            Self::Address(IpAddr::V6(_)) => 16,
            Self::Text(_) => VARIABLE,
        }
    }

    /// Appends the field.
    pub fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::U8(value) => to.push(*value),
            Self::U16(value) => to.extend(value.to_be_bytes()),
            Self::U32(value) => to.extend(value.to_be_bytes()),
            Self::U64(value) => to.extend(value.to_be_bytes()),
            Self::Address(IpAddr::V4(address)) => to.extend(address.octets()),
            Self::Address(IpAddr::V6(address)) => to.extend(address.octets()),
            Self::Text(text) => {
                to.push(text.len() as u8);
                to.extend(text.as_bytes());
            }
        }
    }
}

impl Record<'_> {
    /// One that says nothing, for its template.
    pub const fn blank(family: Family) -> Self {
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let ends = [SocketAddr::new(address, 0); 2];
        Self {
            from: ends,
            to: ends,
            protocol: 0,
            start_ms: 0,
            end_ms: 0,
            octets: 0,
            packets: 0,
            ingress: 0,
            egress: 0,
            reason: Reason::Idle,
            uplink: "",
        }
    }

    /// The family of its addresses.
    pub const fn family(&self) -> Family {
        if self.from[0].is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Its fields, each with the number of its element. Those of a family are always the same.
    pub fn fields(&self) -> impl Iterator<Item = (u16, Value<'_>)> {
        let [source, destination, post_source, post_destination] = match self.family() {
            Family::V4 => [8, 12, 225, 226],
            Family::V6 => [27, 28, 281, 282],
        };
        let packets = (self.family() == Family::V4).then_some((2, Value::U64(self.packets)));
        let address = |end: &SocketAddr| Value::Address(end.ip());
        let port = |end: &SocketAddr| Value::U16(end.port());
        let ([from, to], [new_from, new_to]) = (&self.from, &self.to);
        let fields = [
            // flowStartMilliseconds, flowEndMilliseconds
            (152, Value::U64(self.start_ms)),
            (153, Value::U64(self.end_ms)),
            // sourceIPv4Address and so on, and what they are after NAT (RFC 8158)
            (source, address(from)),
            (destination, address(to)),
            (post_source, address(new_from)),
            (post_destination, address(new_to)),
            // sourceTransportPort, destinationTransportPort, postNAPTSourceTransportPort,
            // postNAPTDestinationTransportPort
            (7, port(from)),
            (11, port(to)),
            (227, port(new_from)),
            (228, port(new_to)),
            // protocolIdentifier, flowEndReason
            (4, Value::U8(self.protocol)),
            (136, Value::U8(self.reason as u8)),
            // ingressInterface, egressInterface
            (10, Value::U32(self.ingress)),
            (14, Value::U32(self.egress)),
            // octetDeltaCount
            (1, Value::U64(self.octets)),
        ];
        // packetDeltaCount, interfaceName
        fields.into_iter().chain(packets).chain([(82, Value::Text(self.uplink))])
    }
}
