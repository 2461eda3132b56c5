//! Ports that hosts of LANs ask for, by PCP, NAT-PMP and UPnP: one thread for all LANs, which has
//! their sockets and their time. What is answered, [`weir_pcp`] and [`weir_upnp`] have; what is
//! granted, [`weir_ports`].
//!
//! | module | what it is |
//! |---|---|
//! | this one | the way to the thread |
//! | `task` | the thread's loop |
//! | `sockets` | the sockets of each LAN, for PCP and NAT-PMP |
//! | `upnp` | and what is heard and told by UPnP |
//! | `gate` | whose requests are heard |
//! | `record` | what hosts have, on disk |
//! | `journal` | and in the journal |
//!
//! A flood of requests takes the thread's time and nobody else's. What hosts have is handed to the
//! daemon all at once and at most so often, however many ask; it publishes that with the next half,
//! and says so. Only then is who asked told.
//!
//! When this process ends, what is published stays in force, and the next one has it from disk.

mod gate;
mod journal;
mod record;
mod sockets;
mod task;
mod upnp;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::{mpsc, oneshot, watch};
use weir_api::{MappedView, time};
use weir_ports::{Mapping, Situation};

use record::Record;
use task::Task;

/// How long the daemon waits for the thread.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for it to tell hosts.
const FAREWELL: Duration = Duration::from_millis(200);

/// What hosts have.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// Its number: what is of a later one comes later.
    version: u64,
    mappings: Vec<Mapping>,
}

/// A mapping to be ended by name, and where to say whether there was one.
type Removal = (String, oneshot::Sender<bool>);

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct PortMapper {
    situation: watch::Sender<Situation>,
    wanted: watch::Receiver<Wanted>,
    /// The version that was taken last.
    taken: u64,
    published: watch::Sender<u64>,
    removals: mpsc::Sender<Removal>,
    shown: Arc<Mutex<Vec<Mapping>>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for PortMapper {
    /// Has the thread tell hosts that it ends, and waits for that, but not for ever.
    fn drop(&mut self) {
        drop(std::mem::replace(&mut self.situation, watch::channel(Situation::default()).0));
        let Some(thread) = self.thread.take() else { return };
        let end = Instant::now() + FAREWELL;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl PortMapper {
    /// Starts the thread. `record` is the file of what hosts have.
    ///
    /// # Errors
    /// Without a thread or a runtime for it.
    pub fn start(record: PathBuf, seed: u64) -> io::Result<Self> {
        let record = Record::new(record);
        let mappings = record.read(time::monotonic_ms(), time::now_s());
        let (situation, told) = watch::channel(Situation::default());
        // What there was is not published yet.
        let (want, wanted) = watch::channel(Wanted { version: 1, mappings: mappings.clone() });
        let (published, in_force) = watch::channel(0);
        let (removals, removed) = mpsc::channel(1);
        let shown = Arc::default();
        let task = Task::new(mappings, record, want, Arc::clone(&shown), seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = move || {
            // The daemon's priority is not for it.
            let _ = rustix::process::setpriority_process(None, 0);
            runtime.block_on(task.run(told, in_force, removed));
        };
        let thread = Some(std::thread::Builder::new().name("weir-ports".into()).spawn(work)?);
        Ok(Self { situation, wanted, taken: 0, published, removals, shown, thread })
    }

    /// Returns when hosts have other ports than before.
    pub async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The ports that hosts have, if they are others than when this was last asked.
    pub fn take(&mut self) -> Option<Vec<Mapping>> {
        let wanted = self.wanted.borrow_and_update();
        let is_new = wanted.version != self.taken;
        self.taken = wanted.version;
        is_new.then(|| wanted.mappings.clone())
    }

    /// What was taken last is in force, and this is what hosts may have now.
    pub fn follow(&self, situation: Situation) {
        let set = |known: &mut u64| std::mem::replace(known, self.taken) != self.taken;
        self.published.send_if_modified(set);
        self.situation.send_if_modified(|known| {
            let differs = *known != situation;
            *known = situation;
            differs
        });
    }

    /// Ends a mapping by name; says whether there was one.
    ///
    /// # Errors
    /// When the thread does not answer in time: then the mapping stays.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        let (done, answer) = oneshot::channel();
        let asked = async {
            self.removals.send((name.to_owned(), done)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Some(removed)) => Ok(removed),
            Ok(None) => bail!("nothing grants ports to hosts any more: start weir-control again"),
            Err(_) => bail!(
                "what grants ports to hosts has not answered for {} s: try again",
                PATIENCE.as_secs()
            ),
        }
    }

    /// What hosts have.
    pub fn view(&self) -> Vec<MappedView> {
        let now = time::monotonic_ms();
        let view = |mapping: &Mapping| MappedView {
            name: mapping.name(),
            lan: mapping.lan.clone(),
            host: mapping.inside,
            protocol: mapping.protocol,
            port: mapping.port,
            left_s: mapping.until.saturating_sub(now) / 1000,
        };
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.iter().map(view).collect()
    }
}

/// A datagram that a host sent, by one of the sockets.
#[derive(Debug)]
struct Datagram {
    socket: Arc<sockets::Bound>,
    from: SocketAddr,
    bytes: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_daemon_does_not_wait_for_ever_for_a_thread_that_is_busy_or_gone() {
        let (removals, removed) = mpsc::channel(1);
        let mapper = PortMapper {
            situation: watch::channel(Situation::default()).0,
            wanted: watch::channel(Wanted::default()).1,
            taken: 0,
            published: watch::channel(0).0,
            removals,
            shown: Arc::default(),
            thread: None,
        };
        // The first is in the channel, the second before it.
        for _ in 0..2 {
            let error = mapper.remove("pcp:0").await.unwrap_err();
            assert!(error.to_string().contains("has not answered for 1 s"), "{error}");
        }
        drop(removed);
        let error = mapper.remove("pcp:0").await.unwrap_err();
        assert!(error.to_string().contains("start weir-control again"), "{error}");
    }
}
