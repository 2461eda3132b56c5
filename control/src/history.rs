//! What `weir history` tells, kept on disk: `history.jsonl`, a line of JSON for each change, the
//! oldest first. A thread of its own writes it, which nothing waits for: a disk that is full or
//! hangs costs lines, and is complained of.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use weir_health::{Entry, History};
use weir_publish::HISTORY;

use crate::state;

/// Turns of the main loop whose changes may wait for the disk.
const WAITING: usize = 256;

/// The way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Chronicle {
    changes: SyncSender<Vec<Entry>>,
}

impl Chronicle {
    /// Starts the thread; and what is kept of before.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(path: PathBuf) -> Result<(Self, Vec<Entry>)> {
        let kept = read(&path);
        let mut page = Page::new(path, &kept);
        let add = move |entries: Vec<Entry>| page.add(&entries);
        let changes = state::writer("history", WAITING, add)?;
        Ok((Self { changes }, kept))
    }

    /// Has changes kept; never waits.
    pub fn keep(&self, entries: &[Entry]) {
        if !entries.is_empty() && self.changes.try_send(entries.to_vec()).is_err() {
            tracing::warn!("{} changes are not kept: the disk is too slow", entries.len());
        }
    }
}

/// What is kept. A line that a crash left half, or that is of another version, is none.
fn read(path: &Path) -> Vec<Entry> {
    let text = std::fs::read(path).unwrap_or_default();
    let lines = text.split(|byte| *byte == b'\n');
    let kept = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    // What was appended since the file was last written as a whole drives out of it what it would.
    History::resume(HISTORY, kept).since(0).cloned().collect()
}

/// The file.
struct Page {
    path: PathBuf,
    /// None: it is to be written as a whole.
    file: Option<File>,
    /// What it is to have.
    kept: History,
    /// How many lines it has.
    written: usize,
}

impl Page {
    /// One that will be written as a whole: what is no line of it goes.
    fn new(path: PathBuf, kept: &[Entry]) -> Self {
        Self { path, file: None, kept: History::resume(HISTORY, kept.to_vec()), written: 0 }
    }

    /// Adds changes. It may have twice as many as are kept, before it is written as a whole again.
    fn add(&mut self, entries: &[Entry]) -> Result<()> {
        entries.iter().for_each(|entry| self.kept.add(entry.clone()));
        self.written += entries.len();
        let has_room = self.written <= 2 * HISTORY;
        match self.file.take().filter(|_| has_room) {
            Some(mut file) => {
                file.write_all(lines(entries).as_bytes()).and_then(|()| file.sync_data())?;
                self.file = Some(file);
            }
            None => {
                // Command lines of processes are in it.
                state::replace_secret(&self.path, lines(self.kept.since(0)))?;
                self.written = self.kept.since(0).count();
                self.file = Some(File::options().append(true).open(&self.path)?);
            }
        }
        Ok(())
    }
}

/// Changes, each as a line.
fn lines<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> String {
    let line = |entry| serde_json::to_string(entry).ok().map(|line| line + "\n");
    entries.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use weir_health::{Command, Event, Part, Reason, State, Transition};

    use super::*;

    fn entry(number: u64) -> Entry {
        let transition =
            Transition { from: State::Up, to: State::Down, reason: Reason::Carrier, at: number };
        let event = Event::State { part: Part::Lan("a".into()), transition };
        Entry { number, time_ms: 1_700_000_000_000 + number, event }
    }

    fn numbers(kept: &[Entry]) -> Vec<u64> {
        kept.iter().map(|entry| entry.number).collect()
    }

    #[test]
    fn what_was_added_is_there_after_a_crash_and_half_a_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let mut page = Page::new(path.clone(), &read(&path));
        page.add(&[entry(0), entry(1)]).unwrap();
        page.add(&[entry(2)]).unwrap();
        assert_eq!(read(&path), [entry(0), entry(1), entry(2)]);
        let mut torn = std::fs::read(&path).unwrap();
        torn.truncate(torn.len() - 9);
        torn.extend(b"\xff\xfe\n{\"number\":7}");
        std::fs::write(&path, torn).unwrap();
        assert_eq!(numbers(&read(&path)), [0, 1]);
        let mut page = Page::new(path.clone(), &read(&path));
        page.add(&[entry(3)]).unwrap();
        page.add(&[entry(4)]).unwrap();
        assert_eq!(numbers(&read(&path)), [0, 1, 3, 4]);
    }

    #[test]
    fn the_newest_are_kept_in_a_file_that_does_not_grow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let mut page = Page::new(path.clone(), &[]);
        let (all, mut longest) = (7 * HISTORY as u64 + 5, 0);
        for number in 0..all {
            page.add(&[entry(number)]).unwrap();
            longest = longest.max(std::fs::metadata(&path).unwrap().len());
        }
        let kept = read(&path);
        assert_eq!(numbers(&kept), (all - HISTORY as u64..all).collect::<Vec<_>>());
        assert!(longest <= 2 * HISTORY as u64 * lines([&entry(all)]).len() as u64);
    }

    #[test]
    fn what_was_done_often_drives_no_change_of_health_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.jsonl");
        let mut page = Page::new(path.clone(), &[]);
        page.add(&[entry(0)]).unwrap();
        let command = |number| {
            let done = Command { command: "weir weight lte 3".into(), by: None };
            Entry { event: Event::Command(done), ..entry(number) }
        };
        // Behind what is there, and written as a whole.
        for end in [1500, 4500] {
            let next = page.kept.since(0).last().unwrap().number + 1;
            page.add(&(next..end).map(command).collect::<Vec<_>>()).unwrap();
            let kept = numbers(&read(&path));
            assert_eq!((kept[0], kept.len(), kept.last()), (0, HISTORY, Some(&(end - 1))));
        }
    }

    #[test]
    fn what_a_directory_that_was_gone_has_missed_is_there_when_it_is_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state").join("history.jsonl");
        let mut page = Page::new(path.clone(), &[]);
        let told = page.add(&[entry(0)]).unwrap_err();
        assert!(format!("{told:#}").contains("history"), "{told:#}");
        std::fs::create_dir(directory.path().join("state")).unwrap();
        page.add(&[entry(1)]).unwrap();
        assert_eq!(numbers(&read(&path)), [0, 1]);
    }
}
