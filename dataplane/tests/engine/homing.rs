//! Flows that leave a draining uplink, or come home from a worse tier.

use weir_layout::control::{BUCKETS, ComeHome, path_state};
use weir_layout::counters::Counter;
use weir_wire::tcp::flag::ACK;

use crate::gateway::*;

#[test]
fn idle_flows_leave_a_draining_uplink_and_the_others_stay() {
    let mut gateway = Gateway::new();
    policies(&mut gateway, |policy| policy.idle_s = 30);
    let device = exchange(&mut gateway, 5000);
    let connected = (40_000..).find(|port| connection(&mut gateway, *port) == device).unwrap();
    let before = flows(&gateway);
    let draining = path_state::USABLE | path_state::DRAINING;
    gateway.set_state(device - 1, draining);
    let other = if device == 1 { 0 } else { BUCKETS };
    gateway.publish(other);
    gateway.now += 29_999;
    age(&mut gateway);
    assert_eq!(flows(&gateway), before);
    gateway.now += 1;
    age(&mut gateway);
    assert_eq!((flows(&gateway), gateway.count(Counter::FlowsMoved)), (before - 1, 1));
    assert_eq!(exchange(&mut gateway, 5000), 3 - device);
    let sent = gateway.send(LAN, &tcp_out(connected, 443, ACK));
    assert_eq!(sent[0].0, device);
}

#[test]
fn idle_flows_of_a_worse_tier_come_home() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    assert_eq!(exchange(&mut gateway, 5000), 2);
    connection(&mut gateway, 40_000);
    away(&mut gateway, ComeHome::Idle);
    gateway.now += 29_999;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 2);
    gateway.now += 1;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 1);
    assert_eq!(exchange(&mut gateway, 5000), 1);
}

#[test]
fn flows_stay_on_a_worse_tier_unless_the_policy_says_otherwise() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    exchange(&mut gateway, 5000);
    away(&mut gateway, ComeHome::Stay);
    gateway.now += 60_000;
    assert!(age(&mut gateway).is_empty());
    assert_eq!(exchange(&mut gateway, 5000), 2);
}

#[test]
fn all_flows_come_home_when_asked_connections_by_a_reset() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    exchange(&mut gateway, 5000);
    connection(&mut gateway, 40_000);
    away(&mut gateway, ComeHome::All);
    let sent = age(&mut gateway);
    assert_eq!(sent.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [LAN, 2]);
    assert_eq!(exchange(&mut gateway, 5000), 1);
    assert!(age(&mut gateway).is_empty());
    gateway.assert_conserved();
}

#[test]
fn an_endpoint_whose_flows_come_home_one_by_one_has_one_mapping_there() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    let both = [53, 54].map(|dport| udp_out(30_000, dport));
    let send = |gateway: &mut Gateway| {
        both.each_ref().map(|frame| {
            let (device, out) = gateway.send(LAN, frame).remove(0);
            (device, see(&out).sport)
        })
    };
    send(&mut gateway);
    away(&mut gateway, ComeHome::All);
    gateway.engines[0].refresh();
    while flows(&gateway) == 2 {
        gateway.engines[0].age(1, gateway.now, &mut gateway.wire);
    }
    let mut devices = send(&mut gateway).map(|(device, _)| device);
    devices.sort_unstable();
    assert_eq!(devices, [1, 2]);
    age(&mut gateway);
    assert_eq!(send(&mut gateway), [(1, 30_000); 2]);
}

#[test]
fn flows_come_home_no_faster_than_the_policy_says() {
    let mut gateway = Gateway::new();
    gateway.publish(0);
    for port in 5000..5100 {
        exchange(&mut gateway, port);
    }
    away(&mut gateway, ComeHome::All);
    policies(&mut gateway, |policy| policy.home_per_second = 10);
    gateway.publish(BUCKETS);
    gateway.now += 1000;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 90);
    age(&mut gateway);
    assert_eq!(flows(&gateway), 90);
    gateway.now += 500;
    age(&mut gateway);
    assert_eq!(flows(&gateway), 85);
}
