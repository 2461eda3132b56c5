//! Who works on a directory of pins: one process of each role, for as long as it lives.
//!
//! A claim is a lock, flock(2), on a directory of its own beside the pins. It belongs to the file
//! and not to a process number, so that it holds across PID namespaces and containers, and the
//! kernel drops it with its process, however that ends. The process numbers in shared memory only
//! inform.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::{Error, Pins};

/// How long a lock that another has is asked for again. A process that is killed while it starts a
/// program leaves a copy of itself, with all its files, until that program begins.
const LEFT: Duration = Duration::from_secs(1);
/// How often.
const AGAIN: Duration = Duration::from_millis(10);

/// What a process is to a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Publishes.
    Control,
    /// Forwards.
    Dataplane,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Control, Self::Dataplane];

    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Control => "weir-control",
            Self::Dataplane => "weir-dataplane",
        }
    }

    /// Name of the directory that is locked.
    pub(crate) const fn directory(self) -> &'static str {
        match self {
            Self::Control => "lock-control",
            Self::Dataplane => "lock-dataplane",
        }
    }
}

/// The right to be the one process of a role, until dropped.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

impl Pins {
    /// Takes a role, before anything else here is touched; waits for no process that lives.
    ///
    /// # Errors
    /// [`Error::Claimed`] if another process has it.
    pub fn claim(&self, role: Role) -> Result<Claim, Error> {
        // A look by `is_claimed` is not to be taken for a process that stays.
        let _held = self.lock()?;
        let path = self.path(role.directory());
        let failed = |source| Error::Io { action: "lock", path: path.clone(), source };
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => {}
        }
        let file = File::open(&path).map_err(failed)?;
        match lock_left(&file) {
            Ok(()) => Ok(Claim { _file: file }),
            Err(Errno::WOULDBLOCK) => {
                Err(Error::Claimed { directory: self.directory().into(), program: role.program() })
            }
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Does a process have the role?
    ///
    /// # Errors
    /// When the directory cannot be looked at; that it is not there is no error.
    pub fn is_claimed(&self, role: Role) -> Result<bool, Error> {
        let path = self.path(role.directory());
        if !path.exists() {
            return Ok(false);
        }
        let _held = self.lock()?;
        let failed = |source| Error::Io { action: "look at", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// Locks the file, unless another has it for longer than what a dead process left.
fn lock_left(file: &File) -> rustix::io::Result<()> {
    let end = Instant::now() + LEFT;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(AGAIN),
            decided => return decided,
        }
    }
}
