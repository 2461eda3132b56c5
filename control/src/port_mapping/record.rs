//! What hosts have, on disk: a control process that starts again goes on with it.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weir_ports::{Limits, Mapping};
use weir_service::Complaint;

use crate::state;

/// Where it is kept.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    /// What this process wrote last.
    written: Vec<Mapping>,
    unwritten: Complaint,
}

/// What is kept.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// When it was written down, seconds since the Unix epoch. A clock that was set back since makes
    /// nothing last longer.
    at: u64,
    /// Their ends are milliseconds from then on.
    mappings: Vec<Mapping>,
}

impl Record {
    /// In this file.
    pub fn new(path: PathBuf) -> Self {
        Self { path, written: Vec::new(), unwritten: Complaint::default() }
    }

    /// What an earlier process wrote that has not ended, where `now` is in milliseconds and `day` is
    /// the time of day in seconds. What cannot be read, and what no host can have been granted, is
    /// left out with a warning.
    pub fn read(&self, now: u64, day: u64) -> Vec<Mapping> {
        let Kept { at, mut mappings } = self.kept().unwrap_or_else(|error| {
            tracing::warn!("{error:#}; hosts have no ports until they ask again");
            Kept::default()
        });
        let all = mappings.len();
        mappings.retain(is_sound);
        mappings.truncate(Limits::TOTAL);
        if mappings.len() < all {
            tracing::warn!(
                "{}: {} of {all} ports are none that hosts can have been granted: left out",
                self.path.display(),
                all - mappings.len()
            );
        }
        let past = day.saturating_sub(at).saturating_mul(1000);
        let left = |mut mapping: Mapping| {
            let left = mapping.until.checked_sub(past).filter(|left| *left > 0)?;
            mapping.until = now.saturating_add(left);
            Some(mapping)
        };
        mappings.into_iter().filter_map(left).collect()
    }

    /// What the file has, whatever that is; without a file, nothing.
    fn kept(&self) -> Result<Kept> {
        let failed = || format!("cannot read {}", self.path.display());
        match fs::read_to_string(&self.path) {
            Ok(text) => serde_json::from_str(&text)
                .map(with_owners)
                .and_then(serde_json::from_value)
                .with_context(failed),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(error).with_context(failed),
        }
    }

    /// Writes it down, unless that would say the same; says whether that was done. What could not be
    /// written is complained of, and is to be tried again.
    pub fn keep(&mut self, mappings: &[Mapping], now: u64, day: u64) -> bool {
        if self.written == mappings {
            return true;
        }
        let left = |mapping: &Mapping| Mapping {
            until: mapping.until.saturating_sub(now),
            ..mapping.clone()
        };
        let kept = Kept { at: day, mappings: mappings.iter().map(left).collect() };
        let text = serde_json::to_string_pretty(&kept).unwrap_or_default();
        let done = state::replace_secret(&self.path, &text);
        let is_done = done.is_ok();
        let trouble = |error| format!("a restart forgets the ports that hosts have: {error:#}");
        self.unwritten.say(done.err().map(trouble));
        if is_done {
            self.written = mappings.to_vec();
        }
        is_done
    }
}

/// A record with owners. Before there was UPnP it had a nonce in their place: PCP's, or none.
fn with_owners(mut kept: Value) -> Value {
    let mappings = kept.get_mut("mappings").and_then(Value::as_array_mut);
    let mappings = mappings.into_iter().flatten().filter_map(Value::as_object_mut);
    for mapping in mappings.filter(|mapping| !mapping.contains_key("owner")) {
        let owner = match mapping.remove("nonce") {
            Some(Value::Null) => json!("nat-pmp"),
            Some(nonce) => json!({ "pcp": nonce }),
            None => continue,
        };
        mapping.insert("owner".into(), owner);
    }
    kept
}

/// Can it have been granted, with its end from when it was written down?
fn is_sound(mapping: &Mapping) -> bool {
    mapping.is_sound() && mapping.until <= u64::from(Limits::MAX_LIFETIME) * 1000
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use weir_ports::Owner;

    use super::*;

    fn mapping(id: u32, until: u64) -> Mapping {
        Mapping {
            id,
            lan: "lan0".into(),
            inside: "10.0.0.5:80".parse().unwrap(),
            protocol: 6,
            port: 20_000,
            owner: Owner::Pcp([7; 12]),
            filters: vec!["192.0.2.0/24".parse().unwrap()],
            until,
        }
    }

    #[test]
    fn ports_outlive_the_process_and_end_when_they_would_have() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::new(directory.path().join("mapped.json"));
        record.keep(&[mapping(1, 50_000), mapping(2, 100_000)], 10_000, 1_700_000_000);
        // Forty seconds later, by a clock that began anew with the machine.
        assert_eq!(record.read(5000, 1_700_000_040), [mapping(2, 55_000)]);
        // A machine without a clock that goes on: not longer than was left.
        assert_eq!(record.read(5000, 0), [mapping(1, 45_000), mapping(2, 95_000)]);
    }

    #[test]
    fn without_a_file_there_are_none_and_one_that_cannot_be_read_is_complained_of() {
        let record = Record::new("/proc/none".into());
        assert_eq!((record.kept().unwrap(), record.read(0, 0)), (Kept::default(), Vec::new()));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mapped.json");
        for content in ["", "{\"at\": 0, \"mappi", "{\"at\": 0, \"mappings\": [{\"port\": 1}]}"] {
            fs::write(&path, content).unwrap();
            let record = Record::new(path.clone());
            let error = record.kept().unwrap_err().to_string();
            assert!(error.starts_with("cannot read") && error.contains("mapped.json"), "{error}");
            assert_eq!(record.read(0, 0), []);
        }
        assert!(Record::new(directory.path().into()).kept().is_err(), "no file");
    }

    #[test]
    fn a_record_of_before_there_was_upnp_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mapped.json");
        let nonce = "[7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]";
        let of = |id: u32, nonce: &str| {
            format!(
                "{{\"id\": {id}, \"lan\": \"lan0\", \"inside\": \"10.0.0.5:80\", \"protocol\": 6, \
                 \"port\": 20000, \"nonce\": {nonce}, \"filters\": [\"192.0.2.0/24\"], \
                 \"until\": 50000}}"
            )
        };
        let (pcp, nat_pmp) = (of(1, nonce), of(2, "null"));
        fs::write(&path, format!("{{\"at\": 0, \"mappings\": [{pcp}, {nat_pmp}]}}")).unwrap();
        let [first, second] = [mapping(1, 50_000), mapping(2, 50_000)];
        let second = Mapping { owner: Owner::NatPmp, ..second };
        assert_eq!(Record::new(path).read(0, 0), [first, second]);
    }

    #[test]
    fn what_no_host_can_have_been_granted_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::new(directory.path().join("mapped.json"));
        let good = mapping(1, 50_000);
        let of = |text: &str| text.parse().unwrap();
        let wrong = [
            Mapping { port: 0, ..good.clone() },
            Mapping { inside: "10.0.0.5:0".parse().unwrap(), ..good.clone() },
            Mapping { protocol: 47, ..good.clone() },
            Mapping { until: 86_400_001, ..good.clone() },
            Mapping { filters: vec![of("2001:db8::/32")], ..good.clone() },
            Mapping { filters: vec![of("192.0.2.1/24")], ..good.clone() },
            Mapping { filters: vec![of("192.0.2.0/24"); 9], ..good.clone() },
        ];
        for wrong in wrong {
            assert!(record.keep(&[wrong.clone(), good.clone()], 0, 0));
            assert_eq!(record.read(0, 0), std::slice::from_ref(&good), "{wrong:?}");
        }
        assert!(record.keep(&(0..200).map(|id| mapping(id, 50_000)).collect::<Vec<_>>(), 0, 0));
        assert_eq!(record.read(0, 0).len(), Limits::TOTAL);
    }

    #[test]
    fn what_could_not_be_written_is_tried_again_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/mapped.json");
        let mut record = Record::new(path.clone());
        let mappings = [mapping(1, 50_000)];
        assert!(!record.keep(&mappings, 0, 0));
        fs::create_dir(path.parent().unwrap()).unwrap();
        assert!(record.keep(&mappings, 0, 0));
        assert_eq!(record.read(0, 0), mappings);
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
