//! The rules and routes that the gateway's own traffic wants.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member, OnDataplaneLoss, Policy, path_state};
use weir_site::{Site, UplinkConfig};
use weir_view::own::{
    DefaultRoute, MAIN, NOWHERE, Own, PRIORITY, PRIORITY_LAN, Rule, Selector, TABLE, answer_mark,
    home_mark, mark,
};
use weir_view::{Kernel, Link};

/// How many priorities the rules by mark take.
const BY_MARK: u32 = 3;

/// The first priority of rules by mark, where others' begin at `first`.
fn before(first: Option<u32>) -> u32 {
    first.map_or(PRIORITY, |first| PRIORITY.min(first.saturating_sub(BY_MARK)).max(1))
}

/// How good a choice a member is for the gateway's own traffic, in the order of what takes flows of
/// users: the usable, with a weight, not draining, not degraded; the best tier, the greatest weight.
fn rank(member: &Member, state: u32) -> impl Ord + Copy + use<> {
    let is = |bit| state & bit != 0;
    let weight = member.weight & Member::MAX_WEIGHT;
    let worse = (!is(path_state::USABLE), weight == 0, is(path_state::DRAINING));
    (worse, is(path_state::DEGRADED), member.tier, Reverse(weight))
}

/// What there should be, given what is published and by [`Family`] the paths' state words; pure. In
/// each family the gateway uses the best uplink of its default policy that has a next hop.
pub fn wanted(
    site: &Site,
    kernel: &Kernel,
    half: &ControlHalf,
    states: [&[u32]; Family::COUNT],
) -> Own {
    let mut own = Own::default();
    for family in Family::ALL {
        of_family(&mut own, family, site, kernel, half, states[family.index()]);
    }
    own
}

fn of_family(
    own: &mut Own,
    family: Family,
    site: &Site,
    kernel: &Kernel,
    half: &ControlHalf,
    states: &[u32],
) {
    let first = before(kernel.foremost.of(family));
    let stands_in = site.on_dataplane_loss == OnDataplaneLoss::Kernel;
    let policy = half.policies.get(usize::from(half.default_policy));
    let members = policy.map_or(&[][..], Policy::members);
    let mut ranked = Vec::new();
    let mut by_source = BTreeMap::<_, Vec<_>>::new();
    for (index, uplink) in site.uplinks.iter().enumerate() {
        let table = TABLE + 1 + index as u32;
        let mark = mark(index as u8);
        confine(own, family, first, mark);
        let way = Way::of(family, site, uplink, kernel);
        if uplink.has_path(family) {
            let known = way.iter().flat_map(|way| way.addresses.iter().chain(&way.sources));
            release(own, family, first, mark, table, known);
        }
        let Some(way) = way else { continue };
        let Some(next_hop) = uplink.next_hop_by(family, way.link.index, kernel) else { continue };
        let mut look = |selector| look(own, family, PRIORITY + 3, selector, table);
        look(Selector::Device(way.link.name.clone()));
        look(Selector::Mark(answer_mark(index as u8)));
        // Before what its source says, which is main's routes first.
        let home = Selector::Mark(home_mark(index as u8));
        own.rules.insert(Rule::new(family, PRIORITY + 2, home, table));
        let source = way.sources.iter().copied().find(|source| !kernel.has_lost(*source));
        let may_be_bare = match family {
            Family::V4 => way.addresses.is_empty(),
            Family::V6 => stands_in,
        };
        // The kernel drops the routes by a link that is set down or has lost its addresses, and takes
        // none. By one of IPv6 without a source it would send from any interface's; but what it
        // forwards in the dataplane's place has one.
        let is_led = way.link.up && (source.is_some() || may_be_bare);
        let member = members.iter().find(|member| usize::from(member.uplink) == index);
        let state = states.get(index).copied().unwrap_or(0);
        let rank = member.map(|member| rank(member, state));
        for claimed in way.claims(site, uplink, stands_in) {
            let claim = ((!is_led, rank.is_none(), rank), table);
            by_source.entry(claimed).or_default().push(claim);
        }
        if is_led {
            let route = DefaultRoute { table, next_hop, interface: way.link.index, source };
            own.routes.insert(route);
            ranked.extend(rank.map(|rank| (rank, index, DefaultRoute { table: TABLE, ..route })));
        }
    }
    // Of uplinks that have one source, or one prefix of sources, the best.
    for ((priority, selector), claims) in by_source {
        if let Some((_, table)) = claims.into_iter().min() {
            look(own, family, priority, selector, table);
        }
    }
    if let Some((_, _, route)) = ranked.iter().min() {
        own.routes.insert(*route);
        look(own, family, PRIORITY + 5, Selector::From("lo".into()), TABLE);
        for lan in site.lans.iter().filter(|_| stands_in) {
            let selector = Selector::From(lan.interface.clone());
            look(own, family, PRIORITY_LAN, selector, TABLE);
        }
    }
}

/// An uplink's path on its link.
struct Way<'k> {
    family: Family,
    link: &'k Link,
    /// The gateway's own addresses that are the path's.
    addresses: Vec<IpAddr>,
    /// What may be sent from by it.
    sources: Vec<IpAddr>,
}

impl<'k> Way<'k> {
    /// As the kernel has it; `None`: there is no path, or no link.
    fn of(family: Family, site: &Site, uplink: &UplinkConfig, kernel: &'k Kernel) -> Option<Self> {
        let link = kernel.link(&uplink.interface).filter(|_| uplink.has_path(family))?;
        let addresses = site.own_addresses(uplink, family, link.index, kernel);
        let sources = site.path_sources(uplink, family, link.index, kernel);
        Some(Self { family, link, addresses, sources })
    }

    /// Which sources are to leave by it, with the priorities of their rules: the gateway's own
    /// addresses, and what LANs have of its provider's prefixes where the kernel stands in.
    fn claims(&self, site: &Site, uplink: &UplinkConfig, stands_in: bool) -> Vec<(u32, Selector)> {
        let own = self.addresses.iter().map(|own| (PRIORITY + 3, Selector::Source(*own)));
        let lans = site.lans.iter().filter(|_| stands_in);
        let of_lans = lans.flat_map(|lan| {
            let from = move |net| Selector::FromPrefix(lan.interface.clone(), net);
            uplink.delegated_to_lans(self.family).map(move |net| (PRIORITY_LAN - 2, from(net)))
        });
        own.chain(of_lans).collect()
    }
}

fn look(own: &mut Own, family: Family, priority: u32, selector: Selector, table: u32) {
    for (priority, table) in [(priority, MAIN), (priority + 1, table)] {
        let selector = selector.clone();
        own.rules.insert(Rule::new(family, priority, selector, table));
    }
}

/// What has this mark leaves by no default route of the main table.
fn confine(own: &mut Own, family: Family, first: u32, mark: u32) {
    for (priority, table) in [(first, MAIN), (first + 2, NOWHERE)] {
        own.rules.insert(Rule::new(family, priority, Selector::Mark(mark), table));
    }
}

/// What has this mark leaves by this table, from one of these addresses.
fn release<'a>(
    own: &mut Own,
    family: Family,
    first: u32,
    mark: u32,
    table: u32,
    addresses: impl Iterator<Item = &'a IpAddr>,
) {
    let none_yet = (family == Family::V4).then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    for address in addresses.copied().chain(none_yet) {
        let selector = Selector::Marked(mark, address);
        own.rules.insert(Rule::new(family, first + 1, selector, table));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use weir_layout::control::Translate;
    use weir_site::{Ipv6Config, PrefixPair};

    use super::*;
    use crate::fixture::site;
    use crate::{Overrides, derive};

    /// Two uplinks whose paths of IPv6 have the prefix and what stands inside for it, and a kernel that
    /// has this address on `lo`.
    fn two(
        paths: [(Translate, &str, Option<&str>); 2],
        on_lo: Ipv6Addr,
    ) -> (Site, Kernel, Box<ControlHalf>) {
        let mut site = site(&["a", "b"]);
        for (uplink, (translate, outside, inside)) in site.uplinks.iter_mut().zip(paths) {
            let inside = inside.map(|net| net.parse().unwrap());
            let prefixes = vec![PrefixPair { inside, outside: outside.parse().unwrap() }];
            let next_hop = "fe80::1".parse().ok();
            uplink.ipv6 =
                Some(Ipv6Config { translate, prefixes, next_hop, ..Ipv6Config::default() });
        }
        let link = |(index, name): (u32, &str)| Link {
            index,
            name: name.into(),
            up: true,
            ..Link::default()
        };
        let kernel = Kernel {
            links: (1..).zip(["lo", "lan0", "wan0", "wan1"]).map(link).collect(),
            addresses: vec![(1, ipnet::IpNet::new(on_lo.into(), 128).unwrap())],
            ..Kernel::default()
        };
        let half = derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        (site, kernel, half)
    }

    /// The tables that what the gateway sends from an address is looked up in, but for main.
    fn tables(own: &Own, from: Ipv6Addr) -> Vec<u32> {
        let selector = Selector::Source(from.into());
        let rules = own.rules.iter().filter(|rule| rule.selector == selector);
        rules.map(|rule| rule.table).filter(|table| *table != MAIN).collect()
    }

    #[test]
    fn what_the_gateway_sends_from_a_prefix_leaves_by_the_uplink_that_translates_to_it() {
        let own = "2001:2:0:b000::1".parse().unwrap();
        let inside = Some("fd00:1::/56");
        let paths = [
            (Translate::Npt, "2001:2:0:a000::/56", inside),
            (Translate::Npt, "2001:2:0:b000::/56", inside),
        ];
        let (site, kernel, half) = two(paths, own);
        let usable = [path_state::USABLE; 2];
        let wanted = wanted(&site, &kernel, &half, [&[], &usable]);
        assert_eq!(tables(&wanted, own), [TABLE + 2]);
    }

    #[test]
    fn what_the_gateway_sends_from_a_prefix_of_two_uplinks_leaves_by_the_one_that_is_up() {
        let own = "2001:2:0:a000::1".parse().unwrap();
        let path = (Translate::Source, "2001:2:0:a000::/56", None);
        let (site, kernel, half) = two([path; 2], own);
        let up = path_state::USABLE;
        for (states, table) in [([up, up], TABLE + 1), ([0, up], TABLE + 2), ([up, 0], TABLE + 1)] {
            let wanted = wanted(&site, &kernel, &half, [&[], &states]);
            assert_eq!(tables(&wanted, own), [table], "{states:?}");
        }
    }
}
