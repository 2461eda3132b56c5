//! The flows of the benchmarks, and their packets.
//!
//! Flow *i* belongs to endpoint `i % ENDPOINTS`; a host has 63 endpoints, ports 1024 to 1086, and
//! talks to addresses of its own in 198.18.0.0/15 (the range for benchmarks, RFC 2544). So 64 512
//! flows are those of 1 024 hosts and 1 032 192 those of 16 384, each by a port of its own, which
//! is the shape that FD.io's NAT44 tests have; beyond, each endpoint talks to several addresses.

use anyhow::{Result, ensure};
use serde::Serialize;
use weir_wire::{checksum, tcp, udp};

use crate::memory::gateway::{LAN, MAC};

/// Endpoints before each gets a second destination.
pub const ENDPOINTS: usize = 16_384 * HOST_ENDPOINTS;
/// Most flows: eight destinations for each endpoint.
pub const MOST_FLOWS: usize = 8 * ENDPOINTS;
/// Bytes of a frame, without its check sequence.
pub const FRAME: usize = 60;

const HOST_ENDPOINTS: usize = 63;
const FIRST_PORT: u16 = 1024;
const SERVICE: u16 = 443;
/// Offset of the IPv4 header.
const L3: usize = 14;
/// Offset of the transport header.
const L4: usize = 34;

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
    address: [u8; 4],
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
        let four = |at: usize| [frame[at], frame[at + 1], frame[at + 2], frame[at + 3]];
        Self { address: four(L3 + 12), port: [frame[L4], frame[L4 + 1]], device }
    }
}

/// Everything in which a packet differs from its [`Template`].
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    addresses: [u8; 8],
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
    bytes: [u8; FRAME],
    sum_at: usize,
    header_sum: u16,
    transport_sum: u16,
}

impl Template {
    /// Packets with this time to live and, for TCP, these flags.
    pub fn new(protocol: Protocol, ttl: u8, tcp_flags: u8) -> Self {
        let mut bytes = [0; FRAME];
        bytes[..6].copy_from_slice(&MAC);
        bytes[6..12].copy_from_slice(&[2, 0, 0, 2, 0, 0]);
        bytes[12..L3].copy_from_slice(&[8, 0]);
        let (number, len, sum_at) = match protocol {
            Protocol::Udp => (udp::PROTOCOL, 26u16, L4 + 6),
            Protocol::Tcp => (tcp::PROTOCOL, 20, L4 + 16),
        };
        bytes[L3..L3 + 4].copy_from_slice(&[0x45, 0, 0, 20 + len as u8]);
        // Don't fragment.
        bytes[L3 + 6] = 0x40;
        bytes[L3 + 8..L3 + 10].copy_from_slice(&[ttl, number]);
        match protocol {
            Protocol::Udp => bytes[L4 + 4..L4 + 6].copy_from_slice(&len.to_be_bytes()),
            Protocol::Tcp => {
                bytes[L4 + 12..L4 + 16].copy_from_slice(&[0x50, tcp_flags, 0xff, 0xff])
            }
        }
        let transport = checksum::sum(&bytes[L4..L4 + usize::from(len)]);
        Self {
            sum_at,
            header_sum: checksum::sum(&bytes[L3..L4]),
            transport_sum: checksum::add(transport, checksum::pseudo4([0; 4], [0; 4], number, len)),
            bytes,
        }
    }

    /// The flow's packet from its host.
    pub fn out(&self, flow: &Flow) -> Packet {
        let (host, site) = (flow.host.to_be_bytes(), flow.site.to_be_bytes());
        // The hosts share 256 hardware addresses, as behind routers.
        self.packet(host, site, flow.port.to_be_bytes(), SERVICE.to_be_bytes(), LAN, host[3])
    }

    /// The flow's packet from the Internet.
    pub fn back(&self, flow: &Flow, external: &External) -> Packet {
        let site = flow.site.to_be_bytes();
        let External { address, port, device } = *external;
        self.packet(site, address, SERVICE.to_be_bytes(), port, device, 0)
    }

    fn packet(
        &self,
        src: [u8; 4],
        dst: [u8; 4],
        sport: [u8; 2],
        dport: [u8; 2],
        device: u8,
        station: u8,
    ) -> Packet {
        let mut addresses = [0; 8];
        addresses[..4].copy_from_slice(&src);
        addresses[4..].copy_from_slice(&dst);
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

    /// The packet as a frame.
    #[inline]
    pub fn frame(&self, packet: &Packet) -> [u8; FRAME] {
        let mut bytes = self.bytes;
        bytes[11] = packet.station;
        bytes[L3 + 10..L3 + 12].copy_from_slice(&packet.header_sum);
        bytes[L3 + 12..L4].copy_from_slice(&packet.addresses);
        bytes[L4..L4 + 4].copy_from_slice(&packet.ports);
        bytes[self.sum_at..self.sum_at + 2].copy_from_slice(&packet.transport_sum);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
        let external = External { address: [192, 0, 2, 7], port: [200, 1], device: 2 };
        for (protocol, len) in [(Protocol::Udp, 26), (Protocol::Tcp, 20)] {
            let template = Template::new(protocol, 64, tcp::flag::ACK);
            for packet in [template.out(&flow), template.back(&flow, &external)] {
                let frame = template.frame(&packet);
                let parsed = weir_wire::parse::parse(&frame).unwrap();
                let pseudo = checksum::pseudo4(parsed.src, parsed.dst, parsed.proto, len);
                let sum = checksum::sum(&frame[L4..L4 + usize::from(len)]);
                assert!(checksum::is_valid(checksum::sum(&frame[L3..L4])));
                assert!(checksum::is_valid(checksum::add(pseudo, sum)), "{protocol:?}");
            }
        }
    }
}
