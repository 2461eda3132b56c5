//! For how much of the time uplinks were usable, kept on disk: `availability.json`. A thread of its
//! own writes it once a minute, which nothing waits for: a disk that is full or hangs costs
//! minutes, and is complained of.

use std::path::PathBuf;
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use weir_health::Part;
use weir_health::availability::{Availability, Record, Shares};
use weir_layout::Family;
use weir_publish::Decider;

use crate::state;

/// For how long a look counts at most, milliseconds.
const LONGEST_MS: u64 = 5000;
/// How often it is written, milliseconds.
const EVERY_MS: u64 = 60_000;

/// What is known, and the way to the thread, which ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    known: Availability,
    /// When the paths were last looked at, CLOCK_MONOTONIC milliseconds.
    looked: Option<u64>,
    /// When it was last written, likewise.
    written: Option<u64>,
    pages: SyncSender<String>,
}

impl Watch {
    /// Starts the thread, and goes on with what is kept of before.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(path: PathBuf) -> Result<Self> {
        let kept = std::fs::read(&path).unwrap_or_default();
        // What is not to be read is begun anew.
        let records: Vec<Record> = serde_json::from_slice(&kept).unwrap_or_default();
        // One waits while another is written.
        let pages =
            state::writer("availability", 1, move |page: String| state::replace(&path, page))?;
        let known = Availability::resume(records);
        Ok(Self { known, looked: None, written: None, pages })
    }

    /// Looks at all paths, which are taken to have been as they are since the last look; never
    /// waits.
    pub fn look(&mut self, decider: &Decider, now_ms: u64, unix_s: u64) {
        let for_ms = now_ms.saturating_sub(self.looked.replace(now_ms).unwrap_or(now_ms));
        // How they were while this process was stopped, nobody knows.
        let for_ms = for_ms.min(LONGEST_MS);
        for (index, uplink) in decider.site().uplinks.iter().enumerate() {
            for family in Family::ALL {
                if let Some((state, reason, _)) = decider.monitor(family).state(index) {
                    let part = Part::path(uplink.name.clone(), family);
                    self.known.watch(part, (state, reason), for_ms, unix_s);
                }
            }
        }
        if self.written.is_none_or(|written| now_ms.saturating_sub(written) >= EVERY_MS) {
            self.written = Some(now_ms);
            let is_there =
                |name: &str| decider.site().uplinks.iter().any(|uplink| uplink.name == name);
            self.known.retain(|part| part.uplink().is_some_and(is_there));
            let page = serde_json::to_string(self.known.records());
            // Where the disk is too slow for one, the next says the same and more.
            let _ = page.map(|page| self.pages.try_send(page));
        }
    }

    /// A path's shares of the last day and month.
    pub fn of(&self, part: &Part, unix_s: u64) -> Shares {
        self.known.of(part, unix_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("availability.json");
        let part = Part::Uplink("fiber".into());
        for content in ["", "{", "[{\"uplink\":\"fiber\",\"hours\":{\"-1\":[]},\"days\":{}}]"] {
            std::fs::write(&path, content).unwrap();
            let watch = Watch::start(path.clone()).unwrap();
            assert_eq!(watch.of(&part, 0), Shares::default(), "{content:?}");
        }
    }
}
