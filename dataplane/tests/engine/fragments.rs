//! Fragments follow their first.

use super::gateway::*;
use etherparse::IpFragOffset;
use weir_layout::counters::Counter;

/// A datagram from the host in two.
pub fn fragments() -> [Vec<u8>; 2] {
    let whole = udp(HOST_MAC, device_mac(LAN), (HOST, 40_000), (SERVER, 53));
    let split = |payload: &[u8], offset: u16, more: bool| {
        let mut ip =
            etherparse::Ipv4Header::new(payload.len() as u16, 64, 17.into(), HOST, SERVER).unwrap();
        ip.identification = 77;
        (ip.dont_fragment, ip.more_fragments) = (false, more);
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut frame = whole[..14].to_vec();
        ip.write(&mut frame).unwrap();
        frame.extend_from_slice(payload);
        frame
    };
    [split(&whole[34..42], 0, true), split(&whole[42..], 1, false)]
}

#[test]
fn fragments_follow_their_first() {
    let mut gateway = Gateway::new();
    let [first, second] = fragments();
    let (device, a) = one(gateway.send(LAN, &first));
    let (other, b) = one(gateway.send(LAN, &second));
    assert_eq!(device, other);
    let mut datagram = a[14..].to_vec();
    datagram.extend_from_slice(&b[34..]);
    let pseudo = weir_wire::checksum::pseudo4(external(device - 1), SERVER, 17, 15);
    let sum = weir_wire::checksum::add(pseudo, weir_wire::checksum::sum(&datagram[20..]));
    assert!(weir_wire::checksum::is_valid(sum), "the datagram's checksum covers both fragments");
    assert_eq!(&b[26..30], &external(device - 1));
    gateway.assert_conserved();
}

#[test]
fn a_fragment_before_its_first_is_dropped() {
    let mut gateway = Gateway::new();
    let [_, second] = fragments();
    assert!(gateway.send(LAN, &second).is_empty());
    assert_eq!(gateway.count(Counter::DropFragment), 1);
}
