//! The control process: follows the kernel and the command line, publishes what follows from them.
//!
//! | module | what it is |
//! |---|---|
//! | `start` | what the process takes hold of before it publishes anything |
//! | `turn` | the main loop: one event at a time, and what follows |
//! | `kernel` | the view of the kernel, and what is asked of it |
//! | `evidence` | what probes, users' connections and counters show |
//! | `publication` | what follows: the control page, hooks, rules and routes |
//! | `transitions` | what changed: in the log, in the history, and for hooks |
//! | `reload` | another file |
//! | `requests` | what the command line asks |
//! | `view` | the uplinks, for people and programs |
//! | `patience` | waiting, but not for ever |

mod evidence;
#[cfg(test)]
mod fixture;
mod kernel;
mod patience;
mod publication;
mod reload;
mod requests;
mod start;
mod transitions;
mod turn;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;
use weir_health::load::Load;
use weir_health::{History, Monitor};
use weir_kernel::confine::Confined;
use weir_kernel::guard::Guard;
use weir_kernel::own;
use weir_kernel::sysctls::Sysctls;
use weir_layout::control::ControlHalf;
use weir_publish::home::Homing;
use weir_publish::lans::Lans;
use weir_publish::{Overrides, States, Tables, hosts};
use weir_service::Complaint;
use weir_shm::control::ControlWriter;
use weir_shm::counters::Counters;
use weir_shm::hosts::Hosts4;
use weir_shm::{Pins, Role};
use weir_site::Site;
use weir_view::Kernel;

use crate::by_hand::Ledger;
use crate::clerk::Clerk;
use crate::dataplane::Dataplane;
use crate::file::Source;
use crate::hooks::Hooks;
use crate::limits;
use crate::probe::{self, Probers, Trust};
use crate::serve;
use crate::urgent::{self, Words};
use crate::users::Users;

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
    daemon.enforce(&watcher).await?;
    daemon.hold_sysctls();
    daemon.resolve(&watcher).await;
    let mut probers = Probers::new(found, Trust::default(), start::seed()?);
    probers.set(&daemon.probes());

    let (calls, called) = mpsc::channel(16);
    let (listener, words) = (listener.into_std()?, Arc::clone(&daemon.words));
    // Started here: the urgent thread's priority is not for it.
    let clerk = Clerk::start()?;
    urgent::start(Arc::clone(&words), move || serve::serve(listener, calls, words, clerk))?;
    weir_service::ready();
    let mut turns = Turns::new(daemon, watcher, probers, signals, called);
    turns.until_stopped().await?;
    turns.end().await;
    let _ = std::fs::remove_file(&options.socket);
    tracing::info!("stopped; what is published stays in force");
    Ok(())
}

struct Daemon {
    site: Site,
    source: Source,
    socket: PathBuf,
    guard: Guard,
    kernel: Kernel,
    /// Interfaces that lost their carrier since the kernel was last asked something.
    cut: Vec<u32>,
    dataplane: Dataplane,
    monitor: Monitor,
    history: History,
    lans: Lans,
    load: Load,
    counters: Counters,
    overrides: Overrides,
    ledger: Ledger,
    sysctls: Sysctls,
    tables: Tables,
    writer: ControlWriter,
    words: Arc<Words>,
    states: States,
    hosts: Hosts4,
    users: Users,
    findings: mpsc::Receiver<probe::Event>,
    /// By policy.
    homing: Vec<Homing>,
    known_hosts: Option<hosts::Sources>,
    /// Of destinations that stay on the gateway.
    crowded: Complaint,
    half: Option<Box<ControlHalf>>,
    unresolved: Vec<(u32, std::net::Ipv4Addr)>,
    confined: Confined,
    /// Of rules and routes.
    keeper: own::Keeper,
    hooks: Hooks,
    /// An uplink became usable, or is no more, and not all of it is done yet.
    flipped: bool,
    /// Number of the next change that hooks are to be told of.
    told: u64,
    /// By uplink: when its next hop was last checked since its targets fell silent.
    doubted: Vec<Option<u64>>,
    /// By uplink, of answers that this machine drops.
    deaf: Vec<Complaint>,
    /// The epoch and the state words that rules and routes were last made for; none: to be made.
    routed: Option<(u64, Vec<u32>)>,
    /// Of rules and routes.
    unrouted: Complaint,
    /// The rules of weir's that the kernel was made to have.
    installed: BTreeSet<weir_view::own::Rule>,
    /// What was said of the kernel's rules.
    unfollowed: Vec<String>,
    /// Of devices with too few channels, by kernel index.
    short: HashMap<u32, Complaint>,
}
