//! `[[policy]]`: members, and what becomes of their flows.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use weir_layout::control::{Member, OnUplinkDown, Selection};

use super::checker::Checker;
use super::schema::{self, File};
use super::{Failback, MemberConfig, PolicyConfig, UplinkConfig};
use crate::load::Balance;

/// The policy that is there where the file has none, and the default one where it has this name.
pub const DEFAULT_POLICY: &str = "balanced";

/// The policies; `known` are the indices of the uplinks' names.
pub fn policies(
    c: &mut Checker<'_>,
    file: &File,
    uplinks: &[UplinkConfig],
    known: &HashMap<String, usize>,
) -> Vec<PolicyConfig> {
    c.unique("policy", file.policy.iter().map(|p| &p.get_ref().name));
    if file.policy.is_empty() {
        return vec![balanced(uplinks)];
    }
    file.policy.iter().map(|given| policy(c, given, uplinks, known)).collect()
}

/// All uplinks in one tier.
fn balanced(uplinks: &[UplinkConfig]) -> PolicyConfig {
    PolicyConfig {
        name: DEFAULT_POLICY.into(),
        selection: Selection::SourceDestination,
        balance: Balance::Hash,
        spillover: true,
        members: everyone(uplinks),
        on_uplink_down: OnUplinkDown::Reset,
        failback: Failback::NewFlows,
        idle_s: PolicyConfig::IDLE_S,
        failback_rate: PolicyConfig::FAILBACK_RATE,
    }
}

fn policy(
    c: &mut Checker<'_>,
    given: &Spanned<schema::Policy>,
    uplinks: &[UplinkConfig],
    known: &HashMap<String, usize>,
) -> PolicyConfig {
    let p = given.get_ref();
    c.name("policy", &p.name);
    let members = match &p.members {
        None => everyone(uplinks),
        Some(given) => members(c, given, known),
    };
    zero_weights(c, given.span(), p.name.get_ref(), &members, uplinks);
    let (idle, rate) = (PolicyConfig::IDLE_S, PolicyConfig::FAILBACK_RATE);
    PolicyConfig {
        name: p.name.get_ref().clone(),
        selection: match p.selection {
            schema::Selection::SourceDestination => Selection::SourceDestination,
            schema::Selection::Flow => Selection::Flow,
            schema::Selection::Source => Selection::Source,
            schema::Selection::Host => Selection::Host,
            schema::Selection::FlowLabel => Selection::FlowLabel,
        },
        balance: p.balance,
        spillover: p.spillover,
        members,
        on_uplink_down: match p.on_uplink_down {
            schema::OnUplinkDown::Reset => OnUplinkDown::Reset,
            schema::OnUplinkDown::Keep => OnUplinkDown::Keep,
            schema::OnUplinkDown::Drop => OnUplinkDown::Drop,
        },
        failback: failback(c, p),
        idle_s: c.seconds("idle", &p.idle, u16::MAX.into(), idle.into()) as u16,
        failback_rate: c.number("failback_rate", &p.failback_rate, 1..1_000_001, rate.into())
            as u32,
    }
}

fn everyone(uplinks: &[UplinkConfig]) -> Vec<MemberConfig> {
    let member = |uplink| MemberConfig { uplink: uplink as u8, tier: 1, weight: None };
    (0..uplinks.len()).map(member).collect()
}

fn members(
    c: &mut Checker<'_>,
    given: &[Spanned<schema::Member>],
    known: &HashMap<String, usize>,
) -> Vec<MemberConfig> {
    c.unique("uplink of a policy", given.iter().map(|m| &m.get_ref().uplink));
    let most = i64::from(Member::MAX_WEIGHT) + 1;
    let mut member = |m: &schema::Member| MemberConfig {
        weight: m.weight.is_some().then(|| c.number("weight", &m.weight, 0..most, 1) as u16),
        uplink: c.find("uplink", &m.uplink, known) as u8,
        tier: c.number("tier", &m.tier, 1..255, 1) as u8,
    };
    given.iter().map(|m| member(m.get_ref())).collect()
}

fn failback(c: &mut Checker<'_>, policy: &schema::Policy) -> Failback {
    const DAY: u64 = 86_400;
    let deadline = c.seconds("failback_deadline", &policy.failback_deadline, 30 * DAY, 600) as u32;
    match (policy.failback, &policy.failback_deadline) {
        (schema::Failback::Deadline, _) => Failback::Deadline(deadline),
        (_, Some(given)) => {
            c.refuse(
                given.span(),
                "failback_deadline has no effect without failback = \"deadline\"",
                "remove it, or set failback",
            );
            Failback::NewFlows
        }
        (schema::Failback::NewFlows, None) => Failback::NewFlows,
        (schema::Failback::Idle, None) => Failback::Idle,
    }
}

/// Refuses a policy without members, and a tier without weight.
fn zero_weights(
    c: &mut Checker<'_>,
    span: Range<usize>,
    name: &str,
    members: &[MemberConfig],
    uplinks: &[UplinkConfig],
) {
    let weight = |m: &MemberConfig| {
        m.weight.or(uplinks.get(usize::from(m.uplink)).map(|u| u.weight)).unwrap_or(0)
    };
    let mut tiers: Vec<u8> = members.iter().map(|m| m.tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    if members.is_empty() {
        c.refuse(
            span,
            format!("policy \"{name}\" has no members"),
            "list uplinks, or leave `members` out for all",
        );
        return;
    }
    for tier in tiers {
        let total: u32 =
            members.iter().filter(|m| m.tier == tier).map(|m| u32::from(weight(m))).sum();
        if total == 0 {
            let message = format!("the weights of policy \"{name}\" tier {tier} add up to zero");
            c.refuse(span.clone(), message, "give at least one of its uplinks a weight");
        }
    }
}
