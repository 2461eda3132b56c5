//! What strangers send of IPv4.

use std::net::Ipv4Addr;

use weir_kit::plan::{self, Port};
use weir_wire::tcp::flag;

use super::packet::{Ip4, Link, SEGMENTS, Token, checked, icmp, tcp, udp};
use super::{Attempt, Table};
use crate::mac;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const MORE: u16 = 0x2000;

/// Somebody in the Internet.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Who sends, on the link of provider 0, and whom it would reach.
pub struct Aim {
    pub link: Link,
    pub own: Ipv4Addr,
    pub host: Ipv4Addr,
    pub other_host: Ipv4Addr,
}

impl Aim {
    pub fn new(host: Ipv4Addr, other_host: Ipv4Addr) -> Self {
        let link = Link { from: [2, 0x66, 0, 0, 0, 0], to: mac(Port::GatewayWan(0)) };
        let [a, b, c, _] = plan::next_hop(0).octets();
        Self { link, own: Ipv4Addr::new(a, b, c, 66), host, other_host }
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        self.link.frame(0x0800, packet)
    }

    fn udp(&self, src: Ipv4Addr, dst: Ipv4Addr, token: Token) -> Vec<u8> {
        let ip = Ip4::new(src, dst, UDP);
        self.frame(&ip.packet(&checked(udp(token), 6, ip.pseudo(16))))
    }

    fn tcp(&self, flags: u8, token: Token) -> Vec<u8> {
        let ip = Ip4::new(self.own, self.host, TCP);
        self.frame(&ip.packet(&checked(tcp(flags, token), 16, ip.pseudo(28))))
    }

    fn icmp(&self, src: Ipv4Addr, dst: Ipv4Addr, message: Vec<u8>) -> Vec<u8> {
        self.frame(&Ip4::new(src, dst, ICMP).packet(&checked(message, 2, 0)))
    }

    /// An ICMP error about a packet that the host never sent.
    fn error(&self, kind: u8, code: u8, rest: u32, token: Token) -> Vec<u8> {
        let quoted = Ip4::new(self.host, FAR, UDP).packet(&udp(token));
        self.icmp(self.own, self.host, icmp(kind, code, rest, &quoted))
    }

    /// To the host, by another protocol.
    fn other(&self, proto: u8, body: &[u8]) -> Vec<u8> {
        self.frame(&Ip4::new(self.own, self.host, proto).packet(body))
    }

    fn fragment(&self, fragment: u16, body: &[u8]) -> Vec<u8> {
        self.frame(&Ip4 { fragment, ..Ip4::new(self.own, self.host, UDP) }.packet(body))
    }

    /// To the host by way of `first`, with options.
    fn options(&self, first: Ipv4Addr, options: &[u8], token: Token) -> Vec<u8> {
        let ip = Ip4 { options, ..Ip4::new(self.own, first, UDP) };
        self.frame(&ip.packet(&checked(udp(token), 6, ip.pseudo(16))))
    }
}

/// All of it.
pub fn attempts(aim: &Aim) -> Vec<Attempt> {
    let mut table = Table::default();
    of_transports(&mut table, aim);
    of_icmp(&mut table, aim);
    of_sources(&mut table, aim);
    of_destinations(&mut table, aim);
    of_options(&mut table, aim);
    of_fragments(&mut table, aim);
    of_protocols(&mut table, aim);
    of_links(&mut table, aim);
    malformed(&mut table, aim);
    table.attempts
}

fn of_transports(table: &mut Table, aim: &Aim) {
    table.row("a datagram", |t| vec![aim.udp(aim.own, aim.host, t)]);
    for (name, flags) in SEGMENTS {
        table.row(name, |t| vec![aim.tcp(flags, t)]);
    }
}

fn of_icmp(table: &mut Table, aim: &Aim) {
    for (name, kind) in [
        ("an echo request", 8),
        ("an echo reply", 0),
        ("a router advertisement", 9),
        ("a router solicitation", 10),
        ("a timestamp request", 13),
        ("a timestamp reply", 14),
        ("an information request", 15),
        ("an address mask request", 17),
        ("an ICMP type that nobody knows", 200),
    ] {
        table.row(name, |t| vec![aim.icmp(aim.own, aim.host, icmp(kind, 0, 0x1a0a_0001, &t))]);
    }
    for (name, kind, code, rest) in [
        ("unreachable, about nothing", 3, 1, 0),
        ("port unreachable, about nothing", 3, 3, 0),
        ("fragmentation needed, about nothing", 3, 4, 68),
        ("a source quench", 4, 0, 0),
        ("a redirect", 5, 1, u32::from(aim.own)),
        ("time exceeded, about nothing", 11, 0, 0),
        ("reassembly time exceeded", 11, 1, 0),
        ("a parameter problem, about nothing", 12, 0, 0),
    ] {
        table.row(name, |t| vec![aim.error(kind, code, rest, t)]);
    }
    table.row("every ICMP type", |t| {
        let message = |kind| aim.icmp(aim.own, aim.host, icmp(kind, 0, 0x1a0a_0001, &t));
        (0..=u8::MAX).map(message).collect()
    });
    table.row("an error with half a quote", |t| {
        vec![aim.icmp(aim.own, aim.host, icmp(3, 1, 0, &t))]
    });
    table.row("an error about an error", |t| {
        let quoted = Ip4::new(aim.host, FAR, ICMP).packet(&icmp(3, 1, 0, &t));
        vec![aim.icmp(aim.own, aim.host, icmp(3, 1, 0, &quoted))]
    });
    table.row("an error in the name of the host", |t| {
        let quoted = Ip4::new(aim.host, FAR, UDP).packet(&udp(t));
        vec![aim.icmp(aim.host, aim.host, icmp(3, 3, 0, &quoted))]
    });
}

fn of_sources(table: &mut Table, aim: &Aim) {
    let to_host = |name, src: Ipv4Addr| (name, src, aim.host);
    let gateway = plan::uplink_address(0, 0);
    for (name, src, dst) in [
        to_host("in the host's own name (land)", aim.host),
        to_host("in another host's name", aim.other_host),
        to_host("in the name of the gateway in the LAN", plan::lan_gateway(0)),
        to_host("in the name of the gateway's uplink", gateway),
        to_host("from 127.0.0.1", Ipv4Addr::LOCALHOST),
        to_host("from 0.0.0.0", Ipv4Addr::UNSPECIFIED),
        to_host("from 240.0.0.1", Ipv4Addr::new(240, 0, 0, 1)),
        to_host("from a group", Ipv4Addr::new(224, 0, 0, 9)),
        to_host("from everybody", Ipv4Addr::BROADCAST),
        to_host("from the other provider's router", plan::next_hop(1)),
        ("to the gateway, in the host's name", aim.host, gateway),
        ("to the gateway, in its own name (land)", gateway, gateway),
    ] {
        table.row(name, |t| {
            let ping = aim.icmp(src, dst, icmp(8, 0, 0x1a0a_0001, &t));
            vec![aim.udp(src, dst, t), ping]
        });
    }
}

fn of_destinations(table: &mut Table, aim: &Aim) {
    let [a, b, ..] = aim.host.octets();
    for (name, dst) in [
        ("to an address of the LAN that nobody has", Ipv4Addr::new(a, b, 113, 250)),
        ("to everybody in the LAN", Ipv4Addr::new(a, b, 255, 255)),
        ("to the LAN's first address", Ipv4Addr::new(a, b, 0, 0)),
        ("to everybody", Ipv4Addr::BROADCAST),
        ("to all hosts", Ipv4Addr::new(224, 0, 0, 1)),
        ("to a group", Ipv4Addr::new(239, 1, 2, 3)),
        ("to 127.0.0.1", Ipv4Addr::LOCALHOST),
        ("to 0.0.0.0", Ipv4Addr::UNSPECIFIED),
        ("to 240.0.0.1", Ipv4Addr::new(240, 0, 0, 1)),
        ("to the gateway in the LAN", plan::lan_gateway(0)),
        ("to the gateway by its other uplink's address", plan::uplink_address(1, 0)),
        ("to the other provider's router", plan::next_hop(1)),
        ("to somebody in the Internet", FAR),
    ] {
        table.row(name, |t| {
            let ping = aim.icmp(aim.own, dst, icmp(8, 0, 0x1a0a_0001, &t));
            vec![aim.udp(aim.own, dst, t), ping]
        });
    }
}

fn of_options(table: &mut Table, aim: &Aim) {
    let [a, b, c, d] = aim.host.octets();
    let gateway = plan::uplink_address(0, 0);
    for (name, kind) in [("a loose source route", 131), ("a strict source route", 137)] {
        let route = [kind, 7, 4, a, b, c, d, 0];
        table.row(name, |t| vec![aim.options(gateway, &route, t)]);
    }
    for (name, options) in [
        ("a route that ended", [131, 7, 8, a, b, c, d, 0]),
        ("a route to record", [7, 7, 4, 0, 0, 0, 0, 0]),
        ("a router alert", [148, 4, 0, 0, 1, 1, 1, 1]),
        ("an option longer than its header", [7, 40, 4, 0, 0, 0, 0, 0]),
    ] {
        table.row(name, |t| vec![aim.options(aim.host, &options, t)]);
    }
}

fn of_fragments(table: &mut Table, aim: &Aim) {
    table.row("a first fragment", |t| vec![aim.fragment(MORE, &udp(t))]);
    table.row("a later fragment", |t| vec![aim.fragment(MORE | 8, &t)]);
    table.row("a last fragment", |t| vec![aim.fragment(8, &t)]);
    table.row("a datagram in fragments, backwards", |t| {
        vec![aim.fragment(2, &t), aim.fragment(MORE, &udp(t))]
    });
    table.row("a tiny first fragment", |t| {
        vec![aim.frame(&Ip4 { fragment: MORE, ..Ip4::new(aim.own, aim.host, TCP) }.packet(&t))]
    });
    table.row("overlapping fragments", |t| {
        let tcp = tcp(flag::ACK, t);
        let part = |fragment, body: &[u8]| {
            aim.frame(&Ip4 { fragment, ..Ip4::new(aim.own, aim.host, TCP) }.packet(body))
        };
        vec![part(MORE, &tcp), part(1, &tcp[8..])]
    });
    table.row("a fragment beyond the longest packet", |t| vec![aim.fragment(0x1fff, &t)]);
    table.row("an echo request in fragments", |t| {
        let part = |fragment, body: &[u8]| {
            aim.frame(&Ip4 { fragment, ..Ip4::new(aim.own, aim.host, ICMP) }.packet(body))
        };
        vec![part(MORE, &icmp(8, 0, 1, &t)), part(2, &t)]
    });
}

fn of_protocols(table: &mut Table, aim: &Aim) {
    let inner = |t| {
        let ip = Ip4::new(FAR, aim.host, UDP);
        ip.packet(&checked(udp(t), 6, ip.pseudo(16)))
    };
    let gateway = plan::uplink_address(0, 0);
    for (name, proto) in [
        ("IGMP", 2),
        ("DCCP", 33),
        ("ESP", 50),
        ("AH", 51),
        ("OSPF", 89),
        ("VRRP", 112),
        ("L2TP", 115),
        ("SCTP", 132),
        ("UDP-Lite", 136),
        ("protocol 0", 0),
        ("protocol 255", 255),
    ] {
        table.row(name, |t| vec![aim.other(proto, &[&[0; 8], &t[..], &[0; 8]].concat())]);
    }
    for (name, dst) in [("the host", aim.host), ("the gateway", gateway)] {
        let tunnel = |proto, body: &[u8]| aim.frame(&Ip4::new(aim.own, dst, proto).packet(body));
        table.row(&format!("GRE to {name}"), |t| {
            vec![tunnel(47, &[&[0, 0, 8, 0], &inner(t)[..]].concat())]
        });
        table.row(&format!("IP in IP to {name}"), |t| vec![tunnel(4, &inner(t))]);
        table.row(&format!("6in4 to {name}"), |t| {
            let inside = super::v6::to_a_host(t);
            vec![tunnel(41, &inside)]
        });
    }
}

fn of_links(table: &mut Table, aim: &Aim) {
    let ip = Ip4::new(aim.own, aim.host, UDP);
    let packet = |t| ip.packet(&checked(udp(t), 6, ip.pseudo(16)));
    for (name, to) in [
        ("in a frame to everybody", [0xff; 6]),
        ("in a frame to a group", [1, 0, 0x5e, 0, 0, 1]),
        ("in a frame to the gateway's LAN port", mac(Port::GatewayLan(0))),
        ("in a frame to the host", mac(Port::Host(0))),
    ] {
        table.row(name, |t| vec![aim.link.to(to).frame(0x0800, &packet(t))]);
    }
    table.row("with a priority tag", |t| vec![aim.link.tagged(0, 0x0800, &packet(t))]);
    table.row("with a tag of a VLAN", |t| vec![aim.link.tagged(5, 0x0800, &packet(t))]);
    table.row("with two tags", |t| {
        let inner = [&[0, 0], &0x0800u16.to_be_bytes()[..], &packet(t)].concat();
        vec![aim.link.tagged(0, 0x8100, &inner), aim.link.tagged(5, 0x8100, &inner)]
    });
    table.row("with a service tag", |t| {
        let inner = [&[0, 0], &0x0800u16.to_be_bytes()[..], &packet(t)].concat();
        vec![aim.link.frame(0x88a8, &inner)]
    });
    table.row("as IPv6", |t| vec![aim.link.frame(0x86dd, &packet(t))]);
}

fn malformed(table: &mut Table, aim: &Aim) {
    let ip = Ip4::new(aim.own, aim.host, UDP);
    let packet = |t| ip.packet(&checked(udp(t), 6, ip.pseudo(16)));
    for (name, at, byte) in [
        ("a wrong header checksum", 10, 0x11),
        ("version 5", 0, 0x55),
        ("a header of sixteen bytes", 0, 0x44),
        ("a total length beyond the frame", 3, 200),
    ] {
        table.row(name, |t| {
            let mut packet = packet(t);
            packet[at] = byte;
            if at != 10 {
                packet[10..12].fill(0);
                let [a, b] = weir_wire::checksum::finish(weir_wire::checksum::sum(&packet[..20]));
                (packet[10], packet[11]) = (a, b);
            }
            vec![aim.frame(&packet)]
        });
    }
    table.row("a wrong UDP length", |t| {
        let mut body = udp(t);
        body[5] = 3;
        vec![aim.frame(&ip.packet(&body))]
    });
    for (name, ttl) in [("with no time to live", 0), ("at the end of its time", 1)] {
        table.row(name, |t| vec![aim.frame(&Ip4 { ttl, ..ip }.packet(&udp(t)))]);
    }
}
