//! What the control process knows of the uplinks' health.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_api::{Override, Query, Response, time};
use weir_health::{Entry, Event};
use weir_shm::Pins;

use super::figures::{self, answers, load, paths, standing};
use super::table::table;
use super::uplinks::{uplinks_json, uplinks_table};
use super::{Arguments, output, processes};

/// `weir uplinks`: what shared memory says, and what the control process adds if it answers.
pub fn uplinks(arguments: &Arguments, pins: &Pins) -> Result<String> {
    let health = figures::health(&arguments.socket).unwrap_or_else(|error| {
        output::warn(&format!("no health: {error:#}"));
        Vec::new()
    });
    if let Some(trouble) = processes::trouble_of_dataplane(pins, time::monotonic_ms())? {
        output::warn(&trouble);
    }
    if arguments.json {
        let mut values = uplinks_json(pins)?;
        for value in &mut values {
            let known = health.iter().find(|view| value["name"] == view.uplink.as_str());
            value["health"] = serde_json::to_value(known)?;
            if let (Some(ipv6), Value::Object(path)) =
                (known.and_then(|view| view.ipv6.as_ref()), &mut value["ipv6"])
            {
                path.insert("health".into(), serde_json::to_value(ipv6)?);
            }
        }
        return Ok(output::json("uplinks", values.into()));
    }
    let mut text = uplinks_table(pins)?;
    if !health.is_empty() {
        let values: Vec<Value> = paths(&health).map(|(name, path)| standing(name, path)).collect();
        text += "\n";
        text += &table(&values, &["name", "health", "for", "24h", "30d", "reason"]);
    }
    let loads: Vec<Value> =
        health.iter().filter_map(|view| Some(load(&view.uplink, &view.load?))).collect();
    if !loads.is_empty() {
        text += "\n";
        let columns = ["name", "down", "of_capacity_down", "up", "of_capacity_up", "saturated"];
        text += &table(&loads, &columns);
    }
    let targets: Vec<Value> = paths(&health)
        .flat_map(|(name, path)| {
            path.targets.iter().map(move |target| {
                let mut value = answers(target);
                value["name"] = name.to_string().into();
                value
            })
        })
        .collect();
    if !targets.is_empty() {
        text += "\n";
        text +=
            &table(&targets, &["name", "target", "status", "loss", "rtt", "jitter", "last_error"]);
    }
    Ok(text)
}

/// `weir history`.
pub fn history(arguments: &Arguments, since: u64) -> Result<String> {
    let entries = match weir_api::ask(&arguments.socket, &Query::History { since })? {
        Response::History { entries } => entries,
        Response::Error { message } => bail!(message),
        _ => bail!(weir_api::ANOTHER_VERSION),
    };
    if arguments.json {
        return Ok(output::json("history", serde_json::to_value(entries)?));
    }
    let values: Vec<Value> = entries.iter().map(line).collect();
    Ok(table(&values, &["number", "time", "part", "from", "to", "reason"]))
}

/// The last change of an uplink's state, if the control process answers and knows one.
pub fn last_change(arguments: &Arguments, uplink: &str) -> Option<String> {
    let Ok(Response::History { entries }) =
        weir_api::ask(&arguments.socket, &Query::History { since: 0 })
    else {
        return None;
    };
    let of_uplink = |entry: &Entry| match &entry.event {
        Event::State { part, transition } if part.uplink() == Some(uplink) => {
            let (time, change) = (time::of_milliseconds(entry.time_ms), transition);
            Some(format!("{time}: {part} {} → {}, {}", change.from, change.to, change.reason))
        }
        _ => None,
    };
    entries.iter().rev().find_map(of_uplink)
}

/// `weir overrides`.
pub fn overrides(arguments: &Arguments) -> Result<String> {
    let overrides = match weir_api::ask(&arguments.socket, &Query::Overrides)? {
        Response::Overrides { overrides } => overrides,
        Response::Error { message } => bail!(message),
        _ => bail!(weir_api::ANOTHER_VERSION),
    };
    if arguments.json {
        return Ok(output::json("overrides", serde_json::to_value(overrides)?));
    }
    if overrides.is_empty() {
        return Ok("nothing is set by hand\n".into());
    }
    let value = |entry: &Override| {
        json!({
            "uplink": entry.uplink,
            "policy": entry.policy.as_deref().unwrap_or_default(),
            "what": entry.what,
            "value": entry.value,
            "since": entry.since_s.map(time::of_day).unwrap_or_default(),
            "by": entry.by.as_deref().unwrap_or_default(),
        })
    };
    let values: Vec<Value> = overrides.iter().map(value).collect();
    Ok(table(&values, &["uplink", "policy", "what", "value", "since", "by"]))
}

fn line(entry: &Entry) -> Value {
    let [part, from, to, reason] = match &entry.event {
        Event::State { part, transition: change } => [
            part.to_string(),
            change.from.to_string(),
            change.to.to_string(),
            change.reason.to_string(),
        ],
        Event::Tier(change) => {
            let tier = |tier: Option<u8>| tier.map_or("none".into(), |tier| format!("tier {tier}"));
            let reason = match change.to {
                Some(_) => format!("new flows leave by {}", change.uplinks.join(", ")),
                None => "no uplink is usable".into(),
            };
            [change.to_string(), tier(change.from), tier(change.to), reason]
        }
        Event::Command(done) => {
            let by = done.by.as_ref();
            let process = by.filter(|by| !by.process.is_empty() && by.process != done.command);
            let process = process.map_or(String::new(), |by| format!(", by `{}`", by.process));
            let by = by.map(ToString::to_string).unwrap_or_default();
            [by, String::new(), String::new(), format!("{}{process}", done.command)]
        }
    };
    json!({
        "number": entry.number,
        "time": time::of_milliseconds(entry.time_ms),
        "part": part,
        "from": from,
        "to": to,
        "reason": reason,
    })
}
