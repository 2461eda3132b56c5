//! Senders that leave checksums to their device.

use weir_layout::flow::flag;
use weir_wire::checksum;
use weir_wire::parse::parse;

use super::gateway::*;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The frame as its sender hands it over: the checksum is that of the pseudo-header alone.
pub fn begun(mut frame: Vec<u8>) -> Vec<u8> {
    let p = parse(&frame).unwrap();
    let at = usize::from(p.l4) + if p.proto == TCP { 16 } else { 6 };
    let sum = checksum::pseudo4(p.src, p.dst, p.proto, p.end - p.l4);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn one(mut sent: Vec<(u8, Vec<u8>)>) -> (u8, Vec<u8>) {
    assert_eq!(sent.len(), 1, "one packet leaves");
    sent.pop().unwrap()
}

/// May the kernel tier forward what has this frame's key?
fn offered(gateway: &Gateway, frame: &[u8]) -> bool {
    let p = parse(frame).unwrap();
    let key = p.key();
    let slot = gateway.regions.flows.find(key.hash(KEY), &key).unwrap();
    gateway.regions.flows.slot(slot).action().flags & flag::OFFLOAD != 0
}

#[test]
fn a_checksum_that_its_sender_left_to_the_device_leaves_complete() {
    let mut gateway = Gateway::new();
    for frame in [udp_out(40_000, 53), tcp_out(40_000, 443, SYN), tcp_out(40_000, 443, ACK)] {
        let (device, out) = one(gateway.send(LAN, &begun(frame)));
        // Verifies both checksums.
        see(&out);
        let (_, back) = one(gateway.send(device, &begun(answer_to(device, &out))));
        see(&back);
    }
    gateway.assert_conserved();
}

#[test]
fn every_packet_of_such_a_sender_is_completed_and_the_other_direction_is_offered() {
    let mut gateway = Gateway::new();
    let asked = begun(udp_out(40_000, 53));
    let (device, out) = one(gateway.send(LAN, &asked));
    let answer = answer_to(device, &out);
    for _ in 0..3 {
        see(&one(gateway.send(device, &answer)).1);
        see(&one(gateway.send(LAN, &asked)).1);
    }
    assert!(offered(&gateway, &answer));
    assert!(!offered(&gateway, &asked), "its checksums would leave as they came");
}

#[test]
fn senders_of_complete_checksums_are_offered_in_both_directions() {
    let mut gateway = Gateway::new();
    let asked = udp_out(40_000, 53);
    let (device, out) = one(gateway.send(LAN, &asked));
    let answer = answer_to(device, &out);
    one(gateway.send(device, &answer));
    assert!(offered(&gateway, &answer) && offered(&gateway, &asked));
}

#[test]
fn a_sender_whose_first_datagram_is_cut_is_not_taken_for_one_of_complete_checksums() {
    let mut gateway = Gateway::new();
    let asked = udp_out(40_000, 53);
    // More fragments follow; the header's checksum goes with it.
    let mut cut = asked.clone();
    cut[20] |= 0x20;
    let header = checksum::Delta::of([asked[20], asked[21]], [cut[20], cut[21]]);
    let sum = header.apply([cut[24], cut[25]]);
    cut[24..26].copy_from_slice(&sum);
    let (device, _) = one(gateway.send(LAN, &cut));
    let (from, to) = (next_hop_mac(device - 1), device_mac(device));
    let answer = udp(from, to, (SERVER, 53), (external(device - 1), 40_000));
    one(gateway.send(device, &answer));
    see(&one(gateway.send(LAN, &begun(asked.clone()))).1);
    assert!(!offered(&gateway, &asked));
}
