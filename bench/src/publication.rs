//! How long a worker's packets wait while it takes over a state that was published.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use weir_dataplane::engine::{Engine, Regions};
use weir_layout::control::{BUCKETS, BucketTable, Member, Name};
use weir_layout::flow::PAGE;
use weir_shm::control::{ControlWriter, empty_half};

use crate::machine;
use crate::section::{Section, figure, rows};

const POLICIES: [u8; 3] = [1, 8, 32];
const ROUNDS: usize = 500;

/// Options of this benchmark.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Publications for each number of policies.
    #[arg(long, default_value_t = ROUNDS)]
    pub rounds: usize,
    /// CPU of the worker; the last one without. Who publishes is on another.
    #[arg(long)]
    pub cpu: Option<usize>,
}

/// What a number of policies costs, all of whose bucket tables change with each publication.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Policies.
    pub policies: u8,
    /// Microseconds, median.
    pub median_us: f64,
    /// Ninety-ninth of a hundred.
    pub p99_us: f64,
    /// The worst: with what the machine took away meanwhile.
    pub worst_us: f64,
}

/// Measures what the options say.
///
/// # Errors
/// When memory cannot be had.
pub fn run(options: &Options) -> Result<Section> {
    let cpu = machine::pin(options.cpu)?;
    let lines: Vec<Line> =
        POLICIES.into_iter().map(|n| measure(n, options.rounds, cpu)).collect::<Result<_>>()?;
    Ok(section(&lines, cpu, options.rounds))
}

fn measure(policies: u8, rounds: usize, cpu: usize) -> Result<Line> {
    let regions = Regions::anonymous(PAGE, [1, 2])?;
    let mut engine = Engine::new(0, 1, &regions, [3, 4]);
    let taken = AtomicUsize::new(0);
    let mut times = std::thread::scope(|scope| {
        let writer = ControlWriter::new(regions.control.clone(), regions.adjacencies.next_hops());
        let publish = || -> Result<()> {
            machine::pin(Some((cpu + 1) % machine::cores()))?;
            publish(writer, policies, rounds, &taken);
            Ok(())
        };
        let publisher = scope.spawn(publish);
        let mut times = Vec::with_capacity(rounds);
        while times.len() < rounds && !publisher.is_finished() {
            let begin = Instant::now();
            if engine.refresh() {
                times.push(begin.elapsed().as_nanos() as f64 / 1e3);
                taken.store(times.len(), Ordering::Release);
            }
        }
        publisher.join().expect("who publishes does not panic").map(|()| times)
    })?;
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok(Line { policies, median_us: at(0.5), p99_us: at(0.99), worst_us: at(1.0) })
}

/// Publishes `rounds` states, of which each has other tables than the one before, each when the last
/// one is taken over.
fn publish(mut writer: ControlWriter, policies: u8, rounds: usize, taken: &AtomicUsize) {
    let mut half = empty_half();
    for policy in &mut half.policies[..usize::from(policies)] {
        policy.name = Name::new("policy");
        policy.member_count = 1;
        policy.members[0] = Member { uplink: 0, tier: 1, weight: 1 };
    }
    let tables: [Box<BucketTable>; 2] = [0, 1].map(|uplink| Box::new([uplink; BUCKETS]));
    for round in 0..rounds {
        let all: Vec<&BucketTable> = vec![&tables[round & 1]; policies.into()];
        writer.publish(&mut half, [&all, &[]]);
        while taken.load(Ordering::Acquire) <= round {
            std::thread::yield_now();
        }
    }
}

fn section(lines: &[Line], cpu: usize, rounds: usize) -> Section {
    let table = rows(
        0,
        lines,
        &[
            ("policies", |line| line.policies.to_string()),
            ("median µs", |line| figure(line.median_us)),
            ("99 % µs", |line| figure(line.p99_us)),
            ("worst µs", |line| figure(line.worst_us)),
        ],
    );
    Section {
        name: "publication",
        title: "How long a worker's packets wait for a publication".into(),
        notes: vec![format!(
            "A worker on CPU {cpu} takes over {rounds} states, each with other bucket tables for all \
             policies, which a thread on another CPU publishes. The worst has in it what the machine \
             took away from the worker meanwhile."
        )],
        json: json!({ "cpu": cpu, "rounds": rounds, "lines": lines }),
        table,
        plots: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_over_what_is_published() {
        let line = measure(2, 20, 0).unwrap();
        assert!(line.median_us > 0.0, "{line:?}");
        assert!(line.median_us <= line.p99_us && line.p99_us <= line.worst_us, "{line:?}");
    }
}
