//! What hosts were told of, on disk: a gateway that starts with another prefix tells its hosts that
//! the one before is no more (RFC 9096 §3.5).

use std::collections::BTreeMap;
use std::path::PathBuf;

use weir_ra::Known;

use crate::state;

/// By LAN, what its hosts may have. Written when that is another.
pub struct Record {
    path: PathBuf,
    told: BTreeMap<String, Known>,
}

impl Record {
    /// What an earlier process wrote; nothing, if that cannot be read.
    pub fn read(path: PathBuf) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Self { path, told: serde_json::from_str(&text).unwrap_or_default() }
    }

    /// What hosts of a LAN may have.
    pub fn of(&self, lan: &str) -> Known {
        self.told.get(lan).cloned().unwrap_or_default()
    }

    /// Takes what hosts of these LANs may have now.
    pub fn keep(&mut self, lans: impl Iterator<Item = (String, Known)>) {
        let mut told = self.told.clone();
        told.extend(lans);
        told.retain(|_, known| *known != Known::default());
        if told == self.told {
            return;
        }
        self.told = told;
        let text = serde_json::to_string_pretty(&self.told).unwrap_or_default();
        if let Err(error) = state::replace(&self.path, &text) {
            tracing::debug!("what LANs were told of is not kept: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_may_have_outlives_the_process_lan_by_lan() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("advertised.json");
        let known = |prefixes: &[&str], dns: &[&str]| Known {
            prefixes: prefixes.iter().map(|net| net.parse().unwrap()).collect(),
            dns: dns.iter().map(|server| server.parse().unwrap()).collect(),
            search: vec!["example.net".into()],
            ..Known::default()
        };
        let one = known(&["2001:2:0:1::/64"], &[]);
        let two = known(&["2001:2:0:2::/64", "fd00::/64"], &["2001:2::53"]);
        let mut record = Record::read(path.clone());
        record.keep([("lan0".into(), one.clone()), ("lan1".into(), two.clone())].into_iter());
        // A LAN whose interface is away, say.
        record.keep([("lan0".into(), Known::default())].into_iter());
        let again = Record::read(path);
        assert_eq!((again.of("lan0"), again.of("lan1")), (Known::default(), two));
    }
}
