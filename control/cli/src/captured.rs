//! `weir explain --pcap`: what becomes of each flow of a capture.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use weir_api::time;
use weir_explain::capture::Captured;
use weir_explain::explanation::{Explanation, Fate};
use weir_explain::question::protocol_name;
use weir_explain::{Capture, Question, Replica};
use weir_layout::protocol::is_portless;
use weir_shm::Pins;

use super::output;
use super::table::table;

/// A flow of a capture, and what becomes of it.
type Explained<'a> = (&'a Captured, Result<Explanation>);

/// Explains the first flows of a file, so many at most, on one copy of the gateway: each finds
/// there what those before it began.
pub fn explain(pins: &Pins, file: &Path, limit: usize, json: bool) -> Result<String> {
    let name = file.display();
    let source = File::open(file).with_context(|| format!("cannot read {name}"))?;
    let capture = Capture::read(source, limit).with_context(|| name.to_string())?;
    let mut replica = Replica::pinned(pins, time::monotonic_ms() as u32)?;
    let flows = capture.flows.iter().map(|flow| (flow, ask(&mut replica, &flow.question)));
    let flows: Vec<Explained<'_>> = flows.collect();
    if json {
        let value = json!({
            "flows": flows.iter().map(as_json).collect::<Result<Vec<_>>>()?,
            "left_out": capture.left_out,
            "cut": capture.is_cut,
        });
        return Ok(output::json("explain", value));
    }
    Ok(told(&capture, &flows))
}

/// What becomes of a flow. Where nobody knows by which port its first packet comes in, its other
/// end is who asks: the capture began in its midst.
fn ask(replica: &mut Replica, question: &Question) -> Result<Explanation> {
    let explained = replica.explain(question);
    explained.or_else(|error| replica.explain(&question.clone().reversed()).map_err(|_| error))
}

fn as_json((flow, explained): &Explained<'_>) -> Result<Value> {
    Ok(match explained {
        Ok(explanation) => json!({
            "packets": flow.packets,
            "explanation": serde_json::to_value(explanation)?,
        }),
        Err(error) => json!({ "packets": flow.packets, "unknown": unknown(flow, error) }),
    })
}

/// One that is not explained, and why.
fn unknown(flow: &Captured, error: &anyhow::Error) -> Value {
    let Question { protocol, source, destination, ports: [from, to], .. } = flow.question;
    let end = |address, port| SocketAddr::new(address, port).to_string();
    let [source, destination] = match is_portless(protocol) {
        true => [source, destination].map(|address| address.to_string()),
        false => [end(source, from), end(destination, to)],
    };
    json!({
        "protocol": protocol_name(protocol),
        "source": source,
        "destination": destination,
        "goes": "unknown",
        "why": format!("{error:#}"),
    })
}

/// For people: a line for each, then how many go where.
fn told(capture: &Capture, flows: &[Explained<'_>]) -> String {
    let lines: Vec<Value> = flows.iter().map(line).collect();
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for goes in lines.iter().filter_map(|line| line["goes"].as_str()) {
        *sums.entry(goes).or_default() += 1;
    }
    let columns =
        ["protocol", "source", "destination", "packets", "goes", "as", "policy", "rule", "why"];
    let mut text = table(&lines, &columns);
    for (goes, flows) in sums {
        text += &format!("{goes}: {flows} flows\n");
    }
    for (why, packets) in &capture.left_out {
        text += &format!("left out: {packets} packets {why}\n");
    }
    if capture.is_cut {
        text += "note: the file ends in the midst of a packet\n";
    }
    text
}

fn line((flow, explained): &Explained<'_>) -> Value {
    let mut line = match explained {
        Ok(explanation) => known(explanation),
        Err(error) => unknown(flow, error),
    };
    line["packets"] = flow.packets.into();
    line
}

fn known(explanation: &Explanation) -> Value {
    let (goes, source) = match &explanation.fate {
        Fate::Forwarded { uplink, interface, source, .. } => {
            (uplink.as_ref().unwrap_or(interface).as_str(), source.as_str())
        }
        Fate::Kernel => ("kernel", ""),
        Fate::Dropped { .. } => ("dropped", ""),
    };
    let taken = explanation.uplinks.iter().find(|uplink| uplink.takes);
    json!({
        "protocol": explanation.packet.protocol,
        "source": explanation.packet.source,
        "destination": explanation.packet.destination,
        "goes": goes,
        "as": source,
        "policy": explanation.policy.as_ref().map(|policy| &policy.name),
        "rule": explanation.rule,
        "why": taken.map_or_else(|| explanation.because.to_owned(), |taken| taken.why.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_capture_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::existing(directory.path());
        let file = directory.path().join("weir.toml");
        let refused = |file: &Path| format!("{:#}", explain(&pins, file, 9, false).unwrap_err());
        assert!(refused(&file).contains("weir.toml: No such file"), "{}", refused(&file));
        std::fs::write(&file, "[gateway]\n").unwrap();
        assert!(refused(&file).contains("weir.toml: it is no capture"), "{}", refused(&file));
    }

    #[test]
    fn what_is_not_explained_is_told_with_its_reason_beside_the_others() {
        let flow = |text| Question::read("udp", text, "1.1.1.1:53").unwrap();
        let mut capture = Capture::default();
        capture.flows.push(Captured { question: flow("192.0.2.9:7"), packets: 3 });
        capture.left_out.insert("not of IP", 4);
        capture.is_cut = true;
        let flows: Vec<_> = capture
            .flows
            .iter()
            .map(|flow| (flow, Err(anyhow::anyhow!("behind no LAN"))))
            .collect();
        let text = told(&capture, &flows);
        for said in [
            "192.0.2.9:7",
            "1.1.1.1:53",
            "behind no LAN",
            "unknown: 1 flows",
            "left out: 4 packets not of IP",
            "ends in the midst",
        ] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert_eq!(as_json(&flows[0]).unwrap()["unknown"]["source"], "192.0.2.9:7");
    }
}
