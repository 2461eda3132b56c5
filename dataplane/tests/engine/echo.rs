//! Echo: a request of one end and the replies of the other are a flow. What else has their addresses
//! and their identifier is none of it.

use etherparse::PacketBuilder;
use weir_layout::control::BUCKETS;
use weir_layout::counters::Counter;
use weir_layout::flow::flag;

use super::gateway::*;
use super::unasked::fragment;

/// A gateway that translates, or does not.
fn gateway(translates: bool) -> Gateway {
    let mut gateway = Gateway::new();
    if !translates {
        gateway.route_only();
    }
    gateway
}

/// What the host sends to the server.
fn from_host(id: u16, request: bool) -> Vec<u8> {
    ping(HOST_MAC, device_mac(LAN), HOST, SERVER, id, request)
}

/// What the server sends back to one whose ping left so by a device.
fn from_server(device: u8, ping_out: &[u8], request: bool) -> Vec<u8> {
    let outside = see(ping_out);
    let macs = [next_hop_mac(device - 1), device_mac(device)];
    ping(macs[0], macs[1], SERVER, outside.src, outside.sport, request)
}

#[test]
fn a_request_from_outside_with_the_identifier_of_a_hosts_own_ping_is_of_no_flow() {
    for (translates, id) in [(true, 7), (true, 0), (false, 7), (false, 0)] {
        let mut gateway = gateway(translates);
        let (device, out) = one(gateway.send(LAN, &from_host(id, true)));
        // Before and after the flow is one for the fast path.
        for _ in 0..3 {
            assert!(gateway.send(device, &from_server(device, &out, true)).is_empty());
            let (back, frame) = one(gateway.send(device, &from_server(device, &out, false)));
            let seen = see(&frame);
            assert_eq!((back, seen.dst, seen.dport), (LAN, HOST, id));
            assert_eq!(one(gateway.send(LAN, &from_host(id, true))), (device, out.clone()));
        }
        assert_eq!(gateway.count(Counter::DropNoFlow), 3);
        assert_eq!(gateway.engines[0].flows(), 1);
        gateway.assert_conserved();
    }
}

#[test]
fn a_request_from_outside_comes_in_by_no_flow_in_fragments_either() {
    let mut gateway = gateway(true);
    let (device, out) = one(gateway.send(LAN, &from_host(7, true)));
    for (request, passed) in [(true, 0), (false, 2)] {
        let frame = from_server(device, &out, request);
        let fragments = [0, 1].map(|offset| fragment(frame.clone(), offset));
        let sent = fragments.iter().flat_map(|fragment| gateway.send(device, fragment)).count();
        assert_eq!(sent, passed);
    }
    gateway.assert_conserved();
}

#[test]
fn a_reply_that_nobody_asked_a_host_for_leaves_by_no_flow_of_its_own_ping() {
    for (translates, id) in [(true, 7), (true, 0), (false, 7), (false, 0)] {
        let mut gateway = gateway(translates);
        let (device, out) = one(gateway.send(LAN, &from_host(id, true)));
        one(gateway.send(device, &from_server(device, &out, false)));
        let left = gateway.send(LAN, &from_host(id, false));
        // As by a router, or not at all.
        assert_eq!(left.len(), usize::from(!translates));
        assert_eq!(gateway.count(Counter::DropNoFlow), u64::from(translates));
        let table = &gateway.regions.flows;
        let mut entries = (0..table.capacity()).filter_map(|at| table.slot(at).read());
        let began = entries.find(|entry| entry.flags & flag::INITIATED != 0).unwrap();
        assert_eq!((began.packets, gateway.engines[0].flows()), (1, 1));
        gateway.assert_conserved();
    }
}

/// "Host unreachable" about a packet, in a frame between these stations and hosts.
fn unreachable(macs: [[u8; 6]; 2], hosts: [[u8; 4]; 2], about: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs[0], macs[1])
        .ipv4(hosts[0], hosts[1], 60)
        .icmpv4_raw(3, 1, [0; 4]);
    let mut frame = Vec::new();
    builder.write(&mut frame, &about[14..]).unwrap();
    frame
}

#[test]
fn an_error_is_about_the_message_that_it_quotes() {
    for id in [7, 0] {
        let mut gateway = gateway(true);
        let (device, out) = one(gateway.send(LAN, &from_host(id, true)));
        let (_, delivered) = one(gateway.send(device, &from_server(device, &out, false)));
        let outside = see(&out);
        // What stands behind twelve bytes and a type is the quoted packet.
        let quoted = |frame: &[u8]| see(&[&[0; 12][..], &[8, 0], &frame[42..]].concat());
        let inward = [next_hop_mac(device - 1), device_mac(device)];
        let outward = [HOST_MAC, device_mac(LAN)];
        let ends = [ROUTER, outside.src];
        let (_, told) = one(gateway.send(device, &unreachable(inward, ends, &out)));
        assert_eq!((quoted(&told).src, quoted(&told).sport), (HOST, id));
        assert_eq!(told[42 + 20], 8, "a request");
        let (_, told) = one(gateway.send(LAN, &unreachable(outward, [HOST, SERVER], &delivered)));
        assert_eq!((quoted(&told).dst, quoted(&told).sport), (outside.src, outside.sport));
        assert_eq!(told[42 + 20], 0, "a reply");
        // No host gave this reply, and no server asked for it.
        let reply = ping([0; 6], [0; 6], outside.src, SERVER, outside.sport, false);
        assert!(gateway.send(device, &unreachable(inward, ends, &reply)).is_empty());
        let request = ping([0; 6], [0; 6], SERVER, HOST, id, true);
        assert!(gateway.send(LAN, &unreachable(outward, [HOST, SERVER], &request)).is_empty());
        assert_eq!(gateway.count(Counter::DropIcmpUnrelated), 2);
        gateway.assert_conserved();
    }
}

#[test]
fn an_identifier_has_one_mapping_and_its_replies_come_back_whichever_worker_meets_them() {
    for id in 0..16 {
        let mut gateway = Gateway::with(2, SLOTS);
        gateway.publish(BUCKETS);
        let (first, second) =
            (from_host(id, true), { ping(HOST_MAC, device_mac(LAN), HOST, ROUTER, id, true) });
        let (device, out) = one(gateway.send_to(0, LAN, &first));
        let (_, other) = one(gateway.send_to(1, LAN, &second));
        assert_eq!(see(&out).sport, see(&other).sport);
        for worker in [0, 1] {
            let reply = from_server(device, &out, false);
            let (_, frame) = one(gateway.send_to(worker, device, &reply));
            assert_eq!((see(&frame).dst, see(&frame).dport), (HOST, id));
            let request = from_server(device, &out, true);
            assert!(gateway.send_to(worker, device, &request).is_empty());
        }
        gateway.assert_conserved();
    }
}

/// Somebody on the way.
const ROUTER: [u8; 4] = [100, 64, 0, 1];

#[test]
fn a_reply_that_takes_a_minute_comes_in_and_one_that_takes_longer_does_not() {
    for (after, comes) in [(59_999, true), (60_000, false)] {
        let mut gateway = gateway(true);
        let asked = ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 40_000, true);
        let (device, out) = one(gateway.send(LAN, &asked));
        gateway.now += after;
        age(&mut gateway);
        let back = gateway.send(device, &answer_to(device, &out));
        assert_eq!(back.iter().any(|(to, _)| *to == LAN), comes, "after {after} ms");
    }
}
