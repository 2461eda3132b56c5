//! What a comparison says.

use serde::Serialize;
use serde_json::{Map, Value, json};
use weir_kit::traffic::Size;

use super::Options;
use super::site::{Kind, shortest};
use super::system::System;
use crate::ip_version::IpVersion;
use crate::plot::{Data, Plot};
use crate::section::{Section, median, range, table};

/// One system's rounds.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The system.
    pub system: System,
    /// Rate of each round, million packets per second.
    pub mpps: Vec<f64>,
    /// Share of frames that did not arrive, by round.
    pub loss: Vec<f64>,
    /// Share of frames that a kernel tier forwarded, by round.
    pub in_kernel: Vec<f64>,
}

/// A system that could not be measured.
#[derive(Clone, Debug, Serialize)]
pub struct Absent {
    /// The system.
    pub system: System,
    /// Why.
    pub reason: String,
}

/// All systems at one number of flows and one frame size.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the flows are.
    pub kind: Kind,
    /// Flows.
    pub flows: u32,
    /// Frame size.
    pub size: Size,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// What was not.
    pub absent: Vec<Absent>,
}

impl Measured {
    /// Before the first round.
    #[must_use]
    pub fn new(system: System) -> Self {
        Self { system, mpps: Vec::new(), loss: Vec::new(), in_kernel: Vec::new() }
    }

    /// Adds a round.
    pub fn add(&mut self, mpps: f64, loss: f64, in_kernel: Option<f64>) {
        self.mpps.push(mpps);
        self.loss.push(loss);
        self.in_kernel.extend(in_kernel);
    }

    fn ns(&self) -> f64 {
        1000.0 / median(&self.mpps)
    }
}

impl Report {
    pub(super) fn new(
        kind: Kind,
        flows: u32,
        size: Size,
        measured: Vec<Measured>,
        absent: Vec<Absent>,
    ) -> Self {
        Self { kind, flows, size, measured, absent }
    }

    /// A system's rounds.
    #[must_use]
    pub fn of(&self, system: System) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.system == system)
    }

    /// Nanoseconds that a gateway adds to the chain, for those on the generator's CPU.
    #[must_use]
    pub fn gateway_ns(&self, system: System) -> Option<f64> {
        if system.has_own_cpu() || system == System::None {
            return None;
        }
        Some(self.of(system)?.ns() - self.of(System::None)?.ns())
    }

    /// As JSON: for every system `NAME_mpps`, `NAME_mpps_range`, `NAME_chain_ns`,
    /// `NAME_gateway_ns` and `NAME_loss`, null where there is no such figure; and the ratios.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("family".into(), json!(IpVersion::from(self.kind.family())));
        if let Some(mode) = self.kind.mode() {
            object.insert("mode".into(), json!(mode.name()));
        }
        object.insert("flows".into(), json!(self.flows));
        object.insert("size".into(), json!(self.size.to_string()));
        object.insert("rounds".into(), json!(self.measured.first().map_or(0, |m| m.mpps.len())));
        for measured in &self.measured {
            let name = measured.system.name();
            let mut put = |key: &str, value: Value| object.insert(format!("{name}_{key}"), value);
            put("mpps", json!(median(&measured.mpps)));
            put("mpps_range", json!(range(&measured.mpps)));
            put("chain_ns", json!(measured.ns()));
            put("gateway_ns", json!(self.gateway_ns(measured.system)));
            put("loss", json!(median(&measured.loss)));
            if measured.system == System::WeirKernel {
                put("forwarded_in_kernel", json!(median(&measured.in_kernel)));
            }
        }
        for (key, value) in self.ratios() {
            object.insert(key.into(), json!(value));
        }
        object.insert("absent".into(), json!(self.absent));
        Value::Object(object)
    }

    /// Medians of the rounds' ratios: the machine's speed changes from one second to the next, so
    /// that what was measured one after the other compares best.
    fn ratios(&self) -> Vec<(&'static str, Option<f64>)> {
        let rate = |system| Some(self.of(system)?.mpps.clone());
        let gateway_ns = |system| {
            let none = &self.of(System::None)?.mpps;
            let rounds = self.of(system)?.mpps.iter().zip(none);
            Some(rounds.map(|(mpps, none)| 1000.0 / mpps - 1000.0 / none).collect())
        };
        let over = |a: Option<Vec<f64>>, b: Option<Vec<f64>>| {
            let ratios: Vec<f64> = a?.iter().zip(b?).map(|(a, b)| a / b).collect();
            Some(median(&ratios))
        };
        let kernel = |other| over(rate(System::WeirKernel), rate(other));
        let linux = System::linux_for(self.kind);
        let mut ratios = match self.kind {
            Kind::V4 => vec![("ratio_kernel_vs_linux_nat", kernel(linux))],
            Kind::Inbound => vec![
                ("ratio_inbound_vs_outbound", kernel(System::WeirNat44)),
                (
                    "ratio_user_inbound_vs_outbound",
                    over(rate(System::WeirUser), rate(System::WeirUserNat44)),
                ),
                ("ratio_kernel_vs_linux_nat", kernel(linux)),
            ],
            Kind::V6(_) => vec![
                ("ratio_kernel_vs_linux", kernel(linux)),
                ("ratio_kernel_vs_linux_route", kernel(System::LinuxRoute)),
                ("ratio_kernel_vs_linux_nat", kernel(System::LinuxNat)),
                ("ratio_kernel_vs_linux_npt", kernel(System::LinuxNpt)),
                ("ratio_kernel_vs_nat44", kernel(System::WeirNat44)),
            ],
        };
        ratios.extend([
            ("ratio_kernel_vs_xdp_redirect", kernel(System::XdpRedirect)),
            ("ratio_kernel_vs_xdp_limit", kernel(System::XdpLimit)),
            ("ratio_user_vs_testpmd", over(rate(System::WeirUser), rate(System::Testpmd))),
            (
                "gateway_ns_ratio_linux_vs_kernel",
                over(gateway_ns(linux), gateway_ns(System::WeirKernel)),
            ),
        ]);
        ratios
    }

    /// The ratios in a line, and the share of frames that weir's kernel tier forwarded.
    fn ratios_in_words(&self) -> String {
        let known = self.ratios().into_iter().filter_map(|(name, ratio)| Some((name, ratio?)));
        let ratios: Vec<_> = known.map(|(name, ratio)| format!("`{name}` {ratio:.2}")).collect();
        let share = self.of(System::WeirKernel).map(|kernel| 100.0 * median(&kernel.in_kernel));
        let share = share.map(|share| format!("; in weir's kernel tier {share:.3} %"));
        let (ratios, share) = (ratios.join(", "), share.unwrap_or_default());
        format!("{} flows, {} bytes: {ratios}{share}.", self.flows, self.size)
    }

    /// What people want to know of a system.
    fn figures(&self, measured: &Measured) -> [String; 6] {
        let [low, high] = range(&measured.mpps);
        [
            format!("{:.3}", median(&measured.mpps)),
            format!("{low:.3}"),
            format!("{high:.3}"),
            format!("{:.0}", measured.ns()),
            self.gateway_ns(measured.system).map_or("–".into(), |ns| format!("{ns:.0}")),
            format!("{:.2} %", 100.0 * median(&measured.loss)),
        ]
    }
}

/// Headings of [`Report::figures`].
const FIGURES: [&str; 6] = ["Mpps", "lowest", "highest", "ns/packet", "gateway ns", "loss"];

/// The comparison as a section of the report: one row per number of flows, size and system.
#[must_use]
pub fn section(reports: &[Report], options: &Options) -> Section {
    let headings: Vec<_> = ["system", "flows", "bytes"].into_iter().chain(FIGURES).collect();
    let mut table = table(1, &headings);
    for report in reports {
        for measured in &report.measured {
            let name = measured.system.name().to_owned();
            let case = [name, report.flows.to_string(), report.size.to_string()];
            table.add_row(case.into_iter().chain(report.figures(measured)));
        }
    }
    let absent = reports.iter().flat_map(|report| {
        let why = |absent: &Absent| format!("{}: {}", absent.system.name(), absent.reason);
        report.absent.iter().map(move |absent| format!("{} flows: {}", report.flows, why(absent)))
    });
    let mut notes = vec![format!(
        "The same live frames for all; medians of {} interleaved rounds of {} s, each as fast as \
         the generator can. `none` is the chain without a gateway. `xdp_redirect` changes two \
         hardware addresses; `xdp_limit` does too, as the line of its flow says in a table as large \
         as weir's: what any XDP gateway with state costs here. The gateways in the kernel share the \
         generator's CPU: a gateway's own nanoseconds are those of its chain less those of `none`. \
         testpmd and weir_user forward on a CPU of their own and are offered more than they take. A \
         ratio is the median of the rounds' ratios.",
        options.rounds, options.seconds
    )];
    notes.extend(reports.first().and_then(|report| peers(report.kind)));
    notes.extend(reports.iter().map(Report::ratios_in_words));
    notes.extend(absent.map(|text| format!("Absent with {text}.")));
    Section {
        name: "compare",
        title: "Forwarding established flows, beside what else there is".into(),
        notes,
        json: json!(reports.iter().map(Report::json).collect::<Vec<_>>()),
        table,
        plots: vec![plot(reports)],
    }
}

/// What the systems of a comparison do that is of one mode.
fn peers(kind: Kind) -> Option<String> {
    let mode = kind.mode()?.name();
    if kind == Kind::Inbound {
        return Some(
            "Flows begin outside, by one uplink, for a published service of one host; what is \
             measured goes to it, after each was answered and has gone on. `linux_nat` is nft dnat. \
             `weir_nat44` and `weir_user_nat44` are weir's tiers with as many flows from inside, by \
             both uplinks, behind NAT44, and with a table of the same size."
                .into(),
        );
    }
    let linux = System::linux_for(kind).name();
    Some(format!(
        "Weir's mode is `{mode}`, for which the kernel has `{linux}` \
         (`ratio_kernel_vs_linux`). `linux_route` translates nothing, `linux_nat` address and port \
         (nft snat), `linux_npt` the prefix (SNPT and DNPT of ip6tables). `weir_nat44` is weir with \
         as many flows of IPv4, in frames of the same size, behind NAT44."
    ))
}

/// The rates with the smallest frames.
fn plot(reports: &[Report]) -> Plot {
    let small = || reports.iter().filter(|report| report.size == shortest(report.kind.family()));
    let rate = |report: &Report, system| report.of(system).map_or(0.0, |m| median(&m.mpps));
    let everywhere = |system: &System| small().any(|report| report.of(*system).is_some());
    let systems = System::ALL.into_iter().filter(everywhere);
    Plot {
        title: "Packets per second, smallest frames".into(),
        x: "flows".into(),
        y: "million per second".into(),
        data: Data::Bars(
            small().map(|report| report.flows.to_string()).collect(),
            systems
                .map(|s| (s.name().to_owned(), small().map(|report| rate(report, s)).collect()))
                .collect(),
        ),
    }
}
