//! Frames of both families, made from what they say and read back, so that whatever left can be
//! answered, sent again or told of.

use std::net::IpAddr;

use weir_wire::checksum::{add, finish, finish_udp, pseudo4, pseudo6, sum};
use weir_wire::tcp::flag::{ACK, FIN, SYN};

use super::site::{link, mac_of_host, port_of_host};
use crate::gateway::{TCP, UDP, device_mac};

const ICMP: [u8; 2] = [1, 58];
/// Request and reply of echo, by family.
const ECHO: [[u8; 2]; 2] = [[8, 0], [128, 129]];
const DATA: u8 = 7;

/// What a frame of TCP, UDP or echo says.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    pub from: [u8; 6],
    pub to: [u8; 6],
    /// Tag; 0: none.
    pub vlan: u16,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub proto: u8,
    /// Of echo: its identifier, and 1 for a request.
    pub ports: [u16; 2],
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub ttl: u8,
    /// Bytes of data.
    pub len: usize,
}

impl Said {
    /// The first that a host of a LAN says to somebody: of a connection, without data.
    pub fn of_host(host: u8, [src, dst]: [IpAddr; 2], proto: u8, ports: [u16; 2]) -> Self {
        Self {
            from: mac_of_host(host),
            to: device_mac(port_of_host(host)),
            vlan: link(port_of_host(host)).1,
            src,
            dst,
            proto,
            ports,
            flags: SYN,
            seq: 1000,
            ack: 0,
            ttl: 64,
            len: 0,
        }
    }

    pub fn is_echo(&self) -> bool {
        !matches!(self.proto, TCP | UDP)
    }

    fn family(&self) -> usize {
        usize::from(self.src.is_ipv6())
    }

    /// Echo, in the family of the addresses.
    pub fn echo(src: IpAddr) -> u8 {
        ICMP[usize::from(src.is_ipv6())]
    }

    /// What it says back from who got it, to who sent it.
    pub fn answered(&self) -> Self {
        let ports = match self.is_echo() {
            true => [self.ports[0], 1 - self.ports[1]],
            false => [self.ports[1], self.ports[0]],
        };
        let begins = u32::from(self.flags & (SYN | FIN) != 0);
        let flags = if self.flags & (SYN | ACK) == SYN { SYN | ACK } else { ACK };
        Self {
            from: self.to,
            to: self.from,
            src: self.dst,
            dst: self.src,
            ports,
            flags,
            seq: self.ack,
            ack: self.seq.wrapping_add(self.len as u32).wrapping_add(begins),
            ttl: 64,
            ..*self
        }
    }

    fn transport(&self) -> Vec<u8> {
        let data = vec![DATA; self.len];
        let [a, b] = self.ports.map(u16::to_be_bytes);
        let mut bytes = match self.proto {
            TCP => {
                let (seq, ack) = (self.seq.to_be_bytes(), self.ack.to_be_bytes());
                let size: &[u8] = if self.flags & SYN != 0 { &[2, 4, 5, 180] } else { &[] };
                let words = 0x50 + 0x10 * (size.len() as u8 / 4);
                [&a[..], &b, &seq, &ack, &[words, self.flags, 16, 0, 0, 0, 0, 0], size, &data]
                    .concat()
            }
            UDP => [&a[..], &b, &(8 + self.len as u16).to_be_bytes(), &[0, 0], &data].concat(),
            _ => {
                let kind = ECHO[self.family()][usize::from(1 - self.ports[1])];
                [&[kind, 0, 0, 0][..], &a, &[0, 1], &data].concat()
            }
        };
        let at = match self.proto {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        seal(&mut bytes, at, self.src, self.dst, self.proto);
        bytes
    }

    pub fn frame(&self) -> Vec<u8> {
        let packet = packet([self.src, self.dst], self.proto, self.ttl, &self.transport());
        framed([self.from, self.to], self.vlan, &packet)
    }

    /// None: it is of another kind, or behind options.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (head, rest) = frame.split_first_chunk::<12>()?;
        if rest.len() < 34 {
            return None;
        }
        let tagged = rest.starts_with(&[0x81, 0]);
        let vlan = if tagged { number(rest, 2) & 0xfff } else { 0 };
        let ip = &rest[if tagged { 6 } else { 2 }..];
        let (src, dst, proto, ttl, l4, total): (IpAddr, IpAddr, _, _, _, _) = match ip.first()? {
            0x45 if ip.len() >= 28 && number(ip, 6) & 0x3fff == 0 => (
                <[u8; 4]>::try_from(&ip[12..16]).unwrap().into(),
                <[u8; 4]>::try_from(&ip[16..20]).unwrap().into(),
                ip[9],
                ip[8],
                &ip[20..],
                usize::from(number(ip, 2)).checked_sub(20)?,
            ),
            first if first >> 4 == 6 && ip.len() >= 48 => (
                <[u8; 16]>::try_from(&ip[8..24]).unwrap().into(),
                <[u8; 16]>::try_from(&ip[24..40]).unwrap().into(),
                ip[6],
                ip[7],
                &ip[40..],
                usize::from(number(ip, 4)),
            ),
            _ => return None,
        };
        let echo = ECHO[usize::from(src.is_ipv6())];
        let header = match proto {
            _ if total > l4.len() => return None,
            TCP if total < 20 => return None,
            TCP => usize::from(l4.get(12)? >> 4) * 4,
            UDP => 8,
            proto if proto == Self::echo(src) && echo.contains(&l4[0]) => 8,
            _ => return None,
        };
        let (mut ports, mut said) = ([number(l4, 0), number(l4, 2)], [0; 2]);
        let mut flags = 0;
        if proto == TCP {
            let word = |at: usize| u32::from_be_bytes(l4[at..at + 4].try_into().unwrap());
            (said, flags) = ([word(4), word(8)], l4[13]);
        } else if proto != UDP {
            ports = [number(l4, 4), u16::from(l4[0] == echo[0])];
        }
        let len = total.checked_sub(header)?;
        let (from, to) = (head[6..].try_into().unwrap(), head[..6].try_into().unwrap());
        let [seq, ack] = said;
        Some(Self { from, to, vlan, src, dst, proto, ports, flags, seq, ack, ttl, len })
    }
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Fills in the transport's checksum.
fn seal(transport: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, proto: u8) {
    let pseudo = match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if proto == ICMP[0] => 0,
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            pseudo4(src.octets(), dst.octets(), proto, transport.len() as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            pseudo6(&src.octets(), &dst.octets(), proto, transport.len() as u32)
        }
        _ => panic!("of one family"),
    };
    let all = add(pseudo, sum(transport));
    let field = if proto == UDP { finish_udp(all) } else { finish(all) };
    transport[at..at + 2].copy_from_slice(&field);
}

/// An IP packet, which may not be split on its way.
fn packet([src, dst]: [IpAddr; 2], proto: u8, ttl: u8, transport: &[u8]) -> Vec<u8> {
    let len = transport.len() as u16;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [high, low] = (20 + len).to_be_bytes();
            let mut ip = vec![0x45, 0, high, low, 0, 9, 0x40, 0, ttl, proto, 0, 0];
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let field = finish(sum(&ip));
            ip[10..12].copy_from_slice(&field);
            [&ip, transport].concat()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [high, low] = len.to_be_bytes();
            let head = [0x60, 0, 0, 0, high, low, proto, ttl];
            [&head, &src.octets()[..], &dst.octets(), transport].concat()
        }
        _ => panic!("of one family"),
    }
}

fn framed([from, to]: [[u8; 6]; 2], vlan: u16, packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let tag = if vlan == 0 { vec![] } else { [&[0x81, 0][..], &vlan.to_be_bytes()].concat() };
    [&to[..], &from, &tag, &kind, packet].concat()
}

/// Somebody on the way says something of a frame that left: of this type and code, with a number
/// behind them. It comes back to where that left.
pub fn told(about: &Said, router: IpAddr, [kind, code]: [u8; 2], what: u32) -> Vec<u8> {
    let quoted = packet([about.src, about.dst], about.proto, about.ttl, &about.transport());
    let quoted = &quoted[..quoted.len().min(500)];
    let mut message = [&[kind, code, 0, 0][..], &what.to_be_bytes(), quoted].concat();
    let proto = Said::echo(router);
    seal(&mut message, 2, router, about.src, proto);
    let packet = packet([router, about.src], proto, 60, &message);
    framed([about.to, about.from], about.vlan, &packet)
}

/// The frame of IPv4 in two fragments, cut behind so many units of 8 bytes of its payload.
pub fn fragments(frame: &Said, units: u8, ident: u8) -> [Vec<u8>; 2] {
    let whole = packet([frame.src, frame.dst], frame.proto, frame.ttl, &frame.transport());
    let cut = 20 + 8 * usize::from(units);
    let part = |payload: &[u8], fragment: [u8; 2]| {
        let mut ip = whole[..20].to_vec();
        ip[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        (ip[5], ip[6], ip[7]) = (ident, fragment[0], fragment[1]);
        ip[10..12].fill(0);
        let field = finish(sum(&ip));
        ip[10..12].copy_from_slice(&field);
        ip.extend(payload);
        framed([frame.from, frame.to], frame.vlan, &ip)
    };
    [part(&whole[20..cut], [0x20, 0]), part(&whole[cut..], [0, units])]
}
