//! What the process takes hold of before it publishes anything, in an order that lets nothing be
//! lost when a part is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use weir_api::time;
use weir_kernel::confine::Confined;
use weir_kernel::guard::Guard;
use weir_kernel::sysctls::Sysctls;
use weir_kernel::watch::Watcher;
use weir_kernel::{bound, own};
use weir_publish::{Decider, guard};
use weir_service::Complaint;
use weir_shm::Pins;
use weir_shm::adjacencies::NextHops;
use weir_shm::control::{BoundPorts, ControlRegion, ControlWriter};
use weir_shm::counters::Counters;
use weir_shm::hosts::{Hosts4, Hosts6};
use weir_shm::map::Access;
use weir_shm::observations::Observations;
use weir_shm::sysctls::SysctlsRegion;

use super::effects::Executor;
use super::patience::{KERNEL_PATIENCE_AT_START, in_time};
use super::reload::{admit, keep_order};
use super::{Daemon, Options};
use crate::advertise::Advertisers;
use crate::availability::Watch;
use crate::by_hand::Ledger;
use crate::dataplane::Dataplane;
use crate::delegated::Record;
use crate::file::Source;
use crate::history::Chronicle;
use crate::hooks::{self, Hooks};
use crate::ipfix::FlowExporter;
use crate::metrics::Exporter;
use crate::nat_log::Logger;
use crate::port_mapping::PortMapper;
use crate::probe;
use crate::serve;
use crate::state::State;
use crate::users::Users;

/// What the process took hold of before it published anything.
pub(super) struct Held {
    pub source: Source,
    /// Of the prefixes that providers delegate.
    pub delegated: Record,
    pub port_mapper: PortMapper,
    pub availability: Watch,
    pub keeper: own::Keeper,
    /// Where the API's socket is.
    pub socket: PathBuf,
    pub dataplane: Dataplane,
    pub sysctls: Sysctls,
    /// Of NAT allocations.
    pub nat_log: Logger,
    /// Of flows.
    pub flow_exporter: FlowExporter,
    /// Of metrics.
    pub exporter: Exporter,
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
    let sysctls = Sysctls::new(SysctlsRegion::open(pins, Access::Write)?);
    let mut source = Source::new(&options.config, State::open(&options.state)?);
    // Before anything can be refused: until then the kernel may forward what it should not.
    let table = guard::table(&options.pins);
    let mut either = source.either()?;
    let delegated = Record::new(source.delegated());
    let now = time::monotonic_ms();
    let delegations = delegated.read(now, time::now_s());
    delegations.fill(&mut either, now);
    let rules = guard::rulesets(&table, &either, &guard::Seen::default());
    let guard = Guard::start(table, rules).await;
    let mut watcher = Watcher::new()?;
    watcher.follow_ipv6(either.has_ipv6());
    let kernel = in_time(KERNEL_PATIENCE_AT_START, watcher.read()).await.flatten()?;
    let published = region.snapshot();
    let site = source.start(|site, path| {
        admit(site, &kernel, path)?.iter().for_each(|problem| tracing::warn!("{problem}"));
        keep_order(site, published.as_ref().map(|snapshot| &*snapshot.half))
    })?;
    let taken = bound::now().await.map(|bound| site.taken(|port| bound::has(&bound, port)));
    let here = [weir_site::warnings_here(&site, &kernel), taken.unwrap_or_default()].concat();
    for warning in site.warnings.iter().chain(&here) {
        tracing::warn!("{warning}");
    }
    let mut keeper = own::Keeper::new(options.pins.clone());
    let kept = keeper.take();
    if site.own_traffic {
        kept.map_err(|other| refused_beside(&other, &options.pins))?;
    }
    let listener = serve::listen(&options.socket).await?;
    serve::share(&options.socket, site.group.as_deref())?;
    let counters = Counters::open(pins, Access::Write)?;
    let observations = Observations::open(pins, Access::Write)?;
    let users = Users::new(observations, counters.clone(), time::monotonic_ms());
    let hosts = Hosts4::open(pins)?;
    let hosts6 = Hosts6::open(pins)
        .inspect_err(|error| tracing::warn!("IPv6 paths are out of use: {error}"))
        .ok();
    let (found, findings) = mpsc::channel::<probe::Event>(1024);
    bound::follow(BoundPorts::new(region.clone()));
    let mut decider = Decider::new(site, kernel, &region, guard.table(), time::monotonic_ms());
    decider.delegate(delegations, time::monotonic_ms());
    if let Some(half) = decider.half() {
        tracing::info!(epoch = half.epoch, "state of an earlier process adopted");
    }
    if hosts6.is_none() {
        decider.go_without_ipv6();
    }
    let writer = ControlWriter::new(region, NextHops::open(pins)?);
    let hooks = Hooks::start(hooks::PATIENCE);
    let advertisers = Advertisers::start(source.advertised(), hooks.clone(), seed()?);
    let port_mapper = PortMapper::start(source.mapped(), seed()?)
        .context("no thread for the ports that hosts ask for")?;
    let (chronicle, history) = Chronicle::start(source.history())?;
    decider.remember(history);
    let maps = Some((hosts, hosts6));
    let executor = Executor::new(writer, guard, advertisers, hooks, chronicle, maps);
    let (socket, dataplane) = (options.socket.clone(), Dataplane::of(pins));
    let mut nat_log = Logger::start(pins.clone())?;
    nat_log.follow(decider.site());
    let mut flow_exporter = FlowExporter::start(pins.clone())?;
    flow_exporter.follow(decider.site());
    let exporter = Exporter::start(pins.clone()).context("no thread for metrics")?;
    exporter.follow(decider.site());
    let availability = source.availability();
    let held = Held {
        source,
        delegated,
        port_mapper,
        availability: Watch::start(availability)?,
        keeper,
        socket,
        dataplane,
        sysctls,
        nat_log,
        flow_exporter,
        exporter,
    };
    let mut daemon = Daemon::new(decider, executor, held, counters, users, findings);
    daemon.end_clashing_prefixes().iter().for_each(|text| tracing::warn!("{text}"));
    daemon.catch_up();
    Ok(Started { daemon, watcher, listener, found })
}

/// What is said where another gateway has what there is one of. What keeps the kernel from
/// forwarding by itself for this one's LANs stays: the other has it forward.
fn refused_beside(other: &anyhow::Error, pins: &Path) -> anyhow::Error {
    anyhow!(
        "{other:#}. The nftables tables and pins of this one stay, so that the kernel forwards \
         nothing for its LANs on its own: `weir --pins {} detach` removes them",
        pins.display()
    )
}

impl Daemon {
    /// One that has not published anything.
    pub(super) fn new(
        decider: Decider,
        executor: Executor,
        held: Held,
        counters: Counters,
        users: Users,
        findings: mpsc::Receiver<probe::Event>,
    ) -> Self {
        Self {
            unfollowed: weir_site::unfollowed(decider.site(), decider.kernel()),
            decider,
            executor,
            ledger: Ledger::read(held.source.overrides()),
            source: held.source,
            delegated: held.delegated,
            port_mapper: held.port_mapper,
            availability: held.availability,
            socket: held.socket,
            dataplane: held.dataplane,
            counters,
            sysctls: held.sysctls,
            nat_log: held.nat_log,
            flow_exporter: held.flow_exporter,
            exporter: held.exporter,
            users,
            findings,
            confined: Confined::find(),
            keeper: held.keeper,
            installed: BTreeSet::new(),
            untold: Complaint::default(),
            unrouted: Complaint::default(),
            crowded: Complaint::default(),
            deaf: Vec::new(),
        }
    }
}

/// By chance, so that what several gateways send does not leave together.
pub(super) fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}
