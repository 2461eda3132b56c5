//! What hosts are told while providers fail, prefixes change and time passes.

use ipnet::Ipv6Net;
use proptest::collection::vec;
use proptest::prelude::*;
use weir_ra::{
    Advertisement, Advertiser, Known, Offer, PREFERRED_LIMIT_S, PrefixInformation,
    RouteInformation, Settings, VALID_LIMIT_S,
};
use weir_view::Preference;

const SECOND: u64 = 1000;
const LIFETIME: u16 = 2700;

fn settings() -> Settings {
    Settings {
        hop_limit: 64,
        managed: false,
        autonomous: true,
        other: false,
        router_lifetime: LIFETIME,
        preference: Preference::High,
        link_address: [2, 0, 0, 0, 0, 1],
        mtu: None,
        routes: Vec::new(),
        dns: Vec::new(),
        search: Vec::new(),
    }
}

fn net(number: u16) -> Ipv6Net {
    format!("2001:2:{number:x}::/64").parse().unwrap()
}

fn offer(number: u16) -> Offer {
    Offer { prefix: net(number), valid_until: None, preferred_until: None, usable: true }
}

/// A LAN's router in a time of the test's own, and all that it has sent.
struct Lan {
    advertiser: Advertiser,
    now: u64,
    sent: Vec<(u64, Advertisement)>,
}

impl Lan {
    fn new(told: &[Ipv6Net]) -> Self {
        let known = Known { prefixes: told.to_vec(), ..Known::default() };
        Self::knowing(known)
    }

    /// Whose hosts know something from before.
    fn knowing(known: Known) -> Self {
        let advertiser = Advertiser::new(settings(), known, 0);
        Self { advertiser, now: 0, sent: Vec::new() }
    }

    fn offer(&mut self, offers: &[Offer]) {
        self.advertiser.follow(settings(), true, offers.to_vec(), self.now);
    }

    /// Of which hosts are to lease addresses.
    fn offer_leased(&mut self, offers: &[Offer]) {
        let settings = Settings { autonomous: false, ..settings() };
        self.advertiser.follow(settings, true, offers.to_vec(), self.now);
    }

    /// What the last message says of a prefix: whether it is on the link, whether hosts make addresses
    /// of it, and for how long it is valid.
    fn said(&self, prefix: Ipv6Net) -> Vec<(bool, bool, u32)> {
        let last = &self.sent.last().expect("a message").1;
        let of = last.prefixes.iter().filter(|it| it.prefix == prefix);
        of.map(|it| (it.on_link, it.autonomous, it.valid)).collect()
    }

    /// Lets time pass, and sends what is due.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.advertiser.deadline() <= end {
            self.now = self.now.max(self.advertiser.deadline());
            self.sent.push((self.now, self.advertiser.advertise(self.now, self.now * 31)));
        }
        self.now = end;
    }

    /// What was sent since the last call.
    fn take(&mut self) -> Vec<(u64, Advertisement)> {
        std::mem::take(&mut self.sent)
    }

    /// Valid and preferred lifetime of a prefix in the last message.
    fn last(&self, prefix: Ipv6Net) -> Option<(u32, u32)> {
        told(&self.sent.last().expect("a message").1, prefix)
    }
}

fn told(advertisement: &Advertisement, prefix: Ipv6Net) -> Option<(u32, u32)> {
    let of = |it: &&PrefixInformation| it.prefix == prefix;
    advertisement.prefixes.iter().find(of).map(|it| (it.valid, it.preferred))
}

const FRESH: Option<(u32, u32)> = Some((VALID_LIMIT_S, PREFERRED_LIMIT_S));
const DEPRECATED: Option<(u32, u32)> = Some((VALID_LIMIT_S, 0));
const ENDED: Option<(u32, u32)> = Some((0, 0));

#[test]
fn a_provider_that_fails_has_its_prefix_deprecated_and_valid_until_it_is_back() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1), offer(2)]);
    lan.pass(60 * SECOND);
    lan.take();
    lan.offer(&[Offer { usable: false, ..offer(1) }, offer(2)]);
    let cut = lan.now;
    // Long after each host has forgotten what it was told before.
    lan.pass(4 * u64::from(VALID_LIMIT_S) * SECOND);
    let sent = lan.take();
    assert_eq!(sent[0].0, cut, "at once");
    assert!(sent[2].0 - cut <= 16 * SECOND, "three of them soon, lest a host miss it");
    for (at, message) in &sent {
        assert_eq!((told(message, net(1)), told(message, net(2))), (DEPRECATED, FRESH), "{at}");
        assert_eq!(message.router_lifetime, LIFETIME);
    }
    lan.offer(&[offer(1), offer(2)]);
    lan.pass(0);
    assert_eq!(lan.last(net(1)), FRESH);
}

#[test]
fn a_change_waits_three_seconds_after_the_message_before() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    lan.advertiser.solicit(lan.now, 0);
    lan.pass(SECOND);
    let (before, _) = *lan.sent.last().unwrap();
    lan.offer(&[Offer { usable: false, ..offer(1) }]);
    lan.take();
    lan.pass(3 * SECOND);
    assert_eq!(lan.take()[0].0, before + 3 * SECOND);
}

#[test]
fn a_prefix_that_is_no_more_is_told_of_as_long_as_a_host_may_have_it() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    let (last, _) = *lan.sent.last().unwrap();
    lan.offer(&[offer(2)]);
    lan.take();
    lan.pass(3 * u64::from(VALID_LIMIT_S) * SECOND);
    let ends = last + u64::from(VALID_LIMIT_S) * SECOND;
    let (before, after): (Vec<_>, Vec<_>) = lan.take().into_iter().partition(|(at, _)| *at < ends);
    assert!(before.len() > 5 && after.len() > 5);
    assert!(before.iter().all(|(_, message)| told(message, net(1)) == ENDED));
    assert!(after.iter().all(|(_, message)| told(message, net(1)).is_none()));
}

#[test]
fn a_second_renumbering_does_not_forget_the_first() {
    let mut lan = Lan::new(&[]);
    for number in 1..=3 {
        lan.offer(&[offer(number)]);
        lan.pass(10 * SECOND);
    }
    assert_eq!([1, 2, 3].map(|number| lan.last(net(number))), [ENDED, ENDED, FRESH]);
}

#[test]
fn a_prefix_that_comes_back_is_offered_as_before() {
    let mut lan = Lan::new(&[]);
    for number in [1, 2, 1] {
        lan.offer(&[offer(number)]);
        lan.pass(10 * SECOND);
    }
    assert_eq!((lan.last(net(1)), lan.last(net(2))), (FRESH, ENDED));
    lan.pass(u64::from(VALID_LIMIT_S) * SECOND + 600 * SECOND);
    assert_eq!((lan.last(net(1)), lan.last(net(2))), (FRESH, None));
}

#[test]
fn what_an_earlier_process_told_of_is_ended_or_goes_on() {
    let mut lan = Lan::new(&[net(1), net(2)]);
    lan.offer(&[offer(2), offer(3)]);
    lan.pass(0);
    assert_eq!([1, 2, 3].map(|number| lan.last(net(number))), [ENDED, FRESH, FRESH]);
    lan.pass(u64::from(VALID_LIMIT_S) * SECOND + 600 * SECOND);
    assert_eq!(lan.last(net(1)), None);
    assert_eq!(lan.advertiser.known().prefixes, [net(2), net(3)]);
}

#[test]
fn what_another_router_offers_is_not_ended_while_it_does() {
    let mut lan = Lan::new(&[net(1), net(2)]);
    lan.offer(&[offer(2)]);
    lan.advertiser.leave(&[(net(1), 1800), (net(2), 1800)], lan.now);
    lan.pass(0);
    assert_eq!((lan.last(net(1)), lan.last(net(2))), (None, FRESH));
    lan.advertiser.leave(&[(net(1), 0)], lan.now);
    lan.pass(10 * SECOND);
    assert_eq!(lan.last(net(1)), ENDED, "it has withdrawn it");
}

#[test]
fn what_a_host_pretends_to_offer_is_ended_all_the_same_once_that_is_over() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    lan.offer(&[offer(2)]);
    lan.advertiser.leave(&[(net(1), 60)], lan.now);
    lan.pass(20 * SECOND);
    assert_eq!(lan.last(net(1)), None);
    lan.pass(700 * SECOND);
    assert_eq!(lan.last(net(1)), ENDED);
    assert!(lan.advertiser.known().prefixes.contains(&net(1)), "and a restart knows of it");
}

/// All that a file may say that hosts keep.
fn rich() -> Settings {
    Settings {
        routes: vec![net(0x300), net(0x301)],
        dns: vec!["2001:2::53".parse().unwrap(), "2001:2::54".parse().unwrap()],
        search: vec!["one.example".into(), "two.example".into()],
        ..settings()
    }
}

/// As [`rich`], without the first of each.
fn poorer() -> Settings {
    let Settings { routes, dns, search, .. } = rich();
    let (routes, dns, search) = (routes[1..].into(), dns[1..].into(), search[1..].into());
    Settings { routes, dns, search, ..settings() }
}

/// The routes with a lifetime, and those that are ended.
fn routes(message: &Advertisement) -> (Vec<Ipv6Net>, Vec<Ipv6Net>) {
    let (live, ended): (Vec<_>, Vec<_>) = message.routes.iter().partition(|it| it.lifetime > 0);
    let prefixes =
        |of: Vec<&RouteInformation>| of.into_iter().map(|it| it.prefix).collect::<Vec<_>>();
    (prefixes(live), prefixes(ended))
}

/// The last message ends the first of each, and tells of the second.
fn assert_ended(lan: &Lan) {
    let (rich, poorer, (_, last)) = (rich(), poorer(), lan.sent.last().expect("a message"));
    assert_eq!((&last.dns, &last.search), (&poorer.dns, &poorer.search));
    assert_eq!((&last.ended_dns[..], &last.ended_search[..]), (&rich.dns[..1], &rich.search[..1]));
    assert_eq!(routes(last), (poorer.routes, rich.routes[..1].to_vec()));
}

#[test]
fn servers_domains_and_routes_that_are_no_more_are_told_of_as_long_as_a_host_may_have_them() {
    let mut lan = Lan::new(&[]);
    lan.advertiser.follow(rich(), true, vec![offer(1)], lan.now);
    lan.pass(60 * SECOND);
    lan.advertiser.follow(poorer(), true, vec![offer(1)], lan.now);
    lan.pass(20 * SECOND);
    assert_ended(&lan);
    lan.pass(u64::from(VALID_LIMIT_S) * SECOND + 600 * SECOND);
    let (_, last) = lan.sent.last().expect("a message");
    assert_eq!((last.ended_dns.len(), last.ended_search.len()), (0, 0));
    assert_eq!(routes(last), (poorer().routes, Vec::new()));
}

#[test]
fn a_restart_ends_servers_domains_and_routes_that_are_no_more() {
    let Settings { routes, dns, search, .. } = rich();
    let mut lan = Lan::knowing(Known { routes, dns, search, ..Known::default() });
    lan.advertiser.follow(poorer(), true, vec![offer(1)], lan.now);
    lan.pass(0);
    assert_ended(&lan);
    assert_eq!(lan.advertiser.known().dns, rich().dns);
}

#[test]
fn lifetimes_count_down_to_the_end_of_what_was_delegated() {
    let mut lan = Lan::new(&[]);
    let (valid_until, preferred_until) = (Some(3000 * SECOND), Some(1000 * SECOND));
    lan.offer(&[Offer { valid_until, preferred_until, ..offer(1) }]);
    lan.pass(4000 * SECOND);
    for (at, message) in lan.take() {
        let left = |end: u64| (end.saturating_sub(at / SECOND)) as u32;
        let expected = (left(3000), left(1000));
        let (valid, preferred) = told(&message, net(1)).unwrap_or((0, 0));
        assert!(valid.abs_diff(expected.0) <= 1 && preferred.abs_diff(expected.1) <= 1, "{at}");
        let lifetime = if valid > 0 { LIFETIME } else { 0 };
        assert_eq!(message.router_lifetime, lifetime, "there is no other prefix");
    }
}

#[test]
fn time_that_passes_is_no_change_and_a_renewal_is_none() {
    let mut lan = Lan::new(&[]);
    let until = |s: u64| Offer {
        valid_until: Some(s * SECOND),
        preferred_until: Some(s * SECOND),
        ..offer(1)
    };
    lan.offer(&[until(20_000)]);
    lan.pass(60 * SECOND);
    lan.take();
    for s in 0..100 {
        lan.offer(&[until(20_000 + s)]);
        lan.pass(SECOND);
    }
    assert!(lan.take().is_empty());
    lan.offer(&[until(1000)]);
    lan.pass(0);
    assert_eq!(lan.take().len(), 1, "it ends sooner");
}

#[test]
fn a_gateway_that_leads_nowhere_is_no_default_router_and_keeps_its_prefixes() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    lan.advertiser.follow(settings(), false, vec![offer(1)], lan.now);
    lan.pass(0);
    let last = &lan.sent.last().unwrap().1;
    assert_eq!((last.router_lifetime, last.preference), (0, Preference::Medium));
    assert_eq!(lan.last(net(1)), FRESH);
}

#[test]
fn a_host_that_asks_is_answered_in_half_a_second_and_a_flood_at_no_more_than_one_in_three() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    lan.take();
    let asked = lan.now;
    for _ in 0..10_000 {
        lan.advertiser.solicit(lan.now, lan.now * 7);
        lan.pass(1);
    }
    let sent: Vec<u64> = lan.take().into_iter().map(|(at, _)| at).collect();
    assert!(sent[0] - asked < 500, "{sent:?}");
    assert!(sent.len() <= 4 && sent.windows(2).all(|pair| pair[1] - pair[0] >= 3000), "{sent:?}");
}

#[test]
fn a_link_that_is_back_is_told_at_once_and_has_lost_nothing() {
    let mut lan = Lan::new(&[]);
    lan.offer(&[offer(1)]);
    lan.pass(60 * SECOND);
    lan.take();
    lan.advertiser.reappear(lan.now);
    lan.pass(16 * SECOND);
    let sent = lan.take();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(_, message)| told(message, net(1)) == FRESH));
}

#[derive(Clone, Debug)]
enum Event {
    Offer(Vec<Offer>),
    Solicit(u64),
    Reappear,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let end = || proptest::option::of(0u64..20_000_000);
    let offers =
        (0u16..4, end(), end(), any::<bool>()).prop_map(|(number, valid, preferred, usable)| {
            Offer { prefix: net(number), valid_until: valid, preferred_until: preferred, usable }
        });
    prop_oneof![
        vec(offers, 0..4).prop_map(Event::Offer),
        any::<u64>().prop_map(|random| Event::Solicit(random / 2)),
        Just(Event::Reappear),
        prop_oneof![0u64..5000, 0u64..2_000_000].prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_rates_lifetimes_and_promises_hold(events in vec(event(), 1..60)) {
        let mut lan = Lan::new(&[]);
        for event in events {
            match event {
                Event::Offer(offers) => lan.offer(&offers),
                Event::Solicit(random) => lan.advertiser.solicit(lan.now, random),
                Event::Reappear => lan.advertiser.reappear(lan.now),
                Event::Pass(ms) => lan.pass(ms),
            }
            prop_assert!(lan.advertiser.deadline() <= lan.now + 600 * SECOND);
        }
        lan.pass(600 * SECOND);
        let sent = lan.take();
        prop_assert!(sent.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 3 * SECOND));
        // By prefix: until when a host that heard everything may have an address.
        let mut promised = std::collections::BTreeMap::new();
        for (at, message) in sent {
            for it in &message.prefixes {
                prop_assert!(it.preferred <= it.valid);
                prop_assert!(it.valid <= VALID_LIMIT_S && it.preferred <= PREFERRED_LIMIT_S);
                let until = promised.entry(it.prefix).or_insert(0);
                *until = (*until).max(at + u64::from(it.valid) * SECOND);
            }
            for (prefix, until) in &promised {
                prop_assert_eq!(*until > at, told(&message, *prefix).is_some(), "{}", prefix);
            }
        }
    }
}

#[test]
fn addresses_that_hosts_made_are_ended_where_they_are_to_lease_them() {
    let leased = (true, false, VALID_LIMIT_S);
    let mut lan = Lan::new(&[]);
    lan.offer_leased(&[offer(1)]);
    lan.pass(SECOND);
    assert_eq!(lan.said(net(1)), [leased], "hosts have made none");
    lan.offer(&[offer(1)]);
    lan.pass(3 * SECOND);
    assert_eq!(lan.said(net(1)), [(true, true, VALID_LIMIT_S)]);
    lan.offer_leased(&[offer(1)]);
    lan.pass(3 * SECOND);
    assert_eq!(lan.said(net(1)), [leased, (false, true, 0)]);
    lan.offer_leased(&[offer(2)]);
    lan.pass(3 * SECOND);
    assert_eq!(lan.said(net(1)), [(true, true, 0)], "all of it is no more");
    assert_eq!(lan.said(net(2)), [leased]);
    lan.offer_leased(&[]);
    lan.pass(3 * SECOND);
    assert_eq!(lan.said(net(2)), [(true, false, 0)], "nobody made addresses of it");
    lan.pass(u64::from(VALID_LIMIT_S + 600) * SECOND);
    assert_eq!((lan.said(net(1)), lan.said(net(2))), (vec![], vec![]));
}

#[test]
fn addresses_that_an_earlier_process_offered_are_ended_too() {
    let mut lan = Lan::new(&[net(1)]);
    lan.offer_leased(&[offer(1)]);
    lan.pass(SECOND);
    assert_eq!(lan.said(net(1)), [(true, false, VALID_LIMIT_S), (false, true, 0)]);
    let known = lan.advertiser.known();
    assert_eq!(known.prefixes, [net(1)]);
}
