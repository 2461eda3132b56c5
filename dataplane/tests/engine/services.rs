//! A gateway in memory that publishes services of [`HOST`].

use weir_dataplane::engine::Owner;
use weir_layout::control::{Address, BUCKETS, Name, PortForward};
use zerocopy::FromZeros;

use super::gateway::*;

/// Outside and inside.
pub const PORTS: [u16; 2] = [443, 8443];

/// A service of [`HOST`] that these uplinks are open for.
pub fn service(protocol: u8, ports: [u16; 2], inside_port: u16, uplinks: u64) -> PortForward {
    PortForward {
        name: Name::new("web"),
        uplinks,
        inside: Address::v4(HOST),
        ports,
        inside_port,
        protocol,
        ..PortForward::new_zeroed()
    }
}

pub fn enter(gateway: &mut Gateway, forward: PortForward) {
    let half = &mut gateway.half;
    half.port_blocks.enter(forward.ports);
    half.port_forwards[half.port_forward_count as usize] = forward;
    half.port_forward_count += 1;
    gateway.publish(BUCKETS / 2);
    gateway.engines.iter_mut().for_each(|engine| _ = engine.refresh());
}

/// A gateway that publishes these, and knows where their host is.
pub fn publishing(forwards: &[PortForward]) -> Gateway {
    let mut gateway = Gateway::new();
    forwards.iter().for_each(|forward| enter(&mut gateway, *forward));
    gateway.settle(Owner::At(HOST_MAC));
    gateway
}

pub fn unreachable(
    (from, to): ([u8; 6], [u8; 6]),
    (src, dst): ([u8; 4], [u8; 4]),
    quote: &[u8],
) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2(from, to).ipv4(src, dst, 64);
    let port = etherparse::icmpv4::DestUnreachableHeader::Port;
    let mut error = Vec::new();
    let builder = builder.icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(port));
    builder.write(&mut error, quote).unwrap();
    error
}
