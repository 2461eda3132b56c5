//! Commands that run by one uplink (`weir use`).
//!
//! The caller is moved into a cgroup below its own, where a BPF program gives every new socket the
//! uplink's mark, by which [`own`](weir_view::own) has the rules; then it becomes the command. So exit
//! status, signals, terminal and resource limits are the command's own, its children go with it,
//! and names and the LAN are reached as ever. Sockets made before, and those of other processes
//! that work for it (a resolver, a proxy), are not its own.
//!
//! A cgroup that nobody is in any more is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

/// Begin of the names of weir's cgroups; the uplink's index follows.
const PREFIX: &str = "weir-use-";

/// The cgroups of commands that run by an uplink.
#[derive(Debug, Default)]
pub struct Confined {
    groups: BTreeSet<PathBuf>,
}

impl Confined {
    /// Those that there are.
    pub fn find() -> Self {
        let mut confined = Self::default();
        if let Ok(mount) = mount() {
            confined.find_below(&mount);
        }
        confined
    }

    fn find_below(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                self.groups.insert(entry.path());
            }
            self.find_below(&entry.path());
        }
    }

    /// Has the sockets that a process makes from now on leave by an uplink.
    ///
    /// # Errors
    /// Without cgroup v2, or without the right to use it.
    pub fn enter(&mut self, process: u32, uplink: u8) -> Result<()> {
        let of_process = format!("/proc/{process}/cgroup");
        let text = fs::read_to_string(&of_process).with_context(|| format!("no {of_process}"))?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
        let own =
            Path::new(own.ok_or_else(|| anyhow!("{of_process} names no cgroup of version 2"))?);
        let nested = own.file_name().is_some_and(|n| n.to_string_lossy().starts_with(PREFIX));
        let parent = if nested { own.parent().unwrap_or(own) } else { own };
        let group = mount()?.join(parent).join(format!("{PREFIX}{uplink}"));
        let mut done = self.join(&group, process, uplink);
        // Another gateway's control process may have removed it while nobody was in it.
        for _ in 0..3 {
            if done.is_ok() || group.exists() {
                break;
            }
            done = self.join(&group, process, uplink);
        }
        done
    }

    fn join(&mut self, group: &Path, process: u32, uplink: u8) -> Result<()> {
        let failed = |action: &str| format!("cannot {action} {}", group.display());
        match fs::create_dir(group) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| failed("make"));
            }
            _ => self.groups.insert(group.to_owned()),
        };
        let directory = File::open(group).with_context(|| failed("open"))?;
        weir_shm::cgroup::mark_sockets(&directory, weir_view::own::mark(uplink))
            .with_context(|| failed("mark the sockets of"))?;
        fs::write(group.join("cgroup.procs"), process.to_string())
            .with_context(|| failed("move the command into"))
    }

    /// The uplinks of those that a process of this network namespace is in.
    pub fn uplinks(&self) -> BTreeSet<u8> {
        let here = fs::read_link("/proc/thread-self/ns/net").ok();
        let is_here = |process: &str| {
            let theirs = fs::read_link(format!("/proc/{process}/ns/net")).ok();
            here.is_some() && theirs == here
        };
        let used = self.groups.iter().filter(|group| {
            let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            processes.lines().any(is_here)
        });
        let uplink =
            |group: &PathBuf| group.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
        used.filter_map(uplink).collect()
    }

    /// Removes those that nobody is in.
    pub fn sweep(&mut self) {
        // The kernel removes none that has processes.
        self.groups.retain(|group| match fs::remove_dir(group) {
            Ok(()) => false,
            Err(error) => error.kind() != ErrorKind::NotFound,
        });
    }
}

/// Where cgroup v2 is mounted.
fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("no /proc/self/mountinfo")?;
    let found = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| place.split(' ').nth(4).map(PathBuf::from))?
    });
    found.ok_or_else(|| {
        anyhow!("cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`, or a directory of your choice")
    })
}
