//! What strangers send of IPv6.

use std::net::Ipv6Addr;

use weir_kit::ipv6::{self, LAN_GATEWAY, SERVER};
use weir_kit::plan::Port;
use weir_wire::tcp::flag;

use super::packet::{Ip6, Link, SEGMENTS, Token, checked, icmp, tcp, udp};
use super::{Attempt, Table};
use crate::mac;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Who sends, on the link of provider 0, and whom it would reach.
pub struct Aim {
    pub link: Link,
    pub own: Ipv6Addr,
    pub host: Ipv6Addr,
}

/// A datagram to the first host's own address, as a tunnel may bring it.
pub fn to_a_host(token: Token) -> Vec<u8> {
    let ip = Ip6::new(SERVER, ipv6::host(0), UDP);
    ip.packet(&checked(udp(token), 6, ip.pseudo(UDP, 16)))
}

/// An extension header of eight bytes that says nothing, before `next`.
fn padding(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

fn fragment(next: u8, offset: u16) -> [u8; 8] {
    let [a, b] = offset.to_be_bytes();
    [next, 0, a, b, 0, 0, 0x77, 0x77]
}

impl Aim {
    pub fn new(host: Ipv6Addr) -> Self {
        let link = Link { from: [2, 0x66, 0, 0, 0, 0], to: mac(Port::GatewayWan(0)) };
        Self { link, own: ipv6::link(0, 0x66), host }
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        self.link.frame(0x86dd, packet)
    }

    fn udp(&self, src: Ipv6Addr, dst: Ipv6Addr, token: Token) -> Vec<u8> {
        let ip = Ip6::new(src, dst, UDP);
        self.frame(&ip.packet(&checked(udp(token), 6, ip.pseudo(UDP, 16))))
    }

    fn tcp(&self, flags: u8, token: Token) -> Vec<u8> {
        let ip = Ip6::new(self.own, self.host, TCP);
        self.frame(&ip.packet(&checked(tcp(flags, token), 16, ip.pseudo(TCP, 28))))
    }

    fn icmp(&self, ip: Ip6, message: Vec<u8>) -> Vec<u8> {
        let pseudo = ip.pseudo(ICMP, message.len());
        self.frame(&ip.packet(&checked(message, 2, pseudo)))
    }

    fn ping(&self, src: Ipv6Addr, dst: Ipv6Addr, token: Token) -> Vec<u8> {
        self.icmp(Ip6::new(src, dst, ICMP), icmp(128, 0, 1, &token))
    }

    /// To the host, behind these headers, the first of which is `first`.
    fn extended(&self, first: u8, headers: &[u8], token: Token) -> Vec<u8> {
        let ip = Ip6::new(self.own, self.host, first);
        let body = checked(udp(token), 6, ip.pseudo(UDP, 16));
        self.frame(&ip.packet(&[headers, &body].concat()))
    }

    fn other(&self, next: u8, body: &[u8]) -> Vec<u8> {
        self.frame(&Ip6::new(self.own, self.host, next).packet(body))
    }
}

/// All of it.
pub fn attempts(aim: &Aim) -> Vec<Attempt> {
    let mut table = Table::default();
    of_transports(&mut table, aim);
    of_icmp(&mut table, aim);
    of_neighbours(&mut table, aim);
    of_sources(&mut table, aim);
    of_destinations(&mut table, aim);
    of_headers(&mut table, aim);
    of_fragments(&mut table, aim);
    of_protocols(&mut table, aim);
    of_links(&mut table, aim);
    table.attempts
}

fn of_transports(table: &mut Table, aim: &Aim) {
    table.row("a datagram", |t| vec![aim.udp(aim.own, aim.host, t)]);
    for (name, flags) in SEGMENTS {
        table.row(name, |t| vec![aim.tcp(flags, t)]);
    }
}

fn of_icmp(table: &mut Table, aim: &Aim) {
    let ip = Ip6::new(aim.own, aim.host, ICMP);
    for (name, kind) in [
        ("an echo request", 128),
        ("an echo reply", 129),
        ("a query for listeners", 130),
        ("a router renumbering", 138),
        ("a node information query", 139),
        ("a mobile prefix solicitation", 146),
        ("a multicast router advertisement", 151),
        ("an ICMPv6 type that nobody knows", 200),
    ] {
        table.row(name, |t| vec![aim.icmp(ip, icmp(kind, 0, 1, &t))]);
    }
    for (name, kind, code, rest) in [
        ("no route, about nothing", 1, 0, 0),
        ("prohibited, about nothing", 1, 1, 0),
        ("port unreachable, about nothing", 1, 4, 0),
        ("too big, about nothing", 2, 0, 1280),
        ("time exceeded, about nothing", 3, 0, 0),
        ("a parameter problem, about nothing", 4, 1, 6),
        ("an error that nobody knows", 100, 0, 0),
    ] {
        table.row(name, |t| {
            let quoted = Ip6::new(aim.host, SERVER, UDP).packet(&udp(t));
            vec![aim.icmp(ip, icmp(kind, code, rest, &quoted))]
        });
    }
    table.row("every ICMPv6 type", |t| {
        (0..=u8::MAX).map(|kind| aim.icmp(ip, icmp(kind, 0, 1, &t))).collect()
    });
    table.row("an error with half a quote", |t| vec![aim.icmp(ip, icmp(1, 0, 0, &t))]);
    table.row("an error about an error", |t| {
        let quoted = Ip6::new(aim.host, SERVER, ICMP).packet(&icmp(1, 0, 0, &t));
        vec![aim.icmp(ip, icmp(1, 0, 0, &quoted))]
    });
}

/// What is of one link alone, sent to somebody beyond it, and from a neighbour who says to be another.
fn of_neighbours(table: &mut Table, aim: &Aim) {
    let about = |address: Ipv6Addr, t: Token| {
        // An option of a type that nobody knows (RFC 4861 §4.6) holds the token.
        let option = [&[253, 2, 0, 0, 0, 0], &t[..], &[0, 0]].concat();
        [&address.octets()[..], &option].concat()
    };
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let solicited: Ipv6Addr = "ff02::1:ff01:0".parse().unwrap();
    let ip = |src, dst| Ip6 { hops: 255, ..Ip6::new(src, dst, ICMP) };
    let by_link: Ipv6Addr = "fe80::66".parse().unwrap();
    for (name, dst) in [("the host", aim.host), ("its group", solicited), ("all", all_nodes)] {
        table.row(&format!("who has the host's address, asked of {name}"), |t| {
            vec![aim.icmp(ip(by_link, dst), icmp(135, 0, 0, &about(aim.host, t)))]
        });
        table.row(&format!("the host's address is here, told to {name}"), |t| {
            vec![aim.icmp(ip(by_link, dst), icmp(136, 0, 0x2000_0000, &about(aim.host, t)))]
        });
        table.row(&format!("a redirect, to {name}"), |t| {
            let body = [&aim.own.octets()[..], &about(SERVER, t)].concat();
            vec![aim.icmp(ip(ipv6::link(0, 1), dst), icmp(137, 0, 0, &body))]
        });
        table.row(&format!("a router's advertisement, to {name}"), |t| {
            let option = [&[253, 2, 0, 0, 0, 0], &t[..], &[0, 0]].concat();
            let body = [&[0; 8], &option[..]].concat();
            vec![aim.icmp(ip(by_link, dst), icmp(134, 0, 0, &body))]
        });
        table.row(&format!("a solicitation of routers, to {name}"), |t| {
            let option = [&[253, 2, 0, 0, 0, 0], &t[..], &[0, 0]].concat();
            vec![aim.icmp(ip(by_link, dst), icmp(133, 0, 0, &option))]
        });
    }
}

fn of_sources(table: &mut Table, aim: &Aim) {
    let gateway = ipv6::link(0, 2);
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    for (name, src, dst) in [
        ("in the host's own name (land)", aim.host, aim.host),
        ("in the name of the gateway in the LAN", LAN_GATEWAY, aim.host),
        ("in the name of the gateway's uplink", gateway, aim.host),
        ("from ::1", Ipv6Addr::LOCALHOST, aim.host),
        ("from ::", Ipv6Addr::UNSPECIFIED, aim.host),
        ("from a group", address("ff02::1"), aim.host),
        ("from an address of the link", address("fe80::66"), aim.host),
        ("from a site's own address", address("fec0::66"), aim.host),
        ("from a unique local address", address("fd99::66"), aim.host),
        ("from an address of IPv4", address("::ffff:10.0.1.2"), aim.host),
        ("from the other provider's router", ipv6::link(1, 1), aim.host),
        ("to the gateway, in the host's name", aim.host, gateway),
        ("to the gateway, in its own name (land)", gateway, gateway),
    ] {
        table.row(name, |t| vec![aim.udp(src, dst, t), aim.ping(src, dst, t)]);
    }
}

fn of_destinations(table: &mut Table, aim: &Aim) {
    let [a, b, c, d, ..] = aim.host.segments();
    let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    for (name, dst) in [
        ("to an address of the LAN that nobody has", Ipv6Addr::new(a, b, c, d, 0, 0, 9, 9)),
        ("to any router of the LAN", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
        ("to the gateway in the LAN", LAN_GATEWAY),
        ("to the gateway by its other uplink's address", ipv6::link(1, 2)),
        ("to all nodes", address("ff02::1")),
        ("to all nodes of a site", address("ff05::1")),
        ("to a group of the world", address("ff0e::1234")),
        ("to the host's group of the link", address("ff02::1:ff01:0")),
        ("to ::1", Ipv6Addr::LOCALHOST),
        ("to ::", Ipv6Addr::UNSPECIFIED),
        ("to an address of the link", address("fe80::1")),
        ("to an address of IPv4", address("::ffff:10.0.1.1")),
        ("to 6to4 of the LAN", address("2002:a00:101::1")),
        ("to the other provider's router", ipv6::link(1, 1)),
        ("to somebody in the Internet", SERVER),
    ] {
        table.row(name, |t| vec![aim.udp(aim.own, dst, t), aim.ping(aim.own, dst, t)]);
    }
}

fn of_headers(table: &mut Table, aim: &Aim) {
    let host = aim.host.octets();
    table.row("hop-by-hop options", |t| vec![aim.extended(HOP_BY_HOP, &padding(UDP), t)]);
    table.row("destination options", |t| vec![aim.extended(DESTINATION, &padding(UDP), t)]);
    table.row("hop-by-hop options that are not first", |t| {
        vec![aim.extended(DESTINATION, &[padding(HOP_BY_HOP), padding(UDP)].concat(), t)]
    });
    table.row("nine headers", |t| {
        let mut headers = [padding(DESTINATION); 9];
        headers[8] = padding(UDP);
        vec![aim.extended(DESTINATION, headers.as_flattened(), t)]
    });
    table.row("a header that ends beyond the packet", |t| {
        vec![aim.extended(DESTINATION, &[UDP, 200, 1, 4, 0, 0, 0, 0], t)]
    });
    table.row("a router alert", |t| vec![aim.extended(HOP_BY_HOP, &[UDP, 0, 5, 2, 0, 0, 1, 0], t)]);
    table.row("a jumbogram", |t| vec![aim.extended(HOP_BY_HOP, &[UDP, 0, 0xc2, 4, 0, 1, 0, 0], t)]);
    for (name, kind) in
        [("type 0", 0), ("type 2", 2), ("type 3", 3), ("segments (type 4)", 4), ("type 253", 253)]
    {
        let route = |left| [&[UDP, 2, kind, left, 0, 0, 0, 0], &host[..]].concat();
        table.row(&format!("a routing header of {name}, by the gateway"), |t| {
            let ip = Ip6::new(aim.own, ipv6::link(0, 2), ROUTING);
            vec![aim.frame(&ip.packet(&[&route(1)[..], &udp(t)].concat()))]
        });
        table.row(&format!("a routing header of {name}, done with"), |t| {
            vec![aim.extended(ROUTING, &route(0), t)]
        });
    }
}

fn of_fragments(table: &mut Table, aim: &Aim) {
    let part = |next, offset, body: &[u8]| {
        aim.other(FRAGMENT, &[&fragment(next, offset)[..], body].concat())
    };
    table.row("a first fragment", |t| vec![part(UDP, 1, &udp(t))]);
    table.row("a later fragment", |t| vec![part(UDP, 65, &t)]);
    table.row("a last fragment", |t| vec![part(UDP, 64, &t)]);
    table.row("a fragment of all", |t| vec![part(UDP, 0, &udp(t))]);
    table.row("a datagram in fragments, backwards", |t| {
        vec![part(UDP, 16, &t), part(UDP, 1, &udp(t))]
    });
    table.row("a tiny first fragment", |t| vec![part(TCP, 1, &t)]);
    table.row("a first fragment without its headers", |t| vec![part(DESTINATION, 1, &t)]);
    table.row("overlapping fragments", |t| {
        vec![part(TCP, 1, &tcp(flag::ACK, t)), part(TCP, 8, &tcp(flag::ACK, t)[8..])]
    });
    table.row("a fragment beyond the longest packet", |t| vec![part(UDP, 0xfff8, &t)]);
    table.row("two fragment headers", |t| {
        let inner = [&fragment(UDP, 0)[..], &udp(t)].concat();
        vec![part(FRAGMENT, 0, &inner)]
    });
    table.row("an echo request in fragments", |t| {
        vec![part(ICMP, 1, &icmp(128, 0, 1, &t)), part(ICMP, 16, &t)]
    });
}

fn of_protocols(table: &mut Table, aim: &Aim) {
    for (name, next) in [
        ("DCCP", 33),
        ("RSVP", 46),
        ("ESP", 50),
        ("AH", 51),
        ("no next header", 59),
        ("OSPF", 89),
        ("PIM", 103),
        ("L2TP", 115),
        ("SCTP", 132),
        ("mobility", 135),
        ("UDP-Lite", 136),
        ("HIP", 139),
        ("shim6", 140),
        ("protocol 253", 253),
        ("protocol 255", 255),
    ] {
        table.row(name, |t| {
            vec![aim.other(next, &[&[UDP, 0, 0, 0, 0, 0, 0, 0], &t[..], &[0; 8]].concat())]
        });
    }
    let inner = |t| {
        let ip = Ip6::new(SERVER, aim.host, UDP);
        ip.packet(&checked(udp(t), 6, ip.pseudo(UDP, 16)))
    };
    for (name, dst) in [("the host", aim.host), ("the gateway", ipv6::link(0, 2))] {
        let tunnel = |next, body: &[u8]| aim.frame(&Ip6::new(aim.own, dst, next).packet(body));
        table.row(&format!("IPv6 in IPv6 to {name}"), |t| vec![tunnel(41, &inner(t))]);
        table.row(&format!("GRE to {name}"), |t| {
            vec![tunnel(47, &[&[0, 0, 0x86, 0xdd], &inner(t)[..]].concat())]
        });
        table.row(&format!("IPv4 in IPv6 to {name}"), |t| vec![tunnel(4, &super::to_a_host4(t))]);
    }
}

fn of_links(table: &mut Table, aim: &Aim) {
    let ip = Ip6::new(aim.own, aim.host, UDP);
    let packet = |t| ip.packet(&checked(udp(t), 6, ip.pseudo(UDP, 16)));
    for (name, to) in [
        ("in a frame to everybody", [0xff; 6]),
        ("in a frame to all nodes", [0x33, 0x33, 0, 0, 0, 1]),
        ("in a frame to the gateway's LAN port", mac(Port::GatewayLan(0))),
        ("in a frame to the host", mac(Port::Host(0))),
    ] {
        table.row(name, |t| vec![aim.link.to(to).frame(0x86dd, &packet(t))]);
    }
    table.row("with a priority tag", |t| vec![aim.link.tagged(0, 0x86dd, &packet(t))]);
    table.row("with a tag of a VLAN", |t| vec![aim.link.tagged(5, 0x86dd, &packet(t))]);
    table.row("with two tags", |t| {
        let inner = [&[0, 0], &0x86ddu16.to_be_bytes()[..], &packet(t)].concat();
        vec![aim.link.tagged(0, 0x8100, &inner), aim.link.tagged(5, 0x8100, &inner)]
    });
    table.row("with a service tag", |t| {
        let inner = [&[0, 0], &0x86ddu16.to_be_bytes()[..], &packet(t)].concat();
        vec![aim.link.frame(0x88a8, &inner)]
    });
    table.row("as IPv4", |t| vec![aim.link.frame(0x0800, &packet(t))]);
    for (name, at, byte) in [("version 5", 0, 0x50), ("a length beyond the frame", 5, 200)] {
        table.row(name, |t| {
            let mut packet = packet(t);
            packet[at] = byte;
            vec![aim.frame(&packet)]
        });
    }
    for (name, hops) in [("with no hop left", 0), ("with one hop left", 1)] {
        table.row(name, |t| vec![aim.frame(&Ip6 { hops, ..ip }.packet(&udp(t)))]);
    }
}
