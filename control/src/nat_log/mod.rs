//! The log of NAT allocations, written on a thread that nothing waits for.
//!
//! Workers leave records in shared memory; here they become lines of a file. They are taken from
//! there when the kernel has them, so that a process that is killed leaves none out, and may leave
//! some twice. What cannot be written stays where it is until it can, as far as there is room.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the thread, and what it is told |
//! | `file` | the file, and those before it |
//! | `listings` | when what stands is to be listed again |
//! | `line` | a record as a line |

mod file;
mod line;
mod listings;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weir_api::time;
use weir_layout::MAX_WORKERS;
use weir_layout::nat_log::Record;
use weir_service::Complaint;
use weir_shm::Pins;
use weir_shm::map::Access;
use weir_shm::nat_log::NatLog;
use weir_site::{NatLogConfig, Site, group};

use crate::clocks::Clocks;
use file::LogFile;

/// How often rings that were empty are looked at: at a million records a second they would fill in
/// 8 ms, at what a site has in seconds.
const LOOK: Duration = Duration::from_millis(5);
/// How long after a failure it is tried again; and how often what was written is made to last.
const SECOND: Duration = Duration::from_secs(1);
/// Records that become one write, whose lines are shorter than the least file.
const MOST: usize = 2048;

/// What is to be logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    file: NatLogConfig,
    /// The group that may read it.
    group: Option<u32>,
    /// Names of the uplinks, by index.
    uplinks: Vec<String>,
}

/// The way to the thread, which ends with this.
#[derive(Debug)]
pub struct Logger {
    told: Sender<Option<Wanted>>,
    last: Option<Wanted>,
}

impl Logger {
    /// Starts the thread, which writes nothing yet.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(pins: Pins) -> Result<Self> {
        let (told, heard) = channel();
        std::thread::Builder::new()
            .name("nat-log".into())
            .spawn(move || serve(&pins, &heard))
            .context("cannot start the thread of the log of allocations")?;
        Ok(Self { told, last: None })
    }

    /// Has that logged which the file says; never waits.
    pub fn follow(&mut self, site: &Site) {
        let readers = site.group.as_deref().unwrap_or(crate::serve::GROUP);
        let wanted = site.nat_log.as_ref().map(|file| Wanted {
            file: file.clone(),
            group: group::group(readers),
            uplinks: site.uplinks.iter().map(|uplink| uplink.name.clone()).collect(),
        });
        if self.last != wanted {
            self.last.clone_from(&wanted);
            // The thread ends with this alone.
            let _ = self.told.send(wanted);
        }
    }
}

fn serve(pins: &Pins, heard: &Receiver<Option<Wanted>>) {
    let mut complaint = Complaint::default();
    let mut wanted = None;
    // Where it is said that writing began.
    let mut on = None;
    loop {
        let Some(now): &Option<Wanted> = &wanted else {
            complaint.say(None);
            match heard.recv() {
                Ok(next) => wanted = next,
                Err(_) => return,
            }
            continue;
        };
        let done = NatLog::open(pins, Access::Write).map_err(Into::into).and_then(|log| {
            let written = write(&log, now, heard, (&mut on, &mut complaint));
            if let Err(error) = &written {
                let number = error.downcast_ref::<std::io::Error>().and_then(|e| e.raw_os_error());
                log.set_error(number.unwrap_or(rustix::io::Errno::IO.raw_os_error()) as u64);
            }
            written
        });
        let next = match done {
            Ok(next) => next,
            Err(error) => {
                complaint.say(Some(format!(
                    "allocations of NAT are not logged: {}: {error:#}",
                    now.file.file.display()
                )));
                match heard.recv_timeout(SECOND) {
                    Ok(next) => ControlFlow::Continue(next),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
                }
            }
        };
        match next {
            ControlFlow::Continue(next) => {
                on = on.filter(|on| next.as_ref().is_some_and(|next| next.file.file == *on));
                wanted = next;
            }
            ControlFlow::Break(()) => return,
        }
    }
}

/// Writes until told otherwise, or that it is over. Unless this was the file before, a line says
/// that it begins; and if it is not the next one's, that it ends.
///
/// # Errors
/// When the file cannot be written.
fn write(
    log: &NatLog,
    wanted: &Wanted,
    heard: &Receiver<Option<Wanted>>,
    (on, complaint): (&mut Option<PathBuf>, &mut Complaint),
) -> Result<ControlFlow<(), Option<Wanted>>> {
    let mut file = LogFile::open(&wanted.file, wanted.group)?;
    if file.is_new() {
        file.listings.ask();
        log.ask_for_listing();
    }
    if on.is_none() {
        switch(&mut file, "on")?;
        *on = Some(wanted.file.file.clone());
    }
    log.set_error(0);
    complaint.say(None);
    let mut looked = Instant::now();
    let (mut records, mut text) = (Vec::with_capacity(MOST), String::new());
    loop {
        let mut busy = false;
        for worker in 0..MAX_WORKERS as u8 {
            records.clear();
            let taken = log.read(worker, MOST, &mut records);
            busy |= records.len() == MOST;
            if !records.is_empty() {
                text.clear();
                lines(&records, worker, wanted, &mut text);
                records.iter().for_each(|record| file.listings.read(worker, record));
                file.append(&text)?;
            }
            log.take(worker, taken);
        }
        if file.listings.take_due() {
            log.ask_for_listing();
        }
        if looked.elapsed() >= SECOND {
            looked = Instant::now();
            file.keep_up()?;
        }
        match heard.recv_timeout(if busy { Duration::ZERO } else { LOOK }) {
            Ok(next) => {
                let stays = next.as_ref().is_some_and(|next| next.file.file == wanted.file.file);
                let end = if stays { Ok(()) } else { switch(&mut file, "off") };
                // What is told is done, whatever becomes of this file.
                if let Err(error) = end.and_then(|()| file.keep_up()) {
                    tracing::debug!("{}: {error:#}", wanted.file.file.display());
                }
                return Ok(ControlFlow::Continue(next));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Break(())),
        }
    }
}

/// Says in the file that writing to it begins, or ends.
fn switch(file: &mut LogFile, name: &str) -> Result<()> {
    let mut text = String::new();
    line::add_switch(name, time::now_ms(), &mut text);
    file.append(&text)
}

fn lines(records: &[Record], worker: u8, wanted: &Wanted, text: &mut String) {
    let clocks = Clocks::now();
    for record in records {
        line::add(record, worker, &wanted.uplinks, clocks, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_when_writing_to_it_began_and_when_it_was_ended() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = |name: &str, uplink: &str| {
            let (file, max_size, keep) = (directory.path().join(name), 1 << 20, 2);
            let file = NatLogConfig { file, max_size, keep };
            Wanted { file, group: None, uplinks: vec![uplink.to_owned()] }
        };
        let log = NatLog::anonymous().unwrap();
        let mut on = None;
        let mut until = |now: &Wanted, next: Option<Wanted>| {
            let (told, heard) = channel();
            told.send(next.clone()).unwrap();
            let done = write(&log, now, &heard, (&mut on, &mut Complaint::default())).unwrap();
            assert_eq!(done, ControlFlow::Continue(next));
            let text = std::fs::read_to_string(&now.file.file).unwrap();
            let name = |line: &str| if line.contains("\"on\"") { "on" } else { "off" };
            text.lines().map(name).collect::<Vec<_>>()
        };
        let [first, renamed] = ["a", "b"].map(|uplink| wanted("nat.log", uplink));
        assert_eq!(until(&first, Some(renamed.clone())), ["on"]);
        assert_eq!(until(&renamed, Some(wanted("other.log", "b"))), ["on", "off"]);
        assert_eq!(log.listings(), 1, "what stands is asked for in a file that is new");
    }
}
