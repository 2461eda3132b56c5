//! Whatever hosts send: nothing panics, answers fit, and what was granted can be published.

mod both;

use std::net::IpAddr;

use both::Server;
use proptest::prelude::*;
use weir_layout::Family;
use weir_layout::control::MAX_MAPPED;
use weir_ports::{Asker, Limits, Outside, Realm, Situation};

const SERVER: &str = "10.0.0.1";

fn server(ports: (u16, u16)) -> Server {
    let realm = |family, server: &str, network: &str, outside, shares_addresses| Realm {
        lan: "lan0".into(),
        link: Some(1),
        family,
        servers: vec![server.parse().unwrap()],
        networks: vec![network.parse().unwrap()],
        outside,
        shares_addresses,
    };
    let shared = Outside::Shared("192.0.2.2".parse().unwrap());
    let realms = vec![
        realm(Family::V4, SERVER, "10.0.0.0/24", shared, true),
        realm(Family::V6, "fd00::1", "fd00::/64", Outside::Own, false),
    ];
    let limits = Limits { ports, ..Limits::default() };
    let mut server = Server::default();
    server.follow(Situation { realms, limits, ..Situation::default() }, 0);
    server
}

/// Holds of whatever was granted.
fn check(server: &Server, (first, last): (u16, u16)) {
    let all = server.mappings();
    assert!(all.len() <= MAX_MAPPED);
    for (index, mapping) in all.iter().enumerate() {
        assert!(mapping.port != 0 && mapping.inside.port() != 0);
        let shared = mapping.family() == Family::V4;
        assert!(!shared || (first..=last).contains(&mapping.port));
        for other in &all[..index] {
            let inside = |it: &weir_ports::Mapping| (it.inside, it.protocol);
            assert_ne!(inside(mapping), inside(other), "a port inside has one");
            let meets = shared && other.family() == Family::V4 && other.port == mapping.port;
            let one_host = mapping.inside.ip() == other.inside.ip();
            assert!(!meets || one_host && mapping.protocol != other.protocol, "{all:?}");
        }
    }
}

#[test]
fn no_datagram_makes_it_panic_and_no_answer_is_longer_than_what_was_asked() {
    let host: IpAddr = "10.0.0.5".parse().unwrap();
    bolero::check!().for_each(|datagram| {
        let mut server = server((16_384, u16::MAX));
        let asker = Asker { lan: "lan0", from: host, now: 0 };
        if let Some(answer) = server.answer(datagram, asker, Some(&|_| false)) {
            assert!(answer.message.len() <= datagram.len().next_multiple_of(4).max(24));
            // An answer is never answered.
            assert_eq!(server.answer(&answer.message, asker, Some(&|_| false)), None);
        }
        check(&server, (16_384, u16::MAX));
    });
}

/// A request that is nearly sound, of host `10.0.0.host` or `fd00::host`.
fn request() -> impl Strategy<Value = (IpAddr, Vec<u8>)> {
    let ports = prop_oneof![Just(0u16), 20_000..20_008u16, any::<u16>()];
    let protocol = prop_oneof![Just(6u8), Just(17), any::<u8>()];
    let lifetime = prop_oneof![Just(0u32), Just(600), any::<u32>()];
    let options = prop_oneof![
        3 => Just(Vec::new()),
        1 => Just(vec![2, 0, 0, 0]),
        1 => proptest::collection::vec(any::<u8>(), 0..60),
    ];
    let parts = (2..9u8, any::<bool>(), any::<bool>(), protocol, ports.clone(), ports, lifetime);
    (parts, options, 1..3u8).prop_map(|(parts, options, nonce)| {
        let (host, is_v6, by_pcp, protocol, inside, outside, lifetime) = parts;
        let from = match is_v6 {
            true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)]),
            false => IpAddr::from([10, 0, 0, host]),
        };
        let octets = match from {
            IpAddr::V4(from) => from.to_ipv6_mapped().octets(),
            IpAddr::V6(from) => from.octets(),
        };
        let (inside, outside) = (inside.to_be_bytes(), outside.to_be_bytes());
        let lifetime = lifetime.to_be_bytes();
        let message = match by_pcp {
            true => [
                &[2, 1, 0, 0],
                &lifetime[..],
                &octets,
                &[nonce; 12],
                &[protocol, 0, 0, 0],
                &inside,
                &outside,
                &[0; 16],
                &options,
            ]
            .concat(),
            false => [&[0, 1 + protocol % 2, 0, 0], &inside[..], &outside, &lifetime].concat(),
        };
        (from, message)
    })
}

proptest! {
    #[test]
    fn whatever_hosts_ask_for_each_port_outside_is_of_one(
        requests in proptest::collection::vec(request(), 1..300),
        ports in prop_oneof![Just((16_384, u16::MAX)), Just((20_000, 20_006)), Just((20_000, 20_000))],
    ) {
        let mut server = server(ports);
        for (now, (from, message)) in (0u64..).step_by(1000).zip(&requests) {
            let before = server.mappings().to_vec();
            let asker = Asker { lan: "lan0", from: *from, now };
            let answer = server.answer(message, asker, Some(&|port| port == 20_001));
            check(&server, ports);
            let ends = |all: &[weir_ports::Mapping]| -> Vec<_> {
                all.iter().map(|it| (it.inside, it.protocol, it.port, it.filters.clone())).collect()
            };
            let same = ends(&before) == ends(server.mappings());
            prop_assert!(same || answer.is_some_and(|answer| answer.changes));
            server.store.expire(now);
        }
    }
}
