//! Weir on a site's gateway: both processes, their configuration, and what they say.

use std::fs::{DirEntry, Permissions};
use std::net::SocketAddrV4;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use weir_api::{AdvertisedView, DelegatedView, Query, Request, Response, UplinkView};
use weir_health::Entry;
use weir_layout::Family;
use weir_layout::control::{BucketTable, PathId, path_state};
use weir_layout::counters::{Counter, PathCounters};
use weir_layout::flow::flag;
use weir_layout::status::{DeviceState, DeviceStatus};
use weir_shm::Pins;
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::flows::{Entry4, FlowTable4};
use weir_shm::hosts::{HostPrefixes, Hosts4};
use weir_shm::map::Access;
use weir_shm::pins::name::LINK;
use weir_shm::status::Status;

use crate::netns::Netns;
use crate::process::Process;
use crate::run::Run;
use crate::topology::Topology;
use crate::wait;

/// Names of the uplinks, by provider.
pub const UPLINKS: [&str; 3] = ["fiber", "cable", "lte"];

/// Which tier forwards established flows: `kernel` unless the environment's `WEIR_TIER` says `user`.
#[must_use]
pub fn tier() -> String {
    std::env::var("WEIR_TIER").unwrap_or_else(|_| "kernel".into())
}

/// Both processes on one gateway. Dropping it kills them; the site's end removes the rest.
pub struct Weir {
    gateway: Netns,
    directory: PathBuf,
    pins: Pins,
    control: Option<Process>,
    dataplane: Option<Process>,
}

impl Weir {
    /// Starts weir with the given configuration and waits until it forwards on all uplinks.
    ///
    /// # Errors
    /// When a process cannot be started, or does not come up; the error carries its log.
    pub fn start(topology: &Topology, configuration: &str) -> Result<Self> {
        let uplinks: Vec<_> = (0..topology.providers.len()).collect();
        Self::start_on(topology, configuration, &uplinks)
    }

    /// As [`Self::start`], for a site of whose uplinks these alone can be used.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(topology: &Topology, configuration: &str, uplinks: &[usize]) -> Result<Self> {
        let mut weir = Self::prepare(topology, configuration)?;
        weir.start_control()?;
        weir.start_dataplane()?;
        weir.wait_until_usable(uplinks)?;
        Ok(weir)
    }

    /// As [`Self::start`], with neither process started.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn prepare(topology: &Topology, configuration: &str) -> Result<Self> {
        Self::on(&topology.run, &topology.gateway, configuration)
    }

    /// As [`Self::prepare`], on a gateway that has nothing else of a site.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn on(run: &Run, gateway: &Netns, configuration: &str) -> Result<Self> {
        let directory = run.file_directory()?;
        std::fs::write(directory.join("weir.toml"), configuration)?;
        let pins = Pins::create(run.pin_directory()?)?;
        let gateway = gateway.clone();
        Ok(Self { gateway, directory, pins, control: None, dataplane: None })
    }

    /// A configuration: LAN ports of the site, one uplink per provider with these weights, and a
    /// policy that deals flows by their 5-tuple. The tier is [`tier`]'s.
    #[must_use]
    pub fn configuration(topology: &Topology, weights: &[u16]) -> String {
        let mut text = format!("[gateway]\ntier = \"{}\"\n\n", tier());
        for port in topology.lan_ports() {
            text += &format!("[[lan]]\ninterface = \"{port}\"\n\n");
        }
        for (provider, weight) in topology.providers.iter().zip(weights) {
            let (name, interface) = (UPLINKS[provider.index], provider.interface());
            text += &format!(
                "[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\nweight = {weight}\n\n"
            );
        }
        text + "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n"
    }

    /// Starts the control process; it must not be running.
    ///
    /// # Errors
    /// When it does not publish; the error carries its log.
    pub fn start_control(&mut self) -> Result<()> {
        let mut command = self.command("weir-control")?;
        command.arg("--config").arg(self.directory.join("weir.toml"));
        command.arg("--pins").arg(self.pins.directory()).arg("--socket").arg(self.socket());
        command.arg("--state").arg(self.directory.join("state"));
        let mut process = self.gateway.spawn(&mut command)?;
        let started = u64::from(process.child().id());
        let socket = self.socket();
        let up = wait::until("weir-control to publish", wait::BOUND, || {
            if let Some(status) = process.child().try_wait()? {
                bail!("weir-control ended ({status})");
            }
            let region = ControlRegion::open(&self.pins, Access::Read).ok();
            let ours = region.is_some_and(|r| r.control_process().0 == started && r.epoch() > 0);
            Ok((ours && weir_api::ask(&socket, &Query::Health).is_ok()).then_some(()))
        });
        up.with_context(|| self.log("weir-control"))?;
        self.control = Some(process);
        Ok(())
    }

    /// Starts the dataplane; it must not be running.
    ///
    /// # Errors
    /// When it does not forward; the error carries its log.
    pub fn start_dataplane(&mut self) -> Result<()> {
        let mut command = self.command("weir-dataplane")?;
        command.arg("--pins").arg(self.pins.directory());
        let mut process = self.gateway.spawn(&mut command)?;
        let started = u64::from(process.child().id());
        let before = monotonic_ms();
        let up = wait::until("weir-dataplane to forward", wait::BOUND, || {
            if let Some(status) = process.child().try_wait()? {
                bail!("weir-dataplane ended ({status})");
            }
            let Ok(status) = Status::open(&self.pins, Access::Read) else { return Ok(None) };
            let page = status.read();
            let workers = usize::try_from(page.workers)?.max(1);
            let alive = page.worker[..workers].iter().all(|w| w.heartbeat_ms > before);
            let state = |d: &DeviceStatus| DeviceState::from_byte(d.state);
            let coming = page.devices.iter().any(|d| state(d) == DeviceState::Joining);
            let attached = page.devices.iter().any(|d| state(d) == DeviceState::Attached);
            Ok((page.pid == started && alive && attached && !coming).then_some(()))
        });
        up.with_context(|| self.log("weir-dataplane"))?;
        self.dataplane = Some(process);
        Ok(())
    }

    /// SIGTERM for both processes, the dataplane first, and waits for their ends.
    ///
    /// # Errors
    /// When one cannot be signalled.
    pub fn stop(&mut self) -> Result<()> {
        for mut process in [self.dataplane.take(), self.control.take()].into_iter().flatten() {
            kill_process(Pid::from_child(process.child()), Signal::TERM)?;
            process.child().wait()?;
        }
        Ok(())
    }

    /// SIGKILL for the control process.
    pub fn kill_control(&mut self) {
        self.control = None;
    }

    /// SIGTERM for the control process, until it has ended.
    ///
    /// # Errors
    /// When it does not run, or cannot be waited for.
    pub fn stop_control(&mut self) -> Result<()> {
        let mut control = self.control.take().context("no control process runs")?;
        let pid = i32::try_from(control.child().id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process number")?, Signal::TERM)?;
        control.child().wait()?;
        Ok(())
    }

    /// SIGKILL for the dataplane.
    pub fn kill_dataplane(&mut self) {
        self.dataplane = None;
    }

    /// Takes the XDP program off all devices, and nothing else out of the kernel: a link ends with
    /// its pin. The dataplane must not be running.
    ///
    /// # Errors
    /// When it was on none, or stays on one.
    pub fn take_program_off(&self) -> Result<()> {
        let pins = std::fs::read_dir(self.pins.directory())?.collect::<Result<Vec<_>, _>>()?;
        let is_link = |pin: &DirEntry| pin.file_name().as_bytes().starts_with(LINK.as_bytes());
        let links: Vec<_> = pins.iter().filter(|pin| is_link(pin)).collect();
        ensure!(!links.is_empty(), "no device has weir's program");
        links.iter().try_for_each(|link| std::fs::remove_file(link.path()))?;
        wait::until("no device to have an XDP program", wait::BOUND, || {
            let devices = self.gateway.output(Command::new("ip").args(["-details", "link"]))?;
            let has_one = String::from_utf8(devices.stdout)?.contains("prog/xdp");
            Ok((!has_one).then_some(()))
        })
    }

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

    /// The uplinks' state words.
    ///
    /// # Errors
    /// When the control page cannot be read.
    pub fn states(&self) -> Result<Vec<u32>> {
        let region = self.control()?;
        Ok((0..UPLINKS.len() as u8).map(|index| region.path_state(PathId::v4(index))).collect())
    }

    /// The changes of the uplinks' states.
    ///
    /// # Errors
    /// When the control process does not answer.
    pub fn history(&self) -> Result<Vec<Entry>> {
        match weir_api::ask(&self.socket(), &Query::History { since: 0 })? {
            Response::History { entries } => Ok(entries),
            other => bail!("no history: {other:?}"),
        }
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

    /// Gives the control process another configuration to read.
    ///
    /// # Errors
    /// When it cannot be written, or the process is gone.
    pub fn reload(&self, configuration: &str) -> Result<()> {
        self.write(configuration)?;
        let pid = i32::try_from(self.processes()?[0]).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no control process runs")?, Signal::HUP)?;
        Ok(())
    }

    /// Gives the control process another configuration to start with.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, configuration: &str) -> Result<()> {
        Ok(std::fs::write(self.directory.join("weir.toml"), configuration)?)
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

    /// Process identifiers of the control process and the dataplane.
    ///
    /// # Errors
    /// When the shared memory cannot be mapped.
    pub fn processes(&self) -> Result<[u32; 2]> {
        let dataplane = Status::open(&self.pins, Access::Read)?.read().pid;
        Ok([u32::try_from(self.control()?.control_process().0)?, u32::try_from(dataplane)?])
    }

    /// Sets an uplink's weight.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn weight(&self, uplink: &str, weight: u32) -> Result<u64> {
        self.request(&Request::Weight { uplink: uplink.into(), weight, policy: None })
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

    /// The flow that begins at an address and port behind a LAN: what it sends, and what comes back.
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

    /// Checks that every frame is accounted for, in both tiers and between them, and that no
    /// worker lost a frame of its memory. Waits for traffic to end.
    ///
    /// # Errors
    /// Which sum does not add up.
    pub fn check_conservation(&self) -> Result<()> {
        let mut last = String::new();
        wait::until("the counters to add up", wait::BOUND, || {
            let difference = self.difference()?;
            last = difference.clone().unwrap_or_default();
            Ok(difference.is_none().then_some(()))
        })
        .with_context(|| last)
    }

    /// Checks that packets of established flows took the tier that they were to take: nearly all
    /// packets the kernel tier, or none.
    ///
    /// # Errors
    /// How many took which.
    pub fn check_tier(&self) -> Result<()> {
        let counters = self.counters()?;
        let (kernel, user) = (counters.sum(Counter::XdpForwarded), counters.sum(Counter::UserTx));
        let right = if tier() == "user" { kernel == 0 } else { kernel > 10 * user };
        ensure!(right, "{kernel} packets in the kernel tier, {user} in the user tier");
        Ok(())
    }

    fn difference(&self) -> Result<Option<String>> {
        let counters = self.counters()?;
        let sum = |wanted: &dyn Fn(Counter) -> bool| -> u64 {
            Counter::ALL.iter().filter(|c| wanted(**c)).map(|c| counters.sum(*c)).sum()
        };
        let of = |counter: Counter| counters.sum(counter);
        let user_drop = |c: Counter| c.is_drop() && !c.is_xdp_drop();
        let page = Status::open(&self.pins, Access::Read)?.read();
        let lost: u64 = page.devices.iter().map(|d| d.rx_dropped + d.rx_ring_full).sum();
        let kernel_in = of(Counter::XdpRx);
        let kernel_out = sum(&Counter::is_pass)
            + of(Counter::XdpToUser)
            + of(Counter::XdpForwarded)
            + sum(&Counter::is_xdp_drop);
        let user_in =
            of(Counter::UserRx) + of(Counter::UserHandoffIn) + of(Counter::UserOriginated);
        let user_out = of(Counter::UserTx) + of(Counter::UserHandoffOut) + sum(&user_drop);
        let workers = usize::try_from(page.workers)?;
        let frames = page.worker[..workers].iter().all(|w| w.frames == w.frames_accounted);
        let sums = [
            ("kernel tier", kernel_in, kernel_out),
            ("user tier", user_in, user_out),
            ("between the tiers", of(Counter::XdpToUser), of(Counter::UserRx) + lost),
            ("handed off", of(Counter::UserHandoffOut), of(Counter::UserHandoffIn)),
        ];
        let wrong = sums.iter().find(|(_, entered, left)| entered != left);
        Ok(match wrong {
            Some((what, entered, left)) => Some(format!("{what}: {entered} in, {left} out")),
            None if !frames => Some("a worker is missing frames".into()),
            None => None,
        })
    }

    /// How a device is, as `weir status` tells: state, and why; `None`: it does not name the device.
    ///
    /// # Errors
    /// When the command fails.
    pub fn device(&self, interface: &str) -> Result<Option<(String, String)>> {
        let output = crate::process::output(&mut self.cli(&["--json", "status"])?)?;
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

    /// The program `weir` with this gateway's arguments.
    ///
    /// # Errors
    /// When it is not built.
    pub fn cli(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("weir")?);
        command.arg("--pins").arg(self.pins.directory()).arg("--socket").arg(self.socket());
        command.args(arguments);
        Ok(command)
    }

    /// Has `weir` in a directory be the command line of this gateway.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_on_path(&self, directory: &Path) -> Result<()> {
        let (program, pins, socket) = (binary("weir")?, self.pins.directory(), self.socket());
        let (program, pins, socket) = (program.display(), pins.display(), socket.display());
        let text = format!("#!/bin/sh\nexec {program} --pins {pins} --socket {socket} \"$@\"\n");
        let path = directory.join("weir");
        std::fs::write(&path, text)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o755))?;
        Ok(())
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

    fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    fn command(&self, name: &str) -> Result<Command> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_path(name))?;
        let mut command = Command::new(binary(name)?);
        command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// What a process has written.
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    /// Waits until these uplinks, given by provider, take flows.
    ///
    /// # Errors
    /// When they do not; the error carries the log.
    pub fn wait_until_usable(&self, uplinks: &[usize]) -> Result<()> {
        self.wait_until_usable_in(Family::V4, uplinks)
    }

    /// The same of their paths in a family.
    ///
    /// # Errors
    /// As above.
    pub fn wait_until_usable_in(&self, family: Family, uplinks: &[usize]) -> Result<()> {
        let region = ControlRegion::open(&self.pins, Access::Read)?;
        wait::until("uplinks to take flows", wait::BOUND, || {
            // One without a next hop may be the last resort, and usable as such.
            const BITS: u32 = path_state::USABLE | path_state::NO_NEXT_HOP;
            let word = |u: &usize| region.path_state(PathId::new(*u as u8, family));
            let usable = |u: &usize| word(u) & BITS == path_state::USABLE;
            // State words are flipped before the buckets that follow from them are published.
            let dealt = |table: &BucketTable| uplinks.iter().all(|u| table.contains(&(*u as u8)));
            let published =
                region.snapshot().is_some_and(|s| s.table(family, 0).is_some_and(dealt));
            Ok((uplinks.iter().all(usable) && published).then_some(()))
        })
        .with_context(|| self.log("weir-control"))
    }
}

fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// A program of this workspace, beside the running one or, for a test, one directory above.
fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    let found = own.ancestors().skip(1).take(2).map(|d: &Path| d.join(name)).find(|p| p.is_file());
    let found =
        found.with_context(|| format!("{name} is not built: run `cargo build --workspace`"))?;
    ensure!(found.is_absolute(), "{} is not absolute", found.display());
    Ok(found)
}
