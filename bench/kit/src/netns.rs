//! Named network namespaces: the ones `ip netns` shows, bind-mounted in `/run/netns`.
//!
//! Entering changes the network namespace of one thread and nothing else. In particular the mount
//! namespace stays, so that pins below `/sys/fs/bpf` are visible inside; `ip netns exec` would hide
//! them behind a fresh `/sys`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Process};
use crate::wait;

/// Where named network namespaces are mounted (ip-netns(8)).
pub const DIRECTORY: &str = "/run/netns";

/// A handle on a named network namespace. It owns nothing: see [`crate::run::Run`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A handle on the namespace called `name`, which need not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// The name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that refers to the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Moves the calling thread into the namespace, for good (setns(2)).
    ///
    /// # Errors
    /// When the namespace does not exist, or the caller lacks `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> Result<()> {
        let file = File::open(self.path())
            .with_context(|| format!("cannot open network namespace {}", self.name))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter network namespace {}", self.name))
    }

    /// Runs `work` on a new thread inside the namespace and waits for it. Sockets opened there
    /// belong to the namespace for life, and so do processes started there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.enter().map(|()| work()));
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread of the given name inside the namespace.
    ///
    /// # Errors
    /// When the thread cannot be started. Failure to enter is the thread's own result.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let namespace = self.clone();
        std::thread::Builder::new()
            .name(name.to_owned())
            // Load generators start hundreds of these.
            .stack_size(256 * 1024)
            .spawn(move || namespace.enter().map(|()| work()))
            .with_context(|| format!("cannot start thread {name}"))
    }

    /// Starts a process inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the program cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Process> {
        self.run(|| Process::spawn(command))?.with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs a process inside the namespace to its end.
    ///
    /// # Errors
    /// As [`Self::spawn`], and when the process exits with a failure.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.run(|| process::output(command))?
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Runs a process inside the namespace to its end, with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Self::output`].
    pub fn feed(&self, command: &mut Command, input: &str) -> Result<()> {
        command.stdout(Stdio::null());
        self.run(|| feed(command, input))?.with_context(|| format!("in namespace {}", self.name))
    }

    /// Applies `ip -batch` lines inside the namespace, all in one process.
    ///
    /// # Errors
    /// When a line fails; the lines before it stay applied.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.hungry_ip()?.feed(lines).with_context(|| format!("in namespace {}", self.name))
    }

    /// `ip -batch` inside the namespace, started: a process takes its time to start on a busy CPU.
    ///
    /// # Errors
    /// As [`Self::spawn`].
    pub fn hungry_ip(&self) -> Result<Hungry> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]).stdout(Stdio::null());
        self.run(|| Hungry::start(&mut command))?
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// Applies an nftables ruleset atomically inside the namespace.
    ///
    /// # Errors
    /// When the ruleset is refused; nothing is applied then.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        self.feed(Command::new("nft").args(["-f", "-"]), ruleset)
    }

    /// Waits until nftables inside the namespace has rules with all of these words: weir-control's come a
    /// little later than what it publishes.
    ///
    /// # Errors
    /// When they do not come, or cannot be read.
    pub fn wait_for_rules(&self, words: &[&str]) -> Result<()> {
        wait::until(&format!("rules with {words:?}"), wait::BOUND, || {
            let listed = self.output(Command::new("nft").args(["list", "ruleset"]))?;
            let text = String::from_utf8(listed.stdout)?;
            Ok(words.iter().all(|word| text.contains(word)).then_some(()))
        })
    }

    /// The packets that a named counter of nftables has counted; `table` with its family.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn nft_counter(&self, table: &str, name: &str) -> Result<u64> {
        let mut command = Command::new("nft");
        command.args(["-j", "list", "counter"]).args(table.split(' ')).arg(name);
        let output = self.output(&mut command)?;
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        json["nftables"]
            .as_array()
            .and_then(|objects| objects.iter().find_map(|o| o["counter"]["packets"].as_u64()))
            .context("nft shows no packets in its counter")
    }

    /// Sets sysctls inside the namespace, each a path below `/proc/sys` and its value.
    ///
    /// # Errors
    /// When one does not exist or refuses its value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("cannot set sysctl {key} to {value:?}"))
            })
        })?
        .with_context(|| format!("in namespace {}", self.name))
    }

    /// The index of a device inside the namespace.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        let output = self.output(Command::new("ip").args(["-j", "link", "show", "dev", device]))?;
        let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let index = links[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok());
        index.with_context(|| format!("no device {device} in {}", self.name))
    }

    /// Detaches the name from the namespace. The kernel frees the namespace when its last process
    /// and its last socket are gone. A name that does not exist is not an error.
    ///
    /// # Errors
    /// When the mount or the file cannot be removed.
    pub fn delete(&self) -> Result<()> {
        let path = self.path();
        match rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH) {
            // INVAL: creation was interrupted between the file and its mount.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => Err(error).with_context(|| format!("cannot unmount {}", self.name))?,
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Runs `command` to its end with `input` on its standard input. Its standard output goes where the
/// caller directed it; its standard error goes into the error.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    Hungry::start(command)?.feed(input)
}

/// A process that waits for its input.
pub struct Hungry {
    child: Child,
    command: String,
}

impl Hungry {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let command = format!("{command:?}");
        let child = child.with_context(|| format!("cannot start {command}"))?;
        Ok(Self { child, command })
    }

    /// Gives it its input, and waits for its end.
    ///
    /// # Errors
    /// When it fails; what it wrote to its standard error is in the error.
    pub fn feed(self, input: &str) -> Result<()> {
        let Self { mut child, command } = self;
        let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("{command} has no stdin"))?;
        // A program that refuses a line closes its input early; what it says matters more.
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().with_context(|| format!("no end of {command}"))?;
        ensure!(
            output.status.success(),
            "{command} failed ({}): {}\nits input was:\n{input}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        written.with_context(|| format!("cannot write to {command}"))
    }
}

/// Checks that the caller may create namespaces.
///
/// # Errors
/// When the effective user is not root.
pub fn require_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root: run this as root (for instance with sudo -E)"
    );
    Ok(())
}
