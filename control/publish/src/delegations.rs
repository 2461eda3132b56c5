//! The prefixes that providers delegate while weir runs, told by clients of DHCPv6.
//!
//! Each has its end, and goes with it. A site's uplinks that leave their prefixes to this are given
//! them by [`fill`](Delegations::fill), so that all else finds them where the file would have them.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::{MAX_PATH_PREFIXES, Translate};
use weir_site::{Delegation, PrefixPair, SHARED, Site, UplinkConfig, may_share, overlap};
use weir_view::{Kernel, Net as _};

/// Most of one uplink.
const MOST: usize = 8;

/// A prefix that a provider delegates. Times are of CLOCK_MONOTONIC, milliseconds; none: it has no
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// Until when the provider routes it here.
    pub valid_until: Option<u64>,
    /// Until when new connections should be made from it.
    pub preferred_until: Option<u64>,
}

impl Lease {
    fn is_valid(&self, now: u64) -> bool {
        self.valid_until.is_none_or(|until| until > now)
    }

    fn is_preferred(&self, now: u64) -> bool {
        self.preferred_until.is_none_or(|until| until > now)
    }
}

/// By uplink and prefix, in the order in which prefixes were first told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delegations(BTreeMap<String, Vec<Lease>>);

impl Delegations {
    /// Those of an uplink.
    pub fn of(&self, uplink: &str) -> &[Lease] {
        self.0.get(uplink).map_or(&[], Vec::as_slice)
    }

    /// All, each with its uplink.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Lease)> {
        self.0.iter().flat_map(|(uplink, of)| of.iter().map(|lease| (uplink.as_str(), lease)))
    }

    /// Takes one, or a prefix that is there for longer. Others of the uplink that have addresses of
    /// it are no more.
    pub fn set(&mut self, uplink: &str, lease: Lease) {
        let of = self.0.entry(uplink.to_owned()).or_default();
        match of.iter_mut().find(|known| known.prefix == lease.prefix) {
            Some(known) => *known = lease,
            None => {
                of.retain(|other| !overlaps(&other.prefix, &lease.prefix));
                of.push(lease);
            }
        }
    }

    /// Ends those of an uplink that are not to be kept; the prefixes that ended.
    pub fn retain(&mut self, uplink: &str, keep: impl Fn(&Lease) -> bool) -> Vec<Ipv6Net> {
        let Some(of) = self.0.get_mut(uplink) else { return Vec::new() };
        of.extract_if(.., |lease| !keep(lease)).map(|lease| lease.prefix).collect()
    }

    /// Ends those whose time is over, which are returned with their uplinks.
    pub fn expire(&mut self, now: u64) -> Vec<(String, Ipv6Net)> {
        let mut ended = Vec::new();
        for (uplink, of) in &mut self.0 {
            let over = of.extract_if(.., |lease| !lease.is_valid(now));
            ended.extend(over.map(|lease| (uplink.clone(), lease.prefix)));
        }
        ended
    }

    /// Gives the site's uplinks the prefixes that they have at `now`; says whether one has others
    /// than before.
    pub fn fill(&self, site: &mut Site, now: u64) -> bool {
        let mut changed = false;
        for uplink in &mut site.uplinks {
            let leases = self.of(&uplink.name);
            let Some(path) = &mut uplink.ipv6 else { continue };
            let Some(delegation) = path.delegation else { continue };
            let prefixes = pairs(delegation, leases, now);
            changed |= path.prefixes != prefixes;
            path.prefixes = prefixes;
        }
        changed
    }

    /// The lease that a prefix of a LAN is of. Where two lines lead to it, it is there until both end.
    pub fn lease_of(&self, site: &Site, prefix: &Ipv6Net) -> Option<Lease> {
        let awaiting = site.uplinks.iter().filter(|uplink| delegation(uplink).is_some());
        let leases = awaiting.flat_map(|uplink| self.of(&uplink.name)).copied();
        leases.filter(|lease| lease.prefix.contains(prefix)).reduce(|one, other| Lease {
            valid_until: later(one.valid_until, other.valid_until),
            preferred_until: later(one.preferred_until, other.preferred_until),
            ..one
        })
    }

    /// Why an uplink of a site cannot have a prefix, and what to do; none: it can.
    pub fn objection(
        &self,
        site: &Site,
        kernel: &Kernel,
        uplink: &UplinkConfig,
        prefix: &Ipv6Net,
    ) -> Option<String> {
        let name = &uplink.name;
        let Some(delegation) = delegation(uplink) else {
            return Some(format!(
                "the file does not leave the prefixes of {name} to its provider: say prefix = \
                 \"delegated\" in its `ipv6` with npt66, prefixes = \"delegated\" with source"
            ));
        };
        if let Some(fault) = weir_site::fault_of_delegated(prefix) {
            return Some(fault);
        }
        if let Some(too_many) = self.too_many(site, name, prefix) {
            return Some(too_many);
        }
        let mut others = site.uplinks.iter().filter(|other| other.name != *name).flat_map(|of| {
            let by_source = is_by_source(uplink) && is_by_source(of);
            let held = self.held(of);
            let taken = held.filter(move |net| !may_share(net, prefix, by_source));
            taken.map(move |net| (net, of))
        });
        if let Some((other, of)) = others.next() {
            let remedy = match of.is_delegated() {
                true => format!("`weir prefix {} del {other}`", of.name),
                false => "change the file".into(),
            };
            return Some(format!(
                "{prefix} overlaps {other} of uplink {}: {remedy} if it is that one's no more; \
                 {SHARED}",
                of.name
            ));
        }
        if let Some((what, of)) =
            held_by_others(site, kernel, uplink).find(|(held, _)| prefix.contains(held))
        {
            return Some(format!(
                "{prefix} has {what} of uplink {of}, which another provider routes: no prefix of \
                 {name}'s; ask its provider, or see who answers in its name"
            ));
        }
        if let Some((net, of)) = own_nets(site).find(|(net, _)| overlaps(net, prefix)) {
            return Some(format!(
                "{prefix} overlaps {net} of LAN {of}, which the file says is the site's own: an \
                 uplink with translate = \"none\" carries it"
            ));
        }
        let lan = lan_nets(site, kernel).find(|(net, _)| clashes(delegation, prefix, net));
        lan.map(|(net, lan)| {
            format!(
                "{prefix} overlaps {net} of LAN {lan}, which is no part of it: renumber the LAN"
            )
        })
    }

    /// The prefixes of an uplink: of the file, or told.
    fn held(&self, uplink: &UplinkConfig) -> impl Iterator<Item = Ipv6Net> {
        let leases = delegation(uplink).map_or(&[][..], |_| self.of(&uplink.name));
        let of_file = uplink.ipv6.iter().filter(|path| path.delegation.is_none());
        let of_file = of_file.flat_map(|path| &path.prefixes).map(|pair| pair.outside);
        of_file.chain(leases.iter().map(|lease| lease.prefix))
    }

    /// Would the uplink have too many with this one, or all uplinks, with what they
    /// [rescue](weir_layout::control::carried::rescues) of it?
    fn too_many(&self, site: &Site, name: &str, prefix: &Ipv6Net) -> Option<String> {
        let (mut told, mut site) = (self.clone(), site.clone());
        told.set(name, Lease { prefix: *prefix, valid_until: None, preferred_until: None });
        told.fill(&mut site, 0);
        if told.of(name).len() > MOST {
            return Some(format!(
                "{name} would have more than {MOST} prefixes: end some with `weir prefix {name} del`"
            ));
        }
        let all = site.path_prefixes().len();
        (all > MAX_PATH_PREFIXES).then(|| {
            format!(
                "all uplinks would have {all} prefixes with {prefix}, and {MAX_PATH_PREFIXES} at \
                 most are possible; what uplinks with `rescue` translate counts for each of them: end \
                 some with `weir prefix`, or remove `rescue`"
            )
        })
    }
}

/// Do hosts have addresses of its prefixes?
fn is_by_source(uplink: &UplinkConfig) -> bool {
    uplink.ipv6.as_ref().is_some_and(|path| path.translate == Translate::Source)
}

/// The later of two ends.
fn later(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.zip(other).map(|(one, other)| one.max(other))
}

const fn delegation(uplink: &UplinkConfig) -> Option<Delegation> {
    match &uplink.ipv6 {
        Some(path) => path.delegation,
        None => None,
    }
}

/// What a path has of its leases. One prefix inside is translated to one outside: to the latest that
/// is preferred.
fn pairs(delegation: Delegation, leases: &[Lease], now: u64) -> Vec<PrefixPair> {
    let valid = leases.iter().filter(|lease| lease.is_valid(now));
    let pair = |lease: &Lease| PrefixPair { inside: delegation.inside, outside: lease.prefix };
    if delegation.inside.is_none() {
        return valid.map(pair).collect();
    }
    let best = valid.enumerate().max_by_key(|(index, lease)| (lease.is_preferred(now), *index));
    best.map(|(_, lease)| pair(lease)).into_iter().collect()
}

/// The addresses by which the gateway and its routers are known on all other uplinks, each with its
/// uplink.
fn held_by_others<'s>(
    site: &'s Site,
    kernel: &'s Kernel,
    uplink: &'s UplinkConfig,
) -> impl Iterator<Item = (Ipv6Addr, &'s str)> {
    let others = site.uplinks.iter().filter(|other| other.name != uplink.name);
    others.flat_map(|other| {
        let link = kernel.link(&other.interface);
        let on_link = link.map(|link| kernel.addresses_of(Family::V6, link.index));
        let next_hop = link.and_then(|link| other.next_hop_by(Family::V6, link.index, kernel));
        let all = on_link.into_iter().flatten().chain(next_hop);
        let all = all.chain(other.given_addresses(Family::V6));
        all.filter_map(Ipv6Net::address).map(|address| (address, other.name.as_str()))
    })
}

/// What the file says LANs have, where an uplink carries the site's own; each with the LAN's interface.
fn own_nets(site: &Site) -> impl Iterator<Item = (Ipv6Net, &str)> {
    let own = |uplink: &UplinkConfig| {
        uplink.ipv6.as_ref().is_some_and(|path| path.translate == Translate::None)
    };
    let lans = site.lans.iter().filter(move |_| site.uplinks.iter().any(own));
    lans.flat_map(|lan| {
        let nets = lan.prefixes.iter().copied().filter_map(Ipv6Net::of);
        nets.map(|net| (net, lan.interface.as_str()))
    })
}

/// The IPv6 prefixes of LANs, each with the LAN's interface.
fn lan_nets<'s>(site: &'s Site, kernel: &'s Kernel) -> impl Iterator<Item = (Ipv6Net, &'s str)> {
    site.lans.iter().flat_map(|lan| {
        let nets = lan.networks(Family::V6, kernel).into_iter();
        nets.filter_map(Ipv6Net::of).map(|net| (net, lan.interface.as_str()))
    })
}

/// Is a LAN's prefix in the way of a delegated one? Where that is translated LANs have others, else
/// they have parts of it.
fn clashes(delegation: Delegation, prefix: &Ipv6Net, of_lan: &Ipv6Net) -> bool {
    let is_part = delegation.inside.is_none() && prefix.contains(of_lan);
    overlaps(prefix, of_lan) && !is_part
}

fn overlaps(a: &Ipv6Net, b: &Ipv6Net) -> bool {
    overlap(&IpNet::V6(*a), &IpNet::V6(*b))
}

#[cfg(test)]
mod tests {
    use weir_view::Link;

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\nprefixes = [\"fd00:1::/64\"]\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n\
        ipv6 = { translate = \"npt66\", prefix = \"delegated\" }\n\
        [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\n\
        ipv6 = { translate = \"source\", prefixes = \"delegated\" }\n\
        [[uplink]]\nname = \"c\"\ninterface = \"wan2\"\n\
        ipv6 = { translate = \"npt66\", prefix = \"2001:2:0:c00::/56\" }\n";

    fn site() -> Site {
        weir_site::parse("weir.toml", SITE).unwrap()
    }

    fn net(text: &str) -> Ipv6Net {
        text.parse().unwrap()
    }

    fn lease(prefix: &str, preferred_until: u64) -> Lease {
        let preferred_until = Some(preferred_until);
        Lease { prefix: net(prefix), valid_until: Some(1000), preferred_until }
    }

    /// What an uplink translates to, or carries.
    fn outside(site: &Site, uplink: usize) -> Vec<Ipv6Net> {
        let path = site.uplinks[uplink].ipv6.as_ref().unwrap();
        path.prefixes.iter().map(|pair| pair.outside).collect()
    }

    const OLD: &str = "2001:2:0:a00::/56";
    const NEW: &str = "2001:2:0:b00::/56";

    #[test]
    fn the_latest_prefix_that_is_preferred_is_translated_to_and_all_that_are_valid_are_carried() {
        let (mut site, mut told) = (site(), Delegations::default());
        assert!(!told.fill(&mut site, 0), "nothing is told yet");
        for uplink in ["a", "b"] {
            told.set(uplink, lease(OLD, 500));
            told.set(uplink, lease(NEW, 400));
            // A renewal is no news of another prefix.
            told.set(uplink, lease(OLD, 600));
        }
        assert!(told.fill(&mut site, 0) && !told.fill(&mut site, 1));
        assert_eq!(
            (outside(&site, 0), outside(&site, 1)),
            (vec![net(NEW)], vec![net(OLD), net(NEW)])
        );
        assert_eq!(
            site.uplinks[0].ipv6.as_ref().unwrap().prefixes[0].inside,
            Some(net("fd00:1::/64"))
        );
        assert!(told.fill(&mut site, 450), "the later one is deprecated first");
        assert_eq!(outside(&site, 0), [net(OLD)]);
        assert_eq!(told.retain("b", |lease| lease.prefix == net(NEW)), [net(OLD)]);
        assert_eq!(told.expire(1000).len(), 3);
        assert!(told.fill(&mut site, 1000));
        assert_eq!(
            (outside(&site, 0), outside(&site, 1), outside(&site, 2).len()),
            (vec![], vec![], 1)
        );
    }

    #[test]
    fn a_prefix_takes_the_place_of_those_that_it_overlaps() {
        let mut told = Delegations::default();
        told.set("a", lease(OLD, 1));
        told.set("a", lease("2001:2:0:a10::/60", 1));
        assert_eq!(told.of("a"), [lease("2001:2:0:a10::/60", 1)]);
    }

    #[test]
    fn a_prefix_that_an_uplink_cannot_have_is_refused_with_what_to_do() {
        let mut told = Delegations::default();
        told.set("b", lease(OLD, 1));
        let mut site = site();
        site.lans[0].prefixes.push("2001:2:0:d00::/64".parse().unwrap());
        site.lans[0].prefixes.push("2001:2:0:e000::/52".parse().unwrap());
        let refused = |uplink: usize, prefix: &str| {
            told.objection(&site, &Kernel::default(), &site.uplinks[uplink], &net(prefix))
        };
        for (uplink, prefix, word) in [
            (2, NEW, "say prefix = \"delegated\""),
            (0, "fd00:5::/56", "no provider's prefix"),
            (0, "2001:db8:a000::/56", "is for documentation"),
            (0, "3fff:1::/56", "is for documentation"),
            (0, "2001:2::/72", "longer than 64 bits"),
            (0, "2001:2:0:1::/56", "bits set"),
            (0, "2001:2:0:a00::/60", "`weir prefix b del 2001:2:0:a00::/56`"),
            (0, "2001:2:0:c00::/60", "of uplink c: change the file if"),
            (0, "2001:2:0:d00::/56", "of LAN lan0"),
            (1, "2001:2:0:e000::/56", "of LAN lan0"),
        ] {
            let text = refused(uplink, prefix).unwrap_or_default();
            assert!(text.contains(word), "{prefix}: {text}");
        }
        assert_eq!(refused(1, "2001:2:0:d00::/56"), None, "the LAN has a part of it");
        assert_eq!(refused(1, OLD), None, "it is renewed");
        assert_eq!(refused(0, NEW), None);
    }

    #[test]
    fn a_provider_delegates_nothing_that_is_anothers_or_the_sites_own() {
        let told = Delegations::default();
        let mut site = site();
        let kernel = Kernel {
            links: [(1, "wan0"), (2, "wan1"), (3, "wan2")]
                .map(|(index, name)| Link { index, name: name.into(), ..Link::default() })
                .into(),
            addresses: vec![(1, "2001:2:0:a1::2/64".parse().unwrap())],
            ..Kernel::default()
        };
        let refused = |site: &Site, uplink: usize, prefix: &str| {
            let refused = told.objection(site, &kernel, &site.uplinks[uplink], &net(prefix));
            refused.unwrap_or_default()
        };
        let of_a = refused(&site, 1, "2001:2:0:a1::/64");
        assert!(of_a.contains("2001:2:0:a1::2 of uplink a"), "{of_a}");
        assert_eq!(refused(&site, 0, "2001:2:0:a1::/64"), "", "its provider may");
        let all = refused(&site, 1, "2000::/3");
        assert!(all.contains("shorter than 20 bits"), "{all}");
        site.lans[0].prefixes.push("2001:2:0:77::/64".parse().unwrap());
        assert_eq!(refused(&site, 1, "2001:2:0:70::/60"), "", "the LAN has a part of it");
        site.uplinks[2].ipv6.as_mut().unwrap().translate = Translate::None;
        let own = refused(&site, 1, "2001:2:0:70::/60");
        assert!(own.contains("is the site's own"), "{own}");
    }

    #[test]
    fn two_lines_of_one_provider_may_both_be_told_a_prefix_that_hosts_have_addresses_of() {
        let mut site = site();
        let other = site.uplinks[1].clone();
        site.uplinks.push(UplinkConfig { name: "d".into(), interface: "wan3".into(), ..other });
        let mut told = Delegations::default();
        told.set("b", Lease { preferred_until: None, ..lease(OLD, 0) });
        let refused = |told: &Delegations, uplink: usize, prefix: &str| {
            let of = &site.uplinks[uplink];
            told.objection(&site, &Kernel::default(), of, &net(prefix)).unwrap_or_default()
        };
        assert_eq!(refused(&told, 3, OLD), "");
        for (uplink, prefix) in [(3, "2001:2:0:a00::/60"), (0, OLD)] {
            let refused = refused(&told, uplink, prefix);
            assert!(refused.contains("each with translate = \"source\""), "{prefix}: {refused}");
        }
        told.set("d", Lease { valid_until: Some(2000), ..lease(OLD, 5) });
        let both = told.lease_of(&site, &net("2001:2:0:a01::/64")).unwrap();
        assert_eq!((both.valid_until, both.preferred_until), (Some(2000), None));
    }

    #[test]
    fn prefixes_that_would_be_rescued_by_many_uplinks_are_refused_and_not_left_out() {
        let mut text = "[[lan]]\ninterface = \"lan0\"\n".to_owned();
        for index in 0..10 {
            text += &format!(
                "[[uplink]]\nname = \"u{index}\"\ninterface = \"wan{index}\"\nipv6 = {{ \
                 translate = \"source\", prefixes = \"delegated\", rescue = true }}\n"
            );
        }
        let mut site = weir_site::parse("weir.toml", &text).unwrap();
        let mut told = Delegations::default();
        let prefix = |uplink: usize, number: usize| format!("2001:2:{uplink:x}:{number}00::/56");
        for uplink in 0..10 {
            told.set(&format!("u{uplink}"), lease(&prefix(uplink, 0), 1));
        }
        let refused = |told: &Delegations, number| {
            let (of, prefix) = (&site.uplinks[0], net(&prefix(0, number)));
            told.objection(&site, &Kernel::default(), of, &prefix).unwrap_or_default()
        };
        // Ten, and nine of each other's.
        for number in 1..=2 {
            assert_eq!(refused(&told, number), "", "10 more each");
            told.set("u0", lease(&prefix(0, number), 1));
        }
        let words = refused(&told, 3);
        assert!(words.contains("130 prefixes") && words.contains("`rescue`"), "{words}");
        assert_eq!(refused(&told, 1), "", "it is renewed");
        told.fill(&mut site, 0);
        assert_eq!(site.path_prefixes().len(), 120);
    }

    #[test]
    fn a_provider_that_delegates_without_end_is_stopped() {
        let mut told = Delegations::default();
        for number in 1..=8 {
            told.set("b", lease(&format!("2001:2:0:{number}00::/56"), 1));
        }
        let site = site();
        let refused = |prefix| {
            told.objection(&site, &Kernel::default(), &site.uplinks[1], &net(prefix)).is_some()
        };
        assert!(refused("2001:2:0:900::/56") && !refused("2001:2:0:800::/56"));
    }
}
