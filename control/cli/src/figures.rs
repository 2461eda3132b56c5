//! What the control process knows of the uplinks, as values for tables.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_api::{PathView, Query, Response, TargetView, UplinkView, time};
use weir_health::Part;
use weir_health::availability::Share;
use weir_health::load::{CapacityFrom, DirectionView, LoadView};
use weir_layout::Family;
use weir_site::load::rate_text;

/// How the uplinks are, as the control process says that listens on a socket.
///
/// # Errors
/// When nobody answers, or it is of another version.
pub fn health(socket: &Path) -> Result<Vec<UplinkView>> {
    match weir_api::ask(socket, &Query::Health)? {
        Response::Health { uplinks } => Ok(uplinks),
        Response::Error { message } => bail!(message),
        _ => bail!(weir_api::ANOTHER_VERSION),
    }
}

/// The paths of all uplinks, with what they are called.
pub fn paths(uplinks: &[UplinkView]) -> impl Iterator<Item = (Part, &PathView)> {
    uplinks.iter().flat_map(|uplink| {
        let of = |family, path| (Part::path(uplink.uplink.clone(), family), path);
        let ipv6 = uplink.ipv6.as_ref().map(|path| of(Family::V6, path));
        [Some(of(Family::V4, &uplink.ipv4)), ipv6].into_iter().flatten()
    })
}

/// Its state, for how long, and why.
pub fn standing(name: Part, view: &PathView) -> Value {
    json!({
        "name": name.to_string(),
        "health": view.state.to_string(),
        "for": time::duration(view.for_ms / 1000),
        "24h": share(view.availability.day),
        "30d": share(view.availability.month),
        "reason": view.reason.to_string(),
    })
}

/// `99.95 %`, rounded down: only what was never down has a hundred.
fn share(share: Share) -> String {
    share.ratio().map_or("-".into(), |ratio| format!("{:.2} %", (ratio * 1e4).floor() / 100.0))
}

/// What an uplink carries, of what it can.
pub fn load(uplink: &str, load: &LoadView) -> Value {
    json!({
        "name": uplink,
        "down": rate_text(load.down.load as f64),
        "of_capacity_down": capacity(&load.down),
        "up": rate_text(load.up.load as f64),
        "of_capacity_up": capacity(&load.up),
        "saturated": load.saturated,
    })
}

/// `93 % of 200M, learned`.
fn capacity(direction: &DirectionView) -> String {
    let Some(capacity) = direction.capacity else { return "unknown".into() };
    let percent = direction.load as f64 * 100.0 / capacity.max(1) as f64;
    let learned = if direction.capacity_from == CapacityFrom::Learned { ", learned" } else { "" };
    format!("{percent:.0} % of {}{learned}", rate_text(capacity as f64))
}

/// How a target answers.
pub fn answers(target: &TargetView) -> Value {
    let percent = |loss: f64| format!("{:.1} %", loss * 100.0);
    let [rtt, jitter] = match target.times() {
        Some(times) => times.map(|seconds| format!("{:.1} ms", seconds * 1e3)),
        None => ["-".into(), "-".into()],
    };
    let status = json!(target.status);
    let status = status.as_str().unwrap_or_default();
    json!({
        "target": target.target,
        "status": if target.judged { status.into() } else { format!("{status}, not judged") },
        "loss": target.loss().map_or("-".into(), percent),
        "rtt": rtt,
        "jitter": jitter,
        "last_error": last_error(target),
    })
}

/// `refused, 5s ago`.
fn last_error(target: &TargetView) -> String {
    let Some(error) = target.error else { return String::new() };
    let ago = target.error_ago_ms.unwrap_or_default() / 1000;
    format!("{error}, {} ago", time::duration(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_down_was_usable_all_the_time() {
        let of = |usable_ms, watched_ms| share(Share { usable_ms, watched_ms });
        assert_eq!(of(0, 0), "-");
        assert_eq!(of(86_400_000, 86_400_000), "100.00 %");
        assert_eq!(of(86_399_500, 86_400_000), "99.99 %");
        assert_eq!(of(2, 3), "66.66 %");
        assert_eq!(of(0, 3), "0.00 %");
    }

    #[test]
    fn a_capacity_says_how_full_it_is_and_where_it_is_from() {
        let mut direction = DirectionView::default();
        assert_eq!(capacity(&direction), "unknown");
        direction.load = 186_000_000;
        direction.capacity = Some(200_000_000);
        direction.capacity_from = CapacityFrom::Configured;
        assert_eq!(capacity(&direction), "93 % of 200M");
        direction.capacity_from = CapacityFrom::Learned;
        assert_eq!(capacity(&direction), "93 % of 200M, learned");
    }
}
