//! What weir-control and weir-dataplane have in common as services.
//!
//! | module | what it is |
//! |---|---|
//! | `complaint` | warnings that are said once |
//! | [`log`] | lines on standard error: with their priority for journald, coloured for a terminal |
//! | this one | how a program ends, and what it tells systemd |
#![forbid(unsafe_code)]

mod complaint;
pub mod log;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use sd_notify::NotifyState;
use tracing::Level;

pub use complaint::Complaint;

/// Exit status when the configuration is wrong: starting again does not help (sysexits.h, EX_CONFIG).
pub const WRONG_CONFIGURATION: u8 = 78;

/// An error that only a change of the configuration mends; says what is wrong, and where.
#[derive(Debug)]
pub struct WrongConfiguration(pub String);

impl std::fmt::Display for WrongConfiguration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongConfiguration {}

/// Runs a program with its log to the end. What ended it is told in one paragraph, whatever
/// `RUST_BACKTRACE` says: it is for the operator.
pub fn run(program: &str, main: impl FnOnce() -> Result<()>) -> ExitCode {
    log::start();
    let Err(error) = main() else { return ExitCode::SUCCESS };
    let text = format!("{program}: {error:#}\n");
    let _ = log::Line::of(Level::ERROR).write_all(text.as_bytes());
    match error.is::<WrongConfiguration>() {
        true => ExitCode::from(WRONG_CONFIGURATION),
        false => ExitCode::FAILURE,
    }
}

/// Tells systemd that the service has started.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Tells systemd's watchdog that the main loop turns.
pub fn alive() {
    tell(NotifyState::Watchdog);
}

/// Without systemd there is nobody to tell.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("systemd is not told: {error}");
    }
}
