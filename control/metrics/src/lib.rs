//! Metrics of a gateway: what there is, and as text for Prometheus.
//!
//! Figures are read when they are asked for: from shared memory, as the command line's views read
//! it, and from what the control process [tells](Told). Nothing is kept here from one scrape to the
//! next.
//!
//! | module | what it is |
//! |---|---|
//! | this one | a scrape: what is read for it, and the text |
//! | [`metric`] | every metric: name, type, unit, labels, help |
//! | `page` | metrics and their samples, encoded |
//! | `process` | the two processes, and the configuration |
//! | `uplinks` | uplinks, their paths, and what is probed |
//! | `policies` | policies, rules, published services, sets |
//! | `packets` | what became of packets and flows |
//! | `devices` | devices, workers, LANs |
#![forbid(unsafe_code)]

mod devices;
pub mod metric;
mod packets;
mod page;
mod policies;
mod process;
mod uplinks;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;
use weir_api::{UplinkView, time};
use weir_layout::control::ControlHalf;
use weir_layout::status::StatusPage;
use weir_shm::map::Access;
use weir_shm::nat_log::NatLog;
use weir_shm::process::Process;
use weir_shm::published::Published;
use weir_shm::status::Status;
use weir_shm::{Error, Pins};
use zerocopy::FromZeros;

use page::Page;

/// What the control process tells, beside what is in shared memory.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// When the process started, CLOCK_REALTIME milliseconds.
    pub started_ms: u64,
    /// Health and load of the uplinks, in the order of the file.
    pub uplinks: Vec<UplinkView>,
    /// The LANs by their interface, and whether what their hosts send reaches weir.
    pub lans: Vec<(String, bool)>,
    /// Ports that hosts of LANs have asked for and have.
    pub mapped: usize,
    /// When the file that is in force was taken over, CLOCK_REALTIME seconds.
    pub taken_s: u64,
    /// The file as it is now was refused when it was last read.
    pub refused: bool,
    /// Flows that were told to a collector; none: there is no collector.
    pub flow_export: Option<FlowExport>,
}

/// How much a collector of flows was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowExport {
    /// Records that were sent.
    pub sent: u64,
    /// Records that could not be sent.
    pub unsent: u64,
    /// Directions of flows that were over, and their places in the table another's, before they
    /// were read.
    pub unread: u64,
}

/// How metrics are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format.
    #[default]
    Prometheus,
    /// OpenMetrics, which Prometheus asks for.
    OpenMetrics,
}

impl Format {
    /// The one that a client is to get who accepts these media types (RFC 9110 §12.5.1):
    /// OpenMetrics where it is named and not refused.
    pub fn accepted(accept: &str) -> Self {
        let named = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let is_it = parts
                .next()
                .is_some_and(|it| it.eq_ignore_ascii_case("application/openmetrics-text"));
            is_it
                && !parts
                    .any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if named { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What is said of the body.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What is known at the time of a scrape.
pub struct Scrape {
    told: Told,
    published: Option<Published>,
    page: Box<StatusPage>,
    processes: [Process; 2],
    nat_log: Option<NatLog>,
}

impl Scrape {
    /// Reads it; `None`: nothing is published yet.
    ///
    /// # Errors
    /// When shared memory is missing or cannot be mapped.
    pub fn take(pins: &Pins, told: Told) -> Result<Self, Error> {
        let published = Published::open(pins)?;
        let page = match Status::open(pins, Access::Read) {
            Ok(status) => status.read(),
            // No dataplane has been here yet.
            Err(Error::Missing { .. }) => StatusPage::new_box_zeroed().expect("memory for a page"),
            Err(error) => return Err(error),
        };
        let now = time::monotonic_ms();
        let region = weir_shm::control::ControlRegion::open(pins, Access::Read)?;
        let processes =
            [Process::control(pins, &region, now)?, Process::dataplane(pins, &page, now)?];
        let logs = |half: &ControlHalf| half.nat_log != 0;
        let nat_log = match &published {
            Some(state) if logs(&state.snapshot.half) => NatLog::open(pins, Access::Read).ok(),
            _ => None,
        };
        Ok(Self { told, published, page, processes, nat_log })
    }

    /// As text.
    pub fn text(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        let written = match format {
            Format::Prometheus => prometheus_text::encode(&mut text, &registry),
            Format::OpenMetrics => text::encode(&mut text, &registry),
        };
        written.expect("a string takes all");
        text
    }

    fn dataplane(&self) -> &Process {
        &self.processes[1]
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("told", &self.told).finish_non_exhaustive()
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        process::add(self, &mut page)?;
        devices::add_lans(self, &mut page)?;
        uplinks::add_told(&self.told, &mut page)?;
        process::add_flow_export(self.told.flow_export.as_ref(), &mut page)?;
        let Some(state) = &self.published else { return Ok(()) };
        uplinks::add(state, &mut page)?;
        policies::add(state, &mut page)?;
        packets::add(state, &mut page)?;
        packets::add_nat_log(self.nat_log.as_ref(), &mut page)?;
        devices::add(self, state, &mut page)
    }
}

#[cfg(test)]
mod tests {
    use weir_api::{PathView, TargetView};
    use weir_health::availability::Shares;
    use weir_health::load::LoadView;
    use weir_health::window::{Figure, Figures};
    use weir_health::{Reason, State, Status as Answers};
    use weir_shm::Role;

    use super::*;

    /// An uplink with an IPv4 path, and a target whose name is hard to write.
    fn told() -> Told {
        let figure = |window| Figure { window, weighted: 0.0 };
        let target = TargetView {
            target: "a \"b\"\n\\".into(),
            status: Answers::Answering,
            figures: Figures {
                loss_percent: figure(25.0),
                probes: 20,
                rtt_ms: figure(12.5),
                ..Figures::default()
            },
            error: None,
            error_ago_ms: None,
            judged: true,
        };
        let ipv4 = PathView {
            state: State::Recovering { until: 9 },
            reason: Reason::Started,
            for_ms: 0,
            hold_down_ms: 0,
            availability: Shares::default(),
            targets: vec![target],
        };
        let mut load = LoadView::default();
        (load.down.load, load.up.capacity) = (8000, Some(80));
        let uplink = UplinkView { uplink: "fiber".into(), ipv4, ipv6: None, load: Some(load) };
        let flow_export = Some(FlowExport { sent: 7, unsent: 5, unread: 3 });
        let lans = vec![("lan0".into(), false)];
        Told { uplinks: vec![uplink], lans, flow_export, ..Told::default() }
    }

    fn text(format: Format) -> String {
        let process = |role, runs| Process { role, pid: 0, runs, silence_ms: 0 };
        let processes = [process(Role::Control, true), process(Role::Dataplane, false)];
        let page = StatusPage::new_box_zeroed().unwrap();
        Scrape { told: told(), published: None, page, processes, nat_log: None }.text(format)
    }

    #[test]
    fn what_is_told_is_written_in_base_units_and_with_names_escaped() {
        let text = text(Format::Prometheus);
        let labels = r#"{uplink="fiber",family="ipv4",target="a \"b\"\n\\"}"#;
        for line in [
            &format!("weir_probe_up{labels} 1"),
            &format!("weir_probe_loss_ratio{labels} 0.25"),
            &format!("weir_probe_rtt_seconds{labels} 0.0125"),
            r#"weir_path_state{uplink="fiber",family="ipv4",state="recovering"} 1"#,
            r#"weir_path_state{uplink="fiber",family="ipv4",state="up"} 0"#,
            r#"weir_uplink_load_bytes_per_second{uplink="fiber",direction="down"} 1000.0"#,
            r#"weir_lan_up{lan="lan0"} 0"#,
            "weir_ipfix_sent_records_total 7",
            r#"weir_ipfix_lost_records_total{reason="unsent"} 5"#,
            r#"weir_ipfix_lost_records_total{reason="unread"} 3"#,
            r#"weir_process_up{process="dataplane"} 0"#,
            "# TYPE weir_build_info gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("weir_path_up"), "nothing is published");
    }

    #[test]
    fn open_metrics_have_units_and_an_end() {
        let text = text(Format::OpenMetrics);
        assert!(text.contains("# UNIT weir_probe_rtt_seconds seconds\n"), "{text}");
        assert!(text.contains("# TYPE weir_build info\nweir_build_info{version="), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn open_metrics_are_for_those_who_name_them() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in
            ["", "*/*", "text/plain", "application/openmetrics-text;q=0, text/plain", ",;,"]
        {
            assert_eq!(Format::accepted(other), Format::Prometheus, "{other}");
        }
    }
}
