//! What the command line was told of prefixes while no control process answered: kept in a file beside
//! the socket until one does. A client of DHCPv6 tells its hook once, and again when the lease is
//! renewed, hours later.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::{Request, time};

/// Largest file, bytes: some hundred requests.
const LARGEST: u64 = 64 * 1024;

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// When it was asked, as [`time::boot_s`] has it.
    at: u64,
    request: Request,
}

/// Keeps a request for the control process of a socket.
///
/// # Errors
/// When the file cannot be written, by a caller who may not or in a directory that is not there, or
/// is full.
pub fn keep(socket: &Path, request: &Request) -> Result<()> {
    let path = path(socket);
    let failed = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    let options = options.append(true).create(true).mode(0o600);
    let mut file = open(options, &path).with_context(failed)?;
    flock(&file, FlockOperation::LockExclusive).with_context(failed)?;
    if file.metadata().with_context(failed)?.len() >= LARGEST {
        bail!("{} is full: start weir-control, which empties it", path.display());
    }
    let mut line = serde_json::to_string(&Line { at: time::boot_s(), request: request.clone() })?;
    line.push('\n');
    file.write_all(line.as_bytes()).with_context(failed)
}

/// Takes the requests that were kept for the control process of a socket, in their order, each as if
/// it were made now.
///
/// # Errors
/// When the file cannot be read, or is not root's alone: it is left as it is.
pub fn take(socket: &Path) -> Result<Vec<Request>> {
    let path = path(socket);
    let failed = || format!("cannot read {}", path.display());
    let mut file = match open(OpenOptions::new().read(true).write(true), &path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(failed),
    };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Somebody writes: next time.
        return Ok(Vec::new());
    }
    let metadata = file.metadata().with_context(failed)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        bail!("{} may be read or written by others: remove it", path.display());
    }
    let mut text = String::new();
    if metadata.len() != 0 {
        (&mut file).take(2 * LARGEST).read_to_string(&mut text).with_context(failed)?;
        file.set_len(0).with_context(failed)?;
    }
    let now = time::boot_s();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    Ok(lines.map(|line| aged(line.request, now.saturating_sub(line.at))).collect())
}

/// A request that was made so many seconds ago: lifetimes have begun.
fn aged(mut request: Request, seconds: u64) -> Request {
    if let Request::SetPrefix { valid_s, preferred_s, .. } = &mut request {
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        for lifetime in [valid_s, preferred_s] {
            *lifetime = lifetime.map(|lifetime| lifetime.saturating_sub(seconds));
        }
    }
    request
}

fn open(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

fn path(socket: &Path) -> PathBuf {
    let mut name = socket.file_name().unwrap_or(OsStr::new("control")).to_owned();
    name.push(".untold");
    socket.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(valid_s: Option<u32>) -> Request {
        let (uplink, prefix) = ("wan0".into(), "2001:2:0:a00::/56".parse().unwrap());
        Request::SetPrefix { uplink, prefix, valid_s, preferred_s: valid_s }
    }

    /// A socket in a directory of its own.
    fn socket(test: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("weir-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory.join("control.sock")
    }

    #[test]
    fn what_is_kept_is_taken_once_and_in_its_order() {
        let socket = socket("untold");
        assert_eq!(take(&socket).unwrap(), []);
        let keep_none = Request::KeepPrefixes { uplink: "wan0".into(), prefixes: Vec::new() };
        for request in [&set(None), &keep_none, &set(Some(7200))] {
            keep(&socket, request).unwrap();
        }
        let taken = take(&socket).unwrap();
        assert_eq!(taken[..2], [set(None), keep_none]);
        let Request::SetPrefix { valid_s: Some(7190..=7200), .. } = taken[2] else {
            panic!("{taken:?}")
        };
        assert_eq!(take(&socket).unwrap(), []);
        std::fs::write(path(&socket), "nonsense\n{}\n").unwrap();
        assert_eq!(take(&socket).unwrap(), [], "no request");
        std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    }

    #[test]
    fn lifetimes_go_on_while_a_request_waits() {
        assert_eq!(aged(set(Some(100)), 40), set(Some(60)));
        assert_eq!(aged(set(Some(100)), 200), set(Some(0)), "it has ended");
        assert_eq!(aged(set(None), u64::MAX), set(None));
    }

    #[test]
    fn a_file_that_is_full_or_that_others_may_write_or_a_link_is_refused() {
        let socket = socket("untold-wrong");
        let file = path(&socket);
        std::fs::write(&file, "x".repeat(LARGEST as usize)).unwrap();
        assert!(keep(&socket, &set(None)).unwrap_err().to_string().contains("is full"));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o622)).unwrap();
        assert!(take(&socket).unwrap_err().to_string().contains("remove it"));
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        assert!(keep(&socket, &set(None)).is_err() && take(&socket).is_err());
        std::fs::remove_dir_all(socket.parent().unwrap()).unwrap();
        assert!(keep(&socket, &set(None)).is_err(), "no directory");
    }
}
