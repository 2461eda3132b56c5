//! The rules and routes that the gateway's own traffic wants.

use std::cmp::Reverse;
use std::net::Ipv4Addr;

use weir_layout::control::{ControlHalf, Member, OnDataplaneLoss, Policy, path_state};
use weir_site::Site;
use weir_view::Kernel;
use weir_view::own::{
    Default4, Foremost, MAIN, NOWHERE, Own, PRIORITY, PRIORITY_LAN, Rule, Selector, TABLE,
    answer_mark, mark,
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

/// What there should be, given what is published and the uplinks' state words; pure. The gateway
/// uses the best uplink of its default policy that has a next hop.
pub fn wanted(site: &Site, kernel: &Kernel, half: &ControlHalf, states: &[u32]) -> Own {
    let mut own = Own::default();
    let mut ranked = Vec::new();
    let policy = half.policies.get(usize::from(half.default_policy));
    let members = policy.map_or(&[][..], Policy::members);
    for (index, uplink) in site.uplinks.iter().enumerate() {
        let table = TABLE + 1 + index as u32;
        let link = kernel.link(&uplink.interface);
        let addresses = link.map(|link| uplink.own_addresses(link.index, kernel));
        let addresses = addresses.unwrap_or_default();
        confine(&mut own, mark(index as u8), table, &addresses, kernel.foremost);
        let Some(link) = link else { continue };
        let Some(next_hop) = uplink.next_hop_by(link.index, kernel) else { continue };
        look(&mut own, PRIORITY + 3, Selector::Device(link.name.clone()), table);
        look(&mut own, PRIORITY + 3, Selector::Mark(answer_mark(index as u8)), table);
        for address in &addresses {
            look(&mut own, PRIORITY + 3, Selector::Source(*address), table);
        }
        let mut held = addresses.iter().filter(|address| !kernel.has_lost(**address));
        let source = held.next().copied();
        if !link.up || (source.is_none() && !addresses.is_empty()) {
            // The kernel drops the routes by a link that is set down or has lost its addresses,
            // and takes none.
            continue;
        }
        let route = Default4 { table, next_hop, interface: link.index, source };
        own.routes.insert(route);
        let member = members.iter().find(|member| usize::from(member.uplink) == index);
        let state = states.get(index).copied().unwrap_or(0);
        let rank = member.map(|member| rank(member, state));
        ranked.extend(rank.map(|rank| (rank, index, Default4 { table: TABLE, ..route })));
    }
    if let Some((_, _, route)) = ranked.iter().min() {
        own.routes.insert(*route);
        look(&mut own, PRIORITY + 5, Selector::From("lo".into()), TABLE);
        if site.on_dataplane_loss == OnDataplaneLoss::Kernel {
            for lan in &site.lans {
                look(&mut own, PRIORITY_LAN, Selector::From(lan.interface.clone()), TABLE);
            }
        }
    }
    own
}

fn look(own: &mut Own, priority: u32, selector: Selector, table: u32) {
    for (priority, table) in [(priority, MAIN), (priority + 1, table)] {
        let selector = selector.clone();
        own.rules.insert(Rule::new(false, priority, selector, table));
    }
}

/// What has this mark leaves by this table, from one of these addresses, or not at all.
fn confine(own: &mut Own, mark: u32, table: u32, addresses: &[Ipv4Addr], foremost: Foremost) {
    let (v4, v6) = (before(foremost.v4), before(foremost.v6));
    for (v6, first) in [(false, v4), (true, v6)] {
        for (priority, table) in [(first, MAIN), (first + 2, NOWHERE)] {
            own.rules.insert(Rule::new(v6, priority, Selector::Mark(mark), table));
        }
    }
    for address in addresses.iter().chain([&Ipv4Addr::UNSPECIFIED]) {
        let (priority, selector) = (v4 + 1, Selector::Marked(mark, *address));
        own.rules.insert(Rule::new(false, priority, selector, table));
    }
}
