//! What a packet of an established flow costs in the user tier, without a kernel.
//!
//! Packets are prepared, written into frames, and taken through the engine in batches of
//! [`BATCH`](weir_dataplane::engine::BATCH); the time is that of [`Engine::process`] alone, without
//! preparing, writing, and reading the clock.
//!
//! [`Engine::process`]: weir_dataplane::engine::Engine::process

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::random::Random;
use weir_layout::Family;
use weir_layout::counters::Counter;
use weir_xsk::Umem;

use crate::ip_version::IpVersion;
use crate::machine;
use crate::memory::driver::{Direction, Driver};
use crate::memory::gateway::{Gateway, Translation};
use crate::memory::meter::{Instructions, Stopwatch, Unmeasured};
use crate::memory::options::{Options, Pages, bytes_on_huge_pages};
use crate::memory::traffic::{Packet, Protocol, Template};
use crate::memory::{heap, ring};
use crate::plot::{Data, Plot};
use crate::section::{Section, figure, median, range, table};

const FLOWS: [usize; 4] = [1024, 64_512, 1_032_192, 4_128_768];
const ROUNDS: usize = 5;
/// Packets of a round. A table with more flows is visited further in the next round, so that no
/// round finds what the last one left in the cache.
const PACKETS: usize = 1 << 19;
const TTL: u8 = 64;

/// How the flows are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// In the order they were made.
    Sequential,
    /// In an order of chance, each as often.
    Random,
}

/// What is measured together: one table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Case {
    /// Routed or translated.
    pub translation: Translation,
    /// Pages behind table and frames.
    pub pages: Pages,
    /// Flows in the table, which is made for a quarter more.
    pub flows: usize,
}

/// The cost of one kind of packet.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The table.
    #[serde(flatten)]
    pub case: Case,
    /// Which way.
    pub direction: Direction,
    /// In which order.
    pub order: Order,
    /// Nanoseconds per packet in the engine: median of the rounds.
    pub ns: f64,
    /// Fastest and slowest round.
    pub range_ns: [f64; 2],
    /// Clocks of the time-stamp counter per packet; none where its frequency is unknown.
    pub clocks: Option<f64>,
    /// Of [`Self::ns`], recognising the packet.
    pub recognise_ns: f64,
    /// Of [`Self::ns`], recognising the packet and finding its flow.
    pub find_ns: f64,
    /// Instructions per packet in the engine; none where the processor does not count.
    pub instructions: Option<f64>,
    /// Allocations of memory per packet, in the whole process.
    pub allocations: f64,
    /// Packets of each round.
    pub packets: usize,
    /// Packets that the engine forwarded in each round.
    pub forwarded: u64,
    /// Frames on reserved huge pages?
    pub frames_on_huge_pages: bool,
    /// Bytes of all tables measured together that are on transparent huge pages.
    pub bytes_on_huge_pages: u64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had, or a packet does not take its way.
pub fn run(options: &Options, version: IpVersion) -> Result<Section> {
    let cpu = machine::pin(options.cpu)?;
    let rounds = options.rounds_or(ROUNDS);
    let mut lines = Vec::new();
    for pages in options.pages_or_both() {
        let mut cases = Vec::new();
        for translation in Translation::of(version.family()).iter().copied() {
            let flows = options.flows_or(&FLOWS);
            cases.extend(flows.into_iter().map(|flows| Case { translation, pages, flows }));
        }
        lines.extend(pages.during(|| measure(&cases, rounds, PACKETS))?);
    }
    lines.sort_by_key(|line| line.case.translation);
    let uncounted = Instructions::new().err().map(|error| format!("{error:#}"));
    Ok(section(&lines, version, cpu, rounds, uncounted))
}

/// One kind of packet, while it is measured.
struct Variant {
    direction: Direction,
    order: Order,
    /// The costs of each round, by [`Stage`].
    costs: [Vec<f64>; 3],
    /// Packets of the last round that got where they should.
    ended: u64,
}

/// One table, while it is measured.
struct Table<'u> {
    case: Case,
    umem: &'u Umem,
    driver: Driver<'u>,
    /// The flows in an order of chance.
    shuffled: Vec<u32>,
    variants: Vec<Variant>,
}

/// Measures tables whose pages are of one kind: both directions in both orders, in `rounds` of so
/// many packets each. Every round takes each table in turn.
///
/// # Errors
/// When memory cannot be had, or a packet does not take its way.
pub fn measure(cases: &[Case], rounds: usize, packets: usize) -> Result<Vec<Line>> {
    let umems: Vec<Umem> =
        cases.iter().map(|case| ring::umem(case.pages == Pages::Huge)).collect::<Result<_>>()?;
    let mut tables: Vec<Table<'_>> = cases
        .iter()
        .zip(&umems)
        .map(|(case, umem)| Table::new(*case, umem))
        .collect::<Result<_>>()?;
    let mut prepared = Vec::with_capacity(packets);
    // The first round warms up.
    for round in 0..=rounds {
        for table in &mut tables {
            table.round(round, packets, &mut prepared)?;
        }
    }
    let bytes_on_huge_pages = bytes_on_huge_pages();
    let mut lines = Vec::new();
    for table in &mut tables {
        lines.extend(table.lines(rounds + 1, packets, &mut prepared, bytes_on_huge_pages)?);
    }
    Ok(lines)
}

impl<'u> Table<'u> {
    fn new(case: Case, umem: &'u Umem) -> Result<Self> {
        let gateway = Gateway::for_flows(case.translation, case.flows)?;
        let mut driver = Driver::new(gateway, umem, Protocol::Udp, case.flows);
        driver.converse(case.flows)?;
        let variants = [Order::Sequential, Order::Random]
            .into_iter()
            .flat_map(|order| [Direction::Out, Direction::Back].map(|way| (way, order)))
            .map(|(direction, order)| Variant {
                direction,
                order,
                costs: Default::default(),
                ended: 0,
            })
            .collect();
        let shuffled = Random::new(1).permutation(case.flows);
        Ok(Self { case, umem, driver, shuffled, variants })
    }

    /// Prepares a round of packets: those that follow the last round's.
    fn prepare(
        &self,
        template: &Template,
        (direction, order): (Direction, Order),
        round: usize,
        packets: usize,
        prepared: &mut Vec<Packet>,
    ) -> Result<()> {
        let flows = (round * packets..(round + 1) * packets).map(|at| {
            let at = at % self.case.flows;
            if order == Order::Random { self.shuffled[at] as usize } else { at }
        });
        self.driver.packets(template, direction, flows, prepared)
    }

    fn round(&mut self, round: usize, packets: usize, prepared: &mut Vec<Packet>) -> Result<()> {
        let mut watch = Stopwatch::new();
        for number in 0..self.variants.len() {
            let Variant { direction, order, .. } = self.variants[number];
            let template = self.driver.template(TTL);
            for stage in [Stage::Recognise, Stage::Find, Stage::Whole] {
                // Each stage has packets of its own, so that none finds in the cache what another
                // has looked at.
                let turn = 3 * round + stage as usize;
                self.prepare(&template, (direction, order), turn, packets, prepared)?;
                watch.reset();
                let passed = match stage {
                    Stage::Recognise => self.driver.look(&template, prepared, false, &mut watch),
                    Stage::Find => self.driver.look(&template, prepared, true, &mut watch),
                    Stage::Whole => {
                        let before = self.driver.gateway.count(Counter::UserTx);
                        self.driver.send(&template, prepared, &mut watch);
                        (self.driver.gateway.count(Counter::UserTx) - before) as usize
                    }
                };
                ensure!(passed == packets, "{passed} of {packets} packets passed {stage:?}");
                let variant = &mut self.variants[number];
                variant.ended = passed as u64;
                if round > 0 {
                    variant.costs[stage as usize].push(watch.ns() / packets as f64);
                }
            }
        }
        Ok(())
    }

    /// What was found, and what a last round counts.
    fn lines(
        &mut self,
        round: usize,
        packets: usize,
        prepared: &mut Vec<Packet>,
        bytes_on_huge_pages: u64,
    ) -> Result<Vec<Line>> {
        let template = self.driver.template(TTL);
        let mut lines = Vec::new();
        for number in 0..self.variants.len() {
            let Variant { direction, order, .. } = self.variants[number];
            self.prepare(&template, (direction, order), round, packets, prepared)?;
            let send = || self.driver.send(&template, prepared, &mut Unmeasured);
            let ((), heap) = heap::during(send);
            let instructions = match Instructions::new() {
                Ok(mut counter) => {
                    self.driver.send(&template, prepared, &mut counter);
                    Some(counter.count()? as f64 / packets as f64)
                }
                Err(_) => None,
            };
            let [recognise, find, costs] = &self.variants[number].costs;
            let ns = median(costs);
            lines.push(Line {
                case: self.case,
                direction,
                order,
                ns,
                range_ns: range(costs),
                clocks: machine::tsc_mhz().map(|mhz| ns * mhz / 1e3),
                recognise_ns: median(recognise),
                find_ns: median(find),
                instructions,
                allocations: heap.allocations as f64 / packets as f64,
                packets,
                forwarded: self.variants[number].ended,
                frames_on_huge_pages: self.umem.on_huge_pages(),
                bytes_on_huge_pages,
            });
        }
        Ok(lines)
    }
}

/// How far a packet gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Recognise = 0,
    Find = 1,
    Whole = 2,
}

fn section(
    lines: &[Line],
    version: IpVersion,
    cpu: usize,
    rounds: usize,
    uncounted: Option<String>,
) -> Section {
    let headings = [
        "",
        "pages",
        "flows",
        "out, seq. ns",
        "out, random ns",
        "back, seq. ns",
        "back, random ns",
        "random, clocks",
        "recognise ns",
        "find ns",
        "allocations",
    ];
    let mut table = table(2, &headings);
    // The four kinds of packet of one table are next to each other.
    for four in lines.chunks_exact(4) {
        let [out, back, random_out, random_back] = four else { continue };
        let optional = |value: Option<f64>| value.map_or("–".into(), figure);
        let clocks = random_out.clocks.zip(random_back.clocks).map(|(a, b)| (a + b) / 2.0);
        table.add_row([
            out.case.translation.label().into(),
            out.case.pages.label().into(),
            out.case.flows.to_string(),
            figure(out.ns),
            figure(random_out.ns),
            figure(back.ns),
            figure(random_back.ns),
            optional(clocks),
            figure((random_out.recognise_ns + random_back.recognise_ns) / 2.0),
            figure((random_out.find_ns + random_back.find_ns) / 2.0),
            four.iter().map(|line| line.allocations).sum::<f64>().to_string(),
        ]);
    }
    Section {
        name: "pipeline",
        title: "User tier: nanoseconds per packet of an established flow".into(),
        notes: notes(lines, cpu, rounds, uncounted.as_deref()),
        json: json!({
            "cpu": cpu, "rounds": rounds, "instructions_unavailable": uncounted, "lines": lines,
        }),
        table,
        plots: plots(lines, version.family()),
    }
}

fn notes(lines: &[Line], cpu: usize, rounds: usize, uncounted: Option<&str>) -> Vec<String> {
    let packets = lines.first().map_or(0, |line| line.packets);
    let instructions = match uncounted {
        Some(reason) => format!("Instructions are not counted: {reason}."),
        None => "Instructions per packet are in the JSON report.".into(),
    };
    let frames = match lines.iter().any(|line| line.frames_on_huge_pages) {
        true => "Frames of the lines with huge pages are on huge pages too.",
        false => "Frames are on 4 KiB pages: the kernel has no others.",
    };
    vec![
        format!(
            "One thread on CPU {cpu}; UDP frames with 18 bytes of data in {} frames of {} bytes, \
             batches of 64; medians of {rounds} rounds of {packets} packets after one to warm up; \
             all tables with pages of one kind take turns. The time is that of the engine alone, \
             from received frame to queued frame; writing the frames, just before, is not in it, so \
             headers are in the cache. Four uplinks with sixteen addresses each, hosts with 63 \
             ports each.",
            ring::FRAMES,
            ring::FRAME_SIZE,
        ),
        "“out” is LAN to uplink, “back” uplink to LAN. “Clocks” are those of the time-stamp \
         counter, mean of both directions in random order. “Recognise” and “find” are the parts \
         until the packet is recognised and until its flow is found; the rest is rewriting, \
         counting and queueing."
            .into(),
        format!("{instructions} {frames}"),
    ]
}

fn plots(lines: &[Line], family: Family) -> Vec<Plot> {
    let plot = |translation: Translation| {
        let mut curves: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for four in lines.chunks_exact(4) {
            let [out, back, random_out, random_back] = four else { continue };
            if out.case.translation != translation {
                continue;
            }
            for (a, b, order) in [(out, back, "sequential"), (random_out, random_back, "random")] {
                let name = format!("{order}, {} pages", out.case.pages.label());
                let point = (out.case.flows as f64, (a.ns + b.ns) / 2.0);
                match curves.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, points)) => points.push(point),
                    None => curves.push((name, vec![point])),
                }
            }
        }
        Plot {
            title: format!("User tier in memory, {}: mean of both directions", translation.label()),
            x: "flows".into(),
            y: "ns per packet".into(),
            data: Data::Curves(curves),
        }
    };
    Translation::of(family).iter().copied().map(plot).collect()
}
