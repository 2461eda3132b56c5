//! Flows, told to a collector by IPFIX (RFC 7011), on a thread of low priority that nothing waits
//! for. It reads the flow tables as they are in shared memory, once a second.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the thread, and what it is told |
//! | `tables` | the tables that there are, read bit by bit |
//! | `follower` | what is to be told of a table's flows, and when |
//! | `gateway` | names, interfaces and times of a record |
//! | `record`, `message` | records as information elements, and messages of them |
//! | `sender` | the socket |

mod follower;
mod gateway;
mod message;
mod record;
mod sender;
mod tables;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use weir_metrics::FlowExport;
use weir_service::Complaint;
use weir_shm::Pins;
use weir_site::{IpfixConfig, Site};

use follower::Timers;
use gateway::Gateway;
use sender::Counts;
use tables::Tables;

/// How often all flows are looked at.
const READING: Duration = Duration::from_secs(1);
/// In how many steps, so that neither memory nor the collector has all of it at once.
const STEPS: usize = 20;
/// Where a CPU has more to do, a tenth of it (sched(7)): who forwards comes first.
const NICE: i32 = 10;

/// The way to the thread, which ends with this.
#[derive(Debug)]
pub struct FlowExporter {
    told: Sender<Option<IpfixConfig>>,
    last: Option<IpfixConfig>,
    counts: Arc<Counts>,
}

impl FlowExporter {
    /// Starts the thread, which tells nobody yet.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(pins: Pins) -> Result<Self> {
        let (told, heard) = channel();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let work = move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!("no lower priority: {error}");
            }
            serve(&pins, &heard, &counted);
        };
        std::thread::Builder::new()
            .name("weir-ipfix".into())
            .spawn(work)
            .context("cannot start the thread that tells of flows")?;
        Ok(Self { told, last: None, counts })
    }

    /// Tells whom the file says; never waits.
    pub fn follow(&mut self, site: &Site) {
        if self.last != site.ipfix {
            self.last.clone_from(&site.ipfix);
            // The thread ends with this alone.
            let _ = self.told.send(site.ipfix.clone());
        }
    }

    /// How much was told, if anybody is.
    pub fn counts(&self) -> Option<FlowExport> {
        self.last.as_ref()?;
        let Counts { sent, unsent, unread } = &*self.counts;
        let [sent, unsent, unread] =
            [sent, unsent, unread].map(|count| count.load(Ordering::Relaxed));
        Some(FlowExport { sent, unsent, unread })
    }
}

/// Tells whom it is told to, until that is over.
fn serve(pins: &Pins, heard: &Receiver<Option<IpfixConfig>>, counts: &Arc<Counts>) {
    let mut wanted = None;
    // Whoever collects, what was told of flows is not told again.
    let mut tables = Tables::default();
    loop {
        let next = match &wanted {
            Some(config) => export(pins, config, heard, &mut tables, counts),
            None => {
                tables = Tables::default();
                heard.recv().map_or(ControlFlow::Break(()), ControlFlow::Continue)
            }
        };
        match next {
            ControlFlow::Continue(next) => wanted = next,
            ControlFlow::Break(()) => return,
        }
    }
}

/// Tells a collector, until told otherwise, or that it is over.
fn export(
    pins: &Pins,
    config: &IpfixConfig,
    heard: &Receiver<Option<IpfixConfig>>,
    tables: &mut Tables,
    counts: &Arc<Counts>,
) -> ControlFlow<(), Option<IpfixConfig>> {
    let [active_ms, idle_ms] = [config.active, config.idle].map(|time| time.as_millis() as u32);
    let timers = Timers { active_ms, idle_ms };
    let mut sender = sender::Sender::new(config, Arc::clone(counts));
    let mut complaint = Complaint::default();
    let mut gateway = None;
    loop {
        match gateway.take().map_or_else(|| Gateway::open(pins), Ok) {
            Ok(found) => gateway = Some(found),
            // Before the dataplane's first start.
            Err(weir_shm::Error::Missing { .. }) => {}
            Err(error) => complaint.say(Some(format!("flows are not told of: {error}"))),
        }
        if let Some(gateway) = &mut gateway {
            gateway.refresh();
            tables.open(pins, &mut complaint);
        }
        sender.keep_up();
        for step in 0..STEPS {
            if let Some(gateway) = &gateway {
                let missed = tables.read(step, STEPS, timers, gateway, &mut sender);
                counts.unread.fetch_add(missed, Ordering::Relaxed);
            }
            match heard.recv_timeout(READING / STEPS as u32) {
                Err(RecvTimeoutError::Timeout) => {}
                told => {
                    sender.flush();
                    return told.map_or(ControlFlow::Break(()), ControlFlow::Continue);
                }
            }
        }
        sender.flush();
    }
}

#[cfg(test)]
mod tests;
