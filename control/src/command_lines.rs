//! Command lines of processes, read by a thread that nobody waits for.
//!
//! Whose command line is read may keep the reader waiting, for ever if it wants: the kernel takes
//! its memory's lock and faults its pages in (`get_mm_cmdline`, fs/proc/base.c), which may be those
//! of a file system of its own.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;
use weir_api::words::is_printable;

/// Questions that wait.
const MOST: usize = 64;
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(50);

/// The way to the thread, which ends when this is dropped.
#[derive(Clone, Debug)]
pub struct CommandLines {
    questions: SyncSender<(u32, oneshot::Sender<String>)>,
}

impl CommandLines {
    /// Starts the thread. It has the priority of the caller's.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::reading(command_line)
    }

    fn reading(read: impl Fn(u32) -> String + Send + 'static) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<(u32, oneshot::Sender<String>)>(MOST);
        let work = move || {
            for (pid, answer) in asked {
                let _ = answer.send(read(pid));
            }
        };
        thread::Builder::new().name("weir-cmdlines".into()).spawn(work)?;
        Ok(Self { questions })
    }

    /// The command line of a process; empty when it is not to be had in time.
    pub async fn of(&self, pid: u32) -> String {
        let (answer, told) = oneshot::channel();
        match self.questions.try_send((pid, answer)) {
            Ok(()) => timeout(PATIENCE, told).await.ok().and_then(Result::ok).unwrap_or_default(),
            Err(_) => String::new(),
        }
    }
}

fn command_line(pid: u32) -> String {
    shown(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
}

/// Words that end with a zero byte each, as a line. The process has chosen them: what would end the
/// line, command the terminal or turn the direction of the text is left out.
fn shown(words: &[u8]) -> String {
    let words = words.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    words.join(" ").chars().filter(|c| is_printable(*c)).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_one_line_of_what_can_be_seen_whatever_is_in_it() {
        let hostile = "weir\0do\nwn\0\0\u{1b}[2J\u{202e}lte\u{2028}\r\t\u{85}\0".as_bytes();
        assert_eq!(shown(hostile), "weir down [2Jlte");
        assert_eq!(shown(b"sh\0-c\0echo \"it's\" \\ \xff\0"), "sh -c echo \"it's\" \\ \u{fffd}");
        assert_eq!(shown("é ü 字".as_bytes()), "é ü 字");
        assert_eq!(shown(&[b'x'; 500]).len(), 200);
        assert_eq!(shown(b""), "");
    }

    #[tokio::test]
    async fn the_command_line_is_that_of_the_process() {
        let command_lines = CommandLines::start().unwrap();
        let mut own = String::new();
        // It waits for no reader that is held up.
        for _ in 0..100 {
            if own.is_empty() {
                own = command_lines.of(std::process::id()).await;
            }
        }
        assert!(own.contains("weir_control"), "{own}");
        assert_eq!(command_lines.of(0).await, "", "there is none");
    }

    #[tokio::test]
    async fn a_process_that_keeps_its_reader_waiting_keeps_nobody_else_waiting() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let ended = std::sync::Mutex::new(ended);
        let stuck = move |_| {
            let _ = ended.lock().unwrap().recv();
            "late".to_owned()
        };
        let command_lines = CommandLines::reading(stuck).unwrap();
        // One that is being read, as many as may wait, and one more.
        for _ in 0..3 {
            assert_eq!(command_lines.of(1).await, "");
        }
        drop(end);
    }
}
