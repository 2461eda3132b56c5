//! When what users' connections do counts against an uplink.

use serde::{Deserialize, Serialize};

use super::{Fault, Limits};

/// When users' connections count as failing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, such as { enabled = false }")]
pub struct Passive {
    /// Are users' connections a signal at all? By default where the uplink has another beside it in
    /// its tier of some policy: new flows are not sent to a metered backup because of them.
    pub enabled: Option<bool>,
    /// How far back counts matter, milliseconds; 5 000 by default.
    pub window_ms: u32,
    /// New TCP connections without SYN-ACK, percent; 50 and 20 by default.
    pub syn_percent: Option<Limits>,
    /// New UDP flows without reply, percent; 90 and 50 by default: much UDP is one-way.
    pub udp_percent: Option<Limits>,
    /// TCP segments sent again, percent, without those of the user and of the remote that have most
    /// of them; 20 and 10 by default.
    pub retransmit_percent: Option<Limits>,
    /// Fewest new flows that say anything; 20 by default.
    pub min_flows: u32,
    /// Fewest remote hosts among those that do not answer; 4 by default.
    pub min_remotes: u32,
    /// Fewest local hosts, by hardware address, among those that get no answer; 2 by default.
    pub min_users: u32,
    /// Fewest segments that say anything; 1 000 by default.
    pub min_segments: u32,
}

impl Default for Passive {
    fn default() -> Self {
        Self {
            enabled: None,
            window_ms: 5000,
            syn_percent: Some(Limits { fail: 50, recover: 20 }),
            udp_percent: Some(Limits { fail: 90, recover: 50 }),
            retransmit_percent: Some(Limits { fail: 20, recover: 10 }),
            min_flows: 20,
            min_remotes: 4,
            min_users: 2,
            min_segments: 1000,
        }
    }
}

impl Passive {
    pub(super) fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !(1000..=600_000).contains(&self.window_ms) {
            faults.push(Fault {
                field: "passive.window_ms".into(),
                what: format!("{} is out of range", self.window_ms),
                help: "use 1000 to 600000".into(),
            });
        }
        let figures = [
            ("syn_percent", self.syn_percent),
            ("udp_percent", self.udp_percent),
            ("retransmit_percent", self.retransmit_percent),
        ];
        for (field, limits) in figures {
            let Some(Limits { fail, recover }) = limits else { continue };
            if fail > 100 || recover >= fail {
                faults.push(Fault {
                    field: format!("passive.{field}"),
                    what: format!("fail {fail} and recover {recover} are no limits"),
                    help: "use recover < fail <= 100".into(),
                });
            }
        }
        faults
    }
}
