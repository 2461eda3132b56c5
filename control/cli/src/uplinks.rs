//! The uplinks, as shared memory has them.

use anyhow::Result;
use serde_json::{Value, json};
use weir_api::{time, words};
use weir_health::Part;
use weir_layout::Family;
use weir_layout::control::{Address, PathId, Port, Translate, Uplink, path_state};
use weir_shm::Pins;
use weir_shm::published::{Published, Shares};

use super::state::{address, published};
use super::table::table;

/// What of an uplink is its path's in a family; none: it has no path there.
fn path_value(
    state: &Published,
    id: PathId,
    shares: &Shares,
    draining: Option<&str>,
) -> Option<Value> {
    if !state.has_path(id) {
        return None;
    }
    let half = &state.snapshot.half;
    let word = state.region.path_state(id);
    let why: Vec<_> = words::reasons(word).into_iter().chain(draining).collect();
    let path = half.uplinks[usize::from(id.uplink)].path(id.family);
    let addresses = path.addresses().iter().map(|one| address(id.family, *one));
    let has_next_hop = path.next_hop != Address::UNSPECIFIED;
    let counters = state.counters.path(id);
    Some(json!({
        "state": if word & path_state::USABLE != 0 { "up" } else { "down" },
        "why": why.join(", "),
        "since": path.since,
        "share": shares.percent(id.uplink),
        "next_hop": has_next_hop.then(|| address(id.family, path.next_hop)),
        "addresses": addresses.collect::<Vec<_>>(),
        "flows": counters.flows_active,
        "new_flows": counters.flows_created,
        "tx_packets": counters.tx_packets,
        "tx_bytes": counters.tx_bytes,
        "rx_packets": counters.rx_packets,
        "rx_bytes": counters.rx_bytes,
        "translate": translation(id.family, path.translation()),
    }))
}

/// How the file calls a translation.
const fn translation(family: Family, translate: Translate) -> &'static str {
    match (family, translate) {
        (Family::V4, Translate::Napt) => "nat44",
        (Family::V6, Translate::Napt) => "nat66",
        (_, Translate::Npt) => "npt66",
        (_, Translate::Source) => "source",
        (_, Translate::None) => "none",
    }
}

/// Each uplink: what is its own, and of both its paths.
pub fn uplink_values(state: &Published) -> Vec<Value> {
    let half = &state.snapshot.half;
    let now_s = time::boot_s();
    let default = usize::from(half.default_policy);
    let shares = Family::ALL.map(|family| state.shares(default, family));
    let named = half.uplinks.iter().enumerate().filter(|(_, u)| u.name.0[0] != 0);
    named
        .map(|(index, uplink)| {
            let drain_left_s = match uplink.drain_until {
                0 | Uplink::NO_DEADLINE => None,
                until => Some(until.saturating_sub(now_s)),
            };
            let draining = (uplink.drain_until != 0).then(|| match drain_left_s {
                None => "draining".to_owned(),
                Some(0) => "drained".to_owned(),
                Some(left) => format!("draining, {} left", time::duration(left)),
            });
            let of = |family: Family| {
                let path = PathId::new(index as u8, family);
                path_value(state, path, &shares[family.index()], draining.as_deref())
            };
            // Also of an uplink whose interface cannot be used, and which has no port for now.
            let is_its = |p: &&Port| p.is_uplink() && p.uplink == index as u8;
            let port = half.ports.iter().find(is_its);
            let device = port.and_then(|p| half.devices.get(usize::from(p.device)));
            let mut value = json!({
                "name": uplink.name.as_str(),
                "interface": device.map_or("-", |d| d.name.as_str()),
                "draining": uplink.drain_until != 0,
                "drain_left_s": drain_left_s,
                "weight": uplink.weight,
                "weight_overridden": uplink.weight_overridden == 1,
            });
            let ipv4 = of(Family::V4).and_then(|path| path.as_object().cloned());
            let ipv6 = of(Family::V6).map(|path| ("ipv6".to_owned(), path));
            if let Value::Object(value) = &mut value {
                value.extend(ipv4.into_iter().flatten().chain(ipv6));
            }
            value
        })
        .collect()
}

/// The uplinks, as values for JSON.
pub fn uplinks_json(pins: &Pins) -> Result<Vec<Value>> {
    Ok(uplink_values(&published(pins)?))
}

/// The uplinks, as a table.
pub fn uplinks_table(pins: &Pins) -> Result<String> {
    let values = lines(uplinks_json(pins)?, "name", &["interface"]);
    let columns = [
        "name",
        "interface",
        "state",
        "why",
        "weight",
        "share",
        "flows",
        "new_flows",
        "tx_bytes",
        "rx_bytes",
        "next_hop",
        "translate",
    ];
    Ok(table(&values, &columns))
}

/// Values of uplinks as lines of a table: one that has `ipv6` has a second line for it. `name` is the
/// column of the uplink's name, and `same` are those that hold for both lines.
pub fn lines(values: Vec<Value>, name: &str, same: &[&str]) -> Vec<Value> {
    let mut lines = Vec::new();
    for value in values {
        let mut ipv6 = value["ipv6"].clone();
        if ipv6.is_object() {
            let uplink = value[name].as_str().unwrap_or_default().to_owned();
            ipv6[name] = Part::Ipv6(uplink).to_string().into();
            same.iter().for_each(|column| ipv6[*column] = value[*column].clone());
        }
        lines.push(value);
        lines.extend(Some(ipv6).filter(Value::is_object));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uplink_of_both_families_has_a_line_for_each() {
        let ipv6 = json!({ "state": "down", "share": 0.0 });
        let values = vec![
            json!({ "name": "fiber", "interface": "wan0", "state": "up", "share": 50.0, "flows": 7,
                "ipv6": ipv6 }),
            json!({ "name": "lte", "interface": "wan1", "state": "up", "share": 50.0, "flows": 7 }),
        ];
        let columns = ["name", "interface", "state", "share", "flows"];
        let text = table(&lines(values, "name", &["interface"]), &columns);
        let words: Vec<Vec<_>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["fiber", "wan0", "up", "50.0", "%", "7"]);
        assert_eq!(words[2], ["fiber", "(IPv6)", "wan0", "down", "0.0", "%", "-"]);
        assert_eq!(words[3][0], "lte");
    }
}
