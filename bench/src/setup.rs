//! How fast the user tier makes flows, and makes them anew elsewhere, without a kernel.
//!
//! Every round starts with an empty table. UDP flows are made by one packet each, TCP flows by the
//! three of a handshake; the time is that of the engine alone. Then half of the uplinks go down, and
//! each of their flows sends a packet: UDP moves, TCP is reset.

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::ip_version::IpVersion;
use crate::machine;
use crate::memory::case::Case;
use crate::memory::driver::Driver;
use crate::memory::gateway::{Gateway, Translation};
use crate::memory::meter::Stopwatch;
use crate::memory::options::{Options, Pages};
use crate::memory::ring;
use crate::memory::traffic::Protocol;
use crate::plot::{Data, Plot, short};
use crate::section::{Section, figure, median, range, rows};

const FLOWS: [usize; 2] = [64_512, 1_032_192];
const ROUNDS: usize = 5;

/// The cost of a flow.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The flows.
    #[serde(flatten)]
    pub case: Case,
    /// Flows that were made in each round.
    pub made: usize,
    /// Flows per second: of the median round.
    pub flows_per_s: f64,
    /// Nanoseconds in the engine until a flow is made, TCP until it is established.
    pub ns: f64,
    /// Fastest and slowest round.
    pub range_ns: [f64; 2],
    /// Of [`Self::ns`], the flow's first packet.
    pub first_packet_ns: f64,
    /// The longest that 64 first packets took, microseconds: median of the rounds.
    pub longest_batch_us: f64,
    /// The next packet of a flow whose uplink is down.
    pub leave_ns: f64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had, or a flow is refused.
pub fn run(options: &Options, version: IpVersion) -> Result<Section> {
    let cpu = machine::pin(options.cpu)?;
    let rounds = options.rounds_or(ROUNDS);
    let translation = match version {
        IpVersion::V4 => Translation::Nat44,
        IpVersion::V6 => Translation::Routed6,
    };
    let lines = measure(&Case::all(options, &FLOWS), translation, rounds)?;
    Ok(section(&lines, translation, cpu, rounds))
}

/// What one round found, nanoseconds per flow and microseconds.
struct Round {
    made: usize,
    first_ns: f64,
    rest_ns: f64,
    longest_us: f64,
    leave_ns: f64,
}

fn measure(cases: &[Case], translation: Translation, rounds: usize) -> Result<Vec<Line>> {
    // The first round warms up.
    let found = Case::in_turns(cases, 1, rounds, |case| round(case, translation))?;
    let lines = cases.iter().zip(&found).map(|(case, found)| {
        let of = |figure: fn(&Round) -> f64| found.iter().map(figure).collect::<Vec<_>>();
        let whole = of(|round| round.first_ns + round.rest_ns);
        Line {
            case: *case,
            made: found.iter().map(|round| round.made).min().unwrap_or(0),
            flows_per_s: 1e9 / median(&whole),
            ns: median(&whole),
            range_ns: range(&whole),
            first_packet_ns: median(&of(|round| round.first_ns)),
            longest_batch_us: median(&of(|round| round.longest_us)),
            leave_ns: median(&of(|round| round.leave_ns)),
        }
    });
    Ok(lines.collect())
}

fn round(case: &Case, translation: Translation) -> Result<Round> {
    let umem = ring::umem(case.pages == Pages::Huge)?;
    let gateway = Gateway::for_flows(translation, case.flows)?;
    let mut driver = Driver::new(gateway, &umem, case.protocol, case.flows);
    let (mut first, mut rest) = (Stopwatch::new(), Stopwatch::new());
    let made = driver.establish(case.flows, &mut first, &mut rest)?;
    ensure!(made == case.flows, "the gateway accepted {made} of {} flows", case.flows);

    driver.gateway.leave_up(0b1100)?;
    let leaving = driver.leaving_by(1..=2);
    let mut leave = Stopwatch::new();
    let moved = driver.leave(&leaving, &mut leave)?;
    // What is translated and is TCP is reset.
    let is_reset = case.protocol == Protocol::Tcp && translation.is_known_outside();
    let to_move = if is_reset { 0 } else { leaving.len() };
    ensure!(moved == to_move, "{moved} of {to_move} flows moved");
    let per_flow = |watch: &Stopwatch| watch.ns() / case.flows as f64;
    Ok(Round {
        made,
        first_ns: per_flow(&first),
        rest_ns: per_flow(&rest),
        longest_us: first.longest_us(),
        leave_ns: leave.ns() / leaving.len() as f64,
    })
}

fn section(lines: &[Line], translation: Translation, cpu: usize, rounds: usize) -> Section {
    let table = rows(
        2,
        lines,
        &[
            ("", |line| line.case.protocol.label().into()),
            ("pages", |line| line.case.pages.label().into()),
            ("flows", |line| line.case.flows.to_string()),
            ("flows/s", |line| figure(line.flows_per_s)),
            ("ns/flow", |line| figure(line.ns)),
            ("fastest", |line| figure(line.range_ns[0])),
            ("slowest", |line| figure(line.range_ns[1])),
            ("first packet ns", |line| figure(line.first_packet_ns)),
            ("longest batch µs", |line| figure(line.longest_batch_us)),
            ("leave ns/flow", |line| figure(line.leave_ns)),
        ],
    );
    Section {
        name: "setup",
        title: format!("User tier: making flows, {}", translation.label()),
        notes: vec![
            format!(
                "One thread on CPU {cpu}; medians of {rounds} interleaved rounds after one to warm \
                 up, each into an empty table. The time is that of the engine alone."
            ),
            "A UDP flow is made by one packet, which also makes its endpoint's mapping; a TCP flow \
             by SYN, SYN-ACK and ACK. The longest batch of 64 first packets shows what the growth \
             of the mappings' index costs the packets behind it."
                .into(),
            "“Leave” is the next packet of a flow whose uplink is down, and half of the uplinks \
             are: UDP and what is routed moves to another uplink, translated TCP is reset."
                .into(),
        ],
        json: json!({
            "translation": translation, "cpu": cpu, "rounds": rounds, "lines": lines,
        }),
        table,
        plots: plots(lines, translation),
    }
}

fn plots(lines: &[Line], translation: Translation) -> Vec<Plot> {
    let of = |pages: Pages| lines.iter().filter(move |line| line.case.pages == pages);
    let rates = |pages: Pages| of(pages).map(|line| line.flows_per_s / 1e6).collect::<Vec<_>>();
    let kinds = [Pages::Huge, Pages::Small].into_iter().filter(|pages| of(*pages).count() > 0);
    let bars: Vec<_> =
        kinds.map(|pages| (format!("{} pages", pages.label()), rates(pages))).collect();
    // Every kind of pages has the same flows.
    let groups = lines.iter().filter(|line| line.case.pages == lines[0].case.pages).map(|line| {
        format!("{}, {} flows", line.case.protocol.label(), short(line.case.flows as f64))
    });
    vec![Plot {
        title: format!("New flows, {}, one core in memory", translation.label()),
        x: "protocol and number of flows".into(),
        y: "million flows per second".into(),
        data: Data::Bars(groups.collect(), bars),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_is_made_and_takes_time() {
        let case = |protocol| Case { protocol, pages: Pages::Small, flows: 500 };
        for translation in [Translation::Nat44, Translation::Routed6] {
            let cases = [case(Protocol::Udp), case(Protocol::Tcp)];
            let lines = measure(&cases, translation, 2).unwrap();
            for line in &lines {
                assert_eq!(line.made, 500);
                assert!(line.range_ns[0] <= line.ns && line.ns <= line.range_ns[1]);
            }
            // A handshake has two more packets than its first; UDP has no more.
            assert_eq!(lines[0].ns, lines[0].first_packet_ns);
            assert!(lines[1].ns > lines[1].first_packet_ns);
        }
    }
}
