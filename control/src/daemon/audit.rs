//! Who had what done: in the history and the log. What was refused is in the log alone.

use weir_api::{Request, time};
use weir_health::{Author, Command, Event};

use super::Daemon;
use crate::serve::Caller;

/// Longest command that is written down, characters: one that names prefixes may be of any length.
const LONGEST: usize = 300;

impl Daemon {
    /// Writes down what was done, and by whom if that is known.
    pub(super) fn write_down(&mut self, command: String, by: Option<Author>) {
        let done = Command { command: shortened(&command), by };
        let entry = self.decider.record(Event::Command(done), time::now_ms());
        self.executor.write_down(&[entry]);
    }
}

/// Who asks. What `weir use` runs is not written down: there may be a password in it.
pub(super) fn author(request: &Request, caller: &Caller) -> Author {
    let mut author = caller.author();
    if matches!(request, Request::Use { .. }) {
        author.process.clear();
    }
    author
}

/// Says in the log what was refused. Both fields are what the caller has said: the log quotes them.
pub(super) fn tell_refused(request: &Request, caller: &Caller, error: &anyhow::Error) {
    let (by, why) = (caller.author(), format!("{error:#}"));
    let command = shortened(&request.to_string());
    tracing::warn!(command, %by, process = by.process, why, "refused");
}

fn shortened(command: &str) -> String {
    match command.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &command[..end]),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_too_long_is_cut_between_characters() {
        let long = "ü".repeat(LONGEST);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}x")), format!("{long}…"));
    }
}
