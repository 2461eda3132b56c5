//! False alarms: links that are noisy and well, for minutes, under traffic, with hosts among it that
//! scan, seek peers that are gone, and inject segments.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_health::window::Figures;
use weir_kit::line::Impairment;
use weir_kit::pests::{PestReport, Pests};
use weir_kit::probed::{ECHO, Probed, told};
use weir_kit::tcp_load::{TcpLoad, TcpReport};
use weir_kit::udp_flows::{self, UdpReport};
use weir_kit::weir::UPLINKS;

use crate::section::{Section, figure, median, table};

/// Each way; there and back it is 2 % and 50 ms.
const NOISE: Impairment = Impairment {
    loss_percent: 1.0,
    delay: Duration::ZERO,
    jitter: Duration::from_millis(25),
    rate: None,
    dead: false,
};
/// Five probes a second of each target, and every figure judged.
const HEALTH: &str = "interval_ms = 200\ntimeout_ms = 1000\n\
    rtt_ms = { fail = 300, recover = 200 }\njitter_ms = { fail = 100, recover = 60 }\n";
const HOSTS: usize = 4;
/// Hosts beside them that pester.
const PESTS: usize = 3;
/// TCP connections of each host, open all the time.
const CONNECTIONS: usize = 10;
/// New UDP flows of each host in every round of traffic.
const FLOWS: usize = 50;

/// How long to look.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Length of the run.
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
}

/// What was seen.
#[derive(Debug)]
pub struct Outcome {
    options: Options,
    /// Changes of uplinks' states, for people; those that took them up at the start do not count.
    transitions: Vec<String>,
    /// By uplink, the figures of its targets, once a round.
    figures: Vec<Vec<Figures>>,
    tcp: TcpReport,
    udp: UdpReport,
    pests: PestReport,
}

/// Looks as long as the options say.
///
/// # Errors
/// When weir does not work.
pub fn run(options: &Options) -> Result<Outcome> {
    let length = Duration::try_from_secs_f64(options.minutes * 60.0)?;
    let site = Probed::start(UPLINKS.len(), HOSTS + PESTS, HEALTH)?;
    let known = site.weir.history()?.len();
    (0..UPLINKS.len()).for_each(|uplink| site.line(uplink).impair_both(NOISE));
    let (hosts, pests) = site.topology.hosts.split_at(HOSTS);
    let pests = Pests::start(&site.topology, pests, ECHO)?;
    let load = TcpLoad::start(hosts, ECHO, CONNECTIONS, length + Duration::from_secs(60))?;
    let mut figures = vec![Vec::new(); UPLINKS.len()];
    let mut udp = UdpReport::default();
    let end = Instant::now() + length;
    while Instant::now() < end {
        let round = udp_flows::run(hosts, ECHO, FLOWS)?;
        udp.sent += round.sent;
        udp.answered += round.answered;
        udp.wrong += round.wrong;
        for (figures, uplink) in figures.iter_mut().zip(site.weir.health()?) {
            figures.extend(uplink.ipv4.targets.iter().map(|target| target.figures));
        }
    }
    let history = site.weir.history()?;
    let transitions = history[known..].iter().map(|entry| told(std::slice::from_ref(entry)));
    let transitions = transitions.collect();
    (0..UPLINKS.len()).for_each(|uplink| site.line(uplink).heal());
    let (tcp, pests) = (load.stop()?, pests.stop()?);
    Ok(Outcome { options: *options, transitions, figures, tcp, udp, pests })
}

impl Outcome {
    /// Prints what was seen.
    ///
    /// # Errors
    /// When an uplink changed its state.
    pub fn print(&self, json: bool) -> Result<()> {
        self.section().print(json)?;
        ensure!(self.transitions.is_empty(), "healthy links were judged:\n{}", self.told());
        Ok(())
    }

    fn told(&self) -> String {
        self.transitions.join("\n")
    }

    fn section(&self) -> Section {
        let mut rows = table(1, &["", "loss %", "most", "RTT ms", "most", "jitter ms", "most"]);
        let mut uplinks = Vec::new();
        for (name, figures) in UPLINKS.iter().zip(&self.figures) {
            let of = |value: fn(&Figures) -> f64| {
                let values: Vec<f64> = figures.iter().map(value).collect();
                [median(&values), values.iter().copied().fold(0.0, f64::max)]
            };
            let loss = of(|f| f.loss_percent.window);
            let rtt = of(|f| f.rtt_ms.window);
            let jitter = of(|f| f.jitter_ms.window);
            let cells = [loss, rtt, jitter].concat();
            rows.add_row(
                std::iter::once((*name).to_owned()).chain(cells.iter().map(|c| figure(*c))),
            );
            uplinks.push(json!({
                "uplink": name,
                "loss_percent": loss,
                "rtt_ms": rtt,
                "jitter_ms": jitter,
            }));
        }
        Section {
            name: "noise",
            title: format!("Noisy healthy links for {} minutes", figure(self.options.minutes)),
            notes: vec![
                format!(
                    "All links lose 2 % and vary by 50 ms, there and back. {} changes of an \
                     uplink's state. Figures over the window of a target: median, most.",
                    self.transitions.len()
                ),
                format!(
                    "Meanwhile {} echoes by {} TCP connections, of which {} broke; {} UDP flows, \
                     of which {} were answered.",
                    self.tcp.rounds,
                    HOSTS * CONNECTIONS,
                    self.tcp.broken.len(),
                    self.udp.sent,
                    self.udp.answered
                ),
                format!(
                    "{PESTS} hosts began {} connections and sent {} datagrams to nobody, and \
                     injected {} segments.",
                    self.pests.connections, self.pests.datagrams, self.pests.injected
                ),
            ],
            json: self.json(uplinks),
            table: rows,
            plots: Vec::new(),
        }
    }

    fn json(&self, uplinks: Vec<Value>) -> Value {
        json!({
            "minutes": self.options.minutes,
            "noise_transitions": self.transitions.len(),
            "history": self.transitions,
            "uplinks": uplinks,
            "tcp": self.tcp,
            "udp": self.udp,
            "pests": self.pests,
        })
    }
}
