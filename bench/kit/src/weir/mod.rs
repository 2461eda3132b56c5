//! Weir on a site's gateway: both processes, their configuration, and what they say.

mod accounts;
mod asked;
mod configuration;

use std::fs::{DirEntry, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use weir_api::{Query, Request};
use weir_layout::Family;
use weir_layout::control::{BucketTable, PathId, path_state};
use weir_layout::status::{DeviceState, DeviceStatus};
use weir_shm::Pins;
use weir_shm::control::ControlRegion;
use weir_shm::map::Access;
use weir_shm::pins::name::LINK;
use weir_shm::status::Status;

use crate::netns::Netns;
use crate::process::Process;
use crate::run::Run;
use crate::topology::Topology;
use crate::wait;

pub use asked::Change;

/// Names of the uplinks, by provider.
pub const UPLINKS: [&str; 3] = ["fiber", "cable", "lte"];

/// Which tier forwards established flows: `kernel` unless the environment's `WEIR_TIER` says
/// `user`.
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
            // None, until all devices are in.
            let workers = usize::try_from(page.workers)?;
            let alive =
                workers != 0 && page.worker[..workers].iter().all(|w| w.heartbeat_ms > before);
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

    /// Gives the control process another configuration, which is in force when this returns.
    ///
    /// # Errors
    /// When it cannot be written, is refused, or nobody answers.
    pub fn reload(&self, configuration: &str) -> Result<()> {
        self.write(configuration)?;
        self.request(&Request::Reload)?;
        Ok(())
    }

    /// Gives the control process another configuration to start with.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, configuration: &str) -> Result<()> {
        Ok(std::fs::write(self.directory.join("weir.toml"), configuration)?)
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

    /// Waits until these uplinks, given by provider, take flows, and are known to be well.
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
            // Until one uplink is known to be well, all are the last resort, and usable as such.
            // Those that have not answered when the first does take no new flows for a moment.
            const BITS: u32 = path_state::USABLE | path_state::LAST_RESORT;
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
