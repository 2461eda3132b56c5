//! Several workers: one owner per flow, packets find it.

use std::collections::HashSet;

use super::gateway::*;
use weir_wire::layout::counters::Counter;

#[test]
fn an_answer_at_the_wrong_worker_is_handed_to_the_owner() {
    let mut gateway = Gateway::with(3, 4096);
    for n in 0..60u16 {
        let sent = gateway.send_to((n % 3) as u8, LAN, &tcp_out(30_000 + n, 443, 0x02));
        let (device, out) = &sent[0];
        let back = gateway.send_to(((n + 1) % 3) as u8, *device, &answer_to(*device, out));
        assert_eq!((back.len(), back[0].0), (1, LAN));
    }
    assert_eq!(gateway.count(Counter::UserHandoverOut), 60);
    gateway.assert_conserved();
}

#[test]
fn workers_never_give_out_the_same_port() {
    let mut gateway = Gateway::with(4, 1 << 14);
    let mut seen = HashSet::new();
    for n in 0..2000u16 {
        let frame = udp(
            HOST_MAC,
            device_mac(LAN),
            ([10, 77, (n >> 8) as u8, n as u8], 40_000),
            (SERVER, 53),
        );
        let sent = gateway.send_to((n % 4) as u8, LAN, &frame);
        let s = see(&sent[0].1);
        assert!(seen.insert((s.src, s.sport)), "{s:?} twice");
    }
    gateway.assert_conserved();
}

#[test]
fn a_udp_endpoint_has_one_mapping_whichever_worker_meets_it() {
    let mut gateway = Gateway::with(4, 4096);
    for endpoint in 0..20u16 {
        let mut outside = HashSet::new();
        for n in 0..8 {
            let sent = gateway.send_to(n % 4, LAN, &udp_out(30_000 + endpoint, 100 + u16::from(n)));
            let s = see(&sent[0].1);
            outside.insert((sent[0].0, s.src, s.sport));
        }
        assert_eq!(outside.len(), 1);
    }
    gateway.assert_conserved();
}
