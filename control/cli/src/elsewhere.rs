//! A control process that answers here and keeps its shared memory elsewhere.
//!
//! `ip netns exec` gives each command a mount namespace with a /sys of its own (`netns_switch`,
//! lib/namespace.c of iproute2), so that each mounts a BPF file system that no other process sees.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::sockopt::socket_peercred;
use weir_shm::pins::seen_by;

use super::{Arguments, output};

/// The process that listens on a socket, and where its shared memory is.
#[derive(Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// In a directory of the same name, on another file system.
    OtherFileSystem(i32),
    /// In another directory.
    OtherDirectory(i32),
}

/// Number of the process that listens on a socket, if one does.
pub fn listener(socket: &Path) -> Option<i32> {
    let listener = socket_peercred(UnixStream::connect(socket).ok()?).ok()?;
    Some(listener.pid.as_raw_nonzero().get())
}

impl Elsewhere {
    /// `None`: nobody listens, or it has the same pins, or it cannot be seen.
    pub fn find(socket: &Path, pins: &Path) -> Option<Self> {
        Self::of(listener(socket)?, pins)
    }

    /// Where a process that listens has its shared memory, as [`Self::find`].
    pub fn of(pid: i32, pins: &Path) -> Option<Self> {
        let identity = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        // A process whose root cannot be looked at says nothing.
        fs::metadata(seen_by(pid, Path::new("/"))).ok()?;
        let theirs = identity(&seen_by(pid, pins));
        match (theirs, identity(pins)) {
            (None, _) => Some(Self::OtherDirectory(pid)),
            (theirs, ours) if theirs == ours => None,
            _ => Some(Self::OtherFileSystem(pid)),
        }
    }

    /// Does it keep in a directory of this name what is not to be seen from here?
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::OtherFileSystem(_))
    }

    /// What is so, and what to do.
    pub fn tell(&self, socket: &Path, pins: &Path) -> String {
        let (socket, pins) = (socket.display(), pins.display());
        match self {
            Self::OtherFileSystem(pid) => format!(
                "weir-control, process {pid}, listens on {socket}, but has {pins} on another BPF \
                 file system, in a mount namespace of its own (`ip netns exec` makes one for each \
                 command): run `nsenter --target {pid} --mount weir …`; to start weir's programs \
                 in a network namespace, use `nsenter --net=/run/netns/NAME`"
            ),
            Self::OtherDirectory(pid) => format!(
                "weir-control, process {pid}, listens on {socket}, but has no {pins}: give the \
                 --pins that it was started with"
            ),
        }
    }
}

/// Adds to the error of shared memory that is not here who has some elsewhere.
pub fn explain(arguments: &Arguments, error: anyhow::Error) -> anyhow::Error {
    let (socket, pins) = (&arguments.socket, &arguments.pins);
    match Elsewhere::find(socket, pins).filter(|_| output::is_unpublished(&error)) {
        Some(elsewhere) => error.context(elsewhere.tell(socket, pins)),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_sees_the_same_directory_is_not_elsewhere() {
        let here = std::env::temp_dir();
        let pid = std::process::id().cast_signed();
        assert_eq!(Elsewhere::of(pid, &here), None);
        let nowhere = here.join("weir-elsewhere");
        assert_eq!(Elsewhere::of(pid, &nowhere), Some(Elsewhere::OtherDirectory(pid)));
        assert_eq!(Elsewhere::find(&nowhere, &here), None, "nobody listens");
    }
}
