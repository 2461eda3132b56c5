//! Whether the two processes run, and turn.

use serde_json::{Value, json};
use weir_api::time;
use weir_shm::Role;
use weir_shm::status::SILENT_MS;

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
    /// It runs, and its loop turns: it is not stopped (SIGSTOP), and does not hang.
    pub fn answers(&self) -> bool {
        self.runs && self.silence_ms < SILENT_MS
    }

    /// For programs.
    pub fn value(&self) -> Value {
        json!({
            "running": self.runs,
            "answering": self.answers(),
            "pid": self.pid,
            "seen_ms_ago": self.silence_ms,
        })
    }

    /// For people; `more` of one that is well.
    pub fn line(&self, more: &str) -> String {
        let (name, pid) = match self.role {
            Role::Control => ("control", self.pid),
            Role::Dataplane => ("dataplane", self.pid),
        };
        let state = match (self.runs, self.answers(), self.role) {
            (false, ..) => "NOT RUNNING; what was published stays in force".to_owned(),
            (true, true, _) => format!("running, process {pid}{more}"),
            (true, false, role) => {
                let lost = match role {
                    Role::Control => "what was published stays in force",
                    Role::Dataplane => "new flows are lost",
                };
                let silence = time::duration(self.silence_ms / 1000);
                format!("NOT ANSWERING for {silence}, process {pid}: stopped or hung; {lost}")
            }
        };
        format!("{name:<10} {state}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_silent_runs_and_does_not_answer() {
        let process =
            |runs, silence_ms| Process { role: Role::Dataplane, pid: 7, runs, silence_ms };
        let well = process(true, 500);
        assert!(well.answers() && well.line(", 2 workers").ends_with("process 7, 2 workers\n"));
        let silent = process(true, 65_000);
        assert_eq!(silent.value()["answering"], false);
        assert_eq!(silent.value()["running"], true);
        let line = silent.line(", 2 workers");
        assert!(line.contains("NOT ANSWERING for 1m 5s, process 7"), "{line}");
        assert!(process(false, 65_000).line("").contains("NOT RUNNING"));
    }
}
