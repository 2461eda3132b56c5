//! Memory per flow, at the greatest fill that the user tier accepts.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_dataplane::engine::BATCH;
use weir_layout::counters::Counter;
use weir_layout::flow::{PAGE, slots_for};
use weir_wire::tcp::flag;

use crate::ip_version::IpVersion;
use crate::memory::driver::{Direction, Driver};
use crate::memory::gateway::{Gateway, Translation};
use crate::memory::meter::Unmeasured;
use crate::memory::options::Options;
use crate::memory::traffic::{Protocol, Template};
use crate::memory::{heap, ring};
use crate::section::{Section, figure, rows};

const FLOWS: [usize; 2] = [64_512, 1_032_192];

/// One table, filled until the first refusal, and then to what it is made for.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What the uplinks do with addresses.
    pub translation: Translation,
    /// Protocol of the flows.
    pub protocol: Protocol,
    /// Flows that the table is made for.
    pub made_for: usize,
    /// Flows that were accepted until one was refused.
    pub accepted: u64,
    /// Share of the slots in use then.
    pub fill: f64,
    /// Mappings of the endpoints then.
    pub mappings: usize,
    /// All of the following: per flow that was accepted until then.
    pub bytes_per_flow: f64,
    /// Slots of the table.
    pub table_bytes_per_flow: f64,
    /// The table's index.
    pub tag_bytes_per_flow: f64,
    /// The same when it holds what it is made for, but for the refused.
    pub bytes_per_flow_when_full: f64,
    /// What the engine took from the heap for its mappings: their index at its start, the rest while
    /// the flows were made.
    pub mapping_bytes_per_flow: f64,
    /// Flows that were refused until the table held, or had refused, what it is made for.
    pub refused: u64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had, or a flow is refused for another reason than a full table.
pub fn run(options: &Options, version: IpVersion) -> Result<Section> {
    let mut lines = Vec::new();
    for translation in translations(version) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for flows in options.flows_or(&FLOWS) {
                lines.push(measure(*translation, protocol, flows)?);
            }
        }
    }
    Ok(section(&lines))
}

/// Those whose flows take unlike memory: with ports there are mappings.
fn translations(version: IpVersion) -> &'static [Translation] {
    match version {
        IpVersion::V4 => &[Translation::Nat44],
        IpVersion::V6 => &[Translation::Routed6, Translation::Npt66, Translation::Nat66],
    }
}

fn measure(translation: Translation, protocol: Protocol, made_for: usize) -> Result<Line> {
    let umem = ring::umem(false)?;
    // What grows with the table: the engine's index of mappings. A gateway of one page has the rest.
    let (_, least) = heap::during(|| Gateway::new(translation, PAGE));
    let slots = slots_for(u32::try_from(made_for)?);
    let (gateway, begun) = heap::during(|| Gateway::new(translation, slots));
    let gateway = gateway?;
    let mut driver = Driver::new(gateway, &umem, protocol, 0);
    let open = Template::new(translation.family(), protocol, 64, flag::SYN);
    let refused = |driver: &Driver<'_>| driver.gateway.count(Counter::DropTableFull);
    let mut packets = Vec::with_capacity(BATCH);
    let mut sent = 0;
    let mut send = |driver: &mut Driver<'_>| {
        let next = sent..(sent + BATCH).min(made_for);
        sent = next.end;
        driver.packets(&open, Direction::Out, next, &mut packets)?;
        driver.send(&open, &packets, &mut Unmeasured);
        Ok::<bool, anyhow::Error>(sent < made_for)
    };
    let (more, heap) = heap::during(|| {
        loop {
            let more = send(&mut driver)?;
            if !more || refused(&driver) > 0 {
                return Ok::<bool, anyhow::Error>(more);
            }
        }
    });
    let more = more?;
    let accepted = driver.gateway.count(Counter::FlowsCreated);
    let mappings = driver.gateway.engine.mappings();
    let (rest, further) = heap::during(|| {
        let mut more = more;
        while more {
            more = send(&mut driver)?;
        }
        Ok::<(), anyhow::Error>(())
    });
    rest?;
    let (gateway, refused) = (&driver.gateway, refused(&driver));
    let all = gateway.count(Counter::FlowsCreated) + refused;
    ensure!(all == made_for as u64, "flows were refused, and not because the table is full");
    let per_flow = |bytes: f64| bytes / accepted as f64;
    let made = (made_for as u64 - refused) as f64;
    let table = per_flow(gateway.table_bytes() as f64);
    let tags = per_flow(gateway.tag_bytes() as f64);
    let heap = heap.bytes + begun.bytes - least.bytes;
    let held = per_flow(heap as f64);
    let full = gateway.table_bytes() + gateway.tag_bytes();
    Ok(Line {
        translation,
        protocol,
        made_for,
        accepted,
        fill: 2.0 * accepted as f64 / f64::from(gateway.capacity()),
        mappings,
        bytes_per_flow: table + tags + held,
        bytes_per_flow_when_full: (full as f64 + (heap + further.bytes) as f64) / made,
        table_bytes_per_flow: table,
        tag_bytes_per_flow: tags,
        mapping_bytes_per_flow: held,
        refused,
    })
}

fn section(lines: &[Line]) -> Section {
    let table = rows(
        2,
        lines,
        &[
            ("", |line| line.translation.label().into()),
            ("", |line| line.protocol.label().into()),
            ("made for", |line| line.made_for.to_string()),
            ("until a refusal", |line| line.accepted.to_string()),
            ("fill %", |line| figure(100.0 * line.fill)),
            ("mappings", |line| line.mappings.to_string()),
            ("bytes/flow", |line| figure(line.bytes_per_flow)),
            ("of it slots", |line| figure(line.table_bytes_per_flow)),
            ("tags", |line| figure(line.tag_bytes_per_flow)),
            ("mappings", |line| figure(line.mapping_bytes_per_flow)),
            ("refused at last", |line| line.refused.to_string()),
            ("bytes/flow then", |line| figure(line.bytes_per_flow_when_full)),
        ],
    );
    Section {
        name: "footprint",
        title: "Memory per flow".into(),
        notes: vec![
            "A table as `flow_table` makes it is filled until it refuses a flow for the first \
             time, and then on to as many flows as it is made for. Both directions of a flow have \
             a slot of 64 bytes (128 of IPv6) and a tag of one. A UDP endpoint's mapping has 16 bytes and a place \
             in two indices, which an engine has from the start, whatever the protocol."
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
        let line = measure(Translation::Nat44, Protocol::Tcp, 4096).unwrap();
        assert!(line.fill <= 1.0 && line.fill > 0.7, "{line:?}");
        let slots_per_flow = 2.0 / line.fill;
        assert!((line.table_bytes_per_flow - 64.0 * slots_per_flow).abs() < 1e-6);
        assert!((line.tag_bytes_per_flow - slots_per_flow).abs() < 1e-6);
        assert_eq!(line.mappings, 0);
    }

    #[test]
    fn a_flow_of_ipv6_takes_two_slots_of_its_own_size_and_a_mapping_where_it_has_a_port() {
        for translation in translations(IpVersion::V6) {
            let line = measure(*translation, Protocol::Udp, 4096).unwrap();
            let slots_per_flow = 2.0 / line.fill;
            assert!((line.table_bytes_per_flow - 128.0 * slots_per_flow).abs() < 1e-6, "{line:?}");
            let mappings = if translation.has_ports() { line.accepted } else { 0 };
            assert_eq!(line.mappings as u64, mappings, "{line:?}");
        }
    }

    #[test]
    fn every_flow_of_a_full_table_is_accepted_or_refused() {
        let line = measure(Translation::Nat44, Protocol::Udp, 2048).unwrap();
        assert!(line.refused < 20 && line.accepted <= 2048, "{line:?}");
        assert_eq!(line.mappings as u64, line.accepted);
    }
}
