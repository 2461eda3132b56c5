//! What is measured, as the command line says it.

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// Options of the benchmarks in memory.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Options {
    /// Numbers of flows; each benchmark has its own without.
    #[arg(long, value_delimiter = ',')]
    pub flows: Vec<usize>,
    /// Pages behind the flow table and the frames.
    #[arg(long, value_delimiter = ',')]
    pub pages: Vec<Pages>,
    /// Measurements of each figure, of which the median is reported.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// CPU to measure on; the last one without.
    #[arg(long)]
    pub cpu: Option<usize>,
}

impl Options {
    /// The numbers of flows, or `default`.
    pub fn flows_or(&self, default: &[usize]) -> Vec<usize> {
        if self.flows.is_empty() { default.to_vec() } else { self.flows.clone() }
    }

    /// The kinds of pages, or both.
    pub fn pages_or_both(&self) -> Vec<Pages> {
        if self.pages.is_empty() { vec![Pages::Huge, Pages::Small] } else { self.pages.clone() }
    }

    /// The number of rounds, or `default`; at least one.
    pub fn rounds_or(&self, default: usize) -> usize {
        self.rounds.unwrap_or(default).max(1)
    }
}

/// Size of the pages that memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pages {
    /// 2 MiB: transparent huge pages, or for the frames reserved ones, where there are any.
    Huge,
    /// 4 KiB, as a pinned BPF array is mapped.
    Small,
}

impl Pages {
    /// Name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Huge => "huge",
            Self::Small => "4 KiB",
        }
    }

    /// Runs `work`; memory that it maps is made of these pages. Holds for the whole process
    /// meanwhile.
    ///
    /// # Errors
    /// When the kernel has no such switch, and whatever `work` returns.
    pub fn during<T>(self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = rustix::thread::transparent_huge_pages_are_disabled()?;
        rustix::thread::disable_transparent_huge_pages(self == Self::Small)?;
        let result = work();
        rustix::thread::disable_transparent_huge_pages(before)?;
        result
    }
}

/// Bytes of this process on transparent huge pages, from `/proc/self/smaps_rollup`.
pub fn bytes_on_huge_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
