//! Limits of the process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets the process open as many files as the administrator allows (the hard limit): probes want
/// many.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
