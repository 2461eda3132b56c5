//! `weir policies` and `weir rules`.

use anyhow::Result;
use serde_json::{Value, json};
use weir_layout::Family;
use weir_layout::control::{Member, Name, PathId, RuleAction, Selection};
use weir_shm::Pins;
use weir_shm::counters::Counters;
use weir_shm::map::Access;
use weir_shm::published::Published;

use super::criteria::{criteria, port_names};
use super::output;
use super::state::{published, uplink_name};
use super::table::table;
use super::uplinks::lines;

/// The members of all policies.
pub fn policy_values(state: &Published) -> Vec<Value> {
    let half = &state.snapshot.half;
    let mut values = Vec::new();
    for (index, policy) in half.policies.iter().enumerate().filter(|(_, p)| p.name.0[0] != 0) {
        let selection = match policy.selection() {
            Selection::SourceDestination => "source-destination",
            Selection::Flow => "flow",
            Selection::Source => "source",
            Selection::Host => "host",
            Selection::FlowLabel => "flow-label",
        };
        let shares = Family::ALL.map(|family| state.shares(index, family));
        for member in policy.members() {
            let active = |family| member.tier == policy.steering(family).active_tier;
            let share = |family: Family| shares[family.index()].percent(member.uplink);
            let mut value = json!({
                "policy": policy.name.as_str(),
                "default": usize::from(half.default_policy) == index,
                "selection": selection,
                "uplink": uplink_name(state, member.uplink),
                "tier": member.tier,
                "active": active(Family::V4),
                "weight": member.weight & Member::MAX_WEIGHT,
                "share": share(Family::V4),
            });
            if state.has_path(PathId::new(member.uplink, Family::V6)) {
                value["ipv6"] = json!({ "active": active(Family::V6), "share": share(Family::V6) });
            }
            values.push(value);
        }
    }
    values
}

/// `weir policies`.
pub fn policies(pins: &Pins, json: bool) -> Result<String> {
    let values = policy_values(&published(pins)?);
    if json {
        return Ok(output::json("policies", values.into()));
    }
    let columns = ["policy", "default", "selection", "uplink", "tier", "active", "weight", "share"];
    let same = ["policy", "default", "selection", "tier", "weight"];
    Ok(table(&lines(values, "uplink", &same), &columns))
}

/// `weir rules`.
pub fn rules(pins: &Pins, json: bool) -> Result<String> {
    let state = published(pins)?;
    let half = &state.snapshot.half;
    let ports = port_names(half);
    let hits = Counters::open(pins, Access::Read)?.rule_hits(half.rules().len(), half.workers);
    let policy = |number: u8| half.policies[usize::from(number) % half.policies.len()].name;
    let mut values: Vec<Value> = half
        .rules()
        .iter()
        .zip(hits)
        .enumerate()
        .map(|(index, (rule, hits))| {
            let (action, policy) = match rule.action() {
                RuleAction::Policy => ("policy", Some(policy(rule.policy))),
                RuleAction::Drop => ("drop", None),
                RuleAction::Reject => ("reject", None),
                RuleAction::Accept => ("accept", None),
            };
            json!({
                "rule": index + 1,
                "name": rule.name.as_str(),
                "criteria": criteria(rule, &ports, &half.sets),
                "action": action,
                "policy": policy.as_ref().map(Name::as_str),
                "hits": hits,
            })
        })
        .collect();
    values.push(json!({
        "rule": "-",
        "name": "default",
        "criteria": "everything else",
        "action": "policy",
        "policy": policy(half.default_policy).as_str(),
        "hits": null,
    }));
    if json {
        return Ok(output::json("rules", values.into()));
    }
    Ok(table(&values, &["rule", "name", "criteria", "action", "policy", "hits"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_pinned_is_an_error_that_says_what_to_start() {
        let error = rules(&Pins::existing("/sys/fs/bpf/weir-not-there"), false).unwrap_err();
        assert!(error.to_string().contains("start weir-control"), "{error}");
    }
}
