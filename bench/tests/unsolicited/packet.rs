//! Frames by hand: also such as no library would make.

use std::net::{Ipv4Addr, Ipv6Addr};

use weir_wire::checksum::{add, finish, pseudo4, pseudo6, sum};
use weir_wire::tcp::flag;

/// What tells an attempt's frames from all others: seven bytes that nobody else sends, and the number of
/// the attempt. Each frame has it somewhere behind its addresses.
pub type Token = [u8; 8];

/// Segments of TCP, by their flags.
pub const SEGMENTS: [(&str, u8); 7] = [
    ("a SYN with data", flag::SYN),
    ("a SYN-ACK", flag::SYN | flag::ACK),
    ("an ACK", flag::ACK),
    ("a RST", flag::RST),
    ("a FIN", flag::FIN | flag::ACK),
    ("no TCP flags", 0),
    ("all TCP flags", 0x3f),
];

const MARK: [u8; 7] = [0x5c, 0xa1, 0xab, 0x1e, 0xf0, 0x0d, 0xd5];

/// The token of an attempt.
pub fn token(number: u8) -> Token {
    let [a, b, c, d, e, f, g] = MARK;
    [a, b, c, d, e, f, g, number]
}

/// Which attempt the frame is of, or quotes.
pub fn number(frame: &[u8]) -> Option<u8> {
    frame.windows(8).find_map(|window| window.strip_prefix(&MARK)?.first().copied())
}

/// From one hardware address to another.
#[derive(Clone, Copy)]
pub struct Link {
    pub from: [u8; 6],
    pub to: [u8; 6],
}

impl Link {
    pub fn to(self, to: [u8; 6]) -> Self {
        Self { to, ..self }
    }

    pub fn frame(self, ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&self.to[..], &self.from, &ethertype.to_be_bytes(), packet].concat()
    }

    /// With a tag of this VLAN.
    pub fn tagged(self, vlan: u16, ethertype: u16, packet: &[u8]) -> Vec<u8> {
        self.frame(0x8100, &[&vlan.to_be_bytes(), &ethertype.to_be_bytes(), packet].concat())
    }
}

/// What a header says beside its addresses.
#[derive(Clone, Copy)]
pub struct Ip4<'a> {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub ttl: u8,
    /// Flags and offset, in units of eight bytes.
    pub fragment: u16,
    /// In units of four bytes.
    pub options: &'a [u8],
}

impl Ip4<'_> {
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8) -> Self {
        Self { src, dst, proto, ttl: 64, fragment: 0, options: &[] }
    }

    pub fn packet(&self, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + body.len()) as u16).to_be_bytes());
        packet.extend([0x77, 0x77]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.proto, 0, 0]);
        packet.extend(self.src.octets().into_iter().chain(self.dst.octets()));
        packet.extend(self.options);
        let [a, b] = finish(sum(&packet));
        (packet[10], packet[11]) = (a, b);
        packet.extend(body);
        packet
    }

    /// The sum that a transport protocol's checksum begins with.
    pub fn pseudo(&self, len: usize) -> u16 {
        pseudo4(self.src.octets(), self.dst.octets(), self.proto, len as u16)
    }
}

/// A packet of IPv6; `next` is what its body begins with.
#[derive(Clone, Copy)]
pub struct Ip6 {
    pub src: Ipv6Addr,
    pub dst: Ipv6Addr,
    pub next: u8,
    pub hops: u8,
}

impl Ip6 {
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next: u8) -> Self {
        Self { src, dst, next, hops: 64 }
    }

    pub fn packet(&self, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([self.next, self.hops]);
        packet.extend(self.src.octets().into_iter().chain(self.dst.octets()));
        packet.extend(body);
        packet
    }

    pub fn pseudo(&self, proto: u8, len: usize) -> u16 {
        pseudo6(&self.src.octets(), &self.dst.octets(), proto, len as u32)
    }
}

/// The bytes with their checksum, which is `at`, over them and a pseudo-header.
pub fn checked(mut bytes: Vec<u8>, at: usize, pseudo: u16) -> Vec<u8> {
    let [a, b] = finish(add(pseudo, sum(&bytes)));
    (bytes[at], bytes[at + 1]) = (a, b);
    bytes
}

/// A UDP header and the token, without its checksum: that is at 6.
pub fn udp(token: Token) -> Vec<u8> {
    let mut bytes = [6666u16, 6666, 16, 0].map(u16::to_be_bytes).concat();
    bytes.extend(token);
    bytes
}

/// A segment with the token, whose checksum is at 16.
pub fn tcp(flags: u8, token: Token) -> Vec<u8> {
    let mut bytes = [6666u16, 22, 0, 1, 0, 1].map(u16::to_be_bytes).concat();
    bytes.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(token);
    bytes
}

/// An ICMP message, whose checksum is at 2.
pub fn icmp(kind: u8, code: u8, rest: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], &rest.to_be_bytes()[..], body].concat()
}
