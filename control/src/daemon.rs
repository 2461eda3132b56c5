//! The control process: follows the kernel and the command line, publishes what follows from them.

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use weir_service::WrongConfiguration;
use weir_shm::control::{BoundPorts, ControlRegion, ControlWriter};
use weir_shm::counters::Counters;
use weir_shm::hosts::Hosts4;
use weir_shm::map::Access;
use weir_shm::observations::Observations;
use weir_shm::{Pins, Role};
use weir_wire::layout::control::{ControlHalf, Member, Tier, Uplink as UplinkLayout, uplink_state};
use zerocopy::IntoBytes;

use crate::api::{Message, Query, Request, Response};
use crate::bound;
use crate::by_hand::{self, Ledger};
use crate::complaint::Complaint;
use crate::confine::Confined;
use crate::dataplane::Dataplane;
use crate::file::Source;
use crate::guard::Guard;
use crate::health::{self, PassiveCounts};
use crate::home::Homing;
use crate::hooks::{self, Hooks};
use crate::hosts;
use crate::implied;
use crate::limits;
use crate::load::{Counts, Load, Reading};
use crate::monitor::{Monitor, UplinkView};
use crate::own::{self, Own};
use crate::probe::{self, Binding, Plan, Probers, Trust};
use crate::publish::{self, Hand, Overrides, Published, Tables};
use crate::rules;
use crate::serve::{self, Caller};
use crate::site::{self, Site};
use crate::state::State;
use crate::sysctls::Sysctls;
use crate::time;
use crate::urgent::{self, Words};
use crate::users::Users;
use crate::watch::{Kernel, Watcher};
use crate::words;

/// How long the kernel may take for an answer.
const KERNEL_PATIENCE: Duration = Duration::from_secs(3);
/// The same while nothing waits for this process yet: it may have a million routes to tell.
const KERNEL_PATIENCE_AT_START: Duration = Duration::from_secs(30);
/// How long a burst of kernel events is gathered.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// How often state is looked at without an event.
const TICK: Duration = Duration::from_millis(500);

/// What workers get of the CPU when an uplink's state changed, before hooks run and routes follow.
const HEAD_START: Duration = Duration::from_millis(1);

/// How often the next hop of an uplink whose targets stay silent is checked: it is answered for within
/// three seconds, or lost.
const NEXT_HOP_CHECK_MS: u64 = 5000;

/// How often load is measured.
const MEASURE: Duration = Duration::from_millis(100);

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
    let mut signals = Signals::catch()?;
    limits::raise_open_files();
    let pins = Pins::create(&options.pins)?;
    let _claim = pins.claim(Role::Control)?;
    let region = ControlRegion::open(&pins, Access::Write)?;
    let mut source = Source::new(&options.config, State::open(&options.state)?);
    // Before anything can be refused: until then the kernel may forward what it should not.
    let guard = Guard::start(&options.pins, &source.readable()?).await;
    let mut watcher = Watcher::new()?;
    let kernel = in_time(KERNEL_PATIENCE_AT_START, watcher.read()).await.flatten()?;
    let published = region.snapshot();
    let site = source.start(|site, path| {
        admit(site, &kernel, path)?;
        keep_order(site, published.as_ref().map(|snapshot| &*snapshot.half))
    })?;
    for warning in site.warnings.iter().chain(&site::warnings_here(&site, &kernel)) {
        tracing::warn!("{warning}");
    }
    let mut keeper = own::Keeper::new(options.pins.clone());
    let kept = keeper.take();
    if site.own_traffic {
        kept?;
    }
    let listener = serve::listen(&options.socket).await?;
    serve::share(&options.socket, site.group.as_deref())?;
    let counters = Counters::open(&pins, Access::Write)?;
    let observations = Observations::open(&pins, Access::Write)?;
    let users = Users::new(observations, counters.clone(), time::monotonic_ms());
    let hosts = Hosts4::open(&pins)?;
    let (found, findings) = mpsc::channel::<probe::Event>(1024);
    bound::follow(BoundPorts::new(region.clone()));
    let (socket, dataplane) = (options.socket.clone(), Dataplane::of(&pins));
    let held = Held { source, guard, keeper, socket, dataplane };
    let mut daemon = Daemon::new(site, held, kernel, region, hosts, counters, users, findings);
    daemon.enforce(&watcher).await?;
    daemon.hold_sysctls();
    daemon.resolve(&watcher).await;
    let mut probers = Probers::new(found, Trust::default(), seed()?);
    probers.set(&daemon.probes());

    let (calls, mut called) = mpsc::channel(16);
    let (listener, words) = (listener.into_std()?, Arc::clone(&daemon.words));
    urgent::start(Arc::clone(&words), move || serve::serve(listener, calls, words))?;
    let words = Arc::clone(&daemon.words);
    weir_service::ready();
    let mut tick = tokio::time::interval(TICK);
    let mut measure = tokio::time::interval(MEASURE);
    measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Whether the kernel or the file may have changed, beyond the uplinks' health.
        let look = tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                daemon.hang_up();
                true
            }
            Some(call) = called.recv() => {
                if call.is_abandoned() {
                    tracing::warn!(by = %call.caller, "gone before it was answered: not done");
                    words.heard(&call.message);
                    daemon.publish()?;
                    continue;
                }
                let response = daemon.answer(&call.message, &call.caller, &watcher).await;
                let _ = call.reply.send(response);
                if call.message != Message::Do(Request::Reload) {
                    continue;
                }
                true
            }
            () = words.news() => {
                daemon.publish()?;
                daemon.gather(&mut watcher).await?;
                true
            }
            () = watcher.changed() => {
                daemon.gather(&mut watcher).await?;
                true
            }
            _ = tick.tick() => {
                weir_service::alive();
                true
            }
            _ = measure.tick() => {
                if !daemon.measure() {
                    continue;
                }
                false
            }
            Some(event) = daemon.findings.recv() => {
                if !(daemon.hear(&event) | daemon.hear_waiting()) {
                    continue;
                }
                false
            }
            () = sleep_until(daemon.monitor.deadline()) => false,
        };
        if look {
            match daemon.meanwhile(watcher.read()).await.flatten() {
                Ok(kernel) => {
                    daemon.see(kernel);
                    daemon.tell_unfollowed();
                }
                Err(error) => tracing::warn!("{error:#}; going on with what is known"),
            }
            daemon.imply();
            daemon.hear_users();
            daemon.confined.sweep();
        }
        daemon.enforce(&watcher).await?;
        if look {
            daemon.hold_sysctls();
            daemon.resolve(&watcher).await;
            probers.set(&daemon.probes());
        }
    }
    daemon.confined.sweep();
    if daemon.keeper.keeps()
        && let Err(error) = own::remove(&mut watcher, &daemon.confined.uplinks()).await
    {
        tracing::warn!("weir's rules and routes are still there: {error:#}");
    }
    let _ = std::fs::remove_file(&options.socket);
    tracing::info!("stopped; what is published stays in force");
    Ok(())
}

/// By chance, so that the probes of several gateways do not leave together.
fn seed() -> Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Returns when it is `deadline`, in milliseconds of CLOCK_MONOTONIC; never without one.
async fn sleep_until(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            // A millisecond more, lest the clock's fraction make it early.
            let left = (deadline + 1).saturating_sub(time::monotonic_ms());
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for the kernel, but not for ever.
///
/// # Errors
/// When it takes longer than this.
async fn in_time<T>(patience: Duration, kernel: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, kernel).await.map_err(|_| unanswered(patience))
}

fn unanswered(patience: Duration) -> anyhow::Error {
    anyhow!("the kernel has not answered for {} s", patience.as_secs_f32())
}

/// What takes one LAN or one uplink out of use keeps the others from nothing.
fn admit(site: &Site, kernel: &Kernel, path: &Path) -> Result<()> {
    let problems = site::against_kernel(site, kernel, &path.display().to_string());
    let (passing, lasting): (Vec<_>, _) = problems.into_iter().partition(|p| p.passing);
    passing.iter().for_each(|problem| tracing::warn!("{problem}"));
    let text: Vec<_> = lasting.iter().map(ToString::to_string).collect();
    if text.is_empty() { Ok(()) } else { bail!("{}", text.join("\n")) }
}

/// Flows name uplinks by their place in the file that is published.
fn keep_order(site: &Site, published: Option<&ControlHalf>) -> Result<()> {
    match published.map(|half| publish::check_order(site, half)) {
        Some(Err(error)) => Err(WrongConfiguration(error).into()),
        _ => Ok(()),
    }
}

/// The signals that the process obeys, caught before anything else: none of them ends it half-way.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }
}

/// What the process took hold of before it published anything.
struct Held {
    source: Source,
    guard: Guard,
    keeper: own::Keeper,
    /// Where the API's socket is.
    socket: PathBuf,
    dataplane: Dataplane,
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
    load: Load,
    counters: Counters,
    overrides: Overrides,
    ledger: Ledger,
    sysctls: Sysctls,
    tables: Tables,
    writer: ControlWriter,
    words: Arc<Words>,
    /// The uplinks' state words as they were last decided.
    states: Vec<u32>,
    hosts: Hosts4,
    users: Users,
    findings: mpsc::Receiver<probe::Event>,
    /// By policy.
    homing: Vec<Homing>,
    known_hosts: Option<hosts::Sources>,
    /// Of destinations that stay on the gateway.
    crowded: Complaint,
    half: Option<Box<ControlHalf>>,
    since: Vec<u64>,
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
    /// The epoch and the state words that rules and routes were last made for; none: to be made.
    routed: Option<(u64, Vec<u32>)>,
    /// Of rules and routes.
    unrouted: Complaint,
    /// What was said of the kernel's rules.
    unfollowed: Vec<String>,
    /// Of devices with too few channels, by kernel index.
    short: HashMap<u32, Complaint>,
}

impl Daemon {
    /// Adopts what an earlier process published.
    #[expect(clippy::too_many_arguments, reason = "everything the process has, passed once")]
    fn new(
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
            (0u8..).zip(known).map(|(index, _)| region.uplink_state(index)).collect();
        let writer = ControlWriter::new(region.clone());
        let mut daemon = Self {
            monitor: Monitor::new(&site, &earlier, time::monotonic_ms()),
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
            since: vec![0; site.uplinks.len()],
            states: (0u8..).zip(&site.uplinks).map(|(i, _)| region.uplink_state(i)).collect(),
            words: Arc::new(Words::new(writer.words())),
            writer,
            known_hosts: None,
            cut: Vec::new(),
            crowded: Complaint::default(),
            half: None,
            unresolved: Vec::new(),
            doubted: Vec::new(),
            routed: None,
            unrouted: Complaint::default(),
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
            for (since, uplink) in daemon.since.iter_mut().zip(&snapshot.half.uplinks) {
                *since = uplink.since;
            }
            tracing::info!(epoch = snapshot.half.epoch, "state of an earlier process adopted");
            daemon.half = Some(snapshot.half);
        }
        daemon
    }

    /// Has the next hops probed that the kernel names now, where no targets are configured.
    fn imply(&mut self) {
        if implied::imply(&mut self.site, &self.kernel) {
            self.monitor.reconfigure(&self.site, time::monotonic_ms());
        }
    }

    /// Publishes, has hooks told, and makes the kernel's rules and routes follow; the epoch in force.
    async fn enforce(&mut self, watcher: &Watcher) -> Result<u64> {
        let epoch = self.publish()?;
        if std::mem::take(&mut self.flipped) {
            // A worker that shares this CPU has flows to move. It would not get it otherwise: this
            // process has priority, and what is left here is work of the kernel too.
            tokio::time::sleep(HEAD_START).await;
        }
        self.run_hooks();
        self.route(epoch, watcher).await;
        Ok(epoch)
    }

    fn run_hooks(&mut self) {
        for entry in self.monitor.history(self.told) {
            self.told = entry.number + 1;
            let uplink = self.site.uplinks.iter().find(|uplink| uplink.name == entry.uplink);
            if let (Some(directory), Some(uplink)) = (&self.site.hooks, uplink) {
                self.hooks.tell(directory, &uplink.interface, entry);
            }
        }
    }

    fn derive(&self) -> Published {
        let last = self.half.as_deref();
        publish::derive(&self.site, &self.kernel, &self.overrides, &self.since, last)
    }

    /// Publishes if anything differs from what is published; the epoch in force.
    fn publish(&mut self) -> Result<u64> {
        self.hear_waiting();
        for interface in self.words.lost_carriers() {
            self.kernel.lose_carrier(interface);
            self.cut.push(interface);
        }
        let now = time::monotonic_ms();
        self.writer.heartbeat(std::process::id().into(), now);
        self.overrides.expire(time::boot_s());
        let mut published = self.derive();
        self.dataplane.mark(&mut published);
        self.monitor.observe(&published.problems, now);
        self.monitor.tick(now);
        let policies = &published.half.policies;
        let verdict = self.monitor.verdict(&self.site, |policy, uplink| {
            policies[policy]
                .members()
                .iter()
                .any(|member| member.uplink == uplink && member.weight & Member::MAX_WEIGHT != 0)
        });
        for (index, state) in verdict.states.iter().enumerate() {
            let saturated = self.load.saturated(index);
            let state = &(state | if saturated { uplink_state::SATURATED } else { 0 });
            let old = std::mem::replace(&mut self.states[index], *state);
            let flipped = (old ^ state) & uplink_state::USABLE != 0;
            self.flipped |= flipped;
            if flipped || self.since[index] == 0 {
                self.since[index] = time::now_s();
                published.half.uplinks[index].since = self.since[index];
            }
            if self.writer.region().uplink_state(index as u8) != *state {
                // Existing flows obey at once; new ones with the buckets below.
                self.words.set(index as u8, *state);
            }
            if old != *state {
                let name = &self.site.uplinks[index].name;
                let (before, state) = (words::state(old), words::state(*state));
                if flipped && old & uplink_state::USABLE != 0 {
                    tracing::warn!(uplink = name, before, state, "out of use");
                } else {
                    tracing::info!(uplink = name, before, state, "uplink state");
                }
            }
        }
        self.words.know(&self.site, &self.kernel);
        self.tell_shortages(&published.half);
        self.keep(published.hosts);
        self.unresolved = published.unresolved;
        let load = &mut self.load;
        let place = |policy: usize, members: &[_], takers| load.place(policy, members, takers, now);
        let moved = self.tables.update(&mut published.half, &verdict.takers, place);
        self.bring_home(&mut published.half, now);
        let same = !moved && self.half.as_ref().is_some_and(|old| same(old, &published.half));
        if same {
            return Ok(self.writer.region().epoch());
        }
        // The comparison above must not see what publishing fills in.
        self.half = Some(published.half.clone());
        let epoch = self.writer.publish(&mut published.half, &self.tables.live());
        for (policy, table) in self.tables.homes() {
            self.writer.save_home(policy, table);
        }
        tracing::debug!(epoch, "published");
        Ok(epoch)
    }

    /// Takes a view that was read [`Self::meanwhile`]. A carrier that was lost since may have been
    /// there when its link was read; if it is there again, that is in the next view.
    fn see(&mut self, mut kernel: Kernel) {
        for interface in self.cut.drain(..) {
            kernel.lose_carrier(interface);
        }
        kernel.remember(&self.kernel, time::monotonic_ms());
        if kernel != self.kernel {
            self.kernel = kernel;
            self.routed = None;
        }
    }

    /// Says which rules of the kernel's are not followed, if they are new.
    fn tell_unfollowed(&mut self) {
        let unfollowed = rules::unfollowed(&self.site, &self.kernel);
        for text in unfollowed.iter().filter(|text| !self.unfollowed.contains(text)) {
            tracing::warn!("{text}");
        }
        self.unfollowed = unfollowed;
    }

    /// Says what keeps XDP from transmitting by the devices that are used.
    fn tell_shortages(&mut self, half: &ControlHalf) {
        if half.tier != Tier::Kernel as u8 {
            return;
        }
        for device in half.devices.iter().filter(|device| device.ifindex != 0) {
            if let Some(link) = self.kernel.link_at(device.ifindex) {
                let trouble = link.shortage.as_ref().map(ToString::to_string);
                self.short.entry(link.index).or_default().say(trouble);
            }
        }
    }

    /// Enters the destinations that stay on the gateway, and has the guard let pass what of them is
    /// near an uplink. What fails is tried again with the next publication.
    fn keep(&mut self, sources: hosts::Sources) {
        if self.known_hosts.as_ref() == Some(&sources) {
            return;
        }
        self.guard.follow(&self.site, &self.kernel);
        let hosts = sources.prefixes();
        let room = self.hosts.room();
        let done = self.hosts.sync(&hosts);
        let trouble = match &done {
            Ok(0) if hosts.len() <= room / 10 * 9 => None,
            Ok(0) => Some(format!(
                "there is room for {room} prefixes that are not routed by an uplink, and more than \
                 nine tenths are taken"
            )),
            Ok(_) => Some(format!(
                "there is room for {room} prefixes that are not routed by an uplink, and there are \
                 more: packets from a LAN to some of them leave by uplinks"
            )),
            Err(error) => Some(format!("not all destinations stay on the gateway: {error}")),
        };
        self.crowded.say(trouble);
        self.known_hosts = done.is_ok().then_some(sources);
    }

    /// Says of each policy which of its flows come home.
    fn bring_home(&mut self, half: &mut ControlHalf, now: u64) {
        let policies = self.site.policies.iter().zip(&mut self.homing).zip(&mut half.policies);
        for ((policy, homing), published) in policies {
            let active = published.active_tier;
            let worse = policy.members.iter().filter(|member| member.tier > active);
            let flows = worse.map(|m| self.counters.uplink(m.uplink).flows_active);
            // Flows that come and go while they are counted may make it less than none.
            let away = flows.fold(0, u64::saturating_add);
            let come_home = homing.come_home(policy.failback, active, away, now);
            published.come_home = come_home as u8;
        }
    }

    /// Waits for the rest of a burst of events. A lost carrier is acted on at once.
    async fn gather(&mut self, watcher: &mut Watcher) -> Result<()> {
        let end = tokio::time::Instant::now() + DEBOUNCE;
        let words = Arc::clone(&self.words);
        loop {
            tokio::select! {
                () = words.news() => {
                    self.publish()?;
                }
                () = watcher.changed() => {}
                () = tokio::time::sleep_until(end) => return Ok(()),
            }
        }
    }

    /// Waits for the kernel, but not for ever, and goes on judging the uplinks meanwhile.
    ///
    /// # Errors
    /// When it takes longer than [`KERNEL_PATIENCE`].
    async fn meanwhile<T>(&mut self, kernel: impl Future<Output = T>) -> Result<T> {
        self.cut.clear();
        let end = tokio::time::Instant::now() + KERNEL_PATIENCE;
        let mut kernel = std::pin::pin!(kernel);
        let words = Arc::clone(&self.words);
        loop {
            tokio::select! {
                done = &mut kernel => return Ok(done),
                Some(event) = self.findings.recv() => {
                    if !self.hear(&event) {
                        continue;
                    }
                }
                () = words.news() => {}
                () = sleep_until(self.monitor.deadline()) => {}
                () = tokio::time::sleep_until(end) => {
                    return Err(unanswered(KERNEL_PATIENCE));
                }
            }
            self.publish()?;
        }
    }

    async fn resolve(&mut self, watcher: &Watcher) {
        for (interface, address) in self.unresolved.clone() {
            self.ask(watcher.resolve(interface, address)).await;
        }
        // Perhaps another router has the next hop's address and did not say so, or it is dead.
        let now = time::monotonic_ms();
        self.doubted.resize(self.site.uplinks.len(), None);
        let mut doubts = Vec::new();
        for (index, uplink) in self.site.uplinks.iter().enumerate() {
            let last = &mut self.doubted[index];
            if !self.monitor.is_silent(index) {
                *last = None;
            } else if last.is_none_or(|last| now.saturating_sub(last) >= NEXT_HOP_CHECK_MS)
                && let Some(link) = self.kernel.link(&uplink.interface)
                && let Some(next_hop) = uplink.next_hop_by(link.index, &self.kernel)
                && let Some(known) = self.kernel.neighbours.get(&(link.index, next_hop))
                && known.trusted
            {
                *last = Some(now);
                doubts.push((link.index, next_hop, known.mac));
            }
        }
        for (interface, address, mac) in doubts {
            self.ask(watcher.doubt(interface, address, mac)).await;
        }
    }

    /// The kernel is set to forward only where the guard keeps it from doing so on its own.
    fn hold_sysctls(&mut self) {
        self.sysctls.hold(&self.site, &self.writer, self.guard.stands());
    }

    /// As [`Self::meanwhile`], for what is asked again if it is not done.
    async fn ask(&mut self, kernel: impl Future<Output = ()>) {
        if let Err(error) = self.meanwhile(kernel).await {
            tracing::debug!("a neighbour was not asked for: {error:#}");
        }
    }

    /// What is to be probed, and from where. An uplink without its interface is not.
    fn probes(&self) -> Vec<Plan<'_>> {
        let plans = self.site.uplinks.iter().filter_map(|uplink| {
            let link = self.kernel.link(&uplink.interface)?;
            let binding = Binding::of(uplink, link, &self.kernel);
            Some(Plan { uplink: &uplink.name, binding, health: &uplink.health })
        });
        plans.collect()
    }

    /// As [`Self::hear`], for all that has been found by now. Goes before all that lets time pass for
    /// uplinks: what was answered while this process was busy is no timeout.
    fn hear_waiting(&mut self) -> bool {
        let mut changed = false;
        while let Ok(event) = self.findings.try_recv() {
            changed |= self.hear(&event);
        }
        changed
    }

    /// Takes what a probe has found; says whether an uplink's state changed.
    fn hear(&mut self, event: &probe::Event) -> bool {
        let named = |uplink: &site::Uplink| *uplink.name == *event.uplink;
        let Some(index) = self.site.uplinks.iter().position(named) else { return false };
        let Some(signal) = event.signal(&self.site.uplinks[index].health) else { return false };
        let link = self.kernel.link(&self.site.uplinks[index].interface);
        // Without its address or route nothing can be sent; that is no evidence.
        if link.is_some_and(|link| self.kernel.waits_for(link.index))
            && !matches!(event.finding, probe::Finding::Reply(_))
        {
            return false;
        }
        let ago = event.at.elapsed().as_millis() as u64;
        self.monitor.signal(index, signal, time::monotonic_ms().saturating_sub(ago))
    }

    /// Takes what users' connections have shown since the last time.
    fn hear_users(&mut self) {
        self.hear_waiting();
        let now = time::monotonic_ms();
        for (index, counts) in self.users.read(self.site.uplinks.len(), now).iter().enumerate() {
            if *counts != PassiveCounts::default() {
                self.monitor.signal(index, health::Signal::Passive(Box::new(*counts)), now);
            }
        }
    }

    /// Measures the load of the uplinks; says whether one became too full or has room again.
    fn measure(&mut self) -> bool {
        let now = time::monotonic_ms();
        let reading = |index: usize| {
            let counters = self.counters.uplink(index as u8);
            let down = Counts { bytes: counters.rx_bytes, packets: counters.rx_packets };
            let up = Counts { bytes: counters.tx_bytes, packets: counters.tx_packets };
            Reading { counts: [down, up], rtt: self.monitor.rtt(index) }
        };
        let readings: Vec<_> = (0..self.site.uplinks.len()).map(reading).collect();
        let changes = self.load.step(&readings, now);
        changes.iter().for_each(|change| self.monitor.note_load(change, now));
        !changes.is_empty()
    }

    /// The uplinks, for people and programs.
    fn view(&self) -> Vec<UplinkView> {
        let mut uplinks = self.monitor.view(time::monotonic_ms());
        for (index, uplink) in uplinks.iter_mut().enumerate() {
            uplink.load = self.load.view(index);
        }
        uplinks
    }

    /// Makes the kernel's rules and routes follow what is published under `epoch`.
    async fn route(&mut self, epoch: u64, watcher: &Watcher) {
        let Some(half) = self.half.as_ref().filter(|_| self.keeper.keeps()) else { return };
        let states =
            (0..self.site.uplinks.len() as u8).map(|i| self.writer.region().uplink_state(i));
        let made_for = Some((epoch, states.collect::<Vec<u32>>()));
        if self.site.own_traffic && self.routed == made_for {
            return;
        }
        let states = made_for.as_ref().map_or(&[][..], |(_, states)| states);
        let wanted = match self.site.own_traffic {
            true => Own::wanted(&self.site, &self.kernel, half, states),
            false => self.kernel.own.of_commands(&self.confined.uplinks()),
        };
        let mut known = std::mem::take(&mut self.kernel.own);
        let done = self.meanwhile(wanted.install(&mut known, watcher.handle())).await.flatten();
        self.kernel.own = known;
        self.routed = made_for.filter(|_| done.is_ok());
        let trouble = |error| format!("not all own traffic follows its uplinks: {error:#}");
        if done.is_ok() && !self.site.own_traffic {
            self.keeper.release();
        }
        self.unrouted.say(done.err().map(trouble));
    }

    /// Takes over a changed file, or says in the log why not.
    fn hang_up(&mut self) {
        match self.reload() {
            Ok(done) => tracing::info!("{done}"),
            Err(error) => {
                tracing::error!("configuration not reloaded, the old one stays:\n{error:#}");
            }
        }
    }

    /// Takes over a changed file, with what is set by hand for what is still there. Refused, it
    /// changes nothing.
    fn reload(&mut self) -> Result<String> {
        self.hear_waiting();
        let half = self.half.as_deref();
        let uplinks: Vec<_> = self.site.uplinks.iter().map(|u| u.name.as_str()).collect();
        let policies: Vec<_> = self.site.policies.iter().map(|p| p.name.as_str()).collect();
        let carry = |site: &Site| self.overrides.carry(&uplinks, &policies, site);
        let mut site = self.source.read(|site, path| {
            admit(site, &self.kernel, path)?;
            keep_order(site, half)?;
            if site.own_traffic {
                self.keeper.take()?;
            }
            let derived = publish::derive(site, &self.kernel, &carry(site), &[], half);
            match publish::weightless(&derived.half, site.policies.len()) {
                None => Ok(()),
                Some(policy) => bail!(
                    "with the weights that are set by hand, those of policy {policy} add up to \
                     zero: `weir overrides` lists them"
                ),
            }
        })?;
        let carried = carry(&site);
        implied::imply(&mut site, &self.kernel);
        if site.hash != self.site.hash {
            self.homing = vec![Homing::default(); site.policies.len()];
            self.since.resize(site.uplinks.len(), 0);
            self.states.resize(site.uplinks.len(), 0);
        }
        self.overrides = carried;
        self.monitor.reconfigure(&site, time::monotonic_ms());
        self.load.reconfigure(&site);
        self.site = site;
        self.routed = None;
        self.guard.follow(&self.site, &self.kernel);
        if let Err(error) = serve::share(&self.socket, self.site.group.as_deref()) {
            tracing::warn!("{error:#}");
        }
        let here = site::warnings_here(&self.site, &self.kernel);
        let warnings = self.site.warnings.iter().chain(&here);
        let warnings: String = warnings.map(|warning| format!("\nwarning: {warning}")).collect();
        Ok(format!("configuration reloaded{warnings}"))
    }

    async fn answer(&mut self, message: &Message, caller: &Caller, watcher: &Watcher) -> Response {
        self.words.heard(message);
        let request = match message {
            Message::Ask(query) => return self.tell(query),
            Message::Do(request) => request,
        };
        let before = self.overrides.clone();
        let listed = by_hand::list(&self.site, &before);
        let done = match self.apply(request, caller) {
            Ok(message) => self.enforce(watcher).await.map(|epoch| (epoch, message)),
            Err(error) => Err(error),
        };
        match done {
            Ok((epoch, message)) => {
                let now = by_hand::list(&self.site, &self.overrides);
                self.ledger.note(&listed, &now, caller);
                if listed == now {
                    tracing::info!(by = %caller, command = caller.command, "{message}");
                }
                Response::Ok { epoch, message }
            }
            Err(error) => {
                if *request != Request::Reload {
                    self.overrides = before;
                }
                Response::Error { message: format!("{error:#}") }
            }
        }
    }

    fn tell(&self, query: &Query) -> Response {
        match query {
            Query::Health => Response::Health { uplinks: self.view() },
            Query::History { since } => Response::History { entries: self.monitor.history(*since) },
            Query::Overrides => {
                let list = by_hand::list(&self.site, &self.overrides);
                Response::Overrides { overrides: self.ledger.tell(list) }
            }
            Query::Configuration => Response::Configuration { configuration: self.source.view() },
        }
    }

    fn apply(&mut self, request: &Request, caller: &Caller) -> Result<String> {
        match request {
            Request::Up { uplink } => {
                let index = self.uplink(uplink)?;
                self.overrides.hands.remove(&index);
                Ok(format!("{uplink} is up as far as it depends on you"))
            }
            Request::Down { uplink } => {
                let index = self.uplink(uplink)?;
                self.overrides.hands.insert(index, Hand::Down);
                Ok(format!("{uplink} is down by hand"))
            }
            Request::Drain { uplink, deadline_s } => {
                let index = self.uplink(uplink)?;
                if let Some(Hand::Down | Hand::Drained(_)) = self.overrides.hands.get(&index) {
                    bail!("{uplink} is down by hand and has no flows: `weir up {uplink}` first");
                }
                let until = match deadline_s {
                    Some(seconds) => time::boot_s().saturating_add(*seconds),
                    None => UplinkLayout::NO_DEADLINE,
                };
                self.overrides.hands.insert(index, Hand::Draining(until));
                let end = match deadline_s {
                    Some(seconds) => {
                        format!("until {}", time::of_day(time::now_s().saturating_add(*seconds)))
                    }
                    None => "until `weir up` or `weir down`".into(),
                };
                Ok(format!("{uplink} drains {end}"))
            }
            Request::Use { uplink, force } => {
                let index = self.uplink(uplink)?;
                let usable = self.writer.region().uplink_state(index) & uplink_state::USABLE != 0;
                if !self.site.own_traffic {
                    bail!("this takes weir's routes: remove own_traffic = false from the file");
                }
                if !usable && !force {
                    bail!("{uplink} is down, see `weir uplinks`; --force tries nevertheless");
                }
                let caller =
                    caller.pid.context("the process that asks is not to be seen from here")?;
                self.confined.enter(caller, index)?;
                Ok(format!("process {caller} uses {uplink}"))
            }
            Request::Home { policy } => {
                let range = match policy {
                    Some(name) => self.policy(name).map(|at| at..at + 1)?,
                    None => 0..self.homing.len(),
                };
                self.homing[range].iter_mut().for_each(Homing::ask);
                Ok("flows that are away come home".into())
            }
            Request::Reload => self.reload(),
            Request::ResetWeight { uplink, policy } => {
                let index = self.uplink(uplink)?;
                let policy = policy.as_deref().map(|policy| self.policy(policy)).transpose()?;
                let was = match policy {
                    None => self.overrides.weights.remove(&index),
                    Some(at) => self.overrides.member_weights.remove(&(at as u8, index)),
                };
                if was.is_none() {
                    bail!("the weight of {uplink} is not set by hand there, see `weir overrides`");
                }
                self.refuse_weightless(uplink)?;
                Ok(format!("weight of {uplink} is the file's again"))
            }
            Request::Weight { uplink, weight, policy } => {
                let index = self.uplink(uplink)?;
                let given = u16::try_from(*weight).ok().filter(|w| *w <= Member::MAX_WEIGHT);
                let weight = given.ok_or_else(|| {
                    anyhow!("weight {weight} is out of range: use 0 to {}", Member::MAX_WEIGHT)
                })?;
                self.weigh(index, weight, policy.as_deref())
            }
        }
    }

    fn weigh(&mut self, index: u8, weight: u16, policy: Option<&str>) -> Result<String> {
        let name = self.site.uplinks[usize::from(index)].name.clone();
        match policy {
            None => {
                self.overrides.weights.insert(index, weight);
            }
            Some(policy) => {
                let at = self.policy(policy)?;
                if !self.site.policies[at].members.iter().any(|m| m.uplink == index) {
                    bail!("{name} is no member of policy {policy}");
                }
                self.overrides.member_weights.insert((at as u8, index), weight);
            }
        }
        self.refuse_weightless(&name)?;
        Ok(format!("weight of {name} is {weight}"))
    }

    fn refuse_weightless(&self, uplink: &str) -> Result<()> {
        let half = self.derive().half;
        match publish::weightless(&half, self.site.policies.len()) {
            None => Ok(()),
            Some(policy) => bail!(
                "with that, the weights of policy {policy} add up to zero: use `weir down {uplink}` to take it out"
            ),
        }
    }

    fn policy(&self, name: &str) -> Result<usize> {
        let names: Vec<_> = self.site.policies.iter().map(|p| p.name.as_str()).collect();
        let at = names.iter().position(|n| *n == name);
        at.ok_or_else(|| anyhow!("there is no policy \"{name}\"; known: {}", names.join(", ")))
    }

    fn uplink(&self, name: &str) -> Result<u8> {
        let names: Vec<_> = self.site.uplinks.iter().map(|u| u.name.as_str()).collect();
        let at = names.iter().position(|n| *n == name);
        at.map(|at| at as u8)
            .ok_or_else(|| anyhow!("there is no uplink \"{name}\"; known: {}", names.join(", ")))
    }
}

/// Equal but for what publishing fills in.
fn same(old: &ControlHalf, new: &ControlHalf) -> bool {
    old.as_bytes() == new.as_bytes()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;
    use weir_shm::pins::name;

    use super::*;
    use crate::events::Event;
    use crate::health::State;
    use crate::probe::Finding;
    use crate::watch::{Link, NeighbourEntry};

    const SITE: &str = r#"
[[lan]]
interface = "lan0"
[[uplink]]
name = "fiber"
interface = "wan0"
next_hop = "192.0.2.1"
[uplink.health]
interval_ms = 100
down = 1
targets = [{ name = "far", probe = "icmp", address = "198.51.100.1" }]
"#;

    /// All that the uplink needs of the kernel.
    fn kernel() -> Kernel {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            mac: [2; 6],
            running: true,
            ..Link::default()
        };
        let next_hop = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
        Kernel {
            links: vec![link(1, "lan0"), link(2, "wan0")],
            addresses: vec![(2, "192.0.2.2/25".parse().unwrap())],
            neighbours: [((2, "192.0.2.1".parse().unwrap()), next_hop)].into(),
            ..Kernel::default()
        }
    }

    /// Regions of its own, but for the map of hosts, which is the kernel's. Needs root.
    fn daemon(findings: mpsc::Receiver<probe::Event>) -> Daemon {
        let directory = format!("/sys/fs/bpf/weir-daemon-{}", std::process::id());
        let pins = Pins::create(Path::new(&directory)).unwrap();
        let hosts = Hosts4::open(&pins).unwrap();
        std::fs::remove_file(pins.path(name::HOSTS4)).unwrap();
        std::fs::remove_dir(directory).unwrap();
        let counters = Counters::anonymous().unwrap();
        let observations = Observations::anonymous().unwrap();
        let users = Users::new(observations, counters.clone(), time::monotonic_ms());
        let region = ControlRegion::anonymous().unwrap();
        let site = site::parse("weir.toml", SITE).unwrap();
        let state = crate::state::State::open(Path::new("/proc/none")).unwrap();
        let source = Source::new(Path::new("weir.toml"), state);
        let held = Held {
            source,
            guard: Guard::absent(),
            keeper: own::Keeper::new(PathBuf::new()),
            socket: PathBuf::new(),
            dataplane: Dataplane::of(&pins),
        };
        Daemon::new(site, held, kernel(), region, hosts, counters, users, findings)
    }

    #[tokio::test]
    async fn a_start_waits_for_the_kernel_but_not_for_ever() {
        let patience = Duration::from_millis(10);
        assert_eq!(in_time(patience, async { 7 }).await.unwrap(), 7);
        let error = in_time(patience, std::future::pending::<()>()).await.unwrap_err();
        assert!(error.to_string().contains("has not answered"), "{error}");
    }

    #[tokio::test]
    async fn uplinks_are_judged_while_the_kernel_does_not_answer() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        daemon.publish().unwrap();
        let usable = daemon.writer.region().clone();
        let usable = || usable.uplink_state(0) & uplink_state::USABLE != 0;
        let event = |seq, finding| probe::Event {
            uplink: Arc::from("fiber"),
            target: Arc::from("far"),
            seq,
            finding,
            at: Instant::now(),
        };
        let stuck = async {
            found.send(event(1, Finding::Sent)).await.unwrap();
            found.send(event(1, Finding::Reply(1000))).await.unwrap();
            while !usable() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::future::pending::<()>().await;
        };
        let error = daemon.meanwhile(stuck).await.unwrap_err();
        assert!(error.to_string().contains("has not answered for 3 s"), "{error}");
        assert!(usable());
    }

    #[tokio::test]
    async fn a_view_that_was_read_before_a_cut_brings_no_carrier_back() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        let event = |finding| probe::Event {
            uplink: Arc::from("fiber"),
            target: Arc::from("far"),
            seq: 1,
            finding,
            at: Instant::now(),
        };
        found.send(event(Finding::Sent)).await.unwrap();
        found.send(event(Finding::Reply(1000))).await.unwrap();
        let before = daemon.publish().unwrap();
        let (region, words) = (daemon.writer.region().clone(), Arc::clone(&daemon.words));
        assert_ne!(region.uplink_state(0) & uplink_state::USABLE, 0);
        let slow = async {
            let read = kernel();
            words.hear_event(Event::Link { index: 2, up: true, running: false });
            while region.epoch() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            read
        };
        let read = daemon.meanwhile(slow).await.unwrap();
        daemon.see(read);
        daemon.publish().unwrap();
        let word = region.uplink_state(0);
        assert_eq!(word & uplink_state::USABLE, 0);
        assert_ne!(word & uplink_state::NO_CARRIER, 0);

        let next = daemon.meanwhile(async { kernel() }).await.unwrap();
        daemon.see(next);
        daemon.publish().unwrap();
        assert_eq!(region.uplink_state(0) & uplink_state::NO_CARRIER, 0, "it is there again");
    }

    #[tokio::test]
    async fn answers_that_wait_count_before_time_passes() {
        let (found, findings) = mpsc::channel(16);
        let mut daemon = daemon(findings);
        let event = |seq, finding, at| probe::Event {
            uplink: Arc::from("fiber"),
            target: Arc::from("far"),
            seq,
            finding,
            at,
        };
        let state = |daemon: &mut Daemon| {
            daemon.publish().unwrap();
            daemon.view()[0].state
        };
        assert_eq!(state(&mut daemon), State::Down, "not probed yet");
        let first = Instant::now();
        found.send(event(1, Finding::Sent, first)).await.unwrap();
        found.send(event(1, Finding::Reply(1000), first)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        let second = Instant::now();
        found.send(event(2, Finding::Sent, second)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        // Longer than the probe may take.
        std::thread::sleep(Duration::from_millis(150));
        found.send(event(2, Finding::Reply(1000), second)).await.unwrap();
        assert_eq!(state(&mut daemon), State::Up);
        assert_eq!(daemon.monitor.history(0).len(), 1, "{:?}", daemon.monitor.history(0));
    }
}
