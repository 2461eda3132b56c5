//! Every metric: name, type, unit, labels, help.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until what counts starts anew.
    Counter,
    /// It is what it is now.
    Gauge,
    /// It is 1, and says something by its labels.
    Info,
}

/// In what a metric is, where its name ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// A metric, as OpenMetrics has it: its name is without unit and suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// In what.
    pub unit: Option<Unit>,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

impl Kind {
    pub(crate) const fn encoded(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Info => MetricType::Info,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Info => "info",
        }
    }
}

impl Unit {
    pub(crate) fn encoded(self) -> &'static registry::Unit {
        static BYTES: registry::Unit = registry::Unit::Bytes;
        static SECONDS: registry::Unit = registry::Unit::Seconds;
        match self {
            Self::Bytes => &BYTES,
            Self::Seconds => &SECONDS,
        }
    }
}

impl Metric {
    /// The name that its samples have.
    pub fn sample(&self) -> String {
        let unit = match self.unit {
            None => "",
            Some(Unit::Bytes) => "_bytes",
            Some(Unit::Seconds) => "_seconds",
        };
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Gauge => "",
            Kind::Info => "_info",
        };
        format!("{}{unit}{suffix}", self.name)
    }
}

macro_rules! unit {
    () => {
        None
    };
    ($unit:ident) => {
        Some(Unit::$unit)
    };
}

macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal $(in $unit:ident)?
        by [$($label:literal),*]: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: unit!($($unit)?),
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them.
        pub const ALL: &[Metric] = &[$($id),*];
    };
}

metrics! {
    // The processes, and the configuration.
    BUILD = Info "weir_build" by ["version"]: "Version of weir-control";
    START_TIME = Gauge "process_start_time" in Seconds by []:
        "When weir-control started, since the Unix epoch";
    PROCESS_UP = Gauge "weir_process_up" by ["process"]: "1: the process runs, and its loop turns";
    PROCESS_SILENCE = Gauge "weir_process_silence" in Seconds by ["process"]:
        "Time since the last sign of life of the process, which gives several a second";
    EPOCH = Gauge "weir_published_epoch" by []:
        "Epoch of what is published to the dataplane: it grows with every publication";
    RELOAD_OK = Gauge "weir_config_last_reload_successful" by []:
        "0: the configuration file was refused when it was last read, and another is in force";
    RELOAD_TIME = Gauge "weir_config_last_reload_success_timestamp" in Seconds by []:
        "When the configuration that is in force was taken over, since the Unix epoch";

    // Uplinks.
    UPLINK = Info "weir_uplink" by ["uplink", "interface"]: "Interface of the uplink";
    UPLINK_WEIGHT = Gauge "weir_uplink_weight" by ["uplink"]:
        "Weight of the uplink in policies that give it none of their own";
    UPLINK_DRAINING = Gauge "weir_uplink_draining" by ["uplink"]:
        "1: the uplink is being emptied by hand";
    UPLINK_SATURATED = Gauge "weir_uplink_saturated" by ["uplink"]:
        "1: the uplink is too full for new flows, while others have room";
    UPLINK_LOAD = Gauge "weir_uplink_load_bytes_per_second" by ["uplink", "direction"]:
        "What the uplink carried in the last second, from the IP header on; down is from the \
         provider";
    UPLINK_CAPACITY = Gauge "weir_uplink_capacity_bytes_per_second"
        by ["uplink", "direction", "source"]:
        "What the uplink can carry, by the configuration or as learned, from the IP header on";
    UPLINK_BASE_RTT = Gauge "weir_uplink_base_rtt" in Seconds by ["uplink"]:
        "Round-trip time of the uplink when it does not queue";

    // Paths: an uplink in one address family.
    PATH_UP = Gauge "weir_path_up" by ["uplink", "family"]:
        "1: the path is used, if as the last resort";
    PATH_CONDITION = Gauge "weir_path_condition" by ["uplink", "family", "condition"]:
        "1: this holds of the path; why it is down, or takes no new flows";
    PATH_STATE = Gauge "weir_path_state" by ["uplink", "family", "state"]:
        "1: the path is in this state of health";
    PATH_CHANGED = Gauge "weir_path_last_change_timestamp" in Seconds by ["uplink", "family"]:
        "When the path last came up or went down, since the Unix epoch";
    PATH_FLOWS = Gauge "weir_path_flows" by ["uplink", "family"]: "Flows on the path";
    PATH_CREATED = Counter "weir_path_flows_created" by ["uplink", "family"]:
        "Flows placed on the path";
    PATH_TX_PACKETS = Counter "weir_path_transmit_packets" by ["uplink", "family"]:
        "Packets sent to the provider";
    PATH_TX_BYTES = Counter "weir_path_transmit" in Bytes by ["uplink", "family"]:
        "Bytes sent to the provider, from the IP header on";
    PATH_RX_PACKETS = Counter "weir_path_receive_packets" by ["uplink", "family"]:
        "Packets of flows that came from the provider";
    PATH_RX_BYTES = Counter "weir_path_receive" in Bytes by ["uplink", "family"]:
        "Bytes of flows that came from the provider, from the IP header on";
    PATH_SEGMENTS = Counter "weir_path_tcp_segments" by ["uplink", "family"]:
        "TCP segments with data that workers saw, of either direction";
    PATH_RETRANSMITTED = Counter "weir_path_tcp_retransmitted_segments" by ["uplink", "family"]:
        "Those of these segments that had nothing new";

    // What is probed of a path.
    PROBE_UP = Gauge "weir_probe_up" by ["uplink", "family", "target"]: "1: the target answers";
    PROBE_JUDGED = Gauge "weir_probe_judged" by ["uplink", "family", "target"]:
        "1: silence of the target takes the path down";
    PROBE_LOSS = Gauge "weir_probe_loss_ratio" by ["uplink", "family", "target"]:
        "Probes lost of those in the window, 0 to 1";
    PROBE_RTT = Gauge "weir_probe_rtt" in Seconds by ["uplink", "family", "target"]:
        "Mean round-trip time of the probes in the window; none without an answer";
    PROBE_JITTER = Gauge "weir_probe_jitter" in Seconds by ["uplink", "family", "target"]:
        "Mean difference of successive round-trip times in the window; none without an answer";

    // Policies, rules, services, sets.
    POLICY_TIER = Gauge "weir_policy_active_tier" by ["policy", "family"]:
        "Tier of the policy that takes new flows; 0: none can. Of families that a member has";
    MEMBER_TIER = Gauge "weir_policy_member_tier" by ["policy", "uplink", "family"]:
        "Tier of the uplink in the policy";
    MEMBER_WEIGHT = Gauge "weir_policy_member_weight" by ["policy", "uplink", "family"]:
        "Weight of the uplink in the policy";
    MEMBER_SHARE = Gauge "weir_policy_member_share_ratio" by ["policy", "uplink", "family"]:
        "How much of the policy's new flows the uplink is to get, 0 to 1";
    RULE_HITS = Counter "weir_rule_hits" by ["rule"]:
        "Packets that the rules of this name decided about, since the dataplane started";
    SERVICE_CREATED = Counter "weir_service_flows_created" by ["service", "family", "protocol"]:
        "Flows that began of the published service, but for those to the gateway itself";
    PORT_MAPPINGS = Gauge "weir_port_mappings" by []:
        "Ports that hosts of LANs have asked for and have";
    SET_PREFIXES = Gauge "weir_set_prefixes" by ["set", "family"]: "Prefixes in the set";

    // Packets and flows.
    RECEIVED = Counter "weir_packets_received" by ["tier"]:
        "Frames that the XDP program (kernel) or the workers (user) received";
    FORWARDED = Counter "weir_packets_forwarded" by ["tier"]:
        "Packets that the XDP program (kernel) redirected or the workers (user) sent";
    TO_USER = Counter "weir_packets_to_workers" by []: "Packets that XDP gave to workers";
    PASSED = Counter "weir_packets_passed" by ["reason"]:
        "Packets that XDP left to the kernel's own network stack, by the reason";
    DROPPED = Counter "weir_packets_dropped" by ["tier", "reason"]:
        "Packets that were dropped, or answered with an error of weir's own, by the reason";
    HANDED_OVER = Counter "weir_packets_handed_over" by []:
        "Packets that a worker gave to the one whose flow they are of";
    ORIGINATED = Counter "weir_packets_originated" by []:
        "Packets that workers made themselves: ICMP errors, TCP resets";
    FLOW_EVENTS = Counter "weir_flow_events" by ["event"]:
        "Flows created, expired, moved to another uplink, reset, adopted of an earlier process";
    TABLE_FLOWS = Gauge "weir_flow_table_flows" by ["family"]: "Flows in the table";
    TABLE_SLOTS = Gauge "weir_flow_table_slots" by ["family"]:
        "Slots of the table, of which a flow takes two";
    NAT_LOG_UP = Gauge "weir_nat_log_up" by []: "1: the log of NAT allocations can be written";
    NAT_LOG_LOST = Counter "weir_nat_log_lost_records" by []:
        "Records that the log of NAT allocations lost";
    IPFIX_SENT = Counter "weir_ipfix_sent_records" by []:
        "Records of flows that were sent to the collector";
    IPFIX_LOST = Counter "weir_ipfix_lost_records" by ["reason"]:
        "Records of flows that could not be sent at once, or whose flows were gone unread";

    // Devices, workers, LANs.
    DEVICE = Info "weir_device" by ["device", "xdp", "mode"]:
        "Where XDP runs on the device, and how its sockets have their frames";
    DEVICE_UP = Gauge "weir_device_up" by ["device"]:
        "1: the XDP program is on the device, and each of its queues has a socket";
    DEVICE_LOST = Counter "weir_device_receive_dropped" by ["device", "reason"]:
        "Frames that its sockets lost before a worker had them, since these were made";
    DEVICE_FILL_EMPTY = Counter "weir_device_fill_ring_empty" by ["device"]:
        "Times that the kernel found no frame to receive into, since the sockets were made";
    DEVICE_TX = Counter "weir_device_transmit_completed" by ["device"]:
        "Frames of workers that the kernel took, since the sockets were made";
    DEVICE_TX_LOST = Counter "weir_device_transmit_dropped" by ["device"]:
        "Frames of workers that the kernel refused, since the sockets were made";
    TAP_REFUSED = Counter "weir_tap_refused_packets" by []:
        "Frames that the tap device refused, since the dataplane started: a device was down";
    WORKERS = Gauge "weir_workers" by []: "Worker threads that run";
    WORKER_RECEIVED = Counter "weir_worker_packets_received" by ["worker"]:
        "Frames that the worker received from its sockets";
    WORKER_SENT = Counter "weir_worker_packets_sent" by ["worker"]:
        "Frames that the worker handed to a port";
    WORKER_DROPPED = Counter "weir_worker_packets_dropped" by ["worker"]:
        "Packets that the worker dropped";
    WORKER_FLOWS = Gauge "weir_worker_flows" by ["worker"]: "Flows that the worker owns";
    WORKER_FRAMES = Gauge "weir_worker_frames" by ["worker"]:
        "Frames of the worker's packet memory";
    WORKER_FRAMES_ACCOUNTED = Gauge "weir_worker_frames_accounted" by ["worker"]:
        "Those of these frames that it knows of: fewer are a leak";
    WORKER_SILENCE = Gauge "weir_worker_silence" in Seconds by ["worker"]:
        "Time since the worker last finished a turn";
    WORKER_EPOCH = Gauge "weir_worker_epoch" by ["worker"]:
        "Epoch of the publication that the worker works by";
    LAN_UP = Gauge "weir_lan_up" by ["lan"]: "1: what hosts of the LAN send reaches weir";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_by_the_conventions() {
        let names: BTreeSet<String> = ALL.iter().map(Metric::sample).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let sample = metric.sample();
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(sample.chars().all(plain), "{sample}");
            assert!(sample.starts_with("weir_") || metric == &START_TIME, "{sample}");
            let mut help = metric.help.chars();
            assert!(
                help.next().is_some_and(|c| c.is_uppercase() || c.is_ascii_digit()),
                "{sample}"
            );
            assert!(!metric.help.ends_with('.'), "{sample}");
        }
    }

    #[test]
    fn the_document_lists_every_metric_as_it_is() {
        let document = include_str!("../../../docs/metrics.md");
        let (_, list) = document.split_once("## All metrics").unwrap();
        let listed: Vec<&str> = list.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = ALL.iter().map(line).collect();
        assert_eq!(listed, wanted, "docs/metrics.md should have:\n{}", wanted.join("\n"));
    }

    fn line(metric: &Metric) -> String {
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { "-".to_owned() } else { labels.join(", ") };
        format!("| `{}` | {} | {labels} | {} |", metric.sample(), metric.kind.name(), metric.help)
    }
}
