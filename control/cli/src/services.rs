//! `weir publish`.

use anyhow::Result;
use serde_json::{Value, json};
use weir_api::{MappedView, Query, Response, time};
use weir_layout::control::{ControlHalf, IpAddress, PathId, PortForward, path_state};
use weir_layout::prefix_sets::MAX_SETS;
use weir_layout::set::IndexSet;
use weir_layout::{Family, protocol};
use weir_shm::flows::{FlowTable, Stored};
use weir_shm::published::Published;
use weir_shm::{Error, Pins};
use weir_wire::entry::Entry;
use weir_wire::family::{V4, V6};

use super::Arguments;
use super::criteria::{prefix_name, protocol_name, set_name};
use super::flows::{began_outside, stays_inside};
use super::output;
use super::state::{address, published, uplink_name};
use super::table::table;

/// `weir publish`.
pub fn publish(pins: &Pins, arguments: &Arguments) -> Result<String> {
    let json = arguments.json;
    let state = published(pins)?;
    let half = &state.snapshot.half;
    let mut flows = vec![0; half.port_forwards().len()];
    count::<V4>(half, &FlowTable::read_only(pins)?, &mut flows);
    match FlowTable::read_only(pins) {
        Ok(table) => count::<V6>(half, &table, &mut flows),
        // The dataplane makes it when it first starts.
        Err(Error::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let services = half.port_forwards().iter().zip(flows).enumerate();
    let values = services.map(|(number, (forward, flows))| value(&state, number, forward, flows));
    let mut values: Vec<Value> = values.collect();
    let mapped = mapped(arguments);
    for value in &mut values {
        let mapping = mapped.iter().find(|mapping| value["name"] == *mapping.name);
        value["left_s"] = mapping.map(|mapping| mapping.left_s).into();
    }
    if json {
        return Ok(output::json("publish", values.into()));
    }
    let values: Vec<Value> = values.iter().map(line).collect();
    let mut columns =
        vec!["name", "protocol", "ports", "to", "open", "closed", "from", "new_flows", "flows"];
    if !mapped.is_empty() {
        columns.push("left");
    }
    Ok(table(&values, &columns))
}

/// The ports that hosts have asked for, if the control process answers.
fn mapped(arguments: &Arguments) -> Vec<MappedView> {
    match weir_api::ask(&arguments.socket, &Query::Mapped) {
        Ok(Response::Mapped { mappings }) => mappings,
        _ => Vec::new(),
    }
}

fn value(state: &Published, number: usize, forward: &PortForward, flows: usize) -> Value {
    let half = &state.snapshot.half;
    let family = if forward.family == 0 { Family::V4 } else { Family::V6 };
    let named = (0u8..).zip(&half.uplinks).take_while(|(_, uplink)| uplink.name.0[0] != 0);
    let paths = named.map(|(index, _)| PathId::new(index, family));
    let asked =
        paths.filter(|path| forward.uplinks().contains(path.uplink) && state.has_path(*path));
    let takes_new = |path: &PathId| {
        let word = state.region.path_state(*path);
        word & (path_state::USABLE | path_state::DRAINING) == path_state::USABLE
    };
    let (open, closed): (Vec<_>, Vec<_>) = asked.partition(takes_new);
    let names = |paths: Vec<PathId>| {
        paths.into_iter().map(|path| uplink_name(state, path.uplink)).collect::<Vec<_>>()
    };
    let [first, last] = forward.ports;
    let span = |first: u16, last: u16| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let has_ports = !protocol::is_portless(forward.protocol);
    let to = match (forward.is_to_gateway(), family) {
        (true, _) => "gateway".to_owned(),
        (false, family) if !has_ports => address(family, forward.inside).to_string(),
        (false, family) => {
            let host = address(family, forward.inside);
            let ports = span(forward.port_inside(first), forward.port_inside(last));
            if family == Family::V4 {
                format!("{host}:{ports}")
            } else {
                format!("[{host}]:{ports}")
            }
        }
    };
    let prefixes = half.allowed(forward).unwrap_or(&[]).iter().map(prefix_name);
    let sets = |bits, negated| {
        let held = IndexSet::from_bits(bits);
        let numbers = (0..MAX_SETS as u8).filter(move |number| held.contains(*number));
        numbers.map(move |number| set_name(&half.sets, number, negated))
    };
    let sets = sets(forward.allowed_sets, false).chain(sets(forward.barred_sets, true));
    let from: Vec<_> = prefixes.chain(sets).collect();
    // What the gateway's own are asked for, the kernel knows.
    let counted = !forward.is_to_gateway();
    json!({
        "name": forward.name.as_str(),
        "family": family.name(),
        "protocol": protocol_name(forward.protocol),
        "ports": has_ports.then(|| span(first, last)),
        "to": to,
        "open": names(open),
        "closed": names(closed),
        "from": from,
        "new_flows": counted.then(|| state.counters.forwarded(number)),
        "flows": counted.then_some(flows),
    })
}

/// The same with its lists as words.
fn line(value: &Value) -> Value {
    let mut line = value.clone();
    for list in ["open", "closed", "from"] {
        let names = value[list].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<_> = names.collect();
        line[list] = if names.is_empty() { "-".into() } else { names.join(", ").into() };
    }
    let left = value["left_s"].as_u64();
    line["left"] = left.map_or("-".into(), |left| time::duration(left).into());
    line
}

/// Counts the flows of each service.
fn count<F: Stored>(half: &ControlHalf, table: &FlowTable<F>, flows: &mut [usize]) {
    let entries = (0..table.capacity()).filter_map(|index| table.slot(index).read());
    for entry in entries.filter(|entry| began_outside(entry.flags) || stays_inside(entry)) {
        if let Some(number) = service_of(half, &entry) {
            flows[number] += 1;
        }
    }
}

/// The service that a flow asks for, given the entry that began it; `None`: none that is still
/// published.
fn service_of<F: Stored>(half: &ControlHalf, entry: &Entry<F>) -> Option<usize> {
    let port = u16::from_be_bytes(entry.key.dport());
    let led_to = (entry.rewrite.dst.to_address(), u16::from_be_bytes(entry.rewrite.dport));
    let uplink = match stays_inside(entry) {
        true => half.uplink_at(F::FAMILY, entry.key.dst().to_address())?,
        false => entry.uplink,
    };
    half.services(F::path(uplink), entry.key.proto(), port)
        .find(|(_, forward)| (forward.inside, forward.port_inside(port)) == led_to)
        .map(|(number, _)| number)
}
