//! `weir policies` and `weir rules`.

use anyhow::Result;
use serde_json::{Value, json};
use weir_layout::Family;
use weir_layout::control::{Member, PathId, Selection};
use weir_shm::Pins;

use super::criteria::{criteria, port_names};
use super::output;
use super::state::State;
use super::table::table;
use super::uplinks::lines;

/// `weir policies`.
pub fn policies(pins: &Pins, json: bool) -> Result<String> {
    let state = State::open(pins)?;
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
        for member in policy.members() {
            let active = |family| member.tier == policy.steering(family).active_tier;
            let share = |family| state.share(index, family, member.uplink);
            let mut value = json!({
                "policy": policy.name.as_str(),
                "default": usize::from(half.default_policy) == index,
                "selection": selection,
                "uplink": state.uplink_name(member.uplink),
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
    if json {
        return Ok(output::json("policies", values.into()));
    }
    let columns = ["policy", "default", "selection", "uplink", "tier", "active", "weight", "share"];
    let same = ["policy", "default", "selection", "tier", "weight"];
    Ok(table(&lines(values, "uplink", &same), &columns))
}

/// `weir rules`.
pub fn rules(pins: &Pins, json: bool) -> Result<String> {
    let state = State::open(pins)?;
    let half = &state.snapshot.half;
    let lans = port_names(half);
    let mut values: Vec<Value> = half
        .rules()
        .iter()
        .enumerate()
        .map(|(index, rule)| {
            json!({
                "rule": index + 1,
                "name": rule.name.as_str(),
                "criteria": criteria(rule, &lans),
                "policy": half.policies[usize::from(rule.policy) % half.policies.len()].name.as_str(),
            })
        })
        .collect();
    let default = half.policies[usize::from(half.default_policy) % half.policies.len()].name;
    values.push(json!({ "rule": "-", "name": "default", "criteria": "everything else", "policy": default.as_str() }));
    if json {
        return Ok(output::json("rules", values.into()));
    }
    Ok(table(&values, &["rule", "name", "criteria", "policy"]))
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
