//! A site whose uplinks are lines that weir probes: what tests of health and failover start from.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use weir_health::State;
use weir_layout::Family;

use crate::line::Line;
use crate::plan::Plan;
use crate::server::{ECHO_PORT, Server};
use crate::topology::Topology;
use crate::wait;
use crate::weir::{Change, UPLINKS, Weir};

/// The server that is probed and talked to.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// Its echo port.
pub const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);

/// Ten probes a second of each target; an uplink is back after half a second. A machine that is
/// busy for a while answers late, which is no fault of a link: answers are waited for a second.
pub const QUICK: &str =
    "interval_ms = 100\ntimeout_ms = 1000\nup = 3\nhold_down_ms = 500\nwindow = 20\n";

/// Two targets: an echo by ICMP and a connection by TCP, both of [`SERVER`].
pub const TARGETS: &str = r#"
[[health.targets]]
name = "ping"
probe = "icmp"
address = "198.51.100.1"
[[health.targets]]
name = "echo"
probe = "tcp"
address = "198.51.100.1:7"
"#;

/// A site with weir on its gateway and health checks on.
pub struct Probed {
    /// Both processes.
    pub weir: Weir,
    /// The servers.
    pub server: Server,
    /// The site. Last, so that everything in it ends before.
    pub topology: Topology,
}

impl Probed {
    /// Builds a site whose uplinks are all lines, of equal weight, and starts weir with these keys
    /// of `[health]` and two targets behind the providers. Returns when all uplinks are up.
    ///
    /// # Errors
    /// As those of [`Topology::build`] and [`Weir::start`].
    pub fn start(uplinks: usize, hosts: usize, health: &str) -> Result<Self> {
        let mut plan = Plan::new(uplinks, hosts);
        plan.lines = (0..uplinks).collect();
        let topology = Topology::build(plan)?;
        let server = Server::start(&topology.internet, SERVER)?;
        let weir = Weir::start(&topology, &Self::configuration(&topology, health))?;
        let probed = Self { weir, server, topology };
        for index in 0..uplinks {
            probed.until(index, "to be up", |entries| is(entries, State::Up))?;
        }
        Ok(probed)
    }

    /// What [`Self::start`] configures.
    #[must_use]
    pub fn configuration(topology: &Topology, health: &str) -> String {
        let base = Weir::configuration(topology, &[1; UPLINKS.len()]);
        format!("{base}\n[health]\n{health}\n{TARGETS}")
    }

    /// The line of an uplink.
    #[must_use]
    pub fn line(&self, uplink: usize) -> &Line {
        self.topology.line(uplink)
    }

    /// The changes of an uplink's state, oldest first.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn history(&self, uplink: usize) -> Result<Vec<Change>> {
        let mut entries = self.weir.history()?;
        entries.retain(|entry| entry.part.uplink() == Some(UPLINKS[uplink]));
        Ok(entries)
    }

    /// Waits until the history of an uplink is as wanted; that history.
    ///
    /// # Errors
    /// When it is not within [`wait::BOUND`]; the error has the history.
    pub fn until(
        &self,
        uplink: usize,
        what: &str,
        wanted: impl Fn(&[Change]) -> bool,
    ) -> Result<Vec<Change>> {
        let mut seen = Vec::new();
        wait::until(&format!("{} {what}", UPLINKS[uplink]), wait::BOUND, || {
            seen = self.history(uplink)?;
            Ok(wanted(&seen).then(|| seen.clone()))
        })
        .with_context(|| format!("its history: {}", told(&seen)))
    }

    /// Whether the default policy gives new flows to an uplink.
    ///
    /// # Errors
    /// When nothing is published.
    pub fn takes(&self, uplink: usize) -> Result<bool> {
        let snapshot = self.weir.snapshot()?;
        let table = snapshot.table(Family::V4, 0);
        Ok(table.is_some_and(|table| table.contains(&(uplink as u8))))
    }
}

/// Whether the newest entry leads to a state of this kind.
#[must_use]
pub fn is(entries: &[Change], state: State) -> bool {
    let now = entries.last().map(|entry| entry.transition.to);
    now.is_some_and(|now| std::mem::discriminant(&now) == std::mem::discriminant(&state))
}

/// A history for people.
#[must_use]
pub fn told(entries: &[Change]) -> String {
    let line = |entry: &Change| {
        let (time, transition) = (entry.time_ms, &entry.transition);
        format!("{time} {} {}: {}", entry.part, transition.to, transition.reason)
    };
    entries.iter().map(line).collect::<Vec<_>>().join("\n")
}
