//! How soon flows leave an uplink that fails: a cut cable, and a black hole beyond the first hop.
//!
//! Two gateways in turn, one that translates and one that routes the customer's own prefix, of either
//! family. All
//! flows are by one of three uplinks, which fails under traffic of live frames (UDP) and of real
//! sockets (UDP and TCP). What is measured, in order: the fault, the state word that says so, the first packet
//! of each class by another uplink.

mod connections;
mod field;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use crate::compare::GATEWAY_CPU;
use crate::ip_version::IpVersion;
use crate::machine;
use crate::section::{Section, figure, median, range, table};

pub use connections::CONNECTIONS;
pub use field::{Fault, Field, INTERVAL_MS, PACE, Round, Translation};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000)]
    pub flows: u32,
    /// Version of IP: NAT44 and an own prefix, or NPTv6 and an own prefix.
    #[arg(long, value_enum, default_value_t)]
    pub family: IpVersion,
    /// Faults of each kind; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// One class of flows and one fault: a figure for each round. Times in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Translated or routed.
    pub translation: Translation,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
    /// What happened.
    pub fault: Fault,
    /// From the fault until the state word told of it.
    pub detect_ms: Vec<f64>,
    /// From the carrier event, or the decision about a black hole, to the first packet of the class
    /// by another uplink.
    pub react_ms: Vec<f64>,
    /// From the state word to that packet.
    pub decided_to_packet_ms: Vec<f64>,
    /// From the fault to that packet.
    pub fault_to_packet_ms: Vec<f64>,
    /// Between the last packet that arrived by the old uplink and the first by another; for UDP and a
    /// cut, since what goes into a hole still arrives at it.
    pub gap_ms: Option<Vec<f64>>,
    /// Packets lost; counted for UDP.
    pub packets_lost: Option<Vec<f64>>,
    /// Packets lost while the uplink came back and was used again; counted for UDP.
    pub lost_at_return: Option<Vec<f64>>,
    /// Flows that did not survive.
    pub flows_broken: Vec<f64>,
    /// From the fault until the last of the broken connections knew that it is.
    pub reset_ms: Vec<f64>,
    /// From the fault until all connections of retrying clients were open again.
    pub again_ms: Vec<f64>,
}

/// Measures what the options say.
///
/// # Errors
/// When weir does not work, or a fault has no consequences.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<Vec<Line>> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    let frames: u32 = Fault::ALL.into_iter().map(Fault::frames).sum();
    let least = frames.saturating_mul(u32::try_from(options.rounds)?);
    ensure!(options.flows >= least, "the flows must be {least} or more: a round moves {frames}");
    // Whatever is started from here on leaves the generator alone.
    machine::pin(Some(GATEWAY_CPU))?;
    let mut lines = Vec::new();
    for translation in [Translation::Translated, Translation::Routed] {
        let mut field = Field::prepare(options.family.family(), translation, options.flows)?;
        for fault in Fault::ALL {
            let rounds: Vec<_> = (0..options.rounds)
                .map(|_| field.round(fault))
                .collect::<Result<_>>()
                .with_context(|| format!("{translation:?} flows, {fault:?}"))?;
            lines.push(line(translation, fault, "udp", &rounds));
            lines.push(line(translation, fault, "tcp", &rounds));
        }
    }
    Ok(lines)
}

fn line(translation: Translation, fault: Fault, protocol: &'static str, rounds: &[Round]) -> Line {
    let udp = protocol == "udp";
    let first = |round: &Round| if udp { round.udp_ns } else { round.tcp_ns };
    let since = |from: fn(&Round) -> u64, to: &dyn Fn(&Round) -> u64| -> Vec<f64> {
        rounds.iter().map(|round| ms(from(round), to(round))).collect()
    };
    let broken = |round: &Round| match udp {
        true => round.udp_broken as f64,
        false => round.connections.iter().filter(|times| times.reset_ns.is_some()).count() as f64,
    };
    // The latest of the connections to which it happened; no figure for a round without one.
    let last = |of: fn(&connections::ConnectionTimes) -> Option<u64>| -> Vec<f64> {
        let rounds = rounds.iter().filter(|_| !udp);
        let last = |round: &Round| {
            round.connections.iter().filter_map(of).max().map(|at| ms(round.fault_ns, at))
        };
        rounds.filter_map(last).collect()
    };
    Line {
        translation,
        protocol,
        fault,
        detect_ms: since(|r| r.fault_ns, &|r| r.decided_ns),
        react_ms: match fault {
            Fault::Cut => since(|r| r.fault_ns, &first),
            Fault::BlackHole => since(|r| r.decided_ns, &first),
        },
        decided_to_packet_ms: since(|r| r.decided_ns, &first),
        fault_to_packet_ms: since(|r| r.fault_ns, &first),
        gap_ms: (udp && fault == Fault::Cut)
            .then(|| rounds.iter().map(|round| round.gap_ns as f64 / 1e6).collect()),
        packets_lost: udp.then(|| rounds.iter().map(|round| round.lost).collect()),
        lost_at_return: udp.then(|| rounds.iter().filter_map(|it| it.lost_at_return).collect()),
        flows_broken: rounds.iter().map(broken).collect(),
        reset_ms: last(|times| times.reset_ns),
        again_ms: last(|times| times.again_ns),
    }
}

fn ms(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

fn section(lines: &[Line], options: &Options) -> Section {
    let headings = [
        "flows",
        "fault",
        "fault → word ms",
        "word → packet ms",
        "fault → packet ms",
        "range",
        "gap ms",
        "lost",
        "at return",
        "broken",
        "all reset ms",
        "all again ms",
    ];
    let mut table = table(2, &headings);
    let some = |values: &[f64]| match values {
        [] => "–".to_owned(),
        values => figure(median(values)),
    };
    for line in lines {
        let kind = match line.translation {
            Translation::Translated => "translated",
            Translation::Routed => "routed",
        };
        let [low, high] = range(&line.fault_to_packet_ms);
        table.add_row([
            format!("{kind} {}", line.protocol.to_uppercase()),
            match line.fault {
                Fault::Cut => "cable cut".into(),
                Fault::BlackHole => "black hole".into(),
            },
            some(&line.detect_ms),
            some(&line.decided_to_packet_ms),
            some(&line.fault_to_packet_ms),
            format!("{}–{}", figure(low), figure(high)),
            line.gap_ms.as_deref().map_or("–".into(), some),
            line.packets_lost.as_deref().map_or("–".into(), some),
            line.lost_at_return.as_deref().map_or("–".into(), some),
            some(&line.flows_broken),
            some(&line.reset_ms),
            some(&line.again_ms),
        ]);
    }
    Section {
        name: "failover",
        title: format!("An uplink fails under traffic of {} flows", options.flows),
        notes: notes(options.rounds),
        json: json(lines, options),
        table,
        plots: Vec::new(),
    }
}

fn notes(rounds: usize) -> Vec<String> {
    let bound = f64::from(INTERVAL_MS) * 3.25;
    vec![
        format!(
            "Medians of {} faults of each kind. All flows leave by one of three uplinks; {} packets \
             a second of UDP, each of another flow, and {CONNECTIONS} TCP connections and as many \
             UDP sockets that send a byte every millisecond between them. The fault is the \
             kernel's event about the carrier, as it hands it to a socket in the gateway's \
             namespace; for a black hole it is the last echo that came out of it, of which one is \
             due every millisecond. The word is the uplink's in the control page, seen by a thread \
             that looks every 20 µs or when the scheduler lets it; if it was late, it is when the \
             first packet showed it. The packet is the first of the class by another uplink, at \
             the far side: for translated TCP the SYN of the first client that tries again.",
            rounds,
            1_000_000_000 / PACE.as_nanos()
        ),
        format!(
            "Probes are {INTERVAL_MS} ms apart, to two targets, three in a row: a black hole \
                 is to be found within {bound} ms. The gap is the time between the last UDP packet \
                 that arrived by the old uplink and the first by another. Lost are UDP packets sent \
                 until the flows moved, and while the uplink came back, until it was used again. \
                 Broken are UDP flows of which no packet arrived any more, and TCP \
                 connections that were reset. A TCP sender without an acknowledgement for 200 ms is \
                 silent until its own timer ends, 400 ms later: the wait of connections in a black \
                 hole after the word is theirs. Control process, worker, clients and watchers share \
                 one CPU; the generator has the other."
        ),
    ]
}

/// Every figure, and on top the worst median of each kind.
fn json(lines: &[Line], options: &Options) -> Value {
    let worst = |fault: Fault, of: &dyn Fn(&Line) -> Option<f64>| {
        let of_fault = lines.iter().filter(|line| line.fault == fault);
        of_fault.filter_map(of).max_by(f64::total_cmp)
    };
    let mut json = json!({
        "family": options.family, "flows": options.flows, "rounds": options.rounds, "lines": lines,
    });
    for (name, fault) in [("cut", Fault::Cut), ("black_hole", Fault::BlackHole)] {
        json[name] = json!({
            "detect_ms": worst(fault, &|line| Some(median(&line.detect_ms))),
            "react_ms": worst(fault, &|line| Some(median(&line.react_ms))),
            "gap_ms": worst(fault, &|line| line.gap_ms.as_deref().map(median)),
            "packets_lost": worst(fault, &|line| line.packets_lost.as_deref().map(median)),
            "lost_at_return": worst(fault, &|line| {
                line.lost_at_return.as_deref().filter(|lost| !lost.is_empty()).map(median)
            }),
            "flows_broken": worst(fault, &|line| Some(median(&line.flows_broken))),
        });
    }
    json
}
