//! How exactly flows follow the weights, and how many buckets a change moves.
//!
//! Chance draws weights and changes, the same in every run. Each change is held against the fewest
//! buckets that it can move: ½·Σ|Δshare| of all, shares in whole buckets. Flows are counted too:
//! chance alone puts some more flows on an uplink than its share, and the error of the shares is
//! shown beside what perfect buckets would have.

use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use weir_health::buckets::{Buckets, bound, moved};
use weir_kit::random::Random;
use weir_layout::control::{BUCKETS, BucketTable, Member};
use weir_wire::hash::hash2;

use crate::plot::{Data, Plot};
use crate::section::{Section, figure, median, rows};

/// Flows that are spread over the buckets.
pub const FLOWS: usize = 100_000;
const TRIALS: usize = 40;
const UPLINKS: [usize; 5] = [2, 3, 8, 16, 64];
const ALL: u64 = u64::MAX;

/// Options of the benchmark.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Changes of each kind and number of uplinks.
    #[arg(long)]
    pub trials: Option<usize>,
    /// Where chance begins.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// One uplink gets another weight.
    OneWeight,
    /// Every uplink does.
    AllWeights,
    /// An uplink is added.
    Added,
    /// An uplink is taken out of the configuration.
    Removed,
    /// An uplink fails.
    Fails,
    /// It is usable again.
    Returns,
}

impl Change {
    const ALL: [Self; 6] =
        [Self::OneWeight, Self::AllWeights, Self::Added, Self::Removed, Self::Fails, Self::Returns];

    fn label(self) -> &'static str {
        match self {
            Self::OneWeight => "one weight",
            Self::AllWeights => "all weights",
            Self::Added => "uplink added",
            Self::Removed => "uplink removed",
            Self::Fails => "uplink fails",
            Self::Returns => "uplink returns",
        }
    }
}

/// All trials of one kind of change.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Uplinks.
    pub uplinks: usize,
    /// The change.
    pub change: Change,
    /// How often.
    pub trials: usize,
    /// Buckets that moved: median.
    pub moved: f64,
    /// Fewest buckets that could have: median.
    pub bound: f64,
    /// Most buckets that one trial moved beyond its bound.
    pub beyond_bound: i64,
    /// Share of the flows whose bucket moved: median.
    pub flows_moved: f64,
    /// Most buckets by which an uplink differed from its share after a change.
    pub bucket_error: f64,
    /// Difference between flows and weights after a change, as the share of flows that are on
    /// another uplink than they would be: median.
    pub flow_error: f64,
    /// The same for as many flows that are dealt by the weights by chance: median.
    pub chance_error: f64,
}

/// Measures.
///
/// # Errors
/// None; for the sake of the other benchmarks' form.
pub fn run(options: &Options) -> Result<Section> {
    let trials = options.trials.unwrap_or(TRIALS).max(1);
    let lines = measure(&UPLINKS, trials, options.seed);
    Ok(section(&lines, trials, options.seed))
}

fn measure(uplinks: &[usize], trials: usize, seed: u64) -> Vec<Line> {
    let mut random = Random::new(seed);
    let flows = flow_buckets(&mut random);
    let mut lines = Vec::new();
    for uplinks in uplinks {
        for change in Change::ALL {
            let trials: Vec<Trial> =
                (0..trials).map(|_| trial(*uplinks, change, &flows, &mut random)).collect();
            lines.push(line(*uplinks, change, &trials));
        }
    }
    lines
}

/// The bucket of each flow, by the dataplane's hash: hosts, ports and sites that count up.
fn flow_buckets(random: &mut Random) -> Vec<u16> {
    let key = [random.draw(), random.draw()];
    let bucket = |flow: u64| {
        let (host, port, site) = (flow / 63, 1024 + flow % 63, flow % 1000);
        let addresses = (0x0a00_0000 + host) << 32 | (0xc612_0000 + site);
        (hash2(key, addresses, 6 << 32 | port << 16 | 443) >> 48) as u16
    };
    (0..FLOWS as u64).map(bucket).collect()
}

/// What one change did.
struct Trial {
    moved: usize,
    bound: usize,
    flows_moved: usize,
    bucket_error: f64,
    flow_error: f64,
    chance_error: f64,
}

fn trial(uplinks: usize, change: Change, flows: &[u16], random: &mut Random) -> Trial {
    // Weights as people write them, and as measured capacities are.
    let most = [10, 100, 10_000][random.below(3)];
    let mut weight = || 1 + random.below(most) as u16;
    let mut old: Vec<u16> = (0..uplinks).map(|_| weight()).collect();
    let mut new = old.clone();
    let (fresh, one) = (weight(), random.below(uplinks));
    match change {
        Change::OneWeight => new[one] = fresh,
        Change::AllWeights => new.fill_with(|| 1 + random.below(most) as u16),
        Change::Added => old[one] = 0,
        Change::Removed => new[one] = 0,
        Change::Fails | Change::Returns => {}
    }
    let without = ALL & !(1 << one);
    let (usable_before, usable) = match change {
        Change::Fails => (ALL, without),
        Change::Returns => (without, ALL),
        _ => (ALL, ALL),
    };
    let mut buckets = Buckets::default();
    buckets.update(&members(&old), usable_before);
    let before = *buckets.live();
    buckets.update(&members(&new), usable);
    let after = buckets.live();
    let bound = match change {
        Change::Fails => before.iter().filter(|uplink| usize::from(**uplink) == one).count(),
        Change::Returns => after.iter().filter(|uplink| usize::from(**uplink) == one).count(),
        _ => bound(&old, &new),
    };
    let shares = shares(&new, usable);
    let mut chance = vec![0; uplinks];
    for _ in flows {
        chance[pick(&new, usable, random)] += 1;
    }
    let bucket_error = counts(after, 0..BUCKETS, uplinks)
        .iter()
        .zip(&shares)
        .map(|(has, share)| (f64::from(*has) - share * BUCKETS as f64).abs())
        .fold(0.0, f64::max);
    let at = |flow: &u16| usize::from(*flow);
    Trial {
        moved: moved(&before, after),
        bound,
        flows_moved: flows.iter().filter(|flow| before[at(flow)] != after[at(flow)]).count(),
        bucket_error,
        flow_error: misplaced(&counts(after, flows.iter().map(at), uplinks), &shares),
        chance_error: misplaced(&chance, &shares),
    }
}

fn members(weights: &[u16]) -> Vec<Member> {
    let member = |(uplink, weight): (u8, &u16)| Member { uplink, tier: 1, weight: *weight };
    (0..).zip(weights).map(member).collect()
}

fn weight_of(weights: &[u16], usable: u64, uplink: usize) -> usize {
    if usable >> uplink & 1 == 1 { usize::from(weights[uplink]) } else { 0 }
}

/// What is due to each uplink, of 1.
fn shares(weights: &[u16], usable: u64) -> Vec<f64> {
    let of = |uplink| weight_of(weights, usable, uplink) as f64;
    let total: f64 = (0..weights.len()).map(of).sum();
    (0..weights.len()).map(|uplink| of(uplink) / total).collect()
}

/// An uplink by chance and weight.
fn pick(weights: &[u16], usable: u64, random: &mut Random) -> usize {
    let of = |uplink| weight_of(weights, usable, uplink);
    let mut rest = random.below((0..weights.len()).map(of).sum());
    let taken = |uplink: &usize| {
        let weight = of(*uplink);
        let here = rest < weight;
        rest = rest.saturating_sub(weight);
        here
    };
    (0..weights.len()).find(taken).expect("the draw is below the sum of the weights")
}

/// How many of these buckets each uplink has.
fn counts(table: &BucketTable, buckets: impl Iterator<Item = usize>, uplinks: usize) -> Vec<u32> {
    let mut counts = vec![0; uplinks];
    for bucket in buckets {
        counts[usize::from(table[bucket])] += 1;
    }
    counts
}

/// Share of the counted that are on another uplink than they would be by these shares.
fn misplaced(counts: &[u32], shares: &[f64]) -> f64 {
    let total = f64::from(counts.iter().sum::<u32>());
    counts.iter().zip(shares).map(|(has, due)| (f64::from(*has) / total - due).abs()).sum::<f64>()
        / 2.0
}

fn line(uplinks: usize, change: Change, trials: &[Trial]) -> Line {
    let of = |figure: fn(&Trial) -> f64| trials.iter().map(figure).collect::<Vec<_>>();
    let beyond = |trial: &Trial| trial.moved as i64 - trial.bound as i64;
    Line {
        uplinks,
        change,
        trials: trials.len(),
        moved: median(&of(|trial| trial.moved as f64)),
        bound: median(&of(|trial| trial.bound as f64)),
        beyond_bound: trials.iter().map(beyond).max().unwrap_or(0),
        flows_moved: median(&of(|trial| trial.flows_moved as f64)) / FLOWS as f64,
        bucket_error: of(|trial| trial.bucket_error).into_iter().fold(0.0, f64::max),
        flow_error: median(&of(|trial| trial.flow_error)),
        chance_error: median(&of(|trial| trial.chance_error)),
    }
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn section(lines: &[Line], trials: usize, seed: u64) -> Section {
    let table = rows(
        1,
        lines,
        &[
            ("change", |line| line.change.label().into()),
            ("uplinks", |line| line.uplinks.to_string()),
            ("moved %", |line| percent(line.moved / BUCKETS as f64)),
            ("bound %", |line| percent(line.bound / BUCKETS as f64)),
            ("most beyond, buckets", |line| line.beyond_bound.to_string()),
            ("flows moved %", |line| percent(line.flows_moved)),
            ("most off, buckets", |line| figure(line.bucket_error)),
            ("flows off %", |line| percent(line.flow_error)),
            ("by chance %", |line| percent(line.chance_error)),
        ],
    );
    Section {
        name: "balance",
        title: "Weights: shares, and what a change moves".into(),
        notes: vec![
            format!(
                "{trials} random weight vectors and changes of each kind, from seed {seed}; \
                 {BUCKETS} buckets, {FLOWS} flows. Medians, and the worst trial where it says \
                 “most”."
            ),
            "“Bound” is the fewest buckets that the change can move. “Most off” is by how many \
             buckets an uplink missed its share after a change. “Flows off” is the share of flows \
             that are on another uplink than the weights ask for, “by chance” the same if each \
             flow drew its uplink by the weights."
                .into(),
        ],
        json: json!({ "seed": seed, "flows": FLOWS, "lines": lines }),
        table,
        plots: plots(lines),
    }
}

fn plots(lines: &[Line]) -> Vec<Plot> {
    let most = lines.iter().map(|line| line.uplinks).filter(|uplinks| *uplinks <= 8).max();
    let lines: Vec<&Line> = lines.iter().filter(|line| Some(line.uplinks) == most).collect();
    let Some(uplinks) = most else { return Vec::new() };
    let percent = |count: f64| 100.0 * count / BUCKETS as f64;
    let bars = |name: &str, of: fn(&Line) -> f64| {
        (name.to_owned(), lines.iter().map(|line| percent(of(line))).collect::<Vec<_>>())
    };
    vec![Plot {
        title: format!("Buckets that a change moves, {uplinks} uplinks"),
        x: "change".into(),
        y: "percent of the buckets".into(),
        data: Data::Bars(
            lines.iter().map(|line| line.change.label().into()).collect(),
            vec![bars("weir", |line| line.moved), bars("fewest possible", |line| line.bound)],
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_moves_more_than_its_bound_and_shares_are_whole_buckets() {
        for line in measure(&[2, 5], 3, 1) {
            assert_eq!(line.beyond_bound, 0, "{line:?}");
            if line.change != Change::Fails {
                assert!(line.bucket_error < 1.0, "{line:?}");
            }
            // Six standard deviations and more of as many draws.
            assert!(line.flow_error < 0.02 && line.chance_error < 0.02, "{line:?}");
        }
    }

    #[test]
    fn flows_move_with_their_buckets() {
        for line in measure(&[4], 5, 2) {
            let buckets = line.moved / BUCKETS as f64;
            assert!((line.flows_moved - buckets).abs() < 0.02, "{line:?}");
        }
    }

    #[test]
    fn misplaced_flows_are_counted_once() {
        assert_eq!(misplaced(&[75, 25], &[0.5, 0.5]), 0.25);
        assert_eq!(misplaced(&[50, 50], &[0.5, 0.5]), 0.0);
    }
}
