//! The flows of the benchmarks, and their packets.
//!
//! Flow *i* belongs to endpoint `i % ENDPOINTS`; a host has 63 endpoints, ports 1024 to 1086, and
//! talks to addresses of its own in 198.18.0.0/15 (the range for benchmarks, RFC 2544). So 64 512
//! flows are those of 1 024 hosts and 1 032 192 those of 16 384, each by a port of its own, which
//! is the shape that FD.io's NAT44 tests have; beyond, each endpoint talks to several addresses.
//! Those of IPv6 are the same numbers, in prefixes of 2001:2::/48 (RFC 5180 §8).

use anyhow::{Result, ensure};
use serde::Serialize;
use weir_layout::Family;
use weir_wire::{checksum, tcp, udp};

use crate::memory::gateway::{LAN, MAC};

/// Endpoints before each gets a second destination.
pub const ENDPOINTS: usize = 16_384 * HOST_ENDPOINTS;
/// Most flows: eight destinations for each endpoint.
pub const MOST_FLOWS: usize = 8 * ENDPOINTS;
/// Bytes of the longest frame, without its check sequence.
const LONGEST: usize = 80;

const HOST_ENDPOINTS: usize = 63;
const FIRST_PORT: u16 = 1024;
const SERVICE: u16 = 443;
/// Offset of the IP header.
const L3: usize = 14;
/// The first 96 bits of hosts of IPv6, and of those they talk to.
const PREFIXES6: [[u8; 12]; 2] =
    [[0x20, 0x01, 0, 2, 0, 0, 1, 0, 0, 0, 0, 1], [0x20, 0x01, 0, 2, 0, 0, 0, 0xff, 0, 0, 0, 0]];

/// Where the addresses are, and what is behind them.
#[derive(Clone, Copy, Debug)]
struct Places {
    source: usize,
    /// Bytes of an address.
    len: usize,
}

impl Places {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self { source: L3 + 12, len: 4 },
            Family::V6 => Self { source: L3 + 8, len: 16 },
        }
    }

    /// Offset of the transport header.
    fn l4(self) -> usize {
        self.source + 2 * self.len
    }
}

/// An address of either family, in the first of these bytes.
type Address = [u8; 16];

/// The transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// 18 bytes of data in each packet.
    Udp,
    /// Segments without data.
    Tcp,
}

impl Protocol {
    /// Name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Addresses and ports of a flow as its inside host has them, host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    host: u32,
    port: u16,
    site: u32,
}

impl Flow {
    /// Flow number `index`.
    ///
    /// # Errors
    /// When there are not that many.
    pub fn number(index: usize) -> Result<Self> {
        ensure!(index < MOST_FLOWS, "{MOST_FLOWS} flows at most are possible");
        let (endpoint, round) = (index % ENDPOINTS, index / ENDPOINTS);
        let host = (endpoint / HOST_ENDPOINTS) as u32;
        Ok(Self {
            host: u32::from_be_bytes([10, 0, 0, 0]) + host,
            port: FIRST_PORT + (endpoint % HOST_ENDPOINTS) as u16,
            site: u32::from_be_bytes([198, 18, 0, 0]) + host + ((round as u32) << 14),
        })
    }
}

/// What a flow looks like on its uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct External {
    address: Address,
    port: [u8; 2],
    /// The uplink's.
    pub device: u8,
}

impl External {
    /// Of a frame that left by `device`.
    ///
    /// # Panics
    /// When the frame is none of a [`Template`].
    pub fn of(frame: &[u8], device: u8) -> Self {
        let family = if frame[12..L3] == ETHERTYPES[0] { Family::V4 } else { Family::V6 };
        let places = Places::of(family);
        let mut address = [0; 16];
        address[..places.len].copy_from_slice(&frame[places.source..][..places.len]);
        Self { address, port: [frame[places.l4()], frame[places.l4() + 1]], device }
    }
}

/// What frames say that carry IPv4, and IPv6.
const ETHERTYPES: [[u8; 2]; 2] = [[8, 0], [0x86, 0xdd]];

/// Everything in which a packet differs from its [`Template`].
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    addresses: [u8; 32],
    ports: [u8; 4],
    header_sum: [u8; 2],
    transport_sum: [u8; 2],
    /// The device it comes in by.
    pub device: u8,
    station: u8,
}

/// What the packets of a run have in common.
#[derive(Clone, Debug)]
pub struct Template {
    family: Family,
    places: Places,
    bytes: [u8; LONGEST],
    len: usize,
    sum_at: usize,
    header_sum: u16,
    transport_sum: u16,
}

impl Template {
    /// Packets of a family with this time to live and, for TCP, these flags.
    pub fn new(family: Family, protocol: Protocol, ttl: u8, tcp_flags: u8) -> Self {
        let places = Places::of(family);
        let l4 = places.l4();
        let mut bytes = [0; LONGEST];
        bytes[..6].copy_from_slice(&MAC);
        bytes[6..12].copy_from_slice(&[2, 0, 0, 2, 0, 0]);
        bytes[12..L3].copy_from_slice(&ETHERTYPES[family.index()]);
        let (number, len, sum_at) = match protocol {
            Protocol::Udp => (udp::PROTOCOL, 26u16, l4 + 6),
            Protocol::Tcp => (tcp::PROTOCOL, 20, l4 + 16),
        };
        match family {
            Family::V4 => {
                bytes[L3..L3 + 4].copy_from_slice(&[0x45, 0, 0, 20 + len as u8]);
                // Don't fragment.
                bytes[L3 + 6] = 0x40;
                bytes[L3 + 8..L3 + 10].copy_from_slice(&[ttl, number]);
            }
            Family::V6 => {
                bytes[L3..L3 + 8].copy_from_slice(&[0x60, 0, 0, 0, 0, len as u8, number, ttl]);
            }
        }
        match protocol {
            Protocol::Udp => bytes[l4 + 4..l4 + 6].copy_from_slice(&len.to_be_bytes()),
            Protocol::Tcp => {
                bytes[l4 + 12..l4 + 16].copy_from_slice(&[0x50, tcp_flags, 0xff, 0xff])
            }
        }
        let transport = checksum::sum(&bytes[l4..l4 + usize::from(len)]);
        // Without addresses it is the same in both families.
        let pseudo = checksum::pseudo4([0; 4], [0; 4], number, len);
        Self {
            family,
            places,
            len: (l4 + usize::from(len)).max(60),
            sum_at,
            header_sum: checksum::sum(&bytes[L3..l4]),
            transport_sum: checksum::add(transport, pseudo),
            bytes,
        }
    }

    /// The flow's packet from its host.
    pub fn out(&self, flow: &Flow) -> Packet {
        // The hosts share 256 hardware addresses, as behind routers.
        let [.., station] = flow.host.to_be_bytes();
        let addresses = self.addresses(flow);
        self.packet(addresses, flow.port.to_be_bytes(), SERVICE.to_be_bytes(), LAN, station)
    }

    /// The flow's packet from the Internet.
    pub fn back(&self, flow: &Flow, external: &External) -> Packet {
        let [_, site] = self.addresses(flow);
        let External { address, port, device } = *external;
        self.packet([site, address], SERVICE.to_be_bytes(), port, device, 0)
    }

    /// Addresses of the flow's host, and of whom it talks to.
    fn addresses(&self, flow: &Flow) -> [Address; 2] {
        let mut addresses = [[0; 16]; 2];
        for ((address, number), prefix) in
            addresses.iter_mut().zip([flow.host, flow.site]).zip(PREFIXES6)
        {
            let number = number.to_be_bytes();
            match self.family {
                Family::V4 => address[..4].copy_from_slice(&number),
                Family::V6 => {
                    address[..12].copy_from_slice(&prefix);
                    address[12..].copy_from_slice(&number);
                }
            }
        }
        addresses
    }

    fn packet(
        &self,
        [src, dst]: [Address; 2],
        sport: [u8; 2],
        dport: [u8; 2],
        device: u8,
        station: u8,
    ) -> Packet {
        let len = self.places.len;
        let mut addresses = [0; 32];
        addresses[..len].copy_from_slice(&src[..len]);
        addresses[len..2 * len].copy_from_slice(&dst[..len]);
        let [p0, p1] = sport;
        let [q0, q1] = dport;
        let ports = [p0, p1, q0, q1];
        let sum = checksum::sum(&addresses);
        let transport = checksum::add(self.transport_sum, sum);
        Packet {
            addresses,
            ports,
            header_sum: checksum::finish(checksum::add(self.header_sum, sum)),
            transport_sum: checksum::finish_udp(checksum::add(transport, checksum::sum(&ports))),
            device,
            station,
        }
    }

    /// Bytes of its frames, without the check sequence.
    pub fn frame_len(&self) -> usize {
        self.len
    }

    /// Writes the packet as a frame, which is as long as [`Self::frame_len`] says.
    #[inline]
    pub fn frame(&self, packet: &Packet) -> [u8; LONGEST] {
        let Places { source, len } = self.places;
        let l4 = self.places.l4();
        let mut bytes = self.bytes;
        bytes[11] = packet.station;
        if self.family == Family::V4 {
            bytes[L3 + 10..L3 + 12].copy_from_slice(&packet.header_sum);
        }
        bytes[source..l4].copy_from_slice(&packet.addresses[..2 * len]);
        bytes[l4..l4 + 4].copy_from_slice(&packet.ports);
        bytes[self.sum_at..self.sum_at + 2].copy_from_slice(&packet.transport_sum);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use weir_wire::family::{V4, V6};

    use super::*;

    #[test]
    fn no_two_flows_are_alike() {
        let numbers = (0..3000).chain(ENDPOINTS - 10..ENDPOINTS + 3000).chain([MOST_FLOWS - 1]);
        let mut seen = HashSet::new();
        for number in numbers {
            let flow = Flow::number(number).unwrap();
            assert!(seen.insert((flow.host, flow.port, flow.site)), "{number}");
        }
        assert!(Flow::number(MOST_FLOWS).is_err());
    }

    #[test]
    fn frames_have_valid_checksums() {
        let flow = Flow::number(70_000).unwrap();
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[192, 0, 2, 7]);
        let external = External { address, port: [200, 1], device: 2 };
        for family in Family::ALL {
            for (protocol, len) in [(Protocol::Udp, 26), (Protocol::Tcp, 20)] {
                let template = Template::new(family, protocol, 64, tcp::flag::ACK);
                for packet in [template.out(&flow), template.back(&flow, &external)] {
                    let frame = &template.frame(&packet)[..template.frame_len()];
                    match family {
                        Family::V4 => is_sound::<V4>(frame, len),
                        Family::V6 => is_sound::<V6>(frame, len),
                    }
                }
            }
        }
    }

    fn is_sound<F: weir_wire::family::Family>(frame: &[u8], len: u16) {
        let parsed = F::parse(frame).unwrap();
        let l4 = usize::from(parsed.l4);
        if F::FAMILY == Family::V4 {
            assert!(checksum::is_valid(checksum::sum(&frame[L3..l4])));
        }
        let pseudo = F::pseudo(&parsed.src, &parsed.dst, parsed.proto, len);
        let sum = checksum::sum(&frame[l4..l4 + usize::from(len)]);
        assert!(checksum::is_valid(checksum::add(pseudo, sum)), "{:?}", parsed.proto);
    }
}
