//! `weir-bench`: show weir at work, and measure it.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use weir_bench::ip_version::IpVersion;
use weir_bench::memory::options::{Options, Pages};
use weir_bench::section::Section;
use weir_bench::{
    adopt, balance, compare, demo, failover, flood, footprint, latency, new_flows, noise, pipeline,
    publication, report, rest, setup, teardown, update,
};

#[derive(Parser)]
#[command(name = "weir-bench", version, about)]
struct Arguments {
    /// Print figures as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show weir at work: three providers, real clients, live weights, an uplink taken out.
    Demo,
    /// Measure weir beside the kernel, a bare redirect and testpmd: the same traffic for all.
    Compare(compare::Options),
    /// Measure one-way latency at parts of the rate without loss.
    Latency(latency::Options),
    /// Measure the user tier in memory: the cost of a packet by number of flows.
    Pipeline {
        #[command(flatten)]
        options: Options,
        /// Version of IP.
        #[arg(long, value_enum, default_value_t)]
        family: IpVersion,
    },
    /// Measure how fast flows are made: out of live frames, beside the kernel; or in memory.
    SetupRate(SetupRate),
    /// Measure how soon an uplink taken out, and a weight, are obeyed.
    Update(update::Options),
    /// Cut an uplink's cable, and make one a black hole, under traffic: measure how soon flows move.
    Failover(failover::Options),
    /// Measure what the control process costs at rest with many routes, uplinks and policies, what
    /// reading its metrics costs, and how soon it tells of a cut cable.
    Rest(rest::Options),
    /// Kill the dataplane under traffic: measure what is lost, and taking the flows over.
    Adopt(adopt::Options),
    /// Measure in memory what the end of flows costs, and taking them over after a restart.
    Teardown(Options),
    /// Measure the memory that a flow takes.
    Footprint {
        #[command(flatten)]
        options: Options,
        /// Version of IP.
        #[arg(long, value_enum, default_value_t)]
        family: IpVersion,
    },
    /// Measure how exactly flows follow the weights, and what a change moves.
    Balance(balance::Options),
    /// Measure how long a worker's packets wait for a publication.
    Publication(publication::Options),
    /// Begin flows as fast as can be, from the LAN or from outside: measure what becomes of others,
    /// beside the kernel.
    Flood(flood::Options),
    /// Let weir judge links that are noisy and well: it must find no fault. Exit status 1 if it does.
    Noise(noise::Options),
    /// Run all benchmarks, in about ten minutes, and write a report with plots.
    Report {
        /// Directory of the report.
        #[arg(long, default_value = "target/bench")]
        output: PathBuf,
    },
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
    /// Version of IP. Flows of IPv6 are not translated.
    #[arg(long, value_enum, default_value_t)]
    family: IpVersion,
}

fn main() -> Result<()> {
    let Arguments { json, action } = Arguments::parse();
    let section = match action {
        Action::Demo => return demo::run(),
        Action::Report { output } => return report::run(&output, report::BENCHMARKS),
        Action::Noise(options) => return noise::run(&options)?.print(json),
        Action::Compare(options) => compare::run(&options),
        Action::Latency(options) => latency::run(&options),
        Action::Pipeline { options, family } => pipeline::run(&options, family),
        Action::SetupRate(options) => setup_rate(options),
        Action::Update(options) => update::run(&options),
        Action::Failover(options) => failover::run(&options),
        Action::Rest(options) => rest::run(&options),
        Action::Adopt(options) => adopt::run(&options),
        Action::Teardown(options) => teardown::run(&options),
        Action::Footprint { options, family } => footprint::run(&options, family),
        Action::Balance(options) => balance::run(&options),
        Action::Publication(options) => publication::run(&options),
        Action::Flood(options) => flood::run(&options),
    };
    section?.print(json)
}

fn setup_rate(arguments: SetupRate) -> Result<Section> {
    let SetupRate { memory, pages, cpu, flows, rounds, family } = arguments;
    if memory {
        return setup::run(&Options { flows, pages, rounds, cpu }, family);
    }
    let mut options = new_flows::Options { family, ..Default::default() };
    match flows[..] {
        [] => {}
        [flows] => options.flows = u32::try_from(flows)?,
        _ => bail!("--flows takes one number without --memory"),
    }
    options.rounds = rounds.unwrap_or(options.rounds);
    new_flows::run(&options)
}
