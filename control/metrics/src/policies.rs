//! Policies, rules, published services, sets.

use std::collections::BTreeMap;
use std::fmt;

use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member, PathId, Policy};
use weir_layout::protocol;
use weir_shm::published::Published;

use crate::metric::*;
use crate::page::Page;

pub fn add(state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let half = &state.snapshot.half;
    add_members(state, page)?;
    // Of a family that no member has a path of, there is none to take a flow.
    let tiers = policies(half).flat_map(|(_, policy)| {
        let has_some = |family: &Family| members(state, policy, *family).next().is_some();
        families(half).filter(has_some).map(|family| {
            let tier = policy.steering(family).active_tier;
            ([policy.name.as_str(), family.name()], f64::from(tier))
        })
    });
    page.gauge(&POLICY_TIER, tiers)?;
    let hits = state.counters.rule_hits(half.rules().len(), half.workers);
    // Several rules may have one name.
    let mut rules = BTreeMap::new();
    for (rule, hits) in half.rules().iter().zip(hits) {
        *rules.entry([rule.name.as_str()]).or_insert(0) += hits;
    }
    page.count(&RULE_HITS, rules)?;
    add_services(state, page)?;
    let sets = half.sets.named().flat_map(|set| {
        Family::ALL.map(|family| {
            ([set.name.as_str(), family.name()], f64::from(set.prefixes[family.index()]))
        })
    });
    page.gauge(&SET_PREFIXES, sets)
}

fn add_members(state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let half = &state.snapshot.half;
    let all = || {
        policies(half).flat_map(|(index, policy)| {
            families(half).flat_map(move |family| {
                let shares = state.shares(index, family);
                members(state, policy, family).map(move |member| {
                    let uplink = state.uplink_name(member.uplink).unwrap_or("?");
                    let labels = [policy.name.as_str(), uplink, family.name()];
                    (labels, member, shares.of(member.uplink))
                })
            })
        })
    };
    page.gauge(&MEMBER_TIER, all().map(|(labels, member, _)| (labels, member.tier.into())))?;
    let weight = |member: &Member| f64::from(member.weight & Member::MAX_WEIGHT);
    page.gauge(&MEMBER_WEIGHT, all().map(|(labels, member, _)| (labels, weight(member))))?;
    page.gauge(&MEMBER_SHARE, all().map(|(labels, _, share)| (labels, share)))
}

/// The members of a policy that have a path of the family.
fn members<'a>(
    state: &'a Published,
    policy: &'a Policy,
    family: Family,
) -> impl Iterator<Item = &'a Member> {
    let has_path = move |member: &&Member| state.has_path(PathId::new(member.uplink, family));
    policy.members().iter().filter(has_path)
}

fn policies(half: &ControlHalf) -> impl Iterator<Item = (usize, &Policy)> {
    half.policies.iter().enumerate().filter(|(_, policy)| policy.name.0[0] != 0)
}

/// The families that policies have bucket tables for.
fn families(half: &ControlHalf) -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| *family == Family::V4 || half.serves_ipv6())
}

/// Of the file's services. What hosts have asked for comes and goes with its names: it is counted
/// in one.
fn add_services(state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let mut services = BTreeMap::new();
    for (number, forward) in state.snapshot.half.port_forwards().iter().enumerate() {
        let name = forward.name.as_str();
        if forward.is_to_gateway() || forward.is_mapped() {
            continue;
        }
        let family = if forward.family == 0 { Family::V4 } else { Family::V6 };
        let protocol = protocol::name(forward.protocol)
            .map_or_else(|| forward.protocol.to_string(), Into::into);
        let flows = state.counters.forwarded(number);
        *services.entry([name.to_owned(), family.name().to_owned(), protocol]).or_insert(0) +=
            flows;
    }
    page.count(&SERVICE_CREATED, services)
}
