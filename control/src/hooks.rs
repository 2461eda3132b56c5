//! Programs of the operator's that run when an uplink's state changes, when another tier takes a
//! policy's new flows, and when what a LAN's hosts are to be told is another that another program
//! tells them.
//!
//! All that a directory holds is run, one after another by name, as run-parts(8) does: names of
//! letters, digits, `_`, `-` and `.` that do not begin with `.`. Each knows what happened by its
//! environment:
//!
//! | variable | is |
//! |---|---|
//! | `WEIR_EVENT` | `uplink`, `policy` or `ra` |
//! | `WEIR_INTERFACE` | with `uplink` and `ra`, the interface: of the uplink, or of the LAN |
//! | `WEIR_UPLINK` | with `uplink`, its name |
//! | `WEIR_POLICY` | with `policy`, its name |
//! | `WEIR_FAMILY` | with `uplink` and `policy`, `ipv4` or `ipv6`: by which of the uplink's paths, or which flows |
//! | `WEIR_FROM`, `WEIR_TO` | with both too, `up`, `degraded`, `draining`, `recovering` or `down`; of a policy, the tier, or `none` |
//! | `WEIR_UPLINKS` | with `policy`, the uplinks that take its new flows now, apart by spaces |
//! | `WEIR_REASON`, `WEIR_REASON_JSON` | with `uplink`, why: for people, and as `weir history --json` has it |
//! | `WEIR_TIME` | with `uplink` and `policy`, when: RFC 3339, UTC |
//! | `WEIR_NUMBER` | with both too, the change's number in `weir history` |
//!
//! Changes are told in order and one at a time, away from the control process's own work. A
//! program that takes longer than [`PATIENCE`] is killed with all that it started. What a program
//! writes goes to the log, up to `AFTERWARDS` after its end: what it leaves in the background has
//! an output of its own, or none.
//!
//! They run as this process, so that nobody else may be able to change one, or put one there:
//! see `trust`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group, setpriority_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use weir_api::time;
use weir_health::{Entry, Part, TierChange, Transition};
use weir_layout::Family;
use weir_site::hooks::programs;

/// How long a program may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a program's end its outputs are read on.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// Changes that wait at most; what comes then is told by the log alone.
const QUEUE: usize = 256;
/// Longest line of the log, bytes.
const LINE: u64 = 4096;
/// What is logged of each of a program's two outputs, bytes.
const OUTPUT: usize = 64 * 1024;

/// A change to be told.
#[derive(Clone, Debug)]
pub enum Event {
    /// Of an uplink's state.
    Uplink {
        /// Its interface.
        interface: String,
        /// What has changed.
        entry: Entry,
    },
    /// Of the tier that takes a policy's new flows.
    Policy {
        /// What has changed.
        entry: Entry,
    },
    /// Of what the hosts of a LAN are to be told by another program.
    Advertisements {
        /// Its interface.
        interface: String,
    },
}

/// The way to the task that runs the programs, which ends when the last of these is dropped.
#[derive(Clone, Debug)]
pub struct Hooks {
    events: mpsc::Sender<(PathBuf, Event)>,
}

impl Hooks {
    /// Starts the task.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn start(patience: Duration) -> Self {
        let (events, mut told) = mpsc::channel::<(PathBuf, Event)>(QUEUE);
        tokio::spawn(async move {
            while let Some((directory, event)) = told.recv().await {
                tell(&directory, &event, patience).await;
            }
        });
        Self { events }
    }

    /// Has the programs of a directory told of a change; never waits.
    pub fn tell(&self, directory: &Path, event: Event) {
        let number = match &event {
            Event::Uplink { entry, .. } | Event::Policy { entry } => Some(entry.number),
            Event::Advertisements { .. } => None,
        };
        if self.events.try_send((directory.into(), event)).is_err() {
            tracing::warn!(number, "hooks are not told of this change: {QUEUE} others wait");
        }
    }
}

async fn tell(directory: &Path, event: &Event, patience: Duration) {
    match programs(directory) {
        Ok((programs, _)) => {
            for program in programs {
                run(&program, event, patience).await;
            }
        }
        Err(error) => tracing::warn!("{error}"),
    }
}

async fn run(program: &Path, event: &Event, patience: Duration) {
    let hook = program.display();
    let mut child = match command(program, event).spawn() {
        Ok(child) => child,
        Err(error) => return tracing::warn!(%hook, "cannot be run: {error}"),
    };
    // Ours is that of the daemon; without the right to change it, the program has the same.
    if let Some(process) = process(&child) {
        let _ = setpriority_process(Some(process), 0);
    }
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let logs = [
        tokio::spawn(log(program.into(), out)).abort_handle(),
        tokio::spawn(log(program.into(), err)).abort_handle(),
    ];
    match timeout(patience, child.wait()).await {
        Ok(Ok(status)) if status.success() => tracing::debug!(%hook, "done"),
        Ok(Ok(status)) => tracing::warn!(%hook, "{status}"),
        Ok(Err(error)) => tracing::warn!(%hook, "{error}"),
        Err(_) => {
            tracing::warn!(%hook, "killed after {} s", patience.as_secs_f32());
            kill(&mut child).await;
        }
    }
    // Not waited for: what the program leaves in the background may keep them open.
    tokio::spawn(async move {
        tokio::time::sleep(AFTERWARDS).await;
        logs.iter().for_each(AbortHandle::abort);
    });
}

fn command(program: &Path, event: &Event) -> Command {
    let mut command = Command::new(program);
    match event {
        Event::Uplink { interface, entry } => {
            command.env("WEIR_EVENT", "uplink").env("WEIR_INTERFACE", interface);
            describe(&mut command, entry);
        }
        Event::Policy { entry } => {
            command.env("WEIR_EVENT", "policy");
            describe(&mut command, entry);
        }
        Event::Advertisements { interface } => {
            command.env("WEIR_EVENT", "ra").env("WEIR_INTERFACE", interface);
        }
    }
    command
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// What a program knows of an entry of the history.
fn describe(command: &mut Command, entry: &Entry) {
    match &entry.event {
        weir_health::Event::State { part, transition } => describe_state(command, part, transition),
        weir_health::Event::Tier(tier) => describe_tier(command, tier),
        weir_health::Event::Command(_) => {}
    }
    command
        .env("WEIR_TIME", time::of_milliseconds(entry.time_ms))
        .env("WEIR_NUMBER", entry.number.to_string());
}

fn describe_state(command: &mut Command, part: &Part, change: &Transition) {
    command
        .env("WEIR_UPLINK", part.uplink().unwrap_or_default())
        .env("WEIR_FAMILY", part.family().unwrap_or(Family::V4).name())
        .env("WEIR_FROM", change.from.name())
        .env("WEIR_TO", change.to.name())
        .env("WEIR_REASON", change.reason.to_string())
        .env("WEIR_REASON_JSON", serde_json::to_string(&change.reason).unwrap_or_default());
}

fn describe_tier(command: &mut Command, change: &TierChange) {
    let tier = |tier: Option<u8>| tier.map_or("none".into(), |tier| tier.to_string());
    command
        .env("WEIR_POLICY", &change.policy)
        .env("WEIR_FAMILY", change.family.name())
        .env("WEIR_FROM", tier(change.from))
        .env("WEIR_TO", tier(change.to))
        .env("WEIR_UPLINKS", change.uplinks.join(" "));
}

/// Logs what a program writes, long lines in pieces, up to [`OUTPUT`]. What is more is read and
/// dropped, lest the program wait for it to be.
async fn log(program: PathBuf, stream: Option<impl AsyncRead + Unpin>) {
    let Some(stream) = stream else { return };
    let hook = program.display();
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (Vec::new(), 0);
    while length < OUTPUT {
        line.clear();
        match (&mut stream).take(LINE).read_until(b'\n', &mut line).await {
            Ok(read @ 1..) => length += read,
            _ => return,
        }
        tracing::info!(%hook, "{}", String::from_utf8_lossy(line.trim_ascii_end()));
    }
    tracing::warn!(%hook, "has written {length} bytes, the rest is not logged");
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// None: it has ended, and that was seen.
fn process(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()?.cast_signed())
}

/// With all that it started: it leads a process group of its own.
async fn kill(child: &mut Child) {
    if let Some(leader) = process(child) {
        // It may have just ended by itself.
        let _ = kill_process_group(leader, Signal::KILL);
    }
    let _ = child.wait().await;
}

#[cfg(test)]
#[path = "../tests/script/mod.rs"]
mod script;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::sync::{Arc, Mutex};

    use tempfile::TempDir;
    use tokio::time::sleep;
    use tracing::subscriber::DefaultGuard;
    use weir_health::{Reason, State};

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A directory of scripts.
    struct Scripts(TempDir);

    impl Scripts {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> &Path {
            self.0.path()
        }

        fn add(&self, name: &str, script: &str) {
            let path = self.path().join(name);
            let text = format!("#!/bin/sh\ncd {}\n{script}\n", self.path().display());
            script::put(&path, &text);
        }

        /// What scripts have written into a file, when there are so many lines.
        async fn lines(&self, file: &str, count: usize) -> Vec<String> {
            let read = async {
                loop {
                    let text = fs::read_to_string(self.path().join(file)).unwrap_or_default();
                    if text.matches('\n').count() >= count {
                        return text.lines().map(str::to_owned).collect();
                    }
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(LONG, read).await.unwrap_or_else(|_| panic!("no {count} lines in {file}"))
        }
    }

    fn entry(number: u64) -> Entry {
        of_part(number, Part::Uplink("fiber".into()))
    }

    fn of_part(number: u64, part: Part) -> Entry {
        let reason = Reason::Loss { percent: 30, threshold: 20 };
        let transition = Transition { from: State::Up, to: State::Degraded, reason, at: 5 };
        let event = weir_health::Event::State { part, transition };
        Entry { number, time_ms: 1_700_000_000_123, event }
    }

    fn change(entry: Entry) -> Event {
        Event::Uplink { interface: "wan0".into(), entry }
    }

    #[tokio::test]
    async fn programs_are_told_of_each_change_in_order_and_by_name() {
        let scripts = Scripts::new();
        scripts.add("20-second", "echo second $WEIR_NUMBER >> out");
        scripts.add("10-first.sh", "sleep 0.05; echo first $WEIR_NUMBER >> out");
        let hooks = Hooks::start(LONG);
        (0..2).for_each(|number| hooks.tell(scripts.path(), change(entry(number))));
        let lines = scripts.lines("out", 4).await;
        assert_eq!(lines, ["first 0", "second 0", "first 1", "second 1"]);
    }

    #[tokio::test]
    async fn the_environment_says_what_happened() {
        let scripts = Scripts::new();
        scripts.add("all", "env | grep ^WEIR_ | sort > new; mv new out");
        Hooks::start(LONG).tell(scripts.path(), change(entry(7)));
        let lines = scripts.lines("out", 10).await;
        let wanted = [
            "WEIR_EVENT=uplink",
            "WEIR_FAMILY=ipv4",
            "WEIR_FROM=up",
            "WEIR_INTERFACE=wan0",
            "WEIR_NUMBER=7",
            "WEIR_REASON=30 % of probes are lost, limit 20 %",
            r#"WEIR_REASON_JSON={"kind":"loss","percent":30,"threshold":20}"#,
            "WEIR_TIME=2023-11-14T22:13:20.123Z",
            "WEIR_TO=degraded",
            "WEIR_UPLINK=fiber",
        ];
        assert_eq!(lines, wanted);
    }

    #[tokio::test]
    async fn what_a_lan_is_to_be_told_is_an_event_of_the_lans_alone() {
        let scripts = Scripts::new();
        scripts.add("all", "env | grep ^WEIR_ | sort > new; mv new out");
        let event = Event::Advertisements { interface: "lan0".into() };
        Hooks::start(LONG).tell(scripts.path(), event);
        assert_eq!(scripts.lines("out", 2).await, ["WEIR_EVENT=ra", "WEIR_INTERFACE=lan0"]);
    }

    #[tokio::test]
    async fn another_tier_of_a_policy_is_told_with_the_uplinks_there() {
        let scripts = Scripts::new();
        scripts.add("all", "env | grep ^WEIR_ | sort > new; mv new out");
        let tier = TierChange {
            policy: "web".into(),
            family: Family::V6,
            from: Some(1),
            to: None,
            uplinks: vec!["lte".into(), "dsl".into()],
        };
        let event = weir_health::Event::Tier(tier);
        let entry = Entry { number: 7, time_ms: 1_700_000_000_123, event };
        Hooks::start(LONG).tell(scripts.path(), Event::Policy { entry });
        let wanted = [
            "WEIR_EVENT=policy",
            "WEIR_FAMILY=ipv6",
            "WEIR_FROM=1",
            "WEIR_NUMBER=7",
            "WEIR_POLICY=web",
            "WEIR_TIME=2023-11-14T22:13:20.123Z",
            "WEIR_TO=none",
            "WEIR_UPLINKS=lte dsl",
        ];
        assert_eq!(scripts.lines("out", wanted.len()).await, wanted);
    }

    #[tokio::test]
    async fn a_change_of_an_ipv6_path_is_told_as_one() {
        let scripts = Scripts::new();
        scripts.add("all", "echo $WEIR_UPLINK $WEIR_FAMILY > new; mv new out");
        let entry = of_part(7, Part::Ipv6("fiber".into()));
        Hooks::start(LONG).tell(scripts.path(), change(entry));
        assert_eq!(scripts.lines("out", 1).await, ["fiber ipv6"]);
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_its_children_and_the_next_runs() {
        let scripts = Scripts::new();
        scripts.add("1-hangs", "sleep 1000 & echo $! > child; wait");
        scripts.add("2-next", "cat child > out");
        Hooks::start(Duration::from_secs(3)).tell(scripts.path(), change(entry(0)));
        let child = &scripts.lines("out", 1).await[0];
        let over = async {
            // Gone, or waiting for its new parent to take note.
            while fs::read_to_string(format!("/proc/{child}/stat"))
                .is_ok_and(|s| !s.contains(") Z"))
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, over).await.expect("the end of the child");
    }

    #[tokio::test]
    async fn what_programs_write_and_how_they_fail_is_in_the_log() {
        let (log, _guard) = Log::begin();
        let scripts = Scripts::new();
        scripts.add("1-complains", "echo out of coffee >&2; exit 3");
        scripts.add("2-next", "echo > out");
        let hooks = Hooks::start(LONG);
        hooks.tell(scripts.path(), change(entry(0)));
        scripts.lines("out", 1).await;
        hooks.tell(Path::new("/nonexistent/hooks.d"), change(entry(1)));
        for part in ["out of coffee", "exit status: 3", "/nonexistent/hooks.d cannot be read"] {
            timeout(LONG, log.has(part)).await.unwrap_or_else(|_| panic!("no {part:?} in the log"));
        }
    }

    #[tokio::test]
    async fn a_program_that_writes_without_end_is_logged_in_part() {
        let (log, _guard) = Log::begin();
        let scripts = Scripts::new();
        scripts.add("endless", "head -c 1000000 /dev/zero | tr '\\0' x; echo > out");
        Hooks::start(LONG).tell(scripts.path(), change(entry(0)));
        scripts.lines("out", 1).await;
        timeout(LONG, log.has("the rest is not logged")).await.expect("a word of the rest");
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().all(|line| line.len() < LINE as usize + 200));
        assert!((OUTPUT..2 * OUTPUT).contains(&text.len()), "{}", text.len());
    }

    #[tokio::test]
    async fn a_program_that_goes_on_in_the_background_keeps_no_descriptor_open() {
        let scripts = Scripts::new();
        scripts.add("daemon", "sleep 1000 & echo $! >> children; echo > out");
        let hooks = Hooks::start(LONG);
        let open = || {
            fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter(|fd| {
                    let link = fs::read_link(fd.as_ref().unwrap().path()).unwrap_or_default();
                    link.to_string_lossy().starts_with("pipe:")
                })
                .count()
        };
        let before = open();
        (0..20).for_each(|number| hooks.tell(scripts.path(), change(entry(number))));
        let children = scripts.lines("children", 20).await;
        let closed = async {
            // Other tests have pipes too, but not two for each of these.
            while open() > before + 20 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let done = timeout(LONG, closed).await;
        for child in children {
            let _ = std::process::Command::new("kill").arg(child).status();
        }
        done.expect("the end of the reading");
    }

    #[tokio::test]
    async fn telling_never_waits_and_forgets_what_is_too_much() {
        let (log, _guard) = Log::begin();
        let scripts = Scripts::new();
        let hooks = Hooks::start(LONG);
        (0..=QUEUE as u64).for_each(|number| hooks.tell(scripts.path(), change(entry(number))));
        log.has(&format!("number={QUEUE}")).await;
    }

    /// What is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        /// What this thread logs from now on, until the guard goes.
        fn begin() -> (Self, DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            (log, tracing::subscriber::set_default(subscriber))
        }

        async fn has(&self, part: &str) {
            while !String::from_utf8_lossy(&self.0.lock().unwrap()).contains(part) {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
