//! Child processes that end with their owner.

use std::process::{Child, Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running child process, killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child })
    }

    /// The child itself, to wait for it or to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child is already dead and reaped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Memory of a process that is in RAM (`VmRSS`, proc_pid_status(5)), bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("there is no process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.context("it has no memory")? * 1024)
}

/// CPU time that all threads of a process have used, and all children that it has waited for
/// (proc_pid_stat(5)), in steps of 10 ms.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("there is no process {pid}"))?;
    // The second field is the name, which may hold anything; `utime` is the 14th, then come `stime`,
    // `cutime` and `cstime`.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let times: Vec<u64> = fields.skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    ensure!(times.len() == 4, "/proc/{pid}/stat has no CPU times");
    let ticks = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs(times.iter().sum()) / u32::try_from(ticks)?)
}

/// Runs `command` to its end and returns what it wrote.
///
/// # Errors
/// When it cannot be started, or exits with a failure; the error carries its standard error.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, stderr.trim());
    }
    Ok(output)
}
