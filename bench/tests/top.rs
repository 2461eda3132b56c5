//! `weir top` in a terminal: whoever looks at it sees what is sick and why, and can act.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weir_kit::probed::{Probed, QUICK};
use weir_kit::wait;

/// The uplink that is cut, and the other.
const FIBER: usize = 0;

/// `weir top` on a site's gateway, in a terminal of tmux of 80 columns and 24 lines.
struct Terminal {
    /// Where its tmux listens.
    socket: PathBuf,
    /// The number of its process.
    pid: PathBuf,
}

impl Terminal {
    fn start(site: &Probed) -> Self {
        let directory = site.topology.run.file_directory().unwrap();
        let terminal = Self { socket: directory.join("tmux"), pid: directory.join("top.pid") };
        let top = site.weir.cli(&["top"]).unwrap();
        let words = [top.get_program()].into_iter().chain(top.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
        let (words, pid) = (words.join(" "), terminal.pid.display());
        // It says how it ended where it was started, and stays.
        let script =
            format!("sh -c 'echo $$ > {pid}; exec {words}'; echo top ended with $?; exec cat");
        let mut tmux = terminal.tmux(&["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(["-x", "80", "-y", "24", "sh", "-c", &script]);
        site.topology.gateway.output(&mut tmux).unwrap();
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(&self.socket).args(arguments);
        tmux
    }

    fn press(&self, key: &str) {
        assert!(self.tmux(&["send-keys", key]).status().unwrap().success());
    }

    fn seen(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the screen is as wanted; that screen.
    fn until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        let looked = wait::until(what, wait::BOUND, || {
            seen = self.seen();
            Ok(wanted(&seen).then_some(()))
        });
        looked.with_context(|| seen.clone()).unwrap();
        seen
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        _ = self.tmux(&["kill-server"]).output();
    }
}

#[test]
fn who_looks_sees_what_is_sick_and_why_and_can_drain_the_rest() {
    let mut site = Probed::start(2, 1, QUICK).unwrap();
    let terminal = Terminal::start(&site);
    terminal.until("all to be well", |seen| seen.contains("WELL  all uplinks are up"));
    site.topology.providers[FIBER].set_carrier(false).unwrap();
    let says_why = |seen: &str| {
        let second = seen.lines().nth(1).unwrap_or_default();
        second.starts_with("SICK  fiber is down for ") && second.ends_with(": no carrier")
    };
    let seen = terminal.until("the sick uplink, and why", says_why);
    println!("{seen}");
    let row =
        |name| seen.lines().position(|line| line.get(2..).is_some_and(|l| l.starts_with(name)));
    assert!(row("fiber").unwrap() < row("cable").unwrap(), "{seen}");

    terminal.press("j");
    terminal.press("d");
    terminal.until("the question", |seen| seen.contains("weir drain cable? y/n"));
    terminal.press("y");
    terminal.until("it to drain", |seen| seen.contains("HAND  cable is draining"));
    let mut overrides = site.weir.cli(&["overrides", "--json"]).unwrap();
    let overrides = site.topology.gateway.output(&mut overrides).unwrap();
    let overrides: Value = serde_json::from_slice(&overrides.stdout).unwrap();
    let set = &overrides["overrides"][0];
    assert_eq!((&set["uplink"], &set["value"]), (&"cable".into(), &"draining".into()));

    site.weir.kill_dataplane();
    terminal.until("its loss", |seen| seen.contains("SICK  dataplane NOT RUNNING"));
    site.weir.start_dataplane().unwrap();
    terminal.until("its return", |seen| !seen.contains("NOT RUNNING"));

    let pid = std::fs::read_to_string(&terminal.pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let seen = terminal.until("its end", |seen| seen.contains("top ended with 0"));
    assert!(!seen.contains("SICK"), "the terminal is as it was: {seen}");
}
