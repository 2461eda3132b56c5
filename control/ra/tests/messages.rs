//! What goes over the wire, read back by a reader of the tests' own.

mod decoder;

use std::net::Ipv6Addr;

use decoder::decode;
use ipnet::Ipv6Net;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use weir_ra::heard::{Heard, read};
use weir_ra::{Advertisement, PrefixInformation, RouteInformation};
use weir_view::Preference;

/// What a link has room for at least: 1280 bytes (RFC 8200 §5) without the IPv6 header.
const LEAST_ROOM: usize = 1240;
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);

fn prefix() -> impl Strategy<Value = Ipv6Net> {
    let net = |(address, length): (u128, u8)| {
        Ipv6Net::new(Ipv6Addr::from(address), length).expect("a length").trunc()
    };
    (any::<u128>(), 0u8..=128).prop_map(net)
}

fn information() -> impl Strategy<Value = PrefixInformation> {
    let of = |(prefix, on_link, autonomous, valid, preferred): (Ipv6Net, _, _, _, _)| {
        PrefixInformation { prefix, on_link, autonomous, valid, preferred }
    };
    (prefix(), any::<bool>(), any::<bool>(), any::<u32>(), any::<u32>()).prop_map(of)
}

fn route() -> impl Strategy<Value = RouteInformation> {
    (prefix(), any::<u32>()).prop_map(|(prefix, lifetime)| RouteInformation { prefix, lifetime })
}

fn advertisement() -> impl Strategy<Value = Advertisement> {
    let preference = select(vec![Preference::Low, Preference::Medium, Preference::High]);
    let head = (any::<u8>(), any::<bool>(), any::<bool>(), any::<u16>(), preference);
    let link = (option::of(any::<[u8; 6]>()), option::of(any::<u32>()));
    let nets = (vec(information(), 0..80), vec(route(), 0..20));
    let dns = || vec(any::<u128>().prop_map(Ipv6Addr::from), 0..9);
    let search = || vec("([a-z]{1,63}\\.){0,2}[a-z0-9-]{1,63}", 0..9);
    let (dns, search) = ((dns(), dns()), (search(), search()));
    (head, link, nets, dns, search, 1..=u32::MAX).prop_map(
        |(head, link, (prefixes, routes), (dns, ended_dns), (search, ended_search), lifetime)| {
            let (hop_limit, managed, other, router_lifetime, preference) = head;
            let (link_address, mtu) = link;
            // Nothing says it where there are neither.
            let dns_lifetime = if dns.is_empty() && search.is_empty() { 0 } else { lifetime };
            Advertisement {
                hop_limit,
                managed,
                other,
                router_lifetime,
                preference,
                link_address,
                mtu,
                prefixes,
                routes,
                dns,
                search,
                dns_lifetime,
                ended_dns,
                ended_search,
            }
        },
    )
}

/// What several messages say together, each of which begins alike.
fn joined(messages: &[Vec<u8>]) -> Advertisement {
    let mut parts = messages.iter().map(|message| decode(message));
    let first = parts.next().expect("a message");
    parts.fold(first, |mut all, part| {
        assert_eq!(
            (all.hop_limit, all.managed, all.other, all.router_lifetime, all.link_address),
            (part.hop_limit, part.managed, part.other, part.router_lifetime, part.link_address)
        );
        all.mtu = all.mtu.or(part.mtu);
        all.prefixes.extend(part.prefixes);
        all.routes.extend(part.routes);
        all.dns.extend(part.dns);
        all.search.extend(part.search);
        all.ended_dns.extend(part.ended_dns);
        all.ended_search.extend(part.ended_search);
        all.dns_lifetime = all.dns_lifetime.max(part.dns_lifetime);
        all
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_a_host_reads(told in advertisement(), more in 0usize..400) {
        let room = LEAST_ROOM + more;
        let messages = told.encode(room);
        prop_assert!(messages.iter().all(|message| message.len() <= room));
        prop_assert_eq!(joined(&messages), told);
    }

    #[test]
    fn another_routers_message_is_read_and_one_that_is_cut_is_not(
        told in advertisement(),
        cut in any::<Index>(),
    ) {
        for message in told.encode(LEAST_ROOM) {
            let part = decode(&message);
            let is_offer = |it: &&PrefixInformation| it.autonomous;
            let offers = part.prefixes.iter().filter(is_offer);
            let prefixes = offers.map(|it| (it.prefix, it.preferred)).collect();
            let router_lifetime = told.router_lifetime;
            let expected = Heard::Advertisement { router_lifetime, prefixes };
            prop_assert_eq!(read(ROUTER, &message), Some(expected));
            let part = &message[..cut.index(message.len())];
            // Where it is cut between two options, it is a message with fewer.
            let whole = std::panic::catch_unwind(|| decode(part)).is_ok();
            prop_assert_eq!(read(ROUTER, part).is_some(), whole, "{}", part.len());
        }
    }

    #[test]
    fn no_bytes_are_too_strange(mut bytes in vec(any::<u8>(), 0..200), kind in 132u8..136) {
        bytes.splice(..bytes.len().min(2), [kind, 0]);
        let heard = read(ROUTER, &bytes);
        prop_assert!(heard.is_none() || matches!(kind, 133 | 134));
    }
}

#[test]
fn a_solicitation_is_heard_with_and_without_the_hosts_address() {
    let mut message = vec![133, 0, 0x12, 0x34, 0, 0, 0, 0];
    assert_eq!(read(ROUTER, &message), Some(Heard::Solicitation));
    message.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    assert_eq!(read(ROUTER, &message), Some(Heard::Solicitation));
    message.extend([1, 0, 2, 0, 0, 0, 0, 1]);
    assert_eq!(read(ROUTER, &message), None, "an option without a length");
    message[1] = 1;
    assert_eq!(read(ROUTER, &message[..8]), None, "code 1");
}

#[test]
fn only_a_neighbour_is_a_router_and_anybody_asks() {
    let advertisement = Advertisement { router_lifetime: 9, ..Advertisement::default() };
    let advertisement = advertisement.encode(LEAST_ROOM).remove(0);
    assert!(read(ROUTER, &advertisement).is_some());
    for other in ["2001:2::9", "fd00::9", "::", "ff02::9"] {
        let other: Ipv6Addr = other.parse().unwrap();
        assert_eq!(read(other, &advertisement), None, "{other}");
        assert_eq!(read(other, &[133, 0, 0, 0, 0, 0, 0, 0]), Some(Heard::Solicitation), "{other}");
    }
}
