//! The control process: follows the kernel and the command line, publishes what follows from them.
//! What that is, [`Decider`] decides.
//!
//! | module | what it is |
//! |---|---|
//! | `start` | what the process takes hold of before it publishes anything |
//! | `turn` | the main loop: one event at a time, and what follows |
//! | `kernel` | the view of the kernel, and what is asked of it |
//! | `evidence` | what probes, users' connections and counters show |
//! | `follow` | what follows from each event |
//! | `effects` | what was decided, carried out: shared memory, the guard, hooks, the log |
//! | `reload` | another file |
//! | `requests` | what the command line asks |
//! | `audit` | who had what done |
//! | `prefixes` | what it tells of prefixes that providers delegate |
//! | `view` | the uplinks, for people and programs |
//! | `patience` | waiting, but not for ever |

mod audit;
mod effects;
mod evidence;
#[cfg(test)]
mod fixture;
mod follow;
mod kernel;
mod patience;
mod prefixes;
mod reload;
mod requests;
mod start;
mod turn;
mod view;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;
use weir_kernel::confine::Confined;
use weir_kernel::own;
use weir_kernel::sysctls::Sysctls;
use weir_publish::Decider;
use weir_service::Complaint;
use weir_shm::counters::Counters;
use weir_shm::{Pins, Role};

use crate::availability::Watch;
use crate::by_hand::Ledger;
use crate::command_lines::CommandLines;
use crate::dataplane::Dataplane;
use crate::delegated::Record;
use crate::file::Source;
use crate::ipfix::FlowExporter;
use crate::limits;
use crate::metrics::Exporter;
use crate::nat_log::Logger;
use crate::port_mapping::PortMapper;
use crate::probe::{self, Probers, Trust};
use crate::serve;
use crate::urgent;
use crate::users::Users;

use effects::Executor;
use start::Started;
use turn::{Signals, Turns};

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Configuration file.
    pub config: PathBuf,
    /// Pin directory.
    pub pins: PathBuf,
    /// API socket.
    pub socket: PathBuf,
    /// Directory for what is kept on disk.
    pub state: PathBuf,
}

/// Runs until a signal says stop.
pub async fn run(options: Options) -> Result<()> {
    let signals = Signals::catch()?;
    limits::raise_open_files();
    let pins = Pins::create(&options.pins)?;
    pins.warning().inspect(|warning| tracing::warn!("{warning}"));
    let _claim = pins.claim(Role::Control)?;
    let Started { mut daemon, watcher, listener, found } = start::start(&options, &pins).await?;
    daemon.enforce(&watcher).await;
    daemon.hold_sysctls();
    daemon.resolve(&watcher).await;
    let mut probers = Probers::new(found, Trust::default(), start::seed()?);
    probers.set(&daemon.probes());

    let (calls, called) = mpsc::channel(16);
    let (listener, words) = (listener.into_std()?, Arc::clone(&daemon.executor.words));
    // Started here: the urgent thread's priority is not for it.
    let command_lines = CommandLines::start()?;
    urgent::start(Arc::clone(&words), move || serve::serve(listener, calls, words, command_lines))?;
    weir_service::ready();
    let mut turns = Turns::new(daemon, watcher, probers, signals, called);
    turns.until_stopped().await;
    turns.end().await;
    let _ = std::fs::remove_file(&options.socket);
    tracing::info!("stopped; what is published stays in force");
    Ok(())
}

struct Daemon {
    decider: Decider,
    executor: Executor,
    source: Source,
    socket: PathBuf,
    dataplane: Dataplane,
    counters: Counters,
    ledger: Ledger,
    /// Of the prefixes that providers delegate.
    delegated: Record,
    port_mapper: PortMapper,
    availability: Watch,
    sysctls: Sysctls,
    /// Of NAT allocations.
    nat_log: Logger,
    /// Of flows.
    flow_exporter: FlowExporter,
    /// Of metrics.
    exporter: Exporter,
    users: Users,
    findings: mpsc::Receiver<probe::Event>,
    confined: Confined,
    /// Of rules and routes.
    keeper: own::Keeper,
    /// The rules of weir's that the kernel was made to have.
    installed: BTreeSet<weir_view::own::Rule>,
    /// Of what was told while nobody answered.
    untold: Complaint,
    /// Of rules and routes.
    unrouted: Complaint,
    /// Of remotes that the gateway speaks with itself.
    crowded: Complaint,
    /// By uplink, of answers that this machine drops.
    deaf: Vec<Complaint>,
    /// What was said of the kernel's rules and routes.
    unfollowed: Vec<String>,
}
