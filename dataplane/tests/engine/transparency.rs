//! What a router and a NAT leave as it is, and what is no part of a packet.

use etherparse::PacketBuilder;
use weir_layout::control::BUCKETS;
use weir_wire::checksum::Delta;

use super::gateway::*;

/// The frame with this byte of type of service: a code point and a congestion mark.
fn with_tos(mut frame: Vec<u8>, tos: u8) -> Vec<u8> {
    let old = frame[15];
    frame[15] = tos;
    let sum = Delta::of([frame[14], old], [frame[14], tos]).apply([frame[24], frame[25]]);
    frame[24..26].copy_from_slice(&sum);
    frame
}

#[test]
fn code_points_and_congestion_marks_pass_as_they_are() {
    // ECT(1), ECT(0), "congestion experienced", expedited forwarding with it, and all bits.
    for tos in [1, 2, 3, 46 << 2 | 3, 0xff] {
        for frame in [udp_out(40_000, 53), tcp_out(40_000, 443, 0x02)] {
            let mut gateway = Gateway::new();
            let (device, out) = one(gateway.send(LAN, &with_tos(frame, tos)));
            assert_eq!((out[15], see(&out).ttl), (tos, 63));
            let answer = with_tos(answer_to(device, &out), tos);
            let (_, back) = one(gateway.send(device, &answer));
            assert_eq!((back[15], see(&back).ttl), (tos, 63));
        }
    }
}

#[test]
fn what_follows_the_packet_in_its_frame_is_no_part_of_it() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 1280);
    gateway.publish(BUCKETS);
    let builder =
        PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64).udp(40_000, 53);
    // As long as the uplink takes, and with a trailer longer.
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 1280 - 28]).unwrap();
    let whole = frame.len();
    frame.extend([0xaa; 18]);
    let (device, out) = one(gateway.send(LAN, &frame));
    see(&out);
    assert_eq!(device, 1, "it is not too big");
    assert_eq!(out[16..18], 1280u16.to_be_bytes());
    assert_eq!(out[42..whole], frame[42..whole]);
    // Of one that is answered, nothing of it is quoted.
    let mut short = super::icmp::with_ttl(udp_out(40_000, 53), 1);
    short.extend([0xaa; 18]);
    let (_, answer) = one(gateway.send(LAN, &short));
    assert_eq!((answer[34], answer.ends_with(b"payload")), (11, true));
    gateway.assert_conserved();
}
