//! The user tier in memory: what a packet of an established flow costs without a kernel.
//!
//! Frames are written, taken through the engine in batches, and recycled. Writing alone is measured
//! in the same rounds and subtracted, so the figure is the engine's own. Flows are visited in random
//! order: every packet's entry is as cold as the table is large.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use weir_control::publish::{self, Overrides};
use weir_control::site;
use weir_control::watch::{Kernel, Link, NeighbourEntry};
use weir_dataplane::engine::{BATCH, Engine, Regions};
use weir_dataplane::packet::{Buffer, HeapFrame, Output, Received};
use weir_shm::control::ControlWriter;
use weir_wire::checksum;
use weir_wire::layout::counters::Counter;

const ROUNDS: usize = 5;
const PACKETS: usize = 1 << 20;
const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SITE: &str = "[gateway]\nnat_ports = \"1024-65535\"\n[timeouts]\nudp = 100000\n\
    [[lan]]\ninterface = \"lan0\"\nprefixes = [\"10.0.0.0/8\"]\n\
    [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nnext_hop = \"100.64.0.1\"\ntranslate = \"none\"\n";

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Flows in the table, visited in random order.
    pub flows: usize,
    /// Median over the rounds, nanoseconds per packet, frame writing subtracted.
    pub ns: f64,
    /// Fastest and slowest round.
    pub range_ns: [f64; 2],
    /// Writing a frame, nanoseconds.
    pub writing_ns: f64,
}

/// Collects what is transmitted, to be used again.
struct Pool {
    free: Vec<HeapFrame>,
}

impl Output<HeapFrame> for Pool {
    fn transmit(&mut self, _: u8, frame: HeapFrame) -> Result<(), HeapFrame> {
        self.free.push(frame);
        Ok(())
    }

    fn allocate(&mut self) -> Option<HeapFrame> {
        None
    }

    fn hand_over(&mut self, _: u8, _: u8, _: &[u8]) -> bool {
        false
    }
}

/// Measures at each number of flows.
///
/// # Errors
/// When memory for a table cannot be had, or a packet is not forwarded.
pub fn run(flows: &[usize]) -> Result<Vec<Line>> {
    flows.iter().map(|flows| measure(*flows)).collect()
}

fn measure(flows: usize) -> Result<Line> {
    let regions = Regions::anonymous(u32::try_from(flows * 4)?, [0x1234_5678, 0x9abc_def0])?;
    publish(&regions)?;
    let mut engine = Engine::new(0, 1, &regions, [1, 2]);
    let mut pool = Pool { free: (0..BATCH).map(|_| HeapFrame::new(&[0; 60])).collect() };
    let template = template();
    let mut batch = Vec::with_capacity(BATCH);
    let ordered: Vec<u32> = (0..u32::try_from(flows)?).collect();
    for chunk in ordered.chunks(BATCH) {
        fill(&mut batch, &mut pool, &template, chunk.iter().copied());
        engine.process(&mut batch, 1, &mut pool);
    }
    let made = regions.counters.sum(Counter::FlowsCreated);
    anyhow::ensure!(made == flows as u64, "{made} of {flows} flows were made");
    let order = shuffled(flows);
    let (mut costs, mut writing) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for chunk in order.chunks(BATCH) {
            fill(&mut batch, &mut pool, &template, chunk.iter().copied());
            pool.free.extend(batch.drain(..).map(|received| received.frame));
        }
        let written = started.elapsed().as_nanos() as f64 / order.len() as f64;
        let sent = regions.counters.sum(Counter::UserTx);
        let started = Instant::now();
        for chunk in order.chunks(BATCH) {
            fill(&mut batch, &mut pool, &template, chunk.iter().copied());
            engine.process(&mut batch, 2, &mut pool);
        }
        let both = started.elapsed().as_nanos() as f64 / order.len() as f64;
        let sent = regions.counters.sum(Counter::UserTx) - sent;
        anyhow::ensure!(sent == order.len() as u64, "{sent} of {} packets were sent", order.len());
        costs.push(both - written);
        writing.push(written);
    }
    costs.sort_by(f64::total_cmp);
    writing.sort_by(f64::total_cmp);
    let middle = ROUNDS / 2;
    let range_ns = [costs[0], costs[ROUNDS - 1]];
    Ok(Line { flows, ns: costs[middle], range_ns, writing_ns: writing[middle] })
}

fn publish(regions: &Regions) -> Result<()> {
    let site = site::parse("built in", SITE).map_err(|p| anyhow::anyhow!("{}", p[0]))?;
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mac: LAN_MAC,
        mtu: 1500,
        running: true,
        ..Link::default()
    };
    let next_hop = site.uplinks[0].next_hop.context("the uplink has a next hop")?;
    let kernel = Kernel {
        links: vec![link(1, "lan0"), link(2, "wan0")],
        neighbours: [((2, next_hop), NeighbourEntry { mac: [2; 6], fresh: true })].into(),
        ..Kernel::default()
    };
    let mut published = publish::derive(&site, &kernel, &Overrides::default(), &[]);
    let mut writer = ControlWriter::new(regions.control.clone());
    for (uplink, state) in (0u8..).zip(&published.states) {
        writer.set_uplink_state(uplink, *state);
    }
    let mut tables = publish::Tables::default();
    tables.update(&mut published.half, &published.states, site.policies.len());
    writer.publish(&mut published.half, &tables.live());
    Ok(())
}

/// A 60-byte UDP frame without a UDP checksum; source address and port are filled in per packet.
fn template() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&LAN_MAC);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..18].copy_from_slice(&[0x45, 0, 0, 46]);
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[30..34].copy_from_slice(&[198, 51, 100, 1]);
    frame[36..40].copy_from_slice(&[0, 53, 0, 26]);
    frame
}

fn fill(
    batch: &mut Vec<Received<HeapFrame>>,
    pool: &mut Pool,
    template: &[u8; 60],
    flows: impl Iterator<Item = u32>,
) {
    for flow in flows {
        let Some(mut frame) = pool.free.pop() else { return };
        let mut bytes = *template;
        let [a, b, c, d] = flow.to_be_bytes();
        // Inside hosts of 64 ports each; the checksum covers the header as it will be.
        bytes[26..30].copy_from_slice(&[10, a << 2 | b >> 6, b << 2 | c >> 6, c << 2 | d >> 6]);
        bytes[34..36].copy_from_slice(&(1024 + (flow as u16 & 63)).to_be_bytes());
        let sum = checksum::finish(checksum::sum(&bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum);
        frame.set_data(&bytes);
        batch.push(Received { frame, device: 0 });
    }
}

/// [`PACKETS`] flow numbers in random order, the same in every run.
fn shuffled(flows: usize) -> Vec<u32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % flows as u64) as u32
    };
    (0..PACKETS).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_the_measurement_is_forwarded() {
        let lines = run(&[100]).unwrap();
        assert_eq!((lines.len(), lines[0].flows), (1, 100));
    }
}
