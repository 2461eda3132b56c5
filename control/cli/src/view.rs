//! What shared memory says. Each view is made once as JSON values; the table is a rendering of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Value, json};
use weir_api::{Configuration, Query, Response, time, words};
use weir_health::Part;
use weir_layout::Family;
use weir_layout::control::{
    Address, BUCKETS, Member, PathId, Port, PortRole, Selection, Translate, Uplink, path_state,
};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, flag};
use weir_layout::status::StatusPage;
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::flows::{Entry4, FlowTable4};
use weir_shm::map::Access;
use weir_shm::status::{Status, silence_ms};
use weir_shm::{Pins, Role};
use zerocopy::FromZeros;

use super::criteria::{criteria, port_names, protocol_name};
use super::processes::Process;
use super::{Arguments, devices, output};

/// Which flows to show.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FlowFilter {
    /// Only on this uplink.
    #[arg(long)]
    pub uplink: Option<String>,
    /// Only from this inside address.
    #[arg(long)]
    pub source: Option<Ipv4Addr>,
    /// Only to this address.
    #[arg(long)]
    pub destination: Option<Ipv4Addr>,
    /// Only this protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// The regions are there, and empty.
#[derive(Debug, thiserror::Error)]
#[error("nothing is published yet: start weir-control")]
pub struct NothingPublished;

/// What the views read.
struct State {
    region: ControlRegion,
    snapshot: Box<Snapshot>,
    counters: Counters,
}

impl State {
    fn open(pins: &Pins) -> Result<Self> {
        let region = ControlRegion::open(pins, Access::Read)?;
        let snapshot = region.snapshot().ok_or(NothingPublished)?;
        Ok(Self { region, snapshot, counters: Counters::open(pins, Access::Read)? })
    }

    /// Names of what is published, in order.
    fn uplinks(&self) -> Vec<&str> {
        let uplinks = self.snapshot.half.uplinks.iter().map(|uplink| uplink.name.as_str());
        uplinks.take_while(|name| !name.is_empty()).collect()
    }

    fn uplink_name(&self, uplink: u8) -> &str {
        self.snapshot.half.uplinks.get(usize::from(uplink)).map_or("?", |u| u.name.as_str())
    }

    /// Is the uplink used in the family?
    fn has_path(&self, path: PathId) -> bool {
        self.region.path_state(path) & path_state::NOT_CONFIGURED == 0
    }

    /// Percentage of a policy's buckets that an uplink has in a family.
    fn share(&self, policy: usize, family: Family, uplink: u8) -> f64 {
        let Some(table) = self.snapshot.table(family, policy) else { return 0.0 };
        let owned = table.iter().filter(|owner| **owner == uplink).count();
        (owned as f64 * 1000.0 / BUCKETS as f64).round() / 10.0
    }
}

/// `weir status`; and whether both processes run and answer.
pub fn status(arguments: &Arguments, pins: &Pins) -> Result<(String, bool)> {
    let state = State::open(pins)?;
    let configuration = match weir_api::ask(&arguments.socket, &Query::Configuration) {
        Ok(Response::Configuration { configuration }) => Some(configuration),
        _ => None,
    };
    // After that: a process which is stopped has been silent for as long as was waited for it.
    let page = match Status::open(pins, Access::Read) {
        Ok(status) => status.read(),
        // No dataplane has been here yet.
        Err(weir_shm::Error::Missing { .. }) => {
            StatusPage::new_box_zeroed().expect("memory for a page")
        }
        Err(error) => return Err(error.into()),
    };
    let (pid, heartbeat) = state.region.control_process();
    let now_ms = time::monotonic_ms();
    let control = Process {
        role: Role::Control,
        pid,
        runs: pins.is_claimed(Role::Control)?,
        silence_ms: now_ms.saturating_sub(heartbeat),
    };
    let dataplane = Process {
        role: Role::Dataplane,
        pid: page.pid,
        runs: pins.is_claimed(Role::Dataplane)?,
        silence_ms: silence_ms(&page, now_ms),
    };
    let well = control.answers() && dataplane.answers();
    let devices = devices::values(&state.snapshot.half, &page, dataplane.runs);
    let workers = if dataplane.runs { page.workers } else { 0 };
    let flows: u64 = page.worker.iter().take(workers as usize).map(|w| w.flows).sum();
    if arguments.json {
        let mut of_dataplane = dataplane.value();
        of_dataplane["workers"] = workers.into();
        of_dataplane["tap_refused"] = page.tap_refused.into();
        let value = json!({
            "configuration": configuration,
            "control": control.value(),
            "dataplane": of_dataplane,
            "epoch": state.region.epoch(),
            "flows": flows,
            "flow_slots": page.flows[Family::V4.index()].size / 64,
            "devices": devices,
            "uplinks": uplink_values(&state),
        });
        return Ok((output::json("status", value), well));
    }
    let mut text = control.line("");
    text += &dataplane.line(&format!(", {workers} workers, {flows} flows"));
    if page.tap_refused > 0 {
        text +=
            &format!("{:<10} {} packets, for devices that were down\n", "lost", page.tap_refused);
    }
    text += &format!("{:<10} {}\n", "epoch", state.region.epoch());
    text += &configuration.as_ref().map(source).unwrap_or_default();
    text += "\n";
    text += &table(
        &devices,
        &["interface", "state", "why", "xdp", "mode", "sockets", "mtu", "rx_lost"],
    );
    text += "\n";
    text += &uplinks(pins)?;
    Ok((text, well))
}

/// The file that is in force, and if the one that was given is not, why.
fn source(configuration: &Configuration) -> String {
    let mut text = format!("{:<10} {}\n", "file", configuration.in_force);
    if let Some(refused) = &configuration.refused {
        let now = match configuration.in_force == configuration.file {
            true => "as it was before",
            false => "the last good one",
        };
        text += &format!(
            "{:<10} {} is REFUSED since {}, in force is {now}:\n",
            "",
            configuration.file,
            time::of_day(refused.time_s)
        );
        for line in refused.why.lines() {
            text += &format!("{:<10} {line}\n", "");
        }
    }
    text
}

/// An address of a family.
fn address(family: Family, address: Address) -> String {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(address.to_v4())),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(address.0)),
    }
    .to_string()
}

/// What of an uplink is its path's in a family; none: it has no path there.
fn path_value(state: &State, id: PathId, draining: Option<&str>) -> Option<Value> {
    if !state.has_path(id) {
        return None;
    }
    let half = &state.snapshot.half;
    let word = state.region.path_state(id);
    let why: Vec<_> = words::reasons(word).into_iter().chain(draining).collect();
    let path = half.uplinks[usize::from(id.uplink)].path(id.family);
    let addresses = path.addresses().iter().map(|one| address(id.family, *one));
    Some(json!({
        "state": if word & path_state::USABLE != 0 { "up" } else { "down" },
        "why": why.join(", "),
        "since": path.since,
        "share": state.share(usize::from(half.default_policy), id.family, id.uplink),
        "next_hop": address(id.family, path.next_hop),
        "addresses": addresses.collect::<Vec<_>>(),
        "translate": if path.translate == Translate::Nat44 as u8 { "nat44" } else { "none" },
    }))
}

fn uplink_values(state: &State) -> Vec<Value> {
    let half = &state.snapshot.half;
    let now_s = time::boot_s();
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
            let of =
                |family| path_value(state, PathId::new(index as u8, family), draining.as_deref());
            let counters = state.counters.uplink(index as u8);
            // Also of an uplink whose interface cannot be used, and which has no port for now.
            let is_its = |p: &&Port| p.role == PortRole::Uplink as u8 && p.uplink == index as u8;
            let port = half.ports.iter().find(is_its);
            let device = port.and_then(|p| half.devices.get(usize::from(p.device)));
            let mut value = json!({
                "name": uplink.name.as_str(),
                "interface": device.map_or("-", |d| d.name.as_str()),
                "draining": uplink.drain_until != 0,
                "drain_left_s": drain_left_s,
                "weight": uplink.weight,
                "weight_overridden": uplink.weight_overridden == 1,
                "flows": counters.flows_active,
                "new_flows": counters.flows_created,
                "tx_packets": counters.tx_packets,
                "tx_bytes": counters.tx_bytes,
                "rx_packets": counters.rx_packets,
                "rx_bytes": counters.rx_bytes,
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
    Ok(uplink_values(&State::open(pins)?))
}

/// The uplinks, as a table.
pub fn uplinks(pins: &Pins) -> Result<String> {
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
fn lines(values: Vec<Value>, name: &str, same: &[&str]) -> Vec<Value> {
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

/// `weir policies`.
pub fn policies(pins: &Pins, json: bool) -> Result<String> {
    let state = State::open(pins)?;
    let half = &state.snapshot.half;
    let mut values = Vec::new();
    for (index, policy) in half.policies.iter().enumerate().filter(|(_, p)| p.name.0[0] != 0) {
        let selection = match policy.selection {
            s if s == Selection::Flow as u8 => "flow",
            s if s == Selection::Source as u8 => "source",
            _ => "source-destination",
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

/// `weir flows`.
pub fn flows(pins: &Pins, filter: &FlowFilter, json: bool) -> Result<String> {
    let state = State::open(pins)?;
    let uplinks = state.uplinks();
    if let Some(name) = filter.uplink.as_deref().filter(|name| !uplinks.contains(name)) {
        bail!("there is no uplink \"{name}\"; known: {}", uplinks.join(", "));
    }
    if let Some(name) = filter.protocol.as_deref()
        && !["tcp", "udp", "icmp"].contains(&name)
        && name.parse::<u8>().is_err()
    {
        bail!("there is no protocol \"{name}\": use tcp, udp, icmp or a number up to 255");
    }
    let table4 = FlowTable4::read_only(pins)?;
    let now_ms = time::monotonic_ms() as u32;
    let wanted = |e: &Entry4| {
        e.flags & flag::INITIATED != 0
            && filter.uplink.as_ref().is_none_or(|name| state.uplink_name(e.uplink) == name)
            && filter.source.is_none_or(|a| a.octets() == e.key.src())
            && filter.destination.is_none_or(|a| a.octets() == e.key.dst())
            && filter.protocol.as_ref().is_none_or(|p| *p == protocol_name(e.key.proto()))
    };
    let mut entries =
        (0..table4.capacity()).filter_map(|index| table4.slot(index).read()).filter(wanted);
    let values: Vec<Value> = entries
        .by_ref()
        .take(filter.limit)
        .map(|e| {
            let back = table4.slot(e.peer).read();
            let end =
                |a: [u8; 4], p: [u8; 2]| format!("{}:{}", Ipv4Addr::from(a), u16::from_be_bytes(p));
            let seen = back.map_or(e.last_seen, |b| {
                if (b.last_seen.wrapping_sub(e.last_seen) as i32) > 0 {
                    b.last_seen
                } else {
                    e.last_seen
                }
            });
            json!({
                "protocol": protocol_name(e.key.proto()),
                "inside": end(e.key.src(), e.key.sport()),
                "outside": end(e.rewrite.src, e.rewrite.sport),
                "destination": end(e.key.dst(), e.key.dport()),
                "uplink": state.uplink_name(e.uplink),
                "state": match e.state_owner.state() {
                    FlowState::Stateless => "-",
                    FlowState::Opening => "opening",
                    FlowState::Established => "established",
                    FlowState::Closing => "closing",
                },
                "idle_s": now_ms.wrapping_sub(seen) / 1000,
                "tx_packets": e.packets,
                "tx_bytes": e.bytes,
                "rx_packets": back.map_or(0, |b| b.packets),
                "rx_bytes": back.map_or(0, |b| b.bytes),
                "offered": e.flags & flag::OFFLOAD != 0,
            })
        })
        .collect();
    let all = values.len() + entries.count();
    if json {
        return Ok(output::json("flows", json!({ "shown": values, "of": all })));
    }
    let columns = [
        "protocol",
        "inside",
        "outside",
        "destination",
        "uplink",
        "state",
        "idle_s",
        "tx_bytes",
        "rx_bytes",
    ];
    let mut text = table(&values, &columns);
    if values.len() < all {
        text += &format!("{} of {all} flows; --limit shows more\n", values.len());
    }
    Ok(text)
}

/// `weir counters`.
pub fn counters(pins: &Pins, json: bool) -> Result<String> {
    let counters = Counters::open(pins, Access::Read)?;
    let of = |counter| counters.sum(counter);
    let sum = |wanted: &dyn Fn(Counter) -> bool| -> u64 {
        Counter::ALL.iter().filter(|c| wanted(**c)).map(|c| of(*c)).sum()
    };
    let kernel_out = sum(&Counter::is_pass)
        + of(Counter::XdpToUser)
        + of(Counter::XdpForwarded)
        + sum(&Counter::is_xdp_drop);
    let user_drops = sum(&|c| c.is_drop() && !c.is_xdp_drop());
    let user_in = of(Counter::UserRx) + of(Counter::UserHandoffIn) + of(Counter::UserOriginated);
    let user_out = of(Counter::UserTx) + of(Counter::UserHandoffOut) + user_drops;
    let nonzero: Vec<_> = counters.all().into_iter().filter(|(_, n)| *n != 0).collect();
    if json {
        let all: serde_json::Map<_, _> =
            counters.all().into_iter().map(|(c, n)| (c.label().to_owned(), n.into())).collect();
        let value = json!({
            "packets": all,
            "kernel_tier": { "in": of(Counter::XdpRx), "out": kernel_out },
            "user_tier": { "in": user_in, "out": user_out },
        });
        return Ok(output::json("counters", value));
    }
    let values: Vec<Value> =
        nonzero.iter().map(|(c, n)| json!({ "counter": c.label(), "packets": n })).collect();
    let mut text = table(&values, &["counter", "packets"]);
    let line = |what: &str, entered: u64, left: u64| {
        format!("{what}: {entered} in, {left} out, difference {}\n", entered as i128 - left as i128)
    };
    text += &line("kernel tier", of(Counter::XdpRx), kernel_out);
    text += &line("user tier", user_in, user_out);
    Ok(text)
}

/// A table of the given keys of each value: no borders, numbers to the right.
pub(super) fn table(values: &[Value], columns: &[&str]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(columns.iter().map(|c| c.replace('_', " ").to_uppercase()));
    for value in values {
        table.add_row(columns.iter().map(|column| match &value[*column] {
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Value::Number(number) if *column == "share" => format!("{number} %"),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        }));
    }
    for (index, column) in columns.iter().enumerate() {
        let is_numeric = |value: &Value| value[*column].is_number() || value[*column].is_null();
        let numeric = values.iter().all(is_numeric) && !values.is_empty();
        if let Some(column) = table.column_mut(index).filter(|_| numeric) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
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

    #[test]
    fn a_table_has_a_row_per_value_and_no_borders() {
        let values = [json!({ "name": "fiber", "share": 50.1, "up": true, "why": "" })];
        let text = table(&values, &["name", "share", "up", "why"]);
        let lines: Vec<_> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(
            lines,
            [vec!["NAME", "SHARE", "UP", "WHY"], vec!["fiber", "50.1", "%", "yes", "-"]]
        );
    }

    #[test]
    fn nothing_pinned_is_an_error_that_says_what_to_start() {
        let error = rules(&Pins::existing("/sys/fs/bpf/weir-not-there"), false).unwrap_err();
        assert!(error.to_string().contains("start weir-control"), "{error}");
    }
}
