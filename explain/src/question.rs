//! Which packet is asked about.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpDscp, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    PacketBuilder, VlanId,
};
use weir_layout::protocol::{self, ICMP, ICMPV6, TCP, UDP, is_portless};

/// Identifier of an echo request that names none.
const IDENTIFIER: u16 = 1;
/// Behind the header of a protocol without ports.
const PAYLOAD: [u8; 8] = [0; 8];

/// A packet, as somebody asks about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// IP protocol; echo stands for ICMP.
    pub protocol: u8,
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// Ports of TCP and UDP; of echo its identifier, and nothing; else zero.
    pub ports: [u16; 2],
    /// The uplink or the interface of the LAN by which it comes in; none: as its addresses say.
    pub from: Option<String>,
    /// Who sends it, where the kernel does not know or another is meant.
    pub mac: Option<[u8; 6]>,
    /// Differentiated services code point, below 64.
    pub dscp: u8,
}

/// What is wrong with the words of a question.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Wrong {
    /// No such protocol.
    #[error("there is no protocol \"{name}\": use {known} or a number up to 255", known = names())]
    Protocol {
        /// What was written.
        name: String,
    },
    /// Neither an address nor one with a port.
    #[error("\"{0}\" is no address{1}")]
    Address(String, &'static str),
    /// Its protocol has ports.
    #[error("{1} has ports: write {0}:PORT")]
    NoPort(String, String),
    /// Its protocol has none.
    #[error("{1} has no ports: write {0}")]
    Port(IpAddr, String),
    /// Source and destination are of two families.
    #[error("{0} and {1} are addresses of two families")]
    Families(IpAddr, IpAddr),
    /// ICMP of the other family.
    #[error("icmpv6 is of IPv6, and {0} is not: write icmp")]
    Icmp(IpAddr),
    /// More than six bits.
    #[error("there is no code point {0}: they go from 0 to 63")]
    CodePoint(u8),
}

fn names() -> String {
    protocol::NAMES.map(|(name, _)| name).join(", ")
}

/// The name of a protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    protocol::name(number).map_or_else(|| number.to_string(), str::to_owned)
}

impl Question {
    /// Reads `tcp 10.0.0.5:51000 1.1.1.1:443`, `icmp 10.0.0.5 1.1.1.1`, `gre 10.0.0.5 1.1.1.1`; an
    /// address of IPv6 with a port in brackets.
    ///
    /// # Errors
    /// What is wrong, and how to write it.
    pub fn read(protocol: &str, source: &str, destination: &str) -> Result<Self, Wrong> {
        let unknown = || Wrong::Protocol { name: protocol.to_owned() };
        let mut number =
            protocol::number(protocol).or_else(|| protocol.parse().ok()).ok_or_else(unknown)?;
        let (source, from) = end(number, source, protocol)?;
        let (destination, to) = end(number, destination, protocol)?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Wrong::Families(source, destination));
        }
        match number {
            ICMP if source.is_ipv6() => number = ICMPV6,
            ICMPV6 if source.is_ipv4() => return Err(Wrong::Icmp(source)),
            _ => {}
        }
        let ports = match number {
            ICMP | ICMPV6 => [from.unwrap_or(IDENTIFIER), 0],
            _ => [from.unwrap_or(0), to.unwrap_or(0)],
        };
        let (from, mac) = (None, None);
        Ok(Self { protocol: number, source, destination, ports, from, mac, dscp: 0 })
    }

    /// The same with this code point.
    ///
    /// # Errors
    /// When it has more than six bits.
    pub fn with_dscp(self, dscp: u8) -> Result<Self, Wrong> {
        if dscp < 64 { Ok(Self { dscp, ..self }) } else { Err(Wrong::CodePoint(dscp)) }
    }

    /// Asked by the other end. An echo keeps its identifier.
    pub fn reversed(self) -> Self {
        let [from, to] = self.ports;
        let ports = match self.protocol {
            ICMP | ICMPV6 => [from, to],
            _ => [to, from],
        };
        Self { source: self.destination, destination: self.source, ports, ..self }
    }

    /// The packet on the wire, as its first or, of TCP, a later one.
    pub(crate) fn frame(&self, link: &Link, flag: Segment) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(link.from, link.to);
        let ip = self.header();
        let step = match VlanId::try_new(link.vlan) {
            Ok(id) if link.vlan != 0 => ethernet.single_vlan(id).ip(ip),
            _ => ethernet.ip(ip),
        };
        let (mut frame, [from, to]) = (Vec::new(), self.ports);
        let written = match (self.protocol, flag) {
            (TCP, Segment::First) => {
                step.tcp(from, to, 0, u16::MAX).syn().write(&mut frame, &[]).is_ok()
            }
            (TCP, Segment::Later { seq, ack }) => {
                step.tcp(from, to, seq, u16::MAX).ack(ack).write(&mut frame, &[]).is_ok()
            }
            (UDP, _) => step.udp(from, to).write(&mut frame, &PAYLOAD).is_ok(),
            (ICMP, _) => step.icmpv4_echo_request(from, 1).write(&mut frame, &PAYLOAD).is_ok(),
            (ICMPV6, _) => step.icmpv6_echo_request(from, 1).write(&mut frame, &PAYLOAD).is_ok(),
            (other, _) => step.write(&mut frame, IpNumber(other), &PAYLOAD).is_ok(),
        };
        // What is written to a vector fails for lengths alone, and all of these are short.
        debug_assert!(written);
        frame
    }

    fn header(&self) -> IpHeaders {
        const HOPS: u8 = 64;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = Ipv4Header {
                    dscp: IpDscp::try_new(self.dscp).unwrap_or(IpDscp::ZERO),
                    time_to_live: HOPS,
                    fragment_offset: IpFragOffset::ZERO,
                    dont_fragment: true,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Default::default())
            }
            (source, destination) => {
                let bytes = |address: IpAddr| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                let header = Ipv6Header {
                    traffic_class: self.dscp << 2,
                    flow_label: Ipv6FlowLabel::ZERO,
                    hop_limit: HOPS,
                    source: bytes(source),
                    destination: bytes(destination),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Default::default())
            }
        }
    }
}

/// Where a frame comes from and goes to, on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) from: [u8; 6],
    pub(crate) to: [u8; 6],
    /// Tag; 0: none.
    pub(crate) vlan: u16,
}

/// Which segment of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    First,
    Later { seq: u32, ack: u32 },
}

/// An address, and the port if its protocol has some.
fn end(protocol: u8, text: &str, name: &str) -> Result<(IpAddr, Option<u16>), Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return match protocol {
            TCP | UDP if address.is_ipv6() => {
                Err(Wrong::NoPort(format!("[{address}]"), name.to_owned()))
            }
            TCP | UDP => Err(Wrong::NoPort(address.to_string(), name.to_owned())),
            _ => Ok((address, None)),
        };
    }
    match text.parse::<SocketAddr>() {
        Ok(end) if is_portless(protocol) => Err(Wrong::Port(end.ip(), name.to_owned())),
        Ok(end) => Ok((end.ip(), Some(end.port()))),
        Err(_) => {
            let hint = match text.matches(':').count() {
                0 => ", and names are not looked up",
                1 => "",
                _ if !text.starts_with('[') => {
                    ": one of IPv6 with a port is in brackets, as [2001:db8::1]:443"
                }
                _ => "",
            };
            Err(Wrong::Address(text.to_owned(), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_asked() {
        let asked = Question::read("tcp", "10.0.0.5:51000", "1.1.1.1:443").unwrap();
        assert_eq!((asked.protocol, asked.ports), (TCP, [51_000, 443]));
        let six = Question::read("udp", "[2001:db8::5]:9", "[2606::1]:53").unwrap();
        assert_eq!((six.source, six.ports), ("2001:db8::5".parse().unwrap(), [9, 53]));
        let ping = Question::read("icmp", "2001:db8::5", "2606::1").unwrap();
        assert_eq!((ping.protocol, ping.ports), (ICMPV6, [IDENTIFIER, 0]));
        assert_eq!(Question::read("47", "10.0.0.5", "1.1.1.1").unwrap().protocol, protocol::GRE);
    }

    #[test]
    fn what_is_wrong_is_said_with_how_to_write_it() {
        let said = |protocol: &str, source: &str, destination: &str| {
            Question::read(protocol, source, destination).unwrap_err().to_string()
        };
        assert!(said("tpc", "10.0.0.5:1", "1.1.1.1:2").contains("use tcp, udp"));
        assert_eq!(said("tcp", "10.0.0.5", "1.1.1.1:2"), "tcp has ports: write 10.0.0.5:PORT");
        assert_eq!(said("udp", "[::5]:9", "::1"), "udp has ports: write [::1]:PORT");
        assert_eq!(said("gre", "10.0.0.5:1", "1.1.1.1"), "gre has no ports: write 10.0.0.5");
        assert!(said("tcp", "2001:db8::g:443", "1.1.1.1:2").contains("[2001:db8::1]:443"));
        assert!(said("tcp", "host", "1.1.1.1:2").contains("names are not looked up"));
        assert!(said("udp", "10.0.0.5:70000", "1.1.1.1:2").contains("is no address"));
        assert!(said("udp", "10.0.0.5:7", "[::1]:2").contains("two families"));
        assert!(said("icmpv6", "10.0.0.5", "1.1.1.1").contains("write icmp"));
        let asked = Question::read("udp", "10.0.0.5:7", "1.1.1.1:2").unwrap();
        assert!(asked.with_dscp(64).is_err());
    }
}
