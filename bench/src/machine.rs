//! The machine that measures: what it is, and one CPU of it to measure on.

use std::process::Command;

use anyhow::{Result, ensure};
use core_affinity::CoreId;
use serde::Serialize;
use thread_priority::unix::{set_thread_priority_and_policy, thread_native_id};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
};

/// What a report says about where its figures come from.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Processors the kernel runs on.
    pub cores: usize,
    /// Frequency of the time-stamp counter, see [`tsc_mhz`].
    pub tsc_mhz: Option<f64>,
    /// Kernel release.
    pub kernel: String,
    /// When, UTC.
    pub date: String,
    /// Which commit, with `-dirty` when the tree has changes.
    pub commit: String,
}

impl Machine {
    /// This machine, now.
    pub fn here() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpu = cpuinfo("model name").unwrap_or_else(|| std::env::consts::ARCH.into());
        Self {
            cpu,
            cores: cores(),
            tsc_mhz: tsc_mhz(),
            kernel: kernel.trim().into(),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
        }
    }
}

/// Frequency of the time-stamp counter in MHz, where it is constant: on x86 the kernel derives
/// `bogomips` from it (`lpj_fine` in `arch/x86/kernel/tsc.c`), two per cycle.
pub fn tsc_mhz() -> Option<f64> {
    let constant = cpuinfo("flags")?.split_whitespace().any(|flag| flag == "constant_tsc");
    let bogomips: f64 = cpuinfo("bogomips")?.parse().ok()?;
    constant.then_some(bogomips / 2.0)
}

/// Keeps this thread on a CPU, by default the last; says which.
///
/// # Errors
/// When the thread may not run there.
pub fn pin(cpu: Option<usize>) -> Result<usize> {
    let cpu = cpu.unwrap_or(cores() - 1);
    ensure!(core_affinity::set_for_current(CoreId { id: cpu }), "cannot run on CPU {cpu}");
    Ok(cpu)
}

/// Puts this thread before all of ordinary priority, where that is allowed.
pub fn real_time() {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if let Ok(priority) = ThreadPriorityValue::try_from(1u8) {
        let priority = ThreadPriority::Crossplatform(priority);
        let _ = set_thread_priority_and_policy(thread_native_id(), priority, policy);
    }
}

/// Processors that are there, whichever of them this thread may use.
pub fn cores() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

fn cpuinfo(field: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(name, _)| name.trim() == field).map(|(_, value)| value.trim().to_owned())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let text = output.filter(|o| o.status.success()).map(|o| o.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { "unknown".into() } else { text }
}
