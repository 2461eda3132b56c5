//! The prefixes that providers delegate, on disk: a gateway that starts again has them at once, and
//! knows what is no more (RFC 9096 §3.5).

use std::path::PathBuf;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use weir_publish::{Delegations, Lease};

use crate::state;

/// Ends that moved by less are not written anew, seconds: a provider may say others each second.
const NEAR_S: u64 = 60;

/// Where they are kept.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// What this process wrote last.
    written: Option<Vec<Line>>,
}

/// A prefix with its ends in the time of day, seconds since the Unix epoch.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    uplink: String,
    prefix: Ipv6Net,
    /// When it was written down. A clock that was set back since makes nothing last longer.
    at: u64,
    valid_until: Option<u64>,
    preferred_until: Option<u64>,
}

impl Line {
    /// Does it say the same, but for a minute?
    fn is_near(&self, other: &Self) -> bool {
        let near = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => a.abs_diff(b) < NEAR_S,
            _ => a == b,
        };
        (&self.uplink, self.prefix) == (&other.uplink, other.prefix)
            && near(self.valid_until, other.valid_until)
            && near(self.preferred_until, other.preferred_until)
    }
}

impl Record {
    /// In this file.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, written: None }
    }

    /// What an earlier process wrote, where `now` is in milliseconds and `day` is the time of day in
    /// seconds; nothing, if that cannot be read.
    pub fn read(&self, now: u64, day: u64) -> Delegations {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let lines: Vec<Line> = serde_json::from_str(&text).unwrap_or_default();
        let mut delegations = Delegations::default();
        for line in lines {
            let left = |until: u64| until.saturating_sub(day.max(line.at)) * 1000;
            let until = |until: Option<u64>| until.map(|until| now + left(until));
            let (valid_until, preferred_until) =
                (until(line.valid_until), until(line.preferred_until));
            let lease = Lease { prefix: line.prefix, valid_until, preferred_until };
            delegations.set(&line.uplink, lease);
        }
        delegations.expire(now);
        delegations
    }

    /// Writes them down, unless that would say the same.
    pub fn keep(&mut self, delegations: &Delegations, now: u64, day: u64) {
        let line = |(uplink, lease): (&str, &Lease)| {
            let until =
                |until: Option<u64>| until.map(|until| day + until.saturating_sub(now) / 1000);
            Line {
                uplink: uplink.to_owned(),
                prefix: lease.prefix,
                at: day,
                valid_until: until(lease.valid_until),
                preferred_until: until(lease.preferred_until),
            }
        };
        let lines: Vec<_> = delegations.all().map(line).collect();
        let same = |written: &Vec<Line>| {
            written.len() == lines.len() && written.iter().zip(&lines).all(|(a, b)| a.is_near(b))
        };
        if self.written.as_ref().is_some_and(same) {
            return;
        }
        let text = serde_json::to_string_pretty(&lines).unwrap_or_default();
        match state::replace(&self.path, &text) {
            Ok(()) => self.written = Some(lines),
            Err(error) => {
                tracing::warn!("prefixes that providers delegate are not kept: {error:#}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(prefix: &str, valid_until: Option<u64>) -> Lease {
        let prefix = prefix.parse().unwrap();
        Lease { prefix, valid_until, preferred_until: Some(20_000) }
    }

    #[test]
    fn prefixes_outlive_the_process_and_end_when_they_would_have() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::new(directory.path().join("delegated.json"));
        let mut told = Delegations::default();
        told.set("a", lease("2001:2:0:a00::/56", Some(100_000)));
        told.set("a", lease("2001:2:0:b00::/56", Some(30_000)));
        told.set("b", lease("2001:2:0:c00::/56", None));
        record.keep(&told, 10_000, 1_700_000_000);
        // Forty seconds later, by a clock that began anew with the machine.
        let read = record.read(5000, 1_700_000_040);
        let ends: Vec<_> =
            read.all().map(|(of, l)| (of, l.valid_until, l.preferred_until)).collect();
        assert_eq!(ends, [("a", Some(55_000), Some(5000)), ("b", None, Some(5000))]);
        // A machine without a clock that goes on: not longer than was left.
        let read = record.read(5000, 0);
        assert_eq!(read.of("a")[0].valid_until, Some(95_000));
    }

    #[test]
    fn without_a_file_there_are_none() {
        let read = |path: &str| Record::new(path.into()).read(0, 0);
        assert_eq!(read("/proc/none"), Delegations::default());
        assert_eq!(read("/proc/version"), Delegations::default());
    }

    #[test]
    fn an_end_that_moved_by_less_than_a_minute_is_not_written_and_another_prefix_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("delegated.json");
        let mut record = Record::new(path.clone());
        let mut writes = |leases: &[Lease]| {
            let mut told = Delegations::default();
            leases.iter().for_each(|lease| told.set("a", *lease));
            let _ = std::fs::remove_file(&path);
            record.keep(&told, 0, 1_700_000_000);
            path.exists()
        };
        let until = |ms: u64| lease("2001:2:0:a00::/56", Some(ms));
        let leases = [until(100_000), until(159_000), until(160_000), until(220_000)];
        assert_eq!(leases.map(|it| writes(&[it])), [true, false, true, true]);
        let endless = lease("2001:2:0:a00::/56", None);
        assert_eq!([writes(&[endless]), writes(&[endless])], [true, false]);
        let other = lease("2001:2:0:b00::/56", None);
        assert!(writes(&[endless, other]) && writes(&[other]) && writes(&[]) && !writes(&[]));
    }
}
