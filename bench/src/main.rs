//! `weir-bench`: show weir at work, and measure it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use weir_bench::compare::{Comparison, Report, System};
use weir_bench::memory::options::{Options, Pages};
use weir_bench::{
    adopt, balance, failover, footprint, latency, new_flows, noise, pipeline, report, rest, setup,
    teardown, update,
};
use weir_kit::traffic::Size;

#[derive(Parser)]
#[command(name = "weir-bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show weir at work: three providers, real clients, live weights, an uplink taken out.
    Demo,
    /// Measure weir beside the kernel, a bare redirect and testpmd: the same traffic for all.
    Compare(Compare),
    /// Measure one-way latency at parts of the rate without loss.
    Latency {
        #[command(flatten)]
        options: latency::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure the user tier in memory: the cost of a packet by number of flows.
    Pipeline(Memory),
    /// Measure how fast flows are made: out of live frames, beside the kernel; or in memory.
    SetupRate(SetupRate),
    /// Measure how soon an uplink taken out, and a weight, are obeyed.
    Update {
        #[command(flatten)]
        options: update::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Cut an uplink's cable, and make one a black hole, under traffic: measure how soon flows move.
    Failover {
        #[command(flatten)]
        options: failover::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure what the control process costs at rest with many routes, uplinks and policies, and
    /// how soon it tells of a cut cable.
    Rest {
        #[command(flatten)]
        options: rest::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Kill the dataplane under traffic: measure what is lost, and taking the flows over.
    Adopt {
        #[command(flatten)]
        options: adopt::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Measure in memory what the end of flows costs, and taking them over after a restart.
    Teardown(Memory),
    /// Measure the memory that a flow takes.
    Footprint(Memory),
    /// Measure how exactly flows follow the weights, and what a change moves.
    Balance {
        #[command(flatten)]
        options: balance::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let weir judge links that are noisy and well: it must find no fault. Exit status 1 if it does.
    Noise {
        #[command(flatten)]
        options: noise::Options,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run all benchmarks, in about ten minutes, and write a report with plots.
    Report {
        /// Directory of the report.
        #[arg(long, default_value = "target/bench")]
        output: PathBuf,
    },
}

#[derive(clap::Args)]
struct Compare {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', default_value = "1000,64512,1032192")]
    flows: Vec<u32>,
    /// Frame sizes: 64 to 1500, check sequence included, or imix.
    #[arg(long = "size", value_delimiter = ',', default_value = "64")]
    sizes: Vec<Size>,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of each run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Which systems; all unless given.
    #[arg(long, value_delimiter = ',', value_enum)]
    systems: Vec<System>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Memory {
    #[command(flatten)]
    options: Options,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct SetupRate {
    /// In memory, by the user tier, without a kernel.
    #[arg(long)]
    memory: bool,
    /// Pages behind the flow table and the frames, with --memory.
    #[arg(long, value_delimiter = ',', requires = "memory")]
    pages: Vec<Pages>,
    /// CPU to measure on, with --memory; the last one without.
    #[arg(long, requires = "memory")]
    cpu: Option<usize>,
    /// Numbers of flows; one without --memory.
    #[arg(long, value_delimiter = ',')]
    flows: Vec<usize>,
    /// Rounds; figures are medians over them.
    #[arg(long)]
    rounds: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    match Arguments::parse().action {
        Action::Demo => weir_bench::demo::run(),
        Action::Compare(arguments) => compare(arguments),
        Action::Latency { options, json } => latency::run(&options)?.print(json),
        Action::Pipeline(memory) => pipeline::run(&memory.options)?.print(memory.json),
        Action::SetupRate(arguments) => setup_rate(arguments),
        Action::Update { options, json } => update::run(&options)?.print(json),
        Action::Failover { options, json } => failover::run(&options)?.print(json),
        Action::Rest { options, json } => rest::run(&options)?.print(json),
        Action::Adopt { options, json } => adopt::run(&options)?.print(json),
        Action::Teardown(memory) => teardown::run(&memory.options)?.print(memory.json),
        Action::Footprint(memory) => footprint::run(&memory.options)?.print(memory.json),
        Action::Balance { options, json } => balance::run(&options)?.print(json),
        Action::Noise { options, json } => noise::run(&options)?.print(json),
        Action::Report { output } => report::run(&output, report::BENCHMARKS),
    }
}

fn compare(arguments: Compare) -> Result<()> {
    let run = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    let systems = match arguments.systems {
        none if none.is_empty() => System::ALL.to_vec(),
        some => some,
    };
    let reports = weir_bench::compare::run(&Comparison {
        flows: arguments.flows,
        sizes: arguments.sizes,
        rounds: arguments.rounds,
        run,
        systems,
    })?;
    if arguments.json {
        let reports: Vec<_> = reports.iter().map(Report::json).collect();
        println!("{}", serde_json::to_string_pretty(&reports)?);
        return Ok(());
    }
    reports.iter().for_each(|report| println!("{report}"));
    Ok(())
}

fn setup_rate(arguments: SetupRate) -> Result<()> {
    let SetupRate { memory, pages, cpu, flows, rounds, json } = arguments;
    if memory {
        return setup::run(&Options { flows, pages, rounds, cpu })?.print(json);
    }
    let mut options = new_flows::Options::default();
    match flows[..] {
        [] => {}
        [flows] => options.flows = u32::try_from(flows)?,
        _ => bail!("--flows takes one number without --memory"),
    }
    options.rounds = rounds.unwrap_or(options.rounds);
    new_flows::run(&options)?.print(json)
}
