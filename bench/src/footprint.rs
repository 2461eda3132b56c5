//! Memory per flow, at the greatest fill that the user tier accepts.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::slots_for;

use crate::memory::driver::Driver;
use crate::memory::gateway::{Gateway, Translation};
use crate::memory::meter::Unmeasured;
use crate::memory::options::Options;
use crate::memory::traffic::Protocol;
use crate::memory::{heap, ring};
use crate::section::{Section, figure, table};

const FLOWS: [usize; 2] = [64_512, 1_032_192];

/// One table, filled until the first refusal.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Protocol of the flows.
    pub protocol: Protocol,
    /// Flows that the table is made for.
    pub flows: usize,
    /// Flows that were accepted until one was refused.
    pub accepted: u64,
    /// Mappings of their endpoints.
    pub mappings: usize,
    /// Share of the slots in use then.
    pub fill: f64,
    /// All of the following.
    pub bytes_per_flow: f64,
    /// Slots of the table.
    pub table_bytes_per_flow: f64,
    /// The table's index.
    pub tag_bytes_per_flow: f64,
    /// What the engine took from the heap while the flows were made: its mappings.
    pub mapping_bytes_per_flow: f64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had, or a flow is refused for another reason than a full table.
pub fn run(options: &Options) -> Result<Section> {
    let mut lines = Vec::new();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for flows in options.flows_or(&FLOWS) {
            lines.push(measure(protocol, flows)?);
        }
    }
    Ok(section(&lines))
}

fn measure(protocol: Protocol, flows: usize) -> Result<Line> {
    let umem = ring::umem(false)?;
    let gateway = Gateway::new(Translation::Nat44, slots_for(u32::try_from(flows)?))?;
    let slots = gateway.regions.flows.capacity();
    let most = slots as usize / 2;
    let mut driver = Driver::new(gateway, &umem, protocol, most + 1);
    // One more than there are slots for is refused.
    let (made, heap) =
        heap::during(|| driver.establish(most + 1, &mut Unmeasured, &mut Unmeasured));
    made?;
    let gateway = &driver.gateway;
    let full = gateway.count(Counter::DropTableFull);
    ensure!(full > 0, "a flow was refused, but not because the table is full");
    let accepted = gateway.count(Counter::FlowsCreated);
    let per_flow = |bytes: f64| bytes / accepted as f64;
    let table = per_flow(gateway.table_bytes() as f64);
    let tags = per_flow(gateway.tag_bytes() as f64);
    let mappings = per_flow(heap.bytes as f64);
    Ok(Line {
        protocol,
        flows,
        accepted,
        mappings: gateway.engine.mappings(),
        fill: 2.0 * accepted as f64 / f64::from(slots),
        bytes_per_flow: table + tags + mappings,
        table_bytes_per_flow: table,
        tag_bytes_per_flow: tags,
        mapping_bytes_per_flow: mappings,
    })
}

fn section(lines: &[Line]) -> Section {
    let headings = [
        "",
        "made for",
        "accepted",
        "fill %",
        "mappings",
        "bytes/flow",
        "of it slots",
        "tags",
        "mappings",
    ];
    let mut table = table(1, &headings);
    for line in lines {
        table.add_row([
            line.protocol.label().into(),
            line.flows.to_string(),
            line.accepted.to_string(),
            figure(100.0 * line.fill),
            line.mappings.to_string(),
            figure(line.bytes_per_flow),
            figure(line.table_bytes_per_flow),
            figure(line.tag_bytes_per_flow),
            figure(line.mapping_bytes_per_flow),
        ]);
    }
    Section {
        name: "footprint",
        title: "Memory per NAT44 flow".into(),
        notes: vec![
            "A table as `flow_table` makes it is filled until it refuses a flow for the first \
             time. Both directions of a flow have a slot of 64 bytes and a tag of one. Mappings \
             are 12 bytes for every port of an address in use, here 64 addresses, and the index of \
             the UDP endpoints, less the index of 16 384 that an engine begins with; TCP has none."
                .into(),
        ],
        json: json!({ "lines": lines }),
        table,
        plots: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_two_slots_and_their_tags() {
        let line = measure(Protocol::Tcp, 4096).unwrap();
        assert!(line.accepted >= 3500, "{line:?}");
        assert!(line.fill <= 1.0 && line.fill > 0.7, "{line:?}");
        let slots_per_flow = 2.0 / line.fill;
        assert!((line.table_bytes_per_flow - 64.0 * slots_per_flow).abs() < 1e-6);
        assert!((line.tag_bytes_per_flow - slots_per_flow).abs() < 1e-6);
        assert_eq!(line.mappings, 0);
    }
}
