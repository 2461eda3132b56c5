//! What the end of flows costs the user tier, and taking them over from an earlier process.
//!
//! A worker looks for idle flows every [`TICK_MS`], at as much of the table as makes a pass in
//! [`EXPIRY_PASS_MS`]. A tick delays the packets that arrive meanwhile: so its length counts, with nothing
//! to end, and when all flows of a full table end in one pass.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_dataplane::engine::Engine;
use weir_dataplane::worker::{EXPIRY_PASS_MS, TICK_MS};

use crate::machine;
use crate::memory::case::Case;
use crate::memory::driver::{Driver, NOW};
use crate::memory::gateway::{Gateway, Translation};
use crate::memory::meter::{Meter, Stopwatch};
use crate::memory::options::{Options, Pages};
use crate::memory::ring::{self, Ring};
use crate::section::{Section, figure, median, rows};

const TICKS: u32 = EXPIRY_PASS_MS / TICK_MS;
const FLOWS: [usize; 2] = [64_512, 1_032_192];
const ROUNDS: usize = 3;
/// Twelve days: longer than any timeout.
const LATER: u32 = NOW + (1 << 30);

/// The costs, medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The flows.
    #[serde(flatten)]
    pub case: Case,
    /// Flows that ended.
    pub ended: usize,
    /// Ending a flow, nanoseconds: a pass in which all end, by flows.
    pub end_ns: f64,
    /// That pass, milliseconds.
    pub end_pass_ms: f64,
    /// Its longest tick, microseconds.
    pub end_tick_us: f64,
    /// The mean tick in which nothing ends, microseconds.
    pub idle_tick_us: f64,
    /// The longest of these.
    pub idle_longest_us: f64,
    /// Taking over a flow from an earlier process, nanoseconds.
    pub adopt_ns: f64,
    /// Taking over all, milliseconds.
    pub adopt_ms: f64,
    /// Flows that were taken over.
    pub adopted: u64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had, or a flow is not as it should be.
pub fn run(options: &Options) -> Result<Section> {
    let cpu = machine::pin(options.cpu)?;
    let rounds = options.rounds_or(ROUNDS);
    Ok(section(&measure(&Case::all(options, &FLOWS), rounds)?, cpu, rounds))
}

/// What one round found.
struct Round {
    ended: usize,
    end_ns: f64,
    end_tick_us: f64,
    idle_ns: f64,
    idle_longest_us: f64,
    adopt_ns: f64,
    adopted: u64,
}

fn measure(cases: &[Case], rounds: usize) -> Result<Vec<Line>> {
    let found = Case::in_turns(cases, 0, rounds, round)?;
    let lines = cases.iter().zip(&found).map(|(case, found)| {
        let of =
            |figure: fn(&Round) -> f64| median(&found.iter().map(figure).collect::<Vec<f64>>());
        let (end, adopt) = (of(|round| round.end_ns), of(|round| round.adopt_ns));
        Line {
            case: *case,
            ended: found.iter().map(|round| round.ended).min().unwrap_or(0),
            end_ns: end / case.flows as f64,
            end_pass_ms: end / 1e6,
            end_tick_us: of(|round| round.end_tick_us),
            idle_tick_us: of(|round| round.idle_ns) / f64::from(TICKS) / 1e3,
            idle_longest_us: of(|round| round.idle_longest_us),
            adopt_ns: adopt / case.flows as f64,
            adopt_ms: adopt / 1e6,
            adopted: found.iter().map(|round| round.adopted).min().unwrap_or(0),
        }
    });
    Ok(lines.collect())
}

fn round(case: &Case) -> Result<Round> {
    let umem = ring::umem(case.pages == Pages::Huge)?;
    let gateway = Gateway::for_flows(Translation::Nat44, case.flows)?;
    let mut driver = Driver::new(gateway, &umem, case.protocol, case.flows);
    driver.converse(case.flows)?;
    let Gateway { engine, regions, .. } = &mut driver.gateway;
    let mut ring = Ring::new(&umem);

    let mut next = Engine::new(0, 1, regions, [3, 4]);
    let started = Instant::now();
    let adopted = next.adopt();
    let adopt_ns = started.elapsed().as_nanos() as f64;
    ensure!(adopted == case.flows as u64, "{adopted} of {} flows were adopted", case.flows);
    ensure!(next.mappings() == engine.mappings(), "adoption found other mappings");
    drop(next);

    let mut idle = Stopwatch::new();
    pass(engine, NOW, &mut ring, &mut idle);
    ensure!(engine.flows() == case.flows as u64, "a flow ended too early");
    let mut end = Stopwatch::new();
    pass(engine, LATER, &mut ring, &mut end);
    let left = (engine.flows(), engine.mappings());
    ensure!(left == (0, 0), "{} flows and {} mappings did not end", left.0, left.1);
    Ok(Round {
        ended: case.flows - engine.flows() as usize,
        end_ns: end.ns(),
        end_tick_us: end.longest_us(),
        idle_ns: idle.ns(),
        idle_longest_us: idle.longest_us(),
        adopt_ns,
        adopted,
    })
}

/// A pass over the table, tick by tick as a worker does.
fn pass(engine: &mut Engine, now: u32, ring: &mut Ring<'_>, watch: &mut Stopwatch) {
    let slots = engine.capacity() / TICKS + 1;
    for _ in 0..TICKS {
        watch.during(|| engine.age(slots, now, ring));
    }
}

fn section(lines: &[Line], cpu: usize, rounds: usize) -> Section {
    let table = rows(
        2,
        lines,
        &[
            ("", |line| line.case.protocol.label().into()),
            ("pages", |line| line.case.pages.label().into()),
            ("flows", |line| line.case.flows.to_string()),
            ("end ns/flow", |line| figure(line.end_ns)),
            ("end all ms", |line| figure(line.end_pass_ms)),
            ("longest tick µs", |line| figure(line.end_tick_us)),
            ("idle tick µs", |line| figure(line.idle_tick_us)),
            ("longest idle µs", |line| figure(line.idle_longest_us)),
            ("adopt ns/flow", |line| figure(line.adopt_ns)),
            ("adopt all ms", |line| figure(line.adopt_ms)),
        ],
    );
    Section {
        name: "teardown",
        title: "User tier: the end of NAT44 flows, and adoption after a restart".into(),
        notes: vec![
            format!(
                "One thread on CPU {cpu}; medians of {rounds} interleaved rounds. A worker ticks \
                 every {TICK_MS} ms and passes over its table in {TICKS} ticks. “End” is a pass in \
                 which all flows have timed out, “idle” one in which none has."
            ),
            "“Adopt” is what a new process does before its first packet: it reads the table that \
             an earlier one left, ends what is not whole, and makes the mappings of UDP endpoints \
             anew."
                .into(),
        ],
        json: json!({ "cpu": cpu, "rounds": rounds, "tick_ms": TICK_MS, "lines": lines }),
        table,
        plots: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::traffic::Protocol;

    #[test]
    fn every_flow_is_adopted_and_ends() {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let case = Case { protocol, pages: Pages::Small, flows: 700 };
            let lines = measure(&[case], 1).unwrap();
            assert_eq!((lines[0].adopted, lines[0].ended), (700, 700));
        }
    }
}
