//! Fragments follow their first.

use super::gateway::*;
use etherparse::{IpFragOffset, PacketBuilder};
use weir_layout::control::BUCKETS;
use weir_layout::counters::Counter;
use weir_wire::{checksum, ipv4};

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

/// A datagram of so many bytes from the host, with this word of flags and offset.
fn datagram(payload: usize, fragment: u16) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(HOST_MAC, device_mac(LAN)).ipv4(HOST, SERVER, 64).udp(40_000, 53);
    let mut frame = Vec::new();
    let bytes: Vec<u8> = (0..payload).map(|n| n as u8).collect();
    builder.write(&mut frame, &bytes).unwrap();
    let mut ip = ipv4::Packet::new_unchecked(&mut frame[14..34]);
    ip.set_fragment(fragment);
    ip.set_ident(4711);
    ip.fill_checksum();
    frame
}

/// What these fragments, which come in order, carry together; and the offset behind them, and whether
/// more follow.
fn together(fragments: &[(u8, Vec<u8>)], mtu: usize) -> (Vec<u8>, u16, bool) {
    let (mut whole, mut end, mut more) = (Vec::new(), None, true);
    for (_, frame) in fragments {
        assert!(frame.len() - 14 <= mtu, "{}", frame.len());
        let ip = ipv4::Packet::new_checked(&frame[14..]).unwrap();
        assert!(ip.verify_checksum() && !ip.dont_fragment());
        assert_eq!((ip.ident(), ip.ttl()), (4711, 63));
        assert!(end.is_none_or(|end| end == ip.fragment_offset()), "in order");
        assert!(more, "only the last is the last");
        end = Some(ip.fragment_offset() + ip.payload().len() as u16);
        more = ip.more_fragments();
        whole.extend_from_slice(ip.payload());
    }
    (whole, end.unwrap(), more)
}

#[test]
fn what_is_too_large_for_its_uplink_and_may_be_split_leaves_in_fragments() {
    for (mtu, pieces) in [(1280, 2), (576, 3), (68, 30)] {
        let mut gateway = Gateway::new();
        gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = mtu);
        gateway.publish(BUCKETS);
        let fragments = gateway.send(LAN, &datagram(1400, 0));
        assert_eq!(fragments.len(), pieces);
        let (whole, _, more) = together(&fragments, mtu.into());
        assert!(!more);
        let pseudo = checksum::pseudo4(external(0), SERVER, UDP, 1408);
        assert!(checksum::is_valid(checksum::add(pseudo, checksum::sum(&whole))));
        assert!((0..1400).all(|n| whole[8 + n] == n as u8));
        assert_eq!(gateway.count(Counter::UserOriginated), pieces as u64 - 1);
        gateway.assert_conserved();
    }
}

#[test]
fn a_fragment_that_is_too_large_is_split_again_and_says_where_it_belongs() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 576);
    gateway.publish(BUCKETS);
    let first = gateway.send(LAN, &datagram(1400, ipv4::MORE_FRAGMENTS));
    let (_, end, more) = together(&first, 576);
    assert_eq!((end, more), (1408, true));
    let last = gateway.send(LAN, &datagram(1400, 1408 / 8));
    let (_, end, more) = together(&last, 576);
    assert_eq!((end, more), (2816, false));
    gateway.assert_conserved();
}

#[test]
fn a_fragment_beyond_the_end_of_what_a_packet_may_be_is_not_split() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 576);
    gateway.publish(BUCKETS);
    assert!(!gateway.send(LAN, &datagram(1400, ipv4::MORE_FRAGMENTS)).is_empty());
    // The last that fits, with the header, and the next.
    assert_eq!(gateway.send(LAN, &datagram(1400, (0xffff - 1428) / 8)).len(), 3);
    assert!(gateway.send(LAN, &datagram(1400, (0xffff - 1428) / 8 + 1)).is_empty());
    assert_eq!(gateway.count(Counter::DropMalformed), 1);
    gateway.assert_conserved();
}

#[test]
fn what_is_too_large_for_the_lan_comes_in_in_fragments() {
    let mut gateway = Gateway::new();
    gateway.half.ports[usize::from(LAN)].mtu = 1000;
    gateway.publish(BUCKETS);
    let (device, out) = one(gateway.send(LAN, &udp_out(40_000, 53)));
    let asked = see(&out);
    let mut large = datagram(1400, 0);
    large[..6].copy_from_slice(&device_mac(device));
    large[6..12].copy_from_slice(&next_hop_mac(device - 1));
    large[26..30].copy_from_slice(&SERVER);
    large[30..34].copy_from_slice(&asked.src);
    large[34..36].copy_from_slice(&53u16.to_be_bytes());
    large[36..38].copy_from_slice(&asked.sport.to_be_bytes());
    large[40..42].fill(0);
    ipv4::Packet::new_unchecked(&mut large[14..34]).fill_checksum();
    let fragments = gateway.send(device, &large);
    assert_eq!(fragments.len(), 2);
    assert!(fragments.iter().all(|(device, _)| *device == LAN));
    let (whole, ..) = together(&fragments, 1000);
    assert_eq!(whole[8..], large[42..]);
    gateway.assert_conserved();
}

#[test]
fn a_ring_that_fills_amid_fragments_is_one_packet_lost() {
    let mut gateway = Gateway::new();
    gateway.half.ports[1..4].iter_mut().for_each(|port| port.mtu = 576);
    gateway.publish(BUCKETS);
    gateway.wire.full = true;
    assert!(gateway.send(LAN, &datagram(1400, 0)).is_empty());
    assert_eq!(gateway.count(Counter::DropTxFull), 1);
    gateway.assert_conserved();
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
