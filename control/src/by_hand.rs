//! What was set by hand and not in the file, as people see it: each override, since when, by whom.
//!
//! Overrides themselves are in shared memory ([`weir_publish::Overrides`]);
//! what is here is only told.

use std::path::PathBuf;

use weir_api::{Override, time};
use weir_publish::{Hand, Overrides};
use weir_site::Site;

use crate::serve::Caller;
use crate::state;

/// Do both override the same?
fn is_same_thing(one: &Override, other: &Override) -> bool {
    (&one.uplink, &one.policy, &one.what) == (&other.uplink, &other.policy, &other.what)
}

/// The overrides, in the order of the file; without when and who.
pub fn list(site: &Site, overrides: &Overrides) -> Vec<Override> {
    let of = |uplink: u8, policy: Option<u8>, what: &str, value: String| {
        let uplink = site.uplinks.get(usize::from(uplink))?.name.clone();
        let policy = match policy {
            Some(policy) => Some(site.policies.get(usize::from(policy))?.name.clone()),
            None => None,
        };
        Some(Override { uplink, policy, what: what.into(), value, since_s: None, by: None })
    };
    let hands = overrides.hands.iter().map(|(uplink, hand)| {
        let value = match hand {
            Hand::Down => "down",
            Hand::Draining(_) => "draining",
            Hand::Drained(_) => "drained",
        };
        of(*uplink, None, "use", value.into())
    });
    let weights = overrides.weights.iter();
    let weights = weights.map(|(uplink, weight)| of(*uplink, None, "weight", weight.to_string()));
    let members = overrides.member_weights.iter();
    let members = members
        .map(|((policy, uplink), weight)| of(*uplink, Some(*policy), "weight", weight.to_string()));
    hands.chain(weights).chain(members).flatten().collect()
}

/// When and by whom.
#[derive(Debug, Default)]
pub struct Ledger {
    path: PathBuf,
    notes: Vec<Override>,
}

impl Ledger {
    /// What an earlier process wrote down.
    pub fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Self { path, notes: serde_json::from_str(&text).unwrap_or_default() }
    }

    /// Adds to the list what is known of each.
    pub fn tell(&self, mut list: Vec<Override>) -> Vec<Override> {
        for entry in &mut list {
            if let Some(note) = self.notes.iter().find(|note| is_same_thing(note, entry)) {
                (entry.since_s, entry.by) = (note.since_s, note.by.clone());
            }
        }
        list
    }

    /// Writes down, here and in the log, what a request has changed.
    pub fn note(&mut self, before: &[Override], after: &[Override], caller: &Caller) {
        let value = |list: &[Override], entry: &Override| {
            let found = list.iter().find(|other| is_same_thing(other, entry));
            found.map(|found| found.value.clone())
        };
        let gone = before.iter().filter(|entry| value(after, entry).is_none());
        let changed: Vec<_> = after
            .iter()
            .filter(|entry| value(before, entry).as_ref() != Some(&entry.value))
            .chain(gone)
            .cloned()
            .collect();
        for mut entry in changed {
            let file = || "as in the file".to_owned();
            let from = value(before, &entry).unwrap_or_else(file);
            let to = value(after, &entry).unwrap_or_else(file);
            tracing::info!(
                uplink = entry.uplink,
                policy = entry.policy,
                what = entry.what,
                from,
                to,
                by = %caller,
                command = caller.command,
                "set by hand"
            );
            self.notes.retain(|note| !is_same_thing(note, &entry));
            if value(after, &entry).is_some() {
                entry.since_s = Some(time::now_s());
                entry.by = Some(format!("{caller}: {}", caller.command));
                self.notes.push(entry);
            }
        }
        if let Ok(text) = serde_json::to_string_pretty(&self.notes)
            && let Err(error) = state::replace(&self.path, &text)
        {
            tracing::debug!("who set what by hand is not kept: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_is_told_with_when_and_who_until_it_is_undone() {
        let text =
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n";
        let site = weir_site::parse("weir.toml", text).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = Ledger::read(path.clone());
        let caller = Caller { uid: 7, pid: Some(9), command: "weir down fiber".into() };
        let none = list(&site, &Overrides::default());
        let mut overrides = Overrides::default();
        overrides.hands.insert(0, Hand::Down);
        overrides.member_weights.insert((0, 0), 3);
        let some = list(&site, &overrides);
        ledger.note(&none, &some, &caller);
        let told = Ledger::read(path.clone()).tell(some.clone());
        let by = told[0].by.clone().unwrap();
        assert_eq!(
            (told[0].value.as_str(), by.as_str()),
            ("down", "user 7, process 9: weir down fiber")
        );
        assert_eq!((told[1].value.as_str(), told[1].policy.as_deref()), ("3", Some("balanced")));
        assert!(told.iter().all(|entry| entry.since_s.is_some()));
        ledger.note(&some, &none, &caller);
        let forgotten = Ledger::read(path).tell(some);
        assert!(forgotten.iter().all(|entry| entry.since_s.is_none()));
    }
}
