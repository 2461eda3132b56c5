//! What responses are made of.

use std::net::{Ipv6Addr, SocketAddr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use weir_health::availability::Shares;
use weir_health::load::LoadView;
use weir_health::target::Status;
use weir_health::window::Figures;
use weir_health::{ProbeError, Reason, State};
use weir_view::Preference;

/// An uplink's health, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UplinkView {
    /// Its name.
    pub uplink: String,
    /// That of its IPv4 path.
    #[serde(flatten)]
    pub ipv4: PathView,
    /// That of its IPv6 path, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<PathView>,
    /// What it carries and can carry.
    pub load: Option<LoadView>,
}

/// A path's health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// Where it stands.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// For how long, milliseconds.
    pub for_ms: u64,
    /// How long it must be well before it is used again, milliseconds.
    pub hold_down_ms: u64,
    /// For how much of the last day and month it was usable.
    #[serde(default)]
    pub availability: Shares,
    /// What is probed.
    pub targets: Vec<TargetView>,
}

/// A target's health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetView {
    /// Its name.
    pub target: String,
    /// Does it answer?
    pub status: Status,
    /// Loss, round-trip time and jitter.
    #[serde(flatten)]
    pub figures: Figures,
    /// What the last failed probe failed of.
    pub error: Option<ProbeError>,
    /// How long ago, milliseconds.
    pub error_ago_ms: Option<u64>,
    /// Whether its silence takes the path down; that of an implied next hop does not.
    pub judged: bool,
}

impl TargetView {
    /// Loss in the window, between 0 and 1; none where nothing is probed: without a link, and at
    /// the start.
    pub fn loss(&self) -> Option<f64> {
        let is_probed = self.status != Status::Lapsed && self.figures.probes > 0;
        is_probed.then(|| self.figures.loss_percent.window / 100.0)
    }

    /// Mean round-trip time and jitter in the window, seconds; none where it has no answer.
    pub fn times(&self) -> Option<[f64; 2]> {
        let Figures { rtt_ms, jitter_ms, .. } = &self.figures;
        let has_answers = self.loss().is_some_and(|loss| loss < 1.0);
        has_answers.then(|| [rtt_ms.window, jitter_ms.window].map(|ms| ms / 1e3))
    }
}

/// An override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The uplink's name.
    pub uplink: String,
    /// The policy's, for a weight in one policy only.
    pub policy: Option<String>,
    /// What is overridden: `"weight"` or `"use"`.
    pub what: String,
    /// By what: the weight; `"down"`, `"draining"` or `"drained"`.
    pub value: String,
    /// Since when, seconds since the Unix epoch; none: not known any more.
    pub since_s: Option<u64>,
    /// By whom; none: not known any more.
    pub by: Option<String>,
}

/// The same, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// The file.
    pub file: String,
    /// The file that is in force: that one, or the last good one.
    pub in_force: String,
    /// Why the file as it is now is not.
    pub refused: Option<Refused>,
}

/// A file that was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// When, seconds since the Unix epoch.
    pub time_s: u64,
    /// Why.
    pub why: String,
}

/// What the hosts of a LAN were told last by router advertisements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedView {
    /// The LAN's interface.
    pub lan: String,
    /// Another program sends them: it is to be told this.
    pub by_others: bool,
    /// Hop limit of what hosts send; 0: nothing was told yet.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// How long the gateway is a default router, seconds; 0: it is none.
    pub router_lifetime_s: u16,
    /// Whether hosts are to take the gateway before other default routers.
    #[serde(default)]
    pub preference: Preference,
    /// MTU of the link; none: its usual one.
    pub mtu: Option<u32>,
    /// The prefixes, those that are no more among them.
    pub prefixes: Vec<AdvertisedPrefix>,
    /// Prefixes that the gateway leads to, likewise.
    pub routes: Vec<AdvertisedRoute>,
    /// Recursive DNS servers, likewise.
    pub dns: Vec<AdvertisedServer>,
    /// Domains in which names are searched, likewise.
    pub search: Vec<AdvertisedDomain>,
    /// What keeps the LAN from being told.
    pub trouble: Option<String>,
}

/// A prefix that hosts were told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedPrefix {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// It is on the link. Not said again where it ends what hosts have made of a prefix that stays.
    pub on_link: bool,
    /// Hosts make addresses of it, or may have made some.
    pub autonomous: bool,
    /// How long its addresses are valid, seconds; 0: it is no more.
    pub valid_s: u32,
    /// How long new connections may be made from them, seconds; 0: not now.
    pub preferred_s: u32,
}

/// A prefix that hosts were told the gateway leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedRoute {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// For how long, seconds; 0: no more.
    pub lifetime_s: u32,
}

/// A DNS server that hosts were told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedServer {
    /// Its address.
    pub server: Ipv6Addr,
    /// For how long it is one, seconds; 0: no more.
    pub lifetime_s: u32,
}

/// A domain that hosts were told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvertisedDomain {
    /// Its name.
    pub domain: String,
    /// For how long names are searched in it, seconds; 0: no more.
    pub lifetime_s: u32,
}

/// What the provider of an uplink delegates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedView {
    /// The uplink.
    pub uplink: String,
    /// Its interface.
    pub interface: String,
    /// The prefixes; none: its IPv6 path is down.
    pub prefixes: Vec<DelegatedPrefix>,
}

/// A prefix that a provider delegates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelegatedPrefix {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// How long it is routed here, seconds; none: it has no end.
    pub valid_s: Option<u64>,
    /// How long new connections should be made from it, likewise.
    pub preferred_s: Option<u64>,
    /// It is carried, or translated to.
    pub used: bool,
}

/// A port that a host has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedView {
    /// Its name among the published services.
    pub name: String,
    /// The interface of the host's LAN.
    pub lan: String,
    /// The host and its port.
    pub host: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port outside.
    pub port: u16,
    /// For how long it has it, seconds.
    pub left_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_probed_has_no_loss_and_what_does_not_answer_no_time() {
        let view = |status, probes, loss_percent: f64| {
            let mut figures = Figures { probes, ..Figures::default() };
            (figures.loss_percent.window, figures.rtt_ms.window) = (loss_percent, 20.0);
            let target = "far".into();
            TargetView { target, status, figures, error: None, error_ago_ms: None, judged: true }
        };
        let shown = |status, probes, loss_percent| {
            let view = view(status, probes, loss_percent);
            (view.loss(), view.times())
        };
        assert_eq!(shown(Status::Answering, 10, 50.0), (Some(0.5), Some([0.02, 0.0])));
        assert_eq!(shown(Status::Failed, 10, 100.0), (Some(1.0), None));
        assert_eq!(shown(Status::Untested, 0, 0.0), (None, None));
        assert_eq!(shown(Status::Lapsed, 10, 0.0), (None, None));
    }
}
