//! What weir says when it is asked, and what its shared memory shows.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, bail};
use weir_api::{AdvertisedView, DelegatedView, Query, Request, Response, UplinkView};
use weir_health::{Event, Part, Transition};
use weir_layout::Family;
use weir_layout::control::PathId;
use weir_layout::counters::PathCounters;
use weir_layout::flow::flag;
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::flows::{Entry4, FlowTable4};
use weir_shm::hosts::{HostPrefixes, Hosts4};
use weir_shm::map::Access;
use weir_shm::status::Status;

use super::{UPLINKS, Weir};
use crate::{process, wait};

/// A change of state, as the history has it.
#[derive(Clone, Debug)]
pub struct Change {
    /// When, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Whose.
    pub part: Part,
    /// What changed.
    pub transition: Transition,
}

impl Weir {
    /// Makes a request of the control process; the epoch from which it is obeyed.
    ///
    /// # Errors
    /// When it is refused or nobody answers.
    pub fn request(&self, request: &Request) -> Result<u64> {
        match weir_api::call(&self.socket(), request)? {
            Response::Ok { epoch, .. } => Ok(epoch),
            Response::Error { message } => bail!("refused: {message}"),
            other => bail!("not an answer to {request:?}: {other:?}"),
        }
    }

    /// Sets an uplink's weight.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn weight(&self, uplink: &str, weight: u32) -> Result<u64> {
        self.request(&Request::Weight { uplink: uplink.into(), weight, policy: None })
    }

    /// The uplinks' state words.
    ///
    /// # Errors
    /// When the control page cannot be read.
    pub fn states(&self) -> Result<Vec<u32>> {
        let region = self.control()?;
        Ok((0..UPLINKS.len() as u8).map(|index| region.path_state(PathId::v4(index))).collect())
    }

    /// The changes of the states of uplinks and LANs.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn history(&self) -> Result<Vec<Change>> {
        let entries = match weir_api::ask(&self.socket(), &Query::History { since: 0 })? {
            Response::History { entries } => entries,
            other => bail!("no history: {other:?}"),
        };
        let changes = entries.into_iter().filter_map(|entry| match entry.event {
            Event::State { part, transition } => {
                Some(Change { time_ms: entry.time_ms, part, transition })
            }
            Event::Tier(_) | Event::Command(_) => None,
        });
        Ok(changes.collect())
    }

    /// How the uplinks are.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn health(&self) -> Result<Vec<UplinkView>> {
        match weir_api::ask(&self.socket(), &Query::Health)? {
            Response::Health { uplinks } => Ok(uplinks),
            other => bail!("no health: {other:?}"),
        }
    }

    /// What the hosts of LANs were told last by router advertisements.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn advertised(&self) -> Result<Vec<AdvertisedView>> {
        match weir_api::ask(&self.socket(), &Query::Advertised)? {
            Response::Advertised { lans } => Ok(lans),
            other => bail!("no advertisements: {other:?}"),
        }
    }

    /// What providers delegate, by the uplinks that the file leaves to that.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn delegated(&self) -> Result<Vec<DelegatedView>> {
        match weir_api::ask(&self.socket(), &Query::Delegated)? {
            Response::Delegated { uplinks } => Ok(uplinks),
            other => bail!("no delegated prefixes: {other:?}"),
        }
    }

    /// Process identifiers of the control process and the dataplane.
    ///
    /// # Errors
    /// When the shared memory cannot be mapped.
    pub fn processes(&self) -> Result<[u32; 2]> {
        let dataplane = Status::open(&self.pins, Access::Read)?.read().pid;
        Ok([u32::try_from(self.control()?.control_process().0)?, u32::try_from(dataplane)?])
    }

    /// The control page and the bucket tables.
    ///
    /// # Errors
    /// When they cannot be mapped.
    pub fn control(&self) -> Result<ControlRegion> {
        Ok(ControlRegion::open(&self.pins, Access::Read)?)
    }

    /// What is published.
    ///
    /// # Errors
    /// When nothing is.
    pub fn snapshot(&self) -> Result<Box<Snapshot>> {
        self.control()?.snapshot().context("nothing is published")
    }

    /// Destinations with a class of their own: the gateway's addresses, and what LANs reach by the
    /// kernel.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn hosts(&self) -> Result<HostPrefixes> {
        Ok(Hosts4::open(&self.pins)?.prefixes()?)
    }

    /// The flow that begins at an address and port behind a LAN: what it sends, and what comes
    /// back.
    ///
    /// # Errors
    /// When there is none.
    pub fn flow(&self, source: SocketAddrV4) -> Result<[Entry4; 2]> {
        let table = FlowTable4::read_only(&self.pins)?;
        let is_it = |entry: &Entry4| {
            entry.flags & flag::INITIATED != 0
                && (entry.key.src(), entry.key.sport())
                    == (source.ip().octets(), source.port().to_be_bytes())
        };
        let mut entries = (0..table.capacity()).filter_map(|index| table.slot(index).read());
        let forward = entries.find(is_it).with_context(|| format!("no flow from {source}"))?;
        let back = table.slot(forward.peer).read().context("no flow back")?;
        Ok([forward, back])
    }

    /// Flows of UDP that began outside and whose clients have gone on after the answer. The others
    /// end as soon as they are idle for half a minute.
    ///
    /// # Errors
    /// When the table cannot be mapped.
    pub fn proven(&self) -> Result<usize> {
        const ASKED: u8 = flag::INITIATED | flag::INSIDE;
        let table = FlowTable4::read_only(&self.pins)?;
        let entries = (0..table.capacity()).filter_map(|index| table.slot(index).read());
        let is_proven = |entry: &Entry4| {
            entry.flags & ASKED == flag::INITIATED && entry.flags & flag::GOES_ON != 0
        };
        Ok(entries.filter(is_proven).count())
    }

    /// The counters.
    ///
    /// # Errors
    /// When they cannot be mapped.
    pub fn counters(&self) -> Result<Counters> {
        Ok(Counters::open(&self.pins, Access::Read)?)
    }

    /// Counters of each uplink's path in a family.
    ///
    /// # Errors
    /// As [`Self::counters`].
    pub fn paths(&self, family: Family) -> Result<Vec<PathCounters>> {
        let counters = self.counters()?;
        let uplinks = 0..UPLINKS.len() as u8;
        Ok(uplinks.map(|uplink| counters.path(PathId::new(uplink, family))).collect())
    }

    /// Counters of each uplink's IPv4 path.
    ///
    /// # Errors
    /// As [`Self::counters`].
    pub fn uplinks(&self) -> Result<Vec<PathCounters>> {
        self.paths(Family::V4)
    }

    /// How a device is, as `weir status` tells: state, and why; `None`: it does not name the
    /// device.
    ///
    /// # Errors
    /// When the command fails.
    pub fn device(&self, interface: &str) -> Result<Option<(String, String)>> {
        let output = process::output(&mut self.cli(&["--json", "status"])?)?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let devices = status["status"]["devices"].as_array().context("no devices")?;
        let device = devices.iter().find(|device| device["interface"] == interface);
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(device.map(|device| (text(&device["state"]), text(&device["why"]))))
    }

    /// Waits until a device is in a state, and its reason has these words.
    ///
    /// # Errors
    /// When it is not; the error has how it was last, and the log.
    pub fn wait_for_device(&self, interface: &str, state: &str, words: &str) -> Result<()> {
        let mut last = None;
        wait::until(&format!("{interface} to be {state}"), wait::BOUND, || {
            last = self.device(interface)?;
            let so = last.as_ref().is_some_and(|(is, why)| is == state && why.contains(words));
            Ok(so.then_some(()))
        })
        .with_context(|| format!("{last:?}\n{}", self.log("weir-dataplane")))
    }
}
