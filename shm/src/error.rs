use std::path::PathBuf;

/// Why a region cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The BPF file system is missing and cannot be mounted.
    #[error(
        "cannot mount the BPF file system on {path}: {source}; mount it with `mount -t bpf bpf {path}` as root"
    )]
    Bpffs {
        /// Mount point.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file operation on the pin directory failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Another process has the role.
    #[error(
        "{program} already runs on {}: stop it first, or give another --pins directory",
        directory.display()
    )]
    Claimed {
        /// The pin directory.
        directory: PathBuf,
        /// The role's program.
        program: &'static str,
    },
    /// Nothing is pinned under the name.
    #[error(
        "nothing is pinned at {path}: start {creator}, or give the right directory with --pins"
    )]
    Missing {
        /// The pin.
        path: PathBuf,
        /// Who creates it.
        creator: &'static str,
    },
    /// A BPF system call failed.
    #[error("cannot {action} BPF map {path}: {source}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The pinned map has another layout.
    #[error(
        "{path} has {found}, this version of weir needs {expected}: it belongs to another version. Stop weir-control and weir-dataplane, run `weir detach` (forwarding stops), then start them again"
    )]
    Layout {
        /// The pin.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What is needed.
        expected: String,
    },
}
