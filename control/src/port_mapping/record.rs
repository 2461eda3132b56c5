//! What hosts have, on disk: a control process that starts again goes on with it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weir_pcp::Mapping;

use crate::state;

/// Where it is kept.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// What this process wrote last.
    written: Vec<Mapping>,
}

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// When it was written down, seconds since the Unix epoch. A clock that was set back since makes
    /// nothing last longer.
    at: u64,
    /// Their ends are milliseconds from then on.
    mappings: Vec<Mapping>,
}

impl Record {
    /// In this file.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, written: Vec::new() }
    }

    /// What an earlier process wrote that has not ended, where `now` is in milliseconds and `day` is
    /// the time of day in seconds; nothing, if that cannot be read.
    pub fn read(&self, now: u64, day: u64) -> Vec<Mapping> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let Kept { at, mappings } = serde_json::from_str(&text).unwrap_or_default();
        let past = day.saturating_sub(at).saturating_mul(1000);
        let left = |mut mapping: Mapping| {
            let left = mapping.until.checked_sub(past).filter(|left| *left > 0)?;
            mapping.until = now.saturating_add(left);
            Some(mapping)
        };
        mappings.into_iter().filter_map(left).collect()
    }

    /// Writes it down, unless that would say the same.
    pub fn keep(&mut self, mappings: &[Mapping], now: u64, day: u64) {
        if self.written == mappings {
            return;
        }
        let left = |mapping: &Mapping| Mapping {
            until: mapping.until.saturating_sub(now),
            ..mapping.clone()
        };
        let kept = Kept { at: day, mappings: mappings.iter().map(left).collect() };
        let text = serde_json::to_string_pretty(&kept).unwrap_or_default();
        if let Err(error) = state::replace(&self.path, &text) {
            tracing::debug!("the ports that hosts have are not kept: {error:#}");
        }
        self.written = mappings.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_outlive_the_process_and_end_when_they_would_have() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::new(directory.path().join("mapped.json"));
        let mapping = |id, until| Mapping {
            id,
            lan: "lan0".into(),
            inside: "10.0.0.5:80".parse().unwrap(),
            protocol: 6,
            port: 20_000,
            nonce: Some([7; 12]),
            filters: vec!["192.0.2.0/24".parse().unwrap()],
            until,
        };
        record.keep(&[mapping(1, 50_000), mapping(2, 100_000)], 10_000, 1_700_000_000);
        // Forty seconds later, by a clock that began anew with the machine.
        assert_eq!(record.read(5000, 1_700_000_040), [mapping(2, 55_000)]);
        // A machine without a clock that goes on: not longer than was left.
        assert_eq!(record.read(5000, 0), [mapping(1, 45_000), mapping(2, 95_000)]);
    }

    #[test]
    fn without_a_file_there_are_none() {
        assert_eq!(Record::new("/proc/none".into()).read(0, 0), []);
        assert_eq!(Record::new("/proc/version".into()).read(0, 0), []);
    }
}
