//! What the control process knows of the uplinks' health.

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_shm::Pins;

use super::{Arguments, view};
use crate::api::{self, Query, Response};
use crate::health::Entry;
use crate::monitor::{TargetView, UplinkView};
use crate::time;

/// `weir uplinks`: what shared memory says, and what the control process adds if it answers.
pub fn uplinks(arguments: &Arguments, pins: &Pins) -> Result<String> {
    let health = match api::ask(&arguments.socket, &Query::Health) {
        Ok(Response::Health { uplinks }) => uplinks,
        _ => Vec::new(),
    };
    if arguments.json {
        let mut values = view::uplinks_json(pins)?;
        for value in &mut values {
            let known = health.iter().find(|view| value["name"] == view.uplink.as_str());
            value["health"] = serde_json::to_value(known)?;
        }
        return Ok(format!("{:#}\n", Value::from(values)));
    }
    let mut text = view::uplinks(pins)?;
    if !health.is_empty() {
        let values: Vec<Value> = health.iter().map(standing).collect();
        text += "\n";
        text += &view::table(&values, &["name", "health", "for", "reason"]);
    }
    let targets: Vec<Value> = health
        .iter()
        .flat_map(|uplink| uplink.targets.iter().map(|target| answers(&uplink.uplink, target)))
        .collect();
    if !targets.is_empty() {
        text += "\n";
        text += &view::table(&targets, &["name", "target", "status", "loss", "rtt", "jitter"]);
    }
    Ok(text)
}

fn standing(view: &UplinkView) -> Value {
    json!({
        "name": view.uplink,
        "health": view.state.to_string(),
        "for": time::duration(view.for_ms / 1000),
        "reason": view.reason.to_string(),
    })
}

fn answers(uplink: &str, target: &TargetView) -> Value {
    let figures = &target.figures;
    json!({
        "name": uplink,
        "target": target.target,
        "status": target.status,
        "loss": format!("{:.1} %", figures.loss_percent.window),
        "rtt": format!("{:.1} ms", figures.rtt_ms.window),
        "jitter": format!("{:.1} ms", figures.jitter_ms.window),
    })
}

/// `weir history`.
pub fn history(arguments: &Arguments, since: u64) -> Result<String> {
    let entries = match api::ask(&arguments.socket, &Query::History { since })? {
        Response::History { entries } => entries,
        Response::Error { message } => bail!(message),
        _ => bail!("weir-control answered something else: is it of this version?"),
    };
    if arguments.json {
        return Ok(format!("{:#}\n", serde_json::to_value(entries)?));
    }
    let values: Vec<Value> = entries.iter().map(line).collect();
    Ok(view::table(&values, &["number", "time", "uplink", "from", "to", "reason"]))
}

fn line(entry: &Entry) -> Value {
    let change = &entry.transition;
    json!({
        "number": entry.number,
        "time": time::of_milliseconds(entry.time_ms),
        "uplink": entry.uplink,
        "from": change.from.to_string(),
        "to": change.to.to_string(),
        "reason": change.reason.to_string(),
    })
}
