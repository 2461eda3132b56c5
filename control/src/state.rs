//! What is kept on disk: the last good configuration, and who set what by hand.
//!
//! | file | is |
//! |---|---|
//! | `last-good.toml` | the configuration in force: what a start falls back to when the file is refused |
//! | `last-good-sets/` | the files of its sets, by the names of these |
//! | `overrides.json` | since when each override is in force, and by whom; for people |
//! | `advertised.json` | by LAN, what its hosts may have of what they were told |
//! | `delegated.json` | by uplink, the prefixes that its provider delegates, and their ends |
//! | `mapped.json` | the ports that hosts have asked for, and their ends |
//! | `history.jsonl` | the newest of the history, a line each |
//! | `availability.json` | by path, for how much of the last hours and days it was usable |
//!
//! A directory is one gateway's: it is locked for life.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use weir_service::Complaint;
use weir_site::Reading;

/// Where it is unless told otherwise.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/weir";

/// The directory.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    /// None: it could not be made, and nothing is kept.
    _lock: Option<File>,
}

impl State {
    /// Opens the directory, making it if need be. Without one nothing is kept, and that is said.
    ///
    /// # Errors
    /// That another gateway has it.
    pub fn open(directory: &Path) -> Result<Self> {
        let made = fs::create_dir_all(directory).and_then(|()| File::open(directory));
        let lock = match made {
            Ok(lock) => lock,
            Err(error) => {
                tracing::warn!(
                    "{} cannot be used: {error}; the last good configuration is not kept",
                    directory.display()
                );
                return Ok(Self { directory: directory.into(), _lock: None });
            }
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!(
                "another weir-control keeps its state in {}: give another --state directory",
                directory.display()
            );
        }
        Ok(Self { directory: directory.into(), _lock: Some(lock) })
    }

    /// The last good configuration.
    pub fn last_good(&self) -> PathBuf {
        self.directory.join("last-good.toml")
    }

    /// The files of its sets.
    pub fn last_good_sets(&self) -> PathBuf {
        self.directory.join("last-good-sets")
    }

    /// Keeps what a configuration was read from as the last good one. Its sets come first: those
    /// that it has not go last, so that what a crash leaves has all that it names.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, reading: &Reading) -> Result<()> {
        let directory = self.last_good_sets();
        if !reading.set_files.is_empty() {
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        for file in &reading.set_files {
            replace_if_other(&directory.join(&file.set), &file.content)?;
        }
        replace(&self.last_good(), &reading.text)?;
        let is_old = |name: &OsStr| reading.set_files.iter().all(|file| *file.set != *name);
        let kept = fs::read_dir(&directory).into_iter().flatten().flatten();
        for old in kept.filter(|entry| is_old(&entry.file_name())) {
            // Nobody reads it any more.
            let _ = fs::remove_file(old.path());
        }
        Ok(())
    }

    /// Since when overrides are in force, and by whom.
    pub fn overrides(&self) -> PathBuf {
        self.directory.join("overrides.json")
    }

    /// What hosts of LANs may have of what they were told.
    pub fn advertised(&self) -> PathBuf {
        self.directory.join("advertised.json")
    }

    /// The prefixes that providers delegate.
    pub fn delegated(&self) -> PathBuf {
        self.directory.join("delegated.json")
    }

    /// The ports that hosts have asked for.
    pub fn mapped(&self) -> PathBuf {
        self.directory.join("mapped.json")
    }

    /// The changes of the history.
    pub fn history(&self) -> PathBuf {
        self.directory.join("history.jsonl")
    }

    /// For how much of the time paths were usable.
    pub fn availability(&self) -> PathBuf {
        self.directory.join("availability.json")
    }
}

/// Starts a thread that keeps on disk what it is given, of which so much may wait. Nobody waits for
/// it: where `write` fails, that is complained of. It ends when what this returns is dropped.
///
/// # Errors
/// When there is no thread.
pub fn writer<T: Send + 'static>(
    what: &'static str,
    waiting: usize,
    mut write: impl FnMut(T) -> Result<()> + Send + 'static,
) -> Result<SyncSender<T>> {
    let (given, told) = sync_channel::<T>(waiting);
    let work = move || {
        let mut complaint = Complaint::default();
        while let Ok(next) = told.recv() {
            complaint.say(write(next).err().map(|error| format!("{what} is not kept: {error:#}")));
        }
    };
    let started = std::thread::Builder::new().name(what.into()).spawn(work);
    started.with_context(|| format!("no thread for the {what}"))?;
    Ok(given)
}

/// Puts this in the place of what a file has, at once: what a crash leaves is the old one or the
/// new.
///
/// # Errors
/// When it cannot be written; the old one stays.
pub fn replace(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    replace_with(path, content.as_ref(), 0o666)
}

/// The same with what nobody else may read.
///
/// # Errors
/// When it cannot be written; the old one stays.
pub fn replace_secret(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    replace_with(path, content.as_ref(), 0o600)
}

fn replace_with(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let new = path.with_extension("new");
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&new).with_context(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).with_context(failed)?;
    fs::rename(&new, path).with_context(failed)
}

/// The same where it is not there already.
fn replace_if_other(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|there| there == content) {
        return Ok(());
    }
    replace(path, content)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_directory_is_one_gateways() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let first = State::open(directory).unwrap();
        let second = State::open(directory).unwrap_err();
        replace(&first.last_good(), "one").unwrap();
        replace(&first.last_good(), "two").unwrap();
        let text = fs::read_to_string(first.last_good()).unwrap();
        drop(first);
        // A child of another test, which has yet to become another program, holds what its parent
        // had open.
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(error) = State::open(directory) {
            assert!(Instant::now() < end, "{error:#}");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(second.to_string().contains("give another --state"), "{second}");
        assert_eq!(text, "two");
    }

    #[test]
    fn without_a_directory_nothing_is_kept_and_nothing_fails() {
        State::open(Path::new("/proc/weir")).unwrap();
    }
}
