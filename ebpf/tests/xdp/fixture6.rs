//! Frames of IPv6, and ports that have it.

use etherparse::{Icmpv6Type, PacketBuilder};
use weir_layout::Family;
use weir_layout::adjacency::{Adjacency, mark};
use weir_layout::control::{
    BUCKETS, Mac, OnDataplaneLoss, PathId, PortRole, host_class, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, StateOwner};
use weir_shm::hosts::{HostPrefixes, Hosts};
use weir_wire::entry::NewDirection;
use weir_wire::family::V6;
use weir_wire::key::FlowKey6;
use weir_wire::parse::parse6;
use weir_wire::{tcp, udp};

use crate::fixture::*;

pub const LAN6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0];
pub const HOST6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 2];
pub const GATEWAY6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 1];
pub const SITE6: [u8; 16] = [0x26, 6, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x11];
/// Beyond a VPN of the gateway's.
pub const VPN6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 5];
pub const SENDER: Adjacency = Adjacency { mac: THEIRS, port: 0 };
pub const FORWARDED: (u32, Counter) = (4, Counter::XdpForwarded);
pub const TRANSIT: (u32, Counter) = (DROP, Counter::XdpDropNoDataplane);
pub const UNASKED: (u32, Counter) = (DROP, Counter::XdpDropNoFlow);
pub const MARTIAN: (u32, Counter) = (DROP, Counter::XdpDropMartian);
pub const KERNELS: (u32, Counter) = (PASS, Counter::XdpPassIpv6);

/// With destinations and a next hop of IPv6; a path of it only if weir serves it.
pub fn fixture(test: &str, role: PortRole, serves: bool) -> Fixture {
    let mut f = Fixture::with(test, role, OnDataplaneLoss::Drop, |half| {
        for port in &mut half.ports {
            port.ipv6 = port.role.min(1);
        }
        half.uplinks[0].path_mut(Family::V6).next_hop_mac = Mac::new(NEXT_HOP);
    });
    f.can_transmit();
    let hosts: HostPrefixes<V6> = [
        ((LAN6, 64), host_class::LAN),
        ((GATEWAY6, 128), host_class::LOCAL),
        ((VPN6, 128), host_class::KERNEL),
    ]
    .into();
    Hosts::<V6>::open(&f.pins).unwrap().sync(&hosts).unwrap();
    let mut writer = f.writer();
    writer.set_path_state(PathId::new(0, Family::V6), path_state::USABLE);
    if serves {
        let mut half = writer.region().snapshot().unwrap().half;
        writer.publish(&mut half, [&[], &[&[0; BUCKETS]]]);
    }
    f
}

pub fn lan(test: &str) -> Fixture {
    fixture(test, PortRole::Lan, true)
}

pub fn uplink(test: &str) -> Fixture {
    fixture(test, PortRole::Uplink, true)
}

/// A packet of a protocol, with a hop limit.
pub fn packet([src, dst]: [[u8; 16]; 2], proto: u8, hops: u8) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv6(src, dst, hops);
    let mut frame = Vec::new();
    match proto {
        udp::PROTOCOL => builder.udp(4000, 53).write(&mut frame, b"payload"),
        tcp::PROTOCOL => builder.tcp(4000, 53, 7, 9).ack(1).write(&mut frame, b"payload"),
        _ => builder.icmpv6_echo_request(4000, 1).write(&mut frame, b"payload"),
    }
    .unwrap();
    frame
}

/// An echo message of this type.
pub fn echo6(kind: u8, [src, dst]: [[u8; 16]; 2], id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let builder = PacketBuilder::ethernet2(THEIRS, OURS).ipv6(src, dst, 64).icmpv6_raw(
        kind,
        0,
        [high, low, 0, 1],
    );
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

pub fn out(proto: u8) -> Vec<u8> {
    packet([HOST6, SITE6], proto, 64)
}

pub fn tagged(mut frame: Vec<u8>, vlan: u8) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

/// Puts the direction of a frame's packets in the table; its slot.
pub fn insert(f: &Fixture, frame: &[u8], flags: u8, adjacency: u16) -> u32 {
    insert_from(f, &parse6(frame).unwrap().key(), flags, adjacency, SENDER)
}

pub fn insert_from(f: &Fixture, key: &FlowKey6, flags: u8, adjacency: u16, from: Adjacency) -> u32 {
    let state_owner = StateOwner::new(FlowState::Stateless, 0);
    let mark = mark(from.to_word(), 0);
    let new = NewDirection { flags, state_owner, uplink: 0, adjacency, mark, now: 0 };
    let hash = key.hash(KEY);
    f.flows6.insert(hash, &new.words::<V6>(key, key)).unwrap()
}

/// The frame with extension headers of these numbers, of 8, 16, 24 … bytes; a routing header is of
/// type 4, a fragment header of a first fragment.
pub fn extended(frame: &[u8], numbers: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (index, number) in numbers.iter().enumerate().rev() {
        let units = if *number == 44 { 1 } else { index + 1 };
        let mut header = vec![0; 8 * units];
        (header[0], header[1]) = (frame[20], units as u8 - 1);
        header[2] = if *number == 43 { 4 } else { 0 };
        frame[20] = *number;
        let len = u16::from_be_bytes([frame[18], frame[19]]) + header.len() as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame.splice(54..54, header);
    }
    frame
}

/// "Too big" about a packet.
pub fn error(about: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(THEIRS, OURS)
        .ipv6(SITE6, HOST6, 60)
        .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
    let mut frame = Vec::new();
    builder.write(&mut frame, about).unwrap();
    frame
}
