//! One run: a unique tag, the namespaces that carry it, and the promise that they vanish with it.
//!
//! The promise holds even against SIGKILL, because another process keeps it: every run starts a
//! reaper (`weir-kit reap TAG`) whose standard input is a pipe from the run. When the last writer
//! of that pipe is gone, however it went, the reaper destroys what carries the tag
//! ([`crate::cleanup::destroy`]). Dropping a run closes the pipe and waits for the reaper, so there
//! is one way to clean up, and it is always exercised.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};
use rustix::mount::MountFlags;

use crate::netns::{self, Netns};

/// Where the kernel's BPF file system is mounted.
pub const BPFFS: &str = "/sys/fs/bpf";

/// `statfs` type of the BPF file system (`BPF_FS_MAGIC`, include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What names one run: the process that made it and a counter within that process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag {
    /// Process identifier of the owner.
    pub pid: u32,
    /// Number of the run within that process.
    pub number: u32,
}

impl Tag {
    fn next() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self { pid: std::process::id(), number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }

    /// The tag in a name like `weir-PID-NUMBER` or `weir-PID-NUMBER-ROLE`, or `None` for names that
    /// belong to nobody here.
    #[must_use]
    pub fn in_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("weir-")?.splitn(3, '-');
        Some(Self { pid: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }

    /// The namespace that plays `role` in this run: `weir-PID-NUMBER-ROLE`.
    #[must_use]
    pub fn netns(&self, role: &str) -> Netns {
        Netns::named(format!("weir-{self}-{role}"))
    }

    /// Where this run pins BPF objects. The directory need not exist.
    #[must_use]
    pub fn pin_directory(&self) -> PathBuf {
        Path::new(BPFFS).join(format!("weir-{self}"))
    }

    /// Where this run keeps its files. The directory need not exist.
    #[must_use]
    pub fn file_directory(&self) -> PathBuf {
        Path::new("/run").join(format!("weir-{self}"))
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.pid, self.number)
    }
}

impl std::str::FromStr for Tag {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::in_name(&format!("weir-{text}"))
            .filter(|tag| tag.to_string() == text)
            .ok_or_else(|| anyhow!("{text:?} is not a run's tag: expected PID-NUMBER"))
    }
}

/// A live run. Dropping it destroys everything that carries its tag.
#[derive(Debug)]
pub struct Run {
    tag: Tag,
    reaper: Child,
}

impl Run {
    /// Starts a run and its reaper; creates nothing else.
    ///
    /// # Errors
    /// Without root, or when the `weir-kit` program cannot be found or started.
    pub fn start() -> Result<Self> {
        netns::require_root()?;
        let tag = Tag::next();
        let program = reaper_program()?;
        let reaper = Command::new(&program)
            .args(["reap", &tag.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Out of reach of a Ctrl-C meant for its parent.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the reaper {}", program.display()))?;
        Ok(Self { tag, reaper })
    }

    /// This run's tag.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.tag
    }

    /// Applies `ip -batch` lines in the namespace of the caller; lines may create namespaces and
    /// links between them.
    ///
    /// # Errors
    /// When a line fails; the lines before it stay applied.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let lifeline = self.reaper.stdin.as_ref().context("the run has ended")?;
        // `ip` outlives a killed parent. While it runs it holds the lifeline (as the standard
        // output it does not use), so that the reaper cannot look before it has finished creating.
        let lifeline = lifeline.as_fd().try_clone_to_owned().context("cannot copy the lifeline")?;
        netns::feed(Command::new("ip").args(["-batch", "-"]).stdout(lifeline), lines)
    }

    /// Creates this run's directory for pinned BPF objects, mounting the BPF file system when
    /// nobody has.
    ///
    /// # Errors
    /// When it cannot be mounted or created.
    pub fn pin_directory(&self) -> Result<PathBuf> {
        let found = rustix::fs::statfs(BPFFS).with_context(|| format!("cannot look at {BPFFS}"))?;
        if found.f_type as u64 != BPF_FS_MAGIC {
            rustix::mount::mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)
                .with_context(|| format!("cannot mount {BPFFS}"))?;
        }
        created(self.tag.pin_directory())
    }

    /// Creates this run's directory for files.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn file_directory(&self) -> Result<PathBuf> {
        created(self.tag.file_directory())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        // The reaper reports its own failures on standard error.
        let _ = self.reaper.wait();
    }
}

fn created(directory: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(directory)
}

/// The `weir-kit` program: this one, or the one Cargo put beside (or one above) a test binary.
fn reaper_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the path of this program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("weir-kit"))
        .find(|program| program.is_file())
        .ok_or_else(|| {
            anyhow!(
                "no weir-kit program beside {}: build it (cargo build --workspace)",
                own.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_the_names_made_from_them() {
        let tag = Tag { pid: 12, number: 3 };
        assert_eq!(Tag::in_name(tag.netns("lan-0").name()), Some(tag));
        assert_eq!(Tag::in_name("weir-12-3"), Some(tag));
        assert_eq!("12-3".parse::<Tag>().unwrap(), tag);
    }

    #[test]
    fn names_of_others_carry_no_tag() {
        for name in ["weir", "weir-", "weir-12", "weir-lab-gw", "other-12-3", "weir-12-x"] {
            assert_eq!(Tag::in_name(name), None, "{name}");
        }
        assert!("12-3-gw".parse::<Tag>().is_err());
    }
}
