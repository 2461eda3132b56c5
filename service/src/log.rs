//! The log: lines on standard error.
//!
//! For journald (`JOURNAL_STREAM`, systemd.exec(5)) every line begins with its priority as
//! sd-daemon(3) has it, and without a time, which the journal has itself. Colours are for terminals.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts it; `RUST_LOG` says what is logged, `info` and above unless told otherwise.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines);
    if is_journal() {
        log.with_ansi(false).without_time().init();
    } else {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        log.with_ansi(io::stderr().is_terminal() && !plain).init();
    }
}

/// Is standard error a stream to journald?
fn is_journal() -> bool {
    let given = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(found) = std::fs::File::from(stderr).metadata() else { return false };
    given == format!("{}:{}", found.dev(), found.ino())
}

/// Makes a writer for each event.
struct Lines;

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Line;

    fn make_writer(&'w self) -> Line {
        Line::of(Level::INFO)
    }

    fn make_writer_for(&'w self, of: &Metadata<'_>) -> Line {
        Line::of(*of.level())
    }
}

/// Writes one event.
pub struct Line {
    /// For journald.
    priority: Option<u8>,
}

impl Line {
    /// Of an event of this level.
    pub fn of(level: Level) -> Self {
        let priority = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Self { priority: is_journal().then_some(priority) }
    }
}

impl Write for Line {
    /// Never fails: a log that nobody takes stops nothing.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(&with_priority(event, self.priority));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Every line of an event with its priority.
fn with_priority(event: &[u8], priority: Option<u8>) -> Vec<u8> {
    let Some(priority) = priority else { return event.into() };
    let mut text = Vec::with_capacity(event.len() + 4);
    for line in event.split_inclusive(|byte| *byte == b'\n') {
        text.extend_from_slice(format!("<{priority}>").as_bytes());
        text.extend_from_slice(line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_for_journald_has_its_priority() {
        assert_eq!(with_priority(b"one\ntwo\n", Some(4)), b"<4>one\n<4>two\n");
        assert_eq!(with_priority(b"one\n", None), b"one\n");
    }
}
