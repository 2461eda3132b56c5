//! What the process takes hold of before it publishes anything, in an order that lets nothing be
//! lost when a part is refused.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use weir_api::time;
use weir_health::load::Load;
use weir_health::{History, Monitor};
use weir_kernel::confine::Confined;
use weir_kernel::guard::Guard;
use weir_kernel::sysctls::Sysctls;
use weir_kernel::watch::Watcher;
use weir_kernel::{bound, own};
use weir_layout::Family;
use weir_layout::control::PathId;
use weir_publish::home::Homing;
use weir_publish::lans::Lans;
use weir_publish::{Overrides, States, Tables, guard, implied};
use weir_service::Complaint;
use weir_shm::Pins;
use weir_shm::control::{BoundPorts, ControlRegion, ControlWriter};
use weir_shm::counters::Counters;
use weir_shm::hosts::Hosts4;
use weir_shm::map::Access;
use weir_shm::observations::Observations;
use weir_site::{Site, rules};
use weir_view::Kernel;

use super::patience::{KERNEL_PATIENCE_AT_START, in_time};
use super::reload::{admit, keep_order};
use super::{Daemon, Options};
use crate::by_hand::Ledger;
use crate::dataplane::Dataplane;
use crate::file::Source;
use crate::hooks::{self, Hooks};
use crate::probe;
use crate::serve;
use crate::state::State;
use crate::urgent::Words;
use crate::users::Users;

/// Transitions kept for `weir history`.
const HISTORY: usize = 1000;

/// What the process took hold of before it published anything.
pub(super) struct Held {
    pub source: Source,
    pub guard: Guard,
    pub keeper: own::Keeper,
    /// Where the API's socket is.
    pub socket: PathBuf,
    pub dataplane: Dataplane,
}

/// A daemon that has published nothing yet.
pub(super) struct Started {
    pub daemon: Daemon,
    pub watcher: Watcher,
    /// The API's socket.
    pub listener: UnixListener,
    /// Where probers say what they find.
    pub found: mpsc::Sender<probe::Event>,
}

/// Takes hold of everything, once the role is this process's.
///
/// # Errors
/// When the kernel refuses or does not tell what is needed, or the file is wrong.
pub(super) async fn start(options: &Options, pins: &Pins) -> Result<Started> {
    let region = ControlRegion::open(pins, Access::Write)?;
    let mut source = Source::new(&options.config, State::open(&options.state)?);
    // Before anything can be refused: until then the kernel may forward what it should not.
    let table = guard::table(&options.pins);
    let rules = guard::ruleset(&table, &source.readable()?, &guard::Seen::default());
    let guard = Guard::start(table, rules).await;
    let mut watcher = Watcher::new()?;
    let kernel = in_time(KERNEL_PATIENCE_AT_START, watcher.read()).await.flatten()?;
    let published = region.snapshot();
    let site = source.start(|site, path| {
        admit(site, &kernel, path)?.iter().for_each(|problem| tracing::warn!("{problem}"));
        keep_order(site, published.as_ref().map(|snapshot| &*snapshot.half))
    })?;
    for warning in site.warnings.iter().chain(&weir_site::warnings_here(&site, &kernel)) {
        tracing::warn!("{warning}");
    }
    let mut keeper = own::Keeper::new(options.pins.clone());
    let kept = keeper.take();
    if site.own_traffic {
        kept?;
    }
    let listener = serve::listen(&options.socket).await?;
    serve::share(&options.socket, site.group.as_deref())?;
    let counters = Counters::open(pins, Access::Write)?;
    let observations = Observations::open(pins, Access::Write)?;
    let users = Users::new(observations, counters.clone(), time::monotonic_ms());
    let hosts = Hosts4::open(pins)?;
    let (found, findings) = mpsc::channel::<probe::Event>(1024);
    bound::follow(BoundPorts::new(region.clone()));
    let (socket, dataplane) = (options.socket.clone(), Dataplane::of(pins));
    let held = Held { source, guard, keeper, socket, dataplane };
    let daemon = Daemon::new(site, held, kernel, region, hosts, counters, users, findings);
    Ok(Started { daemon, watcher, listener, found })
}

impl Daemon {
    /// Adopts what an earlier process published.
    #[expect(clippy::too_many_arguments, reason = "everything the process has, passed once")]
    pub(super) fn new(
        mut site: Site,
        held: Held,
        kernel: Kernel,
        region: ControlRegion,
        hosts: Hosts4,
        counters: Counters,
        users: Users,
        findings: mpsc::Receiver<probe::Event>,
    ) -> Self {
        implied::imply(&mut site, &kernel);
        let snapshot = region.snapshot();
        let published = snapshot.iter().flat_map(|snapshot| &snapshot.half.uplinks);
        let known = published.take_while(|uplink| !uplink.name.as_str().is_empty());
        let earlier: Vec<u32> =
            (0u8..).zip(known).map(|(index, _)| region.path_state(PathId::v4(index))).collect();
        let words =
            (0u8..).zip(&site.uplinks).map(|(index, _)| region.path_state(PathId::v4(index)));
        let since = snapshot.iter().flat_map(|snapshot| &snapshot.half.uplinks);
        let since = since.take(site.uplinks.len()).map(|uplink| uplink.path(Family::V4).since);
        let states = States::new(words.collect(), since.collect());
        let writer = ControlWriter::new(region.clone());
        let mut daemon = Self {
            monitor: Monitor::new(&site, &earlier, time::monotonic_ms()),
            history: History::new(HISTORY),
            lans: Lans::default(),
            load: Load::new(&site),
            dataplane: held.dataplane,
            counters,
            overrides: Overrides::default(),
            ledger: Ledger::read(held.source.overrides()),
            source: held.source,
            socket: held.socket,
            guard: held.guard,
            sysctls: Sysctls::default(),
            tables: Tables::default(),
            states,
            words: Arc::new(Words::new(writer.words())),
            writer,
            known_hosts: None,
            cut: Vec::new(),
            crowded: Complaint::default(),
            half: None,
            unresolved: Vec::new(),
            doubted: Vec::new(),
            deaf: Vec::new(),
            routed: None,
            unrouted: Complaint::default(),
            installed: BTreeSet::new(),
            unfollowed: rules::unfollowed(&site, &kernel),
            short: HashMap::new(),
            users,
            findings,
            confined: Confined::find(),
            keeper: held.keeper,
            hooks: Hooks::start(hooks::PATIENCE),
            flipped: false,
            told: 0,
            homing: vec![Homing::default(); site.policies.len()],
            site,
            kernel,
            hosts,
        };
        if let Some(snapshot) = snapshot {
            daemon.overrides = Overrides::adopt(&daemon.site, &region, &snapshot);
            daemon.tables = Tables::adopt(&daemon.site, &region, &snapshot);
            daemon.homing = Homing::of_all(&daemon.site, &snapshot.half, time::monotonic_ms());
            tracing::info!(epoch = snapshot.half.epoch, "state of an earlier process adopted");
            daemon.half = Some(snapshot.half);
        }
        daemon
    }
}

/// By chance, so that the probes of several gateways do not leave together.
pub(super) fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}
