//! Whether the two processes run, and turn.

use weir_layout::status::StatusPage;

use crate::control::ControlRegion;
use crate::status::{SILENT_MS, silence_ms};
use crate::{Error, Pins, Role};

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Which.
    pub role: Role,
    /// Its number, as it said.
    pub pid: u64,
    /// It has its claim.
    pub runs: bool,
    /// How long ago its last sign of life was, milliseconds.
    pub silence_ms: u64,
}

impl Process {
    /// The control process; `now_ms` is CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When it cannot be told whether it runs.
    pub fn control(pins: &Pins, region: &ControlRegion, now_ms: u64) -> Result<Self, Error> {
        let (pid, heartbeat) = region.control_process();
        let runs = pins.is_claimed(Role::Control)?;
        Ok(Self { role: Role::Control, pid, runs, silence_ms: now_ms.saturating_sub(heartbeat) })
    }

    /// The dataplane, which has said this of itself.
    ///
    /// # Errors
    /// Likewise.
    pub fn dataplane(pins: &Pins, page: &StatusPage, now_ms: u64) -> Result<Self, Error> {
        let runs = pins.is_claimed(Role::Dataplane)?;
        let silence_ms = silence_ms(page, now_ms);
        Ok(Self { role: Role::Dataplane, pid: page.pid, runs, silence_ms })
    }

    /// It runs, and its loop turns: it is not stopped (SIGSTOP), and does not hang.
    pub fn answers(&self) -> bool {
        self.runs && self.silence_ms < SILENT_MS
    }
}
