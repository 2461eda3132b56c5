//! Destroying what a run left: its processes, namespaces, BPF pins and files.
//!
//! A process belongs to a run when it lives in one of its network namespaces. That covers children
//! nobody recorded (daemons that forked, shells that entered), and needs no bookkeeping that could
//! be lost with the run.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::netns::{self, Netns};
use crate::run::{BPFFS, Tag};
use crate::wait;

/// Waits until `lifeline` ends, then destroys the run. This is the whole life of a reaper.
///
/// # Errors
/// As [`destroy`].
pub fn reap(tag: Tag, mut lifeline: impl Read) -> Result<()> {
    // A read error is an end too: whatever happened, nobody can talk to this reaper any more.
    let _ = io::copy(&mut lifeline, &mut io::sink());
    destroy(tag)
}

/// Ends every process in the run's namespaces and removes the namespaces, the run's BPF pins and
/// its files. Goes on after a failure, so that one stuck thing does not keep the others.
///
/// # Errors
/// What could not be ended or removed.
pub fn destroy(tag: Tag) -> Result<()> {
    let mut problems = Vec::new();
    let namespaces = namespaces_of(tag)?;
    problems.extend(end_processes(&namespaces).err());
    for namespace in &namespaces {
        problems.extend(namespace.delete().err());
    }
    for directory in [tag.pin_directory(), tag.file_directory()] {
        problems.extend(remove_tree(&directory).err());
    }
    let problems: Vec<_> = problems.iter().map(|problem| format!("{problem:#}")).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(anyhow!("run {tag} left something behind: {}", problems.join("; ")))
}

/// Runs that left something behind and whose owner is gone. A run whose process identifier is in
/// use counts as alive, even if by now another program has it.
///
/// # Errors
/// When the directories that hold leftovers cannot be read.
pub fn dead_runs() -> Result<Vec<Tag>> {
    let mut tags = BTreeSet::new();
    for directory in [netns::DIRECTORY, BPFFS, "/run"] {
        tags.extend(entries(Path::new(directory))?.iter().filter_map(|name| Tag::in_name(name)));
    }
    tags.retain(|tag| !Path::new("/proc").join(tag.pid.to_string()).exists());
    Ok(tags.into_iter().collect())
}

/// The existing namespaces of a run.
///
/// # Errors
/// When `/run/netns` cannot be read.
pub fn namespaces_of(tag: Tag) -> Result<Vec<Netns>> {
    let names = entries(Path::new(netns::DIRECTORY))?;
    Ok(names.into_iter().filter(|n| Tag::in_name(n) == Some(tag)).map(Netns::named).collect())
}

/// Kills until nobody is left, because what is killed may have just forked.
fn end_processes(namespaces: &[Netns]) -> Result<()> {
    let identities = identities(namespaces)?;
    wait::until("the processes in the run's namespaces to end", wait::BOUND, || {
        let pids = residents(&identities)?;
        for &pid in &pids {
            kill_resident(pid, &identities)?;
        }
        Ok(pids.is_empty().then_some(()))
    })
}

fn kill_resident(pid: u32, identities: &BTreeSet<Identity>) -> Result<()> {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else { return Ok(()) };
    // Look again now that the handle pins the process: between the first look and the handle the
    // identifier may have passed to a stranger.
    if !lives_in(pid, identities) {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot kill process {pid}")),
    }
}

fn residents(identities: &BTreeSet<Identity>) -> Result<Vec<u32>> {
    let pids = entries(Path::new("/proc"))?.into_iter().filter_map(|name| name.parse().ok());
    let own = std::process::id();
    Ok(pids.filter(|&pid| pid != own && lives_in(pid, identities)).collect())
}

/// False too for a process that has ended meanwhile: it has no namespace any more.
fn lives_in(pid: u32, identities: &BTreeSet<Identity>) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net"))
        .is_ok_and(|file| identities.contains(&identity(&file)))
}

/// What tells one network namespace from another (namespaces(7)): device and inode.
type Identity = (u64, u64);

fn identities(namespaces: &[Netns]) -> Result<BTreeSet<Identity>> {
    let mut identities = BTreeSet::new();
    for namespace in namespaces {
        match fs::metadata(namespace.path()) {
            Ok(file) => identities.insert(identity(&file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error).with_context(|| format!("cannot look at {namespace:?}"))?,
        };
    }
    Ok(identities)
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

/// Names in a directory; none when it does not exist.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let context = || format!("cannot read {}", directory.display());
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .with_context(context)?
            .map(|entry| Ok(entry.with_context(context)?.file_name().to_string_lossy().into()))
            .collect(),
    }
}

fn remove_tree(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}
