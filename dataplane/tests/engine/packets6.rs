//! Frames of IPv6.

use etherparse::{Icmpv6Type, PacketBuilder};
use weir_layout::counters::Counter;
use weir_wire::checksum;
use weir_wire::family::{Family as _, V6};
use weir_wire::parse::{Parsed6, parse6};

use super::gateway::*;

pub const HOST6: [u8; 16] = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 2];
pub const SERVER6: [u8; 16] = [0x26, 6, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0x11];
/// Somebody on the way.
pub const ROUTER6: [u8; 16] = [0x26, 6, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
/// A packet of a protocol between two hosts' port 40000 and 443, with so many bytes of data.
pub fn packet(
    [from, to]: [[u8; 6]; 2],
    [src, dst]: [[u8; 16]; 2],
    (proto, answers): (u8, bool),
    hops: u8,
    len: usize,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to).ipv6(src, dst, hops);
    let (sport, dport) = if answers { (443, 40_000) } else { (40_000, 443) };
    let (mut frame, data) = (Vec::new(), vec![7; len]);
    match proto {
        UDP => builder.udp(sport, dport).write(&mut frame, &data),
        TCP => builder.tcp(sport, dport, 1000, 4096).ack(1000).write(&mut frame, &data),
        _ if answers => builder.icmpv6_echo_reply(40_000, 1).write(&mut frame, &data),
        _ => builder.icmpv6_echo_request(40_000, 1).write(&mut frame, &data),
    }
    .unwrap();
    frame
}

/// A request or reply of echo with an identifier.
pub fn echo(
    [from, to]: [[u8; 6]; 2],
    [src, dst]: [[u8; 16]; 2],
    id: [u8; 2],
    request: bool,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to).ipv6(src, dst, 64);
    let (mut frame, id) = (Vec::new(), u16::from_be_bytes(id));
    match request {
        true => builder.icmpv6_echo_request(id, 1).write(&mut frame, b"payload"),
        false => builder.icmpv6_echo_reply(id, 1).write(&mut frame, b"payload"),
    }
    .unwrap();
    frame
}

/// The host pings the server with identifiers, zero among them; only replies come back to it, in
/// whatever way it is translated.
pub fn assert_only_replies_return(mut gateway: impl FnMut() -> Gateway, host: [u8; 16]) {
    for id in [[0x12, 0x34], [0; 2]] {
        let mut gateway = gateway();
        let request = echo([HOST_MAC, device_mac(LAN)], [host, SERVER6], id, true);
        let (device, out) = one(gateway.send(LAN, &request));
        let sent = see6(&out);
        let macs = [next_hop_mac(device - 1), device_mac(device)];
        let from_server = |request| echo(macs, [SERVER6, sent.src], sent.sport, request);
        // Before and after the flow is one for the fast path.
        for _ in 0..3 {
            assert!(gateway.send(device, &from_server(true)).is_empty());
            let (back, frame) = one(gateway.send(device, &from_server(false)));
            assert_eq!((back, see6(&frame).dst, &frame[58..60]), (LAN, host, &id[..]));
            assert_eq!(one(gateway.send(LAN, &request)), (device, out.clone()));
        }
        assert_eq!(gateway.count(Counter::DropNoFlow), 3);
        gateway.assert_conserved();
    }
}

pub fn out(proto: u8) -> Vec<u8> {
    packet([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], (proto, false), 64, 8)
}

pub fn answer(proto: u8, device: u8) -> Vec<u8> {
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    packet(macs, [SERVER6, HOST6], (proto, true), 64, 8)
}

/// A packet, whose checksum is right.
pub fn see6(frame: &[u8]) -> Parsed6 {
    let p = parse6(frame).unwrap();
    let transport = &frame[p.l4.into()..p.end.into()];
    let pseudo = V6::pseudo(&p.src, &p.dst, p.proto, transport.len() as u16);
    assert!(checksum::is_valid(checksum::add(pseudo, checksum::sum(transport))));
    p
}

/// Counts a frame's hop limit down.
pub fn one_hop_on(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[21] -= 1;
    frame
}

/// Destination options of so many units of 8 bytes, and what they are in front of.
pub fn options(units: u8, next: u8) -> Vec<u8> {
    let mut header = vec![0; 8 * usize::from(units)];
    (header[0], header[1]) = (next, units - 1);
    header
}

/// The frame with a header in front of its transport.
pub fn extended(frame: &[u8], number: u8, header: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.splice(54..54, header.iter().copied());
    let len = u16::from_be_bytes([frame[18], frame[19]]) + header.len() as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame[20] = number;
    frame
}

/// The frame with destination options.
pub fn with_options(frame: &[u8]) -> Vec<u8> {
    extended(frame, 60, &options(2, frame[20]))
}

/// Frames of each kind, with extension headers and without.
pub fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for proto in [UDP, TCP, V6::ICMP] {
        for frame in [out(proto), answer(proto, 1), answer(proto, 2)] {
            corpus.push(with_options(&extended(&frame, 43, &[frame[20], 0, 4, 0, 0, 0, 0, 0])));
            for offset in [0, 16] {
                let fragment = [frame[20], 0, 0, offset | 1, 0, 0, 0, proto];
                corpus.push(with_options(&extended(&frame, 44, &fragment)));
            }
            corpus.push(frame);
        }
    }
    for about in [out(UDP), with_options(&out(TCP))] {
        let builder = PacketBuilder::ethernet2(next_hop_mac(0), device_mac(1))
            .ipv6(ROUTER6, HOST6, 60)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 });
        let mut frame = Vec::new();
        builder.write(&mut frame, &about[14..]).unwrap();
        corpus.push(with_options(&frame));
    }
    corpus
}
