//! A gateway that grants ports, for the tests of the protocols by which hosts ask.

use std::net::IpAddr;

use weir_layout::Family;
use weir_ports::{Limits, Outside, Realm, Reserved, Situation};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A LAN with both families: of IPv4 with a shared address outside, of IPv6 with hosts' own.
pub fn situation() -> Situation {
    let realm = |family, server, network: &str, outside, shares_addresses| Realm {
        lan: "lan0".into(),
        link: Some(1),
        family,
        servers: vec![ip(server)],
        networks: vec![network.parse().unwrap()],
        outside,
        shares_addresses,
    };
    let web = Reserved {
        family: Family::V4,
        protocol: 6,
        ports: (20_000, 20_010),
        host: Some(ip("10.0.0.9")),
    };
    Situation {
        realms: vec![
            realm(Family::V4, "10.0.0.1", "10.0.0.0/24", Outside::Shared(ip("192.0.2.2")), true),
            realm(Family::V6, "2001:db8:1::1", "2001:db8:1::/64", Outside::Own, false),
        ],
        reserved: vec![web],
        limits: Limits::default(),
        upnp: false,
    }
}
