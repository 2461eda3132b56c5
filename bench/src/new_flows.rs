//! How fast a gateway makes flows out of frames that arrive, beside the kernel doing the same.
//!
//! Every frame is the first of a flow, as fast as they leave; every round begins with an empty
//! gateway on a new site.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::ipv6::Mode;
use weir_layout::counters::Counter;
use weir_traffic::Stream;

use crate::compare::site::{Kind, MAX_ENDPOINTS, Site, shortest};
use crate::compare::weir::Tier;
use crate::compare::{System, linux, weir};
use crate::ip_version::IpVersion;
use crate::plot::{Data, Plot};
use crate::section::{Section, figure, median, range, table};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Frames of a round, each the first of a flow.
    pub flows: u32,
    /// Rounds; figures are medians over them.
    pub rounds: usize,
    /// Version of IP. Flows of IPv6 are not translated.
    pub family: IpVersion,
}

impl Default for Options {
    fn default() -> Self {
        Self { flows: MAX_ENDPOINTS, rounds: 3, family: IpVersion::V4 }
    }
}

/// Who makes flows: the kernel with nftables and connection tracking, and weir with both tiers, of
/// which the user tier makes them.
fn systems(kind: Kind) -> [(System, Measure); 2] {
    let linux = match kind {
        Kind::V4 | Kind::Inbound => System::LinuxNat,
        Kind::V6(_) => System::LinuxRoute,
    };
    [(linux, by_linux), (System::WeirKernel, by_weir)]
}

/// One round of so many flows of a kind.
type Measure = fn(Kind, u32) -> Result<Round>;

/// What one round found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Frames per second that were sent.
    pub offered: f64,
    /// Flows per second that were made.
    pub rate: f64,
    /// Flows that were made.
    pub made: u64,
    /// Share of frames that did not reach the far side.
    pub loss: f64,
}

/// A system's rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The system.
    pub system: System,
    /// The rounds.
    pub rounds: Vec<Round>,
}

impl Line {
    fn median(&self, of: fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    fn range(&self, of: fn(&Round) -> f64) -> [f64; 2] {
        range(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }
}

/// Measures what the options say.
///
/// # Errors
/// When a system does not work.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<[Line; 2]> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    let kind = match options.family {
        IpVersion::V4 => Kind::V4,
        IpVersion::V6 => Kind::V6(Mode::None),
    };
    let mut lines = systems(kind).map(|(system, _)| Line { system, rounds: Vec::new() });
    for _ in 0..options.rounds {
        for (line, (system, round)) in lines.iter_mut().zip(systems(kind)) {
            linux::wait_for_cleanup();
            line.rounds.push(round(kind, options.flows).context(system.name())?);
        }
    }
    Ok(lines)
}

fn by_linux(kind: Kind, flows: u32) -> Result<Round> {
    let mut prepared = match kind {
        Kind::V4 | Kind::Inbound => linux::nat_without_flows(kind, flows)?,
        Kind::V6(_) => linux::tracked_without_flows(flows)?,
    };
    send(&mut prepared.site, flows, |site| Ok(site.traffic.far()?.packets))
}

fn by_weir(kind: Kind, flows: u32) -> Result<Round> {
    let mut site = Site::build_for(kind, flows)?;
    let weir = weir::start(&mut site, Tier::Kernel, flows)?;
    let counters = weir.counters()?;
    send(&mut site, flows, |_| Ok(counters.sum(Counter::FlowsCreated)))
}

/// Sends every flow once. The first few are those of the empty calls.
fn send(site: &mut Site, flows: u32, made: impl Fn(&Site) -> Result<u64>) -> Result<Round> {
    let no_frames = site.call()?;
    let load = Stream { stride: 1, ..site.load(shortest(site.kind.family())) };
    site.traffic.set_stream(&load)?;
    let (made_before, far) = (made(site)?, site.traffic.far()?.packets);
    let call = site.traffic.blast(flows)?;
    let arrived = site.settle(|traffic| Ok(traffic.far()?.packets))? - far;
    let made = made(site)? - made_before;
    let seconds = call.sending(no_frames).as_secs_f64();
    Ok(Round {
        offered: call.sent as f64 / seconds,
        rate: made as f64 / seconds,
        made,
        loss: 1.0 - arrived as f64 / call.sent as f64,
    })
}

fn section(lines: &[Line; 2], options: &Options) -> Section {
    let mut table = table(1, &["", "offered/s", "flows made/s", "lowest", "highest", "loss"]);
    let Options { flows, rounds, family } = options;
    let mut json = json!({ "family": family, "flows": flows, "rounds": rounds, "lines": lines });
    for line in lines {
        let (rate, [low, high]) = (line.median(|r| r.rate), line.range(|r| r.rate));
        table.add_row([
            line.system.name().to_owned(),
            figure(line.median(|r| r.offered)),
            figure(rate),
            figure(low),
            figure(high),
            format!("{:.1} %", 100.0 * line.median(|r| r.loss)),
        ]);
        let name = line.system.name();
        json[format!("setup_{name}_flows_per_s")] = json!(rate);
        json[format!("setup_{name}_range")] = json!([low, high]);
        json[format!("setup_{name}_loss")] = json!(line.median(|r| r.loss));
    }
    let [linux, weir] = lines.each_ref().map(|line| line.median(|r| r.rate));
    json["ratio_setup_weir_vs_linux"] = json!(weir / linux);
    let bars = lines.each_ref().map(|line| line.median(|r| r.rate) / 1e6).to_vec();
    Section {
        name: "new-flows",
        title: match family {
            IpVersion::V4 => "Making NAT44 flows out of live frames".into(),
            IpVersion::V6 => "Making flows of IPv6, untranslated, out of live frames".into(),
        },
        notes: vec![
            format!(
                "Every one of {} UDP frames is the first of a flow, as fast as the generator can; \
                 medians of {} interleaved rounds, each on a new site with an empty gateway. Flows \
                 made: weir's own count; for the kernel the frames that reached the far side, \
                 which its connection tracking has confirmed by then. Weir makes {:.2} times as \
                 many flows a second.",
                flows,
                rounds,
                weir / linux
            ),
            "The kernel shares the generator's CPU, so it is never offered more than it takes and \
             its rate is that of generator and gateway together. Weir's user tier runs on a CPU of \
             its own and is offered more than it takes: what its AF_XDP ring has no room for is \
             lost, and its rate includes copying frames to user space and the sending of each."
                .into(),
        ],
        json,
        table,
        plots: vec![Plot {
            title: "Flows made from live frames".into(),
            x: String::new(),
            y: "million per second".into(),
            data: Data::Bars(
                lines.each_ref().map(|line| line.system.name().to_owned()).to_vec(),
                vec![("UDP".into(), bars)],
            ),
        }],
    }
}
