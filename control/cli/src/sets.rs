//! `weir sets`.

use std::net::IpAddr;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, IpAddress};
use weir_layout::control::{Set, SetTest};
use weir_shm::Pins;
use weir_shm::published::Published;

use super::output;
use super::state::published;
use super::table::table;

/// `weir sets`: all of them, or those that hold an address.
pub fn sets(pins: &Pins, address: Option<IpAddr>, json: bool) -> Result<String> {
    let state = published(pins)?;
    let half = &state.snapshot.half;
    if !state.region.has_sound_sets(&half.sets) {
        bail!(
            "the sets in shared memory are not those that are published: ask again, or restart weir-control"
        );
    }
    let of = |address: IpAddr| match address {
        IpAddr::V4(address) => holding(&state, address.octets()),
        IpAddr::V6(address) => holding(&state, address.octets()),
    };
    let holding = address.map_or(Ok(u64::MAX), of)?;
    let named = (0u8..).zip(half.sets.named());
    let held = named.filter(|(number, _)| holding >> (number & 63) & 1 != 0);
    let values: Vec<Value> = held.map(|(number, set)| value(half, number, set)).collect();
    if json {
        return Ok(output::json("sets", values.into()));
    }
    let line = |value: &Value| {
        let names = |key: &str| {
            let names = value[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.collect::<Vec<_>>().join(", ")
        };
        let mut line = value.clone();
        (line["rules"], line["publish"]) = (names("rules").into(), names("publish").into());
        line
    };
    let lines: Vec<Value> = values.iter().map(line).collect();
    Ok(table(&lines, &["name", "ipv4", "ipv6", "rules", "publish"]))
}

/// The sets that hold an address, a bit each.
fn holding(state: &Published, address: impl IpAddress) -> Result<u64> {
    match state.region.sets_of(&state.snapshot.half.sets, address) {
        Some(holding) => Ok(holding),
        None => bail!("the sets changed meanwhile: ask again"),
    }
}

fn value(half: &ControlHalf, number: u8, set: &Set) -> Value {
    let is_this = |test: SetTest| test.number() == Some(number);
    let rules = half.rules().iter();
    let rules = rules.filter(|rule| is_this(rule.source_set) || is_this(rule.destination_set));
    let services = half.port_forwards().iter();
    let services =
        services.filter(|it| (it.allowed_sets | it.barred_sets) >> (number & 63) & 1 != 0);
    let mut publish: Vec<_> = services.map(|service| service.name.as_str()).collect();
    // One of each protocol and family has the name of all.
    publish.dedup();
    json!({
        "name": set.name.as_str(),
        "ipv4": set.prefixes[Family::V4.index()],
        "ipv6": set.prefixes[Family::V6.index()],
        "rules": rules.map(|rule| rule.name.as_str()).collect::<Vec<_>>(),
        "publish": publish,
    })
}
