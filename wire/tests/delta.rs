//! Checksum deltas against the full checksums that etherparse computes.

mod common;

use common::{Spec, Transport, flows};
use proptest::prelude::*;
use weir_wire::checksum::Delta;
use weir_wire::family::{Family, V6};
use weir_wire::parse::parse6;

/// The same packet on another flow, as NAT would send it.
#[derive(Clone, Debug)]
struct Rewrite {
    src: [u8; 16],
    dst: [u8; 16],
    sport: u16,
    dport: u16,
    ttl: u8,
}

fn rewrites() -> impl Strategy<Value = Rewrite> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>(), any::<u8>())
        .prop_map(|(src, dst, sport, dport, ttl)| Rewrite { src, dst, sport, dport, ttl })
}

fn rewritten(spec: &Spec, to: &Rewrite) -> Spec {
    let Rewrite { src, dst, sport, dport, ttl } = *to;
    Spec { src, dst, sport, dport, ttl, ..spec.clone() }
}

fn addresses(from: &Spec, to: &Spec) -> Delta {
    if from.v6 {
        Delta::of(from.src, to.src) + Delta::of(from.dst, to.dst)
    } else {
        Delta::of(from.src4(), to.src4()) + Delta::of(from.dst4(), to.dst4())
    }
}

fn transport_delta(from: &Spec, to: &Spec) -> Delta {
    let sport = Delta::of(from.sport, to.sport);
    match from.transport {
        Transport::EchoRequest | Transport::EchoReply if from.v6 => sport + addresses(from, to),
        Transport::EchoRequest | Transport::EchoReply => sport,
        _ => sport + Delta::of(from.dport, to.dport) + addresses(from, to),
    }
}

fn field(frame: &[u8], at: usize) -> [u8; 2] {
    [frame[at], frame[at + 1]]
}

fn transport_checksum(spec: &Spec) -> usize {
    spec.l4()
        + match spec.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
            _ => 2,
        }
}

fn apply(spec: &Spec, delta: Delta, checksum: [u8; 2]) -> [u8; 2] {
    match spec.transport {
        Transport::Udp => delta.apply_udp(checksum),
        _ => delta.apply(checksum),
    }
}

fn check_transport(from: &Spec, to: &Spec) {
    let at = transport_checksum(from);
    let delta = transport_delta(from, to);
    let (before, after) = (field(&from.build(), at), field(&to.build(), at));
    assert_eq!(apply(from, delta, before), after);
}

/// Chooses the first two bytes of payload so that the checksum computes to zero.
fn with_zero_checksum(mut spec: Spec) -> Spec {
    spec.payload[..2].fill(0);
    let at = transport_checksum(&spec);
    let checksum = field(&spec.build(), at);
    spec.payload[..2].copy_from_slice(&checksum);
    spec
}

proptest! {
    #[test]
    fn an_ipv4_header_delta_equals_a_full_sum(from in flows(false), to in rewrites()) {
        let to = rewritten(&from, &to);
        let (before, after) = (from.build(), to.build());
        let ip = from.l3();
        let delta = addresses(&from, &to)
            + Delta::of(field(&before, ip + 8), field(&after, ip + 8));
        prop_assert_eq!(delta.apply(field(&before, ip + 10)), field(&after, ip + 10));
    }

    #[test]
    fn a_transport_delta_equals_a_full_sum(from in flows(false), to in rewrites()) {
        check_transport(&from, &rewritten(&from, &to));
    }

    #[test]
    fn an_ipv6_transport_delta_equals_a_full_sum(from in flows(true), to in rewrites()) {
        check_transport(&from, &rewritten(&from, &to));
    }

    #[test]
    fn a_compiled_ipv6_rewrite_has_the_delta_of_its_fields(from in flows(true), to in rewrites()) {
        let to = rewritten(&from, &to);
        let [before, after] = [&from, &to].map(|spec| {
            parse6(&spec.build()).unwrap().key()
        });
        let rewrite = V6::compile(&before, &after);
        prop_assert_eq!(Delta::from_raw(rewrite.l4_delta), transport_delta(&from, &to));
        prop_assert_eq!((rewrite.src, rewrite.dst), (to.src, to.dst));
    }

    #[test]
    fn a_delta_to_and_from_a_zero_checksum_equals_a_full_sum(
        from in flows(false), to in rewrites(),
    ) {
        let to = with_zero_checksum(rewritten(&from, &to));
        let from = Spec { payload: to.payload.clone(), ..from };
        let expected = if to.transport == Transport::Udp { [0xff; 2] } else { [0; 2] };
        prop_assert_eq!(field(&to.build(), transport_checksum(&to)), expected);
        check_transport(&from, &to);
        check_transport(&to, &from);
    }

    #[test]
    fn udp_without_a_checksum_stays_without(from in flows(true), to in rewrites()) {
        let delta = transport_delta(&from, &rewritten(&from, &to));
        prop_assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(from in flows(false), to in rewrites(), error in 1..0xffffu16) {
        let to = rewritten(&from, &to);
        let at = transport_checksum(&from);
        let (right, after) = (field(&from.build(), at), field(&to.build(), at));
        let wrong = (u32::from(u16::from_be_bytes(right)) + u32::from(error)) % 0xffff;
        let wrong = (wrong as u16).to_be_bytes();
        prop_assume!(from.transport != Transport::Udp || wrong != [0, 0]);
        prop_assert_ne!(apply(&from, transport_delta(&from, &to), wrong), after);
    }

    #[test]
    fn a_number_keeps_a_delta(from in any::<[u8; 16]>(), to in any::<[u8; 16]>()) {
        let delta = Delta::of(from, to);
        prop_assert_eq!(Delta::from_raw(delta.raw()), delta);
    }

    #[test]
    fn a_delta_and_its_reverse_cancel(from in any::<u32>(), to in any::<u32>()) {
        prop_assert_eq!(Delta::of(from, to) + Delta::of(to, from), Delta::NONE);
    }

    #[test]
    fn a_sum_equals_etherparse(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let oracle = etherparse::checksum::Sum16BitWords::new().add_slice(&data).ones_complement();
        let ours = weir_wire::checksum::finish(weir_wire::checksum::sum(&data));
        prop_assert_eq!(u16::from_ne_bytes(ours), oracle);
    }
}
