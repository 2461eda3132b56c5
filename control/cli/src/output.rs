//! What commands print: text for people, one JSON object for programs.
//!
//! With `--json` every command prints one object: `"version"`, and what it has to say under the
//! command's name, or the reason of a failure under `"error"`. The version changes when a program
//! that reads the object could misread it; keys may be added.

use std::io::{self, Write};

use serde_json::{Value, json};
use weir_api::Unanswered;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Refused or failed.
    Failed = 1,
    /// Weir is not running, has published nothing, or does not answer.
    NotRunning = 3,
    /// The configuration is not valid.
    Invalid = 4,
    /// The command was not run.
    NotRun = 125,
    /// The command cannot be run.
    NotExecutable = 126,
    /// The command was not found.
    NotFound = 127,
}

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// What a command has to say to programs.
pub fn json(key: &str, value: Value) -> String {
    format!("{:#}\n", json!({ "version": VERSION, key: value }))
}

/// Prints what a command has to say. A reader that has seen enough ends it, and that is no failure.
pub fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            warn(&format!("cannot write: {error}"));
            Exit::Failed
        }
        _ => Exit::Ok,
    }
}

/// Says on standard error what is wrong.
pub fn warn(message: &str) {
    note(&format!("weir: {message}"));
}

/// A line on standard error.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Says why a command failed.
pub fn fail(json: bool, exit: Exit, message: &str) -> Exit {
    if json {
        print(&self::json("error", json!({ "message": message, "exit": exit as u8 })));
    }
    warn(message);
    exit
}

/// A configuration that would be refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// As [`fail`], by the kind of the error: not running only if nothing is there to answer.
pub fn failed(json: bool, error: &anyhow::Error) -> Exit {
    let exit = match error {
        error if error.is::<Unanswered>() || is_unpublished(error) => Exit::NotRunning,
        error if error.is::<Invalid>() => Exit::Invalid,
        _ => Exit::Failed,
    };
    fail(json, exit, &format!("{error:#}"))
}

/// Is it an error of shared memory that is not there, or empty?
pub fn is_unpublished(error: &anyhow::Error) -> bool {
    error.is::<super::state::NothingPublished>()
        || matches!(error.downcast_ref(), Some(weir_shm::Error::Missing { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_not_running() {
        let path = std::path::PathBuf::from("/sys/fs/bpf/weir/CONTROL");
        let missing = weir_shm::Error::Missing { path: path.clone(), creator: "weir-control" };
        assert_eq!(failed(false, &missing.into()), Exit::NotRunning);
        let source = io::Error::from_raw_os_error(1);
        let denied = weir_shm::Error::Io { action: "open", path, source };
        assert_eq!(failed(false, &denied.into()), Exit::Failed);
        assert_eq!(failed(false, &Invalid("no".into()).into()), Exit::Invalid);
    }

    #[test]
    fn the_json_of_every_command_has_a_version() {
        let text = json("rules", json!([1]));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value, json!({ "version": 1, "rules": [1] }));
    }
}
