//! What strangers send: frames that must lead nowhere. All have one port, so that a capture tells
//! them, and whatever they cause, from all else.

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, PacketBuilderStep};
use weir_kit::plan::{self, Port};
use weir_kit::station::Station;
use weir_wire::ipv4;

use crate::{mac, written};

/// The source and destination port of every attempt; of echo, the identifier.
pub const MARK: u16 = 6666;

/// Somebody in the Internet whom no client asks for anything.
pub const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

/// Addresses that nobody has on a wire (RFC 1812 §5.3.7).
const MARTIANS: [Ipv4Addr; 5] = [
    Ipv4Addr::new(0, 1, 2, 3),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::new(255, 255, 255, 255),
];

/// Somebody who sends by one leg.
pub struct Stranger {
    /// Who, for messages.
    pub name: &'static str,
    /// Where.
    pub station: Station,
    /// What.
    pub frames: Vec<Vec<u8>>,
}

impl Stranger {
    /// Sends all of it.
    pub fn try_all(&mut self) {
        for frame in &self.frames {
            self.station.send(frame).unwrap();
        }
    }
}

/// From one hardware address to another.
#[derive(Clone, Copy)]
struct Link {
    from: [u8; 6],
    to: [u8; 6],
}

impl Link {
    fn step(
        self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        ttl: u8,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2(self.from, self.to).ipv4(src.octets(), dst.octets(), ttl)
    }

    fn udp(self, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
        written(|to| self.step(src, dst, 64).udp(MARK, MARK).write(to, b"not mine"))
    }

    /// By every protocol.
    fn all(self, src: Ipv4Addr, dst: Ipv4Addr) -> [Vec<u8>; 3] {
        let step = || self.step(src, dst, 64);
        [
            self.udp(src, dst),
            written(|to| step().tcp(MARK, MARK, 1, 1024).syn().write(to, &[])),
            written(|to| step().icmpv4_echo_request(MARK, 1).write(to, b"not mine")),
        ]
    }

    /// Frames that are broken where a header, or a checksum, begins to lie.
    fn malformed(self, src: Ipv4Addr, dst: Ipv4Addr) -> [Vec<u8>; 3] {
        let [mut length, mut checksum, mut cut] = [(); 3].map(|()| self.udp(src, dst));
        // Of UDP, below its header's.
        length[38..40].copy_from_slice(&3u16.to_be_bytes());
        checksum[24] ^= 1;
        // A first fragment without its whole TCP header.
        cut[23] = 6;
        cut[20] = 0x20;
        cut[24..26].fill(0);
        ipv4::Packet::new_unchecked(&mut cut[14..34]).fill_checksum();
        [length, checksum, cut]
    }

    /// In the name of everybody, or of several.
    fn by_groups(self, src: Ipv4Addr, dst: Ipv4Addr) -> impl Iterator<Item = Vec<u8>> {
        let groups = [[0xff; 6], [1, 0, 0x5e, 0, 0, 1]];
        groups.into_iter().map(move |from| Link { from, ..self }.udp(src, dst))
    }
}

/// Of somebody on provider `near`'s link, whose hardware address is its own: to the hosts, to others
/// on the uplinks and beyond them; in the name of hosts and of others.
pub fn by_a_provider(near: usize, far: usize, hosts: &[Ipv4Addr]) -> Vec<Vec<u8>> {
    let link = Link { from: [2, 0x66, 0, 0, 0, near as u8], to: mac(Port::GatewayWan(near)) };
    let [a, b, c, _] = plan::next_hop(near).octets();
    let own = Ipv4Addr::new(a, b, c, 66);
    let targets = hosts.iter().copied().chain([plan::next_hop(far), NOWHERE]);
    let mut frames: Vec<_> = targets.flat_map(|target| link.all(own, target)).collect();
    let names = hosts.iter().copied().chain([plan::lan_gateway(0), plan::uplink_address(far, 0)]);
    frames.extend(names.chain(MARTIANS).map(|name| link.udp(name, hosts[0])));
    frames.extend(MARTIANS.iter().map(|nobody| link.udp(own, *nobody)));
    frames.extend(link.by_groups(own, hosts[0]));
    frames.extend(link.malformed(own, hosts[0]));
    frames
}

/// Of a station behind LAN port `port`: out, in the name of `others`, of nobody, and in its own but
/// malformed, in the name of a group, or to nobody.
pub fn by_a_lan(port: usize, own: Ipv4Addr, others: &[Ipv4Addr]) -> Vec<Vec<u8>> {
    let link = Link { from: [2, 0x66, 0, 0, 1, port as u8], to: mac(Port::GatewayLan(port)) };
    let nobody = Ipv4Addr::new(172, 16, 0, 9);
    let names = others.iter().copied().chain([nobody, plan::next_hop(0), NOWHERE]);
    let mut frames: Vec<_> = names.flat_map(|name| link.all(name, NOWHERE)).collect();
    frames.extend(MARTIANS.iter().map(|nobody| link.udp(*nobody, NOWHERE)));
    frames.extend(MARTIANS.iter().map(|nobody| link.udp(own, *nobody)));
    frames.extend(link.by_groups(own, NOWHERE));
    frames.extend(link.malformed(own, NOWHERE));
    let step = link.step(own, NOWHERE, 1).udp(MARK, MARK);
    frames.push(written(|to| step.write(to, b"no further")));
    frames
}
