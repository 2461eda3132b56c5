//! The rules and routes that the gateway's own traffic wants.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member, OnDataplaneLoss, Policy, path_state};
use weir_site::Site;
use weir_view::Kernel;
use weir_view::own::{
    DefaultRoute, MAIN, NOWHERE, Own, PRIORITY, PRIORITY_LAN, Rule, Selector, TABLE, answer_mark,
    mark,
};

/// How many priorities the rules by mark take.
const BY_MARK: u32 = 3;

/// The first priority of rules by mark, where others' begin at `first`.
fn before(first: Option<u32>) -> u32 {
    first.map_or(PRIORITY, |first| PRIORITY.min(first.saturating_sub(BY_MARK)).max(1))
}

/// How good a choice a member is for the gateway's own traffic, in the order of what takes flows of
/// users: the usable, with a weight, not draining, not degraded; the best tier, the greatest weight.
fn rank(member: &Member, state: u32) -> impl Ord {
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
    let mut ranked = Vec::new();
    let policy = half.policies.get(usize::from(half.default_policy));
    let members = policy.map_or(&[][..], Policy::members);
    let first = before(kernel.foremost.of(family));
    let stands_in = site.on_dataplane_loss == OnDataplaneLoss::Kernel;
    for (index, uplink) in site.uplinks.iter().enumerate() {
        let table = TABLE + 1 + index as u32;
        let has_path = uplink.has_path(family);
        let link = kernel.link(&uplink.interface).filter(|_| has_path);
        let addresses = link.map(|link| uplink.own_addresses(family, link.index, kernel));
        let addresses = addresses.unwrap_or_default();
        let sources = link.map(|link| site.path_sources(uplink, family, link.index, kernel));
        let sources = sources.unwrap_or_default();
        let mark = mark(index as u8);
        confine(own, family, first, mark);
        if has_path {
            release(own, family, first, mark, table, addresses.iter().chain(&sources));
        }
        let Some(link) = link else { continue };
        let Some(next_hop) = uplink.next_hop_by(family, link.index, kernel) else { continue };
        let mut look = |selector| look(own, family, PRIORITY + 3, selector, table);
        look(Selector::Device(link.name.clone()));
        look(Selector::Mark(answer_mark(index as u8)));
        addresses.iter().for_each(|address| look(Selector::Source(*address)));
        for lan in site.lans.iter().filter(|_| stands_in) {
            for net in uplink.delegated_to_lans(family) {
                let selector = Selector::FromPrefix(lan.interface.clone(), net);
                self::look(own, family, PRIORITY_LAN - 2, selector, table);
            }
        }
        let source = sources.into_iter().find(|source| !kernel.has_lost(*source));
        let may_be_bare = match family {
            Family::V4 => addresses.is_empty(),
            Family::V6 => stands_in,
        };
        if !link.up || (source.is_none() && !may_be_bare) {
            // The kernel drops the routes by a link that is set down or has lost its addresses,
            // and takes none. By one of IPv6 without a source it would send from any interface's; but
            // what it forwards in the dataplane's place has one.
            continue;
        }
        let route = DefaultRoute { table, next_hop, interface: link.index, source };
        own.routes.insert(route);
        let member = members.iter().find(|member| usize::from(member.uplink) == index);
        let state = states.get(index).copied().unwrap_or(0);
        let rank = member.map(|member| rank(member, state));
        ranked.extend(rank.map(|rank| (rank, index, DefaultRoute { table: TABLE, ..route })));
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
