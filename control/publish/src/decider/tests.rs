//! What follows from events: no kernel, no clock, no memory that others read.

use weir_health::State;
use weir_layout::control::{ComeHome, PathId, path_state};
use weir_view::own::Own;
use weir_view::{Link, NeighbourEntry};

use super::*;
use crate::Change;

const UP: u32 = path_state::USABLE;
const CUT: u32 = path_state::NO_CARRIER;

/// Two uplinks, `a` by interface 2 and `b` by 3.
fn site(lans: &str) -> Site {
    let uplinks = [("a", "wan0", "192.0.2.1"), ("b", "wan1", "198.51.100.1")];
    let uplinks = uplinks.map(|(name, interface, next_hop)| {
        format!(
            "[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\n\
             next_hop = \"{next_hop}\"\n"
        )
    });
    weir_site::parse("weir.toml", &format!("{lans}{}", uplinks.concat())).unwrap()
}

/// All is well with both.
fn kernel() -> Kernel {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        running: true,
        up: true,
        ..Link::default()
    };
    let known = |interface, address: &str| {
        let entry = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
        ((interface, address.parse().unwrap()), entry)
    };
    let addresses = [(1, "10.0.0.1/24"), (2, "192.0.2.2/24"), (3, "198.51.100.2/24")];
    Kernel {
        links: vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")],
        addresses: addresses.map(|(index, net)| (index, net.parse().unwrap())).into(),
        neighbours: [known(2, "192.0.2.1"), known(3, "198.51.100.1")].into(),
        ..Kernel::default()
    }
}

fn decider() -> Decider {
    let region = ControlRegion::anonymous().unwrap();
    Decider::new(site("[[lan]]\ninterface = \"lan0\"\n"), kernel(), &region, "weir", 0)
}

fn decide(decider: &mut Decider, ms: u64) -> Effects {
    let judged = decider.judge(Now { ms, ..Now::default() });
    decider.place(judged, |_| 0)
}

#[test]
fn what_is_decided_first_is_all_there_is_and_then_nothing() {
    let mut decider = decider();
    let Effects { changes, entries, guard, hosts, half, .. } = decide(&mut decider, 1);
    let change = |path, to| Change { path, from: 0, to };
    let (up, none) = (UP, path_state::NOT_CONFIGURED);
    let v6 = |uplink| PathId::new(uplink, Family::V6);
    let first = [(PathId::v4(0), up), (PathId::v4(1), up), (v6(0), none), (v6(1), none)];
    assert_eq!(changes, first.map(|(path, to)| change(path, to)));
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(guard.is_some_and(|[v4, _]| v4.is_some_and(|commands| commands.contains("lan0"))));
    assert!(hosts.is_some_and(|hosts| hosts.contains_key(&([10, 0, 0, 1], 32))));
    assert_eq!(half.unwrap().uplinks[1].name.as_str(), "b");
    let Effects { changes, entries, guard, hosts, half, .. } = decide(&mut decider, 2);
    assert!(changes.is_empty() && entries.is_empty(), "{changes:?} {entries:?}");
    assert!(guard.is_none() && hosts.is_none() && half.is_none());
}

#[test]
fn a_lost_carrier_is_another_word_and_other_buckets() {
    let mut decider = decider();
    decide(&mut decider, 1);
    let mut uplinks = decider.tables(Family::V4).live()[0].to_vec();
    uplinks.sort_unstable();
    uplinks.dedup();
    assert_eq!(uplinks, [0, 1]);
    assert!(decider.lose_carrier(2));
    let effects = decide(&mut decider, 2);
    assert_eq!(effects.changes, [Change { path: PathId::v4(0), from: UP, to: CUT }]);
    assert_eq!(decider.words(Family::V4), [CUT, UP]);
    assert!(effects.flip() && effects.half.is_some());
    assert!(decider.tables(Family::V4).live()[0].iter().all(|uplink| *uplink == 1));
    let told = effects.entries.iter().map(|entry| match &entry.event {
        Event::State { part, transition } => (part.uplink(), transition.to),
        other => panic!("{other:?}"),
    });
    assert_eq!(told.collect::<Vec<_>>(), [(Some("a"), State::Down)]);
}

/// What is told of tiers: the policy and its family, from which to which, and the uplinks there.
fn tiers(entries: &[Entry]) -> Vec<(String, Option<u8>, Option<u8>, String)> {
    let told = entries.iter().filter_map(|entry| match &entry.event {
        Event::Tier(tier) => Some((tier.to_string(), tier.from, tier.to, tier.uplinks.join(" "))),
        _ => None,
    });
    told.collect()
}

/// Where `b` is a backup.
fn with_backup() -> Site {
    let mut site = site("[[lan]]\ninterface = \"lan0\"\n");
    site.policies[0].members[1].tier = 2;
    site
}

#[test]
fn another_tier_of_a_policy_is_told_once_with_its_uplinks() {
    let region = ControlRegion::anonymous().unwrap();
    let mut decider = Decider::new(with_backup(), kernel(), &region, "weir", 0);
    let told = |decider: &mut Decider, ms| tiers(&decide(decider, ms).entries);
    let policy = || format!("policy {}", with_backup().policies[0].name);
    assert_eq!(told(&mut decider, 1), [], "there was none before");
    decider.lose_carrier(2);
    assert_eq!(told(&mut decider, 2), [(policy(), Some(1), Some(2), "b".into())]);
    assert_eq!(told(&mut decider, 3), []);
    decider.lose_carrier(3);
    assert_eq!(told(&mut decider, 4), [(policy(), Some(2), None, String::new())]);
    let numbers: Vec<u64> = decider.history().since(0).map(|entry| entry.number).collect();
    assert_eq!(numbers, (0..6).collect::<Vec<_>>(), "two came, two went, the policy moved twice");
}

#[test]
fn a_change_of_the_file_is_no_change_of_tier_but_where_the_tiers_are_others() {
    let region = ControlRegion::anonymous().unwrap();
    let mut decider = Decider::new(with_backup(), kernel(), &region, "weir", 0);
    decide(&mut decider, 1);
    let mut site = with_backup();
    site.policies[0].name = "other".into();
    decider.reconfigure(site, Overrides::default(), 2);
    assert_eq!(tiers(&decide(&mut decider, 2).entries), [], "another policy");
    let mut site = with_backup();
    site.policies[0].name = "other".into();
    site.policies[0].members.iter_mut().for_each(|member| member.tier += 1);
    decider.reconfigure(site, Overrides::default(), 3);
    let told = [("policy other".into(), Some(1), Some(2), "a".into())];
    assert_eq!(tiers(&decide(&mut decider, 3).entries), told);
}

#[test]
fn a_family_has_tiers_of_its_own() {
    let mut site = with_backup();
    site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = Some(weir_site::Ipv6Config::default()));
    let region = ControlRegion::anonymous().unwrap();
    let mut decider = Decider::new(site, kernel(), &region, "weir", 0);
    decide(&mut decider, 1);
    decider.lose_carrier(2);
    let told = tiers(&decide(&mut decider, 2).entries);
    let names: Vec<_> =
        told.iter().map(|(policy, ..)| policy.rsplit(' ').next().unwrap()).collect();
    assert_eq!((told.len(), names[1]), (2, "(IPv6)"), "{told:?}");
}

#[test]
fn what_is_set_by_hand_is_in_the_word_and_undone_with_it() {
    let mut decider = decider();
    decide(&mut decider, 1);
    decider.overrides_mut().hands.insert(1, crate::Hand::Down);
    decide(&mut decider, 2);
    assert_eq!(decider.words(Family::V4), [UP, path_state::ADMIN_DOWN]);
    decider.overrides_mut().hands.clear();
    decide(&mut decider, 3);
    assert_eq!(decider.words(Family::V4), [UP, UP]);
}

#[test]
fn destinations_that_were_not_entered_are_decided_again() {
    let mut decider = decider();
    let first = decide(&mut decider, 1).hosts;
    decider.hosts_failed(Family::V4);
    assert_eq!(decide(&mut decider, 2).hosts, first);
    assert_eq!(decide(&mut decider, 3).hosts, None);
}

#[test]
fn destinations_of_ipv6_that_were_not_entered_have_none_of_ipv4_decided_again() {
    let mut decider = decider();
    decide(&mut decider, 1);
    decider.hosts_failed(Family::V6);
    let Effects { hosts, hosts6, .. } = decide(&mut decider, 2);
    assert_eq!(hosts, None);
    assert!(hosts6.is_some());
}

#[test]
fn without_a_map_for_its_destinations_ipv6_has_no_path_and_ipv4_is_as_it_was() {
    let mut decider = of_both_families();
    decider.go_without_ipv6();
    decide(&mut decider, 1);
    assert_eq!(decider.words(Family::V4), [UP, UP]);
    let usable = |word: &u32| word & path_state::USABLE != 0;
    assert!(!decider.words(Family::V6).iter().any(usable), "{:?}", decider.words(Family::V6));
}

#[test]
fn rules_and_routes_are_wanted_until_they_are_made_and_when_a_word_changes() {
    let mut decider = decider();
    assert_eq!(decider.own_traffic(), None, "nothing is decided yet");
    decide(&mut decider, 1);
    let first = decider.own_traffic().unwrap();
    decider.own_made(Own::default(), false);
    assert_eq!(decider.own_traffic().as_ref(), Some(&first));
    decider.own_made(first.clone(), true);
    decide(&mut decider, 2);
    assert_eq!(decider.own_traffic(), None);
    decider.lose_carrier(2);
    decide(&mut decider, 3);
    let second = decider.own_traffic();
    assert!(second.is_some_and(|own| own != first), "the gateway uses the other uplink");
}

#[test]
fn a_neighbour_that_grows_stale_is_no_reason_for_other_routes() {
    let mut decider = decider();
    decide(&mut decider, 1);
    let own = decider.own_traffic().unwrap();
    decider.own_made(own.clone(), true);
    let mut kernel = Kernel { own: own.into(), ..kernel() };
    kernel.neighbours.values_mut().for_each(|next_hop| next_hop.fresh = false);
    decider.see(kernel.clone(), 2);
    decide(&mut decider, 2);
    assert_eq!((decider.own_traffic(), decider.unresolved().len()), (None, 2));
    kernel.addresses.push((2, "192.0.2.3/24".parse().unwrap()));
    decider.see(kernel, 3);
    assert!(decider.own_traffic().is_some());
}

#[test]
fn another_file_is_another_guard() {
    let mut decider = decider();
    decide(&mut decider, 1);
    let site = site("[[lan]]\ninterface = \"lan0\"\n[[lan]]\ninterface = \"lan9\"\n");
    decider.reconfigure(site, Overrides::default(), 2);
    let guard = decide(&mut decider, 2).guard;
    let [v4, v6] = guard.unwrap();
    assert!(v4.is_some_and(|commands| commands.contains("lan9")));
    assert_eq!(v6, None);
    assert_eq!(decide(&mut decider, 3).guard, None);
}

#[test]
fn the_next_process_adopts_words_and_what_was_published() {
    let region = ControlRegion::anonymous().unwrap();
    let next_hops = weir_shm::adjacencies::NextHops::anonymous().unwrap();
    let mut writer = weir_shm::control::ControlWriter::new(region.clone(), next_hops);
    let mut first = decider();
    first.overrides_mut().hands.insert(1, crate::Hand::Down);
    let mut half = decide(&mut first, 1).half.unwrap();
    for family in Family::ALL {
        for (index, word) in (0u8..).zip(first.words(family)) {
            writer.set_path_state(PathId::new(index, family), *word);
        }
    }
    let live = Family::ALL.map(|family| first.tables(family).live());
    let epoch = writer.publish(&mut half, live.each_ref().map(Vec::as_slice));
    let lans = "[[lan]]\ninterface = \"lan0\"\n";
    let mut next = Decider::new(site(lans), kernel(), &region, "weir", 0);
    assert_eq!(next.half().map(|half| half.epoch), Some(epoch));
    let changes = decide(&mut next, 2).changes;
    assert_eq!(
        (next.words(Family::V4), &changes[..]),
        (&[UP, path_state::ADMIN_DOWN][..], &[][..])
    );
}

/// Where both uplinks have an IPv6 path. The view of the kernel has nothing for these, so that they
/// are the last resort of their family.
fn of_both_families() -> Decider {
    let mut site = site("[[lan]]\ninterface = \"lan0\"\n");
    site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = Some(weir_site::Ipv6Config::default()));
    Decider::new(site, kernel(), &ControlRegion::anonymous().unwrap(), "weir", 0)
}

#[test]
fn what_fails_in_one_family_moves_nothing_of_the_other() {
    let mut decider = of_both_families();
    decide(&mut decider, 1);
    let tables = |decider: &Decider, family| decider.tables(family).live()[0].to_vec();
    let [before, other] = Family::ALL.map(|family| tables(&decider, family));
    let words = decider.words(Family::V6).to_vec();
    assert!(decider.signal(PathId::v4(0), Signal::Address(false), 2));
    let changes = decide(&mut decider, 2).changes;
    assert_eq!(changes.iter().map(|change| change.path).collect::<Vec<_>>(), [PathId::v4(0)]);
    assert_ne!(tables(&decider, Family::V4), before);
    assert_eq!(tables(&decider, Family::V6), other);
    assert_eq!(decider.words(Family::V6), words);
}

#[test]
fn flows_of_one_family_that_are_away_keep_those_of_the_other_from_nothing() {
    let mut site = site("[[lan]]\ninterface = \"lan0\"\n");
    let next_hop: Option<std::net::Ipv6Addr> = "fe80::1".parse().ok();
    let ipv6 = weir_site::Ipv6Config { next_hop, ..Default::default() };
    site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = Some(ipv6.clone()));
    site.policies[0].members[1].tier = 2;
    let mut kernel = kernel();
    let entry = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
    kernel.neighbours.extend([2, 3].map(|index| ((index, next_hop.unwrap().into()), entry)));
    let region = ControlRegion::anonymous().unwrap();
    let mut decider = Decider::new(site, kernel, &region, "weir", 0);
    decide(&mut decider, 1);
    decider.ask_home(None);
    let judged = decider.judge(Now { ms: 2, ..Now::default() });
    let half = decider.place(judged, |path| u64::from(path == PathId::new(1, Family::V6))).half;
    let come_home = |family| half.as_ref().unwrap().policies[0].steering(family).come_home;
    assert_eq!(Family::ALL.map(come_home), [ComeHome::Stay as u8, ComeHome::All as u8]);
}

#[test]
fn a_lost_carrier_is_in_the_words_of_both_families() {
    let mut decider = of_both_families();
    decide(&mut decider, 1);
    decider.lose_carrier(2);
    let changes = decide(&mut decider, 2).changes;
    let paths = Family::ALL.map(|family| PathId::new(0, family));
    assert_eq!(changes.iter().map(|change| change.path).collect::<Vec<_>>(), paths);
    let cut = |family| decider.words(family)[0] & CUT != 0;
    assert!(Family::ALL.into_iter().all(cut));
}

#[test]
fn a_family_that_no_uplink_has_is_not_configured_and_has_no_tables() {
    let mut decider = decider();
    let half = decide(&mut decider, 1).half.unwrap();
    assert_eq!(decider.words(Family::V6), [path_state::NOT_CONFIGURED; 2]);
    assert!(decider.tables(Family::V6).live().is_empty());
    assert_eq!(half.policies[0].steering(Family::V6).active_tier, 0);
}

/// What is judged of flows that exist waits for no bucket table.
#[test]
fn a_word_is_decided_before_buckets_are() {
    let mut decider = decider();
    decide(&mut decider, 1);
    decider.lose_carrier(2);
    let judged = decider.judge(Now { ms: 2, ..Now::default() });
    assert_eq!(decider.words(Family::V4)[0], CUT);
    assert!(decider.tables(Family::V4).live()[0].contains(&0));
    decider.place(judged, |_| 0);
    assert!(!decider.tables(Family::V4).live()[0].contains(&0));
}

/// As a module: until then rules for IPv6 are left out.
#[test]
fn rules_are_made_anew_when_the_kernel_comes_to_have_ipv6() {
    let mut decider = decider();
    decide(&mut decider, 1);
    let own = decider.own_traffic().unwrap();
    decider.own_made(own, true);
    assert_eq!(decider.own_traffic(), None);
    decider.see(Kernel { ipv6: true, ..decider.kernel().clone() }, 2);
    assert!(decider.own_traffic().is_some());
}

#[test]
fn destinations_of_ipv6_are_told_where_an_uplink_has_ipv6_and_cleared_where_none_has() {
    let mut decider = of_both_families();
    let mut kernel = kernel();
    kernel.addresses.push((1, "2001:db8:7::1/64".parse().unwrap()));
    decider.see(kernel, 1);
    let Effects { hosts, hosts6, .. } = decide(&mut decider, 1);
    let lan = "2001:db8:7::".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert!(hosts6.unwrap().contains_key(&(lan, 64)));
    assert!(hosts.is_some());
    assert_eq!(decide(&mut decider, 2).hosts6, None, "nothing is new");
    let mut site = decider.site().clone();
    site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = None);
    decider.reconfigure(site, Overrides::default(), 3);
    assert!(decide(&mut decider, 3).hosts6.is_some_and(|hosts6| hosts6.is_empty()));
}

#[test]
fn an_ipv6_address_is_nothing_new_where_no_uplink_has_ipv6() {
    let mut decider = decider();
    decide(&mut decider, 1);
    let mut kernel = kernel();
    kernel.addresses.push((2, "2001:db8::2/64".parse().unwrap()));
    decider.see(kernel, 2);
    assert!(decide(&mut decider, 2).half.is_none());
}

#[test]
fn an_ipv6_address_that_is_not_fit_is_no_ports() {
    let mut decider = of_both_families();
    let mut kernel = kernel();
    kernel.addresses.push((2, "2001:db8::2/64".parse().unwrap()));
    kernel.unfit.insert((2, "2001:db8::2".parse().unwrap()));
    let mut published = |kernel: &Kernel, now| {
        decider.see(kernel.clone(), now);
        decide(&mut decider, now);
        decider.half().unwrap().addresses
    };
    let without = published(&kernel, 1);
    kernel.unfit.clear();
    assert_ne!(published(&kernel, 2), without);
}

#[test]
fn where_xdp_forwards_by_the_kernels_neighbours_those_of_lans_are_confirmed_a_few_at_a_time() {
    let open = "translate = \"none\"\ninbound = true\n";
    let old = NeighbourEntry { mac: [4; 6], fresh: false, trusted: false };
    let unconfirmed = |uplinks: &str, now: &[u64]| {
        let mut kernel = kernel();
        kernel.links.iter_mut().for_each(|link| link.forwards = [true; Family::COUNT]);
        let hosts = (1..=20).map(|n| ((1, IpAddr::from([10, 0, 0, n])), old));
        kernel.neighbours.extend(hosts);
        kernel.neighbours.insert((1, "fe80::9".parse().unwrap()), old);
        kernel
            .neighbours
            .insert((1, "10.0.0.99".parse().unwrap()), NeighbourEntry { fresh: true, ..old });
        kernel.neighbours.insert((2, "192.0.2.9".parse().unwrap()), old);
        let lan = "[[lan]]\ninterface = \"lan0\"\n";
        let text = [("a", "wan0"), ("b", "wan1")].map(|(name, interface)| {
            format!("[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\n{uplinks}")
        });
        let site = weir_site::parse("weir.toml", &format!("{lan}{}", text.concat())).unwrap();
        let mut decider =
            Decider::new(site, kernel, &ControlRegion::anonymous().unwrap(), "weir", 0);
        decide(&mut decider, 1);
        now.iter().map(|now| decider.unconfirmed(*now)).collect::<Vec<_>>()
    };
    let asked = unconfirmed(open, &[1000, 1499, 1500]);
    assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [8, 0, 8]);
    let is_old = |(interface, address): &(u32, IpAddr)| {
        *interface == 1 && address.is_ipv4() && address.to_string() != "10.0.0.99"
    };
    assert!(asked.iter().flatten().all(is_old), "{asked:?}");
    assert_eq!(unconfirmed("", &[1000]), [[]], "flows know their hosts by what those send");
}
