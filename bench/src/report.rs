//! All benchmarks in one run, as JSON, Markdown and plots.

use std::fmt::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use weir_kit::traffic::Size;

use crate::compare::site::Kind;
use crate::compare::{self, System};
use crate::ip_version::IpVersion;
use crate::machine::Machine;
use crate::section::Section;
use crate::{
    adopt, balance, failover, footprint, latency, new_flows, pipeline, publication, setup,
    teardown, update,
};

/// A benchmark: its name, and what measures it.
pub type Benchmark = (&'static str, fn() -> Result<Section>);

/// What a report consists of, in this order.
pub const BENCHMARKS: &[Benchmark] = &[
    ("pipeline", || pipeline::run(&Default::default(), IpVersion::V4)),
    ("setup", || setup::run(&Default::default(), IpVersion::V4)),
    ("teardown", || teardown::run(&Default::default())),
    ("footprint", || footprint::run(&Default::default(), IpVersion::V4)),
    ("publication", || publication::run(&defaults()?)),
    ("balance", || balance::run(&Default::default())),
    ("compare", comparison),
    ("latency", || latency::run(&defaults()?)),
    ("new-flows", || new_flows::run(&Default::default())),
    ("update", || update::run(&defaults()?)),
    ("adopt", || adopt::run(&defaults()?)),
    ("failover", || failover::run(&defaults()?)),
];

/// What a command does when it is given no options.
fn defaults<O: clap::Args>() -> Result<O> {
    let command = O::augment_args(clap::Command::new("weir-bench"));
    Ok(O::from_arg_matches(&command.try_get_matches_from(["weir-bench"])?)?)
}

/// Small frames by number of flows, and other sizes with few flows.
fn comparison() -> Result<Section> {
    let comparison = compare::Options {
        flows: vec![1024],
        sizes: vec![Size::Fixed(64), Size::Mix, Size::Fixed(1500)],
        family: IpVersion::V4,
        mode: None,
        rounds: 7,
        seconds: 0.25,
        systems: Vec::new(),
    };
    let mut reports = compare::measure(&comparison)?;
    let many = compare::Options {
        flows: vec![64_512, 1_032_192],
        sizes: vec![Size::Fixed(64)],
        // Routing has no state per flow: for it the number says little.
        systems: System::ALL
            .into_iter()
            .filter(|system| system.suits(Kind::V4) && *system != System::LinuxRoute)
            .collect(),
        ..comparison.clone()
    };
    reports.extend(compare::measure(&many)?);
    Ok(compare::section(&reports, &comparison))
}

/// Runs the benchmarks one after another, and writes `report.json`, `report.md` and the plots into
/// `directory`.
///
/// # Errors
/// When a file cannot be written; when a benchmark failed, after the others are written.
pub fn run(directory: &Path, benchmarks: &[Benchmark]) -> Result<()> {
    let here = || format!("cannot write to {}", directory.display());
    std::fs::create_dir_all(directory).with_context(here)?;
    let machine = Machine::here();
    let mut json = Map::from_iter([("machine".into(), json!(machine))]);
    let mut markdown = heading(&machine);
    let mut failed = Vec::new();
    for (name, benchmark) in benchmarks {
        let started = Instant::now();
        eprint!("{name} … ");
        match alone(*benchmark).and_then(|section| section.draw(directory).map(|()| section)) {
            Ok(section) => {
                eprintln!("{:.0} s", started.elapsed().as_secs_f64());
                markdown += &section.markdown();
                json.insert((*name).into(), section.json);
            }
            Err(error) => {
                eprintln!("failed: {error:#}");
                write!(markdown, "## {name}\n\nNot measured: {error:#}.\n\n")?;
                json.insert((*name).into(), json!({ "error": format!("{error:#}") }));
                failed.push(*name);
            }
        }
    }
    let text = serde_json::to_string_pretty(&Value::Object(json))?;
    std::fs::write(directory.join("report.json"), text + "\n").with_context(here)?;
    std::fs::write(directory.join("report.md"), markdown.trim_end().to_owned() + "\n")
        .with_context(here)?;
    eprintln!("wrote {}", directory.join("report.md").display());
    if !failed.is_empty() {
        bail!("not measured, see the report: {}", failed.join(", "));
    }
    Ok(())
}

/// Runs a benchmark in a thread of its own: the CPU that it keeps to, and the namespace that it
/// may enter, end with it.
fn alone(benchmark: fn() -> Result<Section>) -> Result<Section> {
    let result = std::thread::spawn(benchmark).join();
    result.map_err(|_| anyhow!("the benchmark panicked; its message is above"))?
}

fn heading(machine: &Machine) -> String {
    let Machine { cpu, cores, tsc_mhz, kernel, date, commit } = machine;
    let clock = tsc_mhz.map(|mhz| format!(", time-stamp counter at {mhz:.0} MHz"));
    let clock = clock.unwrap_or_default();
    format!(
        "# weir: benchmarks\n\n{cpu}, {cores} cores{clock}; Linux {kernel}; weir {commit}; {date}. \
         Every figure is in `report.json`.\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::{Data, Plot};
    use crate::section::table;

    fn good() -> Result<Section> {
        let mut table = table(1, &["what", "ns"]);
        table.add_row(["packet", "12.5"]);
        let curve = ("weir".into(), vec![(1.0, 2.0), (10.0, 3.0)]);
        let plot = Plot {
            title: "A plot".into(),
            x: "flows".into(),
            y: "ns".into(),
            data: Data::Curves(vec![curve]),
        };
        Ok(Section {
            name: "good",
            title: "What works".into(),
            notes: vec!["A note.".into()],
            json: json!({ "ns": 12.5 }),
            table,
            plots: vec![plot],
        })
    }

    fn bad() -> Result<Section> {
        bail!("no such device")
    }

    #[test]
    fn a_report_has_every_section_and_says_what_failed() {
        let directory = std::env::temp_dir().join(format!("weir-report-{}", std::process::id()));
        let result = run(&directory, &[("bad", bad), ("good", good)]);
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        let json: Value = serde_json::from_str(&read("report.json")).unwrap();
        let (markdown, svg) = (read("report.md"), read("good-1.svg"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(result.unwrap_err().to_string().ends_with(": bad"));
        assert_eq!(
            (&json["good"]["ns"], &json["bad"]["error"]),
            (&json!(12.5), &json!("no such device"))
        );
        assert!(json["machine"]["cores"].as_u64() >= Some(1));
        for text in ["What works", "A note.", "| packet | 12.5 |", "good-1.svg", "no such device"] {
            assert!(markdown.contains(text), "{text}: {markdown}");
        }
        assert!(svg.contains("A plot"));
    }
}
