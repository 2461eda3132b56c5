//! Whether the two processes run, and turn.

use anyhow::Result;
use serde_json::{Value, json};
use weir_api::time;
use weir_shm::map::Access;
use weir_shm::process::Process;
use weir_shm::status::Status;
use weir_shm::{Pins, Role};

/// One of them, for programs.
pub fn value(process: &Process) -> Value {
    json!({
        "running": process.runs,
        "answering": process.answers(),
        "pid": process.pid,
        "seen_ms_ago": process.silence_ms,
    })
}

/// One of them, for people; `more` of one that is well.
pub fn line(process: &Process, more: &str) -> String {
    let (name, pid) = match process.role {
        Role::Control => ("control", process.pid),
        Role::Dataplane => ("dataplane", process.pid),
    };
    let state = match (process.runs, process.answers(), process.role) {
        (false, ..) => "NOT RUNNING; what was published stays in force".to_owned(),
        (true, true, _) => format!("running, process {pid}{more}"),
        (true, false, role) => {
            let lost = match role {
                Role::Control => "what was published stays in force",
                Role::Dataplane => "new flows are lost",
            };
            let silence = time::duration(process.silence_ms / 1000);
            format!("NOT ANSWERING for {silence}, process {pid}: stopped or hung; {lost}")
        }
    };
    format!("{name:<10} {state}\n")
}

/// What is wrong with one, if anything is.
pub fn trouble(process: &Process) -> Option<String> {
    let line = || line(process, "").split_whitespace().collect::<Vec<_>>().join(" ");
    (!process.answers()).then(line)
}

/// What is wrong with the dataplane, if anything is.
///
/// # Errors
/// When shared memory cannot be read.
pub fn trouble_of_dataplane(pins: &Pins, now_ms: u64) -> Result<Option<String>> {
    match Status::open(pins, Access::Read) {
        Ok(status) => Ok(trouble(&Process::dataplane(pins, &status.read(), now_ms)?)),
        Err(weir_shm::Error::Missing { .. }) => {
            Ok(Some("the dataplane has never run: start weir-dataplane".to_owned()))
        }
        Err(error) => Err(error.into()),
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
        assert!(well.answers() && line(&well, ", 2 workers").ends_with("process 7, 2 workers\n"));
        let silent = process(true, 65_000);
        assert_eq!(value(&silent)["answering"], false);
        assert_eq!(value(&silent)["running"], true);
        let text = line(&silent, ", 2 workers");
        assert!(text.contains("NOT ANSWERING for 1m 5s, process 7"), "{text}");
        assert!(line(&process(false, 65_000), "").contains("NOT RUNNING"));
    }
}
