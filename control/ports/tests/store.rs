//! What is granted and renewed, whichever protocol asks.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weir_layout::Family;
use weir_ports::{Denial, Filters, Outside, Owner, Realm, Situation, Store, Unavailable, Wish};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Of IPv6, where each host has its own address.
fn realm() -> Realm {
    Realm {
        lan: "lan0".into(),
        link: Some(1),
        family: Family::V6,
        servers: vec![ip("2001:db8:1::1")],
        networks: vec!["2001:db8:1::/64".parse().unwrap()],
        outside: Outside::Own,
        shares_addresses: false,
    }
}

fn store() -> Store {
    let mut store = Store::default();
    let situation = Situation { realms: vec![realm()], upnp: true, ..Situation::default() };
    store.follow(situation, 0, |_| {});
    store
}

fn wish<'a>(inside: u16, outside: u16, add: &'a [IpNet]) -> Wish<'a> {
    Wish {
        inside: SocketAddr::new(ip("2001:db8:1::5"), inside),
        protocol: 6,
        port: outside,
        address: None,
        exactly: true,
        lifetime: 600,
        owner: Owner::Upnp(String::new()),
        filters: Filters { clears: true, add },
    }
}

#[test]
fn a_filter_of_another_family_opens_a_port_to_nobody() {
    let mut store = store();
    let filter = ["198.51.100.7/32".parse().unwrap()];
    let denied = store.grant(&realm(), &wish(8080, 8080, &filter), 0, None).unwrap_err();
    assert_eq!((denied.why, denied.changes), (Denial::FilterFamily, false));
    assert!(store.mappings().is_empty());
}

#[test]
fn an_address_that_nothing_reaches_has_no_port() {
    let mut wish = wish(8080, 8080, &[]);
    wish.inside.set_ip(ip("fd00::5"));
    let denied = store().grant(&realm(), &wish, 0, None).unwrap_err();
    assert_eq!(denied.why, Denial::NoUplink);
}

#[test]
fn where_hosts_have_their_own_addresses_no_renewal_leads_a_port_to_another_one() {
    let mut store = store();
    let granted = store.grant(&realm(), &wish(8080, 8080, &[]), 0, None).unwrap();
    let denied = store.grant(&realm(), &wish(22, 8080, &[]), 0, None).unwrap_err();
    assert_eq!((denied.why, denied.changes), (Denial::Port(Unavailable::NotTheSame), false));
    assert_eq!(store.mappings()[0].inside.port(), 8080);
    let again = store.grant(&realm(), &wish(8080, 8080, &[]), 0, None).unwrap();
    assert_eq!((again.id, again.changes), (granted.id, false));
}
